"""Data set, recipe, seeds and budget in one word. Example: python run_bench.py --preset smoke"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.core.errors import UserError


@dataclass(frozen=True)
class Preset:
    """The costs say what seresnet and vit_tiny take on a machine, and whether that was measured."""

    dataset: str
    recipe: str
    seeds: str
    cost: str = ""  # on two CPU cores
    epochs: int | None = None  # None: the recipe's
    h100: str = ""  # on an H100


CORES = "on 2 CPU cores (AMD EPYC, AVX2)"
# Setting graphed: 20 epochs trained for 54.1 s (seresnet) and 44.7 s (vit_tiny); from one run's start to the next 74.4
# and 66.0 s, in all 140 s, so about 20 s a run are not training. Extrapolated from that: quick, 10 epochs and 2 runs,
# 98.8 s * 10 / 20 + 2 * 20 s = 89 s; full, 50 epochs and 6 runs, 98.8 s * 50 / 20 * 3 + 6 * 20 s = 861 s.
# Compiling and the timing pass come on top; seeds trained together take less.
H100 = "extrapolated: 20 epochs of both took 140 s, measured under setting graphed, without compiling and a timing pass"
PRESETS: dict[str, Preset] = {
    "smoke": Preset("digits", "smoke", "0", f"about 5 min {CORES}, measured"),
    "quick": Preset("cifar10", "shared", "0", f"about 4 h {CORES}, extrapolated", 10, f"about 1.5 min, {H100}"),
    "full": Preset("cifar10", "shared", "0-2", f"about 63 h {CORES}, extrapolated", h100=f"about 14 min, {H100}"),
}


def parse_seeds(text: str) -> list[int]:
    """`0,2` or `0-4` or both, a thousand at most. Raises UserError."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first) > 9 or len(last) > 9:
            raise UserError(f"--seeds '{text}': write whole numbers by commas, or a range such as 0-4")
        chosen = range(int(first), int(last or first) + 1)
        if len(chosen) + len(seeds) > 1000:
            raise UserError(f"--seeds '{text}' are more than 1,000")
        seeds.extend(chosen)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds '{text}' is empty or names a seed twice")
    return seeds


def parse_batch_sizes(text: str, flag: str = "--batch-sizes") -> tuple[int, ...]:
    """`1,32,128` in ascending order, each once. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 7 and int(part) for part in parts):
        raise UserError(f"{flag} '{text}': write whole numbers from 1 to 999,999 by commas, such as 1,32,128")
    return tuple(sorted({int(part) for part in parts}))


def parse_image_sizes(text: str) -> tuple[int, ...]:
    """`32` or `32,64` in the order given, each once. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 7 and 1 <= int(part) <= 100_000 for part in parts):
        raise UserError(f"--image-size '{text}': write pixels by commas, such as 32,64: at least 1, at most 100,000")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_duration(text: str, flag: str) -> float:
    """`90`, `90s`, `30min`, `2h` as seconds. Raises UserError."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = {"": 1, "s": 1, "min": 60, "h": 3600}.get(text[len(number) :].strip())
    try:
        seconds = float(number) * (unit or math.nan)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e9:
        raise UserError(f"{flag} '{text}': write a time above 0 such as 90 (seconds), 30min or 2h")
    return seconds


def default_preset(has_cuda: bool) -> str:
    """`smoke` needs no GPU and no data set; with a GPU the comparison is on CIFAR-10 at once."""
    return "quick" if has_cuda else "smoke"


def check_image_size(pixels: int | None) -> None:
    """Raise UserError for a size that no image here should have; None is the data set's own."""
    if pixels is not None and not 8 <= pixels <= 1024:
        raise UserError(f"--image-size must be between 8 and 1024, not {pixels}")
