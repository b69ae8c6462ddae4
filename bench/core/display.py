"""What the driver tells whoever shows a sweep. Example: with display: display.line("hello")

Protocols and plain data: bench.present.screen implements them, tests pass their own, and the driver knows neither.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol

from bench.core.events import BlockDone, Event, ModelTurn, OfRun
from bench.core.text import duration, plural


@dataclass(frozen=True)
class Job:
    """A run to come. `group` is the same for runs that take equally long; `seconds` of training, where known."""

    name: str
    title: str
    group: str
    seconds: float | None = None


@dataclass(frozen=True)
class Tally:
    """How far a sweep is. `seconds_left`: None where there is no estimate."""

    done: int
    failed: int
    running: int
    total: int
    retried: int
    devices: int
    seconds_left: float | None = None

    def words(self, now: datetime) -> str:
        """`12 of 24 done, 1 failed, 4 running on 4 devices; about 12 min left, until 14:32`."""
        parts = [
            f"{self.done} of {self.total} done",
            f"{self.failed} failed" if self.failed else "",
            f"{self.running} running on {plural(self.devices, 'device')}",
            f"{self.retried} retried" if self.retried else "",
        ]
        text = ", ".join(filter(None, parts))
        if self.seconds_left is None or not math.isfinite(self.seconds_left):
            return text
        end = now + timedelta(seconds=self.seconds_left)
        day = "" if end.date() == now.date() else f" of {end:%Y-%m-%d}"
        return f"{text}; about {duration(self.seconds_left)} left, until {end:%H:%M}{day}"


def block_words(event: BlockDone) -> str:
    """`start 1 of 3, block 2 of 4`; the start only where there are several."""
    start = f"start {event.start} of {event.starts}, " if event.starts > 1 else ""
    return f"{start}block {event.block} of {event.blocks}"


def turn_words(event: ModelTurn) -> str:
    """`now vit_tiny, train at 128, 41 s left`; nothing where it is nobody's turn."""
    task = f"{event.kind} at {event.batch_size}" if event.kind else ""
    left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
    return ", ".join(filter(None, (f"now {event.model}", task, left))) if event.model else ""


class RunDisplay(Protocol):
    """Shows one run."""

    def line(self, text: str) -> None:
        """Something worth reading later."""

    def event(self, event: Event) -> None:
        """Whatever the run's process reports."""

    def ended(self, well: bool, text: str) -> None:
        """What it found, or how it failed; never called where another process has the run."""


@dataclass(frozen=True)
class SeveralRuns:
    """Shows runs that one process carries out, by name: a RunDisplay that gives each its own events."""

    of: dict[str, RunDisplay]

    def line(self, text: str) -> None:
        """Of all of them: shown once."""
        next(iter(self.of.values())).line(text)

    def event(self, event: Event) -> None:
        """To the run that it is of."""
        if isinstance(event, OfRun) and event.name in self.of:
            self.of[event.name].event(event.said)

    def ended(self, well: bool, text: str) -> None:
        """All of them."""
        for display in self.of.values():
            display.ended(well, text)


class Display(Protocol):
    """Shows a sweep: `run` for each run, `session_started` for a session, then their events; `line` stays on screen.

    Runs may be several at once, each from a thread of its own.
    """

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def line(self, text: str) -> None:
        """A line, or several, that stay."""

    def planned(self, about: str, jobs: Sequence[Job], at_once: int) -> None:
        """The conditions, the runs to come, and how many run at once."""

    def overall(self, tally: Tally) -> None:
        """How far the sweep is."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Bytes or items, from the first call to the last."""

    def run(
        self, title: str, batch_size: int, prefix: str = "  ", name: str = ""
    ) -> contextlib.AbstractContextManager[RunDisplay]:
        """A run, as long as the context lasts. `prefix` tells several at once apart; `name`: that of its Job."""

    def session_started(self, title: str) -> None:
        """A speed session or a search begins."""

    def session_event(self, event: Event) -> None:
        """What its process reports."""
