"""Clocks, checkpoints, progress and interruption of a training. Example: supervise(training, validate, clocks, report)

One clock counts training and pauses for validation and checkpoints; the first step of a process, which allocates,
autotunes and compiles, is counted by another.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from bench.core.errors import Interrupted
from bench.core.events import Epoch, EpochDone, Report, StepDone
from bench.core.text import plural
from bench.measure.checkpoint import State
from bench.measure.evaluate import Evaluation
from bench.measure.phases import Phases
from bench.measure.train import Stepped, Training, Validated, snapshot, train


class Clock:
    """Seconds of training only. `now` and `synchronize` are injected: a test counts exactly when they are called."""

    def __init__(self, now: Callable[[], float], synchronize: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._now, self._synchronize = now, synchronize

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside; the device has finished before each reading."""
        self._synchronize()
        start = self._now()
        try:
            yield
        finally:  # an interrupted stretch was trained all the same, and is saved
            self._synchronize()
            self.seconds += self._now() - start


@dataclass(frozen=True)
class Clocks:
    """`first`: the first step of this process; `steady`: all others; `phases`: the whole run, to the last second."""

    first: Clock
    steady: Clock
    phases: Phases = field(default_factory=Phases)

    @classmethod
    def of(cls, now: Callable[[], float], synchronize: Callable[[], None], phases: Phases | None = None) -> Clocks:
        """Both with the same source of time."""
        return cls(Clock(now, synchronize), Clock(now, synchronize), phases or Phases(now))


@contextlib.contextmanager
def noticing_pauses(note: Callable[[str], None]) -> Iterator[None]:
    """Notes, at the end, that this process was stopped and continued meanwhile: its clocks went on.

    A batch system suspends jobs so, and so does a debugger. Does nothing outside the main thread, which alone may
    handle signals.
    """
    continued = 0

    def count(number: int, frame: object) -> None:
        nonlocal continued
        continued += 1

    if not hasattr(signal, "SIGCONT") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCONT, count)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)
        if continued:
            times = plural(continued, "time")
            note(f"the process was continued after a stop {times} (SIGCONT): the seconds measured include the pause")


class Keeper(Protocol):
    """Where checkpoints go (bench.measure.checkpoint)."""

    def due(self) -> bool:
        """Whether it is time for one."""

    def save(self, step: int, state: State) -> None:
        """Keep `state`, which holds tensors and plain data only."""


@dataclass(frozen=True)
class Trained:
    """What a training took. `first_step_seconds` is apart: it holds allocation, autotuning and compilation."""

    history: tuple[Epoch, ...]
    validation: Evaluation  # after the last step
    first_step_seconds: float
    train_seconds: float
    samples_seen: int
    segments: int = 1  # one more for each resumption; the first step of each is not in train_seconds
    setting_used: str = "eager"  # what really ran the steps
    from_cache: bool | None = None  # whether the first step took all compiled code from the cache; None: it needed none
    runs_at_once: int = 1  # on the device, the most of any segment: above 1 the seconds mean nothing
    target: float | None = None  # named before the first step


def supervise(
    training: Training,
    validate: Callable[[], Evaluation],
    clocks: Clocks,
    report: Report,
    keeper: Keeper | None = None,
) -> Trained:
    """Train to the end. Interrupted, raised by `report` or `validate`, is passed on after a last checkpoint."""

    def looked() -> Evaluation:
        with phases.of("validation"):
            return validate()

    phases = clocks.phases
    progress, events = training.progress, train(training, looked)
    phases.enter("training")
    clocks.steady.seconds = progress.train_seconds
    first, evaluation = True, None

    def save() -> None:
        if keeper is not None:
            progress.train_seconds = clocks.steady.seconds
            progress.first_step_seconds = progress.first_step_seconds or clocks.first.seconds
            with phases.of("saving"):
                keeper.save(progress.step, snapshot(training))

    try:
        while (mark := training.next_mark) is not None:
            while progress.step < mark:
                end = min(mark, (progress.step // training.batches.steps + 1) * training.batches.steps)
                clock = clocks.first if first else clocks.steady
                with phases.of("first step" if first else "training"), clock.running():
                    _steps(events, progress.step + 1 if first else end, report, keeper)
                if progress.step < end and not first:
                    save()
                first = False
            validated = next(events)
            assert isinstance(validated, Validated)
            evaluation = validated.evaluation
            progress.history.append(_row(training, validated, clocks.steady.seconds))
            report(EpochDone(progress.history[-1]))
        if evaluation is None:  # interrupted after the last validation
            evaluation = looked()
    except Interrupted:
        save()
        raise
    finally:
        events.close()  # with the thread that draws ahead
    return Trained(
        tuple(progress.history),
        evaluation,
        progress.first_step_seconds or clocks.first.seconds,
        clocks.steady.seconds,
        samples_seen=training.course.samples,
        segments=progress.segments,
        setting_used=training.step.used,
        from_cache=training.step.from_cache,
        runs_at_once=progress.runs_at_once,
        target=progress.target,
    )


def _steps(events: Iterator[Stepped | Validated], end: int, report: Report, keeper: Keeper | None) -> None:
    """Take steps until the `end`-th, or until a checkpoint is due."""
    for event in events:
        assert isinstance(event, Stepped)
        report(StepDone(event.step))
        if event.step == end or (keeper is not None and keeper.due()):
            return


def _row(training: Training, validated: Validated, seconds: float) -> Epoch:
    passes = validated.step / training.batches.steps
    return Epoch(
        epoch=int(passes) if passes.is_integer() else passes,
        train_loss=validated.train_loss,
        val_loss=validated.evaluation.loss,
        val_accuracy=validated.evaluation.accuracy,
        lr=validated.lr,
        train_seconds=seconds,
        samples_seen=training.course.seen(validated.step),
    )
