"""What does the harness cost? Example: python benchmarks/versus_best.py --data cifar10.npz

Our whole training path (progress, clocks, checkpoints) against a loop written by hand for the same model, the same
recipe and the same setting, without any of our code around it, in alternating processes: time and peak memory.
The duel is described in benchmarks/duel.py, the loops in benchmarks/contenders.py.

On a CPU a turn is shorter than an epoch, so that no validation is in it. For peak memory with one, and the time of one:
--images 1280 --held-out 500 --steps 10 ends an epoch in every turn. --aa sets the hand-written loop against itself: an
interval that leaves out 0 then says that the duel itself is at fault, or that something else was running.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.core.stats import Interval
from benchmarks.contenders import Task  # noqa: E402
from benchmarks.duel import Duel, at_most, describe, make_parser, run, save, show  # noqa: E402

NAMES = ("ours", "best")
OVERHEAD_PERCENT = {"cpu": 3.0, "cuda": 1.0}  # at most, by the upper end of the interval
MEMORY = 1.3  # times, at most


def percent(ratio: Interval) -> Interval:
    """A ratio as what it is above 1."""
    return Interval(*(100 * (x - 1) for x in ratio[:3]), ratio.n)


def judge(task: Task, duel: Duel) -> str:
    """Overhead and memory beside what was asked."""
    overhead, asked = percent(duel.ratio()), OVERHEAD_PERCENT[task.device]
    lines = [
        f"  overhead of {duel.names[0]} in percent: {show(overhead, duel.unit())}",
        f"  asked: upper end at most {asked:g} %: {at_most(overhead, asked)}",
    ]
    memory = duel.memory_ratio()
    if memory is None:
        lines.append("  peak memory: this system does not say")
    else:
        lines.append(f"  peak memory of {duel.names[0]}: {show(memory, 'process starts', 3)} times best's")
        lines.append(f"  asked: at most {MEMORY}: {at_most(memory, MEMORY)}")
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__ or "", "seresnet,vit_tiny", starts=6, pairs=3)
    parser.add_argument("--aa", action="store_true", help="the hand-written loop against itself")
    arguments = parser.parse_args()
    names = ("again", "best") if arguments.aa else NAMES
    found: dict[str, tuple[Task, Duel]] = {}
    for model in arguments.models.split(","):
        task, duel = found[model] = run(arguments, names, model)
        print(describe(task, duel), judge(task, duel), sep="\n", flush=True)
        save(arguments.save, found)


if __name__ == "__main__":
    main()
