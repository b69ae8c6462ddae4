"""The methods of benchmarks/: the order of turns, the clocks, the intervals. No test times anything."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.drive.forecast import Size
from bench.store.disk import Store
from bench.store.records import finished
from benchmarks import cluster
from benchmarks.contenders import Over, Task, Turn, best
from benchmarks.duel import Plan, at_least, at_most, fight
from benchmarks.scaling import fit, last_stretch, series, verdict
from benchmarks.versus_best import percent
from tests.conftest import ROOT

STUB = """
from torch import nn

def build(num_classes, image_size):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


class Side:
    """A contender that takes `cost` seconds per step."""

    ready_seconds = 1.0

    def __init__(self, name: str, cost: float, log: list[tuple[str, int]]) -> None:
        self.name, self.cost, self.log = name, cost, log

    def go(self, steps: int) -> float:
        self.log.append((self.name, steps))
        return self.cost * steps

    def end(self) -> dict[str, Any]:
        return {"peak_memory_bytes": 1000 if self.name == "a" else 800}


def test_a_turn_reads_the_clock_twice_and_waits_between_turns() -> None:
    log: list[str] = []
    lines, ticks = iter(["1\n", "3\n", "\n"]), iter(range(100))
    turn = Turn(
        lambda: log.append("ask") or next(lines),  # type: ignore[func-returns-value]
        lambda message: log.append(f"answer {message['seconds']}" if "seconds" in message else "ready"),
        lambda: log.append("clock") or float(next(ticks)),  # type: ignore[func-returns-value]
        lambda: log.append("sync"),
    )

    def work() -> None:
        turn.start()
        for step in range(100):
            log.append(f"step {step}")
            turn.step_done()

    with pytest.raises(Over):
        work()
    begin = ["sync", "clock", "ready", "ask", "clock"]
    first = ["step 0", "sync", "clock", "answer 1.0", "ask", "clock"]
    assert log == [*begin, *first, "step 1", "step 2", "step 3", "sync", "clock", "answer 1.0", "ask"]
    assert turn.worked() == 2  # whatever the clock read while it was the other's turn


def test_contenders_take_turns_in_alternating_order() -> None:
    log: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def start(name: str) -> Iterator[Side]:
        yield Side(name, {"a": 0.3, "b": 0.1}[name], log)

    duel = fight(start, ("a", "b"), Plan(starts=2, pairs=4, steps=5, warmup=2))
    for number, built in enumerate(("ab", "ba")):
        turns = log[number * 12 : (number + 1) * 12]
        assert turns[:4] == [(built[0], 1), (built[0], 2), (built[1], 1), (built[1], 2)]
        orders = ["".join(name for name, _ in turns[i : i + 2]) for i in range(4, 12, 2)]
        assert set(orders) == {"ab", "ba"}
        assert orders[0] == orders[2] != orders[1] == orders[3]
        assert [order[0] for order in orders] == duel.starts[number].orders
    assert duel.ratio().value == pytest.approx(3)
    assert duel.step_seconds("a") == pytest.approx(0.3)
    memory = duel.memory_ratio()
    assert memory is not None
    assert memory.value == pytest.approx(1.25)


def test_the_interval_is_over_starts_once_there_are_three() -> None:
    """Starts that differ by 2 % each way, pairs within them by nothing: a hundred pairs say no more than one."""

    def duel(starts: int, pairs: int) -> Any:
        luck = iter([0.98, 1.0, 1.02] * starts)

        @contextlib.contextmanager
        def start(name: str) -> Iterator[Side]:
            yield Side(name, next(luck) if name == "a" else 1.0, [])

        return fight(start, ("a", "b"), Plan(starts, pairs, steps=1, warmup=0))

    few, many = duel(3, 2), duel(3, 100)
    assert few.ratio() == pytest.approx(many.ratio())
    assert few.ratio().n == 3
    half = math.log(few.ratio().high / few.ratio().low) / 2
    assert half == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=0.01)  # t(0.975, 2) by hand
    assert duel(2, 5).ratio().n == 10
    assert "these processes only" in duel(2, 5).unit()


def test_a_target_is_met_by_the_whole_interval_only() -> None:
    from bench.core.stats import Interval

    assert at_least(Interval(3, 2.8, 3.2, 5), 2.7) == "met"
    assert at_least(Interval(3, 2.6, 3.4, 5), 2.7).startswith("open")
    assert at_least(Interval(3, math.nan, math.nan, 1), 2.7).startswith("open")
    assert at_most(percent(Interval(1.01, 0.99, 1.029, 5)), 3) == "met"
    assert at_most(percent(Interval(1.05, 1.04, 1.06, 5)), 3) == "not met"


