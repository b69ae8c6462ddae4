"""What all builders of charts share: names, numbers as words, captions. Example: percent(0.5679) == "56.79 %" """

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.stats import Interval
from bench.present.charts.model import LONGEST_NAME, Axis, Look, short
from bench.present.session_table import significant

LONGEST_LINE = 60  # characters of a name on a line of its own


@dataclass(frozen=True)
class Common:
    """The same for every chart of a call: a look and a name for each model, and the command that draws them again."""

    looks: Mapping[str, Look]
    names: Mapping[str, str]  # at most LONGEST_NAME long, and no two the same
    command: str

    def of(self, models: Iterable[str]) -> dict[str, Look]:
        """The looks of these models."""
        return {model: self.looks[model] for model in models}

    def whole(self, models: Iterable[str]) -> str:
        """A sentence with the whole names of those that a chart shortens; nothing where it shortens none."""
        cut = [f"{self.names[m]} is {m}" for m in dict.fromkeys(models) if self.names[m] != m]
        return f"Names in full: {'; '.join(cut)}." if cut else ""


def names_of(models: Iterable[str]) -> dict[str, str]:
    """A name to show for each model; those that look the same once shortened get a number."""
    shown: dict[str, str] = {}
    for model in sorted(models):
        name, n = short(model), 1
        while name in shown.values():
            n += 1
            name = f"{short(model, LONGEST_NAME - len(str(n)) - 3)} ({n})"
        shown[model] = name
    return shown


def told(model: str) -> str:
    """A model's name where there is a line for it."""
    return short(model, LONGEST_LINE)


def free(stem: str, taken: Collection[str]) -> str:
    """The stem, with a number where it is taken: charts of two devices have the same one."""
    return next(name for n in range(1, 1_000_000) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)


def caption(*sentences: str) -> str:
    """Sentences as one text, those that do not apply left out."""
    return " ".join(sentence for sentence in sentences if sentence)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, what: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def spread(numbers: Collection[int], what: str) -> str:
    """`3 runs`, or `1 to 5 runs` where they differ."""
    low, high = min(numbers), max(numbers)
    return counted(low, what) if low == high else f"{low:,} to {high:,} {what}s"


def percent(share: float) -> str:
    """0.5679 -> `56.79 %`."""
    return f"{100 * share:.2f} %"


def percent_with(interval: Interval, what: str) -> str:
    """`56.79 % (55.82 to 57.76, other test images)`; without the bracket where there are no ends."""
    if not math.isfinite(interval.low):
        return percent(interval.value)
    return f"{percent(interval.value)} ({100 * interval.low:.2f} to {100 * interval.high:.2f}, {what})"


def with_quartiles(value: Interval, unit: str, of: str) -> str:
    """`92.4 images/s (quartiles 91.8 to 93.0 of 24 blocks)`."""
    ends = f" (quartiles {significant(value.low)} to {significant(value.high)} of {counted(value.n, of)})"
    return f"{significant(value.value)} {unit}{ends}"


def wide(values: Sequence[float]) -> bool:
    """Whether an axis for these had better be logarithmic: they span a decade, and all are above 0."""
    return bool(values) and max(values) >= 10 * min(values) > 0


def axis_of(title: str, values: Sequence[float]) -> Axis:
    """An axis for these values, logarithmic where they span a decade."""
    return Axis(title, log=wide(values))


def percent_of(share: float) -> str:
    """0.404 -> `40 %`."""
    return f"{100 * share:.0f} %"
