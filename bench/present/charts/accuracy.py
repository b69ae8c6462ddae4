"""Charts of one comparison: accuracy by cost, learning curves, time to a target. Example: front_of(one, "flops")

Figures and intervals are those of `bench.analysis.tables`, so that a chart and the table beside it agree to the last digit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bench.analysis.compare import Reached, reach
from bench.analysis.tables import Comparison, Row, like_the_newest
from bench.core.stats import Interval, kaplan_meier, share_interval
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import (
    Common,
    axis_of,
    caption,
    counted,
    listed,
    percent,
    percent_with,
    spread,
    told,
    with_quartiles,
)
from bench.present.session_table import significant
from bench.store.disk import shared_device
from bench.store.records import Record

Runs = Mapping[str, Sequence[Record]]  # of a comparison, by model, in the order of their seeds
TRAINING, INFERENCE = 2, 5  # of COLOURS
SMALLEST_AREA = 0.02  # of a marker whose model has few parameters, as a share of the largest: it must be seen


@dataclass(frozen=True)
class Measure:
    """What accuracy is held against: a key of Row.values and how a chart speaks of it."""

    key: str
    chart: str
    title: str
    axis: str
    unit: float  # figures are divided by it
    better: str  # what a model is that has a better figure


MEASURES = (
    Measure(
        "train_images_per_second",
        "accuracy_vs_throughput",
        "Accuracy against training speed",
        "training images/s (median of a speed session; more is faster)",
        1.0,
        "faster",
    ),
    Measure(
        "flops",
        "accuracy_vs_flops",
        "Accuracy against FLOPs",
        "FLOPs, million multiply-adds an image",
        1e6,
        "cheaper in FLOPs",
    ),
    Measure("params", "accuracy_vs_params", "Accuracy against parameters", "parameters, millions", 1e6, "smaller"),
)


def charts_of_comparison(
    comparison: Comparison, by_id: Mapping[str, Record], common: Common, prefix: str
) -> list[Chart]:
    """Every chart that a comparison has data for; `prefix` begins the names of their files."""
    runs = runs_of(comparison, by_id)
    diverged = [by_id[failure.run_id] for failure in comparison.failures if failure.status == "diverged"]
    made = [_against(comparison, measure, runs, common, prefix) for measure in MEASURES]
    made += [_curves(comparison, runs, position, common, prefix) for position in POSITIONS]
    made += _times_to_target(comparison, runs, diverged, common, prefix)
    made.append(_throughput(comparison, common, prefix))
    return [chart for chart in made if chart is not None]


def runs_of(comparison: Comparison, by_id: Mapping[str, Record]) -> dict[str, list[Record]]:
    """The runs behind each row: those of a model's newest code and recipe, by seed."""
    groups: dict[str, list[Record]] = {row.model: [] for row in comparison.rows}
    for run_id in comparison.run_ids:
        run = by_id[run_id]
        groups[run["spec"]["model"]].append(run)
    return {m: sorted(like_the_newest(group), key=lambda r: int(r["spec"]["seed"])) for m, group in groups.items()}


def facets_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What a page filters by."""
    names = {"dataset": "dataset", "device": "device_name", "recipe": "recipe", "track": "track"}
    return {facet: str(about[key]) for facet, key in names.items() if about.get(key)}


# --- the Pareto front ------------------------------------------------------------------------------------------------


def pareto(points: Sequence[tuple[float, float]]) -> frozenset[int]:
    """Which points no other beats: none is at least as large in both figures, and larger in one. More is better."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    front, best = set[int](), (math.inf, -math.inf)
    for i in order:  # from the largest first figure down, so that only a larger second one is news, or the same point
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


def _accuracy(row: Row) -> float:
    return 100 * row.values["accuracy"].value


