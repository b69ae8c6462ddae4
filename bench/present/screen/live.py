"""One screen for a running sweep. Example: with make_display(None) as show: … (run_bench.py --live)

What runs, what is next, the time left, memory, clocks, learning curves. It hears what bench/present/screen/progress.py's Display hears
and draws it with bench/present/screen/live_screen.py on the terminal's second screen; what was said is on the first when that closes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.core.files import inert, inert_line
from bench.machine import environment
from bench.machine.sensors import UNKNOWN, Sensors, sensors_of
from bench.present.screen import live_screen
from bench.present.screen.live_screen import Ended, Running, Session, State
from bench.present.screen.progress import Display, Events, Job, make_console

# Drawing takes time from what is being measured. Twice a second while runs train, as the bars of Display: 3 ms of one
# core each, where theirs take 1.5. While a speed session times, once in two seconds, which is half of what the bars
# take then; and the sensors are left alone.
DRAW_SECONDS, DRAW_SECONDS_TIMING = 0.5, 2.0
SENSE_SECONDS = 2.0


def make_display(device: str | None) -> Display:
    """The live screen, or plain lines and one that says why. Raises UserError for a device that is not here."""
    console = make_console()
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        return LiveDisplay(console, sensors_of(environment.choose_device(device)))
    display = Display(console)
    display.line("--live needs a terminal that can move its cursor and shows Unicode; here are plain lines")
    return display


class LiveDisplay(Display):
    """Display's events on one screen, drawn by a thread of its own; opened by the first of them within `with`.

    The second ("alternate") screen, because children may write to the terminal, too: the next drawing covers that.
    """

    def __init__(self, console: Console, sensors: Sensors, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._sensors, self._now = sensors, now
        self._state, self._lock = State(begun=now()), threading.RLock()
        self._sensed = -SENSE_SECONDS
        self._kept: list[str] = []  # for the first screen
        self._within = False
        self._open: Live | None = None
        self._closing, self._thread = threading.Event(), threading.Thread()

    def __enter__(self) -> LiveDisplay:
        self._within = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._within = False
        self._close()

    # --- what it hears ---------------------------------------------------------------------------------------------

    def planned(self, about: str, jobs: Sequence[Job], at_once: int) -> None:
        """What the screen says is next; the time left is reckoned from it."""
        with self._lock:
            self._state.about, self._state.jobs, self._state.at_once = about, tuple(jobs), at_once

    def line(self, text: str) -> None:
        """In the log while the screen is open, and on the first screen in the end."""
        with self._lock:
            if self._open is None:
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
        self._show()

    @contextlib.contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[Events]:
        """A row among those that run; `prefix` is for displays that show lines alone."""
        with self._lock:
            title = next((job.title for job in self._state.jobs if job.name == name), title)
            run = Running(name, title, batch_size, self._now())
            self._state.session = None
            self._state.running.append(run)
        self._show()
        try:
            yield LiveRun(self, run)
        finally:
            with self._lock:
                self._state.running.remove(run)

    def session_started(self, title: str) -> None:
        """A speed session, or a search, takes the place of the runs."""
        with self._lock:
            self._state.session = Session(title)
        self._show()

    def session_event(self, event: dict[str, Any]) -> None:
        """A block is done, a model's turn comes, or what follows the blocks begins."""
        with self._lock:
            if self._state.session is not None:
                self._state.session.hear(event)

    def run_event(self, run: Running, event: dict[str, Any]) -> None:
        """What a run reports."""
        with self._lock:
            run.hear(event, self._now())

    def run_ended(self, run: Running, well: bool, text: str) -> None:
        """From here on it is among those that are done, or failed."""
        with self._lock:
            seconds = None if run.continued or not run.steps else self._now() - run.begun
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
        """Read the sensors where it is time to; whatever goes wrong there is no trouble of the sweep."""
        timing, now = self._state.session is not None, self._now()
        if timing:
            self._state.machine = "not read while timing"
        elif now - self._sensed >= SENSE_SECONDS:
            self._sensed = now
            try:
                self._state.machine = self._sensors()
            except Exception:
                self._state.machine = f"memory and clocks {UNKNOWN}"

    def _show(self) -> None:
        """Open the screen, where this is the first event within `with`."""
        with self._lock:
            if self._open is None and self._within:
                self._open = Live(get_renderable=self._frame, console=self.console, screen=True, auto_refresh=False)
                self._closing = threading.Event()
                self._thread = threading.Thread(
                    target=self._keep_drawing, args=(self._open, self._closing), daemon=True
                )
                self._open.start()
                self._thread.start()

    def _keep_drawing(self, live: Live, closing: threading.Event) -> None:
        try:
            while True:
                self.sense()
                live.refresh()
                timing = self._state.session is not None
                if closing.wait(DRAW_SECONDS_TIMING if timing else DRAW_SECONDS):
                    break
        except OSError as error:  # of the terminal: whoever reads the store later misses nothing
            self.line(f"the live screen stopped: {error.strerror or error}")

    def _close(self) -> None:
        """Back to the first screen, with everything that was said since."""
        with self._lock:
            live, self._open = self._open, None
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
        self.console.print("\n".join(map(inert_line, kept)))


class LiveRun:
    """What one run tells the screen."""

    def __init__(self, display: LiveDisplay, run: Running) -> None:
        self._display, self._run = display, run

    def line(self, text: str) -> None:
        """Into the log."""
        self._display.line(f"{self._run.title}: {text}")

    def event(self, event: dict[str, Any]) -> None:
        """Whatever the run's process reports."""
        self._display.run_event(self._run, event)
        if event["event"] == "note":
            self.line(f"note: {event['text']}")
        elif event["event"] == "continued":
            self.line(f"goes on after step {event['step']:,}")

    def ended(self, well: bool, text: str) -> None:
        """What it found, or how it failed."""
        self._display.run_ended(self._run, well, text)
