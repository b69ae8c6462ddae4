"""Batches from images that stay on the device as uint8. Example: for images, labels in batches.epoch(0): …

Augmentation (augment.py) runs on the device, on whole batches. Everything random comes from a CPU generator seeded by
(seed, epoch) alone: the same for every model and device; a thread draws the next epoch's while this one trains. Images
too big for the device stay on the host and are streamed one batch ahead; the batches are the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.data import augment
from bench.data.arrays import channel_stats
from bench.data.augment import Mix, Ways
from bench.plan.spec import Recipe

EVAL_BATCH = 500
RESIDENT_SHARE = 0.5  # of a GPU's free memory for the data set; training needs the rest
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Draws(NamedTuple):
    """Everything random in an epoch of `count` images in `steps` batches, drawn whether or not the recipe uses it."""

    order: Tensor  # (count,) int64, indices of images
    offsets: Tensor  # (2, count) int64, top and left of the crop
    coins: Tensor  # (count,) bool, flip
    ways: Tensor  # (count,) int64, op, strength and sign of the policy
    centres: Tensor  # (2, count) int64, row and column of the cutout
    mixes: Tensor  # (6, steps) float32, rows of a Mix; (6, 0) where nothing is mixed
    second_ways: Tensor  # (count,) int64, of a policy's second op
    erasures: Tensor  # (4, count) int64, edges of a rectangle; (4, 0) where nothing is erased

    def to(self, device: torch.device) -> Draws:
        """Moved: a few small copies per epoch instead of as many per step."""
        return Draws(*(drawn.to(device) for drawn in self))


@dataclass
class Batches:
    """Training batches of one seed: `images` (N, S + 2p, S + 2p, 3) uint8 with padding p, `labels` (N,) int64.

    The last batch of an epoch is dropped if it is not full, so that every step has the same shape.
    """

    images: Tensor  # on the device, or on the host and streamed
    labels: Tensor  # on the device
    recipe: Recipe
    num_classes: int
    seed: int
    mean: Tensor
    std: Tensor
    ways: Ways | None  # the policy's, where the recipe has one
    memory_format: str
    resident: bool

    @classmethod
    def create(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        recipe: Recipe,
        num_classes: int,
        seed: int,
        device: torch.device,
        memory_format: str = "channels_last",
        resident: bool | None = None,
    ) -> Batches:
        """Pad once, measure mean and deviation once, move once. `resident` None: if it fits."""
        mean, std = (torch.tensor(figures, device=device) for figures in channel_stats(images))
        pad = recipe.crop_padding
        padded = F.pad(torch.from_numpy(images), (0, 0, pad, pad, pad, pad))
        resident = fits(padded, device) if resident is None else resident
        padded = padded.to(device) if resident else padded
        ways = augment.WAYS_OF[recipe.policy](images.shape[1]).to(device) if recipe.policy else None
        on_device = torch.from_numpy(labels).to(device)
        return cls(padded, on_device, recipe, num_classes, seed, mean, std, ways, memory_format, resident)

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.recipe.batch_size

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self.labels) // self.batch_size

    @property
    def size(self) -> int:
        """S, the side of an image in pixels."""
        return self.images.shape[1] - 2 * self.recipe.crop_padding

    def draw(self, epoch: int) -> Draws:
        """All draws of an epoch, on the CPU. Newer ones come last, so that the older stay as they always were."""
        recipe, count = self.recipe, self.steps * self.batch_size
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        order = torch.randperm(len(self.labels), generator=generator)[:count]
        offsets = torch.randint(0, 2 * recipe.crop_padding + 1, (2, count), generator=generator)
        coins = torch.rand(count, generator=generator).lt(0.5 if recipe.flip else 0.0)
        ways = torch.randint(0, augment.WAYS, (count,), generator=generator)
        centres = torch.randint(0, self.size, (2, count), generator=generator)
        uniform = torch.rand(4, self.steps, generator=generator, dtype=torch.float64)
        used = self.steps if recipe.mixup or recipe.cutmix else 0
        mixes = augment.draw_mixes(recipe.mixup, recipe.cutmix, uniform[:, :used], self.size)
        second_ways = torch.randint(0, augment.WAYS, (count,), generator=generator)
        uniform = torch.rand(5, count, generator=generator, dtype=torch.float64)
        used = count if recipe.random_erasing else 0
        erasures = augment.draw_erasures(recipe.random_erasing, uniform[:, :used], self.size)
        return Draws(order, offsets, coins, ways, centres, mixes, second_ways, erasures)

    def steps_between(self, step: int, end: int) -> Generator[tuple[Tensor, Tensor]]:
        """The batches of training steps `step` up to `end`, as `epoch` gives them, one epoch after another.

        After an epoch's first step, a thread draws the next one's numbers; it has ended when the generator is closed.
        """
        ahead: _Ahead | None = None
        try:
            while step < end:
                epoch, first = divmod(step, self.steps)
                drawn, ahead = (self.draw(epoch) if ahead is None else ahead.result()), None
                for batch in itertools.islice(self.epoch(epoch, first, drawn), end - step):
                    yield batch
                    step += 1
                    if ahead is None and (epoch + 1) * self.steps < end:
                        ahead = _Ahead(self.draw, epoch + 1)
        finally:
            if ahead is not None:
                ahead.end()

    def epoch(self, epoch: int, first: int = 0, drawn: Draws | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalised (B, 3, S, S) float32 batches with their labels.

        Labels are (B,) int64, or (B, num_classes) float32 if the recipe mixes images. Starting at batch `first` gives
        the same batches as starting at 0. `drawn`: what `draw` gave for the epoch, where that is known.
        """
        drawn = drawn or self.draw(epoch)
        draws = drawn.to(self.labels.device)
        for step, (images, index) in enumerate(self._rows(drawn.order, draws.order, first), first):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            batch, labels = self._augmented(images, index, draws, part), self.labels[draws.order[part]]
            if self.recipe.mixup or self.recipe.cutmix:
                mix = Mix(*draws.mixes[:, step])
                batch, labels = augment.mix_images(batch, mix), augment.mix_labels(labels, self.num_classes, mix)
            yield batch.contiguous(memory_format=FORMATS[self.memory_format]), labels

    def _augmented(self, images: Tensor, index: Tensor, draws: Draws, part: slice) -> Tensor:
        """Images `index` of `images`, each by its own draws: (B, 3, S, S) float32."""
        top, left = draws.offsets[:, part]
        coins = draws.coins[part]
        if self.ways is None:
            crops = augment.gather_crop(images, index, top, left, coins, self.size)
        else:
            ways = self.ways.take(draws.ways[part])
            if self.recipe.policy == "randaugment":
                second = self.ways.take(draws.second_ways[part])
                crops = augment.randaugment(images, index, top, left, coins, self.size, ways, second)
            else:
                crops = augment.trivialaugment(images, index, top, left, coins, self.size, ways)
        batch = augment.normalise(crops, self.mean, self.std)
        if self.recipe.cutout:
            batch = augment.cutout(batch, draws.centres[:, part], self.recipe.cutout)
        return augment.erase(batch, draws.erasures[:, part]) if self.recipe.random_erasing else batch

    def _rows(self, order: Tensor, order_on_device: Tensor, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch from the `first`: images on the device, and the batch's indices (B,) into them."""
        parts = [slice(s, s + self.batch_size) for s in range(first * self.batch_size, len(order), self.batch_size)]
        if self.resident:
            for part in parts:
                yield self.images, order_on_device[part]
        else:
            every = torch.arange(self.batch_size, device=self.labels.device)
            for rows in streamed(self.images, [order[part] for part in parts], self.labels.device):
                yield rows, every


class _Ahead:
    """A draw made by a thread of its own, which ends with it."""

    under_way: ClassVar[WeakSet[_Ahead]] = WeakSet()

    def __init__(self, draw: Callable[[int], Draws], epoch: int) -> None:
        self._pool = ThreadPoolExecutor(1, "draw")
        self._drawn = self._pool.submit(draw, epoch)
        self.under_way.add(self)

    def end(self) -> None:
        """Wait until the thread is gone."""
        self._pool.shutdown()

    def result(self) -> Draws:
        """What it drew. Raises what the draw raised."""
        self.end()
        return self._drawn.result()

    @classmethod
    def end_all(cls) -> None:
        """A forked child would have the locks of these threads, and not the threads that free them."""
        for ahead in list(cls.under_way):
            ahead.end()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_Ahead.end_all)


