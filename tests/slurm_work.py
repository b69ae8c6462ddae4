"""What child processes of tests/executors/test_slurm.py do. Example: Task("a", "tests.slurm_work:greet", (root, "hello"))"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.errors import Interrupted

Report = Callable[[dict[str, Any]], None]
PATIENCE_SECONDS = 60.0


def greet(report: Report, root: Path, word: str) -> None:
    """Something that is done at once; the order of those that were begun is in a file."""
    with (root / "greeted").open("a") as file:
        file.write(f"{word}\n")
    report({"event": "note", "text": word})


def fail(report: Report, root: Path) -> None:
    report({"event": "note", "text": "it begins well"})
    raise ValueError("broken on purpose")


def continues(report: Report, root: Path) -> None:
    """Begin, tell the parent's number in a file, save when interrupted; the second time go on from there."""
    saved = root / "saved"
    if saved.exists():
        report({"event": "continued", "step": int(saved.read_text())})
        return
    report({"event": "note", "text": "from the start"})
    until(report, saved, ready(root, "ready"))


def waits(report: Report, root: Path, word: str) -> None:
    """Go on until a file `go` appears."""
    ready(root, f"ready-{word}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (root / "go").exists():
        assert time.monotonic() < deadline, "nobody said go"
        report({"event": "tick"})
        time.sleep(0.02)
    report({"event": "note", "text": word})


def ready(root: Path, name: str) -> int:
    """Say by a file that this has begun, and in which process's child."""
    temporary = root / f".{name}"
    temporary.write_text(str(os.getppid()))
    temporary.replace(root / name)
    return 7


def until(report: Report, saved: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        for _ in itertools.count():
            assert time.monotonic() < deadline, "nobody interrupted"
            report({"event": "tick"})
            time.sleep(0.02)
    except Interrupted:
        saved.write_text(str(step))
        raise
