"""Every data set as uint8 arrays. Example: load("digits", data_dir=Path("~/.cache/sevit-bench"))

Sources: digits (inside scikit-learn), the published data sets of catalogue.py, npz:FILE, folder:DIR. Each is decoded
once; after that, in whatever process, its copy is checked and mapped into memory. The result is always the same:
(N, S, S, 3) uint8 images, int64 labels, a validation split, hashes of all of it, and where it came from.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from bench.core.errors import UserError
from bench.core.files import cache_dir
from bench.core.text import writable
from bench.data.arrays import Arrays, WrongContent, check_facts, hash_arrays
from bench.data.cache import FORMAT, Say, cached, opened, remember
from bench.data.catalogue import CATALOGUE
from bench.data.convert import convert, own_size, resize
from bench.data.decode import Allocate
from bench.data.fetch import Progress, RemoteFile, fault, fetch, silent
from bench.data.on_disk import Copy, find, places
from bench.data.own import from_folder, from_npz
from bench.plan.spec import DataRef, Provenance, content_id
from models.registry import suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALIDATION_SHARE = 0.1
SPLIT_SEED = 2026  # of the validation split and the nested subsets, for every run of every model
DIGITS_TEST = 360  # of 1,797; scikit-learn's data set comes without a split
DIGITS_SUMMARY = "1,797 handwritten digits, 10 classes, 8 px resized to 32"
CINIC_WHOLE = "cinic10:train+valid"  # trains on both parts, as some papers do; cinic10 validates on the second
NAMES = ("digits", *CATALOGUE)


Cached = tuple[Arrays, str]  # with their content hash


@dataclass(frozen=True)
class Opened:
    """Arrays of a source at the size in which they are used, before the split."""

    arrays: Arrays
    name: str
    content_hash: str
    flip_keeps_labels: bool
    provenance: Provenance


@dataclass(frozen=True)
class Dataset:
    """Arrays with their split: what a run trains on, validates on, and is tested on once."""

    ref: DataRef
    arrays: Arrays
    train_index: NDArray[np.int64]  # into arrays.train_x
    val_index: NDArray[np.int64]  # into arrays.train_x
    flip_keeps_labels: bool
    notes: tuple[str, ...]
    provenance: Provenance


def load(
    name: str,
    data_dir: Path,
    image_size: int | None = None,
    train_fraction: float = 1.0,
    progress: Progress = silent,
    say: Say = lambda text: None,
) -> Dataset:
    """Fetch, decode, convert, split and hash a data set; writes only to data_dir and the cache directory.

    `image_size`: None keeps the data's own, except that sizes which are not a multiple of 8 become 32.
    `train_fraction`: a stratified share of the training part; smaller shares are nested in larger ones.
    Raises UserError for an unknown name, a missing or unreadable file, or arrays that are no image data set.
    """
    source = open_source(name, data_dir, image_size, progress, say)
    arrays = source.arrays
    train_index, val_index = split(arrays.train_y, train_fraction, arrays.validation_from)
    if not len(train_index) or not len(val_index):
        raise UserError(f"{name}: too few training images ({len(arrays.train_y)}) for a validation split of 10 %")
    ref = DataRef(
        name=source.name,
        content_hash=source.content_hash,
        split_hash=hash_arrays(train_index, val_index),
        num_classes=len(arrays.classes),
        image_size=arrays.train_x.shape[1],
        train_fraction=train_fraction,
    )
    return Dataset(ref, arrays, train_index, val_index, source.flip_keeps_labels, arrays.notes, source.provenance)


def open_source(name: str, data_dir: Path, image_size: int | None, progress: Progress, say: Say) -> Opened:
    """A source's arrays at the size in which they are used. Raises UserError as `load` does."""
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"'{data_dir}' is not a folder; choose one with --data-dir or SEVIT_DATA")
    prefix, _, rest = name.partition(":")
    if prefix == "npz" and rest:
        path = Path(os.path.expanduser(rest))
        return _own(f"npz:{writable(path.stem)}", path, rest, *from_npz(path, image_size, say, progress))
    if prefix == "folder" and rest:
        path = Path(os.path.abspath(os.path.expanduser(rest)))
        read = from_folder(path, data_dir, image_size, say, progress)
        return _own(f"folder:{writable(path.name)}", path, rest, *read)
    if name == "digits":
        release = version("scikit-learn")
        key = f"digits-{content_id([FORMAT, release, image_size])}"
        folder = cache_dir() / "digits"
        copy = cached([folder], key, lambda allocate: convert(from_digits(), image_size), lambda text: None, name)
        return Opened(copy[0], name, copy[1], False, Provenance("scikit-learn's load_digits", release, official=True))
    if name in CATALOGUE or name == CINIC_WHOLE:
        return published(name, data_dir, image_size, progress, say)
    raise UserError(f"unknown dataset '{name}'{suggest(name, NAMES)} Choices: {', '.join(NAMES)}, npz:FILE, folder:DIR")


