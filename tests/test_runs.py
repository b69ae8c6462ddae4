"""Several runs at once: the same results, no seconds, one end. Against a serial sweep, fake runs and a fake MPS."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
import torch

from bench import runs
from bench.store import Store
from bench.table_formats import render
from bench.tables import compare, history_frame
from tests import synthetic
from tests.faults.processes import children, gone, learned, start

Bench = Callable[..., "CompletedProcess[str]"]
SPECS = [synthetic.spec("seresnet", seed) for seed in range(6)]


@pytest.mark.parametrize("at_once", [1, 2, 6, 9])
def test_each_once_and_never_more_at_a_time_than_asked(at_once: int) -> None:
    lock, now, most, gate = threading.Lock(), 0, 0, threading.Barrier(min(at_once, 2))

    def one(spec: runs.RunSpec, stop: threading.Event | None) -> str:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        gate.wait(timeout=20)  # six runs are an even number: where two may run, two do
        with lock:
            now -= 1
        return f"ok {spec.seed}"

    found = list(runs.each(SPECS, at_once, one, lambda: None))
    assert sorted(status for _, status in found) == [f"ok {n}" for n in range(6)]
    assert all(status == f"ok {spec.seed}" for spec, status in found)
    assert min(at_once, 2) <= most <= at_once


def test_what_one_raises_ends_the_others_and_is_raised() -> None:
    ended = []

    def one(spec: runs.RunSpec, stop: threading.Event | None) -> str:
        assert stop is not None
        if spec.seed == 1:
            raise OSError("No space left on device")
        assert stop.wait(timeout=20), "the others are asked to stop"
        ended.append(spec.seed)
        raise KeyboardInterrupt

    with pytest.raises(OSError, match="No space left"):
        list(runs.each(SPECS, 2, one, lambda: None))
    assert ended == [0], "nothing new is begun"


def test_leaving_early_stops_what_runs() -> None:
    """As when Ctrl-C reaches the main thread between two results."""
    seen = threading.Event()

    def one(spec: runs.RunSpec, stop: threading.Event | None) -> str:
        assert stop is not None
        if spec.seed == 0:
            return "ok"
        assert stop.wait(timeout=20)
        seen.set()
        return "interrupted"

    results = runs.each(SPECS, 2, one, lambda: None)
    assert next(results)[1] == "ok"
    results.close()
    assert seen.is_set()


def test_threads_are_shared_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with runs.sharing(3, SPECS[0]) as company:
        assert company == runs.Company(3, 8)
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")
    assert (os.environ["OMP_NUM_THREADS"], os.environ.get("OMP_WAIT_POLICY")) == ("8", None)
    with runs.sharing(3, replace(SPECS[0], deterministic=True)):
        assert os.environ["OMP_NUM_THREADS"] == "8", "sums in the order that they have alone"
    with runs.sharing(1, SPECS[0]) as company:
        assert company == runs.ALONE
        assert "OMP_WAIT_POLICY" not in os.environ


def test_mps_is_started_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NVIDIA's control program writes down what it is told."""
    control, log = tmp_path / "nvidia-cuda-mps-control", tmp_path / "log"
    control.write_text(f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {log}\n[ "$1" = -d ] || cat >> {log}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    with runs.sharing(2, replace(SPECS[0], device="cuda")) as company:
        pipes = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(pipes).is_dir()
        assert company.runs == 2
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert log.read_text() == f"-d {pipes}\n {pipes}\nquit\n"
    assert not Path(pipes).exists()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somebody/elses")
    with runs.mps():
        assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/somebody/elses"


@pytest.fixture(scope="module")
def words(tiny_npz: Path, factory: Path) -> list[str]:
    sweep = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]
    return [*sweep, f"--models=vit_params,{factory}:fine", "--deterministic", "--epochs=2"]


@pytest.fixture(scope="module")
def together(here: Bench, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("together")
    done = here(*words, "--runs-per-device=2", "--results", root)
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
    assert not list((root / "plots").glob("*learning_curves-seconds*")), "nothing to draw against seconds"
    (comparison,) = compare([Store(root)])
    assert all("train_seconds" not in row.values for row in comparison.rows)
    assert "2 of 2 runs shared the device with others" in " ".join(render([comparison], "text").split())


def test_ctrl_c_ends_all_and_the_same_command_goes_on(
    here: Bench, untimed: None, tiny_npz: Path, factory: Path, tmp_path: Path
) -> None:
    sweep = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]
    sweep += [f"--models={factory}:slow", "--seeds=0,1", "--epochs=30", "--runs-per-device=2"]
    process = start(*sweep, "--results", tmp_path)
    assert process.stdout is not None
    begun: set[str] = set()
    for line in process.stdout:
        begun |= {seed for seed in ("0", "1") if f"seed {seed}: epoch 3/30" in line}
        if len(begun) == 2:
            break
    below = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=45)
    assert process.returncode == 130
    assert "what was finished is kept" in error
    assert "Traceback" not in error
    assert gone(below)
    assert [r["status"] for r in Store(tmp_path).runs()] == ["interrupted"] * 2
    done = here(*sweep, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("goes on after step") == 2
