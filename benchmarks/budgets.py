"""Do runs keep their budgets? Example: python benchmarks/budgets.py results/local

Reads a store: for every run under a budget what it was asked, what it did, and the ratio. Samples must be exact, FLOPs
within a step; seconds within 3 % on a quiet machine (issue 6), which is why this is no test.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.plan.budget import parse_budget
from bench.store.disk import Store, shared_device


def main(root: Path) -> None:
    """Print a line a run, and the spread of the ratios of each kind of budget."""
    ratios: dict[str, list[float]] = {}
    for run in Store(root).runs():
        recipe, metrics = run["spec"]["recipe"], run.get("metrics", {})
        if run["status"] != "ok" or not recipe["budget"]:
            continue
        budget = parse_budget(recipe["budget"])
        if budget.kind == "seconds" and shared_device(run):
            continue
        done = {
            "samples": metrics["samples_seen"],
            "seconds": metrics["train_seconds"],
            "flops": metrics["samples_seen"] * (metrics.get("train_flops_2x") or 0),
        }[budget.kind]
        ratios.setdefault(budget.kind, []).append(done / budget.amount)
        about = f"{run['spec']['model']}, seed {run['spec']['seed']}, track {recipe['track'] or '–'}"
        print(f"{about}: asked {budget.amount:,.6g} {budget.kind}, did {done:,.6g} ({done / budget.amount:.4f})")
    for kind, found in ratios.items():
        within = sum(abs(ratio - 1) <= 0.03 for ratio in found)
        print(
            f"{kind}: n = {len(found)}, median {statistics.median(found):.4f}, {min(found):.4f} to {max(found):.4f}, "
            f"{within} within 3 %"
        )
    if not ratios:
        print("no finished runs under a budget here")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/local"))
