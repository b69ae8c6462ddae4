"""Per-image predictions as they lie in a store. Example: read_arrays(content, ("test_label", "test_loss"), 10_000)

A file of a megabyte can hold gigabytes of zeros, so an array's header is held against what is wanted before its
content is unpacked, and nobody unpacks an array that nobody wants.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

CLASSES, LOSSES = "iu", "f"  # kinds of dtype
MOST_IMAGES = 10_000_000  # of a part whose size no record tells
Arrays = dict[str, npt.NDArray[Any]]


def read_arrays(content: bytes, names: Sequence[str], count: int | None) -> Arrays:
    """Those of `names` that an npz has, each of shape (count,): integers, but for `*_loss`, which are floats.

    `count`: None takes the first array's. Raises ValueError, with what is to follow the file's name, where one is
    anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            present = set(archive.namelist())
            arrays: Arrays = {}
            for name in names:
                if f"{name}.npy" in present:
                    with archive.open(f"{name}.npy") as file:
                        arrays[name] = _read_array(file, name, count)
                    count = len(arrays[name])
            return arrays
    except ValueError:
        raise
    except Exception as error:  # zipfile and zlib each have their own ways to say that a file is broken
        raise ValueError(f"cannot be read ({type(error).__name__})") from None


def _read_array(file: Any, name: str, count: int | None) -> npt.NDArray[Any]:
    try:
        version = npy.read_magic(file)
        shape, _, dtype = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
    except (KeyError, ValueError):
        raise ValueError(f"has no array in {name}") from None
    kinds = LOSSES if name.endswith("_loss") else CLASSES
    if len(shape) != 1 or dtype.kind not in kinds:
        raise ValueError(f"has {name} of shape {shape} and type {dtype.kind}, not one {_kind(kinds)} for each image")
    if not 0 < shape[0] <= MOST_IMAGES or shape[0] != (count or shape[0]):
        raise ValueError(f"has {name} of {shape[0]:,} images{'' if count is None else f', not {count:,}'}")
    size = shape[0] * dtype.itemsize
    data = file.read(size + 1)  # one more, so that the checksum at the end is looked at
    if len(data) != size:
        raise ValueError(f"has another size of {name} than its header says")
    return np.frombuffer(data, dtype)


def _kind(kinds: str) -> str:
    return "loss" if kinds == LOSSES else "class"
