"""Charts of one speed session: batch sizes, ceilings, parts of a step, energy. Example: subject_of(session)

Only for sessions of the `time` command: the short ones after a sweep have a single batch size (accuracy.throughput).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import combinations

from bench.analysis.sessions import about_limit, about_starts, setting_of, turns, why_ended
from bench.core.stats import Interval
from bench.core.text import plural, significant
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import Common, Draft, Scope, finish, listed, one_line, whole_percent
from bench.store.records import Bound, Ceilings, OperatorGroups, Session
from bench.store.views import Row, speed_rows

PART_SHADES = (2, 1, 3, 5, 6, 4)  # of COLOURS, the largest part of a step first
REST, REST_SHADE = "everything else", 0


def charts_of_session(session: Session, common: Common, prefix: str, differs: Sequence[str] = ()) -> list[Chart]:
    """Every chart that a session has data for; `prefix` begins the names of their files."""
    recipe = {} if session.recipes else {"recipe": session.recipe.name}
    facets = {"device": str(session.key.device_name), **recipe}
    scope = Scope(common, prefix, subject_of(session), facets, differs)
    rows = [row for row in speed_rows(session) if row["status"] == "ok"]
    drafts = [
        _training_vs_batch(session, rows, common),
        _throughput_vs_batch(session, rows, common),
        _latency_vs_batch(session, rows, common),
        _roofline(session, common),
        _step_time(session, common),
        _energy(session, common),
    ]
    return [finish(draft, scope) for draft in drafts if draft is not None]


def in_words(session: Session) -> dict[str, str]:
    """What a session's charts may differ in from another's, as a title says it."""
    key = session.key
    threads = f" with {plural(key.threads, 'thread')}" if key.threads else ""
    return {
        "size": f"{key.image_size} px",
        "batch": f"training batch {session.recipe.batch_size}",
        "precision": str(key.precision),
        "setting": key.policy.removeprefix("identical:"),
        "device": f"{key.device_name}{threads}",
        "torch": f"torch {key.torch}",
        "day": session.started.replace("T", " ")[:16],
    }


def subject_of(session: Session) -> str:
    """The session in one line."""
    key, (day, _, time) = session.key, session.started.partition("T")
    threads = f", {plural(key.threads, 'thread')}" if key.threads else ""
    return (
        f"Speed session of {day} {time[:5]}: {key.image_size} px, training batch {session.recipe.batch_size}, "
        f"{key.precision}, setting {setting_of(session)} · {key.device_name}{threads}, "
        f"torch {key.torch}"
    )


# --- batch sizes -----------------------------------------------------------------------------------------------------


def _images_per_second(row: Row) -> Interval:
    low, high = (1000 * row["batch_size"] / row[q] for q in ("q3_ms", "q1_ms"))
    return Interval(row["images_per_second"], low, high, row["n"])


def _training_vs_batch(session: Session, rows: Sequence[Row], common: Common) -> Draft | None:
    """Training images/s against the batch size, both on log axes, with quartiles, and where the order turns."""
    training = [row for row in rows if row["kind"] == "train"]
    series = _by_batch(session, training, _images_per_second, "images/s", common)
    draft = _against_batch(session, "training_vs_batch", series, common)
    found = [turns(a, b, session) for a, b in combinations(session.models, 2)]
    return draft and replace(
        draft,
        title=f"Training speed against batch size, {setting_of(session)}",
        y=Axis("training, images/s (median and quartiles)", log=True),
        sentences=(
            "Training images/s at several batch sizes: medians with quartiles.",
            *(f"{one_line(text)}." for text in found if text),
            *draft.sentences,
        ),
    )


def _throughput_vs_batch(session: Session, rows: Sequence[Row], common: Common) -> Draft | None:
    """Inference images/s against the batch size, both on log axes, with quartiles."""
    inference = [row for row in rows if row["kind"] == "inference"]
    series = _by_batch(session, inference, _images_per_second, "images/s", common)
    draft = _against_batch(session, "throughput_vs_batch", series, common)
    return draft and replace(
        draft,
        title=f"Inference speed against batch size, {setting_of(session)}",
        y=Axis("inference, images/s (median and quartiles)", log=True),
        sentences=("Inference images/s at several batch sizes: medians with quartiles.", *draft.sentences),
    )


def _latency_vs_batch(session: Session, rows: Sequence[Row], common: Common) -> Draft | None:
    """Milliseconds of a whole batch against its size, both on log axes, with quartiles."""

    def figures(row: Row) -> Interval:
        return Interval(row["median_ms"], row["q1_ms"], row["q3_ms"], row["n"])

    inference = [row for row in rows if row["kind"] == "inference"]
    known = {(row["model"], row["batch_size"]) for row in inference}
    single = [row for row in rows if row["kind"] == "latency" and (row["model"], row["batch_size"]) not in known]
    series = _by_batch(session, [*inference, *single], figures, "ms", common)
    draft = _against_batch(session, "latency_vs_batch", series, common)
    return draft and replace(
        draft,
        title=f"Latency against batch size, {setting_of(session)}",
        y=Axis("inference, ms per batch (median and quartiles)", log=True),
        sentences=("Milliseconds until a whole batch is classified: medians with quartiles.", *draft.sentences),
    )


def _against_batch(session: Session, key: str, series: Sequence[Series], common: Common) -> Draft | None:
    """A line per model over the batch sizes, without a title; None without any line."""
    if not series:
        return None
    sizes = {mark.x for one in series for mark in one.marks}
    return Draft(
        key=key,
        title="",
        x=Axis("batch size", log=True, ticks=tuple(sorted(sizes))),
        y=Axis(""),
        series=tuple(series),
        sentences=(_about_blocks(session), _not_measured(session, common)),
        models=tuple(one.model for one in series),
    )


def _by_batch(
    session: Session, rows: Sequence[Row], figures: Callable[[Row], Interval], unit: str, common: Common
) -> list[Series]:
    """A line for each model that was timed at two sizes or more."""
    series = []
    for model in session.models:
        timed = sorted((row for row in rows if row["model"] == model), key=lambda row: int(row["batch_size"]))
        if len(timed) > 1:
            labels = [""] * (len(timed) - 1) + [common.names[model]]
            marks = (_at_size(row, figures(row), unit, label) for row, label in zip(timed, labels, strict=True))
            series.append(Series(model, "line", tuple(marks)))
    return series


def _at_size(row: Row, value: Interval, unit: str, label: str) -> Mark:
    quartiles = f"quartiles {significant(value.low)} to {significant(value.high)}, n = {value.n}"
    hover = (one_line(row["model"]), f"batch {row['batch_size']}", f"{significant(value.value)} {unit}", quartiles)
    return Mark(row["batch_size"], value.value, y_low=value.low, y_high=value.high, label=label, hover=hover)


def _about_blocks(session: Session) -> str:
    blocks = plural(session.blocks, "block")
    about = f"{blocks}, each with every model once in random order: {why_ended(session)}."
    return " ".join(filter(None, (about, about_starts(session), about_limit(session))))


def _not_measured(session: Session, common: Common) -> str:
    """What did not fit or failed, so that a line that ends early is explained."""
    lost = [
        f"{common.names.get(f.model, one_line(f.model))} {f.kind}"
        + (f" at {f.batch_size}" if f.batch_size else "")
        + f" ({f.status})"
        for f in session.failures
    ]
    return f"Not measured: {listed(lost)}." if lost else ""


# --- roofline --------------------------------------------------------------------------------------------------------


def _roofline(session: Session, common: Common) -> Draft | None:
    """Training steps under the ceilings measured beside them (Williams et al. 2009, doi:10.1145/1498765.1498785).

    Horizontal: operations per byte read or written by an operator. Vertical: operations per second. Nothing lies above
    the slope (the copy's bandwidth) or the flat part (the matrix product's arithmetic), unless caches help.
    """
    ceilings = session.ceilings
    placed = ((model, _under_roof(model, bound, common)) for model, bound in session.bounds.items())
    marks = {model: mark for model, mark in placed if mark is not None}
    if not ceilings or not marks:
        return None
    without = [common.names[model] for model in session.models if model not in marks]
    return Draft(
        key="roofline",
        title="Training steps under this device's ceilings",
        x=Axis("operations per byte read or written by the operators of a training step", log=True),
        y=Axis("GFLOP/s reached (a multiply-add is two)", log=True),
        series=(
            _roof(ceilings, [mark.x for mark in marks.values()]),
            *(Series(model, "points", (mark,)) for model, mark in marks.items()),
        ),
        sentences=(
            "Each training step with its nearest ceiling and the share of the step that this ceiling explains. The "
            "slope is a large copy, the flat part a large matrix product, both measured in this session; neither "
            "explains a step far below them.",
            f"Not shown, operations not counted: {listed(without)}." if without else "",
        ),
        models=tuple(marks),
    )


def _under_roof(model: str, bound: Bound, common: Common) -> Mark | None:
    """A step's mark; None where its operations were not counted."""
    if not bound.flops_2x or not bound.flops_per_second:
        return None
    nearest = f"{bound.name} {whole_percent(bound.share)}"
    shares = ", ".join(f"{name} {whole_percent(share)}" for name, share in bound.shares.items())
    speed = bound.flops_per_second / 1e9
    return Mark(
        bound.flops_2x / bound.bytes,
        speed,
        label=f"{common.names[model]}: {nearest}",
        hover=(
            one_line(model),
            f"nearest ceiling: {nearest} of the step",
            f"shares of the step: {shares}",
            f"{significant(speed)} GFLOP/s",
        ),
    )


