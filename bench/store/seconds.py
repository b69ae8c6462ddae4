"""The seconds of runs that trained together. Example: runs = with_seconds(store.runs())

Their records have none: what a clock counted while several took turns is no training's own. Readers get those of the
run of the same work that trained alone: its images per second, times the images that each saw (issue 20).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bench.store.records import FinishedRun, RunRecord


def with_seconds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs in their order; those that trained together with the seconds of the run that their record names.

    Where that one is not among `runs`, or did not train alone either, they stay without.
    """
    alone = {run.run_id: run for run in runs if isinstance(run, FinishedRun) and not run.shared_device}
    return [_timed(run, alone.get(run.seconds_from)) if isinstance(run, FinishedRun) else run for run in runs]


def _timed(run: FinishedRun, alone: FinishedRun | None) -> FinishedRun:
    if alone is None or run.metrics.train_seconds is not None:
        return run
    first, seconds = alone.spec.recipe.batch_size, alone.metrics.train_seconds
    steady = alone.metrics.samples_seen - alone.metrics.segments * first  # a segment's first step is not in its seconds
    if not seconds or steady <= 0:
        return run

    def seconds_of(samples: int) -> float:
        return max(0, samples - first) * seconds / steady

    history = tuple(replace(row, train_seconds=seconds_of(row.samples_seen)) for row in run.history)
    metrics = replace(run.metrics, train_seconds=seconds_of(run.metrics.samples_seen))
    return replace(run, metrics=metrics, history=history)
