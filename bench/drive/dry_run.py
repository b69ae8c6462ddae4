"""What a sweep would do, and how long it would take. Example: python run_bench.py --dry-run"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.display import Display
from bench.core.text import duration
from bench.drive.context import SweepContext
from bench.drive.describe import describe
from bench.drive.estimates import Estimator
from bench.drive.forecast import makespan
from bench.drive.lr_search import PendingSearch
from bench.drive.planning import Plan
from bench.drive.together import arrange


@dataclass(frozen=True)
class Searches:
    """Searches before the runs: seconds of those for settings, and those for learning rates."""

    setting_seconds: float
    learning_rates: Sequence[PendingSearch]


def show_plans(plans: list[Plan], rerun: bool, together: int | None, searches: Searches, context: SweepContext) -> None:
    """Print every run and search with its estimate: from earlier runs, else from a step timed now in a child."""
    store, display, devices = context.store, context.display, context.executor.devices()
    estimator, runs = Estimator(store.runs(), context.executor.remote), list[float]()
    for plan in plans:
        display.line(describe(plan, devices))
        for spec in plan.specs:
            title = f"  {spec.model}, seed {spec.seed}: "
            if store.is_done(spec) and not rerun:
                display.line(f"{title}done already")
                continue
            seconds, origin = estimator.estimate(spec, len(plan.dataset.train_index))
            runs += _show(title, seconds, origin, display)
    trials: list[float] = []
    for search in searches.learning_rates:
        seconds, origin = estimator.estimate(search.first, search.train_images)
        title = f"  {search.first.model}, search for the lr of recipe {search.first.recipe.name}: "
        trials += _show(title, seconds and seconds * search.times_as_long, origin, display)
    free = [0.0] * len(devices)
    before = makespan(sorted(trials, reverse=True), free) + searches.setting_seconds
    total = before + makespan(sorted(runs, reverse=True), free)
    where = f"on {len(devices)} devices" if len(devices) > 1 else "in all"
    share = f", {duration(before)} of it searches" if before else ""
    todo = {spec.run_id for plan in plans for spec in plan.specs if rerun or not store.is_done(spec)}
    if groups := arrange(plans, todo, together, context, rerun).groups:
        beside, most = sum(len(group.specs) for group in groups), max(len(group.specs) for group in groups)
        display.line(
            f"{beside} of the runs train up to {most} at once (--together): less than the sum, which is one by one"
        )
    display.line(f"about {duration(total)} {where}{share}; evaluation and the timing pass not counted; nothing was run")


def _show(title: str, seconds: float | None, origin: str, display: Display) -> list[float]:
    """Print one estimate, or why there is none; returns its seconds, if there are any."""
    if seconds is None:
        display.line(f"{title}{origin}")
        return []
    display.line(f"{title}about {duration(seconds)} of training (from {origin})")
    return [seconds]
