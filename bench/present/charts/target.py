"""The share of runs that reached a target. Example: times_to_target(runs, diverged, scope)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.analysis.compare import Reached, reach
from bench.core.text import plural, significant
from bench.present.charts.accuracy import Runs
from bench.present.charts.curves import POSITIONS, Position, Progress
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import Draft, Scope, finish, listed
from bench.store.records import FailedRun, FinishedRun


@dataclass(frozen=True)
class Group:
    """One model's runs with the target, and when they reached it."""

    runs: Sequence[FinishedRun]
    reached: Reached


@dataclass(frozen=True)
class Target:
    """A validation accuracy that was named before the runs, and the runs with it, by model."""

    accuracy: float
    groups: Mapping[str, Group]
    other_runs: int  # with another target or none


def times_to_target(runs: Runs, diverged: Sequence[FailedRun], scope: Scope) -> list[Chart]:
    """The share of runs that reached the target named before them, in each way of counting; none without a target.

    Where runs have several targets it is the one that most of them have.
    """
    named = Counter(run.target for group in runs.values() for run in group if run.target is not None)
    if not named:
        return []
    accuracy = named.most_common(1)[0][0]
    with_it = {model: [run for run in group if run.target == accuracy] for model, group in runs.items()}
    groups = {
        model: Group(group, reach(group, accuracy, _diverged_beside(group[0], diverged)))
        for model, group in with_it.items()
        if group
    }
    other_runs = sum(map(len, runs.values())) - sum(map(len, with_it.values()))
    target = Target(accuracy, groups, other_runs)
    charts = [_chart(target, position, scope) for position in POSITIONS if position.name != "epochs"]
    return [chart for chart in charts if chart is not None]


def _diverged_beside(run: FinishedRun, diverged: Sequence[FailedRun]) -> int:
    """How many runs of the same model and recipe diverged: they never reach any target."""
    same = (run.spec.model, run.spec.model_source, run.spec.recipe)
    return sum((other.spec.model, other.spec.model_source, other.spec.recipe) == same for other in diverged)


def _chart(target: Target, position: Position, scope: Scope) -> Chart | None:
    names = scope.common.names
    series, left_out = [], []
    for model, group in target.groups.items():
        times = _times(group, position)
        if times is None:
            left_out.append(names[model])
        else:
            series.append(Series(model, "steps", _steps(group, times, position, names[model])))
    if not series:
        return None
    models = tuple(one.model for one in series)
    shares = "; ".join(f"{names[model]} {target.groups[model].reached.share}" for model in models)
    diverged = sum(target.groups[model].reached.diverged for model in models)
    goal = f"{100 * target.accuracy:g} %"
    draft = Draft(
        key="time_to_target",
        title=f"Runs that reached {goal} by {position.title}",
        x=Axis(position.axis, from_zero=True),
        y=Axis(f"runs that reached {goal} on validation, %", from_zero=True),
        series=tuple(series),
        sentences=(
            f"The share of runs that had reached {goal} validation accuracy, a target named before the runs. "
            f"Reached by {shares}.",
            "A run that was trained to its end without reaching it never does: it has a mark where it ended, and the "
            "curve stays below 100 %. Runs that were stopped before their end are not counted.",
            f"{plural(diverged, 'run')} diverged and will never reach it; included as runs without it."
            if diverged
            else "",
            "Seen at validations only, so a run may have reached it a little earlier.",
            f"Left out: {plural(target.other_runs, 'run')} with another target or none." if target.other_runs else "",
            f"Left out, as {position.name} are unknown or not comparable: {listed(left_out)}." if left_out else "",
        ),
        models=models,
        position=position.name,
        hollow="ended without reaching it",
    )
    return finish(draft, scope)


def _times(group: Group, position: Position) -> list[float] | None:
    """When each run reached the target or ended, as the position counts; None where that is unknown of one of them."""
    counters = [position.counter_of(run) for run in group.runs]
    progress = map(Progress, group.reached.seconds, group.reached.samples)
    times = [counter(at) for counter, at in zip(counters, progress, strict=True) if counter is not None]
    return times if len(times) == len(group.runs) else None


def _steps(group: Group, times: Sequence[float], position: Position, label: str) -> tuple[Mark, ...]:
    """From 0 at the start, a mark per run; open where it ended without having reached the target."""
    reached, marks = group.reached, [Mark(0.0, 0.0)]
    every = len(group.runs) + reached.diverged
    ends = ((time, not there, run) for time, there, run in zip(times, reached.reached, group.runs, strict=True))
    for time, missed, run in sorted(ends, key=lambda end: end[:2]):
        share = 100 * sum(at <= time for at in reached.times(times)) / every
        outcome = "ended without reaching it" if missed else "reached it"
        hover = (
            f"run {run.run_id}",
            f"seed {run.spec.seed}",
            f"{outcome} at {significant(time)} {position.unit}",
            f"{reached.share} reached it",
        )
        marks.append(Mark(time, share, hover=hover, open=missed))
    last = marks.pop()
    return (*marks, replace(last, label=label))
