"""Processes to start, watch and kill. Used by test_processes.py and test_kill.py"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np

from bench.store.disk import Store
from tests.conftest import ROOT


def start(*words: str | Path, **more: Any) -> Popen[str]:
    """The command line in a session of its own, with its output to read."""
    command = [sys.executable, "-u", "run_bench.py", *map(str, words)]
    # A background job of a shell ignores SIGINT, and so would everything below it, pytest and this process included.
    more.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return Popen(command, cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True, **more)


def children(pid: int) -> list[int]:
    """Processes started by `pid`, read from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(path.name))
    return found


def is_spawned(pid: int) -> bool:
    """Whether a process is a child that computes, not multiprocessing's own helper."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def gone(pids: list[int], within: float = 20.0) -> bool:
    """Whether all these processes end in time (zombies count as ended)."""

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + within
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def learned(root: Path) -> dict[str, Any]:
    """By model everything that timing does not touch: history and predictions."""
    found = {}
    for run in Store(root).runs():
        with np.load(root / "runs" / run["run_id"] / "predictions.npz") as data:
            predictions = {k: data[k].tolist() for k in data.files}
        rows = [{k: v for k, v in row.items() if k != "train_seconds"} for row in run["history"]]
        found[run["spec"]["model"]] = (rows, predictions, run["metrics"]["accuracy"])
    return found
