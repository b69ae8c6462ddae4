"""Images of any size and colour as (N, S, S, 3). Example: arrays = convert(arrays, image_size=32)"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.data.arrays import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_SIZE = 32  # of images whose own size the models cannot take
FILTER = "bilinear, antialiased"


def size_of(images: NDArray[np.uint8], asked: int | None) -> int:
    """The side in pixels in which images (N, H, W[, C]) will be used: as asked, else their own if models take it."""
    return asked or own_size(images.shape[1], images.shape[2])


def own_size(height: int, width: int) -> int:
    """The images' own side where they are squares and it is a multiple of 8, as the patches need; else the default."""
    return height if height == width and height % 8 == 0 else DEFAULT_SIZE


def convert(arrays: Arrays, image_size: int | None) -> Arrays:
    """Gray to three equal channels; to `image_size`, or the training part's own if a multiple of 8, or 32; and say so.

    Squares are resized bilinearly with antialiasing; other shapes lose the longer side's ends first.
    """
    notes = list(arrays.notes)
    size = size_of(arrays.train_x, image_size)  # the same for both parts
    parts = []
    for part, images in (("training", arrays.train_x), ("test", arrays.test_x)):
        if images.ndim == 3:
            images = images[..., None]
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
            notes.append(f"{part} images: gray to three equal channels")
        height, width = images.shape[1:3]
        if height != width:
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            images = images[:, top : top + side, left : left + side]
            notes.append(f"{part} images: the central {side}x{side} of {height}x{width}")
        if images.shape[1] != size:
            notes.append(f"{part} images: {images.shape[1]} px resized to {size} px ({FILTER})")
            images = resize(images, size)
        parts.append(np.ascontiguousarray(images))
    return replace(arrays, train_x=parts[0], test_x=parts[1], notes=tuple(notes))


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, S, S, 3) to (N, size, size, 3) by Pillow's bilinear filter, which averages over what it shrinks."""
    from PIL import Image

    out = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        out[i] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return out
