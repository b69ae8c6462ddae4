"""Accuracy against speed, FLOPs and parameters, with the Pareto front. Example: front_of(comparison, "flops")

Figures and intervals are those of `bench.analysis.tables`: a chart and the table beside it agree to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.analysis.stats import median_interval
from bench.analysis.tables import Comparison, Row
from bench.core.stats import Interval, share_interval
from bench.core.text import plural, significant
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import (
    Common,
    Draft,
    Scope,
    axis_of,
    caption,
    finish,
    listed,
    one_line,
    percent_with,
    spread,
    with_quartiles,
)
from bench.store.records import FinishedRun

Runs = Mapping[str, Sequence[FinishedRun]]  # of a comparison, by model, in the order of their seeds
TRAINING, INFERENCE = 2, 5  # of COLOURS
SMALLEST_AREA = 0.02  # as a share of the largest marker's, so that a model with few parameters stays visible


@dataclass(frozen=True)
class Measure:
    """What accuracy is held against: a key of Row.values and how a chart names it."""

    key: str
    chart: str
    title: str
    axis: str
    unit: float  # figures are divided by it
    better: str  # a model with a better figure is so


MEASURES = (
    Measure(
        "train_images_per_second",
        "accuracy_vs_throughput",
        "Accuracy against training speed",
        "training images/s and 95 % interval (median of a speed session; more is faster)",
        1.0,
        "faster",
    ),
    Measure(
        "flops",
        "accuracy_vs_flops",
        "Accuracy against FLOPs",
        "FLOPs, million multiply-adds per image",
        1e6,
        "cheaper in FLOPs",
    ),
    Measure("params", "accuracy_vs_params", "Accuracy against parameters", "parameters, millions", 1e6, "smaller"),
)


# --- the Pareto front ------------------------------------------------------------------------------------------------


def pareto(points: Sequence[tuple[float, float]]) -> frozenset[int]:
    """The points that no other beats: none is at least as large in both figures, and larger in one. More is better."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    front, best = set[int](), (math.inf, -math.inf)
    for i in order:  # from the largest first figure down: only a larger second one, or the same point, is on the front
        if points[i][1] > best[1] or points[i] == best:
            front.add(i)
            best = points[i]
    return frozenset(front)


def front_of(comparison: Comparison, key: str) -> frozenset[str]:
    """The models that no other beats in accuracy and in the figure `key` of Row.values, by point estimates.

    More is better for images/s, less for everything else.
    """
    rows = [row for row in comparison.rows if key in row.values]
    sign = 1 if _more_is_better(key) else -1
    front = pareto([(sign * row.values[key].value, row.values["accuracy"].value) for row in rows])
    return frozenset(rows[i].model for i in front)


def _more_is_better(key: str) -> bool:
    return key.endswith("images_per_second")


def _front_series(comparison: Comparison, measure: Measure) -> list[Series]:
    """Steps around what the models on the front dominate; none where one model is the best in both."""
    front = front_of(comparison, measure.key)
    rows = [row for row in comparison.rows if row.model in front]
    points = sorted({(row.values[measure.key].value / measure.unit, _accuracy(row)) for row in rows})
    if len(points) < 2:
        return []
    marks = [Mark(*points[0])]
    for (x, y), (next_x, next_y) in pairwise(points):
        corner = (x, next_y) if _more_is_better(measure.key) else (next_x, y)
        marks += [Mark(*corner), Mark(next_x, next_y)]
    return [Series("", "line", tuple(marks), name="Pareto front", thin=True)]


# --- accuracy against a figure ---------------------------------------------------------------------------------------