def test_an_exponent_is_found() -> None:
    square = fit([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert square.value == pytest.approx(2)
    assert verdict(square, square) == "WORSE than linear"
    line = fit([1, 2, 4, 8], [1.0, 2.0, 4.0, 8.0])
    assert verdict(line, line) == "linear or better"


def test_a_square_beneath_a_fixed_cost_is_found() -> None:
    points = [(n, 100 + n**2) for n in (1, 2, 4, 8, 16, 32) for _ in range(2)]
    whole, last = fit(*zip(*points, strict=True)), last_stretch(points)
    assert whole.high < 1
    assert last.low > 1.05
    assert verdict(whole, last) == "WORSE than linear"


def test_a_series_visits_every_size_once_a_round() -> None:
    asked: list[int] = []

    def measure(size: int) -> float:
        asked.append(size)
        return float(size)

    points = series(measure, (1, 2, 3), rounds=4)
    assert asked[0] == 1
    assert [size for size, _ in points] == asked[1:]  # the first call is not kept
    assert all(sorted(asked[i : i + 3]) == [1, 2, 3] for i in range(1, 13, 3))


def test_the_hand_written_loop_trains_and_waits_its_turn(tiny_npz: Path, tmp_path: Path) -> None:
    (tmp_path / "stub.py").write_text(STUB, encoding="utf-8")
    task = Task(f"{tmp_path}/stub.py:build", str(tiny_npz), "cpu", "fp32", "eager", 8, images=16, held_out=4, folder="")
    answers: list[dict[str, Any]] = []
    lines = iter(["1\n", "4\n", "\n"])
    with pytest.raises(Over):
        best(task, Turn(lambda: next(lines), answers.append, time.perf_counter, lambda: None))
    assert [set(answer) for answer in answers] == [{"ready_seconds"}, {"seconds"}, {"seconds"}]


def test_ours_and_a_plain_loop_finish_a_duel(tiny_npz: Path, tmp_path: Path) -> None:
    """Epochs of two steps, so that ends of epochs and validation are in every turn."""
    (tmp_path / "stub.py").write_text(STUB, encoding="utf-8")
    words = [sys.executable, "benchmarks/versus_plain.py", "--data", tiny_npz, "--models", f"{tmp_path}/stub.py:build"]
    words += ["--device", "cpu", "--batch-size", 8, "--images", 16, "--held-out", 4]
    words += ["--starts", 1, "--pairs", 2, "--steps", 3, "--save", tmp_path / "raw.json"]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (duel,) = json.loads((tmp_path / "raw.json").read_text())["duels"].values()
    assert Task(**duel["task"]).steps == 2
    (start,) = duel["starts"]
    assert all(len(start["seconds"][name]) == 2 for name in ("plain", "ours"))
    assert "n = 2 pairs" in done.stdout


# --- a simulated cluster --------------------------------------------------------------------------------------------


def jobs_of(lengths: list[float]) -> list[cluster.Job]:
    """Runs in two plans, whose FLOPs tell exactly how long they take."""
    return [
        cluster.Job(f"run {i}", f"plan {i % 2}", Size(f"run {i}", length), length) for i, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("order", cluster.ORDERS)
def test_on_one_device_nothing_is_idle(order: str) -> None:
    result = cluster.simulate(jobs_of([5.0, 3.0, 8.0, 1.0]), [1.0], order)
    assert (result.makespan, result.idle) == (17.0, 0.0)


def test_orders_by_hand() -> None:
    """4 1 1 | 3 3; by name 1 3 4 | 1 3, one idle for 4; plan by plan 4 1 and 3, then 3 and 1."""
    jobs, speeds = jobs_of([1.0, 1.0, 3.0, 3.0, 4.0]), [1.0, 1.0]
    spans = {order: cluster.simulate(jobs, speeds, order).makespan for order in cluster.ORDERS}
    assert spans == {"longest first": 6.0, "by name": 8.0, "plan by plan": 7.0}
    assert cluster.simulate(jobs, speeds, "by name").idle == pytest.approx(4 / 16)
    assert cluster.ideal(jobs, speeds) == 6.0
    assert cluster.ideal(jobs, [2.0, 0.5]) == pytest.approx(12 / 2.5)
    assert cluster.ideal(jobs_of([9.0, 1.0]), [1.0, 0.5]) == 9.0
    assert cluster.simulate(jobs_of([4.0, 4.0]), [1.0, 0.5], "longest first").makespan == 8.0


@pytest.mark.parametrize("devices", [2, 7, 64, 256])
def test_the_simulation_without_noise_keeps_grahams_bound(devices: int) -> None:
    jobs = cluster.all_jobs(replace(cluster.measured(), spread=0.0))
    jobs = [replace(job, size=Size(job.name, job.seconds)) for job in jobs]
    assert len(jobs) == len({job.name for job in jobs}) == 750
    result = cluster.simulate(jobs, [1.0] * devices, "longest first")
    best = cluster.ideal(jobs, [1.0] * devices)
    assert best <= result.makespan * (1 + 1e-12)
    assert result.makespan <= (4 / 3 - 1 / (3 * devices)) * best, "even of the ideal, which is at most the optimum"
    assert set(result.ends.values()) == {1}


def test_the_flops_of_the_simulation_are_those_of_the_records() -> None:
    for store in (Store(path) for path in cluster.REFERENCE.iterdir() if (path / "runs").is_dir()):
        for run in finished(store.runs()):
            assert run.metrics.train_flops_2x is not None
            assert cluster.TRAIN_MFLOPS[run.spec.model] == round(run.metrics.train_flops_2x / 1e6)


def test_the_overhead_is_measured_on_runs_that_finish(capsys: pytest.CaptureFixture[str]) -> None:
    cluster.overhead(8, by_ray=False)
    assert capsys.readouterr().out.startswith("8 runs that do nothing")
