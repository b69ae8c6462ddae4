"""Copies of published data sets as other programs left them. Example: find("cifar10", [Path("data")])

Torchvision's archives and folders of CIFAR, unpacked archives of Tiny-ImageNet and CINIC-10: read where they lie, into
the same arrays as the downloads', and held against what is published.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.core.files import state_of
from bench.core.text import writable
from bench.data.arrays import Arrays, Facts, Identity, WrongContent, check_facts
from bench.data.catalogue import CATALOGUE
from bench.data.decode import Allocate, Decoder, cifar_members, cinic10, tiny_imagenet
from bench.data.fetch import Progress
from bench.data.identity import identify
from bench.data.pickles import labels, pixels, plain
from bench.plan.spec import content_id

# Of the files of CIFAR-100's Python version; torchvision and others pin them.
CIFAR100_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


@dataclass(frozen=True)
class _Python:
    """The names in CIFAR's Python version: its files, the test file and the one with the classes last, and its keys."""

    files: tuple[str, ...]
    labels: str
    classes: str
    md5: dict[str, str]


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = _Python((*BATCHES, "test_batch", "batches.meta"), "labels", "label_names", {})
CIFAR100 = _Python(("train", "test", "meta"), "fine_labels", "fine_label_names", CIFAR100_MD5)


def cifar_python(of: _Python, paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """CIFAR's Python version, as an archive or unpacked: rows of 3 x 32 x 32 pixels. No pickle is run."""
    (path,) = paths.values()
    contents = cifar_members(path, of.files)
    *train, test, names = of.files
    side, parts = facts.size, {}
    for part, chosen, count in (("train", train, facts.train), ("test", [test], facts.test)):
        batches = [plain(contents[name]) for name in chosen]
        rows = np.concatenate([pixels(batch.get("data")) for batch in batches])
        numbers = np.concatenate([labels(batch.get(of.labels), facts.classes) for batch in batches])
        if rows.shape != (count, 3 * side * side) or len(numbers) != count:
            raise WrongContent(f"{path.name} has {len(rows):,} {part} images, not {count:,}")
        images = allocate(f"{part}_x", (count, side, side, 3))
        images[:] = rows.reshape(count, 3, side, side).transpose(0, 2, 3, 1)
        parts[part] = (images, numbers)
    classes = plain(contents[names]).get(of.classes)
    if not isinstance(classes, list) or not all(isinstance(name, bytes) for name in classes):
        raise WrongContent(f"{path.name} names no classes")
    made = Arrays(*parts["train"], *parts["test"], tuple(name.decode() for name in classes))
    digests = {name: hashlib.md5(contents[name], usedforsecurity=False).hexdigest() for name in of.md5}
    return replace(made, identity=Identity(official=bool(of.md5) and digests == of.md5))


# Data set -> (archive or folder, a file or folder in it, how to read it)
LAYOUTS: dict[str, tuple[tuple[str, str, Decoder], ...]] = {
    "cifar10": (
        ("cifar-10-batches-py", "test_batch", partial(cifar_python, CIFAR10)),
        ("cifar-10-python.tar.gz", "", partial(cifar_python, CIFAR10)),
    ),
    "cifar100": (
        ("cifar-100-python", "test", partial(cifar_python, CIFAR100)),
        ("cifar-100-python.tar.gz", "", partial(cifar_python, CIFAR100)),
    ),
    "tiny_imagenet": (("tiny-imagenet-200", "wnids.txt", tiny_imagenet),),
    "cinic10": (("CINIC-10", "valid", cinic10), ("cinic-10", "valid", cinic10)),
}


@dataclass(frozen=True)
class Copy:
    """A copy of the data set `name` in one of its LAYOUTS."""

    name: str
    path: Path
    decode: Decoder

    @property
    def key(self) -> str:
        """Of its decoded copy: another one after the file or folder was exchanged."""
        return content_id([self.name, os.fsencode(self.path.absolute()).hex(), state_of(self.path)])

    def arrays(self, allocate: Allocate, progress: Progress) -> Arrays:
        """Its arrays, and in their `identity` how far they are known to be the official ones.

        Raises WrongContent where they are not what is published.
        """
        facts = CATALOGUE[self.name].facts
        try:
            arrays = self.decode({self.path.name: self.path}, facts, allocate, progress)
        except (OSError, EOFError, ValueError) as error:  # a ValueError is WrongContent, too
            raise WrongContent(str(error)) from None
        check_facts(self.name, arrays, facts)
        identity = Identity(self.name, official=True) if arrays.identity.official else identify(arrays)
        if identity.checked and not identity.name:
            raise WrongContent("; ".join(identity.notes))
        if not identity.official and not identity.name:
            where = writable(self.path.name)
            note = f"{self.name} from {where}: counts and channel figures are the published ones, pixels not verified"
            identity = Identity(like=self.name, checked=False, notes=(note,))
        return replace(arrays, identity=identity, notes=(*identity.notes, *arrays.notes))


def find(name: str, folders: Sequence[Path]) -> list[Copy]:
    """The copies of a published data set in these folders, the most likely first."""
    return [
        Copy(name, folder / entry, decode)
        for folder in folders
        for entry, inside, decode in LAYOUTS.get(name, ())
        # os.path, unlike pathlib, raises nothing for a folder of somebody else's
        if (os.path.exists(folder / entry / inside) if inside else os.path.isfile(folder / entry))
    ]


def places(data_dir: Path, name: str) -> list[Path]:
    """Where copies and downloads are looked for: the data directory, and torchvision's usual one."""
    return list(dict.fromkeys([data_dir / name, data_dir, Path("data"), Path("data") / name]))
