"""What of a speed session fits into its limit. Example: plan_rest(60.0, Costs(start=8, block=2), (3, 1), pilot=4)

Pure functions of seconds: bench/measure/session.py measures the first calls and asks them before it begins a part. What
is left out first stands last in this order: training steps at the recipe's batch size, three blocks of one process
start; inference and latency; training steps at other batch sizes; the other process starts; EXTRAS; more blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TRIALS = 0.25  # of the limit at most is spent on trying each model alone
FEWEST_BLOCKS = 3  # of a process start, whatever the limit: fewer give no usable spread
# What a thorough session adds, in the order in which it is kept, with its name in the note on what was left out.
EXTRAS = {
    "limits": "what limits a step",
    "twice": "twice the batch",
    "energy": "energy",
    "groups": "where a step spends its time",
}


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a session: one more process start until its first block, one block, each of EXTRAS."""

    start: float
    block: float
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How many process starts are to be from this one on, the seconds of blocks in each, and which of EXTRAS fit."""

    starts: int
    block_seconds: float
    extras: tuple[str, ...]


def starts_to_choose(asked: int) -> tuple[int, ...]:
    """Numbers of process starts to choose from, the best first: two give no usable interval."""
    return tuple(dict.fromkeys(n for n in (asked, 3, 1) if n <= asked))


def plan_rest(left: float, costs: Costs, choices: Sequence[int], pilot: int) -> Plan:
    """What fits into the seconds left, from the first block of a process start on.

    `choices`: numbers of starts from this one on, the first that fits is taken, or else the last. An extra is kept
    where it and all before it fit beside FEWEST_BLOCKS blocks a start; the last, EXTRAS' profiler, only beside the
    whole `pilot`. Blocks have what remains.
    """
    starts = next((n for n in choices if _fixed(n, costs, FEWEST_BLOCKS) <= left), choices[-1])
    used, kept = 0.0, list[str]()
    for name in (name for name in EXTRAS if name in costs.extras):
        blocks = pilot if name == "groups" else FEWEST_BLOCKS
        if _fixed(starts, costs, blocks) + used + costs.extras[name] > left:
            break
        used += costs.extras[name]
        kept.append(name)
    return Plan(starts, max(0.0, (left - used - (starts - 1) * costs.start) / starts), tuple(kept))


def _fixed(starts: int, costs: Costs, blocks: int) -> float:
    return (starts - 1) * costs.start + starts * blocks * costs.block


@dataclass(frozen=True)
class Called:
    """What is known of a task that ran: seconds of its first call and of a later one."""

    kind: str
    images: int
    first: float
    later: float


def guess(known: Sequence[Called], kind: str, images: int) -> Called:
    """What a task not yet run may take, from those that ran; nothing where none did.

    Seconds grow with the images; inference takes a third of a training step. Fewer images than a known task's take at
    least a tenth of its seconds, for launches. What a first call took beyond a later one (compiling, capturing) is
    taken to come again.
    """
    if not known:
        return Called(kind, images, 0.0, 0.0)
    nearest = min(known, key=lambda one: (one.kind != kind, one.kind != "train", abs(one.images - images)))
    share = max(images / nearest.images, 0.1) * _parts(kind) / _parts(nearest.kind)
    later = nearest.later * share
    return Called(kind, images, later + max(0.0, nearest.first - nearest.later), later)


def _parts(kind: str) -> int:
    return 3 if kind == "train" else 1  # forward, and backward with two products for each of its one


def task_seconds(called: Called, sample_seconds: float) -> float:
    """Seconds that a task adds to the shortest session: its first call, one to size its samples, FEWEST_BLOCKS."""
    return called.first + called.later + FEWEST_BLOCKS * max(sample_seconds, called.later)
