"""What does the harness cost? Example: python benchmarks/versus_best.py --data cifar10.npz

Compares time and peak memory of our whole training path (progress, clocks, checkpoints) with those of a loop written by
hand for the same model, recipe and setting. benchmarks/duel.py has the method, benchmarks/contenders.py the loops.

On a CPU a turn is shorter than an epoch and contains no validation; --images 1280 --held-out 500 --steps 10 ends an
epoch in every turn. --aa compares the hand-written loop with itself: an interval without 0 then means that the method
is at fault, or that something else was running.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.core.stats import Interval  # noqa: E402
from benchmarks.contenders import Task  # noqa: E402
from benchmarks.duel import Duel, at_most, describe, make_parser, run, save, show  # noqa: E402

NAMES = ("ours", "best")
OVERHEAD_PERCENT = {"cpu": 3.0, "cuda": 1.0}  # at most, by the upper end of the interval
MEMORY = 1.3  # times, at most


def percent(ratio: Interval) -> Interval:
    """By how much a ratio exceeds 1."""
    return Interval(*(100 * (x - 1) for x in ratio[:3]), ratio.n)


def judge(task: Task, duel: Duel) -> str:
    """Overhead and memory, and whether they meet the targets."""
    overhead, target = percent(duel.ratio()), OVERHEAD_PERCENT[task.device]
    lines = [
        f"  overhead of {duel.names[0]} in percent: {show(overhead, duel.unit())}",
        f"  target: upper end at most {target:g} %: {at_most(overhead, target)}",
    ]
    memory = duel.memory_ratio()
    if memory is None:
        lines.append("  peak memory: unknown on this system")
    else:
        lines.append(f"  peak memory of {duel.names[0]}: {show(memory, 'process starts', 3)} times best's")
        lines.append(f"  target: at most {MEMORY}: {at_most(memory, MEMORY)}")
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__ or "", "seresnet,vit_tiny", starts=6, pairs=3)
    parser.add_argument("--aa", action="store_true", help="compare the hand-written loop with itself")
    arguments = parser.parse_args()
    names = ("again", "best") if arguments.aa else NAMES
    duels: dict[str, tuple[Task, Duel]] = {}
    for model in arguments.models.split(","):
        task, duel = duels[model] = run(arguments, names, model)
        print(describe(task, duel), judge(task, duel), sep="\n", flush=True)
        save(arguments.save, duels)


if __name__ == "__main__":
    main()
