"""Every data set as uint8 arrays in memory. Example: load("digits", data_dir=Path("~/.cache/sevit-bench"))

Sources: digits (inside scikit-learn) · cifar10, cifar100, svhn, fashion_mnist (torchvision fetches and checks them)
· npz:FILE · folder:DIR. Whatever the source, the result is the same: (N, S, S, 3) uint8 images, int64 labels,
a stratified validation split and hashes of all of it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import UserError
from bench.files import cache_dir
from bench.spec import DataRef
from models.registry import suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALIDATION_SHARE = 0.1
SPLIT_SEED = 2026  # of the validation split and the nested subsets; the same for every run of every model
MOST_CLASSES = 100_000  # a label beyond is a mistake, and a list of its predecessors' names would fill the memory
DIGITS_TEST = 360  # of 1,797; scikit-learn's data set comes without a split
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class Arrays:
    """A data set decoded: (N, S, S, 3) uint8 images, (N,) int64 labels, class names, and what was done to them."""

    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Arrays with their split: what a run trains on, validates on and is tested on once, and what may be done to it."""

    ref: DataRef
    arrays: Arrays
    train_index: NDArray[np.int64]  # into arrays.train_x
    val_index: NDArray[np.int64]  # into arrays.train_x
    flip_keeps_labels: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One line of the table of data sets."""

    fetch: Callable[[Path], Arrays]
    summary: str
    flip_keeps_labels: bool  # a mirrored 'b' is a 'd': not for digits and house numbers


@dataclass(frozen=True)
class Known:
    """Published content by SHA-256 of pixels and labels, so that arrays from anywhere are called by their name."""

    train_pixels: str
    train_labels: str
    test_labels: str
    test_pixels: dict[str, str] = field(default_factory=dict)  # hash -> what differs from the official test set


# CIFAR-10: hashes of the NHWC arrays in the official order, as verified against the published binary batches.
KNOWN: dict[str, Known] = {
    "cifar10": Known(
        train_pixels="47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        train_labels="2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        test_labels="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        test_pixels={
            "1249626010949d8f448e0faf792debbc3da0c50ed31bfff3678c99c37fbc7e48": "20 of the 10,000 test images are "
            "restored from a JPEG copy and differ slightly from the official ones (at most 0.2 points of accuracy)"
        },
    )
}


def load(name: str, data_dir: Path, image_size: int | None = None, train_fraction: float = 1.0) -> Dataset:
    """Fetch, decode, convert, split and hash a data set; downloads only into data_dir.

    `image_size`: None keeps the data's own, except that sizes which are not a multiple of 8 become 32.
    `train_fraction`: a stratified share of the training part; smaller shares are nested in larger ones.
    Raises UserError for an unknown name, a missing or unreadable file, or arrays that are no image data set.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ("npz", "folder"):
        arrays = from_npz(Path(rest)) if prefix == "npz" else from_folder(Path(rest), image_size)
        called, flips = f"{prefix}:{Path(rest).stem}", True  # the prefix: a stem alone might claim to be CIFAR-10
    elif name in SOURCES:
        arrays = SOURCES[name].fetch(data_dir)
        called, flips = name, SOURCES[name].flip_keeps_labels
    else:
        raise UserError(
            f"unknown dataset '{name}'{suggest(name, SOURCES)} Choices: {', '.join(SOURCES)}, npz:FILE, folder:DIR"
        )
    known, notes = identify(arrays)
    if known is not None:
        called, flips = known, SOURCES[known].flip_keeps_labels
        if name != known and not notes:
            notes = (f"training images and labels are {known}'s; the test images are not the copy known here",)
    arrays = convert(arrays, image_size)
    train_index, val_index = split(arrays.train_y, train_fraction)
    if not len(train_index) or not len(val_index):
        raise UserError(f"{name}: too few training images ({len(arrays.train_y)}) for a validation split of 10 %")
    ref = DataRef(
        name=called,
        content_hash=hash_arrays(arrays.train_x, arrays.train_y, arrays.test_x, arrays.test_y),
        split_hash=hash_arrays(train_index, val_index),
        num_classes=len(arrays.classes),
        image_size=arrays.train_x.shape[1],
        train_fraction=train_fraction,
    )
    return Dataset(ref, arrays, train_index, val_index, flips, (*notes, *arrays.notes))


def identify(arrays: Arrays) -> tuple[str | None, tuple[str, ...]]:
    """The name of a published data set whose arrays these are, with what differs; (None, ()) for any other."""
    for name, known in KNOWN.items():
        if len(arrays.train_y) != 50_000 or _sha(arrays.train_x) != known.train_pixels:
            continue
        if _label_sha(arrays.train_y) != known.train_labels or _label_sha(arrays.test_y) != known.test_labels:
            return None, (f"{name}'s training images with other labels",)
        difference = known.test_pixels.get(_sha(arrays.test_x))
        return name, (difference,) if difference else ()
    return None, ()


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """SHA-256 over shapes, types and bytes of the arrays in turn."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sha(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def _label_sha(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()


def split(labels: NDArray[np.int64], train_fraction: float = 1.0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training and the validation part, both sorted: per class a tenth, rounded, but at least one.

    Each class is shuffled once with a fixed seed; validation takes the head, training the first `train_fraction`
    of the rest. So validation is the same for every fraction, and smaller training parts lie within larger ones.
    """
    train, val = [], []
    rng = np.random.default_rng(SPLIT_SEED)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out = max(1, round(VALIDATION_SHARE * len(members)))
        val.append(members[:held_out])
        rest = members[held_out:]
        train.append(rest[: max(1, round(train_fraction * len(rest)))])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def convert(arrays: Arrays, image_size: int | None) -> Arrays:
    """Gray to three equal channels; to `image_size`, or the training part's own if a multiple of 8, or 32; and say so.

    Squares are resized bilinearly with antialiasing; other shapes lose the longer side's ends first.
    """
    notes = list(arrays.notes)
    height, width = arrays.train_x.shape[1:3]
    size = image_size or (height if height == width and height % 8 == 0 else 32)  # the same for both parts
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
            notes.append(f"{part} images: {images.shape[1]} px resized to {size} px (bilinear, antialiased)")
            images = resize(images, size)
        parts.append(np.ascontiguousarray(images))
    return replace(arrays, train_x=parts[0], test_x=parts[1], notes=tuple(notes))


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, S, S, 3) to (N, size, size, 3) by Pillow's bilinear filter."""
    from PIL import Image

    out = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        out[i] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return out


