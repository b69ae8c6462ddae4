"""Which published data set arrays from elsewhere are, if any. Example: identify(arrays)

Many copies of CIFAR-10 went through JPEG, which costs a model two or three points; no table may call them CIFAR-10.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.data.arrays import Arrays, Identity, class_counts, content_hash
from bench.data.catalogue import CATALOGUE

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Known:
    """Published content by SHA-256. Files are records of label and planes, as in CIFAR-10's binary version."""

    train: tuple[str, ...]  # of the training files, of equal size
    train_in_any_order: str  # of the sorted SHA-256 of each training record
    test: str  # of the test file
    test_labels: str
    copies: dict[str, str]  # SHA-256 of other test images' pixels -> how they differ from the official ones


# As a Ruby port of torchvision pins the files (ankane/torchvision-ruby); the training part was verified against images
# that match the published files bit for bit (LOG.md).
CIFAR10 = Known(
    train=(
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    ),
    train_in_any_order="55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260",
    test="8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    test_labels="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    copies={
        "1249626010949d8f448e0faf792debbc3da0c50ed31bfff3678c99c37fbc7e48": "20 of the 10,000 test images are "
        "restored from a JPEG copy and differ slightly from the official ones (at most 0.2 points of accuracy)"
    },
)


def identify(arrays: Arrays) -> Identity:
    """Whose images these are, by their checksums; a note where only the numbers match."""
    alike = next((name for name in CATALOGUE if _as_many(arrays, name)), None)
    if alike is None:
        return Identity()
    if alike == "cifar10":
        return _as_cifar10(arrays, CIFAR10)
    pinned = CATALOGUE[alike].facts.content
    if pinned and content_hash(arrays) == pinned:
        return Identity(alike, True)
    if pinned:
        return Identity(like=alike, notes=(f"as many images of each class and size as {alike}, but different images",))
    remedy = f"--dataset {alike} fetches those that are"
    note = f"as many images of each class and size as {alike}, not verified to be the official ones ({remedy})"
    return Identity(like=alike, checked=False, notes=(note,))


def _as_many(arrays: Arrays, name: str) -> bool:
    """Whether both parts have the published size and, in any order of the classes, the published counts."""
    facts = CATALOGUE[name].facts
    if arrays.train_x.shape[1:3] != (facts.size, facts.size) or len(arrays.classes) != facts.classes:
        return False
    return [sorted(counts) for counts in class_counts(arrays)] == [sorted(counts) for counts in facts.counts()]


def _as_cifar10(arrays: Arrays, known: Known) -> Identity:
    """The numbers are CIFAR-10's: are the images?"""
    train = _records(arrays.train_x, arrays.train_y)
    length = len(train) // len(known.train)
    files = tuple(_sha(train[start : start + length]) for start in range(0, len(train), length))
    if files == known.train and _sha(arrays.test_y.astype(np.uint8)) == known.test_labels:
        if _sha(_records(arrays.test_x, arrays.test_y)) == known.test:
            return Identity("cifar10", True)
        difference = known.copies.get(_sha(arrays.test_x), "the test images are not the official ones")
        return Identity("cifar10", notes=(difference,))
    if files == known.train:
        return Identity(like="cifar10", notes=("cifar10's training images, with other test images or labels",))
    if _unordered(train) == known.train_in_any_order:
        note = "cifar10's own training images, in another order; the test images are not verified"
        return Identity(like="cifar10", checked=False, notes=(note,))
    note = (
        "as many images of each class and size as cifar10, but not its official content: copies through JPEG cost a "
        "model 2 to 3 points, so these are not figures for CIFAR-10 (--dataset cifar10 fetches it)"
    )
    return Identity(like="cifar10", notes=(note,))


def _records(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(N, 1 + 3 S S): label, then the red, the green and the blue plane."""
    colours = images if images.ndim == 4 else images[..., None]
    planes = colours.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1)


def _sha(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _unordered(records: NDArray[np.uint8]) -> str:
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(record).digest() for record in records))).hexdigest()
