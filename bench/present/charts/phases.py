"""Where the wall-clock of runs goes. Example: phases_of_runs(runs, scope)"""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.text import plural, significant
from bench.present.charts.accuracy import Runs
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import Draft, Scope, finish, one_line, spread, whole_percent
from bench.store.records import FinishedRun

# Phases that a bar shows as one, by the name in the legend: a chart has seven colours.
PARTS: dict[str, tuple[str, ...]] = {
    "training": ("training",),
    "first step": ("first step",),
    "validation": ("validation",),
    "test": ("test",),
    "data, build, count, move": ("data", "build", "count", "move"),
    "start": ("start",),
    "saving": ("saving",),
}


def phases_of_runs(runs: Runs, scope: Scope) -> Chart | None:
    """Mean seconds of a run by phase, one upon another; None where no run recorded them."""
    known = {model: [run for run in group if run.phases and not run.shared_device] for model, group in runs.items()}
    known = {model: group for model, group in known.items() if group}
    if not known:
        return None
    names = scope.common.names
    draft = Draft(
        key="phases",
        title="Where a run spends its time",
        x=Axis("seconds of a run", from_zero=True),
        y=Axis("", names=tuple(names[model] for model in known)),
        series=tuple(
            Series(model, "bars", (_mark(model, part, group, y),), name=part if y == 0 else "", shade=shade)
            for shade, part in enumerate(PARTS)
            for y, (model, group) in enumerate(known.items())
        ),
        sentences=(
            "Wall-clock seconds of a run from the start of its process to its record, by phase; means of "
            f"{spread([len(group) for group in known.values()], 'run')} per model, without an interval. A resumed run "
            "shows the process that finished it.",
            *_about_compiling([run for group in known.values() for run in group]),
        ),
        models=tuple(known),
        stacked=True,
    )
    return finish(draft, scope)


def _about_compiling(runs: Sequence[FinishedRun]) -> list[str]:
    """How many first steps compiled, in a sentence; none where nothing was to be compiled."""
    compiled = [run.first_step_from_cache for run in runs if run.first_step_from_cache is not None]
    if not compiled:
        return []
    return [f"Of {plural(len(compiled), 'first step')} under a compiler, {sum(compiled)} found all code in its cache."]


def _mark(model: str, part: str, group: Sequence[FinishedRun], y: int) -> Mark:
    def mean(*phases: str) -> float:
        return sum(seconds for run in group for phase, seconds in run.phases.items() if phase in phases) / len(group)

    seconds, total = mean(*PARTS[part]), mean(*sum(PARTS.values(), ()))
    share = whole_percent(seconds / total if total else 0.0)
    each = [f"{phase}: {significant(mean(phase))} s" for phase in PARTS[part]] if len(PARTS[part]) > 1 else []
    return Mark(seconds, float(y), hover=(one_line(model), f"{part}: {significant(seconds)} s, {share}", *each))
