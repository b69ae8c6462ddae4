"""The live screen: events in, text out. Clock and sensors are made up; one real sweep in a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from bench.core.display import Job
from bench.core.events import (
    BlockDone,
    Continued,
    Epoch,
    EpochDone,
    ModelTurn,
    Note,
    Planned,
    Stage,
    StepDone,
)
from bench.present.screen import live, live_screen
from bench.present.screen.live import LiveDisplay, Sensors
from bench.present.screen.live_screen import (
    Ended,
    Running,
    Session,
    State,
    draw,
    label,
    run_seconds,
    share_rows,
    sparkline,
    time_left,
)
from tests.conftest import ROOT

ESCAPE = "\x1b[31m\x1b[2J\u202e[red]<img onerror=x>\n\r" + "$x$_" * 100


@dataclass
class Clock:
    """Tells the seconds that the test says."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def make(width: int = 80, height: int = 24, sense: Sensors = lambda: "memory 1.2 of 16.0 GB") -> LiveDisplay:
    """A display on a made-up terminal, its clock at 0; `display.clock` moves it."""
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, markup=False, highlight=False
    )
    return LiveDisplay(console, sense, Clock())


@contextlib.contextmanager
def at_rest(display: LiveDisplay) -> Iterator[LiveDisplay]:
    """The display open, as within `with`, but without its thread: nothing is drawn that the test does not draw."""
    display._live = Live(console=display.console, screen=True, auto_refresh=False)
    try:
        yield display
    finally:
        display._live = None


def written(display: LiveDisplay) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def jobs_of(*models: str, seeds: int = 2) -> list[Job]:
    return [Job(f"{m}-{s}", f"{m}, seed {s}", m) for m in models for s in range(seeds)]


def epoch(number: int, accuracy: float) -> EpochDone:
    row = Epoch(
        epoch=number,
        train_loss=1.5 / number,
        val_loss=1.0,
        val_accuracy=accuracy,
        lr=0.1,
        train_seconds=1.0,
        samples_seen=100,
    )
    return EpochDone(row)


# --- closed cases --------------------------------------------------------------------------------------------------


def test_a_sparkline_has_eight_equal_steps() -> None:
    assert sparkline([0, 0.124, 0.125, 0.5, 0.874, 0.875, 1], 0, 1, 20) == "▁▁▂▅▇██"
    assert sparkline([], 0, 1, 20) == ""
    assert sparkline([0.3, 0.3], 0.3, 0.3, 20) == "▄▄", "nothing to compare"
    assert sparkline([i / 15 for i in range(16)], 0, 1, 8) == "▁▂▃▄▅▆▇█", "every second value, the last among them"
    assert sparkline([0, 1], 0.4, 0.6, 20) == "▁█", "what lies outside stays at the edge"


def test_the_time_left_by_hand() -> None:
    """a: a run took 100 s. b: 20 s for a start, then 40 of 100 steps in 40 s, so 120 s in all. c: nothing is known."""
    state = State(0.0, jobs=tuple(jobs_of("a", "b", "c")))
    assert time_left(state, 0.0) == (0.0, 6)
    state.ended.append(Ended("a-0", "a, seed 0", True, "fine", seconds=100.0))
    running = Running("b-0", "b, seed 0", 32, started=100.0)
    state.running.append(running)
    running.on_event(Planned(100, 1.0), 110.0)
    running.on_event(StepDone(1), 121.0)
    assert time_left(state, 121.0) == (100.0, 4), "a-1; one report is no pace"
    running.on_event(StepDone(41), 161.0)
    assert run_seconds(state, 161.0) == {"a": 100.0, "b": 61.0 + 59.0}
    assert time_left(state, 161.0) == (100.0 + 59.0 + 120.0, 2)
    state.at_once = 2
    assert time_left(state, 161.0) == (279.0 / 2, 2)
    state.at_once = 10
    assert time_left(state, 161.0) == (59.0, 2), "not before what runs is done"


def test_failed_and_resumed_runs_give_no_estimate() -> None:
    state = State(0.0, jobs=(*jobs_of("a"), Job("b-0", "b, seed 0", "b", 30.0)))
    state.ended.append(Ended("a-0", "a, seed 0", False, "oom", seconds=1.0))
    assert run_seconds(state, 5.0) == {"b": 30.0}, "an earlier run's; a failure has no pace"
    resumed = Running("a-1", "a, seed 1", 32, started=0.0)
    resumed.on_event(Planned(100, 1.0), 0.0)
    resumed.on_event(Continued(80), 0.0)
    resumed.on_event(StepDone(81), 5.0)
    resumed.on_event(StepDone(91), 15.0)
    assert (resumed.seconds_left(15.0), resumed.seconds_in_all(15.0)) == (9.0, None)


