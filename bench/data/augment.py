"""Augmentation of whole batches on the device. Example: images = gather_crop(padded, index, top, left, flip, size=32)

Each image has its own parameters, which torchvision's batched transforms do not offer (pytorch/vision#8484). Shapes are
fixed and nothing is read back, so that all of this fits into a CUDA graph. Memory is channel by channel, (B, 3, S, S):
on a CPU, adding one value per channel is several times slower where a pixel's three channels lie together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# --- crop, flip, normalise -----------------------------------------------------------------------------------------


def _collect(padded: Tensor, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of image index[b] at rows and columns, which broadcast to (B, S, S), as (B, 3, S, S) uint8."""
    side = padded.shape[1]
    flat = (index[:, None, None] * side + rows) * side + columns
    # three times as fast on a CPU as indexing with three tensors
    pixels = padded.view(-1, 3).index_select(0, flat.view(-1))
    return pixels.view(*flat.shape, 3).permute(0, 3, 1, 2).contiguous()


def gather_crop(padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, flip and collect images in one indexing step.

    padded: (N, size + 2p, size + 2p, 3) uint8; index, top, left: (B,) int64; flip: (B,) bool, after the crop.
    Returns (B, 3, size, size) uint8.
    """
    steps = torch.arange(size, device=padded.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(flip[:, None], steps.flip(0), steps)
    return _collect(padded, index, rows[:, :, None], columns[:, None, :])


def gather_warp(
    padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int, warp: Tensor
) -> Tensor:
    """As gather_crop, with the result warped by `warp` (B, 6), still in one step: nearest pixel, 0 outside the crop.

    A warp's six numbers map a pixel of the result to one of the crop, both in pixels from the middle:
    column = w0 x + w1 y + w2, row = w3 x + w4 y + w5.
    """
    middle = (size - 1) / 2
    steps = torch.arange(size, device=padded.device) - middle
    x, y = steps[None, None, :], steps[None, :, None]
    w = warp[:, :, None, None].unbind(1)
    columns = (w[0] * x + w[1] * y + w[2] + middle).round().long()
    rows = (w[3] * x + w[4] * y + w[5] + middle).round().long()
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    columns, rows = columns.clamp(0, size - 1), rows.clamp(0, size - 1)
    columns = torch.where(flip[:, None, None], size - 1 - columns, columns)
    pixels = _collect(padded, index, top[:, None, None] + rows, left[:, None, None] + columns)
    return pixels * inside[:, None]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 to float32 with the training part's channel means 0 and standard deviations 1."""
    as_float = images.to(torch.float32, memory_format=torch.contiguous_format)
    return as_float.sub_(mean[:, None, None]).div_(std[:, None, None])


# --- TrivialAugment and RandAugment --------------------------------------------------------------------------------

OPS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
STRENGTHS = 31
WAYS = len(OPS) * STRENGTHS * 2  # op, strength and sign as one number: (op * STRENGTHS + strength) * 2 + negative
REACH = {"shear_x": 0.99, "shear_y": 0.99, "translate_x": 32.0, "translate_y": 32.0, "rotate": 135.0}  # of strength 30
ENHANCE_REACH = 0.99  # of brightness, colour, contrast, sharpness
MAGNITUDE = 9  # RandAugment's one strength for every op


class Ways(NamedTuple):
    """What each of the WAYS does to an image, as far as that does not depend on the image; one row per way."""

    op: Tensor  # (WAYS,) int64, index into OPS
    warp: Tensor  # (WAYS, 6) float32, as gather_warp takes it
    tone: Tensor  # (WAYS, 256) uint8, the new grey level for each
    contrast: Tensor  # (WAYS, 2) float32, shares of the image and of its mean grey
    blend: Tensor  # (WAYS, 2) float32, shares of the image and of what colour and sharpness blend it with; else 1 and 0

    def take(self, way: Tensor) -> Ways:
        """The rows of a batch, way (B,) int64."""
        return Ways(*(table[way] for table in self))

    def to(self, device: torch.device) -> Ways:
        """Moved, once."""
        return Ways(*(table.to(device) for table in self))


def trivial_ways(size: int) -> Ways:
    """TrivialAugment Wide (Müller & Hutter 2021, arXiv:2103.10158, table 1) with torchvision's 31 strengths.

    size: S in pixels; a shear keeps the crop's first row or column, as in Pillow and torchvision.
    """
    return _ways(torch.arange(WAYS) // 2 % STRENGTHS, REACH, ENHANCE_REACH, 6, size)


def rand_ways(size: int) -> Ways:
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) with torchvision's ranges, each op at MAGNITUDE.

    A way's strength is ignored, so that all ops and signs are equally likely.
    """
    across = 150 / 331 * size
    reach = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": across, "translate_y": across, "rotate": 30.0}
    return _ways(torch.full((WAYS,), MAGNITUDE), reach, 0.9, 4, size)


WAYS_OF: dict[str, Callable[[int], Ways]] = {"trivialaugment": trivial_ways, "randaugment": rand_ways}  # by policy


def _ways(strength: Tensor, reach: dict[str, float], enhance_reach: float, bits: int, size: int) -> Ways:
    """Ways of these strengths (WAYS,). At strength 30: `reach` by op, `enhance_reach`, and the bits posterized."""
    way = torch.arange(WAYS)
    op, sign = way // (2 * STRENGTHS), 1 - 2 * (way % 2)
    # float32 as torchvision spaces them: a grey level may hang on the last bit
    spaced = [torch.linspace(0, reach.get(name, enhance_reach), STRENGTHS) for name in OPS]
    amount = torch.stack(spaced)[op, strength].double() * sign
    ratio = 1 + amount
    colour, sharpness = _is(op, "colour"), _is(op, "sharpness")
    # colour: ratio * image + rest * grey; sharpness: image + rest * (smooth - image). As torchvision rounds them
    share, rest = torch.where(colour, ratio, 1.0), torch.where(colour | sharpness, 1 - ratio, 0.0)
    tone, contrast, blend = (
        _tones(op, strength, ratio, bits),
        torch.stack([ratio, 1 - ratio], 1),
        torch.stack([share, rest], 1),
    )
    return Ways(op, _warps(op, amount, size), tone, contrast.float(), blend.float())


def _is(op: Tensor, name: str) -> Tensor:
    """Whether each op is this one."""
    return op == OPS.index(name)


def _warps(op: Tensor, amount: Tensor, size: int) -> Tensor:
    """(WAYS, 6) float32: where a pixel of the result comes from, the inverse of each transformation."""
    warp = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(op), 1)
    angle = torch.deg2rad(amount)
    for name, places, values in (
        ("shear_x", (1, 2), (amount, amount * size / 2)),
        ("shear_y", (3, 5), (amount, amount * size / 2)),
        ("translate_x", (2,), (-amount.trunc(),)),
        ("translate_y", (5,), (-amount.trunc(),)),
        ("rotate", (0, 1, 3, 4), (angle.cos(), -angle.sin(), angle.sin(), angle.cos())),
    ):
        chosen = _is(op, name)
        for place, value in zip(places, values, strict=True):
            warp[chosen, place] = value[chosen]
    return warp.float()


def _tones(op: Tensor, strength: Tensor, ratio: Tensor, bits: int) -> Tensor:
    """(WAYS, 256) uint8: brightness, posterize and solarize; other ops leave each grey level unchanged."""
    grey = torch.arange(256)
    kept = (8 - strength / ((STRENGTHS - 1) / bits)).round().long()
    posterized = grey & (256 - 2 ** (8 - kept))[:, None]
    threshold = (255 * torch.linspace(1, 0, STRENGTHS)[strength].double()).float()[:, None]
    solarized = torch.where(grey >= threshold, 255 - grey, grey)
    brighter = (grey * ratio.float()[:, None]).clamp(0, 255).long()
    tone = grey.expand(len(op), -1)
    for name, made in (("brightness", brighter), ("posterize", posterized), ("solarize", solarized)):
        tone = torch.where(_is(op, name)[:, None], made, tone)
    return tone.to(torch.uint8)


def trivialaugment(
    padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int, ways: Ways
) -> Tensor:
    """As gather_crop, then one op of TrivialAugment for each image; `ways`: the rows of this batch (Ways.take)."""
    return recolour(gather_warp(padded, index, top, left, flip, size, ways.warp), ways)


def randaugment(
    padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int, first: Ways, second: Ways
) -> Tensor:
    """As gather_crop, then two ops of RandAugment for each image, the second on the output of the first."""
    once = trivialaugment(padded, index, top, left, flip, size, first).permute(0, 2, 3, 1).contiguous()
    index = torch.arange(len(once), device=once.device)
    corner = torch.zeros_like(index)
    return trivialaugment(once, index, corner, corner, corner.bool(), size, second)


def recolour(images: Tensor, ways: Ways) -> Tensor:
    """The ops that do not move pixels: (B, 3, S, S) uint8 to the same.

    Ops on grey levels are one look-up in a table per image and channel, made from its histogram; colour and sharpness
    blend with the grey or the smoothed image. Every image goes through all of it, mostly unchanged.
    """
    grey = _grey(images)
    levels = images.flatten(2).long()
    toned = _tone_tables(levels, grey, ways).gather(2, levels).view_as(images)
    share, rest = ways.blend[:, :, None, None, None].unbind(1)
    sharpness = _is(ways.op, "sharpness")[:, None, None, None]
    other = torch.where(sharpness, _smooth_less_image(images), grey[:, None])
    return torch.addcmul(toned * share, other, rest).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """(B, S, S) float32, whole numbers: luma of ITU-R BT.601, rounded down."""
    red, green, blue = images.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _smooth_less_image(images: Tensor) -> Tensor:
    """(B, 3, S, S) float32: Pillow's SMOOTH (weights 1 and 5 of 13) minus the image; 0 on the border."""
    wide = images.to(torch.int16)  # 13 * 255 fits, and sums of whole numbers are exact
    middle = wide[:, :, 1:-1, 1:-1]
    three = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
    difference = torch.zeros_like(images, dtype=torch.float32)
    difference[:, :, 1:-1, 1:-1] = ((nine + 4 * middle) / 13).round_() - middle
    return difference


def _tone_tables(levels: Tensor, grey: Tensor, ways: Ways) -> Tensor:
    """(B, 3, 256) uint8 from levels (B, 3, S * S) int64 and grey (B, S, S): the new level for each grey level."""
    ramp = torch.arange(256, device=levels.device)
    ones = torch.ones(1, 1, 1, dtype=torch.int32, device=levels.device).expand_as(levels)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=levels.device).scatter_add_(2, levels, ones)
    upto = counts.cumsum(2, dtype=torch.int32)
    highest = (upto < levels.shape[2]).sum(2, keepdim=True)
    tables = ways.tone[:, None]
    for name, made in (
        ("contrast", _contrast(ramp, grey, ways)),
        ("autocontrast", _autocontrast(ramp, (upto == 0).sum(2, keepdim=True), highest)),
        ("equalize", _equalize(ramp, counts, upto, highest)),
    ):
        tables = torch.where(_is(ways.op, name)[:, None, None], made, tables)
    return tables