def _roof(ceilings: Ceilings, intensities: Sequence[float]) -> Series:
    """The slope up to where the two ceilings meet, then the flat part."""
    flat, slope = ceilings.flops_per_second / 1e9, ceilings.bytes_per_second / 1e9
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


# --- parts of a step, energy -----------------------------------------------------------------------------------------


def _step_time(session: Session, common: Common) -> Draft | None:
    """Milliseconds of a training step by group of operators, one upon another."""
    models = tuple(model for model in session.models if model in session.groups and session.groups[model].groups)
    if not models:
        return None
    return Draft(
        key="step_time",
        title="Where a training step spends its time",
        x=Axis("milliseconds of a training step", from_zero=True),
        y=Axis("", names=tuple(common.names[model] for model in models)),
        series=tuple(_parts(session, models)),
        sentences=(
            "Milliseconds of one training step by group of operators, from torch's profiler: each operator's own time, "
            "on a GPU that of its kernels. Python between operators belongs to none, so a bar may be shorter than its "
            "step; under the profiler it may be longer. Means of a few steps, without an interval.",
        ),
        models=models,
        stacked=True,
    )


def _parts(session: Session, models: Sequence[str]) -> list[Series]:
    """The largest groups of operators by their names, the others as one."""
    totals: Counter[str] = Counter()
    for model in models:
        totals.update(session.groups[model].groups)
    kept = [name for name, _ in totals.most_common(len(PART_SHADES))]
    if len(totals) == len(kept) + 1:
        kept = [name for name, _ in totals.most_common()]  # one alone need not be called the rest
    parts = [(name, shade) for name, shade in zip(kept, (*PART_SHADES, REST_SHADE), strict=False)]
    series = []
    for name, shade in [*parts, *([(REST, REST_SHADE)] if len(totals) > len(kept) else [])]:
        marks = [_part(model, session.groups[model], name, kept, y) for y, model in enumerate(models)]
        # A series per model, so that choosing one highlights its bar; the legend has each part once.
        drawn = [(m, mark) for m, mark in zip(models, marks, strict=True) if mark.x > 0]
        series += [
            Series(m, "bars", (mark,), name=name if i == 0 else "", shade=shade) for i, (m, mark) in enumerate(drawn)
        ]
    return series