def test_rows_are_shared_out_in_turns() -> None:
    assert share_rows([5, 1, 3], 6) == [3, 1, 2]
    assert share_rows([1, 1], 9) == [1, 1]
    assert share_rows([4], 0) == [0]


def test_a_long_name_keeps_its_seed() -> None:
    assert label("models/file.py:a_very_long_factory, seed 3", 24) == "models/file.py:…, seed 3"
    assert label("short, seed 3", 20) == "short, seed 3       "
    assert label("x" * 30, 10) == "xxxxxxxxx…"


# --- the screen ----------------------------------------------------------------------------------------------------


def test_running_next_and_done() -> None:
    display, clock = make(), Clock()
    display._now = clock
    display.planned("digits · recipe smoke", jobs_of("resnet20", "vit_tiny", seeds=3), 1)
    with at_rest(display):
        with display.run("resnet20, seed 0 (1 of 6)", 100, name="resnet20-0") as run:
            run.event(Planned(20, 2.0))
            run.ended(True, "test accuracy 91.23 %")
        with display.run("resnet20, seed 1 (2 of 6)", 100, name="resnet20-1") as run:
            run.ended(False, "oom: out of memory at batch 100")
        with display.run("resnet20, seed 2 (3 of 6)", 100, name="resnet20-2") as run:
            run.event(Planned(20, 2.0))
            run.event(StepDone(1))
            clock.seconds = 9.0
            run.event(StepDone(10))
            for number in (1, 2):
                run.event(epoch(number, 0.1 + 0.4 * number))
            run.event(Note("slower than set"))
            display.sense()
            screen = display.lines()
    text = "\n".join(screen)
    assert screen[0] == "digits · recipe smoke"
    assert "1 of 6 done, 1 failed, 1 running, 3 to come" in text
    assert "9 s so far, ~10 s left + 3 runs without an estimate" in text
    assert "memory 1.2 of 16.0 GB" in text
    assert "validation accuracy ▁ 50.0 to █ 90.0 %" in text
    assert "50 %  ▁█" in text
    assert "epoch 1/2  100 images/s  loss 0.750  validation 90.0 %" in text
    assert "next (3)" in text
    assert "vit_tiny, seed 0" in text
    assert "✗ resnet20, seed 1" in text
    assert "oom: out of memory at batch 100" in text
    assert "✓ resnet20, seed 0" in text
    assert "test accuracy 91.23 %" in text
    assert screen[-1] == "resnet20, seed 2: note: slower than set"


def test_a_run_that_another_process_has_is_next_again() -> None:
    display = make()
    display.planned("", jobs_of("a", seeds=1), 1)
    with at_rest(display), display.run("a, seed 0", 1, name="a-0"):
        assert display._state.coming() == []
    assert [job.name for job in display._state.coming()] == ["a-0"]


