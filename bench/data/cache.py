"""Decoded arrays on disk, mapped into memory. Example: cached([Path("cache")], "key", make, print, "cifar10")

An entry is a folder of plain .npy files with a description that holds the SHA-256 of each. It appears whole or not at
all, and is checked whole at every opening; a damaged one is made again. Nothing in it is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import TEMPORARY, from_json, patient_lock, sha256, to_json, write_atomically
from bench.data.arrays import PARTS, Arrays, Identity, content_hash
from bench.data.decode import Allocate, in_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1  # of an entry; part of its key, so that another format is another entry
Say = Callable[[str], None]  # a line for the user
ABOUT = "about.json"
CHUNK = 1 << 24  # bytes hashed at a time, on all cores: one core would take over a second for 1.4 GB
# An entry cannot be kept for these reasons, but its arrays can be used
UNKEEPABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.ENOTDIR)


class _Unkeepable(Exception):
    """The disk does not take an entry; the message says why."""


@contextlib.contextmanager
def _keeping() -> Iterator[None]:
    """Around writes of the entry itself: a full disk during a download is another matter. Raises _Unkeepable."""
    try:
        yield
    except UserError as error:  # a file system without locks
        raise _Unkeepable(str(error)) from None
    except OSError as error:
        if error.errno not in UNKEEPABLE:
            raise
        raise _Unkeepable(error.strerror) from None


def cached(
    folders: Sequence[Path], key: str, make: Callable[[Allocate], Arrays], say: Say, what: str
) -> tuple[Arrays, str]:
    """The entry `key` of the first folder that has it, with its content hash; else made in the first that takes it.

    Processes that ask at the same time make it once. If no folder can be written, it is made in memory each time, and
    `say` is told. `what`: its name in messages. Raises what `make` raises, and OSError for an entry that cannot be read
    just now.
    """
    folders = list(dict.fromkeys(folders))  # a user's cache may be the data directory, too
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            return opened(folder / key)
    for folder in folders:
        try:
            return _made(folder, key, make, say, what)
        except _Unkeepable as error:
            say(f"{what}: decoded images cannot be kept in {folder} ({error})")
    say(f"{what}: decoded again at every start")
    arrays = make(in_memory)
    return arrays, content_hash(arrays)


def _made(folder: Path, key: str, make: Callable[[Allocate], Arrays], say: Say, what: str) -> tuple[Arrays, str]:
    """The entry, made unless another process made it meanwhile. Raises _Unkeepable."""
    entry = folder / key
    with contextlib.ExitStack() as held:
        with _keeping():
            folder.mkdir(parents=True, exist_ok=True)
            waiting = f"{what} is being decoded by {{}}; waiting"
            held.enter_context(patient_lock(folder / f"{key}.lock", lambda owner: say(waiting.format(owner))))
        try:
            return opened(entry)
        except FileNotFoundError:
            pass
        except ValueError as error:
            say(f"the decoded copy {entry} cannot be used ({error}); decoding again")
        for leftover in folder.glob(f"{TEMPORARY}*{key}"):
            remove(leftover)
        _write(entry, make)
        return opened(entry)


def remove(path: Path) -> None:
    """A file, or a folder with its content, as far as permissions allow."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _write(entry: Path, make: Callable[[Allocate], Arrays]) -> None:
    """Make an entry beside its place, then rename it over a damaged one. Raises _Unkeepable."""
    with _keeping():
        temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=TEMPORARY, suffix=entry.name))
    mapped: dict[str, np.memmap[Any, Any]] = {}

    def allocate(name: str, shape: tuple[int, ...]) -> Any:
        path = temporary / f"{name}.npy"
        with _keeping():
            mapped[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            reserve(path)
        return mapped[name]

    try:
        arrays = make(allocate)
        with _keeping():
            _describe(temporary, arrays, mapped)
            if entry.exists():
                entry.rename(entry.with_name(f"{TEMPORARY}damaged-{entry.name}"))
            temporary.rename(entry)
    except BaseException:
        remove(temporary)
        raise
    remove(entry.with_name(f"{TEMPORARY}damaged-{entry.name}"))


def _describe(folder: Path, arrays: Arrays, mapped: dict[str, np.memmap[Any, Any]]) -> None:
    """Write the parts that are not mapped to the folder already, and the description with all checksums."""
    parts = {}
    for part in PARTS:
        array = getattr(arrays, part)
        if part in mapped:
            assert np.may_share_memory(array, mapped[part])
            mapped[part].flush()
        else:
            np.save(folder / f"{part}.npy", array, allow_pickle=False)
        parts[part] = {"shape": list(array.shape), "type": array.dtype.str, "sha256": _digest(array)}
    about: dict[str, Any] = {
        "classes": list(arrays.classes),
        "notes": list(arrays.notes),
        "validation_from": arrays.validation_from,
        "identity": {**asdict(arrays.identity), "notes": list(arrays.identity.notes)},
        "content_hash": content_hash(arrays),
        "parts": parts,
    }
    write_atomically(folder / ABOUT, to_json({"about": about, "sha256": sha256(to_json(about))}))
    folder.chmod(0o755)  # mkdtemp's 0700 would lock colleagues out of a shared cache


def reserve(path: Path) -> None:
    """Take the file's space on the disk now: on a full one, writing to a mapped file would kill the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def opened(entry: Path) -> tuple[Arrays, str]:
    """Map and check an entry.

    Raises FileNotFoundError if there is none, ValueError if it is damaged, and OSError if it cannot be read just now
    (too many open files, say), which says nothing about the entry.
    """
    content = (entry / ABOUT).read_bytes()
    try:
        signed = from_json(content)
        about = signed["about"]
        if signed["sha256"] != sha256(to_json(about)):
            raise ValueError(f"{ABOUT} was changed")
        identity = about.get("identity", {})  # older entries have none, and are of published data sets
        arrays = Arrays(
            **{part: _map(entry / f"{part}.npy", **about["parts"][part]) for part in PARTS},
            classes=tuple(about["classes"]),
            notes=tuple(about["notes"]),
            validation_from=about["validation_from"],
            identity=Identity(**{**identity, "notes": tuple(identity.get("notes", ()))}),
        )
        return arrays, about["content_hash"]
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename).name} is missing") from None
    except (KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{ABOUT} is incomplete: {type(error).__name__} {error}") from None


def _map(path: Path, shape: list[int], type: str, sha256: str) -> NDArray[Any]:
    """An array as described. What a caller writes into it never reaches the disk. Raises ValueError."""
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
