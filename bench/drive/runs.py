"""The runs of a sweep, carried out by an executor. Example: train_all(plans, todo, context, views, policy)

What a run is as a task, and what its answer means for the store. A run that another process already works on, here or
elsewhere, is left to it. Runs that share a device are for accuracy only: what they measure of the device means nothing,
and their records say so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from bench.core.display import RunDisplay, SeveralRuns
from bench.core.events import Placed
from bench.core.text import plural
from bench.drive.board import ELSEWHERE, RETRIES, Board, Member, Work
from bench.drive.context import SweepContext, surroundings
from bench.drive.describe import titles
from bench.drive.estimates import group_of, sizes_of
from bench.drive.forecast import Size
from bench.drive.planning import Plan
from bench.drive.together import Group, answer_of, arrange, why_again
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Task
from bench.plan.recipes import length
from bench.plan.spec import RunOptions, RunSpec
from bench.store.disk import Store
from bench.store.records import FailedRun, FailedStatus, FinishedRun, RunRecord
from models import registry

# Between two rebuilds of the CSV files: at least so long, and at least so many times the last one's duration.
REFRESH_SECONDS, REFRESH_PAUSE = 60.0, 100.0


@dataclass(frozen=True)
class RunPolicy:
    """How a sweep's runs are to be run. `function`: called for a run, with the arguments of measure.run.child_run."""

    timeout: float | None = None  # seconds for each
    rerun: bool = False  # repeat finished runs
    target: float | None = None  # validation accuracy to be timed
    retries: int = RETRIES  # of a run whose machine was lost
    together: int | None = None  # seeds of a model in one process; None: what is worth it
    keep_weights: bool = False  # of each, beside its record
    function: str = "bench.measure.run:child_run"


@dataclass
class TrainedRuns:
    """What became of a sweep's runs: how many failed; by planned run_id, the finished ones as the device did them."""

    failures: int = 0
    finished: dict[str, RunSpec] = field(default_factory=dict)


