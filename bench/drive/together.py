"""Which seeds of a model train together. Example: made = arrange(plans, todo, together=4, context=context, rerun=False)

Wall-clock is honest only alone: the first seed of a model trains by itself and gives the seconds, the others take turns
in one process (bench/measure/together.py) and give the statistics.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.core.events import Failed, Finished, TrialDone, of_run
from bench.drive.context import SweepContext
from bench.drive.estimates import group_of
from bench.drive.planning import Plan
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device
from bench.plan.spec import RunSpec
from bench.store.records import FinishedRun

MOST = 8  # in one process, where nobody says how many


@dataclass(frozen=True)
class Group:
    """Runs of one model that differ in the seed; `alone`: the run that gives the seconds."""

    specs: tuple[RunSpec, ...]
    plan: Plan
    alone: RunSpec


@dataclass
class Arrangement:
    """The missing runs: each by itself, or in a group."""

    single: list[tuple[RunSpec, Plan]] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def arrange(
    plans: Sequence[Plan], todo: set[str], together: int | None, context: SweepContext, rerun: bool
) -> Arrangement:
    """The runs in `todo`, by run_id. `together`: how many train in one process at most; None: as many as are worth it
    on a GPU, one on a CPU.
    """
    made = Arrangement()
    most = how_many(together, context.executor.devices())
    rest: list[Group] = []
    for plan in plans:
        by_group: dict[str, list[RunSpec]] = defaultdict(list)
        for spec in plan.specs:
            by_group[group_of(spec)].append(spec)
        for specs in by_group.values():
            missing = [spec for spec in specs if spec.run_id in todo]
            if most == 1 or len(missing) < 2:
                made.single += [(spec, plan) for spec in missing]
                continue
            alone = None if rerun else next((spec for spec in specs if _trained_alone(spec, context)), None)
            if alone is None:
                alone, *missing = missing
                made.single.append((alone, plan))
            rest.append(Group(tuple(missing), plan, alone))
    runs = sum(len(group.specs) for group in rest)
    if together is None:  # nobody waits while devices are idle
        most = min(most, max(1, math.ceil(runs / max(1, context.seats))))
    for group in rest:
        for part in in_parts(group.specs, most):
            if len(part) == 1:
                made.single.append((part[0], group.plan))
            else:
                made.groups.append(Group(part, group.plan, group.alone))
    return made


def how_many(together: int | None, devices: Sequence[Device]) -> int:
    """How many may train in one process."""
    on_gpu = any(device.type == "cuda" for device in devices)
    return together if together is not None else MOST if on_gpu else 1


def in_parts(specs: Sequence[RunSpec], most: int) -> list[tuple[RunSpec, ...]]:
    """Parts of nearly equal size, each of at most `most`, in their order."""
    count = math.ceil(len(specs) / most)
    edges = [round(len(specs) * part / count) for part in range(count + 1)]
    return [tuple(specs[low:high]) for low, high in itertools.pairwise(edges)]


def _trained_alone(spec: RunSpec, context: SweepContext) -> bool:
    record = context.store.record(spec)
    return isinstance(record, FinishedRun) and record.timed_alone


def answer_of(answer: Answer, name: str) -> Answer | None:
    """How one of several ended; None where it must be done again by itself.

    That is where their process ended before it did, where the memory was too little for all, or another process has it.
    """
    events = of_run(answer.events, name)
    ends = [event for event in events if isinstance(event, Failed | Finished | TrialDone)]
    if not ends:
        interrupted = answer.outcome.status == "interrupted"
        return Answer(answer.outcome, answer.where, events) if interrupted else None
    last = ends[-1]
    if not isinstance(last, Failed):
        return Answer(Outcome("ok"), answer.where, events)
    if last.status in ("oom", "busy"):
        return None
    return Answer(Outcome(last.status, last.message, last.traceback), answer.where, events)


def why_again(answer: Answer, name: str) -> str:
    """Why one of several is done again by itself, for the screen."""
    failed = next((e for e in reversed(of_run(answer.events, name)) if isinstance(e, Failed)), None)
    if failed is not None:
        return f"{failed.status}: {failed.message}; retrying by itself"
    return f"their process ended ({answer.outcome.message or answer.outcome.status}); it goes on by itself"
