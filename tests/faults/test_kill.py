"""kill -9 at random moments: two here, fifty in `make faults`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

from bench.analysis.check import problems
from bench.store.disk import Store
from tests.commands import Command
from tests.faults.processes import descendants, gone, learned, start, workers

Bench = Callable[..., "CompletedProcess[str]"]
KILLS = int(os.environ.get("SEVIT_KILLS", "2"))


class Reader(threading.Thread):
    """Reads a process's output to its end, and counts the lines; `reached` is set after so many of them."""

    def __init__(self, process: Command, stop_after: int) -> None:
        super().__init__(daemon=True)
        self.process, self.stop_after, self.reached = process, stop_after, threading.Event()
        self.start()

    def run(self) -> None:
        for count, _ in enumerate(self.process.stdout, 1):
            if count == self.stop_after:
                self.reached.set()
        self.reached.set()


@pytest.mark.long
def test_kill_9_at_random_moments(here: Bench, words: list[str], factory: Path, tmp_path: Path) -> None:
    """Parent or child, anywhere in a sweep of two models: nothing finished is lost or done twice, no child is left.

    A moment is a random line of the output, and up to 0.2 s more: so a slow machine is killed as far into its work.
    """
    sweep = [*words, f"--models={factory}:fine,{factory}:fine_too", "--epochs=60"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = here(*sweep, "--results", whole)
    assert done.returncode == 0, done.stderr
    lines = len(done.stdout.splitlines())
    rng, kept = random.Random(20261122), dict[Path, bytes]()
    hits = 0
    while hits < KILLS:
        process = start(*sweep, "--results", killed)
        reader = Reader(process, rng.randint(1, lines))
        reader.reached.wait()
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is not None:  # it was faster: begin anew, with a store to kill
            assert process.returncode == 0
            assert learned(killed) == learned(whole)
            shutil.rmtree(killed)
            kept.clear()
            continue
        below, computing = descendants(process.pid), workers(process.pid)
        hits += 1
        if computing and rng.random() < 0.4:  # the sweep goes on without its child, for a moment
            for pid in computing:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(rng.uniform(0, 1))
            below += descendants(process.pid)
        process.kill()
        process.wait()
        assert gone(below), "a child outlived its parent"
        reader.join()
        for path, content in kept.items():
            assert path.read_bytes() == content, "a finished run was touched"
        for path in killed.glob("runs/*/record.json"):
            if b'"status": "ok"' in path.read_bytes():
                kept[path] = path.read_bytes()
    done = here(*sweep, "--results", killed)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(killed / "results.csv")) == 2
    assert learned(killed) == learned(whole)
    assert list(problems(Store(killed))) == []
    assert not list(killed.rglob(".tmp-*"))
    assert not list(killed.rglob("*.pt"))
