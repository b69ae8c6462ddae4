"""Processes that are killed, hang, eat memory, race: finished runs stay, and the same command finishes the rest."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen

import pandas as pd
import pytest

from bench.analysis.check import problems
from bench.analysis.verdicts_csv import write_verdicts
from bench.core.errors import Busy
from bench.core.events import Report, StepDone
from bench.core.files import holder, lock
from bench.data.datasets import DataSource
from bench.executors.child import GRACE_SECONDS
from bench.measure import run as measure_run
from bench.store.disk import Store
from bench.store.records import FailedRun, FinishedRun
from tests.commands import draws_nothing
from tests.conftest import ROOT
from tests.faults.processes import PATIENCE_SECONDS, descendants, eventually, gone, learned, start

Bench = Callable[..., "CompletedProcess[str]"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_resumes(
    here: Bench,
    untimed: None,
    words: list[str],
    gate: tuple[str, Path],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """SIGINT to the whole group, as a terminal sends it; SIGTERM to the parent, as a scheduler does."""
    model, go = gate
    sweep = [*words, f"--models={model}", "--epochs=80", "--results", tmp_path / "s"]
    process = start(*sweep)
    assert any("epoch 2/80" in line for line in process.stdout)  # of eighty seconds
    below = descendants(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert "finished runs are kept" in error
    assert "Traceback" not in error
    assert gone(below)
    (run,) = Store(tmp_path / "s").runs()
    assert isinstance(run, FailedRun)
    assert run.status == "interrupted"
    go.touch()
    done = here(*sweep)
    assert done.returncode == 0, done.stderr
    assert "resumes after step" in done.stdout
    assert "epoch 2/80" not in done.stdout
    (run,) = Store(tmp_path / "s").runs()
    assert isinstance(run, FinishedRun)
    assert run.metrics.segments == 2


def test_a_second_signal_stops_at_once(words: list[str], factory: Path, tmp_path: Path) -> None:
    """The model sleeps for days in its first step, so that the first signal alone would wait out the grace period."""
    process = start(*words, f"--models={factory}:hangs", "--results", tmp_path / "s")
    assert any("now it hangs" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    below = descendants(process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)  # it waits for the child
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=GRACE_SECONDS - 2)
    assert process.returncode == 143
    assert gone(below)


def limit_memory() -> None:
    draws_nothing()
    resource.setrlimit(resource.RLIMIT_AS, (9 * 2**30, 9 * 2**30))


@pytest.mark.long
def test_every_way_to_die_is_a_row(words: list[str], factory: Path, tmp_path: Path) -> None:
    """A hang, a segmentation fault, a kill, memory eaten under RLIMIT_AS; then a model that is fine."""
    ways = ("hangs", "segfaults", "is_killed", "eats", "fine")
    names = ",".join(f"{factory}:{way}" for way in ways)
    process = start(
        *words, "--models", names, "--epochs=2", "--run-timeout=8s", "--results", tmp_path, before=limit_memory
    )
    out, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, error
    assert "Traceback" not in out + error
    rows = {row.model.rsplit(":", 1)[1]: row for row in pd.read_csv(tmp_path / "results.csv").itertuples()}
    assert {way: row.status for way, row in rows.items()} == {
        "hangs": "timeout",
        "segfaults": "killed",
        "is_killed": "killed",
        "eats": "oom",
        "fine": "ok",
    }
    assert "not done after 8 s" in rows["hangs"].message
    assert "SIGSEGV" in rows["segfaults"].message
    assert "SIGKILL" in rows["is_killed"].message
    (trace,) = tmp_path.rglob("traceback.txt")
    assert "eats" in trace.parent.name


UNFIT = {
    "exits": "called sys.exit()",
    "dies_built": "ended by exit code 9",
    "never_built": "timeout: not done after",
    "frozen": "no parameter requires a gradient",
    "cut": "no gradient reaches its parameters",
    "infinite": "non-finite values before any training",
    "random_": "gives different outputs for the same images in eval mode",
    "pair": "returns tuple",
    "integers": "returns (2, 3) for 2 images",
    "one_by_one": "needs two",
}


def test_unfit_models_are_all_named_before_anything_begins(
    here: Bench, words: list[str], factory: Path, tmp_path: Path
) -> None:
    """Those that exit, die or hang do not hide what is wrong with the others."""
    names = ",".join(f"{factory}:{name}" for name in (*UNFIT, "fine"))
    done = here(*words, "--models", names, "--run-timeout=10", "--results", tmp_path / "s")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for name, reason in UNFIT.items():
        assert any(f"{name}'" in part and reason in part for part in done.stderr.split("; model")), (name, done.stderr)
    assert "fine'" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_two_commands_race_for_one_store(
    words: list[str], gate: tuple[str, Path], factory: Path, tmp_path: Path
) -> None:
    """Each run is executed once; the second command waits and says for whom; one speed session is enough."""
    model, go = gate
    root, names = tmp_path / "s", f"--models={model},{factory}:fine"
    screens = [(tmp_path / f"screen-{i}").open("w+") for i in range(2)]

    def text() -> str:
        return "".join(Path(screen.name).read_text() for screen in screens)

    both = [start(*words, names, "--epochs=80", "--results", root, screen=screen.fileno()) for screen in screens]
    assert eventually(lambda: "is running it" in text()), text()
    go.touch()
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert text().count("epoch 1/80") == 2, "two models, once each"
    store = Store(root)
    assert [type(run) for run in store.runs()] == [FinishedRun, FinishedRun]
    assert len(store.sessions()) == 1
    assert list(problems(store)) == []


HOLD = """
import sys, time
from pathlib import Path
from bench.core.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x.lock"
    owner = Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    assert f"process {owner.pid} on " in (holder(path) or "")
    with pytest.raises(Busy, match=f"process {owner.pid}"), lock(path):
        pass
    owner.kill()
    owner.communicate()
    assert holder(path) is None
    with lock(path):
        assert holder(path) is not None, "the file that is left is no obstacle, and works again"


