"""What models are and cost at several image sizes. Example: python run_bench.py cost 'cct_*' --image-size 32,64

A stem and the resolutions behind it are read off a forward pass, not off names: the table says what was built.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure.cost import Cost, count
from bench.measure.run import audit_notes, check_model
from models import registry
from models.registry import ModelError

# What a column is called, and how its cells stand in text: words to the left, figures to the right.
COLUMNS = {
    "model": "<24",
    "px": ">4",
    "stem": "<21",
    "resolutions": "<17",
    "parameters": ">12",
    "multiply-adds": ">15",
    "activations": ">13",
    "train_flops_2x": ">16",
    "audit": "<8",
}


@dataclass(frozen=True)
class Row:
    """A model at one image size; `stem` and `resolutions` as `layout` gives them."""

    model: str
    image_size: int
    stem: str
    resolutions: str
    cost: Cost


def write_table(names: list[str], num_classes: int, image_sizes: tuple[int, ...], style: str) -> None:
    """Print a row a model and size as soon as it is counted; what a reader of the count must know goes to stderr.

    `style`: text, markdown or csv. Raises ModelError for a model that cannot be built, tried or counted.
    """
    print(head(style))
    for name in names:
        for size in image_sizes:
            check_model(name, num_classes, size)
            row = make_row(name, num_classes, size)
            print(line(row, style), flush=True)
            for note in audit_notes(row.cost.audit):
                print(f"{name}, {size} px: {note}", file=sys.stderr)


def make_row(name: str, num_classes: int, image_size: int) -> Row:
    """Build, look and count. Raises ModelError."""
    model = registry.build(name, num_classes, image_size)
    try:
        return Row(name, image_size, *layout(model, image_size), count(model, image_size))
    except Exception as error:  # fvcore traces a stranger's model, and tracing may raise anything
        raise ModelError(f"the FLOPs of '{name}' cannot be counted: {type(error).__name__}: {error}") from error


# --- what a model is -----------------------------------------------------------------------------------------------


def layout(model: nn.Module, image_size: int) -> tuple[str, str]:
    """(stem, resolutions): what the first convolution or product does to the image, and at how many places it and all
    others put out features. Places of an image's windows count together; what works on one feature vector is left out.
    A product that makes weights out of coordinates, as MaxViT's position bias, reads as a resolution too.
    """
    calls: list[tuple[nn.Module, int]] = []

    def hear(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)  # (outputs, …) of either kind
        calls.append((module, output.numel() // module.weight.shape[0]))

    watched = copy.deepcopy(model).cpu().eval()  # hooks must not stay on a model that is about to be counted
    for module in watched.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hear)
    with torch.no_grad():
        watched(torch.zeros(1, 3, image_size, image_size))
    if not calls:
        return "–", "–"
    return stem_of(*calls[0], image_size), resolutions(places for _, places in calls)


def stem_of(first: nn.Module, places: int, image_size: int) -> str:
    """`3x3, stride 2` for a convolution, `patch 8` for one without overlap and for a product over cut-out patches.

    Channels are named where they are not the image's three: shifted copies of it, say.
    """
    if isinstance(first, nn.Conv2d):
        height, width = first.kernel_size
        if first.kernel_size == first.stride:
            return f"patch {height}"
        return f"{height}x{width}, stride {first.stride[0]}"
    assert isinstance(first, nn.Linear)
    patch = image_size // math.isqrt(places)
    channels = first.in_features // patch**2
    return f"patch {patch}" if channels == 3 else f"patch {patch}, {channels} channels"


def resolutions(places: Iterable[int]) -> str:
    """1024, 256, 1, 64 -> `32x32, 16x16, 8x8`; 64, 65 -> `8x8+1`, patches and a class token."""
    found = [n for n in dict.fromkeys(places) if n > 1]
    return ", ".join(_grid(n) for n in found if n + 1 not in found) or "1x1"


def _grid(places: int) -> str:
    for more, mark in ((0, ""), (1, "+1")):
        side = math.isqrt(places - more)
        if side**2 == places - more:
            return f"{side}x{side}{mark}"
    return str(places)


# --- lines ---------------------------------------------------------------------------------------------------------


def head(style: str) -> str:
    """The table's first line, in markdown the first two."""
    rule = "\n|" + "".join("---:|" if spec[0] == ">" else "---|" for spec in COLUMNS.values())
    return _join(COLUMNS, style) + (rule if style == "markdown" else "")


def line(row: Row, style: str) -> str:
    """One row; figures have thousands separators where people read them."""
    cost, mark = row.cost, "" if style == "csv" else ","
    name = f"`{row.model}`" if style == "markdown" else row.model
    figures = (cost.params, cost.flops, cost.activations, cost.train_flops_2x)
    shown = ("–" if figure is None else f"{figure:{mark}}" for figure in figures)
    return _join((name, str(row.image_size), row.stem, row.resolutions, *shown, cost.audit.verdict), style)


def _join(cells: Iterable[str], style: str) -> str:
    if style == "csv":
        file = io.StringIO()
        csv.writer(file, lineterminator="").writerow(cells)
        return file.getvalue()
    if style == "markdown":
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return "  ".join(f"{cell:{spec}}" for cell, spec in zip(cells, COLUMNS.values(), strict=True))
