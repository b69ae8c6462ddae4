"""Each augmentation against torchvision's, image by image on the same parameters; mixing against its distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data import augment
from bench.data.augment import OPS, STRENGTHS, WAYS, Mix
from models.torchvision_import import ensure_torchvision

ensure_torchvision()

SIGNIFICANT = 1e-3  # the seeds are fixed: a test that passes once passes always


def some_images(size: int) -> Tensor:
    """(6, size, size, 3) uint8: noise, noise of few levels, one colour, a ramp, black with one white pixel."""
    images = torch.randint(0, 256, (6, size, size, 3), generator=torch.Generator().manual_seed(size)).to(torch.uint8)
    images[2] = images[2] // 8 + 100
    images[3] = torch.tensor([77, 0, 255], dtype=torch.uint8)
    images[4] = torch.linspace(0, 255, size).to(torch.uint8)[:, None, None]
    images[5] = 0
    images[5, 1, 2] = 255
    return images


def placed(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every image where it is: index, top, left, flip."""
    zeros = torch.zeros(count, dtype=torch.int64)
    return torch.arange(count), zeros, zeros, zeros.bool()


def planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def test_crop_and_flip_as_torchvision_does_each_image() -> None:
    from torchvision.transforms.v2 import functional as tv

    images = some_images(8)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    index = torch.tensor([3, 3, 5, 0, 1])
    top, left = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([4, 0, 2, 3, 1])
    flip = torch.tensor([False, True, True, False, True])
    ours = augment.gather_crop(padded, index, top, left, flip, size=8)
    for i in range(5):
        image = tv.crop(tv.pad(planes(images)[index[i]], [2]), int(top[i]), int(left[i]), 8, 8)
        assert torch.equal(ours[i], tv.horizontal_flip(image) if flip[i] else image)


