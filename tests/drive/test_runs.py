"""Several runs at once: equal results, no seconds, one end. Against a serial sweep and fake runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest

from bench.analysis.frames import history_frame
from bench.analysis.tables import compare
from bench.core.events import Described, Note, Report, Tick
from bench.drive import sweep
from bench.drive.context import SweepContext, surroundings
from bench.executors.child import Outcome
from bench.executors.local import LocalExecutor
from bench.executors.protocol import Answer, Task
from bench.plan.spec import ALONE, Colocation
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.present.table_formats import render
from bench.store.disk import Store
from tests import synthetic
from tests.commands import draws_nothing
from tests.engines import HERE
from tests.faults.processes import PATIENCE_SECONDS, descendants, gone, learned, start

Bench = Callable[..., "CompletedProcess[str]"]


def local(seats: int) -> LocalExecutor:
    return LocalExecutor([replace(HERE, seats=seats)])


def waiting(report: Report, folder: Path, name: str) -> None:
    """A task: touches a file, then waits to be let go, or to be stopped."""
    (folder / f"{name}.started").touch()
    while not (folder / "go").exists():
        report(Tick())
        time.sleep(0.01)
    report(Note(name))


def wait_for_starts(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.started"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def task(folder: Path, name: str, **more: Any) -> Task:
    return Task(name, "tests.drive.test_runs:waiting", (folder, name), **more)


def answers(executor: LocalExecutor, count: int) -> dict[int, Answer]:
    by_ticket: dict[int, Answer] = {}
    deadline = time.monotonic() + 60
    while len(by_ticket) < count:
        assert time.monotonic() < deadline
        by_ticket |= {ticket: message for ticket, message in executor.events(0.1) if isinstance(message, Answer)}
    return by_ticket


def test_tasks_run_side_by_side_and_answer_each(tmp_path: Path) -> None:
    executor = local(2)
    (device,) = executor.devices()
    executor.start([(n, task(tmp_path, f"task{n}"), device) for n in range(2)])
    wait_for_starts(tmp_path, 2)  # neither can end before both have begun
    (tmp_path / "go").touch()
    by_ticket = answers(executor, 2)
    assert {n: answer.outcome.status for n, answer in by_ticket.items()} == {0: "ok", 1: "ok"}
    assert all(answer.events == (Note(f"task{n}"),) for n, answer in by_ticket.items())


def test_stopped_tasks_are_asked_and_answer(tmp_path: Path) -> None:
    executor = local(2)
    (device,) = executor.devices()
    executor.start([(0, task(tmp_path, "only"), device)])
    wait_for_starts(tmp_path, 1)
    executor.stop()
    assert answers(executor, 1)[0].outcome == Outcome("interrupted", "stopped by the user")


def test_a_task_has_the_variables_of_its_device_and_its_own(tmp_path: Path) -> None:
    device = replace(HERE, environment=(("CUDA_VISIBLE_DEVICES", "3"),))
    executor = LocalExecutor([device])
    plain = Task("x", "tests.drive.test_runs:tell_variables", ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"))
    executor.start([(0, replace(plain, environment=(("OMP_NUM_THREADS", "5"),)), device)])
    expected = Described({"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "5"})
    assert answers(executor, 1)[0].events == (expected,)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "3"


def tell_variables(report: Report, *names: str) -> None:
    report(Described({name: os.environ.get(name) for name in names}))


def test_threads_are_shared() -> None:
    device = replace(HERE, threads=8, seats=3)
    shared = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    assert surroundings(device, False, False) == (Colocation(3, 8), shared)
    assert surroundings(device, False, True)[1]["OMP_NUM_THREADS"] == "8", "sums in the order that they have alone"
    assert surroundings(device, True, False) == (ALONE, {"OMP_NUM_THREADS": "8"})
    assert surroundings(replace(device, seats=1), False, False) == (ALONE, {"OMP_NUM_THREADS": "8"})
    gpu = replace(device, type="cuda")
    assert surroundings(gpu, False, False) == (Colocation(3), {})


@pytest.fixture(scope="module")
def words(tiny_npz: Path, factory: Path) -> list[str]:
    sweep = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]
    return [*sweep, f"--models=vit_params,{factory}:fine", "--deterministic", "--epochs=2"]


def all_passive() -> None:
    """What differs between runs side by side and other tasks, so that one fork server is enough for both."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    draws_nothing()


@pytest.fixture(scope="module")
def together(forked: Bench, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("together")
    done = forked(*words, "--runs-per-device=2", "--results", root, before=all_passive)
    assert done.returncode == 0, done.stderr + done.stdout
    return root, done.stdout


def test_at_once_as_one_by_one_bit_for_bit(
    here: Bench, untimed: None, words: list[str], together: tuple[Path, str], tmp_path: Path
) -> None:
    assert here(*words, "--results", tmp_path).returncode == 0
    assert learned(together[0]) == learned(tmp_path)
    assert len(learned(tmp_path)) == 2


def test_their_seconds_stay_out_of_every_table(together: tuple[Path, str]) -> None:
    root, out = together
    assert "vit_params, seed 0: epoch 2/2" in out
    assert "s of training" not in out
    results = pd.read_csv(root / "results.csv")
    assert list(results["runs_at_once"]) == [2, 2]
    assert results[["train_seconds", "wall_seconds", "loop_images_per_second"]].isna().all(axis=None)
    assert (results["train_images_per_second"] > 0).all(), "the session that followed had the device for itself"
    assert not (pd.read_csv(root / "history.csv")["metric"] == "train_seconds").any()
    assert history_frame([Store(root)])["train_seconds"].isna().all()
    (comparison,) = compare([Store(root)])
    assert all("train_seconds" not in row.values for row in comparison.rows)
    assert "2 of 2 runs shared the device with others" in " ".join(render([comparison], "text").split())


def test_ctrl_c_ends_all_and_the_same_command_resumes(
    forked: Bench, tiny_npz: Path, gate: tuple[str, Path], tmp_path: Path
) -> None:
    model, go = gate
    sweep = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]
    sweep += [f"--models={model}", "--seeds=0,1", "--epochs=20", "--runs-per-device=2"]
    process = start(*sweep, "--results", tmp_path, before=all_passive)
    second_epoch: set[str] = set()
    for line in process.stdout:
        second_epoch |= {seed for seed in ("0", "1") if f"seed {seed}: epoch 2/20" in line}
        if len(second_epoch) == 2:
            break
    below = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "finished runs are kept" in error
    assert "Traceback" not in error
    assert gone(below)
    assert [run.status for run in Store(tmp_path).runs()] == ["interrupted"] * 2
    go.touch()
    done = forked(*sweep, "--results", tmp_path, before=all_passive)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumes after step") == 2


def test_finished_runs_of_a_store_that_was_moved_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep whose store is moved away begins a new one there, and must not end as if it had all (attack 40)."""
    store = Store(tmp_path / "s")
    context = SweepContext(store, local(1), ScreenDisplay(make_console()))
    specs = [synthetic.spec("resnet20", seed) for seed in (0, 1, 2)]
    for spec in specs:
        store.write_record(synthetic.record(spec, 0.5))
    assert sweep.missing(specs, context) == 0
    (tmp_path / "s").rename(tmp_path / "moved")
    store.write_record(synthetic.record(specs[2], 0.5))
    assert sweep.missing(specs, context) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "2 finished runs of 3 are no longer in" in said
    assert "or rerun the same command to repeat them" in said
