"""Data set, recipe, seeds and budget in one word. Example: python run_bench.py --preset smoke"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """`cost` says what seresnet and vit_tiny take, and on which machine that was measured."""

    dataset: str
    recipe: str
    seeds: str
    cost: str
    epochs: int | None = None  # None: the recipe's
    train_fraction: float = 1.0


PRESETS: dict[str, Preset] = {
    "smoke": Preset("digits", "smoke", "0", "SMOKE_COST"),
    "quick": Preset("cifar10", "shared", "0", "QUICK_COST", epochs=10),
    "full": Preset("cifar10", "shared", "0-2", "FULL_COST"),
}


def default_preset(has_cuda: bool) -> str:
    """`smoke` needs no GPU and no data set; with a GPU the comparison is on CIFAR-10 at once."""
    return "quick" if has_cuda else "smoke"