class Views:
    """Keeps the CSV files fresh during a sweep at a cost that grows with its length, not with its square.

    A rebuild takes longer the more runs there are; the pause after it is a hundred times as long.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._next = now() + REFRESH_SECONDS

    def rebuild(self) -> None:
        """Rebuild now."""
        start = self._now()
        self._store.rebuild_views()
        end = self._now()
        self._next = end + max(REFRESH_SECONDS, REFRESH_PAUSE * (end - start))

    def rebuild_if_due(self) -> None:
        """Rebuild where the pause is over."""
        if self._now() >= self._next:
            self.rebuild()


def train_all(plans: list[Plan], todo: set[str], context: SweepContext, views: Views, policy: RunPolicy) -> TrainedRuns:
    """Do every run of the plans whose name is in `todo` once, here or in another process that has it already."""
    runs = _Runs(plans, todo, context, policy)
    made = arrange(plans, todo, policy.together, context, policy.rerun)
    for spec, _ in made.single:
        runs.add(spec)
    for group in made.groups:
        runs.add_group(group)
    runs.board.run(runs.settle, views.rebuild_if_due)
    return runs.result


class _Runs:
    """The runs of a sweep on a board."""

    def __init__(self, plans: list[Plan], todo: set[str], context: SweepContext, policy: RunPolicy) -> None:
        self.board, self.result = Board(context.executor, context.display, policy.retries), TrainedRuns()
        self._context, self._policy, self._store = context, policy, context.store
        every = [spec for plan in plans for spec in plan.specs]
        self._numbers = {spec.run_id: number for number, spec in enumerate(every, 1)}
        self._planned = {spec.run_id: (spec, plan) for plan in plans for spec in plan.specs if spec.run_id in todo}
        self._before = {name: self._store.record(spec) for name, (spec, _) in self._planned.items()}
        self._sizes = sizes_of(list(self._planned.values()), self._store) if context.seats > 1 else {}
        self._names = titles(every)
        self._groups: dict[str, Group] = {}  # by the name of their work
        self._waiting: dict[str, list[Group]] = defaultdict(list)  # for the pace of a run that is not done yet

    def add(self, spec: RunSpec) -> None:
        """A run by itself."""
        self.board.add(self._work(spec))

    def add_group(self, group: Group) -> None:
        """Runs that train together, once the one alone has ended: it may give a pace, or have to be replaced.

        Where that would leave a device idle, and the length is known, they do not wait.
        """
        timed = length(group.alone.recipe).kind == "seconds"
        if group.alone.run_id in self._planned and (timed or self._context.seats == 1):
            self._waiting[group.alone.run_id].append(group)
        else:
            self.board.add(self._group_work(group, self._samples_of(group.alone) if timed else None))

    def settle(self, work: Work, device: Device, answer: Answer, display: RunDisplay) -> None:
        """The end of a run, or of several."""
        self._store.adopt(answer.files, self._policy.rerun)
        if (group := self._groups.get(work.name)) is None:
            self._settle_one(self._planned[work.name][0], work, device, answer, display)
        else:
            assert isinstance(display, SeveralRuns)
            for spec in group.specs:
                shown, own = display.of[spec.run_id], answer_of(answer, spec.run_id)
                if own is None:
                    shown.line(why_again(answer, spec.run_id))
                    self.board.again(self._work(spec))
                else:
                    self.board.ended(self._settle_one(spec, work, device, own, shown))
        for group in self._waiting.pop(work.name, []):
            self._release(group)

    def _settle_one(self, spec: RunSpec, work: Work, device: Device, answer: Answer, display: RunDisplay) -> bool:
        placed = as_placed(spec, device, answer)
        attempt = Attempt(placed, self._before[spec.run_id], work.started, answer, self._policy.rerun)
        well = settle_run(attempt, self._store, display)
        if well:
            self.result.finished[spec.run_id] = placed
            if placed.run_id != spec.run_id:
                self._store.forget_failure(spec)
        else:
            self.result.failures += 1
        return well

    def _release(self, group: Group) -> None:
        """A group whose run alone has ended; if not well, the next one trains alone."""
        alone = self.result.finished.get(group.alone.run_id)
        if alone is not None:
            timed = length(alone.recipe).kind == "seconds"
            self.board.add(self._group_work(group, self._samples_of(alone) if timed else None))
            return
        following, *rest = group.specs
        self.add(following)
        if len(rest) > 1:
            self.add_group(replace(group, specs=tuple(rest), alone=following))
        elif rest:
            self.add(rest[0])

    def _samples_of(self, spec: RunSpec) -> int | None:
        """How many images a finished run saw."""
        record = self._store.record(spec)
        return record.metrics.samples_seen if isinstance(record, FinishedRun) else None

    def _work(self, spec: RunSpec) -> Work:
        name, plan = spec.run_id, self._planned[spec.run_id][1]
        return Work(
            name=name,
            title=self._title(spec),
            short=self._names[name],
            batch_size=spec.recipe.batch_size,
            task=lambda device, alone: task_of(spec, plan, device, alone, self._context, self._policy),
            before=lambda: done_meanwhile(spec, self._before[name], self._store),
            size=self._sizes.get(group_of(spec), Size(group_of(spec))),
        )

    def _group_work(self, group: Group, samples: int | None) -> Work:
        first, count = group.specs[0], len(group.specs)
        name = f"{first.run_id} and {count - 1} more"
        self._groups[name] = group
        return Work(
            name=name,
            title=name,
            short=name,
            batch_size=first.recipe.batch_size,
            task=lambda device, alone: group_task(group, samples, device, self._context, self._policy),
            size=Size(f"{group_of(first)} {count}"),
            turn=1,
            members=tuple(
                Member(spec.run_id, f"{self._title(spec)}, together with {count - 1} more", self._names[spec.run_id])
                for spec in group.specs
            ),
        )

    def _title(self, spec: RunSpec) -> str:
        return f"{self._names[spec.run_id]} ({self._numbers[spec.run_id]} of {len(self._numbers)})"


# --- a run as a task -------------------------------------------------------------------------------------------------


def task_of(spec: RunSpec, plan: Plan, device: Device, alone: bool, context: SweepContext, policy: RunPolicy) -> Task:
    """A run for a device, beside those with which it will share it."""
    colocation, variables = surroundings(device, alone, spec.deterministic)
    here = replace(spec, device_name=device.kind or spec.device_name)
    options = RunOptions(policy.rerun, colocation, policy.target, keep_weights=policy.keep_weights)
    return context.task(
        spec.run_id,
        policy.function,
        (here, plan.source, context.store.root, options),
        share=1.0 if alone else 1.0 / device.runs_at_once,
        timeout=policy.timeout,
        environment=tuple(variables.items()),
    )


def group_task(group: Group, samples: int | None, device: Device, context: SweepContext, policy: RunPolicy) -> Task:
    """Runs for a device, in one process; none may take longer than they would one by one."""
    first = group.specs[0]
    colocation, variables = surroundings(device, True, first.deterministic)

    def here(spec: RunSpec) -> RunSpec:
        return replace(spec, device_name=device.kind or spec.device_name)

    options = RunOptions(
        rerun=policy.rerun,
        colocation=colocation,
        target=policy.target,
        together=policy.together or 0,
        seconds_from=here(group.alone).run_id,
        samples=samples,
        keep_weights=policy.keep_weights,
    )
    return context.task(
        first.run_id,
        "bench.measure.together:child_runs",
        ([(spec.run_id, here(spec)) for spec in group.specs], group.plan.source, context.store.root, options),
        timeout=policy.timeout and policy.timeout * len(group.specs),
        environment=tuple(variables.items()),
    )


def done_meanwhile(spec: RunSpec, before: RunRecord | None, store: Store) -> Outcome | None:
    """Why a run need not start: another process is running it, or has ended it since the sweep began; else None."""
    if owner := store.owner(spec.run_id):
        return Outcome("busy", owner)
    record = store.record(spec)
    if record is None or record == before or record.status in ("killed", "interrupted"):
        return None
    return Outcome(record.status)


# --- an answer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: the run, its earlier record, when it started, its answer, whether it was to be repeated."""

    spec: RunSpec
    before: RunRecord | None
    started: str
    answer: Answer
    rerun: bool


