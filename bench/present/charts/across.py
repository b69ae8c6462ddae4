"""Charts across comparisons: accuracy against data, differences of pairs. Example: data_efficiency(comparisons, common)

A chart here is of several comparisons: one question asked with ever more training images, or pairs in both tracks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.compare import Pair
from bench.analysis.conditions import Conditions, differing, in_words, titled
from bench.analysis.crossed import Difference
from bench.analysis.tables import Comparison, Row
from bench.analysis.verdicts import points
from bench.core.text import plural
from bench.plan.keys import REFERENCE
from bench.plan.spec import slug
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import (
    Common,
    Draft,
    Scope,
    caption,
    facets_of,
    finish,
    listed,
    names_of,
    one_line,
    percent_with,
    spread,
    unused,
)
from bench.present.pair_table import title_of, verdict_text

TRACK_SHADES = {"": 0, "shared": 2, "family": 1}  # of COLOURS
MOST_PAIRS = 30
SIDE_LENGTH = 20  # characters of each name of a pair


def stem_of(conditions: Conditions, recipe: str = "") -> str:
    """How the names of files of these conditions begin; `recipe` where it is not that of all."""
    if not recipe:
        recipe = f"track {conditions.track}" if conditions.track else conditions.recipe
    budget = re.sub(" epochs?$", "ep", conditions.budget)
    return "-".join(slug(part) for part in (conditions.dataset, recipe, budget))


# --- accuracy against the number of training images ------------------------------------------------------------------


def data_efficiency(comparisons: Sequence[Comparison], common: Common) -> list[Chart]:
    """Test accuracy against the number of training images, for every question that was asked with several."""
    charts, taken = list[Chart](), set[str]()
    groups = by_data(comparisons)
    words = differing([{**in_words(_conditions(group[0])), "training": ""} for group in groups])
    for group, differs in zip(groups, words, strict=True):
        prefix = unused(stem_of(_conditions(group[0])), taken)
        taken.add(prefix)
        charts.append(_data_efficiency(group, common, prefix, differs))
    return charts


def by_data(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons that differ in nothing but the number of training images, two numbers or more each."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.rows:
            groups.setdefault(comparison.question, []).append(comparison)
    return [group for group in groups.values() if len({_conditions(c).train_images for c in group}) > 1]


def _conditions(comparison: Comparison) -> Conditions:
    assert comparison.conditions is not None  # of a comparison with rows
    return comparison.conditions


def _data_efficiency(group: Sequence[Comparison], common: Common, prefix: str, differs: Sequence[str]) -> Chart:
    conditions = _conditions(group[0])
    models = tuple(sorted({row.model for comparison in group for row in comparison.rows}))
    rows = [row for comparison in group for row in comparison.rows]
    sizes = sorted({float(_conditions(comparison).train_images) for comparison in group})
    ends = []
    if any(row.runs > 1 for row in rows):
        ends.append("a 95 % t-interval over seeds on this test set")
    if any(row.runs == 1 for row in rows):
        ends.append("for single runs Wilson's 95 % interval for other test images")
    draft = Draft(
        key="data_efficiency",
        title="Accuracy against training images",
        x=Axis("training images", log=True, ticks=tuple(sizes)),
        y=Axis("test accuracy and 95 % interval, %"),
        series=tuple(Series(model, "line", _by_size(model, group, common)) for model in models),
        sentences=(
            f"Test accuracy of {plural(len(models), 'model')} trained on more and more images, "
            f"{spread([row.runs for row in rows], 'run')} each; the ends are {listed(ends)}.",
        ),
        models=models,
    )
    return finish(draft, Scope(common, prefix, _sizes_title(conditions, sizes), facets_of(conditions), differs))


def _sizes_title(conditions: Conditions, sizes: Sequence[float]) -> str:
    """The conditions in one line, with the range of training images."""
    data = f"{conditions.dataset} ({conditions.content})" if conditions.content else conditions.dataset
    track = f"track {conditions.track}, " if conditions.track else ""
    threads = f", {plural(conditions.threads, 'thread')}" if conditions.threads else ""
    recipe = f"{track}recipe {conditions.recipe}, {conditions.budget_words}, batch {conditions.batch_size}"
    return (
        f"{data} with {sizes[0]:,.0f} to {sizes[-1]:,.0f} training images · {recipe}, {conditions.precision} · "
        f"{conditions.device_name}{threads}, torch {conditions.torch}"
    )


def _by_size(model: str, group: Sequence[Comparison], common: Common) -> tuple[Mark, ...]:
    rows = sorted(
        ((_conditions(c).train_images, row) for c in group for row in c.rows if row.model == model),
        key=lambda item: item[0],
    )
    last = len(rows) - 1
    return tuple(_at_size(size, row, common.names[model] if i == last else "") for i, (size, row) in enumerate(rows))


def _at_size(size: int, row: Row, label: str) -> Mark:
    accuracy = row.values["accuracy"]
    ends = percent_with(accuracy, "other seeds" if row.runs > 1 else "other test images")
    return Mark(
        float(size),
        100 * accuracy.value,
        y_low=100 * accuracy.low,
        y_high=100 * accuracy.high,
        label=label,
        hover=(one_line(row.model), plural(size, "training image"), plural(row.runs, "run"), ends),
    )


# --- differences of accuracy -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairRows:
    """The pairs of one chart, a row for each two models; pairs of two tracks share a row."""

    pairs: Sequence[Pair]
    names: Sequence[tuple[str, str]]
    tracks: Sequence[str]

    def height(self, pair: Pair) -> float:
        """Where its mark is: a little above or below its row's middle where there are two tracks."""
        shift = 0.28 * (self.tracks.index(pair.track) - (len(self.tracks) - 1) / 2)
        return self.names.index((pair.a.model, pair.b.model)) + shift


