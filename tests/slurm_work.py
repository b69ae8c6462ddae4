"""What child processes of test_slurm.py do. Example: Task("a", "tests.slurm_work:greet", (root, "hello"))"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from pathlib import Path

from bench.core.errors import Interrupted
from bench.core.events import Continued, Note, Report, Tick

PATIENCE_SECONDS = 60.0


def greet(report: Report, root: Path, word: str) -> None:
    """Ends at once; a file keeps the order of all greetings."""
    with (root / "greeted").open("a") as file:
        file.write(f"{word}\n")
    report(Note(word))


def fail(report: Report, root: Path) -> None:
    report(Note("it begins well"))
    raise ValueError("broken on purpose")


def continues(report: Report, root: Path) -> None:
    """Write the parent's pid to a file and save when interrupted; the second time go on from there."""
    saved = root / "saved"
    if saved.exists():
        report(Continued(int(saved.read_text())))
        return
    report(Note("from the start"))
    until(report, saved, ready(root, "ready"))


def waits(report: Report, root: Path, word: str) -> None:
    """Go on until a file `go` appears."""
    ready(root, f"ready-{word}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (root / "go").exists():
        assert time.monotonic() < deadline, "nobody said go"
        report(Tick())
        time.sleep(0.02)
    report(Note(word))


def ready(root: Path, name: str) -> int:
    """Write a file that says that this has started, and whose child it is."""
    temporary = root / f".{name}"
    parent = multiprocessing.parent_process()
    assert parent is not None
    temporary.write_text(str(parent.pid))
    temporary.replace(root / name)
    return 7


def until(report: Report, saved: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        for _ in itertools.count():
            assert time.monotonic() < deadline, "nobody interrupted"
            report(Tick())
            time.sleep(0.02)
    except Interrupted:
        saved.write_text(str(step))
        raise