def test_leftovers_are_no_obstacle(here: Bench, untimed: None, words: list[str], factory: Path, tmp_path: Path) -> None:
    """What a crash of another version or machine may leave: half files, lock files, a folder without a record."""
    sweep = [*words, f"--models={factory}:fine", "--epochs=1", "--results", tmp_path]
    assert here(*sweep).returncode == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "record.json").unlink()
    (folder / ".tmp-half").write_bytes(b"{")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / ".tmp-half").write_bytes(b"PK")
    (folder / "checkpoints" / "strange.pt").write_bytes(b"PK")
    done = here(*sweep)
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob(".tmp-*"))


def orphan(report: Report, path: str) -> None:
    """A child that sleeps in a single call, for longer than any test."""
    Path(path).write_text(str(os.getpid()))
    report(StepDone(1))
    time.sleep(1000)


ORPHAN = """
import sys
from bench.executors.child import call
if __name__ == "__main__":
    call("tests.faults.test_processes:orphan", (sys.argv[1],), lambda event: print("started", flush=True))
"""


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Even one that is asleep in a single call, and a parent that had no time to say anything."""
    path = tmp_path / "pid"
    parent = Popen([sys.executable, "-c", ORPHAN, str(path)], cwd=ROOT, stdout=PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    pid = int(path.read_text())
    parent.kill()
    parent.communicate()
    assert gone([pid])


def test_a_clock_that_jumps(store: Store, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock decides nothing: set back by years in the middle, a run is the same and the store consistent."""
    jumps = iter([f"{year}-01-01T00:00:00.000+00:00" for year in (2031, 1999, 2040, 1970, 2026)])
    monkeypatch.setattr(measure_run, "now", lambda: next(jumps))
    monkeypatch.setattr(time, "time", lambda: random.uniform(-1e9, 4e9))
    from tests.faults.test_disk import specs_of

    source = DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    before = learned(store.root)
    for run in store.runs():
        shutil.rmtree(store.root / "runs" / run.run_id)
    for spec in specs_of(source):
        measure_run.run_one(spec, source.load(), store, lambda event: None)
    assert learned(store.root) == before
    store.rebuild_views()
    write_verdicts(store)  # it has the seconds of the runs
    assert list(problems(store)) == []
