"""What a reader must know about where a run's images came from. Example: content_words("cifar10", run.provenance)"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.plan.spec import Provenance

# CINIC-10 holds CIFAR-10's 60,000 images, spread over its three parts, and 210,000 of ImageNet (Darlow et al. 2018).
CINIC_OVERLAP = (
    "cinic10 contains all images of cifar10, including its test images, some of them as training images: a model "
    "trained on one has seen part of the other's test set, so the two are not independent evidence."
)


def content_words(name: str, origin: Provenance | None) -> str:
    """Words for every table, beside the name of a data set whose content is not the official one; else "".

    `origin` is None in old records, whose notes say it instead.
    """
    if origin is None or origin.official:
        return ""
    if origin.like:
        return f"not {origin.like}'s official content" if origin.checked else f"not verified as {origin.like}"
    return "" if ":" in name else "not the official content"


def overlap(name: str, others: Iterable[str]) -> tuple[str, ...]:
    """A warning if this data set shares images with one of the others.

    Names may include their content words, so that a copy of CIFAR-10 counts as CIFAR-10.
    """
    both = {"cinic10", "cifar10"}
    return (CINIC_OVERLAP,) if _bases(name) and both <= set[str]().union(*map(_bases, others)) else ()


def _bases(name: str) -> set[str]:
    return {base for base in ("cinic10", "cifar10") if re.search(rf"\b{base}\b", name)}