def _part(model: str, step: OperatorGroups, name: str, kept: Collection[str], y: int) -> Mark:
    if name == REST:
        seconds = sum(spent for group, spent in step.groups.items() if group not in kept)
    else:
        seconds = step.groups.get(name, 0.0)
    total = sum(step.groups.values())
    share = whole_percent(seconds / total if total else 0.0)
    hover = (
        one_line(model),
        f"{name}: {significant(1000 * seconds)} ms, {share} of all operators",
        f"step: {significant(1000 * step.step_seconds)} ms",
    )
    return Mark(1000 * seconds, float(y), hover=hover)


def _energy(session: Session, common: Common) -> Draft | None:
    """Joules per 1,000 training images."""
    joules = session.energy.joules_per_1000_images
    models = tuple(model for model in session.models if model in joules)
    if not models:
        return None
    return Draft(
        key="energy",
        title="Energy of training",
        x=Axis("joules per 1,000 training images", from_zero=True),
        y=Axis("", names=tuple(common.names[model] for model in models)),
        series=tuple(Series(m, "bars", (_energy_mark(m, joules[m], y),)) for y, m in enumerate(models)),
        sentences=(
            "Joules that the whole device took per 1,000 training images, idle power included, measured by "
            f"{session.energy.source}; one figure per model, without an interval.",
        ),
        models=models,
        stacked=True,  # each bar alone at its height, in its model's colour
    )


def _energy_mark(model: str, joules: float, y: int) -> Mark:
    shown = significant(joules)
    return Mark(joules, float(y), label=shown, hover=(one_line(model), f"{shown} J per 1,000 training images"))