def test_a_session_shows_its_block_and_model() -> None:
    display = make()
    with at_rest(display):
        display.session_started("timing resnet20, vit_tiny in turns")
        assert "building and warming up" in "\n".join(display.lines())
        display.session_event(ModelTurn("resnet20"))
        display.session_event(BlockDone(3, 4, 1, 3, 40.0))
        display.session_event(ModelTurn("vit_tiny", "train", 128, 38.4))
        display.sense()
        text = "\n".join(display.lines())
        assert "timing resnet20, vit_tiny in turns" in text
        assert "25 %  start 1 of 3, block 3 of 4\nnow vit_tiny, train at 128, 38 s left" in text
        assert "not read during timing" in text
        display.session_event(Stage("energy of vit_tiny"))
        assert "energy of vit_tiny" in "\n".join(display.lines())
        display.progress("a.tar.gz", 31, 100)
        assert "a.tar.gz" in "\n".join(display.lines())
        display.progress("a.tar.gz", 100, 100)
        assert "a.tar.gz" not in "\n".join(display.lines())


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (140, 40), (30, 8), (20, 3), (3, 1)])
@pytest.mark.parametrize("name", ["vit_tiny", ESCAPE, "网" * 90, "e\u0301" * 90])
def test_every_screen_fits_with_64_runs_at_once(width: int, height: int, name: str) -> None:
    state = State(0.0, about=name, jobs=tuple(jobs_of(name, seeds=200)), at_once=64, machine=name)
    for seed in range(64):
        run = Running(f"{name}-{seed}", f"{name}, seed {seed}", 32, started=0.0)
        run.on_event(Planned(900, 1.5), 0.0)
        for number in range(40):
            run.on_event(StepDone(20 * number + 1), float(number))
            run.on_event(epoch(number + 1, number / 50), float(number))
        state.running.append(run)
    for seed in range(64, 90):
        curve = (0.1,) * seed
        state.ended.append(Ended(f"{name}-{seed}", f"{name}, seed {seed}", seed % 2 == 0, name, curve, 5.0))
    state.session = Session(name)
    state.transfers[name] = (3, 10)
    state.log += [name] * 30
    lines = draw(state, width, height, 100.0)
    assert len(lines) <= height
    for line in lines:
        assert cell_len(line.plain) <= width
        assert not any(mark in line.plain for mark in ("\x1b", "\n", "\r", "\u202e"))
    if (width, height, name) == (60, 20, "vit_tiny"):
        text = "\n".join(line.plain for line in lines)
        for words in ("13 of 200 done, 13 failed, 64 running, 110 to come", "▇█", "and 109 more", "and 12 earlier"):
            assert words in text


def test_every_line_is_on_the_first_screen_in_the_end() -> None:
    display = make()
    display.line("before")
    with display:
        assert written(display) == "before\n", "nothing to show yet"
        with display.run("[red]a, seed 0", 100) as run:
            display.line("a message\nof two lines\x1b[2J")
            run.ended(True, "test accuracy 91.23 %")
    display.line("after")
    before, entered, rest = written(display).partition("\x1b[?1049h")
    assert before == "before\n"
    assert entered
    seen, _, after = rest.partition("\x1b[?1049l")
    assert "preparing" in seen
    assert after.splitlines() == [
        "a message",
        "of two lines�[2J",
        "[red]a, seed 0: test accuracy 91.23 %",
        "after",
    ]
    assert not display._thread.is_alive()


def test_sensors_are_read_every_two_seconds_and_may_fail() -> None:
    calls = []

    def sense() -> str:
        calls.append(clock.seconds)
        if len(calls) > 1:
            raise RuntimeError("the driver is gone")
        return "memory 1 GB"

    display, clock = make(sense=sense), Clock()
    display._now = clock
    for tenth in range(25):
        clock.seconds = tenth / 10
        display.sense()
    assert calls == [0.0, 2.0]
    assert "memory and clocks not readable here" in "\n".join(display.lines())


def test_a_screen_that_cannot_be_drawn_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(live_screen, "draw", fails)
    display = make()
    with display, display.run("a, seed 0", 1) as run:
        run.ended(True, "fine")
    assert "this screen cannot be drawn (ValueError: no such colour)" in written(display)
    assert written(display).endswith("a, seed 0: fine\n")


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    display = live.make_display(lambda: "")
    assert not isinstance(display, LiveDisplay)
    assert capsys.readouterr().out.startswith("--live needs a terminal")


# --- a real sweep --------------------------------------------------------------------------------------------------


def test_a_sweep_on_a_terminal(tmp_path: Path) -> None:
    """On a pseudo-terminal of 80 x 24: the second screen shows the run, the first one is left with the table."""
    words = "--dataset digits --models vit_params --epochs 1 --train-fraction 0.1 --timing-limit 1s --device cpu --live"
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "run_bench.py", *words.split(), "--results", str(tmp_path)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    seen = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while piece := os.read(terminal, 65536):
            seen += piece
    os.close(terminal)
    text = seen.decode()
    assert process.wait(timeout=60) == 0, text[-2000:]
    second = "".join(part.partition("\x1b[?1049l")[0] for part in text.split("\x1b[?1049h")[1:])
    assert "vit_params, seed 0" in second
    assert "timing vit_params in turns" in second
    assert "validation accuracy" in second
    assert "▄" in second
    first = text.rpartition("\x1b[?1049l")[2]
    assert "\x1b[?1049h" not in first
    assert "vit_params" in first
    assert "wrote" in first
