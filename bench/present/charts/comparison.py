"""All charts of one comparison. Example: charts_of_comparison(comparison, by_id, common, "cifar10-shared-50ep")"""

from __future__ import annotations

from collections.abc import Mapping

from bench.analysis.tables import Comparison, like_the_newest
from bench.present.charts.accuracy import MEASURES, accuracy_against, throughput
from bench.present.charts.curves import POSITIONS, learning_curves
from bench.present.charts.model import Chart
from bench.present.charts.parts import Common, Scope, facets_of
from bench.present.charts.phases import phases_of_runs
from bench.present.charts.target import times_to_target
from bench.store.records import FailedRun, FinishedRun, RunRecord


def charts_of_comparison(
    comparison: Comparison, by_id: Mapping[str, RunRecord], common: Common, prefix: str
) -> list[Chart]:
    """Every chart that a comparison has data for; `prefix` begins the names of their files."""
    assert comparison.conditions is not None  # of a comparison with rows
    scope = Scope(common, prefix, comparison.title, facets_of(comparison.conditions), comparison.differs)
    runs = runs_of(comparison, by_id)
    failed = [by_id[failure.run_id] for failure in comparison.failures if failure.status == "diverged"]
    diverged = [run for run in failed if isinstance(run, FailedRun)]
    charts = [accuracy_against(comparison, measure, runs, scope) for measure in MEASURES]
    charts += [learning_curves(runs, position, scope) for position in POSITIONS]
    charts += times_to_target(runs, diverged, scope)
    charts += [throughput(comparison, scope), phases_of_runs(runs, scope)]
    return [chart for chart in charts if chart is not None]


def runs_of(comparison: Comparison, by_id: Mapping[str, RunRecord]) -> dict[str, list[FinishedRun]]:
    """The runs behind each row: those of a model's newest code and recipe, by seed."""
    groups: dict[str, list[FinishedRun]] = {row.model: [] for row in comparison.rows}
    for run_id in comparison.run_ids:
        run = by_id[run_id]
        if isinstance(run, FinishedRun):
            groups[run.spec.model].append(run)
    return {model: sorted(like_the_newest(group), key=lambda run: run.spec.seed) for model, group in groups.items()}
