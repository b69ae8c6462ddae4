"""Clocks, checkpoints, progress and interruption. Example: to_end(supervise(training, validate, clocks, report))

One clock counts training and pauses for validation and checkpoints; the first step of a process, which allocates,
autotunes and compiles, is counted by another.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

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
    """`first`: the first step of this process; `steady`: all others; `phases`: the whole run, to the last second.

    Not `alone`: other trainings take turns in this process, and what these count is no training's own.
    """

    first: Clock
    steady: Clock
    phases: Phases = field(default_factory=Phases)
    alone: bool = True

    @classmethod
    def of(
        cls,
        now: Callable[[], float],
        synchronize: Callable[[], None],
        phases: Phases | None = None,
        alone: bool = True,
    ) -> Clocks:
        """Both with the same source of time; `synchronize` waits for the device, which matters only where `alone`."""
        wait = synchronize if alone else _no_wait
        return cls(Clock(now, wait), Clock(now, wait), phases or Phases(now), alone)


def _no_wait() -> None:
    pass


@contextlib.contextmanager
def noticing_pauses(note: Callable[[str], None]) -> Iterator[None]:
    """Notes, at the end, that this process was stopped and continued meanwhile: its clocks went on.

    A batch system suspends jobs so, and so does a debugger. Does nothing outside the main thread, which alone may
    handle signals. Several at once may end in any order.
    """
    if not hasattr(signal, "SIGCONT") or threading.current_thread() is not threading.main_thread():
        yield
        return
    pauses = _Pauses.here()
    before = pauses.continued
    try:
        yield
    finally:
        pauses.listeners -= 1
        if not pauses.listeners:
            signal.signal(signal.SIGCONT, pauses.earlier)
        if continued := pauses.continued - before:
            times = plural(continued, "time")
            note(f"the process was continued after a stop {times} (SIGCONT): the seconds measured include the pause")


@dataclass
class _Pauses:
    """How often this process was continued since somebody began to listen."""

    earlier: Any  # the handler to be put back
    listeners: int = 0
    continued: int = 0

    def count(self, number: int, frame: object) -> None:
        self.continued += 1

    @classmethod
    def here(cls) -> _Pauses:
        """The process's own, with one more listener."""
        handler = signal.getsignal(signal.SIGCONT)
        pauses = getattr(handler, "__self__", None)
        if not isinstance(pauses, cls):
            pauses = cls(handler)
            signal.signal(signal.SIGCONT, pauses.count)
        pauses.listeners += 1
        return pauses


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
    train_seconds: float | None  # None: others took turns in the same process
    samples_seen: int
    segments: int = 1  # one more for each resumption; the first step of each is not in train_seconds
    setting_used: str = "eager"  # what really ran the steps
    from_cache: bool | None = None  # whether the first step took all compiled code from the cache; None: it needed none
    runs_at_once: int = 1  # on the device, the most of any segment: above 1 the seconds mean nothing
    together: int = 1  # in one process, the most of any segment
    target: float | None = None  # named before the first step


T = TypeVar("T")
Turns = Generator[None, None, T]  # yields after each training step, when another may have its turn; returns its result


def to_end(turns: Turns[T]) -> T:
    """All turns at once."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            value: T = end.value
            return value


def supervise(
    training: Training,
    validate: Callable[[], Evaluation],
    clocks: Clocks,
    report: Report,
    keeper: Keeper | None = None,
) -> Turns[Trained]:
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
                    yield from _steps(events, progress.step + 1 if first else end, report, keeper)
                if progress.step < end and not first:
                    save()
                first = False
            validated = next(events)
            assert isinstance(validated, Validated)
            evaluation = validated.evaluation
            alone = clocks.alone and progress.together == 1
            progress.history.append(_row(training, validated, clocks.steady.seconds if alone else None))
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
        clocks.steady.seconds if progress.together == 1 else None,
        samples_seen=training.course.samples,
        segments=progress.segments,
        setting_used=training.step.used,
        from_cache=training.step.from_cache,
        runs_at_once=progress.runs_at_once,
        together=progress.together,
        target=progress.target,
    )


def _steps(events: Iterator[Stepped | Validated], end: int, report: Report, keeper: Keeper | None) -> Turns[None]:
    """Take steps until the `end`-th, or until a checkpoint is due."""
    for event in events:
        assert isinstance(event, Stepped)
        report(StepDone(event.step))
        yield
        if event.step == end or (keeper is not None and keeper.due()):
            return


def _row(training: Training, validated: Validated, seconds: float | None) -> Epoch:
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