def streamed(images: Tensor, batches: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """images[index] on the device for each index (B,) of `batches`; a thread collects the next while one is used.

    Two buffers alternate; on CUDA they are page-locked, and copies run on their own stream.
    """
    if not batches:
        return
    cuda = device.type == "cuda"
    shape = (len(batches[0]), *images.shape[1:])
    buffers = [torch.empty(shape, dtype=images.dtype, pin_memory=cuda) for _ in range(2)]
    copied: list[torch.cuda.Event | None] = [None, None]
    side = torch.cuda.Stream(device) if cuda else None

    def collect(number: int) -> Tensor:
        buffer, last_copy = buffers[number % 2], copied[number % 2]
        if last_copy is not None:
            last_copy.synchronize()  # this thread waits, the training does not
        torch.index_select(images, 0, batches[number], out=buffer)
        if side is None:
            return buffer
        with torch.cuda.stream(side):
            rows = buffer.to(device, non_blocking=True)
            copied[number % 2] = side.record_event()
        return rows

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(collect, 0)
        for number in range(len(batches)):
            rows, copy = coming.result(), copied[number % 2]
            if number + 1 < len(batches):
                coming = pool.submit(collect, number + 1)
            if copy is not None:
                stream = torch.cuda.current_stream(device)
                stream.wait_event(copy)
                rows.record_stream(stream)  # the side stream owns its memory, and must not reuse it yet
            yield rows


@dataclass(frozen=True)
class HeldOut:
    """Images for evaluation, in their own order, normalised like the training images."""

    images: Tensor  # (N, S, S, 3) uint8, on the device if they fit
    labels: Tensor  # (N,) int64
    training: Batches

    @classmethod
    def create(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], training: Batches) -> HeldOut:
        """Move the images once instead of after every epoch."""
        device, stored = training.labels.device, torch.from_numpy(images)
        stored = stored.to(device) if fits(stored, device) else stored
        return cls(stored, torch.from_numpy(labels).to(device), training)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, S, S) float32 and (B,) int64, EVAL_BATCH at a time; the last batch has the rest."""
        training = self.training
        for images, labels in zip(self.images.split(EVAL_BATCH), self.labels.split(EVAL_BATCH), strict=True):
            on_device = images.to(labels.device).permute(0, 3, 1, 2)
            batch = augment.normalise(on_device, training.mean, training.std)
            yield batch.contiguous(memory_format=FORMATS[training.memory_format]), labels


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether uint8 images fit on the device; on a CPU they are there already."""
    return device.type == "cpu" or images.numel() <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
