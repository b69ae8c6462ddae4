"""What a sweep shows: bars on a terminal, plain lines elsewhere, names as they are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.core.events import BlockDone, Continued, Epoch, EpochDone, Note, Planned, StepDone
from bench.present.screen import progress
from bench.present.screen.progress import ScreenDisplay


def epoch(number: int) -> EpochDone:
    row = Epoch(
        epoch=number,
        train_loss=1.5,
        val_loss=1.6,
        val_accuracy=0.25,
        lr=0.1,
        train_seconds=10.0 * number,
        samples_seen=1000 * number,
    )
    return EpochDone(row)


def shown(terminal: bool) -> str:
    """Everything written during a run of two epochs of ten steps."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=140, markup=False, highlight=False, soft_wrap=True)
    with ScreenDisplay(console) as display:
        with display.run("[red]model, seed 0 (1 of 1)", 100) as bar:
            bar.event(Planned(20, 2.0))
            bar.event(StepDone(10))
            bar.event(epoch(1))
            bar.event(StepDone(15))
            bar.event(epoch(2))
            display._bars.refresh()
        display.session_started("timing [red]model in turns")
        display.session_event(BlockDone(1, 3))
    return file.getvalue()


def test_plain_lines_without_a_terminal() -> None:
    assert shown(terminal=False).splitlines() == [
        "[red]model, seed 0 (1 of 1)",
        "  epoch 1/2  loss 1.500  validation 25.0 %  100 images/s  10 s left",
        "  epoch 2/2  loss 1.500  validation 25.0 %  100 images/s",
        "timing [red]model in turns",
    ]


def test_a_bar_shows_its_progress() -> None:
    text = shown(terminal=True)
    assert "75 %" in text
    assert "epoch 2/2  loss 1.500  validation 25.0 %" in text
    assert "[red]model" in text, "a name is no markup"


def test_runs_at_once_are_told_apart() -> None:
    file = io.StringIO()
    display = ScreenDisplay(Console(file=file, width=140, markup=False, highlight=False, soft_wrap=True))
    with display.run("one (1 of 2)", 100, "  one: ") as one, display.run("two (2 of 2)", 100) as two:
        one.event(Planned(20, 2.0))
        one.event(epoch(1))
        two.event(Note("graphed failed"))
        one.event(Continued(3))
    assert file.getvalue().splitlines() == [
        "one (1 of 2)",
        "two (2 of 2)",
        "  one: epoch 1/2  loss 1.500  validation 25.0 %  100 images/s  10 s left",
        "  note: graphed failed",
        "  one: resumes after step 3 of 20",
    ]


def test_a_long_line_breaks_at_words_on_a_terminal() -> None:
    text = "  recipe smoke: 4 epochs, batch 12, eager, on AMD EPYC"
    for terminal, lines in ((True, ["  recipe smoke: 4 epochs, batch 12,", "    eager, on AMD EPYC"]), (False, [text])):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=40)
        assert progress.fitted([text, "short"], console).split("\n") == [*lines, "short"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_download_is_a_bar_or_now_and_then_a_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=file, force_terminal=terminal, width=140, markup=False, highlight=False, soft_wrap=True)
    with ScreenDisplay(console) as display:
        for megabytes in range(101):
            display.progress("a.tar.gz", megabytes * 1_000_000, 100_000_000)
            now[0] += 1
            if megabytes == 50:
                display._bars.refresh()
    text = file.getvalue()
    if terminal:
        assert "50,000,000 of 100,000,000" in text
        assert not display._bars.tasks, "the bar is gone"
    else:
        assert text.splitlines() == ["a.tar.gz: 31 %", "a.tar.gz: 62 %", "a.tar.gz: 93 %"]
