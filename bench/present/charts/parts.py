"""What all chart builders share: names, numbers as text, captions. Example: percent(0.5679) == "56.79 %" """

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.conditions import Conditions, titled
from bench.core.stats import Interval
from bench.core.text import plural, significant
from bench.present.charts.model import LONGEST_NAME, Axis, Chart, Look, Series, short

LONGEST_LINE = 60  # characters of a name on a line of its own


@dataclass(frozen=True)
class Common:
    """The same for every chart of a call: a look and a name for each model, and the command that draws them again."""

    looks: Mapping[str, Look]
    names: Mapping[str, str]  # at most LONGEST_NAME long, and no two the same
    command: str

    def looks_for(self, models: Iterable[str]) -> dict[str, Look]:
        """The looks of these models."""
        return {model: self.looks[model] for model in models}

    def names_in_full(self, models: Iterable[str]) -> str:
        """A sentence with the full names of those that a chart shortens; nothing where it shortens none."""
        cut = [f"{self.names[m]} is {m}" for m in dict.fromkeys(models) if self.names[m] != m]
        return f"Names in full: {'; '.join(cut)}." if cut else ""


@dataclass(frozen=True)
class Scope:
    """What all charts of one comparison or session share."""

    common: Common
    prefix: str  # the names of their files begin with it
    subject: str
    facets: Mapping[str, str]
    differs: Sequence[str] = ()  # what tells it from the others, for the titles


@dataclass(frozen=True)
class Draft:
    """One chart without what it shares with the others of its scope."""

    key: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    sentences: tuple[str, ...]  # of the caption; empty ones do not apply
    models: tuple[str, ...]
    position: str = ""  # of a switch
    stacked: bool = False
    hollow: str = ""  # as of Chart


def finish(draft: Draft, scope: Scope) -> Chart:
    """The chart: with its caption, its file's name, its looks and the command that draws it."""
    common = scope.common
    return Chart(
        key=draft.key,
        stem="-".join(filter(None, (scope.prefix, draft.key, draft.position))),
        title=titled(draft.title, scope.differs),
        x=draft.x,
        y=draft.y,
        series=draft.series,
        caption=caption(*draft.sentences, common.names_in_full(draft.models), f"{scope.subject}."),
        looks=common.looks_for(draft.models),
        subject=scope.subject,
        facets=scope.facets,
        command=common.command,
        switch=draft.key if draft.position else "",
        position=draft.position,
        stacked=draft.stacked,
        hollow=draft.hollow,
    )


def facets_of(conditions: Conditions) -> dict[str, str]:
    """The filters of a page that a chart under these conditions falls under."""
    facets = {
        "dataset": conditions.dataset,
        "device": conditions.device_name,
        "recipe": conditions.recipe,
        "track": conditions.track,
    }
    return {facet: value for facet, value in facets.items() if value}


# --- names -----------------------------------------------------------------------------------------------------------


def names_of(models: Iterable[str], most: int = LONGEST_NAME) -> dict[str, str]:
    """A name of at most `most` characters for each model; those that look the same once shortened get a number."""
    names: dict[str, str] = {}
    for model in sorted(models):
        name, n = short(model, most), 1
        while name in names.values():
            n += 1
            name = f"{short(model, most - len(str(n)) - 3)} ({n})"
        names[model] = name
    return names


def one_line(model: str) -> str:
    """A model's name for a line of its own."""
    return short(model, LONGEST_LINE)


def unused(stem: str, taken: Collection[str]) -> str:
    """The stem, with a number where it is taken: charts of two devices have the same one."""
    return next(name for n in range(1, 1_000_000) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)


# --- numbers and sentences -------------------------------------------------------------------------------------------


def caption(*sentences: str) -> str:
    """Sentences as one text, those that do not apply left out."""
    return " ".join(sentence for sentence in sentences if sentence)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def spread(numbers: Collection[int], noun: str) -> str:
    """`3 runs`, or `1 to 5 runs` where they differ."""
    low, high = min(numbers), max(numbers)
    return plural(low, noun) if low == high else f"{low:,} to {plural(high, noun)}"


def percent(share: float) -> str:
    """0.5679 -> `56.79 %`."""
    return f"{100 * share:.2f} %"


def whole_percent(share: float) -> str:
    """0.404 -> `40 %`."""
    return f"{100 * share:.0f} %"


def percent_with(interval: Interval, scope: str) -> str:
    """`56.79 % (55.82 to 57.76, other test images)`; without the bracket where there are no ends."""
    if not math.isfinite(interval.low):
        return percent(interval.value)
    return f"{percent(interval.value)} ({100 * interval.low:.2f} to {100 * interval.high:.2f}, {scope})"


def with_quartiles(value: Interval, unit: str) -> str:
    """`92.4 images/s (quartiles 91.8 to 93.0 of 24 blocks)`."""
    ends = f" (quartiles {significant(value.low)} to {significant(value.high)} of {plural(value.n, 'block')})"
    return f"{significant(value.value)} {unit}{ends}"


def axis_of(title: str, values: Sequence[float]) -> Axis:
    """An axis for these values, logarithmic where all are above 0 and they span a decade."""
    return Axis(title, log=bool(values) and max(values) >= 10 * min(values) > 0)