def _contrast(ramp: Tensor, grey: Tensor, ways: Ways) -> Tensor:
    """(B, 1, 256) uint8: the blend with the mean grey."""
    mean = grey.mean((1, 2))[:, None]
    share, rest = ways.contrast[:, :, None].unbind(1)
    blend = torch.addcmul(ramp * share, mean, rest)
    return blend.clamp_(0, 255).to(torch.uint8)[:, None]


def _autocontrast(ramp: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """(B, 3, 256) uint8 from (B, 3, 1): the channel's range stretched to 0..255; a constant channel is unchanged."""
    constant = lowest == highest
    scale = (highest - lowest) * (1.0 / 255) + constant
    return ((ramp - lowest * ~constant) / scale).clamp_(0, 255).to(torch.uint8)


def _equalize(ramp: Tensor, counts: Tensor, upto: Tensor, highest: Tensor) -> Tensor:
    """(B, 3, 256) uint8: Pillow's histogram equalisation; a nearly constant channel is unchanged."""
    step = (upto[..., -1:] - counts.gather(2, highest)) // 255
    equal = (upto - counts + step // 2) // step.clamp(min=1)
    return torch.where(step == 0, ramp, equal.clamp_(0, 255)).to(torch.uint8)


# --- cutout, random erasing, mixup, cutmix -------------------------------------------------------------------------


def cutout(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels, clipped at the border, to 0, the mean (DeVries & Taylor 2017, arXiv:1708.04552).

    images: (B, 3, S, S) float32, normalised; centres: (2, B) int64 rows and columns in 0..S-1.
    """
    steps = torch.arange(images.shape[-1], device=images.device)
    from_edge = steps - (centres - side // 2)[..., None]
    rows, columns = (from_edge >= 0) & (from_edge < side)
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


ERASED_AREA = (0.02, 0.33)  # of the image
ERASED_ASPECT = (0.3, 3.3)  # height over width


def draw_erasures(chance: float, uniform: Tensor, size: int) -> Tensor:
    """(4, B) int64: top, bottom, left and right of a rectangle in each image, empty with probability 1 - `chance`.

    Random erasing (Zhong et al. 2017, arXiv:1708.04896) from `uniform` (5, B) float64 in [0, 1): coin, area, aspect,
    place. Area is uniform; the logarithm of the aspect is uniform over those that fit into the image, which are all up
    to an area of 0.3; the place is any where it fits. So no draw is repeated. Sides are rounded to at least 1 px.
    """
    coin, extent, shape, row, column = uniform
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * extent
    longest = -area.log()
    low, high = (-longest).clamp(min=math.log(ERASED_ASPECT[0])), longest.clamp(max=math.log(ERASED_ASPECT[1]))
    aspect = (low + (high - low) * shape).exp()
    sides = ((share.sqrt() * size).round().clamp(1, size) * (coin < chance) for share in (area * aspect, area / aspect))
    edges = []
    for side, place in zip(sides, (row, column), strict=True):
        first = ((size - side + 1) * place).floor()
        edges += [first, first + side]
    return torch.stack(edges).long()


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set a rectangle of each image to 0, the mean.

    images: (B, 3, S, S) float32, normalised; boxes: (4, B) from draw_erasures.
    """
    steps = torch.arange(images.shape[-1], device=images.device)
    top, bottom, left, right = boxes[..., None].unbind()
    rows, columns = (steps >= top) & (steps < bottom), (steps >= left) & (steps < right)
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


class Mix(NamedTuple):
    """How batches are mixed with themselves rolled by one: scalars for one batch, (steps,) for an epoch, float32.

    An image keeps `level` of each pixel, but nothing inside the box; a label keeps `share`. Mixup has no box and
    level = share = lambda; cutmix has level 1.
    """

    level: Tensor
    share: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


def draw_mixes(mixup: float, cutmix: float, uniform: Tensor, size: int) -> Tensor:
    """(6, steps) float32, the rows of a Mix, from `uniform` (4, steps) float64 in [0, 1): coin, lambda, box centre.

    lambda ~ Beta(alpha, alpha) once per batch: mixup (Zhang et al. 2018, arXiv:1710.09412), cutmix (Yun et al. 2019,
    arXiv:1905.04899: the box has 1 - lambda of the area before the border clips it; the label gets what is left).
    """
    from scipy.special import betaincinv

    coin, quantile, *centre = uniform
    cuts = coin >= (0.5 if mixup and cutmix else 1.0 if mixup else 0.0)
    alpha = torch.where(cuts, cutmix, mixup)
    kept = torch.from_numpy(betaincinv(alpha.numpy(), alpha.numpy(), quantile.numpy()))
    half = (0.5 * (1 - kept).sqrt() * size).floor() * cuts
    row, column = ((u * size).floor() for u in centre)
    top, bottom, left, right = (e.clamp(0, size) for e in (row - half, row + half, column - half, column + half))
    area = (bottom - top) * (right - left) / size**2
    level, share = torch.where(cuts, 1.0, kept), torch.where(cuts, 1 - area, kept)
    return torch.stack([level, share, top, bottom, left, right]).float()


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Each image (B, 3, S, S) float32 with its predecessor in the batch, by one weight map (1, S, S) for all."""
    steps = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (steps >= mix.top) & (steps < mix.bottom), (steps >= mix.left) & (steps < mix.right)
    weight = mix.level * ~(rows[:, None] & columns)
    return torch.lerp(images.roll(1, 0), images, weight[None])


def mix_labels(labels: Tensor, num_classes: int, mix: Mix) -> Tensor:
    """(B,) int64 to (B, num_classes) float32 that sum to 1."""
    # not F.one_hot, which reads the largest label back
    hard = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return torch.lerp(hard.roll(1, 0), hard, mix.share)
