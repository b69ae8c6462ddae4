"""Bars on a terminal, plain lines in a log. Example: with ScreenDisplay(make_console()) as display: display.line("hi")

Both come from the same events; bench.core.display says which calls a display takes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.core.display import Job, RunDisplay, Tally, block_words, turn_words
from bench.core.events import (
    BlockDone,
    CandidateStarted,
    CandidateTurn,
    Continued,
    Epoch,
    EpochDone,
    Event,
    ModelTurn,
    Note,
    Planned,
    Stage,
    StepDone,
)
from bench.core.files import inert_line
from bench.core.text import duration
from bench.present.grid import wrap

PLAIN_WIDTH = 140
PLAIN_SECONDS = 30.0  # between two lines about a download where there are no bars


def make_console() -> Console:
    """The terminal's width, or a fixed one where there is no terminal; names are never read as markup."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(markup=False, highlight=False, soft_wrap=True, width=PLAIN_WIDTH)


def fitted(lines: Iterable[str], console: Console) -> str:
    """Lines that cannot move the cursor; on a terminal those that are too long break at words, indented."""
    width, inert = console.width, map(inert_line, lines)
    if not console.is_terminal:
        return "\n".join(inert)
    return "\n".join(wrap(one, width, _indent(one)) if len(one) > width else one for one in inert)


def _indent(line: str) -> str:
    return " " * (2 + len(line) - len(line.lstrip()))


class ScreenDisplay:
    """Shows a sweep as bars and lines: see bench.core.display.Display."""

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
        self._session: TaskID | None = None
        self._sweep: TaskID | None = None
        self._sweep_line_at = 0.0
        self._transfers: dict[str, tuple[TaskID, float]] = {}  # bar, and when its last plain line was written

    def __enter__(self) -> ScreenDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, about: str, jobs: Sequence[Job], at_once: int) -> None:
        """Does nothing: each run announces itself."""

    def line(self, text: str) -> None:
        """Print one or more lines that stay; text from elsewhere cannot move the cursor."""
        self._bars.console.print(fitted(text.split("\n"), self.console))

    def overall(self, tally: Tally) -> None:
        """A bar for the whole sweep; without a terminal, a line now and then."""
        text = tally.words(datetime.now())
        if self._sweep is None:
            self._sweep = self._bars.add_task("all runs", total=tally.total, note="")
            self._sweep_line_at = time.monotonic()
        self._bars.update(self._sweep, total=tally.total, completed=tally.done + tally.failed, note=text)
        if tally.done + tally.failed >= tally.total:
            self._bars.remove_task(self._sweep)
            self._sweep = None
        elif not self.console.is_terminal and time.monotonic() - self._sweep_line_at > PLAIN_SECONDS:
            self._sweep_line_at = time.monotonic()
            self.line(text)

    def progress(self, what: str, done: int, of: int) -> None:
        """A bar of bytes or items, from its first call to its last; without a terminal, a line now and then."""
        if what not in self._transfers:
            self._transfers[what] = (self._bars.add_task(what, total=of, note=""), time.monotonic())
        bar, line_at = self._transfers[what]
        self._bars.update(bar, completed=done, total=of, note=f"{done:,} of {of:,}")
        if done >= of:
            self._bars.remove_task(bar)
            del self._transfers[what]
        elif not self.console.is_terminal and time.monotonic() - line_at > PLAIN_SECONDS:
            self._transfers[what] = (bar, time.monotonic())
            self.line(f"{what}: {100 * done / of:.0f} %")

    @contextlib.contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[RunDisplay]:
        """A bar for one run; its lines begin with `prefix`, which tells several at once apart."""
        self._end_session()
        self.line(title)
        bar = self._bars.add_task(title, total=None, note="starting")
        try:
            yield RunBar(self, self._bars, bar, batch_size, prefix)
        finally:
            self._bars.remove_task(bar)

    def session_started(self, title: str) -> None:
        """A bar for a speed session; its pilot blocks decide how many blocks it takes."""
        self._end_session()
        self._block = ""
        self._session = self._bars.add_task(title, total=None, note="building and warming up")
        self.line(title)

    def session_event(self, event: Event) -> None:
        """A block is done, or another part of the session begins."""
        if self._session is None:
            return
        match event:
            case BlockDone(block=block, blocks=blocks, start=start, starts=starts):
                done, total = (start - 1) * blocks + block, starts * blocks
                self._block = block_words(event)
                self._bars.update(self._session, total=total, completed=done, note=self._block)
            case ModelTurn(seconds_left=seconds) if seconds is not None:
                self._bars.update(self._session, note=", ".join(filter(None, (self._block, turn_words(event)))))
            case Stage(text=text) | CandidateStarted(text=text) | CandidateTurn(text=text):
                self._bars.update(self._session, note=text)

    def _end_session(self) -> None:
        if self._session is not None:
            self._bars.remove_task(self._session)
            self._session = None


class RunBar:
    """One run: a step moves its bar, a validation writes a line."""

    def __init__(self, display: ScreenDisplay, bars: Progress, bar: TaskID, batch_size: int, prefix: str) -> None:
        self._display, self._bars, self._bar, self._prefix = display, bars, bar, prefix
        self._steps, self._epochs, self._batch_size = 1, 1.0, batch_size
        self._first_step: tuple[float, int] | None = None
        self._last_validation = ""

    def line(self, text: str) -> None:
        """Print a line of this run that stays."""
        self._display.line(f"{self._prefix}{text}")

    def ended(self, well: bool, text: str) -> None:
        """Print the result, or why it failed."""
        self.line(text)

    def event(self, event: Event) -> None:
        """Show what the run's process reports."""
        match event:
            case Planned(steps=steps, epochs=epochs):
                self._steps, self._epochs = steps, epochs
                self._bars.update(self._bar, total=steps)
            case StepDone(step=step):
                self._step_done(step)
            case Note(text=text):
                self.line(f"note: {text}")
            case Continued(step=step):
                self.line(f"resumes after step {step:,} of {self._steps:,}")
            case EpochDone(row=row):
                self._epoch_done(row)

    def _epoch_done(self, row: Epoch) -> None:
        done, seconds = row.epoch, row.train_seconds
        speed = f"  {row.samples_seen / seconds:,.0f} images/s" if seconds else ""
        more = bool(seconds) and done < self._epochs - 1e-9
        left = f"  {duration((seconds or 0.0) / done * (self._epochs - done))} left" if more else ""
        self._last_validation = f"loss {row.train_loss:.3f}  validation {100 * row.val_accuracy:.1f} %"
        epochs = f"epoch {_epochs_text(done)}/{_epochs_text(self._epochs)}"
        self.line(f"{epochs}  {self._last_validation}{speed}{left}")

    def _step_done(self, step: int) -> None:
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = (now, step)
        since, first = self._first_step
        speed = (step - first) * self._batch_size / (now - since) if now > since and step > first else 0.0
        epoch = 1 + int((step - 1) * self._epochs / self._steps)
        parts = [
            f"epoch {epoch}/{math.ceil(self._epochs)}",
            self._last_validation,
            f"{speed:,.0f} images/s" if speed else "",
        ]
        self._bars.update(self._bar, completed=step, note="  ".join(filter(None, parts)))


def _epochs_text(epochs: float) -> str:
    """3, or 3.25 where it is not a whole number."""
    return f"{epochs:.0f}" if abs(epochs - round(epochs)) < 1e-9 else f"{epochs:.2f}"
