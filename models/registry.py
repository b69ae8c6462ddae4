"""Names of models and how to build them. Example: build("vit_tiny", num_classes=10, image_size=32)

This module never imports torch, so that `list models` and a misspelt name answer at once; a builder is imported when it
is called. To add a model, write a function (num_classes, image_size) -> nn.Module and add a line to CATALOGUE. To use
one without changing this repository, name it as path/to/file.py:factory.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import ModelError, suggest
from models.files import sources_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CATALOGUE", "ModelError", "build", "expand_names", "family", "is_external", "source_hash", "suggest"]


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: builder, family (cnn, vit or hybrid) and description."""

    builder: str  # "module:function", imported only when the model is built
    family: str
    summary: str


CATALOGUE: dict[str, Entry] = {
    "seresnet": Entry("models.seresnet:seresnet56", "cnn", "SE-ResNet-56, the original project's model"),
    "seresnet20": Entry("models.seresnet:seresnet20", "cnn", "SE-ResNet-20"),
    "seresnet110": Entry("models.seresnet:seresnet110", "cnn", "SE-ResNet-110"),
    "resnet20": Entry("models.seresnet:resnet20", "cnn", "ResNet-20: seresnet20 without SE"),
    "resnet56": Entry("models.seresnet:resnet56", "cnn", "ResNet-56: seresnet without SE"),
    "resnet110": Entry("models.seresnet:resnet110", "cnn", "ResNet-110: seresnet110 without SE"),
    "vit_tiny": Entry("models.vit:vit_tiny", "vit", "timm ViT, dim 192, depth 12, 3 heads, 8x8 patches"),
    "vit_params": Entry("models.vit:vit_params", "vit", "timm ViT with SE-ResNet-56's parameters"),
    "vit_flops": Entry("models.vit:vit_flops", "vit", "timm ViT with SE-ResNet-56's FLOPs"),
    "simple_vit": Entry("models.vit:simple_vit", "vit", "vit-pytorch SimpleViT at vit_tiny's size"),
    "vit_lite": Entry("models.vit:vit_lite", "vit", "vit-pytorch ViT-Lite-7/4"),
    "vit_small_data": Entry("models.vit:vit_small_data", "vit", "vit-pytorch ViT with SPT and LSA"),
    "cct_2": Entry("models.vit:cct_2", "hybrid", "vit-pytorch CCT-2/3x2: convolutions, then attention"),
    "cct_7": Entry("models.vit:cct_7", "hybrid", "vit-pytorch CCT-7/3x1: convolutions, then attention"),
    "swin": Entry("models.vit:swin", "vit", "timm Swin, dim 96, depths 2-6-4, window 4"),
}


def split_names(text: str) -> list[str]:
    """Split on commas, so that `timm:vit[depth=2,num_heads=3],seresnet` is two names and `my,model.py:f` one.

    A comma stays where it stands in brackets, or in the name of a file that exists. Raises ModelError for an empty name
    and for brackets that do not close.
    """
    pieces, names = text.split(","), list[str]()
    while pieces:
        starts = [",".join(pieces[:count]).strip() for count in range(len(pieces), 0, -1)]
        name = next(filter(_names_a_file, starts), None) or next(filter(_closed, reversed(starts)), None)
        if name is None:
            raise ModelError(f"'{text}' opens a bracket that is not closed")
        if _open_brackets(name) < 0 and not _names_a_file(name):
            raise ModelError(f"'{text}' closes a bracket that was not opened")
        names.append(name)
        del pieces[: name.count(",") + 1]
    if "" in names:
        raise ModelError(f"'{text}' has an empty name between its commas")
    return names


def _names_a_file(name: str) -> bool:
    source, _, function = name.removeprefix("-").rpartition(":")
    return source.endswith(".py") and function.isidentifier() and os.path.isfile(os.path.expanduser(source))


def _closed(name: str) -> bool:
    return _open_brackets(name) <= 0


def _open_brackets(name: str) -> int:
    """How many brackets are open at the end; negative where one closes that was not opened."""
    depth = 0
    for character in name:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
    return depth


def is_external(name: str) -> bool:
    """True for timm:NAME, torchvision:NAME, package.module:factory and path/to/file.py:factory."""
    return ":" in name


def expand_names(text: str) -> list[str]:
    """Expand a --models argument: names, globs (`vit_*`) and exclusions (`-vit_lite`), in order, without repeats.

    External names pass unchecked: checking them needs torch. Raises ModelError for an unknown name.
    """
    chosen: list[str] = []
    excluded: set[str] = set()
    for part in split_names(text):
        name = part.removeprefix("-")
        if is_external(name):
            matches = [name]
        elif any(c in name for c in "*?["):
            matches = fnmatch.filter(CATALOGUE, name)
            if not matches:
                raise ModelError(f"no model matches '{name}' (run_bench.py list models)")
        elif name in CATALOGUE:
            matches = [name]
        else:
            raise ModelError(f"unknown model '{name}'{suggest(name, CATALOGUE)} (run_bench.py list models)")
        if part.startswith("-"):
            excluded.update(matches)
        else:
            chosen.extend(m for m in matches if m not in chosen)
    names = [name for name in chosen if name not in excluded]
    if not names:
        raise ModelError(f"'{text}' leaves no model: name what to include, then what to leave out as -NAME")
    return names


def source_hash(name: str) -> str:
    """SHA-256 of the files of an external factory, so that a changed model is a new run; "" for all other models.

    Its file and those of its folder that it imports, read without importing them. An installed package is identified by
    its version.
    """
    source, _, _ = name.rpartition(":")
    if not source or source in ("timm", "torchvision"):
        return ""
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources_of(source)]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest() if len(hashes) > 1 else "".join(hashes)


def family(name: str) -> str:
    """The family of a registered model (cnn, vit or hybrid), or 'external'."""
    return CATALOGUE[name].family if name in CATALOGUE else "external"


def build(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build a model that maps (B, 3, image_size, image_size) floats to (B, num_classes) logits.

    Raises ModelError for an unknown name, and whatever a factory raises for a shape that it does not support.
    """
    from models.tables import tables_to_buffers

    if is_external(name):
        from models.external import build_external

        return tables_to_buffers(build_external(name, num_classes, image_size))
    if name not in CATALOGUE:
        raise ModelError(f"unknown model '{name}'{suggest(name, CATALOGUE)} (run_bench.py list models)")
    module, _, function = CATALOGUE[name].builder.partition(":")
    return tables_to_buffers(getattr(importlib.import_module(module), function)(num_classes, image_size))
