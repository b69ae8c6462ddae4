"""Your own images. Example: from_npz(Path("mine.npz"))

Decoded, checked, brought to size and compared with the published data sets once; after that, the copy is mapped.
"""

from __future__ import annotations

import contextlib
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import cache_dir, inert, state_of
from bench.core.text import writable
from bench.data.archives import MOST_RATIO
from bench.data.arrays import Arrays, WrongContent
from bench.data.cache import Say, cached, remove
from bench.data.convert import DEFAULT_SIZE, FILTER, convert, own_size
from bench.data.decode import Allocate, decode_images, depth_of, first_of, in_memory, mode_notes, opened_image
from bench.data.fetch import Progress, silent
from bench.data.identity import identify
from bench.plan.spec import MOST_CLASSES, content_id, slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 4  # of a copy: raise it when conversion or identity.py would give another result
KEPT_SECONDS = 30 * 86400.0  # copies that nobody has used for as long are removed
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def from_npz(
    path: Path, image_size: int | None = None, say: Say = lambda text: None, progress: Progress = silent
) -> tuple[Arrays, str]:
    """train_x, train_y, test_x, test_y[, classes] of an .npz file, with their content hash. Raises UserError."""
    try:
        state = state_of(path)
    except OSError:
        raise UserError(f"no file '{path}'") from None
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"'{path}' is a folder, a device or a pipe, not an .npz file")

    def make(allocate: Allocate) -> Arrays:
        return _at_size(read_npz(path), image_size, progress)

    return _copy(path, state, image_size, [cache_dir() / "npz"], make, say)


def from_folder(root: Path, data_dir: Path, image_size: int | None, say: Say, progress: Progress) -> tuple[Arrays, str]:
    """train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files, with their content hash. Raises UserError.

    Images that are all squares of one size that is a multiple of 8 keep it; others are cropped to their middle square
    and resized to image_size, or to 32 px. A changed, new or missing file makes it another folder.
    """
    root = root.resolve()
    listing = _listing(root)
    states = [[(os.fsencode(path).hex(), *state_of(path)) for path, _ in files] for files in listing.parts]

    def make(allocate: Allocate) -> Arrays:
        return _at_size(_decoded(root, listing, image_size, allocate, progress), image_size, progress)

    return _copy(root, states, image_size, [data_dir / "folders", cache_dir() / "folders"], make, say)


def _at_size(arrays: Arrays, image_size: int | None, progress: Progress) -> Arrays:
    """The arrays as they will be used. Whose images they are shows before anything is resized."""
    identity = identify(arrays)
    fitted = convert(arrays, image_size, progress)
    return replace(fitted, identity=identity, notes=(*identity.notes, *fitted.notes))


def _copy(
    path: Path,
    state: list[Any],
    image_size: int | None,
    folders: Sequence[Path],
    make: Callable[[Allocate], Arrays],
    say: Say,
) -> tuple[Arrays, str]:
    """The decoded copy of files in this state; copies of an earlier state, and unused ones, are removed."""
    source = f"{slug(path.name)}-{content_id([FORMAT, os.fsencode(os.path.abspath(path)).hex(), image_size])}"
    key = f"{source}-{content_id(state)}"
    copy = cached(folders, key, make, say, str(path))
    for other in (entry for folder in folders for entry in folder.glob("*")):
        with contextlib.suppress(OSError):
            if key in other.name:
                os.utime(other)
            elif source in other.name or time.time() - other.stat().st_mtime > KEPT_SECONDS:
                remove(other)
    return copy


