"""Batches from images that stay on the device as uint8. Example: for images, labels in batches.epoch(0): …

Cropping, flipping and normalising happen on the device, on whole batches. Order, crops and flips come from a CPU
generator seeded by (seed, epoch) alone: the same for every model, device and batch of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

EVAL_BATCH = 500


def gather_crop(padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, flip and collect images in one indexing step.

    padded: (N, S + 2p, S + 2p, 3) uint8; index, top, left: (B,) int64; flip: (B,) bool.
    Returns (B, 3, size, size) uint8 in channels-last memory. Each image has its own offsets and its own coin, which
    torchvision's batched transforms do not give (pytorch/vision#8484).
    """
    steps = torch.arange(size, device=padded.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(flip[:, None], steps.flip(0), steps)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to float32 with the training part's channel means 0 and standard deviations 1."""
    return (images.float() - mean[:, None, None]) / std[:, None, None]


@dataclass
class Batches:
    """Training batches of one seed. `images` (N, S, S, 3) uint8 and `labels` (N,) int64 are moved to `device` once.

    The last batch of an epoch is dropped where it is not full: every step has the same shape.
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    crop_padding: int
    flip: bool
    mean: Tensor
    std: Tensor

    @classmethod
    def create(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        batch_size: int,
        seed: int,
        crop_padding: int,
        flip: bool,
        device: torch.device,
    ) -> Batches:
        """Pad once, measure mean and deviation once, move once."""
        mean, std = channel_stats(images)
        pad = crop_padding
        padded = F.pad(torch.from_numpy(images), (0, 0, pad, pad, pad, pad))
        stats = (torch.tensor(mean, device=device), torch.tensor(std, device=device))
        return cls(padded.to(device), torch.from_numpy(labels).to(device), batch_size, seed, crop_padding, flip, *stats)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, cropped, flipped, normalised (B, 3, S, S) float32 batches with their (B,) labels.

        From the `first`-th batch on: the same ones as if those before had been drawn too.
        """
        count, device = self.steps * self.batch_size, self.images.device
        size = self.images.shape[1] - 2 * self.crop_padding
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        # All draws of the epoch at once: three small copies to the device instead of as many a step.
        order = torch.randperm(len(self.labels), generator=generator)[:count].to(device)
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator).to(device)
        coins = torch.rand(count, generator=generator).lt(0.5 if self.flip else 0.0).to(device)
        for start in range(first * self.batch_size, count, self.batch_size):
            part = slice(start, start + self.batch_size)
            index = order[part]
            images = gather_crop(self.images, index, offsets[0, part], offsets[1, part], coins[part], size)
            yield normalise(images, self.mean, self.std), self.labels[index]

    def plain(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Other images in their own order, only normalised as the training images are: for evaluation."""
        device = self.images.device
        for start in range(0, len(labels), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            batch = torch.from_numpy(images[part]).to(device).permute(0, 3, 1, 2)
            yield normalise(batch, self.mean, self.std), torch.from_numpy(labels[part]).to(device)


def channel_stats(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (N, S, S, 3) images, exact from counts of the 256 values."""
    mean, std = [], []
    values = np.arange(256)
    for channel in range(3):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        m = float((counts * values).sum() / counts.sum())
        mean.append(m)
        # a constant channel has no scale: 1 keeps it finite
        std.append(float(np.sqrt((counts * (values - m) ** 2).sum() / counts.sum())) or 1.0)
    return mean, std
