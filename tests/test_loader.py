"""Batches: each image as torchvision would crop and flip it, every offset equally often, the same order for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bench.data.loader import Batches, channel_stats, gather_crop, normalise
from models.torchvision_import import ensure_torchvision

ensure_torchvision()

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.int64)


def batches(padding: int = 2, flip: bool = True, seed: int = 0, batch_size: int = 16) -> Batches:
    return Batches.create(IMAGES, LABELS, batch_size, seed, padding, flip, torch.device("cpu"))


def test_crop_and_flip_as_torchvision_does_each_image() -> None:
    from torchvision.transforms.v2 import functional as tv

    padded = torch.nn.functional.pad(torch.from_numpy(IMAGES), (0, 0, 2, 2, 2, 2))
    index = torch.tensor([3, 3, 49, 0, 17])
    top, left = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([4, 0, 2, 3, 1])
    flip = torch.tensor([False, True, True, False, True])
    ours = gather_crop(padded, index, top, left, flip, size=8)
    for i in range(5):
        image = tv.pad(torch.from_numpy(IMAGES[index[i]]).permute(2, 0, 1), [2])
        image = tv.crop(image, int(top[i]), int(left[i]), 8, 8)
        assert torch.equal(ours[i], tv.horizontal_flip(image) if flip[i] else image)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalise_as_torchvision_does() -> None:
    from torchvision.transforms.v2 import functional as tv

    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mean, std = channel_stats(IMAGES)
    theirs = tv.normalize(images.float(), mean, std)
    torch.testing.assert_close(normalise(images, torch.tensor(mean), torch.tensor(std)), theirs)
    np.testing.assert_allclose(mean, IMAGES.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(std, IMAGES.reshape(-1, 3).std(0))


def test_an_epoch_shows_each_image_once_but_the_rest_of_a_batch() -> None:
    labels = torch.cat([y for _, y in batches().epoch(0)])
    assert len(labels) == 48
    assert len(set(labels.tolist())) == 48
    shapes = {tuple(x.shape) for x, _ in batches().epoch(0)}
    assert shapes == {(16, 3, 8, 8)}


def test_seed_and_epoch_alone_decide() -> None:
    def order(seed: int, epoch: int, padding: int = 2, flip: bool = True) -> list[int]:
        return torch.cat([y for _, y in batches(padding, flip, seed).epoch(epoch)]).tolist()

    assert order(0, 0) == order(0, 0) == order(0, 0, padding=0) == order(0, 0, flip=False)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4
    first = [x for x, _ in batches().epoch(3)]
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, batches().epoch(3), strict=True))


def seen_placements(padding: int, flip: bool, epochs: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets and the share of flips, read off images whose pixels are their own coordinates."""
    rows, columns = np.mgrid[1:9, 1:9].astype(np.uint8)
    coded = np.broadcast_to(np.stack([rows, columns, columns], -1), (48, 8, 8, 3))
    made = Batches.create(
        np.ascontiguousarray(coded), np.zeros(48, np.int64), 48, 0, padding, flip, torch.device("cpu")
    )
    made.mean, made.std = torch.zeros(3), torch.ones(3)
    images = torch.cat([x for e in range(epochs) for x, _ in made.epoch(e)]).numpy()
    middle = images[:, :, 4, 3:5]  # inside the padding whatever the offset
    flipped = middle[:, 1, 0] > middle[:, 1, 1]
    top = middle[:, 0, 0] - 5 + padding
    left = np.where(flipped, middle[:, 1, 0] - 5, middle[:, 1, 0] - 4) + padding
    return top, left, float(flipped.mean())


def test_every_offset_equally_often_and_half_are_flipped() -> None:
    top, left, flipped = seen_placements(padding=2, flip=True, epochs=100)
    for offsets in (top, left):
        counts = np.bincount(offsets.astype(int), minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.binomtest(round(flipped * len(top)), len(top)).pvalue > 1e-3
    table = np.histogram2d(top, left, bins=5)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3, "rows and columns are drawn independently"


def test_no_crop_and_no_flip_where_the_recipe_has_none() -> None:
    top, left, flipped = seen_placements(padding=0, flip=False, epochs=2)
    assert set(top) == {0}
    assert set(left) == {0}
    assert flipped == 0


@pytest.mark.parametrize("count", [1, 500, 501])
def test_evaluation_sees_every_image_in_order(count: int) -> None:
    images = np.repeat(IMAGES[:1], count, axis=0)
    parts = list(batches().plain(images, np.arange(count)))
    assert torch.cat([y for _, y in parts]).tolist() == list(range(count))
    assert sum(len(x) for x, _ in parts) == count


def test_a_constant_channel_stays_finite() -> None:
    mean, std = channel_stats(np.full((2, 4, 4, 3), 7, np.uint8))
    assert mean == [7.0] * 3
    assert std == [1.0] * 3
