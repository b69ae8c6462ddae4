"""Decoded arrays on the disk, mapped into memory. Example: arrays = cached(folder, key, make, say)

An entry is a folder of plain .npy files with a description that holds the SHA-256 of each. It appears whole or not at
all, and is checked whole at every opening: whatever is wrong with it, it is made again. Nothing in it is unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.arrays import Arrays, hash_arrays
from bench.data.decode import Allocate
from bench.files import TEMPORARY, from_json, patient_lock, sha256, to_json, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1  # of an entry; part of its key, so that another format is another entry
Say = Callable[[str], None]  # a line for the user
PARTS = ("train_x", "train_y", "test_x", "test_y")
ABOUT = "about.json"
CHUNK = 1 << 24  # bytes that are hashed at a time, on all cores: one core alone would take over a second for 1.4 GB
# What keeps an entry from being kept, but not from being used
UNKEEPABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def cached(folder: Path, key: str, make: Callable[[Allocate], Arrays], say: Say) -> tuple[Arrays, str]:
    """The entry `key` of `folder` with its content hash (hash_arrays of the four parts), made where it is not there.

    Processes that ask at once make it once. Where nothing can be written, it is made in memory each time, and said.
    Raises what `make` raises.
    """
    entry = folder / key
    why = "it is not there"
    try:
        return opened(entry)
    except FileNotFoundError:
        pass
    except ValueError as error:
        why = str(error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with patient_lock(folder / f"{key}.lock", lambda owner: say(f"{entry.name} is being made by {owner}; waiting")):
            try:
                return opened(entry)
            except FileNotFoundError:
                pass
            except ValueError as error:
                why = str(error)
                say(f"the decoded copy {entry} cannot be used ({why}); decoding again")
            for leftover in (entry, *folder.glob(f"{TEMPORARY}*{key}")):
                shutil.rmtree(leftover, ignore_errors=True)
            _write(entry, make)
            return opened(entry)
    except OSError as error:
        if error.errno not in UNKEEPABLE:
            raise
        say(f"decoded data cannot be kept in {folder} ({error.strerror}): they are decoded again at every start")
        arrays = make(lambda name, shape: np.empty(shape, np.uint8))
        return arrays, content_hash(arrays)


def content_hash(arrays: Arrays) -> str:
    """SHA-256 over the four parts: what a DataRef calls its content."""
    return hash_arrays(*(getattr(arrays, part) for part in PARTS))


def _write(entry: Path, make: Callable[[Allocate], Arrays]) -> None:
    """Make an entry beside its place, then rename it there."""
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=TEMPORARY, suffix=entry.name))
    mapped: dict[str, np.memmap[Any, Any]] = {}
    try:

        def allocate(name: str, shape: tuple[int, ...]) -> Any:
            path = temporary / f"{name}.npy"
            mapped[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            reserve(path)
            return mapped[name]

        arrays = make(allocate)
        about: dict[str, Any] = {
            "classes": list(arrays.classes),
            "notes": list(arrays.notes),
            "validation_from": arrays.validation_from,
            "content_hash": content_hash(arrays),
        }
        about["parts"] = {}
        for part in PARTS:
            array = getattr(arrays, part)
            if part in mapped:
                mapped[part].flush()
            else:
                np.save(temporary / f"{part}.npy", array, allow_pickle=False)
            about["parts"][part] = {"shape": list(array.shape), "type": array.dtype.str, "sha256": _digest(array)}
        write_atomically(temporary / ABOUT, to_json({"about": about, "sha256": sha256(to_json(about))}))
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock colleagues out of a shared cache
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def reserve(path: Path) -> None:
    """Take the file's space on the disk now: on a full one, writing to a mapped file would kill the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def opened(entry: Path) -> tuple[Arrays, str]:
    """Map and check an entry. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    content = (entry / ABOUT).read_bytes()
    try:
        found = from_json(content)
        about = found["about"]
        if found["sha256"] != sha256(to_json(about)):
            raise ValueError(f"{ABOUT} was changed")
        parts = {part: _map(entry / f"{part}.npy", **about["parts"][part]) for part in PARTS}
        arrays = Arrays(
            **parts,
            classes=tuple(about["classes"]),
            notes=tuple(about["notes"]),
            validation_from=about["validation_from"],
        )
        return arrays, about["content_hash"]
    except OSError as error:
        raise ValueError(f"{Path(error.filename or entry).name}: {error.strerror}") from None
    except (KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{ABOUT} is incomplete: {type(error).__name__} {error}") from None


def _map(path: Path, shape: list[int], type: str, sha256: str) -> NDArray[Any]:
    """An array as its description says. What a caller writes into it never reaches the disk. Raises ValueError."""
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if list(array.shape) != shape or array.dtype.str != type or _digest(array) != sha256:
        raise ValueError(f"{path.name} is damaged")
    return array


def _digest(array: NDArray[Any]) -> str:
    """SHA-256 over the SHA-256 of each chunk."""
    flat = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    with ThreadPoolExecutor() as pool:
        chunks = (flat[start : start + CHUNK] for start in range(0, len(flat), CHUNK))
        return sha256(b"".join(pool.map(lambda chunk: hashlib.sha256(chunk).digest(), chunks)))


def remember(arrays: Arrays, allocate: Allocate) -> Arrays:
    """The same arrays with their images where `allocate` puts them."""
    moved = {}
    for part in ("train_x", "test_x"):
        images = getattr(arrays, part)
        moved[part] = allocate(part, images.shape)
        moved[part][:] = images
    return replace(arrays, **moved)
