"""Charts of one speed session: batch sizes, ceilings, parts of a step, energy. Example: subject_of(session)

Only of sessions of the `time` command: the short ones after a sweep have a single batch size, in accuracy.throughput.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.core.stats import Interval
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import Common, caption, counted, listed, percent_of, told
from bench.present.session_table import significant, why_ended
from bench.store.disk import speed_rows
from bench.store.records import Record

PART_SHADES = (2, 1, 3, 5, 6, 4)  # of COLOURS, the largest part of a step first
REST, REST_SHADE = "everything else", 0


def charts_of_session(session: Record, common: Common, prefix: str) -> list[Chart]:
    """Every chart that a session has data for; `prefix` begins the names of their files."""
    rows = [row for row in speed_rows(session) if row["status"] == "ok"]
    made = [
        _throughput_vs_batch(session, rows, common, prefix),
        _latency_vs_batch(session, rows, common, prefix),
        _roofline(session, common, prefix),
        _step_time(session, common, prefix),
        _energy(session, common, prefix),
    ]
    return [chart for chart in made if chart is not None]


def subject_of(session: Record) -> str:
    """The session in one line."""
    key, (day, _, time) = session["key"], str(session["started"]).partition("T")
    threads = f", {key['threads']} threads" if key.get("threads") else ""
    return (
        f"Speed session of {day} {time[:5]}: {key['image_size']} px, training batch {session['recipe']['batch_size']}, "
        f"{key['precision']}, setting {str(key['policy']).removeprefix('identical:')} · {key['device_name']}{threads}, "
        f"torch {key['torch']}"
    )


def _chart(session: Record, key: str, common: Common, prefix: str, models: Sequence[str], **parts: Any) -> Chart:
    """What all charts of a session share, and the `parts` of this one."""
    recipe = {} if session.get("recipes") else {"recipe": str(session["recipe"]["name"])}
    words = (*parts.pop("words"), common.whole(models), f"{subject_of(session)}.")
    return Chart(
        key=key,
        stem=f"{prefix}-{key}",
        caption=caption(*words),
        looks=common.of(models),
        subject=subject_of(session),
        facets={"device": str(session["key"]["device_name"]), **recipe},
        command=common.command,
        **parts,
    )


# --- batch sizes -----------------------------------------------------------------------------------------------------


def _throughput_vs_batch(session: Record, rows: Sequence[Record], common: Common, prefix: str) -> Chart | None:
    """Inference images/s against the batch size, both on log axes, with quartiles."""

    def figures(row: Record) -> Interval:
        low, high = (1000 * row["batch_size"] / row[q] for q in ("q3_ms", "q1_ms"))
        return Interval(row["images_per_second"], low, high, row["n"])

    inference = [row for row in rows if row["kind"] == "inference"]
    return _against_batch(
        session,
        "throughput_vs_batch",
        common,
        prefix,
        _by_batch(session, inference, figures, "images/s", common),
        title="Inference speed against batch size",
        y=Axis("inference, images/s (median and quartiles)", log=True),
        what="Inference images/s at several batch sizes: medians with quartiles.",
    )


def _latency_vs_batch(session: Record, rows: Sequence[Record], common: Common, prefix: str) -> Chart | None:
    """Milliseconds of a whole batch against its size, both on log axes, with quartiles."""

    def figures(row: Record) -> Interval:
        return Interval(row["median_ms"], row["q1_ms"], row["q3_ms"], row["n"])

    inference = [row for row in rows if row["kind"] == "inference"]
    known = {(row["model"], row["batch_size"]) for row in inference}
    single = [row for row in rows if row["kind"] == "latency" and (row["model"], row["batch_size"]) not in known]
    return _against_batch(
        session,
        "latency_vs_batch",
        common,
        prefix,
        _by_batch(session, [*inference, *single], figures, "ms", common),
        title="Latency against batch size",
        y=Axis("inference, ms a batch (median and quartiles)", log=True),
        what="Milliseconds until a whole batch is classified: medians with quartiles.",
    )


def _against_batch(
    session: Record, key: str, common: Common, prefix: str, series: list[Series], what: str, **parts: Any
) -> Chart | None:
    """A line a model over the batch sizes; None without any."""
    if not series:
        return None
    words = (what, _blocks(session), _not_measured(session, common))
    models = [one.model for one in series]
    x = _batch_axis(series)
    return _chart(session, key, common, prefix, models, x=x, series=tuple(series), words=words, **parts)


def _by_batch(
    session: Record, rows: Sequence[Record], figures: Callable[[Record], Interval], unit: str, common: Common
) -> list[Series]:
    """A line for each model that was timed at two sizes or more."""
    series = []
    for model in session["models"]:
        mine = sorted((row for row in rows if row["model"] == model), key=lambda row: int(row["batch_size"]))
        if len(mine) > 1:
            labels = [""] * (len(mine) - 1) + [common.names[model]]
            marks = (_at_size(row, figures(row), unit, label) for row, label in zip(mine, labels, strict=True))
            series.append(Series(model, "line", tuple(marks)))
    return series


def _at_size(row: Record, found: Interval, unit: str, label: str) -> Mark:
    quartiles = f"quartiles {significant(found.low)} to {significant(found.high)}, n = {found.n}"
    hover = (told(row["model"]), f"batch {row['batch_size']}", f"{significant(found.value)} {unit}", quartiles)
    return Mark(row["batch_size"], found.value, y_low=found.low, y_high=found.high, label=label, hover=hover)


def _batch_axis(series: Sequence[Series]) -> Axis:
    return Axis("batch size", log=True, ticks=tuple(sorted({mark.x for one in series for mark in one.marks})))


def _blocks(session: Record) -> str:
    return (
        f"{counted(session['blocks'], 'block')}, in each of which every model came once in random order: "
        f"{why_ended(session)}."
    )


def _not_measured(session: Record, common: Common) -> str:
    """What did not fit or broke, so that a line that ends early is explained."""
    lost = [
        f"{common.names.get(f['model'], told(f['model']))} {f['kind']}"
        + (f" at {f['batch_size']}" if f["batch_size"] else "")
        + f" ({f['status']})"
        for f in session["failures"]
    ]
    return f"Not measured: {listed(lost)}." if lost else ""


# --- roofline --------------------------------------------------------------------------------------------------------


def _roofline(session: Record, common: Common, prefix: str) -> Chart | None:
    """Training steps under the ceilings measured beside them (Williams et al. 2009, doi:10.1145/1498765.1498785).

    Across: operations for each byte that goes in or out of an operator. Up: operations a second. Nothing lies above the
    slope (the copy's bandwidth) or the flat (the matrix product's arithmetic), unless caches help.
    """
    ceilings = session["ceilings"]
    bounds = {m: b for m, b in session["bounds"].items() if b["flops_2x"] and b["flops_per_second"]}
    if not ceilings or not bounds:
        return None
    marks = {model: _under(model, bound, common) for model, bound in bounds.items()}
    return _chart(
        session,
        "roofline",
        common,
        prefix,
        list(marks),
        title="Training steps under this device's ceilings",
        x=Axis("operations per byte in and out of the operators of a training step", log=True),
        y=Axis("GFLOP/s reached (a multiply-add is two)", log=True),
        series=(
            _roof(ceilings, [mark.x for mark in marks.values()]),
            *(Series(model, "points", (mark,)) for model, mark in marks.items()),
        ),
        words=(
            "Each training step beside the nearest ceiling and the share of the step that it explains. The slope is a "
            "large copy, the flat a large matrix product, both measured in this session; a step far below them is "
            "explained by neither.",
            _not_counted(session, marks, common),
        ),
    )


def _under(model: str, bound: Record, common: Common) -> Mark:
    nearest = f"{bound['name']} {percent_of(bound['share'])}"
    shares = ", ".join(f"{name} {percent_of(share)}" for name, share in bound["shares"].items())
    speed = bound["flops_per_second"] / 1e9
    return Mark(
        bound["flops_2x"] / bound["bytes"],
        speed,
        label=f"{common.names[model]}: {nearest}",
        hover=(
            told(model),
            f"nearest ceiling: {nearest} of the step",
            f"shares of the step: {shares}",
            f"{significant(speed)} GFLOP/s",
        ),
    )


def _roof(ceilings: Mapping[str, float], intensities: Sequence[float]) -> Series:
    """The slope up to where the two ceilings meet, then the flat."""
    flat, slope = ceilings["flops_per_second"] / 1e9, ceilings["bytes_per_second"] / 1e9
    ridge = flat / slope
    left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    copy, product = f"{significant(slope)} GB/s, copy", f"{significant(flat)} GFLOP/s, matrix product"
    return Series(
        "",
        "line",
        (
            Mark(left, left * slope, label=copy, hover=(copy,)),
            Mark(ridge, flat, hover=(copy, product)),
            Mark(right, flat, label=product, hover=(product,)),
        ),
        thin=True,
    )


def _not_counted(session: Record, there: Mapping[str, object], common: Common) -> str:
    apart = [common.names[model] for model in session["models"] if model not in there]
    return f"Not shown, because its operations were not counted: {listed(apart)}." if apart else ""


# --- parts of a step, energy -----------------------------------------------------------------------------------------


def _step_time(session: Record, common: Common, prefix: str) -> Chart | None:
    """Milliseconds of a training step by group of operators, one upon another."""
    groups: Mapping[str, Record] = session.get("groups") or {}
    models = [model for model in session["models"] if groups.get(model, {}).get("groups")]
    if not models:
        return None
    totals: Counter[str] = Counter()
    for model in models:
        totals.update(groups[model]["groups"])
    kept = [name for name, _ in totals.most_common(len(PART_SHADES))]
    if len(totals) == len(kept) + 1:
        kept = [name for name, _ in totals.most_common()]  # one alone need not be called the rest
    parts = [(name, shade) for name, shade in zip(kept, (*PART_SHADES, REST_SHADE), strict=False)]
    series = []
    for name, shade in [*parts, *([(REST, REST_SHADE)] if len(totals) > len(kept) else [])]:
        marks = [_part(model, groups[model], name, kept, y) for y, model in enumerate(models)]
        # A series a model, so that choosing one highlights its bar; the legend has each part once.
        of_one = [(m, mark) for m, mark in zip(models, marks, strict=True) if mark.x > 0]
        series += [
            Series(m, "bars", (mark,), name=name if i == 0 else "", shade=shade) for i, (m, mark) in enumerate(of_one)
        ]
    return _chart(
        session,
        "step_time",
        common,
        prefix,
        models,
        title="Where a training step spends its time",
        x=Axis("milliseconds of a training step", from_zero=True),
        y=Axis("", names=tuple(common.names[model] for model in models)),
        series=tuple(series),
        stacked=True,
        words=(
            "Milliseconds of one training step by group of operators, from torch's profiler: the time of each operator "
            "itself, of kernels on a GPU. Python between operators is in none, so that a bar may be shorter than its "
            "step; under the profiler it may be longer. Means of a few steps, without an interval.",
        ),
    )


def _part(model: str, found: Record, name: str, kept: Sequence[str], y: int) -> Mark:
    if name == REST:
        seconds = sum(spent for group, spent in found["groups"].items() if group not in kept)
    else:
        seconds = found["groups"].get(name, 0.0)
    total = sum(found["groups"].values())
    hover = (
        told(model),
        f"{name}: {significant(1000 * seconds)} ms, {percent_of(seconds / total if total else 0.0)} of all operators",
        f"step: {significant(1000 * found['step_seconds'])} ms",
    )
    return Mark(1000 * seconds, float(y), hover=hover)


def _energy(session: Record, common: Common, prefix: str) -> Chart | None:
    """Joules for 1,000 training images."""
    joules: Mapping[str, float] = session["energy"].get("joules_per_1000_images") or {}
    models = [model for model in session["models"] if model in joules]
    if not models:
        return None
    series = [
        Series(
            model,
            "bars",
            (Mark(joules[model], float(y), label=significant(joules[model]), hover=(told(model), words)),),
        )
        for y, model in enumerate(models)
        if (words := f"{significant(joules[model])} J for 1,000 training images")
    ]
    return _chart(
        session,
        "energy",
        common,
        prefix,
        models,
        title="Energy of training",
        x=Axis("joules for 1,000 training images", from_zero=True),
        y=Axis("", names=tuple(common.names[model] for model in models)),
        series=tuple(series),
        stacked=True,  # each bar alone at its height, in its model's colour
        words=(
            f"Joules that the whole device took for 1,000 training images, idle power included, by "
            f"{session['energy']['source']}; one figure a model, without an interval.",
        ),
    )
