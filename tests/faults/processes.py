"""Processes to start, watch and kill. Example: process = start("--models=seresnet"); gone(descendants(process.pid))"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.store.disk import Store
from bench.store.records import finished
from tests.commands import SERVER, Command

PATIENCE_SECONDS = 240.0  # only a failure takes that long


def start(*words: str | Path, **more: Any) -> Command:
    """The command line in a session of its own, with its output to read."""
    return Command(words, **more)


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process, read from /proc; None where it has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else (state, int(parent))


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _serves(pid: int) -> bool:
    """Whether a process is a fork server, its command's own or one that is forked from the command."""
    with contextlib.suppress(OSError):
        return b"forkserver" in _command(pid) or Path(f"/proc/{pid}/comm").read_bytes().strip() == SERVER
    return False


def descendants(pid: int) -> list[int]:
    """Processes started by `pid`, and by those in turn."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*"):
        if (stat := _stat(int(path.name))) is not None:
            children[stat[1]].append(int(path.name))
    below, found = [pid], []
    while below:
        started = children[below.pop()]
        below += started
        found += started
    return found


def workers(pid: int) -> list[int]:
    """Descendants that compute: children of a fork server, or spawned ones; not multiprocessing's own helpers."""
    found = []
    for child in descendants(pid):
        stat = _stat(child)
        if b"spawn_main" in _command(child) or (stat is not None and _serves(stat[1])):
            found.append(child)
    return found


def gone(pids: list[int], within: float = PATIENCE_SECONDS) -> bool:
    """Whether all these processes end in time (zombies count as ended)."""
    return eventually(lambda: all(_stat(pid) is None for pid in pids), within)


def eventually(condition: Callable[[], bool], within: float = PATIENCE_SECONDS) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def learned(root: Path) -> dict[str, Any]:
    """By model everything that timing does not touch: history and predictions."""
    facts = {}
    for run in finished(Store(root).runs()):
        with np.load(root / "runs" / run.run_id / "predictions.npz") as data:
            predictions = {name: data[name].tolist() for name in data.files}
        history = [msgspec.structs.replace(epoch, train_seconds=0.0) for epoch in run.history]
        facts[run.spec.model] = (history, predictions, run.metrics.accuracy)
    return facts
