"""A data set as plain arrays, and what is known about it. Example: check_facts("cifar10", arrays, facts)"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Published channel figures have four digits; a larger difference means exchanged channels or other images.
STATISTICS_TOLERANCE = 0.005
PARTS = ("train_x", "train_y", "test_x", "test_y")


class WrongContent(ValueError):
    """Images that are not the published ones; the message names the difference."""


@dataclass(frozen=True)
class Identity:
    """Which published data set arrays are, if any; whether the content is official; what a table's reader must know."""

    name: str | None = None
    official: bool = False
    like: str = ""  # the published data set with the same numbers, if the arrays are not known to be that one
    checked: bool = True  # whether they were compared with that one's checksums; if not, they may well be it
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrays:
    """A data set decoded: (N, S, S, 3) uint8 images, (N,) int64 labels, class names, and what was done to them.

    `validation_from`: where the publisher's own validation part starts in the training arrays, if there is one.
    """

    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    validation_from: int | None = None
    identity: Identity = Identity()


@dataclass(frozen=True)
class Facts:
    """What is published about a data set: images in each part, their side in pixels, channel figures in 0..1.

    `mean` and `std` are of all pixels of the training part. Some sources give the mean of the images' own deviations
    instead (Tiny-ImageNet's 0.2302, CIFAR-10's 0.2023), which is always smaller.
    """

    train: int
    test: int
    classes: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    valid: int = 0
    train_counts: tuple[int, ...] = ()  # images of each class if they differ
    test_counts: tuple[int, ...] = ()
    content: str = ""  # content_hash of the arrays, if it was computed from the publisher's own files

    def counts(self) -> tuple[list[int], list[int]]:
        """Images of each class in the training arrays (validation included) and in the test part."""
        equal = [(self.train + self.valid) // self.classes] * self.classes, [self.test // self.classes] * self.classes
        return list(self.train_counts) or equal[0], list(self.test_counts) or equal[1]


def check_facts(name: str, arrays: Arrays, facts: Facts) -> None:
    """Compare decoded arrays with what is published. Raises WrongContent that names the first difference."""
    held_out = 0 if arrays.validation_from is None else len(arrays.train_y) - arrays.validation_from
    sizes = (arrays.train_x.shape[1], arrays.test_x.shape[1])
    for what, value, published in (
        ("training images", len(arrays.train_y) - held_out, facts.train),
        ("validation images", held_out, facts.valid),
        ("test images", len(arrays.test_y), facts.test),
        ("classes", len(arrays.classes), facts.classes),
        ("pixels per side", sizes, (facts.size, facts.size)),
        ("images per class", class_counts(arrays), facts.counts()),
    ):
        if value != published:
            raise WrongContent(f"{name} has {value} {what}, not the published {published}")
    if facts.content and (content := content_hash(arrays)) != facts.content:
        raise WrongContent(f"{name} has the content hash {content}, not {facts.content}")
    mean, std = channel_stats(arrays.train_x[: facts.train])
    for what, values, figures in (("mean", mean, facts.mean), ("standard deviation", std, facts.std)):
        in_units = [value / 255 for value in values]
        if max(abs(a - b) for a, b in zip(in_units, figures, strict=True)) > STATISTICS_TOLERANCE:
            measured = ", ".join(f"{value:.4f}" for value in in_units)
            raise WrongContent(f"{name}'s channels have {what} {measured}, not the published {figures}")


def class_counts(arrays: Arrays) -> tuple[list[int], list[int]]:
    """Images of each class in the training arrays and in the test part."""
    train, test = (np.bincount(y, minlength=len(arrays.classes)).tolist() for y in (arrays.train_y, arrays.test_y))
    return train, test


def channel_stats(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in 0..255 of each channel of (N, S, S[, C]) images, exact from counts of values."""
    mean, std = [], []
    values = np.arange(256)
    for channel in range(images.shape[3] if images.ndim == 4 else 1):
        parts = (images[start : start + 1024] for start in range(0, len(images), 1024))
        flat = ((part[..., channel] if images.ndim == 4 else part).reshape(-1) for part in parts)
        counts = np.sum([np.bincount(part, minlength=256) for part in flat], axis=0)  # in int64
        m = float((counts * values).sum() / counts.sum())
        mean.append(m)
        # a constant channel has no scale: 1 keeps it finite
        std.append(float(np.sqrt((counts * (values - m) ** 2).sum() / counts.sum())) or 1.0)
    return mean, std


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """SHA-256 over shapes, types and bytes of the arrays in turn."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def content_hash(arrays: Arrays) -> str:
    """SHA-256 over the four parts: a DataRef's content_hash."""
    return hash_arrays(*(getattr(arrays, part) for part in PARTS))
