"""What there is to choose from. Example: python run_bench.py list models"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from bench.cli.requests import ListRequest
from bench.plan import recipes
from bench.plan.presets import PRESETS, Preset
from bench.plan.settings import SUMMARIES
from bench.present.grid import wrap
from models import registry

LEAST_WIDTH = 80
OWN_DATA = [
    ("npz:FILE", "train_x, train_y, test_x, test_y[, classes]: uint8 images, integer labels"),
    ("folder:DIR", "train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files"),
]
OWN_MODELS = [
    ("timm:NAME[k=v,…]", "external", "any classifier of timm"),
    ("torchvision:NAME", "external", "any classifier of torchvision"),
    ("FILE.py:FUNCTION", "external", "your function (num_classes, image_size) -> nn.Module; runs the file"),
    ("MODULE:FUNCTION", "external", "the same, from an importable module"),
]


def show(request: ListRequest) -> int:
    """Print the choices; returns the exit code."""
    print("\n".join(lines(ROWS[request.what](), terminal_width())))
    return 0


def models() -> Sequence[Sequence[str]]:
    """Name, family and summary of each model."""
    return [*((name, entry.family, entry.summary) for name, entry in registry.CATALOGUE.items()), *OWN_MODELS]


def datasets() -> Sequence[Sequence[str]]:
    """Name and summary of each data set."""
    from bench.data.catalogue import CATALOGUE
    from bench.data.datasets import DIGITS_SUMMARY

    return [("digits", DIGITS_SUMMARY), *((name, known.summary) for name, known in CATALOGUE.items()), *OWN_DATA]


def recipe_rows() -> Sequence[Sequence[str]]:
    """Name and docstring of each recipe."""
    named = ((name, " ".join((recipe.__doc__ or "").split())) for name, recipe in recipes.RECIPES.items())
    return [*named, ("FILE.toml", 'yours: base = "shared", then what differs')]


def presets() -> Sequence[Sequence[str]]:
    """Name, content and cost of each preset."""
    return [
        (name, f"{content_of(preset)}. Cost: {preset.cost}{preset.h100 and f'; on an H100 {preset.h100}'}")
        for name, preset in PRESETS.items()
    ]


def content_of(preset: Preset) -> str:
    """`digits, recipe smoke, seeds 0`."""
    epochs = f", {preset.epochs} epochs" if preset.epochs else ""
    return f"{preset.dataset}, recipe {preset.recipe}, seeds {preset.seeds}{epochs}"


ROWS = {
    "models": models,
    "datasets": datasets,
    "settings": lambda: list(SUMMARIES.items()),
    "recipes": recipe_rows,
    "presets": presets,
}


def lines(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Rows as columns; the last column is wrapped at words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    text = ["  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return [wrap(line, width, " " * (sum(widths) + 2 * len(widths))) for line in text]


def terminal_width() -> int:
    """The terminal's width, or 80 where there is none, or less."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns)