def test_normalise_as_torchvision_does() -> None:
    from torchvision.transforms.v2 import functional as tv

    images, mean, std = planes(some_images(8)), [120.0, 110.5, 99.0], [60.0, 1.0, 70.25]
    ours = augment.normalise(images, torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(ours, tv.normalize(images.float(), mean, std))


# --- TrivialAugment ------------------------------------------------------------------------------------------------


def torchvisions(image: Tensor, op: int, strength: int, negative: bool) -> Tensor:
    """torchvision's TrivialAugmentWide on one (3, S, S) image, without its draws."""
    from torchvision.transforms import v2

    policy: Any = v2.TrivialAugmentWide()
    name = list(policy._AUGMENTATION_SPACE)[op]
    strengths, signed = policy._AUGMENTATION_SPACE[name]
    table = strengths(STRENGTHS, *image.shape[-2:])
    amount = 0.0 if table is None else float(table[strength]) * (-1 if signed and negative else 1)
    return policy._apply_image_or_video_transform(
        image, name, amount, interpolation=policy.interpolation, fill=policy._fill
    )


def near_a_tie(strength: int, negative: bool, size: int) -> Tensor:
    """(S, S) bool: where a rotation's source lies within 1e-4 px of the middle between two pixels."""
    angle = math.radians(135.0 * strength / (STRENGTHS - 1)) * (-1 if negative else 1)
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x, y = steps[None, :], steps[:, None]
    turned = (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y)
    return torch.stack([((t + (size - 1) / 2) % 1 - 0.5).abs() < 1e-4 for t in turned]).any(0)


# Places matter to the first: they are tried at an odd size too.
PLACED = [i for i, name in enumerate(OPS) if name in (*augment.REACH, "sharpness")]


@pytest.mark.parametrize(
    ("op", "size"), [*((i, 32) for i in range(len(OPS))), *((i, 17) for i in PLACED)], ids=lambda v: str(v)
)
def test_every_strength_of_every_op_as_torchvision_does_each_image(op: int, size: int) -> None:
    """Equal to the last bit, for 31 strengths and both signs.

    But for ties of a rotation (its diagonals at 45 and 135 degrees), where the sum's last bit decides: under 1 % of
    the pixels of all strengths together. On the machine this was written on they were equal too.
    """
    images, ways, ties = some_images(size), augment.trivial_ways(size), 0
    for number in range(2 * STRENGTHS):
        strength, negative = number // 2, bool(number % 2)
        rows = ways.take(torch.full((len(images),), op * 2 * STRENGTHS + number))
        ours = augment.trivialaugment(images, *placed(len(images)), size, rows)
        theirs = torch.stack([torchvisions(image, op, strength, negative) for image in planes(images)])
        assert ours.shape == theirs.shape
        differs = ours != theirs
        if OPS[op] == "rotate":
            tie = near_a_tie(strength, negative, size)
            ties += int(tie.sum())
            differs = differs & ~tie
        assert not differs.any(), (strength, negative)
    assert ties < 0.01 * 2 * STRENGTHS * size**2


def test_the_names_and_strengths_are_torchvisions() -> None:
    from torchvision.transforms import v2

    theirs = [name.lower() for name in v2.TrivialAugmentWide._AUGMENTATION_SPACE]
    assert theirs == [name.replace("_", "").replace("colour", "color") for name in OPS]


def rand_op(image: Tensor, op: int, negative: bool) -> Tensor:
    """One op of torchvision's RandAugment, as it comes, on one (3, S, S) image, without its draws."""
    from torchvision.transforms import v2

    policy: Any = v2.RandAugment()
    name = list(policy._AUGMENTATION_SPACE)[op]
    magnitudes, signed = policy._AUGMENTATION_SPACE[name]
    table = magnitudes(policy.num_magnitude_bins, *image.shape[-2:])
    amount = 0.0 if table is None else float(table[policy.magnitude]) * (-1 if signed and negative else 1)
    return policy._apply_image_or_video_transform(
        image, name, amount, interpolation=policy.interpolation, fill=policy._fill
    )


@pytest.mark.parametrize("size", [32, 17])
def test_every_two_ops_of_randaugment_as_torchvision_does_each_image(size: int) -> None:
    """Equal to the last bit: every op and sign alone, and after each of them every op; at 9 degrees nothing ties."""
    images, ways = some_images(size), augment.rand_ways(size)
    still = ways.take(torch.zeros(len(images), dtype=torch.int64))
    for number in range(2 * len(OPS)):
        op, negative = number // 2, bool(number % 2)
        # whatever strength the way was drawn with
        first = ways.take((op * STRENGTHS + torch.arange(len(images)) * 6) * 2 + number % 2)
        once = augment.randaugment(images, *placed(len(images)), size, first, still)
        theirs = [rand_op(image, op, negative) for image in planes(images)]
        assert torch.equal(once, torch.stack(theirs)), OPS[op]
        for then in range(len(OPS)):
            sign = (op + then + number) % 2
            second = ways.take(torch.full((len(images),), (then * STRENGTHS + 30) * 2 + sign))
            twice = augment.randaugment(images, *placed(len(images)), size, first, second)
            assert torch.equal(twice, torch.stack([rand_op(image, then, bool(sign)) for image in theirs])), (op, then)


def test_two_ops_and_their_strength_are_torchvisions() -> None:
    from torchvision.transforms import v2

    theirs = v2.RandAugment()
    assert (theirs.num_ops, theirs.magnitude, theirs.num_magnitude_bins) == (2, augment.MAGNITUDE, STRENGTHS)
    assert list(theirs._AUGMENTATION_SPACE) == list(v2.TrivialAugmentWide._AUGMENTATION_SPACE), "the same ops"


def test_images_of_a_batch_keep_to_themselves() -> None:
    """All ways at once, each image by its own, after a crop and a flip: as one by one, whatever stands beside it."""
    images = some_images(8)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    generator = torch.Generator().manual_seed(0)
    count = 3 * WAYS
    ways = augment.trivial_ways(8).take(torch.arange(count) % WAYS)
    index = torch.randint(0, len(images), (count,), generator=generator)
    top, left = torch.randint(0, 5, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    together = augment.trivialaugment(padded, index, top, left, flip, 8, ways)
    cropped = augment.gather_crop(padded, index, top, left, flip, 8).permute(0, 2, 3, 1).contiguous()
    for i in range(0, count, 7):
        one = slice(i, i + 1)
        alone = augment.trivialaugment(cropped[one], *placed(1), 8, augment.Ways(*(t[one] for t in ways)))
        assert torch.equal(together[one], alone)


def test_nothing_beyond_the_crop_is_seen() -> None:
    """The policy comes after the crop: a shifted image is black where it ends, even if the padded image goes on."""
    white = torch.full((1, 12, 12, 3), 255, dtype=torch.uint8)
    where = (torch.zeros(1, dtype=torch.int64), torch.tensor([2]), torch.tensor([2]), torch.tensor([False]))
    right_by_3 = torch.tensor([[1.0, 0, -3, 0, 1, 0]])
    found = augment.gather_warp(white, *where, 8, right_by_3)
    assert (found[..., :3] == 0).all()
    assert (found[..., 3:] == 255).all()


# --- cutout, random erasing, mixup, cutmix -------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 3, 4, 16])
def test_cutout_as_torchvision_erases(side: int) -> None:
    from torchvision.transforms.v2 import functional as tv

    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    centres = torch.stack([torch.arange(64) // 8, torch.arange(64) % 8])
    ours = augment.cutout(images.clone(), centres, side)
    for i, (row, column) in enumerate(centres.T.tolist()):
        top, left = (max(0, c - side // 2) for c in (row, column))
        bottom, right = (min(8, c - side // 2 + side) for c in (row, column))
        erased = tv.erase(images[i], top, left, bottom - top, right - left, torch.zeros(3, 1, 1))
        assert torch.equal(ours[i], erased)


def erasures(chance: float, size: int, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Drawn edges (4, count), and the uniform numbers behind them."""
    uniform = torch.rand(5, count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return augment.draw_erasures(chance, uniform, size), uniform


@pytest.mark.parametrize("size", [8, 17, 32])
def test_erasing_as_a_loop_and_as_torchvision_does_each_image(size: int) -> None:
    """The loop works the rectangle out by itself, from the same numbers, and sets it pixel by pixel."""
    from torchvision.transforms.v2 import functional as tv

    edges, uniform = erasures(0.6, size, 64)
    images = torch.randn(64, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours = augment.erase(images.clone(), edges)
    for i, (coin, extent, shape, row, column) in enumerate(uniform.T.tolist()):
        area = 0.02 + 0.31 * extent
        low, high = max(math.log(0.3), math.log(area)), min(math.log(3.3), -math.log(area))
        aspect = math.exp(low + (high - low) * shape)
        height, width = (max(1, round(math.sqrt(share) * size)) for share in (area * aspect, area / aspect))
        top, left = int((size - height + 1) * row), int((size - width + 1) * column)
        erased = images[i].clone()
        if coin < 0.6:
            for y in range(top, top + height):
                for x in range(left, left + width):
                    erased[:, y, x] = 0
            theirs = tv.erase(images[i], top, left, height, width, torch.zeros(3, 1, 1))
            assert torch.equal(erased, theirs)
        assert torch.equal(ours[i], erased)


def test_what_is_erased_is_as_likely_as_the_paper_says() -> None:
    """A chance of images; area and, where all fit, the logarithm of the aspect uniform; every place equally likely."""
    size = 100_000  # so that rounding is nothing
    edges, _ = erasures(0.25, size)
    top, bottom, left, right = edges.double().numpy()
    erased = bottom > top
    assert np.array_equal(erased, right > left)
    assert stats.binomtest(int(erased.sum()), erased.size, 0.25).pvalue > SIGNIFICANT
    top, bottom, left, right = erasures(1.0, size)[0].double().numpy()
    height, width = bottom - top, right - left
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= size
    area, aspect = height * width / size**2, np.log(height / width)
    ratios = math.log(0.3), math.log(3.3)
    assert stats.kstest(area, stats.uniform(0.02, 0.31).cdf).pvalue > SIGNIFICANT
    assert stats.kstest(aspect[area < 0.3], stats.uniform(ratios[0], ratios[1] - ratios[0]).cdf).pvalue > SIGNIFICANT
    assert stats.kendalltau(area[area < 0.3], aspect[area < 0.3]).pvalue > SIGNIFICANT
    rows, columns = top / (size - height + 1), left / (size - width + 1)
    for place in (rows, columns):
        assert stats.kstest(place, stats.uniform.cdf).pvalue > SIGNIFICANT
    for a, b in ((rows, columns), (rows, area), (columns, aspect)):
        assert stats.kendalltau(a, b).pvalue > SIGNIFICANT


def test_torchvisions_random_erasing_draws_the_same_rectangles() -> None:
    """Against its own draws, which try again where a rectangle does not fit: at 32 px under 1 % of them."""
    from torchvision.transforms import v2

    transform: Any = v2.RandomErasing(p=1.0, scale=augment.ERASED_AREA, ratio=augment.ERASED_ASPECT)
    image = torch.zeros(3, 32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        theirs = [transform.make_params([image]) for _ in range(3000)]
    top, bottom, left, right = erasures(1.0, 32)[0].numpy()
    ours = {"i": top, "j": left, "h": bottom - top, "w": right - left}
    for name, values in ours.items():
        assert stats.ks_2samp(values, [drawn[name] for drawn in theirs]).pvalue > SIGNIFICANT, name


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_rectangle_has_a_pixel_and_fits_even_into_small_images(size: int) -> None:
    top, bottom, left, right = erasures(1.0, size)[0]
    for low, high in ((top, bottom), (left, right)):
        assert int(low.min()) >= 0
        assert int(high.max()) <= size
        assert int((high - low).min()) >= 1


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_none_or_all_are_erased(chance: float) -> None:
    top, bottom, *_ = erasures(chance, 32)[0]
    assert float((bottom > top).double().mean()) == chance


def mixes(mixup: float, cutmix: float, steps: int = 4000, size: int = 32) -> Tensor:
    uniform = torch.rand(4, steps, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return augment.draw_mixes(mixup, cutmix, uniform, size)


def is_cut(drawn: Tensor) -> Tensor:
    """Which of the steps cut: mixup weighs below 1, but for a lambda that rounds to it (at alpha 1 hardly ever)."""
    return drawn[0] == 1


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_mixing_as_torchvision_does(mixup: float, cutmix: float) -> None:
    from torchvision.transforms import v2

    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 2, 2, 1, 0])
    hard = torch.nn.functional.one_hot(labels, 3).float()
    transform: Any = (v2.MixUp if mixup else v2.CutMix)(num_classes=3)
    for step in range(20):
        mix = Mix(*mixes(mixup, cutmix)[:, step])
        params: dict[str, Any] = {"lam": float(mix.share), "labels": labels, "batch_size": 5}
        if cutmix:
            params["box"] = tuple(int(edge) for edge in (mix.left, mix.top, mix.right, mix.bottom))
            params["lam_adjusted"] = float(mix.share)
        torch.testing.assert_close(augment.mix_images(images, mix), transform.transform(images, params))
        theirs = transform._mixup_label(labels, lam=float(mix.share))
        torch.testing.assert_close(augment.mix_labels(labels, 3, mix), theirs)
        torch.testing.assert_close(theirs, mix.share * hard + (1 - mix.share) * hard.roll(1, 0))


def test_a_cut_label_is_the_area_that_is_left() -> None:
    ones = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    for step in range(50):
        mix = Mix(*mixes(0.0, 1.0)[:, step])
        own = augment.mix_images(ones, mix)[1].mean()
        assert float(own) == pytest.approx(float(mix.share), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    drawn = mixes(alpha, 0.0)
    assert torch.equal(drawn[2], drawn[3]), "no box"
    assert stats.kstest(drawn[1].double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > SIGNIFICANT


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_a_box_has_the_area_and_the_place_that_the_paper_says(alpha: float) -> None:
    """Uncut boxes: half a side is 0.5 sqrt(1 - lambda) S, rounded down; centres are uniform over the pixels."""
    size = 10_000  # so that few boxes are cut by the border, and rounding is nothing
    generator = torch.Generator().manual_seed(4)
    uniform = torch.rand(4, 4000, generator=generator, dtype=torch.float64)
    mix = Mix(*augment.draw_mixes(0.0, alpha, uniform, size).double())
    whole = (mix.top > 0) & (mix.left > 0) & (mix.bottom < size) & (mix.right < size)
    lambdas = torch.from_numpy(stats.beta.ppf(uniform[1].numpy(), alpha, alpha))
    side = (mix.bottom - mix.top) / size
    torch.testing.assert_close(side[whole], (1 - lambdas).sqrt()[whole], atol=2 / size, rtol=0)
    torch.testing.assert_close(mix.share, 1 - side * (mix.right - mix.left) / size, atol=1e-6, rtol=0)
    assert whole.any()
    for low, high, place in ((mix.top, mix.bottom, uniform[2]), (mix.left, mix.right, uniform[3])):
        torch.testing.assert_close((low + high)[whole] / 2 / size, place[whole], atol=2 / size, rtol=0)


def test_with_both_a_fair_coin_picks_one() -> None:
    drawn = mixes(1.0, 1.0)
    assert stats.binomtest(int(is_cut(drawn).sum()), drawn.shape[1]).pvalue > SIGNIFICANT
    mixed = drawn[:, ~is_cut(drawn)]
    assert torch.equal(mixed[2], mixed[3]), "mixup has no box"
    assert stats.kstest(mixed[1].double().numpy(), stats.uniform.cdf).pvalue > SIGNIFICANT, "Beta(1, 1)"


# --- nothing is read back ------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Collects the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


# What reads a value back from a device, or has a shape that depends on values, or brings a new value from the host.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "is_nonzero", "equal", "scalar_tensor")


def reads(names: list[str]) -> Iterator[str]:
    return (name for name in names if name.removeprefix("aten::").split(".")[0] in READS)


def test_the_watch_sees_what_reads_back() -> None:
    with Watch() as watch:
        torch.ones(1).item()
        torch.ones(2).nonzero()
        torch.where(torch.ones(2) > 0, 1.0, 2.0)
    assert {name.removeprefix("aten::") for name in reads(watch.names)} >= {"_local_scalar_dense", "nonzero"}
    assert any("scalar_tensor" in name for name in reads(watch.names))


def test_no_augmentation_reads_back_or_has_shapes_that_depend_on_values() -> None:
    images = some_images(8)
    ways = augment.trivial_ways(8).take(torch.arange(6) * 100)
    mix = Mix(*mixes(0.2, 1.0)[:, 0])
    with Watch() as watch:
        made = augment.trivialaugment(images, *placed(6), 8, ways)
        made = augment.normalise(made, torch.ones(3), torch.ones(3))
        made = augment.randaugment(images, *placed(6), 8, ways, ways)
        made = augment.normalise(made, torch.ones(3), torch.ones(3))
        made = augment.cutout(made, torch.zeros(2, 6, dtype=torch.int64), 3)
        made = augment.erase(made, torch.ones(4, 6, dtype=torch.int64))
        augment.mix_images(made, mix)
        augment.mix_labels(torch.arange(6), 6, mix)
    assert len(watch.names) > 50
    assert not list(reads(watch.names))


def test_ways_are_op_strength_and_sign() -> None:
    ways = augment.trivial_ways(8)
    assert np.array_equal(ways.op.numpy(), np.repeat(np.arange(14), 62))
    assert len({tuple(row) for row in ways.warp[ways.op == OPS.index("rotate")].tolist()}) == 61  # 0 has no sign