def _chart(comparison: Comparison, key: str, common: Common, prefix: str, models: Sequence[str], **parts: Any) -> Chart:
    """What all charts of a comparison share, and the `parts` of this one; of a switch its position is one."""
    position = parts.get("position", "")
    words = (*parts.pop("words"), common.whole(models), f"{comparison.title}.")
    return Chart(
        key=key,
        stem="-".join(filter(None, (prefix, key, position))),
        caption=caption(*words),
        looks=common.of(models),
        subject=comparison.title,
        facets=facets_of(comparison.about),
        command=common.command,
        switch=key if position else "",
        **parts,
    )


def _against(comparison: Comparison, measure: Measure, runs: Runs, common: Common, prefix: str) -> Chart | None:
    """Test accuracy against one figure: a mark a model with its interval, its single runs behind it."""
    rows = [row for row in comparison.rows if measure.key in row.values]
    if not rows:
        return None
    most = max((row.values["params"].value for row in rows if "params" in row.values), default=0.0)
    areas = measure.key == "flops" and most > 0
    series = [_single_runs(row, runs[row.model], measure) for row in rows if row.runs > 1]
    series += _front_series(comparison, measure)
    series += [
        Series(row.model, "points", (_mean_mark(row, runs[row.model], measure, common, most if areas else 0.0),))
        for row in rows
    ]
    models = [row.model for row in rows]
    title = measure.axis + (f" (area: parameters, largest {significant(most / 1e6)} million)" if areas else "")
    values = [row.values[measure.key].value for row in rows]
    return _chart(
        comparison,
        measure.chart,
        common,
        prefix,
        models,
        title=measure.title,
        x=axis_of(title, values),
        y=Axis("test accuracy and 95 % interval, %"),
        series=tuple(series),
        words=(
            f"{counted(len(rows), 'model')}, {spread([row.runs for row in rows], 'run')} each.",
            *_of_accuracy(rows),
            _of_figure(rows, measure),
            _of_front(comparison, measure),
            _audit(rows, common) if measure.key == "flops" else "",
            _without(comparison, measure.key, common),
        ),
    )


def _single_runs(row: Row, runs: Sequence[Record], measure: Measure) -> Series:
    x = row.values[measure.key].value / measure.unit
    return Series(
        row.model, "points", tuple(Mark(x, 100 * r["metrics"]["accuracy"], hover=_of_run(r)) for r in runs), faint=True
    )


def _of_run(run: Record) -> tuple[str, ...]:
    """A run, its seed, its accuracy with Wilson's interval."""
    interval = share_interval(run["metrics"]["accuracy"], run["metrics"]["test_images"])
    return f"run {run['run_id']}", f"seed {run['spec']['seed']}", percent_with(interval, "other test images")


def _mean_mark(row: Row, runs: Sequence[Record], measure: Measure, common: Common, most: float) -> Mark:
    accuracy, value = row.values["accuracy"], row.values[measure.key]
    timed = _more_is_better(measure.key)
    several = (f"mean of {row.runs} seeds", percent_with(accuracy, "other seeds"))
    about = several if row.runs > 1 else _of_run(runs[0])
    params = row.values.get("params")
    facts = [f"{params.value / 1e6:,.3f} million parameters"] if params is not None and measure.key == "flops" else []
    return Mark(
        value.value / measure.unit,
        100 * accuracy.value,
        x_low=value.low if timed else math.nan,
        x_high=value.high if timed else math.nan,
        y_low=100 * accuracy.low,
        y_high=100 * accuracy.high,
        label=common.names[row.model],
        hover=(told(row.model), *about, _figure_in_words(value, measure), *facts),
        area=max(SMALLEST_AREA, params.value / most if params is not None else 0.0) if most else 1.0,
    )


def _figure_in_words(value: Interval, measure: Measure) -> str:
    if measure.key == "params":
        return f"{value.value / 1e6:,.3f} million parameters"
    if measure.key == "flops":
        return f"{value.value / 1e6:,.1f} million multiply-adds an image"
    return with_quartiles(value, "training images/s", "block")


