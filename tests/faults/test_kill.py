"""kill -9 at random moments: three here, fifty in `make faults`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd

from bench.store.check import problems
from bench.store.disk import Store
from tests.faults.processes import children, gone, is_spawned, learned, start

Bench = Callable[..., "CompletedProcess[str]"]
KILLS = int(os.environ.get("SEVIT_KILLS", "2"))


def test_kill_9_at_random_moments(bench: Bench, here: Bench, words: list[str], factory: Path, tmp_path: Path) -> None:
    """Parent or child, anywhere in a sweep of two models: nothing finished is lost or done twice, no child is left."""
    names = f"--models={factory}:fine,{factory}:fine_too"
    sweep = [*words, names, "--epochs=150"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin = time.monotonic()
    done = bench(*sweep, "--results", whole)
    length = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    rng, kept = random.Random(20261122), dict[Path, bytes]()
    hits = 0
    while hits < KILLS:
        process = start(*sweep, "--results", killed)
        reader = threading.Thread(target=process.communicate, daemon=True)
        reader.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(2.0, length))
        if process.poll() is not None:  # it was faster: begin anew, with a store to kill
            assert process.returncode == 0
            reader.join()
            assert learned(killed) == learned(whole)
            shutil.rmtree(killed)
            kept.clear()
            continue
        below = children(process.pid)
        spawned = [pid for pid in below if is_spawned(pid)]
        victims = spawned if spawned and rng.random() < 0.4 else [process.pid]
        hits += 1
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process.pid not in victims:  # the sweep goes on without its child; it is not waited for
            time.sleep(rng.uniform(0, 3))
            process.kill()
        process.wait()
        reader.join()
        assert gone(below), "a child outlived its parent"
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