# --- sources -------------------------------------------------------------------------------------------------------


def from_digits(_: Path) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 gray resized to 32x32x3; the test part is stratified and fixed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = resize(np.repeat(gray[..., None], 3, axis=-1), 32)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST, stratify=labels, random_state=SPLIT_SEED
    )
    note = "8x8 gray images resized to 32x32, three equal channels; 360 held out for testing (our split)"
    return Arrays(images[train], labels[train], images[test], labels[test], tuple("0123456789"), (note,))


def _torchvision(name: str, data_dir: Path) -> Arrays:
    """Fetch by torchvision, which checks MD5 sums. Raises UserError that says where a copy would be looked for."""
    from models.torchvision_import import ensure_torchvision

    ensure_torchvision()
    from torchvision import datasets as tv

    makers: dict[str, Callable[[bool], Any]] = {
        "cifar10": lambda train: tv.CIFAR10(data_dir, train=train, download=True),
        "cifar100": lambda train: tv.CIFAR100(data_dir, train=train, download=True),
        "fashion_mnist": lambda train: tv.FashionMNIST(data_dir, train=train, download=True),
        "svhn": lambda train: tv.SVHN(data_dir / "svhn", split="train" if train else "test", download=True),
    }
    tried = {
        "cifar10": tv.CIFAR10.url,
        "cifar100": tv.CIFAR100.url,
        "fashion_mnist": " and ".join(tv.FashionMNIST.mirrors),
        "svhn": tv.SVHN.split_list["train"][0],
    }
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # torchvision's pickles of CIFAR trip a numpy deprecation that a user can do nothing about
            warnings.simplefilter("ignore")
            train, test = makers[name](True), makers[name](False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"{name} could not be fetched from {tried[name]} ({reason}); a copy would be looked for in {data_dir} "
            "(--data-dir or SEVIT_DATA), npz:FILE reads one of your own, and --dataset digits needs none"
        ) from None

    def pixels(part: Any) -> NDArray[np.uint8]:
        images = np.asarray(part.data)
        return images.transpose(0, 2, 3, 1) if name == "svhn" else images

    def labels(part: Any) -> NDArray[np.int64]:
        return np.asarray(part.labels if name == "svhn" else part.targets).astype(np.int64)

    classes = tuple(map(str, getattr(train, "classes", range(10))))
    return Arrays(pixels(train), labels(train), pixels(test), labels(test), classes)


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


def from_folder(root: Path, image_size: int | None) -> Arrays:
    """train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files, each brought to image_size or else 32 px."""
    size = image_size or 32
    held_out = next((part for part in ("test", "val") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise UserError(f"'{root}' needs train/CLASS/* and test/CLASS/* (or val/CLASS/*) folders of images")
    classes = tuple(sorted(p.name for p in (root / "train").iterdir() if p.is_dir()))
    raw: dict[str, NDArray[Any]] = {"classes": np.array(classes)}
    extra = sorted({p.name for p in (root / held_out).iterdir() if p.is_dir()} - set(classes))
    if extra:
        raise UserError(f"'{root / held_out}' has classes without training images: {', '.join(extra)}")
    for part, folder in (("train", "train"), ("test", held_out)):
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((root / folder / name).glob("*"))
            if path.suffix.lower() in IMAGE_ENDINGS
        ]
        if not files:
            raise UserError(f"'{root / folder}' has no images ({', '.join(IMAGE_ENDINGS)}) in its class folders")
        raw[f"{part}_x"] = np.stack([read_image(path, size) for path, _ in files])
        raw[f"{part}_y"] = np.array([label for _, label in files])
    note = f"image files converted to RGB, centre-cropped to squares, resized to {size} px (bilinear, antialiased)"
    return replace(check_arrays(raw, str(root)), notes=(note,))


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """One image file as (size, size, 3) uint8. Raises UserError that names an unreadable file."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            return np.asarray(square)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image '{path}' cannot be read: {error}") from None


def default_data_dir() -> Path:
    """SEVIT_DATA, or an ordinary cache directory."""
    return Path(os.environ.get("SEVIT_DATA") or cache_dir())


SOURCES: dict[str, Source] = {
    "digits": Source(from_digits, "1,797 handwritten digits, embedded in scikit-learn, 32 px", False),
    "cifar10": Source(lambda d: _torchvision("cifar10", d), "50,000 + 10,000 photographs, 10 classes, 32 px", True),
    "cifar100": Source(lambda d: _torchvision("cifar100", d), "50,000 + 10,000 photographs, 100 classes, 32 px", True),
    "svhn": Source(lambda d: _torchvision("svhn", d), "73,257 + 26,032 house numbers, 10 classes, 32 px", False),
    "fashion_mnist": Source(
        lambda d: _torchvision("fashion_mnist", d), "60,000 + 10,000 gray clothes, 28 px resized to 32", True
    ),
}
