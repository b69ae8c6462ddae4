"""Do runs keep their budgets? Example: python benchmarks/budgets.py results/local

For every run of a store that had a budget, prints what was asked, what was done, and the ratio. Samples must be exact
and FLOPs within a step; seconds within 3 % on an idle machine, which no test can ask for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.plan.budget import parse_budget  # noqa: E402
from bench.store.disk import Store  # noqa: E402
from bench.store.records import FinishedRun, finished  # noqa: E402


def ratio(run: FinishedRun) -> tuple[str, float] | None:
    """(kind of budget, what was done by what was asked), printed too; None where the run cannot tell."""
    recipe, metrics = run.spec.recipe, run.metrics
    if not recipe.budget:
        return None
    budget = parse_budget(recipe.budget)
    if budget.kind == "seconds" and run.shared_device:
        return None
    done = {
        "samples": float(metrics.samples_seen),
        "seconds": metrics.train_seconds,
        "flops": metrics.samples_seen * (metrics.train_flops_2x or 0),
    }[budget.kind]
    title = f"{run.spec.model}, seed {run.spec.seed}, track {recipe.track or '–'}"
    print(f"{title}: asked {budget.amount:,.6g} {budget.kind}, did {done:,.6g} ({done / budget.amount:.4f})")
    return budget.kind, done / budget.amount


def main() -> None:
    """Print one line per run, and the spread of the ratios of each kind of budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?", default=Path("results/local"))
    arguments = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    for run in finished(Store(arguments.store).runs()):
        if (found := ratio(run)) is not None:
            ratios.setdefault(found[0], []).append(found[1])
    for kind, values in ratios.items():
        within = sum(abs(value - 1) <= 0.03 for value in values)
        print(
            f"{kind}: n = {len(values)}, median {statistics.median(values):.4f}, {min(values):.4f} to "
            f"{max(values):.4f}, {within} within 3 %"
        )
    if not ratios:
        print("no finished runs under a budget here")


if __name__ == "__main__":
    main()
