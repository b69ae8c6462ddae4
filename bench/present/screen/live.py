"""One screen for a running sweep. Example: with make_display(lambda: "memory 2 GB") as display: display.line("hello")

What runs, what is next, the time left, memory, clocks, learning curves. It takes the calls that ScreenDisplay takes and
draws them on the terminal's second screen; the first one has every line when that closes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.core.display import Display, Job, RunDisplay
from bench.core.events import Continued, Event, Note
from bench.core.files import inert
from bench.present.screen import live_screen
from bench.present.screen.live_screen import Ended, Running, Session, State
from bench.present.screen.progress import ScreenDisplay, fitted, make_console

# Drawing takes time from what is being measured. Twice a second while runs train, like the bars of ScreenDisplay: 3 ms
# of one core each, where theirs take 1.5. Every two seconds during a speed session, half of what the bars take then;
# and the sensors are left alone.
DRAW_SECONDS, DRAW_SECONDS_TIMING = 0.5, 2.0
SENSE_SECONDS = 2.0
Sensors = Callable[[], str]  # what the machine says about itself, on one line


def make_display(sensors: Sensors) -> Display:
    """The live screen, or plain lines and one that says why."""
    console = make_console()
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        return LiveDisplay(console, sensors)
    display = ScreenDisplay(console)
    display.line("--live needs a terminal that can move its cursor and shows Unicode; showing plain lines instead")
    return display


class LiveDisplay(ScreenDisplay):
    """A sweep on one screen, drawn by a thread of its own; the first event within `with` opens it.

    The second ("alternate") screen, because children may write to the terminal, too: the next drawing covers that.
    """

    def __init__(self, console: Console, sensors: Sensors, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._sensors, self._now = sensors, now
        self._state, self._lock = State(started=now()), threading.RLock()
        self._sensed = -SENSE_SECONDS
        self._kept: list[str] = []  # lines for the first screen
        self._within = False
        self._live: Live | None = None
        self._closing, self._thread = threading.Event(), threading.Thread()

    def __enter__(self) -> LiveDisplay:
        self._within = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._within = False
        self._close()

    # --- calls of the driver ---------------------------------------------------------------------------------------

    def planned(self, about: str, jobs: Sequence[Job], at_once: int) -> None:
        """Keep what is to come; the time left is computed from it."""
        with self._lock:
            self._state.about, self._state.jobs, self._state.at_once = about, tuple(jobs), at_once

    def line(self, text: str) -> None:
        """Add to the log while the screen is open, and to the first screen in the end."""
        with self._lock:
            if self._live is None:
                super().line(text)
            else:
                self._kept += text.split("\n")
                self._state.log += text.split("\n")

    def progress(self, what: str, done: int, of: int) -> None:
        """A bar, from the first call to the last."""
        with self._lock:
            self._state.transfers[what] = (done, of)
            if done >= of:
                del self._state.transfers[what]
        self._open()

    @contextlib.contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[RunDisplay]:
        """A row among the running ones; `prefix` is for displays that only show lines."""
        with self._lock:
            title = next((job.title for job in self._state.jobs if job.name == name), title)
            run = Running(name, title, batch_size, self._now())
            self._state.session = None
            self._state.running.append(run)
        self._open()
        try:
            yield LiveRun(self, run)
        finally:
            with self._lock:
                self._state.running.remove(run)

    def session_started(self, title: str) -> None:
        """A speed session or a search takes the place of the runs."""
        with self._lock:
            self._state.session = Session(title)
        self._open()

    def session_event(self, event: Event) -> None:
        """A block is done, a model's turn comes, or another part of the session begins."""
        with self._lock:
            if self._state.session is not None:
                self._state.session.on_event(event)

    def run_event(self, run: Running, event: Event) -> None:
        """What a run reports."""
        with self._lock:
            run.on_event(event, self._now())

    def run_ended(self, run: Running, well: bool, text: str) -> None:
        """Move a run to those that are done or failed."""
        with self._lock:
            seconds = None if run.resumed or not run.steps else self._now() - run.started
            self._state.ended.append(Ended(run.name, run.title, well, text, tuple(run.curve), seconds))
            self._kept.append(f"{run.title}: {text}")

    # --- the screen ------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The screen as plain text, as it would be drawn now."""
        return [text.plain for text in self._draw()]

    def _draw(self) -> list[Text]:
        with self._lock:
            return live_screen.draw(self._state, self.console.width, self.console.height, self._now())

    def _frame(self) -> Group:
        """What rich shows. A fault in a screen ends no sweep."""
        try:
            return Group(*self._draw())
        except Exception as error:
            return Group(Text(f"this screen cannot be drawn ({type(error).__name__}: {inert(str(error))})"))

    def sense(self) -> None:
        """Read the sensors when it is time to; a fault in them does not affect the sweep."""
        timing, now = self._state.session is not None, self._now()
        if timing:
            self._state.machine = "not read during timing"
        elif now - self._sensed >= SENSE_SECONDS:
            self._sensed = now
            try:
                self._state.machine = self._sensors()
            except Exception:
                self._state.machine = "memory and clocks not readable here"

    def _open(self) -> None:
        """Open the screen at the first event within `with`."""
        with self._lock:
            if self._live is None and self._within:
                self._live = Live(get_renderable=self._frame, console=self.console, screen=True, auto_refresh=False)
                self._closing = threading.Event()
                self._thread = threading.Thread(
                    target=self._keep_drawing, args=(self._live, self._closing), daemon=True
                )
                self._live.start()
                self._thread.start()

    def _keep_drawing(self, live: Live, closing: threading.Event) -> None:
        try:
            while True:
                self.sense()
                live.refresh()
                timing = self._state.session is not None
                if closing.wait(DRAW_SECONDS_TIMING if timing else DRAW_SECONDS):
                    break
        except OSError as error:  # of the terminal: nothing is lost from the store
            self.line(f"the live screen stopped: {error.strerror or error}")

    def _close(self) -> None:
        """Return to the first screen and print every line since."""
        with self._lock:
            live, self._live = self._live, None
            kept, self._kept = self._kept, []
            self._state.session = None
            self._state.transfers.clear()
        if live is None:
            return
        self._closing.set()
        try:
            self._thread.join()
        finally:  # a second Ctrl-C must not leave the terminal on the second screen
            live.stop()
        self.console.print(fitted(kept, self.console))


class LiveRun:
    """One run on the screen."""

    def __init__(self, display: LiveDisplay, run: Running) -> None:
        self._display, self._run = display, run

    def line(self, text: str) -> None:
        """Add to the log."""
        self._display.line(f"{self._run.title}: {text}")

    def event(self, event: Event) -> None:
        """Show what the run's process reports."""
        self._display.run_event(self._run, event)
        match event:
            case Note(text=text):
                self.line(f"note: {text}")
            case Continued(step=step):
                self.line(f"resumes after step {step:,}")

    def ended(self, well: bool, text: str) -> None:
        """Show the result, or why it failed."""
        self._display.run_ended(self._run, well, text)
