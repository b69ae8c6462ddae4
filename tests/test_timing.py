"""Blocks are complete and random, and a fake clock says exactly what is counted."""

from __future__ import annotations

from collections import Counter

import torch

from bench.recipes import smoke
from bench.spec import Setting
from bench.timing import Task, calls_for, make_tasks, time_blocks, time_calls


class FakeDevice:
    """Calls take a set time on a clock of their own; reading it takes none."""

    def __init__(self) -> None:
        self.time, self.log = 0.0, list[str]()

    def task(self, name: str, seconds: float, kind: str = "train") -> Task:
        def call() -> None:
            self.log.append(name)
            self.time += seconds

        return Task(name, kind, 8, call)

    def now(self) -> float:
        self.log.append("now")
        return self.time

    def sync(self) -> None:
        self.log.append("sync")


def test_what_falls_between_two_readings() -> None:
    device = FakeDevice()
    seconds = time_calls(device.task("a", 0.5).call, 3, device.now, device.sync)
    assert seconds == 1.5
    assert device.log == ["sync", "now", "a", "a", "a", "sync", "now"]


def test_blocks_are_complete_and_in_fresh_orders() -> None:
    device = FakeDevice()
    tasks = [device.task(name, s) for name, s in (("a", 1 / 64), ("b", 0.5), ("c", 1 / 8))]
    samples = time_blocks(tasks, 40, 0.25, 1e9, device.now, device.sync, seed=1)
    assert len(samples) == 120
    for block in range(40):
        mine = [s for s in samples if s.block == block]
        assert {s.model for s in mine} == {"a", "b", "c"}
        assert sorted(s.position for s in mine) == [0, 1, 2]
    firsts = Counter(s.model for s in samples if s.position == 0)
    assert min(firsts.values()) >= 5, f"40 blocks began with {firsts}"
    assert {s.model: s.calls for s in samples} == {"a": 16, "b": 1, "c": 2}
    assert all(s.seconds_per_call == {"a": 1 / 64, "b": 0.5, "c": 1 / 8}[s.model] for s in samples)
    again = time_blocks(tasks, 40, 0.25, 1e9, device.now, device.sync, seed=1)
    assert [(s.model, s.position) for s in again] == [(s.model, s.position) for s in samples]


def test_preparing_is_off_the_clock() -> None:
    device = FakeDevice()
    task = device.task("a", 0.5)
    task = Task("a", "train", 8, task.call, prepare=lambda: device.log.append("prepare"))
    time_blocks([task], 3, 0.25, 1e9, device.now, device.sync, seed=0)
    sample = ["prepare", "sync", "now", "a", "sync", "now"]
    assert device.log[-6:] == sample or device.log[-7:-1] == sample
    assert device.log.count("prepare") == 1 + 3


def test_warm_up_is_not_a_sample() -> None:
    device = FakeDevice()
    samples = time_blocks([device.task("a", 0.5)], 3, 0.2, 1e9, device.now, device.sync, seed=0)
    assert device.log.count("a") == 2 + 3
    assert len(samples) == 3


def test_the_time_limit_ends_after_a_whole_block_and_not_before_the_third() -> None:
    device = FakeDevice()
    tasks = [device.task("a", 1.0), device.task("b", 1.0)]
    assert len(time_blocks(tasks, 10, 0.2, 0.0, device.now, device.sync, seed=0)) == 2 * 3
    assert len(time_blocks(tasks, 10, 0.2, 13.5, device.now, device.sync, seed=0)) == 2 * 5


def test_calls_for() -> None:
    assert calls_for(0.3, 0.2) == 1
    assert calls_for(0.1, 0.2) == 2
    assert calls_for(0.09, 0.2) == 3
    assert calls_for(0.0, 0.2) > 1000


def test_timing_trains_nothing_away() -> None:
    """A session's thousands of steps keep finite weights: the arithmetic of a step, at learning rate 0."""
    from dataclasses import replace

    from models.registry import build

    model = build("resnet20", 10, 32)
    before = [p.clone() for p in model.parameters()]
    recipe = replace(smoke(), precision="fp32", batch_size=4)
    tasks = make_tasks("resnet20", model, recipe, 10, 32, torch.device("cpu"), Setting())
    assert [(t.kind, t.images) for t in tasks] == [("train", 4), ("inference", 4), ("latency", 1)]
    for task in tasks:
        task.prepare()
        task.call()
        assert model.training == (task.kind == "train")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is not None for p in model.parameters()), "a training step has a backward pass"