# --- .npz files ------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file as they are. Nothing in it is unpickled. Raises UserError."""
    try:
        with path.open("rb") as file:
            if not file.read(6).startswith((b"PK", b"\x93NUMPY")):  # NumPy would take it for a pickle, and say so
                raise ValueError("its content is of another kind")
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with loaded as data:
            for info in data.zip.infolist() if data.zip else ():
                if info.file_size > MOST_RATIO * max(info.compress_size, 1):
                    raise ValueError(f"'{info.filename}' would unpack to {info.file_size:,} bytes, of a single value")
            missing = [k for k in ("train_x", "train_y", "test_x", "test_y") if k not in data]
            if missing:
                raise UserError(f"'{path}' has no {', '.join(missing)}; it has {', '.join(data.files) or 'nothing'}")
            raw = {k: data[k] for k in data.files if k in ("train_x", "train_y", "test_x", "test_y", "classes")}
        if alien := [name for name, array in raw.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"'{alien[0]}' is no array of NumPy's")  # np.load gives the bytes of such a member
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own, MemoryError among them
        raise UserError(f"'{path}' is not a readable .npz file of plain arrays: {error}") from None
    return check_arrays(raw, str(path))


def check_arrays(raw: dict[str, NDArray[Any]], origin: str) -> Arrays:
    """Arrays from a user's file, with every assumption checked. Raises UserError that names the array and the rule."""
    for part in ("train", "test"):
        images, labels = raw[f"{part}_x"], raw[f"{part}_y"]
        plain = images.dtype == np.uint8 and images.ndim in (3, 4) and images.shape[3:] in ((), (1,), (3,))
        if not plain or 0 in images.shape[1:]:
            raise UserError(
                f"{origin}: {part}_x must be uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
                f"not {images.dtype} {images.shape}"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise UserError(f"{origin}: {part}_y must be (N,) integers, not {labels.dtype} {labels.shape}")
        if len(images) != len(labels) or not len(images):
            raise UserError(f"{origin}: {part}_x has {len(images)} images and {part}_y {len(labels)} labels")
    train_y, test_y = raw["train_y"].astype(np.int64), raw["test_y"].astype(np.int64)
    count = int(max(train_y.max(), test_y.max())) + 1
    if count > MOST_CLASSES or raw.get("classes", np.empty(0)).ndim != 1:
        raise UserError(f"{origin}: at most {MOST_CLASSES:,} classes, and their names, if any, as a (C,) array")
    names = raw.get("classes", np.arange(count))
    texts = map(str, np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names)
    classes = tuple(map(writable, texts))
    if min(train_y.min(), test_y.min()) < 0 or count > len(classes):
        raise UserError(f"{origin}: labels must lie in 0..{len(classes) - 1}, one for each class")
    if len(np.unique(train_y)) < 2:
        raise UserError(f"{origin}: the training part needs at least two classes")
    notes = list[str]()
    for part, labels in (("training", train_y), ("test", test_y)):
        counts = np.bincount(labels, minlength=len(classes))
        if without := [name for name, images in zip(classes, counts, strict=True) if not images]:
            notes.append(f"classes without {part} images: {first_of(without)}")
    return Arrays(raw["train_x"], train_y, raw["test_x"], test_y, classes, tuple(notes))


# --- folders ---------------------------------------------------------------------------------------------------------

Files = list[tuple[Path, int]]  # image files with their labels


@dataclass(frozen=True)
class Listing:
    """What a folder holds: class names, the files of the training and the test part, and notes on what is not used."""

    classes: tuple[str, ...]
    parts: tuple[Files, Files]
    notes: tuple[str, ...]


def _listing(root: Path) -> Listing:
    """Raises UserError for a folder without images in both parts, or a class without training images."""
    if not root.is_dir():
        raise UserError(f"no folder '{root}'")
    if (root / "val" / "val_annotations.txt").is_file():
        raise UserError(
            f"'{root}' is Tiny-ImageNet as published: use --dataset tiny_imagenet --data-dir '{root.parent}'"
        )
    held_out = next((part for part in ("test", "val") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        there = sorted(inert(path.name) for path in root.iterdir() if not path.name.startswith("."))
        raise UserError(
            f"'{root}' needs train/CLASS/* and test/CLASS/* (or val/CLASS/*) folders of images; "
            f"it has {first_of(there) or 'nothing'}"
        )
    train, test = (_class_folders(root / part) for part in ("train", held_out))
    if extra := sorted({*test} - {*train}):
        raise UserError(f"'{root / held_out}' has classes without training images: {', '.join(extra)}")
    parts, others = [], 0
    for part, folders in (("train", train), (held_out, test)):
        inside = [
            (path, label)
            for label, name in enumerate(train)
            if name in folders
            for path in sorted(folders[name].glob("*"))
            if not path.name.startswith(".")
        ]
        files = [(path, label) for path, label in inside if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()]
        others += len(inside) - len(files)
        if not files:
            raise UserError(f"'{root / part}' has no images ({', '.join(IMAGE_ENDINGS)}) in its class folders")
        parts.append(files)
    filled = {label for _, label in parts[0]}
    if empty := [name for label, name in enumerate(train) if label not in filled]:
        raise UserError(f"'{root / 'train'}' has classes without images: {first_of(empty)}; fill or remove them")
    notes = []
    if others:
        which = "entry that is no image" if others == 1 else "entries that are no images"
        notes.append(f"left out {others:,} {which} ({', '.join(IMAGE_ENDINGS)})")
    for part in ("val", "valid", "validation"):
        if part != held_out and (root / part).is_dir():
            notes.append(
                f"{part}/ is not used: validation images are drawn from train/, and {held_out}/ is the test part"
            )
    return Listing(tuple(map(writable, train)), (parts[0], parts[1]), tuple(notes))


def _class_folders(part: Path) -> dict[str, Path]:
    """Class folders by name, sorted, with accents composed: a Mac stores them as letters of their own.

    Raises UserError for two folders that are then one.
    """
    folders = [path for path in part.iterdir() if path.is_dir() and not path.name.startswith(".")]
    named = {unicodedata.normalize("NFC", path.name): path for path in sorted(folders)}
    if len(named) < len(folders):
        twice = next(p.name for p in folders if p not in named.values())
        raise UserError(f"'{part}' has two folders '{twice}' that differ only in how accents are stored; merge them")
    return dict(sorted(named.items()))


def _decoded(root: Path, listing: Listing, image_size: int | None, allocate: Allocate, progress: Progress) -> Arrays:
    """The folder's arrays. Raises UserError that names files that cannot be read."""
    paths = [path for files in listing.parts for path, _ in files]
    shapes, wrong = set[tuple[int, int]](), list[str]()
    for number, path in enumerate(paths, 1):
        try:
            shapes.add(_shape(path))
        except WrongContent as error:
            wrong.append(str(error))
        progress(f"looking through {root.name}", number, len(paths))
    remedy = "replace or remove such files"
    if wrong:
        raise UserError(f"{first_of(wrong)}; {remedy}")
    own = own_size(*next(iter(shapes))) if len(shapes) == 1 else None
    size = own if own is not None and shapes == {(own, own)} else image_size or DEFAULT_SIZE
    raw: dict[str, Any] = {"classes": np.array(listing.classes)}
    place = allocate if size == (image_size or size) else in_memory  # to be resized

    def decode(depth: int) -> Counter[str]:
        remarks = Counter[str]()
        for part, files in zip(("train", "test"), listing.parts, strict=True):
            encoded = ((number, (str(path), path)) for number, (path, _) in enumerate(files))
            what = f"decoding {root.name} {part}"
            remarks += decode_images(encoded, raw[f"{part}_x"], progress, what, fit=True, depth=depth)
        return remarks

    for part, files in zip(("train", "test"), listing.parts, strict=True):
        raw[f"{part}_x"] = place(f"{part}_x", (len(files), size, size, 3))
        raw[f"{part}_y"] = np.array([label for _, label in files])
    try:
        modes = decode(16)
        if (depth := depth_of(modes)) < 16:  # known only now that all were seen
            modes = decode(depth)
    except WrongContent as error:
        raise UserError(f"{error}; {remedy}") from None
    notes = [*listing.notes, *mode_notes(modes)]
    if shapes != {(size, size)}:
        least, most = min(map(min, shapes)), max(map(max, shapes))
        notes.append(
            f"image files of {least} to {most} px cropped to the middle square, resized to {size} px ({FILTER})"
        )
    checked = check_arrays(raw, str(root))
    return replace(checked, notes=(*checked.notes, *notes))


def _shape(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header. Raises WrongContent that names an unreadable file."""
    with opened_image(str(path), path) as (image, _):
        return image.height, image.width