def differences(pairs: Sequence[Pair], common: Common, reference: str | None = None) -> list[Chart]:
    """A row per pair, a mark per track: the difference of accuracies with both intervals; a chart for each question."""
    charts, taken = list[Chart](), set[str]()
    groups = by_question(pairs)
    words = differing([{**in_words(group[0].conditions), "recipe": _recipe(group[0])} for group in groups])
    for group, differs in zip(groups, words, strict=True):
        prefix = unused(stem_of(group[0].conditions, "tracks" if group[0].track else ""), taken)
        taken.add(prefix)
        charts.append(_differences(group, common, f"{prefix}-differences", reference or REFERENCE, differs))
    return charts


def by_question(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs that differ in nothing but models and track."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    return list(groups.values())


def _recipe(pair: Pair) -> str:
    """Both tracks share a chart."""
    return "tracks" if pair.track else f"recipe {pair.conditions.recipe}"


def _differences(group: Sequence[Pair], common: Common, stem: str, reference: str, differs: Sequence[str]) -> Chart:
    every = list(dict.fromkeys((pair.a.model, pair.b.model) for pair in group))
    names = sorted(every, key=lambda names: reference not in names)[:MOST_PAIRS]
    pairs = [pair for pair in group if (pair.a.model, pair.b.model) in names]
    rows = PairRows(pairs, names, list(dict.fromkeys(pair.track for pair in pairs)))
    facets = facets_of(group[0].conditions)
    if len(rows.tracks) > 1:
        facets = {facet: value for facet, value in facets.items() if facet not in ("track", "recipe")}
    margin, sides = 100 * pairs[0].margin, names_of(_models(rows), SIDE_LENGTH)
    return Chart(
        key="differences",
        stem=stem,
        title=titled("Differences in test accuracy", differs),
        x=Axis("difference in test accuracy, points (right: the first is better)"),
        y=Axis("", names=tuple(f"{sides[a]} − {sides[b]}" for a, b in names)),
        series=tuple(series for track in rows.tracks for series in _of_track(rows, track)),
        caption=_differences_caption(rows, len(every) - len(names)),
        looks=common.looks_for(_models(rows)),
        subject=title_of(group[0]),
        facets=facets,
        command=common.command,
        band=(-margin, margin),
        band_name=f"within ±{points(pairs[0].margin)}: equivalent",
        hollow="hollow: equivalent or no verdict",
    )


def _models(rows: PairRows) -> list[str]:
    return sorted({model for names in rows.names for model in names})


def _of_track(rows: PairRows, track: str) -> list[Series]:
    """The pale ranges of one track and the marks upon them."""
    pairs = [pair for pair in rows.pairs if pair.track == track]
    ranges = tuple(_range(pair, rows.height(pair)) for pair in pairs if not math.isnan(pair.this_set.low))
    marks = tuple(_difference(pair, rows.height(pair)) for pair in pairs)
    name, shade = f"track {track}" if track else "one recipe for all", TRACK_SHADES[track]
    series = [Series("", "points", marks, name=name, shade=shade)]
    if ranges:
        first = track == rows.tracks[0]
        series.insert(0, Series("", "ranges", ranges, name="this test set" if first else "", shade=shade))
    return series


def _range(pair: Pair, y: float) -> Mark:
    this = pair.this_set
    return Mark(100 * this.value, y, x_low=100 * this.low, x_high=100 * this.high, hover=_hover(pair))


def _difference(pair: Pair, y: float) -> Mark:
    like = pair.like_these
    return Mark(
        100 * like.value,
        y,
        x_low=100 * like.low,
        x_high=100 * like.high,
        hover=_hover(pair),
        open=pair.verdict not in ("better", "worse"),
    )


def _hover(pair: Pair) -> tuple[str, ...]:
    """A pair's verdict and its two intervals."""
    like, this = pair.like_these, pair.this_set
    scope = "these two runs, other images" if like.of_runs else "images like these"
    lines = [
        f"{one_line(pair.a.model)} − {one_line(pair.b.model)}",
        f"{f'track {pair.track}: ' if pair.track else ''}{verdict_text(pair, pair.verdict)}",
        f"{_in_points(like)}, {scope}",
    ]
    if not math.isnan(this.low):
        lines.append(f"{_in_points(this)}, this test set")
    return (*lines, f"{like.seeds_a} and {plural(like.seeds_b, 'seed')}, {plural(like.images, 'image')}")


def _in_points(difference: Difference) -> str:
    ends = f" ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})" if math.isfinite(difference.low) else ""
    return f"{100 * difference.value:+.2f} points{ends}"


def _about_holm(rows: PairRows) -> str:
    """What filled and hollow marks mean; nothing is tested where every side has one seed."""
    if not any(pair.tests for pair in rows.pairs):
        return "Every mark is hollow: no verdict. "
    pairs = spread([pair.tests for pair in rows.pairs], "pair")
    return (
        f"Filled: better or worse, by Holm's p among {pairs} and the whole interval; hollow: equivalent or no verdict. "
    )


def _differences_caption(rows: PairRows, left_out: int) -> str:
    first = rows.pairs[0]
    seeds = [n for pair in rows.pairs for n in (pair.like_these.seeds_a, pair.like_these.seeds_b)]
    cut = [f"{short} is {model}" for model, short in names_of(_models(rows), SIDE_LENGTH).items() if short != model]
    return caption(
        f"Accuracy of the first model minus that of the second, {spread(seeds, 'seed')} each. Thin line: the 95 % "
        "interval for other seeds and other images like these; wide pale bar: for other seeds on this test set. "
        f"{_about_holm(rows)}Grey band: differences within ±{points(first.margin)}, treated as equivalent.",
        "With one seed on a side the interval is for these two runs on other images, and gives no verdict."
        if any(pair.like_these.of_runs for pair in rows.pairs)
        else "",
        f"{plural(left_out, 'more pair')} left out: `run_bench.py compare` prints them." if left_out else "",
        f"Names in full: {'; '.join(cut)}." if cut else "",
        f"{title_of(first)}.",
    )