def _of_accuracy(rows: Sequence[Row]) -> list[str]:
    """What the ends of the accuracies are."""
    sentences = []
    if any(row.runs > 1 for row in rows):
        sentences.append(
            "Up: the mean of a model's seeds with a 95 % t-interval over seeds, on this test set; faint marks are its "
            "single runs."
        )
    if any(row.runs == 1 for row in rows):
        which = "Of a model with one run: its" if sentences else "Up: the run's"
        sentences.append(
            f"{which} accuracy with Wilson's 95 % interval for other test images, which leaves out what "
            "another seed would change."
        )
    return sentences


def _of_figure(rows: Sequence[Row], measure: Measure) -> str:
    if not _more_is_better(measure.key):
        return "Across: a count, without spread."
    blocks = spread([row.values[measure.key].n for row in rows], "block")
    return (
        f"Across: images/s of whole training steps, the median of {blocks} of one speed session, in which the models "
        "took turns; the ends are quartiles."
    )


def _of_front(comparison: Comparison, measure: Measure) -> str:
    rows = [row for row in comparison.rows if measure.key in row.values]
    if len(rows) < 2:
        return ""
    if not _front_series(comparison, measure):
        best = listed(sorted(front_of(comparison, measure.key)))
        return f"No other model is more accurate or {measure.better} than {best}, by point estimates."
    return (
        f"Dashed: the Pareto front by point estimates; no model is both more accurate and {measure.better} than one "
        "on it. Intervals may overlap all the same."
    )


def _audit(rows: Sequence[Row], common: Common) -> str:
    marked = [common.names[row.model] for row in rows if "flops" in row.marked]
    return f"The FLOPs of {listed(marked)} did not pass the audit against torch's own counter." if marked else ""


def _without(comparison: Comparison, key: str, common: Common) -> str:
    """Who is not in the chart, and why."""
    apart = [common.names[row.model] for row in comparison.rows if key not in row.values]
    failed = {f.model: f.status for f in comparison.failures}
    lost = [f"{common.names[m]} ({s})" for m, s in failed.items() if m not in {row.model for row in comparison.rows}]
    return caption(
        f"Not shown, for want of the figure: {listed(apart)}." if apart else "",
        f"No run finished of {listed(lost)}." if lost else "",
    )


# --- learning curves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """One way to count how long a run has trained. `of` gives None where it cannot be known of a run."""

    name: str
    title: str
    axis: str
    unit: str
    of: Callable[[Record], Callable[[Record], float] | None]


def _by_seconds(run: Record) -> Callable[[Record], float] | None:
    return None if shared_device(run) else lambda epoch: float(epoch["train_seconds"])


def _by_flops(run: Record) -> Callable[[Record], float] | None:
    flops = run["metrics"].get("train_flops_2x")
    return (lambda epoch: float(epoch["samples_seen"] * flops / 1e12)) if flops else None


POSITIONS = (
    Position("epochs", "epochs", "epochs", "epochs", lambda run: lambda epoch: float(epoch["epoch"])),
    Position(
        "seconds", "training time", "training seconds (evaluation is not counted)", "training seconds", _by_seconds
    ),
    Position(
        "FLOPs", "training FLOPs", "training TFLOP (forward and backward, two a multiply-add)", "TFLOP", _by_flops
    ),
    Position(
        "samples",
        "images seen",
        "training images seen, thousands",
        "thousand images",
        lambda run: lambda epoch: float(epoch["samples_seen"]) / 1000,
    ),
)