def accuracy_against(comparison: Comparison, measure: Measure, runs: Runs, scope: Scope) -> Chart | None:
    """Test accuracy against one figure: a mark per model with its interval, its single runs behind it."""
    rows = [row for row in comparison.rows if measure.key in row.values]
    if not rows:
        return None
    common = scope.common
    most = max((row.values["params"].value for row in rows if "params" in row.values), default=0.0)
    areas = measure.key == "flops" and most > 0
    series = [_single_runs(row, runs[row.model], measure) for row in rows if row.runs > 1]
    series += _front_series(comparison, measure)
    series += [
        Series(
            row.model,
            "points",
            (_mean_mark(row, runs[row.model], measure, common, most if areas else 0.0, _speed(comparison, row)),),
        )
        for row in rows
    ]
    title = measure.axis + (f" (area: parameters, largest {significant(most / 1e6)} million)" if areas else "")
    draft = Draft(
        key=measure.chart,
        title=measure.title,
        x=axis_of(title, [row.values[measure.key].value for row in rows]),
        y=Axis("test accuracy and 95 % interval, %"),
        series=tuple(series),
        sentences=(
            f"{plural(len(rows), 'model')}, {spread([row.runs for row in rows], 'run')} each.",
            *_about_accuracy(rows),
            _about_figure(rows, measure),
            _about_front(comparison, measure),
            _about_audit(rows, common) if measure.key == "flops" else "",
            not_shown(comparison, measure.key, common),
        ),
        models=tuple(row.model for row in rows),
    )
    return finish(draft, scope)


def _accuracy(row: Row) -> float:
    return 100 * row.values["accuracy"].value


def _single_runs(row: Row, runs: Sequence[FinishedRun], measure: Measure) -> Series:
    x = row.values[measure.key].value / measure.unit
    marks = tuple(Mark(x, 100 * run.metrics.accuracy, hover=_hover_of_run(run)) for run in runs)
    return Series(row.model, "points", marks, faint=True)


def _hover_of_run(run: FinishedRun) -> tuple[str, ...]:
    """A run, its seed, its accuracy with Wilson's interval."""
    interval = share_interval(run.metrics.accuracy, run.metrics.test_images)
    return f"run {run.run_id}", f"seed {run.spec.seed}", percent_with(interval, "other test images")


def _mean_mark(
    row: Row, runs: Sequence[FinishedRun], measure: Measure, common: Common, most_params: float, speed: Interval | None
) -> Mark:
    """A model's mark; its area is its share of `most_params`, unless that is 0. `speed` has the ends of images/s."""
    accuracy, value = row.values["accuracy"], row.values[measure.key]
    ends = speed if _more_is_better(measure.key) else None
    several = (f"mean of {row.runs} seeds", percent_with(accuracy, "other seeds"))
    params = row.values.get("params")
    share = params.value / most_params if params is not None and most_params else 0.0
    facts = [f"{params.value / 1e6:,.3f} million parameters"] if params is not None and measure.key == "flops" else []
    return Mark(
        value.value / measure.unit,
        100 * accuracy.value,
        x_low=ends.low if ends else math.nan,
        x_high=ends.high if ends else math.nan,
        y_low=100 * accuracy.low,
        y_high=100 * accuracy.high,
        label=common.names[row.model],
        hover=(
            one_line(row.model),
            *(several if row.runs > 1 else _hover_of_run(runs[0])),
            _figure_text(value, measure, ends),
            *facts,
        ),
        area=max(SMALLEST_AREA, share) if most_params else 1.0,
    )


def _speed(comparison: Comparison, row: Row) -> Interval | None:
    """A model's median training images/s with its 95 % interval over the blocks."""
    if comparison.session is None or "train_images_per_second" not in row.values:
        return None
    session = comparison.session
    return median_interval([session.recipe.batch_size / s for s in session.seconds_per_call(row.model, "train")])


def _figure_text(value: Interval, measure: Measure, speed: Interval | None) -> str:
    if measure.key == "params":
        return f"{value.value / 1e6:,.3f} million parameters"
    if measure.key == "flops":
        return f"{value.value / 1e6:,.1f} million multiply-adds per image"
    ends = f" ({significant(speed.low)} to {significant(speed.high)})" if speed and math.isfinite(speed.low) else ""
    return f"{significant(value.value)} training images/s{ends}, median of {plural(value.n, 'block')}"


# --- its caption -----------------------------------------------------------------------------------------------------