def _own(name: str, path: Path, given: str, arrays: Arrays, content: str) -> Opened:
    """A user's arrays under their published name if they have one, else under `name`.

    The prefix in `name` stays: a stem alone might claim to be CIFAR-10.
    """
    who = arrays.identity
    flips = CATALOGUE[who.name].flip_keeps_labels if who.name else True
    source = f"{name.partition(':')[0]}:{writable(path.name)}"
    origin = Provenance(source, f"sha256:{content}", who.official, who.like, who.checked, writable(given))
    return Opened(arrays, who.name or name, content, flips, origin)


def decoded_key(name: str) -> str:
    """The key of a published data set's decoded copy: another download is another copy."""
    return content_id([FORMAT, [file.checksum for file in CATALOGUE[name].files]])


def published(name: str, data_dir: Path, image_size: int | None, progress: Progress, say: Say) -> Opened:
    """A data set of the catalogue. A decoded copy needs neither the download nor a connection.

    Where neither is here, a copy that another program has left is used.

    Raises UserError if it cannot be fetched, or is not what was published.
    """
    base = name.partition(":")[0]
    known, key, facts = CATALOGUE[base], decoded_key(base), CATALOGUE[base].facts
    # beside the download, or in the user's cache if that is read-only
    folders = [data_dir / base / "decoded", cache_dir() / base / "decoded"]

    def at_size(key: str, native: Callable[[], Cached]) -> Cached:
        size = image_size or own_size(facts.size, facts.size)
        if size == facts.size and len(facts.mean) == 3:
            return native()

        def make(allocate: Allocate) -> Arrays:
            return remember(convert(native()[0], size, progress), allocate)

        return cached(folders, f"{key}-{size}px", make, say, f"{base} at {size} px")

    def downloaded() -> Cached:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError, ValueError):
                return opened(folder / key)
        paths = _fetched(base, data_dir, progress, say)
        return cached(folders, key, lambda allocate: _decoded(base, paths, allocate, progress), say, base)

    def copied(copy: Copy) -> Cached | None:
        try:
            make = partial(copy.arrays, progress=progress)
            return at_size(copy.key, partial(cached, folders, copy.key, make, say, str(copy.path)))
        except WrongContent as error:
            say(f"'{copy.path}' is not used as {base}: {error}")
            return None

    here = any((folder / key).is_dir() for folder in folders) or _all_here(base, data_dir)
    for copy in [] if here else find(base, places(data_dir, base)):
        if found := copied(copy):
            arrays, content = found
            who, source, checksum = arrays.identity, writable(copy.path.name), f"sha256:{content}"
            origin = Provenance(source, checksum, who.official, who.like, who.checked)
            break
    else:
        arrays, content = at_size(key, downloaded)
        checksums = " ".join(file.checksum for file in known.files)
        origin = Provenance(known.files[0].urls[0], checksums, official=True)
    if name == CINIC_WHOLE:
        arrays = replace(arrays, validation_from=None)
    return Opened(arrays, name, content, known.flip_keeps_labels, origin)


