"""What a sweep shows while it runs. Example: with Display(make_console()) as show: show.line("hello")

Bars on a terminal, plain lines elsewhere (a log, CI), from the same events.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.core.files import inert_line

PLAIN_WIDTH = 140
PLAIN_SECONDS = 30.0  # between two lines about a download where there are no bars


def make_console() -> Console:
    """The terminal's width, or a fixed one where there is no terminal; names are never read as markup."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(markup=False, highlight=False, soft_wrap=True, width=PLAIN_WIDTH)


@dataclass(frozen=True)
class Job:
    """A run to come. `group` is the same for runs of the same work; `seconds` of training, where earlier runs tell."""

    name: str
    title: str
    group: str
    seconds: float | None = None


@dataclass(frozen=True)
class Tally:
    """How far a sweep is: runs, devices that are at work, seconds that are left where that can be told."""

    done: int
    failed: int
    running: int
    total: int
    begun_again: int
    devices: int
    seconds_left: float | None = None

    def words(self, now: datetime) -> str:
        """`12 of 24 done, 1 failed, 4 running on 4 devices; about 12 min left, until 14:32`."""
        parts = [
            f"{self.done} of {self.total} done",
            f"{self.failed} failed" if self.failed else "",
            f"{self.running} running on {self.devices} device{'s' * (self.devices != 1)}",
            f"{self.begun_again} begun again" if self.begun_again else "",
        ]
        text = ", ".join(filter(None, parts))
        if self.seconds_left is None or not math.isfinite(self.seconds_left):
            return text
        end = now + timedelta(seconds=self.seconds_left)
        day = "" if end.date() == now.date() else f" of {end:%Y-%m-%d}"
        return f"{text}; about {duration(self.seconds_left)} left, until {end:%H:%M}{day}"


class Events(Protocol):
    """What a display hears of one run."""

    def line(self, text: str) -> None:
        """Something worth reading later."""

    def event(self, event: dict[str, Any]) -> None:
        """Whatever the run's process reports."""

    def ended(self, well: bool, text: str) -> None:
        """What it found, or how it failed; never called where another process has the run."""


class Display:
    """`run` for each run, `session_started` for a session, then their events; `line` for what stays on the screen.

    Runs may be several at once, each from a thread of its own.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=2,  # drawing takes time from what is being timed
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._transfers: dict[str, tuple[Any, float]] = {}
        self._sweep: Any = None
        self._told = 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, about: str, jobs: Sequence[Job], at_once: int) -> None:
        """Under which conditions which runs are to come, how many at once. Nothing to do: each announces itself."""

    def line(self, text: str) -> None:
        """A line, or several, that stay; what comes from elsewhere cannot move the cursor."""
        self._bars.console.print("\n".join(inert_line(part) for part in text.split("\n")))

    def overall(self, tally: Tally) -> None:
        """A bar for the whole sweep; where there is no terminal, now and then a line."""
        words = tally.words(datetime.now())
        if self._sweep is None:
            self._sweep = self._bars.add_task("all runs", total=tally.total, note="")
            self._told = time.monotonic()
        self._bars.update(self._sweep, total=tally.total, completed=tally.done + tally.failed, note=words)
        if tally.done + tally.failed >= tally.total:
            self._bars.remove_task(self._sweep)
            self._sweep = None
        elif not self.console.is_terminal and time.monotonic() - self._told > PLAIN_SECONDS:
            self._told = time.monotonic()
            self.line(words)

    def progress(self, what: str, done: int, of: int) -> None:
        """A bar of bytes or items, from its first call to its last; where there is no terminal, now and then a line."""
        if what not in self._transfers:
            self._transfers[what] = (self._bars.add_task(what, total=of, note=""), time.monotonic())
        task, said = self._transfers[what]
        self._bars.update(task, completed=done, total=of, note=f"{done:,} of {of:,}")
        if done >= of:
            self._bars.remove_task(task)
            del self._transfers[what]
        elif not self.console.is_terminal and time.monotonic() - said > PLAIN_SECONDS:
            self._transfers[what] = (task, time.monotonic())
            self.line(f"{what}: {100 * done / of:.0f} %")

    @contextlib.contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[Events]:
        """A run, as long as it says itself; its lines begin with `prefix`, which tells several at once apart.

        `name`: that of its Job, where it has one.
        """
        self._clear()
        self.line(title)
        task = self._bars.add_task(title, total=None, note="starting")
        try:
            yield RunBar(self, self._bars, task, batch_size, prefix)
        finally:
            self._bars.remove_task(task)

    def session_started(self, title: str) -> None:
        """A speed session begins; how many blocks it takes, its pilot says."""
        self._clear()
        self._task = self._bars.add_task(title, total=None, note="building and warming up")
        self.line(title)

    def session_event(self, event: dict[str, Any]) -> None:
        """A block is done, a model's turn comes, or what follows the blocks begins."""
        if event["event"] == "block":
            block, of = event["block"], event["blocks"]
            self._bars.update(self._task, total=of, completed=block, note=f"block {block}/{of}")
        elif "text" in event:
            self._bars.update(self._task, note=event["text"])

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class RunBar:
    """What one run shows: a step moves its bar, a validation writes a line."""

    def __init__(self, display: Display, bars: Progress, task: Any, batch_size: int, prefix: str) -> None:
        self._display, self._bars, self._task, self._prefix = display, bars, task, prefix
        self._steps, self._epochs, self._batch = 1, 1.0, batch_size
        self._first_step: tuple[float, int] | None = None
        self._last_epoch = ""

    def line(self, text: str) -> None:
        """A line of this run that stays."""
        self._display.line(f"{self._prefix}{text}")

    def ended(self, well: bool, text: str) -> None:
        """What it found, or how it failed."""
        self.line(text)

    def event(self, event: dict[str, Any]) -> None:
        """Whatever the run's process reports."""
        if event["event"] == "planned":
            self._steps, self._epochs = event["steps"], event["epochs"]
            self._bars.update(self._task, total=self._steps)
        elif event["event"] == "step":
            self._step(event["step"])
        elif event["event"] == "note":
            self.line(f"note: {event['text']}")
        elif event["event"] == "continued":
            self.line(f"goes on after step {event['step']:,} of {self._steps:,}")
        elif event["event"] == "epoch":
            done, seconds = event["epoch"], event["train_seconds"]
            speed = event["samples_seen"] / seconds if seconds else float("nan")
            left = f"  {duration(seconds / done * (self._epochs - done))} left" if done < self._epochs - 1e-9 else ""
            self._last_epoch = f"loss {event['train_loss']:.3f}  validation {100 * event['val_accuracy']:.1f} %"
            self.line(f"epoch {_passes(done)}/{_passes(self._epochs)}  {self._last_epoch}  {speed:,.0f} images/s{left}")

    def _step(self, step: int) -> None:
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = (now, step)
        since, first = self._first_step
        speed = (step - first) * self._batch / (now - since) if now > since and step > first else 0.0
        epoch = 1 + int((step - 1) * self._epochs / self._steps)
        parts = [
            f"epoch {epoch}/{math.ceil(self._epochs)}",
            self._last_epoch,
            f"{speed:,.0f} images/s" if speed else "",
        ]
        self._bars.update(self._task, completed=step, note="  ".join(filter(None, parts)))


def _passes(epochs: float) -> str:
    """3, or 3.25 where it is not a whole number."""
    return f"{epochs:.0f}" if abs(epochs - round(epochs)) < 1e-9 else f"{epochs:.2f}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`: as coarse as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
