"""Published figures, and where a run stands beside them. Example: held_against("resnet56", "cifar10", 8_192_000, 0.921)

`results/references.csv` has one row per model, data set and budget, with its source and the day it was last checked, or
`unverified`. A row names one of our models only where it is the same network. The band around a figure is ± 2 σ of
runs that differ in their seed, as published, else estimated; it includes all figures that a source gives. A run is
compared only with rows of as many samples, within 10 %: a shorter schedule is another question.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.core.stats import Interval

FILE = Path(__file__).resolve().parents[2] / "results" / "references.csv"
UNVERIFIED = "unverified"
VERDICTS = ("under-trained", "inside", "above")


@dataclass(frozen=True)
class Reference:
    """One published accuracy, in per cent as published; None where the source does not say."""

    source_model: str  # as published
    model: str  # ours, where it is the same network; else ""
    dataset: str
    accuracy_percent: float
    low_percent: float
    high_percent: float
    band: str  # where the band comes from
    params: int | None
    mult_adds: int | None
    counting: str  # what mult_adds counts
    passes: float | None  # epochs x repeated augmentation
    train_images: int | None
    samples_seen: int | None
    selected_on: str
    recipe: str
    source: str
    url: str
    checked: str  # a date, or UNVERIFIED


@dataclass(frozen=True)
class Held:
    """A run, or the mean of several, compared with a row: the verdict is one of VERDICTS."""

    reference: Reference
    accuracy_percent: float
    samples_seen: int
    train_fraction: float
    verdict: str


@cache
def load(path: Path = FILE) -> tuple[Reference, ...]:
    """Every row of the file; none where there is no file, as in a copy of the program without its results."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_reference(row) for row in csv.DictReader(file))


def _reference(row: dict[str, str]) -> Reference:
    def whole(name: str) -> int | None:
        return int(row[name]) if row[name] else None

    return Reference(
        source_model=row["source_model"],
        model=row["model"],
        dataset=row["dataset"],
        accuracy_percent=float(row["accuracy_percent"]),
        low_percent=float(row["low_percent"]),
        high_percent=float(row["high_percent"]),
        band=row["band"],
        params=whole("params"),
        mult_adds=whole("mult_adds"),
        counting=row["counting"],
        passes=float(row["passes"]) if row["passes"] else None,
        train_images=whole("train_images"),
        samples_seen=whole("samples_seen"),
        selected_on=row["selected_on"],
        recipe=row["recipe"],
        source=row["source"],
        url=row["url"],
        checked=row["checked"],
    )


def held_against(
    model: str,
    dataset: str,
    samples_seen: int,
    accuracy: Interval | float,
    train_fraction: float = 1.0,
    rows: Sequence[Reference] | None = None,
) -> list[Held]:
    """The run against every row of the same model and data set with as many samples seen, within 10 %.

    `accuracy` is a share in 0..1, as in a record. Of an interval only the middle counts: the band already covers what
    other seeds or images may change.
    """
    percent = 100 * (accuracy.value if isinstance(accuracy, Interval) else accuracy)
    held = []
    for row in load() if rows is None else rows:
        if not row.model or (row.model, row.dataset) != (model, dataset) or row.samples_seen is None:
            continue
        if 10 * abs(samples_seen - row.samples_seen) > row.samples_seen:
            continue
        # rounded like the file's figures, so that rounding decides nothing
        verdict = VERDICTS[(round(percent, 2) >= row.low_percent) + (round(percent, 2) > row.high_percent)]
        held.append(Held(row, percent, samples_seen, train_fraction, verdict))
    return held


def sentence(held: Sequence[Held]) -> str:
    """One sentence about one model, for a table's notes; "" where no row fits.

    resnet56: 92.10 % is under-trained against 93.03 % published (He et al. 2016), for as many samples seen.
    """
    if not held:
        return ""
    words = {"under-trained": "under-trained against", "inside": "within the band of", "above": "above"}
    parts = []
    for verdict in VERDICTS:
        if figures := [_figure(h.reference) for h in held if h.verdict == verdict]:
            parts.append(f"{words[verdict]} {' and '.join(figures)}")
    first = held[0]
    part = "" if first.train_fraction >= 1 else f", from {100 * first.train_fraction:.3g} % of the training images"
    start = f"{first.reference.model}: {first.accuracy_percent:.2f} % is {', '.join(parts)}"
    return f"{start}, for as many samples seen{part} (results/references.csv)."


def _figure(row: Reference) -> str:
    remarks = [row.source]
    if row.selected_on == "best on test":
        remarks.append("best epoch on test")
    if row.checked == UNVERIFIED:
        remarks.append(UNVERIFIED)
    return f"{row.accuracy_percent:.2f} % published ({', '.join(remarks)})"
