"""What a sweep would do, and how long it would take. Example: python run_bench.py --dry-run"""

from __future__ import annotations

from dataclasses import replace

from bench.core.text import duration
from bench.drive.context import SweepContext
from bench.drive.describe import describe
from bench.drive.estimates import estimate
from bench.drive.forecast import makespan
from bench.drive.planning import Plan
from bench.plan.spec import RunSpec


def show_plans(plans: list[Plan], rerun: bool, search_seconds: float, context: SweepContext) -> None:
    """Print every run with its estimate: from earlier runs, else from a step timed now in a child.

    `search_seconds`: what the searches before them will take, as far as it is known.
    """
    store, display, executor = context.store, context.display, context.executor
    known, lengths = store.runs(), list[float]()
    estimates: dict[RunSpec, tuple[float | None, str]] = {}  # seeds take equally long
    for plan in plans:
        display.line(describe(plan, executor.devices()))
        for spec in plan.specs:
            title = f"  {spec.model}, seed {spec.seed}: "
            if store.is_done(spec) and not rerun:
                display.line(f"{title}done already")
                continue
            of_any_seed = replace(spec, seed=0)
            if of_any_seed not in estimates:
                estimates[of_any_seed] = estimate(spec, len(plan.dataset.train_index), known, executor.remote)
            seconds, origin = estimates[of_any_seed]
            if seconds is None:
                display.line(f"{title}{origin}")
                continue
            lengths.append(seconds)
            display.line(f"{title}about {duration(seconds)} of training (from {origin})")
    count = len(executor.devices())
    total = makespan(sorted(lengths, reverse=True), [0.0] * count) + search_seconds / count
    where = f"on {count} devices" if count > 1 else "in all"
    searches = f", {duration(search_seconds)} of it searches" if search_seconds else ""
    display.line(
        f"about {duration(total)} {where}{searches}; evaluation and the timing pass not counted; nothing was run"
    )