def _all_here(base: str, data_dir: Path) -> bool:
    """Whether every download of a published data set is in place."""
    return all(_place(file, base, data_dir) for file in CATALOGUE[base].files)


def _place(file: RemoteFile, base: str, data_dir: Path) -> Path | None:
    """The folder that has a published file by its name and size, of those where other programs put them."""
    here = (folder for folder in places(data_dir, base) if os.access(folder / file.name, os.R_OK))
    return next((folder for folder in here if os.path.getsize(folder / file.name) == file.size), None)


def _fetched(base: str, data_dir: Path, progress: Progress, say: Say) -> dict[str, Path]:
    """The verified files of a published data set. Raises UserError, and OSError for the disk."""
    known, folder = CATALOGUE[base], data_dir / base
    found = {file: _place(file, base, data_dir) or folder for file in known.files}
    missing = [file for file in known.files if not (found[file] / file.name).exists()]
    if missing:
        host = urlsplit(missing[0].urls[0]).netloc
        say(f"{base} is not in {folder}: fetching {sum(f.size for f in missing) / 1e6:,.0f} MB from {host}")
    for file, place in found.items():
        if place != folder and fault(file, place / file.name, progress):
            found[file] = folder  # of that name and size, but not that file
    return {
        file.name: fetch(file, place, progress, say) if place == folder else place / file.name
        for file, place in found.items()
    }


def _decoded(base: str, paths: dict[str, Path], allocate: Allocate, progress: Progress) -> Arrays:
    """The files' arrays, compared with what is published. Raises UserError."""
    known = CATALOGUE[base]
    try:
        arrays = known.decode(paths, known.facts, allocate, progress)
        check_facts(base, arrays, known.facts)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        used = ", ".join(f"{package} {version(package)}" for package in ("numpy", "pillow", "scipy"))
        raise UserError(
            f"{base} has the published checksum but cannot be read ({error}): please report this, with {used}"
        ) from None
    return arrays


def split(
    labels: NDArray[np.int64], train_fraction: float = 1.0, validation_from: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training and the validation part, both sorted; validation is a tenth of each class, at least one.

    But a class's only image is trained on: nothing could be validated of a class that was never seen.
    Each class is shuffled once with a fixed seed; validation takes the head, training the first `train_fraction`
    of the rest. So validation is the same for every fraction, and smaller training parts lie within larger ones.
    `validation_from`: where the publisher's own validation part starts, which is used whole instead.
    """
    train, val = [], []
    rng = np.random.default_rng(SPLIT_SEED)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels[:validation_from] == label))
        held_out = max(1, round(VALIDATION_SHARE * len(members))) if validation_from is None and len(members) > 1 else 0
        val.append(members[:held_out])
        rest = members[held_out:]
        train.append(rest[: max(1, round(train_fraction * len(rest)))])
    if validation_from is not None:
        val = [np.arange(validation_from, len(labels))]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def from_digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 gray resized to 32x32x3, with a fixed, stratified test part."""
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


@dataclass(frozen=True)
class DataSource:
    """How any process finds the data again: the arguments of `load`. `data_dir`: None is each machine's default."""

    name: str
    data_dir: Path | None
    image_size: int | None
    train_fraction: float

    def load(self, progress: Progress = silent, say: Say = lambda text: None) -> Dataset:
        """Raises UserError as `load` does."""
        data_dir = self.data_dir or default_data_dir()
        return load(self.name, data_dir, self.image_size, self.train_fraction, progress, say)


def default_data_dir() -> Path:
    """SEVIT_DATA, or the user's cache directory."""
    return Path(os.path.expanduser(os.environ.get("SEVIT_DATA") or cache_dir()))