def _curves(comparison: Comparison, runs: Runs, position: Position, common: Common, prefix: str) -> Chart | None:
    """Validation accuracy after each validation; a line a run, with its model's name at the end of the first."""
    series, out = list[Series](), Counter[str]()
    for model, group in runs.items():
        label = common.names[model]
        for run in group:
            count = position.of(run)
            if count is None:
                out[model] += 1
                continue
            series.append(Series(model, "line", _curve(run, count, label)))
            label = ""
    if not series:
        return None
    models = list(dict.fromkeys(one.model for one in series))
    numbers = Counter(one.model for one in series)
    return _chart(
        comparison,
        "learning_curves",
        common,
        prefix,
        models,
        title=f"Learning curves by {position.title}",
        x=Axis(position.axis, from_zero=True),
        y=Axis("validation accuracy, %"),
        series=tuple(series),
        words=(
            "Accuracy on validation images after each look at them; a line is one run, "
            f"{spread(list(numbers.values()), 'run')} of each of {counted(len(models), 'model')}.",
            "Validation images are none of the test images; one line's ups and downs have no interval.",
            _left_out(position, out, sum(map(len, runs.values()))),
        ),
        position=position.name,
    )


def _curve(run: Record, count: Callable[[Record], float], label: str) -> tuple[Mark, ...]:
    about = (f"run {run['run_id']}", f"seed {run['spec']['seed']}")
    last = len(run["history"]) - 1
    return tuple(
        Mark(
            count(epoch),
            100 * epoch["val_accuracy"],
            label=label if i == last else "",
            hover=(
                *about,
                f"epoch {epoch['epoch']:.4g}",
                f"{percent(epoch['val_accuracy'])} on validation",
                _loss(epoch),
            ),
        )
        for i, epoch in enumerate(run["history"])
    )


def _loss(epoch: Record) -> str:
    return f"loss {epoch['val_loss']:.3f} on validation, {epoch['train_loss']:.3f} in training"


def _left_out(position: Position, out: Counter[str], total: int) -> str:
    number = sum(out.values())
    if not number:
        return ""
    if position.name == "seconds":
        return (
            f"{number} of {total} runs shared the device with others (--runs-per-device): their seconds compare with "
            "nothing and are left out."
        )
    return f"Left out, because FLOPs of a training step were not counted: {number} of {total} runs."


# --- time to a target ------------------------------------------------------------------------------------------------


def _times_to_target(
    comparison: Comparison, runs: Runs, diverged: Sequence[Record], common: Common, prefix: str
) -> list[Chart | None]:
    """The share of runs that reached the target they were begun with, in each way of counting; none without one.

    Where runs have several targets it is the one that most of them have.
    """
    named = Counter(run["target"] for group in runs.values() for run in group if run.get("target") is not None)
    if not named:
        return []
    target = named.most_common(1)[0][0]
    own = {model: [run for run in group if run.get("target") == target] for model, group in runs.items()}
    sides = {model: (group, reach(group, target, _never(group[0], diverged))) for model, group in own.items() if group}
    other = sum(map(len, runs.values())) - sum(map(len, own.values()))
    return [
        _to_target(comparison, sides, position, target, other, common, prefix)
        for position in POSITIONS
        if position.name != "epochs"
    ]


def _never(run: Record, diverged: Sequence[Record]) -> int:
    """How many runs beside this one, of the same model and recipe, diverged: they never reach any target."""
    return sum(all(one["spec"][k] == run["spec"][k] for k in ("model", "model_source", "recipe")) for one in diverged)


