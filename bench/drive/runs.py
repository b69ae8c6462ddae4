"""The runs of a sweep, carried out by an executor. Example: train_all(plans, todo, context, views, policy)

What a run is as a task, and what its answer means for the store. A run that another process already works on, here or
elsewhere, is left to it. Runs that share a device are for accuracy only: what they measure of the device means nothing,
and their records say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from bench.core.display import RunDisplay
from bench.core.events import Placed
from bench.drive.board import ELSEWHERE, RETRIES, Board, Work
from bench.drive.context import SweepContext, surroundings
from bench.drive.describe import titles
from bench.drive.estimates import group_of, sizes_of
from bench.drive.forecast import Size
from bench.drive.planning import Plan
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Task
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
    store, board = context.store, Board(context.executor, context.display, policy.retries)
    every = [spec for plan in plans for spec in plan.specs]
    numbers = {spec.run_id: number for number, spec in enumerate(every, 1)}
    planned = {spec.run_id: (spec, plan) for plan in plans for spec in plan.specs if spec.run_id in todo}
    before = {name: store.record(spec) for name, (spec, _) in planned.items()}
    sizes = sizes_of(list(planned.values()), store) if context.seats > 1 else {}
    names = titles(every)
    result = TrainedRuns()

    def settle(work: Work, device: Device, answer: Answer, display: RunDisplay) -> None:
        spec = planned[work.name][0]
        store.adopt(answer.files, policy.rerun)
        placed = as_placed(spec, device, answer)
        attempt = Attempt(placed, before[work.name], work.started, answer, policy.rerun)
        if settle_run(attempt, store, display):
            result.finished[work.name] = placed
            if placed.run_id != work.name:
                store.forget_failure(spec)
        else:
            result.failures += 1

    def work_of(spec: RunSpec, plan: Plan) -> Work:
        return Work(
            name=spec.run_id,
            title=f"{names[spec.run_id]} ({numbers[spec.run_id]} of {len(every)})",
            short=names[spec.run_id],
            batch_size=spec.recipe.batch_size,
            task=lambda device, alone: task_of(spec, plan, device, alone, context, policy),
            before=lambda: done_meanwhile(spec, before[spec.run_id], store),
            size=sizes.get(group_of(spec), Size(group_of(spec))),
        )

    for spec, plan in planned.values():
        board.add(work_of(spec, plan))
    board.run(settle, views.rebuild_if_due)
    return result


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
        return accuracy
    return f"{accuracy}, {metrics.train_seconds:.1f} s of training, first step {metrics.first_step_seconds:.1f} s"


@contextlib.contextmanager
def mps() -> Iterator[None]:
    """NVIDIA's Multi-Process Service while this lasts, where it is installed and not running yet; else nothing."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        names = {f"CUDA_MPS_{kind}_DIRECTORY": str(Path(folder) / kind.lower()) for kind in ("PIPE", "LOG")}
        for path in names.values():
            Path(path).mkdir()
        # The daemon would number the one visible GPU anew, and its clients would look for the old number.
        own = {k: v for k, v in {**os.environ, **names}.items() if k != "CUDA_VISIBLE_DEVICES"}
        started = subprocess.run([control, "-d"], env=own, capture_output=True).returncode == 0
        if started:
            os.environ.update(names)
        try:
            yield
        finally:
            if started:
                with contextlib.suppress(subprocess.TimeoutExpired, OSError):  # what was trained is safe already
                    subprocess.run([control], input=b"quit\n", env=own, capture_output=True, timeout=60)
                for name in names:
                    del os.environ[name]
