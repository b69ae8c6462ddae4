"""Images of any size and colour as (N, S, S, 3). Example: arrays = convert(arrays, image_size=32)"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.data.arrays import Arrays
from bench.data.fetch import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_SIZE = 32  # of images whose own size the models do not accept
FILTER = "bilinear, antialiased"


def size_of(images: NDArray[np.uint8], asked: int | None) -> int:
    """The side in pixels in which images (N, H, W[, C]) are used: as asked, else their own if the models accept it."""
    return asked or own_size(images.shape[1], images.shape[2])


def own_size(height: int, width: int) -> int:
    """The images' own side if they are squares and it is a multiple of 8, as patches need; else the default."""
    return height if height == width and height % 8 == 0 else DEFAULT_SIZE


def convert(arrays: Arrays, image_size: int | None, progress: Progress = silent) -> Arrays:
    """Gray to three equal channels, other sizes to `image_size` (None: as own_size); notes say so.

    Squares are resized bilinearly with antialiasing; other shapes first lose the longer side's ends.
    """
    size = size_of(arrays.train_x, image_size)  # the same for both parts
    train_x, train_notes = _converted(arrays.train_x, size, progress)
    test_x, test_notes = _converted(arrays.test_x, size, progress)
    if train_notes == test_notes:
        notes = train_notes
    else:
        notes = [f"training images: {n}" for n in train_notes] + [f"test images: {n}" for n in test_notes]
    return replace(arrays, train_x=train_x, test_x=test_x, notes=(*arrays.notes, *notes))


def _converted(images: NDArray[np.uint8], size: int, progress: Progress) -> tuple[NDArray[np.uint8], list[str]]:
    """(N, size, size, 3), and notes on what was done."""
    notes = []
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
        notes.append("gray to three equal channels")
    height, width = images.shape[1:3]
    if height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[:, top : top + side, left : left + side]
        notes.append(f"the central {side}x{side} of {height}x{width}")
    if images.shape[1] != size:
        notes.append(f"{images.shape[1]} px resized to {size} px ({FILTER})")
        images = resize(images, size, progress)
    return np.ascontiguousarray(images), notes


def resize(images: NDArray[np.uint8], size: int, progress: Progress = silent) -> NDArray[np.uint8]:
    """(N, S, S, 3) to (N, size, size, 3) by Pillow's bilinear filter, which averages when it shrinks."""
    from PIL import Image

    out = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        out[i] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        if i % 1000 == 999 or i + 1 == len(images):
            progress(f"resizing to {size} px", i + 1, len(images))
    return out