def as_placed(spec: RunSpec, device: Device, answer: Answer) -> RunSpec:
    """The run as that of the device that did it: the run itself reports which one that was."""
    placed = answer.event(Placed)
    return replace(spec, device_name=placed.device_name if placed else device.kind or spec.device_name)


def settle_run(attempt: Attempt, store: Store, display: RunDisplay) -> bool:
    """Show how a run ended, and make a failure a record. Returns whether it ended well."""
    spec, outcome, record = attempt.spec, attempt.answer.outcome, store.record(attempt.spec)
    unchanged = attempt.rerun and record == attempt.before
    if outcome.status == "ok" and (not isinstance(record, FinishedRun) or unchanged):
        outcome = Outcome("failed", "its process ended early and left no record")  # a model that calls sys.exit
    if attempt.answer.where == ELSEWHERE:
        display.ended(outcome.status == "ok", f"{outcome.status}: done meanwhile by {ELSEWHERE}")
        return outcome.status == "ok"
    if outcome.status == "ok":
        assert isinstance(record, FinishedRun)
        (store.run_dir(spec) / "traceback.txt").unlink(missing_ok=True)  # of an earlier attempt
        display.ended(True, result_line(record))
        return True
    where = ""
    if outcome.traceback:
        where = f" (traceback: {save_traceback(store, spec, outcome.traceback)})"
    store.write_failure(failure_record(spec, outcome, attempt.started))
    display.ended(False, f"{outcome.status}: {outcome.message}{where}")
    return False


def failure_record(spec: RunSpec, outcome: Outcome, started: str) -> FailedRun:
    """A run that did not end well is a row all the same."""
    status: FailedStatus = outcome.status if outcome.status in get_args(FailedStatus) else "failed"  # type: ignore[assignment]
    family = registry.family(spec.model)
    return FailedRun(
        run_id=spec.run_id, status=status, message=outcome.message, spec=spec, family=family, started=started
    )


def save_traceback(store: Store, spec: RunSpec, text: str) -> Path:
    """Keep a failed run's traceback beside its record."""
    store.write({f"runs/{spec.run_id}/traceback.txt": text.encode()})
    return store.run_dir(spec) / "traceback.txt"


def result_line(record: FinishedRun) -> str:
    """What a finished run achieved, for the screen."""
    metrics = record.metrics
    accuracy = f"test accuracy {100 * metrics.accuracy:.2f} %"
    if record.shared_device:
        beside = f", trained together with {plural(metrics.together - 1, 'other seed')}" if metrics.together > 1 else ""
        return accuracy + beside
    cached = ", from the compiler's cache" if record.first_step_from_cache else ""
    first = f"first step {metrics.first_step_seconds:.1f} s{cached}"
    return f"{accuracy}, {metrics.train_seconds:.1f} s of training, {first}"