def _about_accuracy(rows: Sequence[Row]) -> list[str]:
    """What the ends of the accuracies are."""
    sentences = []
    if any(row.runs > 1 for row in rows):
        sentences.append(
            "Vertical: mean accuracy over a model's seeds with a 95 % t-interval over seeds, on this test set; faint "
            "marks are single runs."
        )
    if any(row.runs == 1 for row in rows):
        which = "For a model with one run: its" if sentences else "Vertical: the run's"
        sentences.append(
            f"{which} accuracy with Wilson's 95 % interval for other test images, which leaves out what another seed "
            "would change."
        )
    return sentences


def _about_figure(rows: Sequence[Row], measure: Measure) -> str:
    if not _more_is_better(measure.key):
        return "Horizontal: a count, without spread."
    blocks = spread([row.values[measure.key].n for row in rows], "block")
    return (
        f"Horizontal: images/s of whole training steps, the median of {blocks} of one speed session, in which the "
        "models took turns; the ends are a 95 % interval of the median over the blocks of this session."
    )


def _about_front(comparison: Comparison, measure: Measure) -> str:
    rows = [row for row in comparison.rows if measure.key in row.values]
    if len(rows) < 2:
        return ""
    if not _front_series(comparison, measure):
        best = listed(sorted(front_of(comparison, measure.key)))
        return f"No other model is more accurate or {measure.better} than {best}, by point estimates."
    return (
        f"Dashed: the Pareto front by point estimates; no model is both more accurate and {measure.better} than one "
        "on it. Intervals may still overlap."
    )


def _about_audit(rows: Sequence[Row], common: Common) -> str:
    marked = [common.names[row.model] for row in rows if "flops" in row.marked]
    return f"The FLOPs of {listed(marked)} did not pass the audit against torch's own counter." if marked else ""


def not_shown(comparison: Comparison, key: str, common: Common) -> str:
    """The models that are not in a chart of this figure, and why."""
    without = [common.names[row.model] for row in comparison.rows if key not in row.values]
    failed = {f.model: f.status for f in comparison.failures}
    lost = [f"{common.names[m]} ({s})" for m, s in failed.items() if m not in {row.model for row in comparison.rows}]
    return caption(
        f"Not shown, figure missing: {listed(without)}." if without else "",
        f"No finished run: {listed(lost)}." if lost else "",
    )


# --- speed -----------------------------------------------------------------------------------------------------------


def throughput(comparison: Comparison, scope: Scope) -> Chart | None:
    """Bars of training and inference images/s with the quartiles of the samples."""
    rows = [row for row in comparison.rows if "train_images_per_second" in row.values]
    if not rows:
        return None
    series = []
    for key, name, shade in (
        ("train_images_per_second", "training step", TRAINING),
        ("inference_images_per_second", "inference", INFERENCE),
    ):
        marks = [_bar(row, row.values[key], y, name) for y, row in enumerate(rows) if key in row.values]
        series.append(Series("", "bars", tuple(marks), name=name, shade=shade))
    models = tuple(row.model for row in rows)
    blocks = spread([row.values["train_images_per_second"].n for row in rows], "block")
    draft = Draft(
        key="throughput",
        title="Training and inference speed",
        x=Axis("images/s at the recipe's batch size (median and quartiles of a speed session)", from_zero=True),
        y=Axis("", names=tuple(scope.common.names[model] for model in models)),
        series=tuple(one for one in series if one.marks),
        sentences=(
            f"Images/s of whole training steps and of inference at the recipe's batch size: medians of {blocks} of one "
            "speed session in which the models took turns, with quartiles, on images already on the device.",
            "Ordered by accuracy, the best on top.",
            not_shown(comparison, "train_images_per_second", scope.common),
        ),
        models=models,
    )
    return finish(draft, scope)


def _bar(row: Row, value: Interval, y: int, name: str) -> Mark:
    return Mark(
        value.value,
        float(y),
        x_low=value.low,
        x_high=value.high,
        label=significant(value.value),
        hover=(one_line(row.model), f"{name}: {with_quartiles(value, 'images/s')}"),
    )
