"""One's own images. Example: from_npz(Path("mine.npz")) or from_folder(Path("photos"), 64, data_dir, silent, print)"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.arrays import Arrays, WrongContent
from bench.data.cache import FORMAT, Say, cached
from bench.data.convert import DEFAULT_SIZE, FILTER, own_size
from bench.data.decode import Allocate, decode_images, mode_notes
from bench.data.fetch import Progress
from bench.errors import UserError
from bench.spec import content_id, slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CLASSES = 100_000  # a label beyond is a mistake, and a list of its predecessors' names would fill the memory
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def from_npz(path: Path) -> Arrays:
    """train_x, train_y, test_x, test_y[, classes] of an .npz file. Nothing in it is unpickled."""
    if not path.is_file():
        raise UserError(f"no file '{path}'")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with loaded as data:
            missing = [k for k in ("train_x", "train_y", "test_x", "test_y") if k not in data]
            if missing:
                raise UserError(f"'{path}' has no {', '.join(missing)}; it has {', '.join(data.files) or 'nothing'}")
            raw = {k: data[k] for k in data.files if k in ("train_x", "train_y", "test_x", "test_y", "classes")}
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have their own ways, MemoryError for one, to give up
        raise UserError(f"'{path}' is no readable .npz file of plain arrays: {error}") from None
    return check_arrays(raw, str(path))


def check_arrays(raw: dict[str, NDArray[Any]], origin: str) -> Arrays:
    """Arrays from a user's file, with every assumption checked. Raises UserError that names the array and the rule."""
    for part in ("train", "test"):
        images, labels = raw[f"{part}_x"], raw[f"{part}_y"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
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
    classes = tuple(map(str, raw["classes"])) if "classes" in raw else tuple(map(str, range(count)))
    if min(train_y.min(), test_y.min()) < 0 or count > len(classes):
        raise UserError(f"{origin}: labels must lie in 0..{len(classes) - 1}, one for each class")
    if len(np.unique(train_y)) < 2:
        raise UserError(f"{origin}: the training part needs at least two classes")
    return Arrays(raw["train_x"], train_y, raw["test_x"], test_y, classes)


Files = list[tuple[Path, int]]  # image files with their labels


def from_folder(root: Path, image_size: int | None, data_dir: Path, progress: Progress, say: Say) -> tuple[Arrays, str]:
    """train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files, with their content hash.

    Each is cropped to its middle square and brought to image_size, or to the images' own if all are squares of one
    size that is a multiple of 8, or to 32 px. Decoded once: a changed, new or missing file makes it another folder.
    """
    classes, parts = _listing(root)
    stats = [[(str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p, _ in files] for files in parts]
    key = f"{slug(root.resolve().name)}-{content_id([FORMAT, str(root.resolve()), image_size, stats])}"

    def make(allocate: Allocate) -> Arrays:
        return _decoded(root, classes, parts, image_size, allocate, progress)

    return cached(data_dir / "folders", key, make, say)


def _listing(root: Path) -> tuple[tuple[str, ...], list[Files]]:
    """Class names, and the files of the training and of the test part. Raises UserError."""
    held_out = next((part for part in ("test", "val") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise UserError(f"'{root}' needs train/CLASS/* and test/CLASS/* (or val/CLASS/*) folders of images")
    train, test = (
        sorted(p.name for p in (root / part).iterdir() if p.is_dir() and not p.name.startswith("."))
        for part in ("train", held_out)
    )
    if extra := sorted({*test} - {*train}):
        raise UserError(f"'{root / held_out}' has classes without training images: {', '.join(extra)}")
    parts = []
    for part in ("train", held_out):
        files = [
            (path, label)
            for label, name in enumerate(train)
            for path in sorted((root / part / name).glob("*"))
            if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")
        ]
        if not files:
            raise UserError(f"'{root / part}' has no images ({', '.join(IMAGE_ENDINGS)}) in its class folders")
        parts.append(files)
    return tuple(train), parts


def _decoded(
    root: Path,
    classes: tuple[str, ...],
    parts: list[Files],
    image_size: int | None,
    allocate: Allocate,
    progress: Progress,
) -> Arrays:
    """The folder's arrays. Raises UserError that names a file that cannot be read."""
    raw: dict[str, Any] = {"classes": np.array(classes)}
    shapes = Counter(_shape(path) for files in parts for path, _ in files)
    (height, width), *others = shapes
    size = image_size or (DEFAULT_SIZE if others else own_size(height, width))
    modes = Counter[str]()
    for part, files in zip(("train", "test"), parts, strict=True):
        images = allocate(f"{part}_x", (len(files), size, size, 3))
        encoded = ((str(path), path.read_bytes()) for path, _ in files)
        try:
            modes += decode_images(enumerate(encoded), images, progress, f"decoding {root.name} {part}", fit=True)
        except WrongContent as error:
            raise UserError(str(error)) from None
        raw[f"{part}_x"], raw[f"{part}_y"] = images, np.array([label for _, label in files])
    notes = mode_notes(modes)
    if shapes.keys() != {(size, size)}:
        sides = [min(shape) for shape in shapes], [max(shape) for shape in shapes]
        notes = (
            f"image files of {min(sides[0])} to {max(sides[1])} px cropped to the middle square, resized to {size} px "
            f"({FILTER})",
            *notes,
        )
    return replace(check_arrays(raw, str(root)), notes=notes)


def _shape(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's head. Raises UserError that names an unreadable file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image '{path}' cannot be read: {error}") from None