def _to_target(
    comparison: Comparison,
    sides: Mapping[str, tuple[Sequence[Record], Reached]],
    position: Position,
    target: float,
    other: int,
    common: Common,
    prefix: str,
) -> Chart | None:
    series, out = [], []
    for model, (group, reached) in sides.items():
        times = _times(group, reached, position)
        if times is None:
            out.append(common.names[model])
        else:
            series.append(Series(model, "steps", _steps(group, times, reached, position, common.names[model])))
    if not series:
        return None
    models = [one.model for one in series]
    shares = "; ".join(f"{common.names[model]} {sides[model][1].share}" for model in models)
    never = sum(sides[model][1].diverged for model in models)
    return _chart(
        comparison,
        "time_to_target",
        common,
        prefix,
        models,
        title=f"Runs that reached {100 * target:g} % by {position.title}",
        x=Axis(position.axis, from_zero=True),
        y=Axis(f"runs that reach {100 * target:g} % on validation, Kaplan–Meier estimate, %", from_zero=True),
        series=tuple(series),
        words=(
            f"The share of runs that stand at {100 * target:g} % validation accuracy or above, a target named before "
            f"the runs, as estimated by Kaplan and Meier. Reached by {shares}.",
            "A run that ended before it got there is kept as censored: it has a mark where it ended, and counts as "
            "long as it ran, so that the estimate may lie above the share of runs that got there.",
            f"{counted(never, 'run')} diverged and never will; they count among those without it." if never else "",
            "Seen at validations only, so that a run may have been there a little earlier.",
            f"{counted(other, 'run')} with another target or none left out." if other else "",
            f"Left out: {listed(out)}, whose {position.name} are not known or mean nothing." if out else "",
        ),
        position=position.name,
    )


def _times(group: Sequence[Record], reached: Reached, position: Position) -> list[float] | None:
    """When each run got there or ended, counted as the position does; None where that is unknown of one of them."""
    counts = [position.of(run) for run in group]
    rows = [
        {"train_seconds": seconds, "samples_seen": samples}
        for seconds, samples in zip(reached.seconds, reached.samples, strict=True)
    ]
    times = [count(row) for count, row in zip(counts, rows, strict=True) if count is not None]
    return times if len(times) == len(group) else None


def _steps(
    group: Sequence[Record], times: Sequence[float], reached: Reached, position: Position, label: str
) -> tuple[Mark, ...]:
    """From 0 at the start, a mark a run; open where it ended without having got there."""
    never = [math.inf] * reached.diverged
    curve = dict(kaplan_meier([*times, *never], [*reached.reached, *[False] * reached.diverged]))
    marks, share = [Mark(0.0, 0.0)], 0.0
    # of equal times first those who got there: who was watched until then was watched at that moment too
    for time, missed, run in sorted(
        ((t, not there, run) for t, there, run in zip(times, reached.reached, group, strict=True)),
        key=lambda item: item[:2],
    ):
        share = share if missed else 100 * float(1 - curve[time])
        what = "ended without it" if missed else "reached it"
        about = (
            f"run {run['run_id']}",
            f"seed {run['spec']['seed']}",
            f"{what} at {significant(time)} {position.unit}",
        )
        marks.append(Mark(time, share, hover=(*about, f"{reached.share} reached it"), open=missed))
    last = marks.pop()
    return (*marks, replace(last, label=label))


# --- speed -----------------------------------------------------------------------------------------------------------


def _throughput(comparison: Comparison, common: Common, prefix: str) -> Chart | None:
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
    models = [row.model for row in rows]
    blocks = spread([row.values["train_images_per_second"].n for row in rows], "block")
    return _chart(
        comparison,
        "throughput",
        common,
        prefix,
        models,
        title="Training and inference speed",
        x=Axis("images/s at the recipe's batch size (median and quartiles of a speed session)", from_zero=True),
        y=Axis("", names=tuple(common.names[model] for model in models)),
        series=tuple(one for one in series if one.marks),
        words=(
            f"Images/s of whole training steps and of inference at the recipe's batch size: medians of {blocks} of one "
            "speed session in which the models took turns, with quartiles, on images already on the device.",
            "The order is that of accuracy, the best on top.",
            _without(comparison, "train_images_per_second", common),
        ),
    )


def _bar(row: Row, value: Interval, y: int, what: str) -> Mark:
    return Mark(
        value.value,
        float(y),
        x_low=value.low,
        x_high=value.high,
        label=significant(value.value),
        hover=(told(row.model), f"{what}: {with_quartiles(value, 'images/s', 'block')}"),
    )
