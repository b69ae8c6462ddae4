"""What a reader must know of where a run's images came from. Example: content_words("cifar10", record["provenance"])"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# CINIC-10 is CIFAR-10's 60,000 images, spread over its three parts, and 210,000 of ImageNet (Darlow et al. 2018).
CINIC_OVERLAP = (
    "cinic10 contains all images of cifar10, its test images among them, some as training images: a model that was "
    "trained on the one has seen part of the other's test set, and the two are no independent evidence."
)


def content_words(name: str, origin: dict[str, Any] | None) -> str:
    """What stands beside a data set's name in every table where its content is not the official one; else nothing.

    `origin`: a record's provenance. Records of before there was any say nothing here; their notes do.
    """
    if origin is None or origin["official"]:
        return ""
    if origin["like"]:
        return f"not {origin['like']}'s official content" if origin["checked"] else f"not verified as {origin['like']}"
    return "" if ":" in name else "not the official content"


def overlap(name: str, others: Iterable[str]) -> tuple[str, ...]:
    """A warning where this data set shares images with one of the others; else nothing.

    Names may stand beside their content words, so that a copy of CIFAR-10 counts as CIFAR-10.
    """
    mine, theirs = _bases(name), set[str]().union(*map(_bases, others))
    both = {"cinic10", "cifar10"}
    return (CINIC_OVERLAP,) if mine & both and both <= theirs else ()


def _bases(words: str) -> set[str]:
    return {base for base in ("cinic10", "cifar10") if re.search(rf"\b{base}\b", words)}
