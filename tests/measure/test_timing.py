"""Blocks are complete and random, the rule ends them as it says, and a fake clock says exactly what is counted."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench.core.stats import PILOT
from bench.measure.timing import (
    FEWEST_BLOCKS,
    MOST_BLOCKS,
    Rule,
    Task,
    TaskShape,
    Timed,
    calls_for,
    make_ready,
    make_tasks,
    time_blocks,
    wall_stopwatch,
    warnings_of,
)
from bench.plan.recipes import smoke
from bench.plan.spec import Setting
from bench.store.records import Sample
from models.registry import build


class FakeDevice:
    """Calls take a set time on a clock of their own; reading it takes none. `noise`: the factor of each call."""

    def __init__(self, noise: float = 0.0) -> None:
        self.time, self.log = 0.0, list[str]()
        self._rng, self._noise = random.Random(3), noise

    def task(self, name: str, seconds: float, kind: str = "train", noise: float | None = None) -> Task:
        factor = self._noise if noise is None else noise

        def call() -> None:
            self.log.append(name)
            self.time += seconds * (1 + factor * self._rng.uniform(-1, 1))

        return Task(name, kind, 8, call)

    def now(self) -> float:
        self.log.append("now")
        return self.time

    def sync(self) -> None:
        self.log.append("sync")

    def run(self, tasks: list[Task], rule: Rule, seed: int = 1) -> Timed:
        stopwatch = wall_stopwatch(self.now, self.sync)
        ready = [make_ready(task, rule.sample_seconds, stopwatch) for task in tasks]
        return time_blocks(ready, rule, stopwatch, self.now, seed)


RULE = Rule("a", half_width=0.02, seconds=1e9, sample_seconds=0.25)


def test_what_falls_between_two_readings() -> None:
    device = FakeDevice()
    seconds = wall_stopwatch(device.now, device.sync)(device.task("a", 0.5).call, 3)
    assert seconds == 1.5
    assert device.log == ["sync", "now", "a", "a", "a", "sync", "now"]


def test_blocks_are_complete_and_in_fresh_orders() -> None:
    device = FakeDevice(noise=0.3)
    tasks = [device.task(name, s) for name, s in (("a", 1 / 64), ("b", 0.5), ("c", 1 / 8))]
    timed = device.run(tasks, RULE)
    assert timed.blocks > 40
    assert len(timed.samples) == 3 * timed.blocks
    for block in range(timed.blocks):
        mine = [s for s in timed.samples if s.block == block]
        assert {s.model for s in mine} == {"a", "b", "c"}
        assert sorted(s.position for s in mine) == [0, 1, 2]
    firsts = Counter(s.model for s in timed.samples if s.position == 0)
    assert min(firsts.values()) >= timed.blocks / 8, f"{timed.blocks} blocks began with {firsts}"
    assert len({s.calls for s in timed.samples if s.model == "a"}) == 1, "the same number of calls for all samples"
    again = FakeDevice(noise=0.3)
    tasks = [again.task(name, s) for name, s in (("a", 1 / 64), ("b", 0.5), ("c", 1 / 8))]
    assert again.run(tasks, RULE).samples == timed.samples, "a seed decides the orders"


def test_first_calls_are_apart_and_preparing_is_off_the_clock() -> None:
    device = FakeDevice()
    inner = device.task("a", 0.5)
    task = Task("a", "train", 8, inner.call, prepare=lambda: device.log.append("prepare"))
    timed = device.run([task], RULE)
    sample = ["sync", "now", "a", "sync", "now"]
    head = ["prepare", *sample, *sample, "now"]  # the first call, one to size the samples by, the limit's beginning
    assert device.log[: len(head)] == head
    assert device.log[len(head) : len(head) + 6] == ["prepare", *sample]
    assert device.log.count("a") == 2 + PILOT
    assert [s.seconds for s in timed.first_calls] == [0.5]
    assert timed.stopped == "alone"
    assert timed.blocks == PILOT


def test_a_quiet_machine_needs_the_pilot_alone() -> None:
    device = FakeDevice(noise=0.001)
    timed = device.run([device.task("a", 0.5), device.task("b", 0.7)], RULE)
    assert (timed.stopped, timed.blocks) == ("narrow", PILOT)


def test_a_noisy_machine_needs_more_and_the_pilot_says_how_many() -> None:
    device = FakeDevice(noise=0.1)
    timed = device.run([device.task("a", 0.5), device.task("b", 0.7)], RULE)
    assert timed.stopped == "narrow"
    assert PILOT < timed.blocks == timed.planned_blocks < MOST_BLOCKS
    hopeless = FakeDevice(noise=0.9)
    timed = hopeless.run([hopeless.task("a", 0.5), hopeless.task("b", 0.7)], RULE)
    assert (timed.stopped, timed.blocks) == ("blocks", MOST_BLOCKS)


def test_the_limit_ends_after_a_whole_block_and_not_before_the_third() -> None:
    device = FakeDevice()
    tasks = [device.task("a", 1.0), device.task("b", 1.0)]
    timed = device.run(tasks, replace(RULE, seconds=0.0))
    assert (timed.stopped, timed.blocks) == ("limit", FEWEST_BLOCKS)
    timed = device.run(tasks, replace(RULE, seconds=9.5))
    assert (timed.stopped, timed.blocks) == ("limit", 4), "a fifth would end at 10 s"
    assert timed.seconds == 8.0


def test_starts_share_the_blocks_and_later_ones_repeat_the_number() -> None:
    """Ten pilot blocks among three starts are four each; a quiet machine needs no more, a noisy one as many in each."""
    quiet = FakeDevice(noise=0.001)
    timed = quiet.run([quiet.task("a", 0.5), quiet.task("b", 0.7)], replace(RULE, starts=3))
    assert (timed.stopped, timed.blocks, timed.planned_blocks) == ("narrow", 4, 4)
    noisy = FakeDevice(noise=0.04)
    first = noisy.run([noisy.task("a", 0.5), noisy.task("b", 0.7)], replace(RULE, starts=3))
    assert 4 < first.blocks == first.planned_blocks < MOST_BLOCKS / 3
    again = noisy.run([noisy.task("a", 0.5), noisy.task("b", 0.7)], replace(RULE, starts=3, blocks=first.blocks))
    assert (again.stopped, again.blocks) == ("narrow", first.blocks)


def test_a_later_start_has_the_calls_of_the_first_and_needs_none_to_find_them() -> None:
    device = FakeDevice()
    stopwatch = wall_stopwatch(device.now, device.sync)
    like = Sample(model="a", kind="train", block=0, position=0, batch_size=8, calls=3, seconds=1.6)
    ready = make_ready(device.task("a", 0.5), 0.25, stopwatch, like)
    assert (ready.calls, ready.seconds, ready.first.seconds) == (3, 1.6, 0.5)
    assert device.log.count("a") == 1


def test_training_steps_at_several_batch_sizes() -> None:
    model = build("resnet20", 10, 32)
    recipe = replace(smoke(), precision="fp32", batch_size=4)
    tasks = make_tasks("resnet20", model, TaskShape(recipe, Setting(), 10, 32, (4,), (2, 4, 6)), torch.device("cpu"))
    assert [(t.kind, t.images) for t in tasks[:3]] == [("train", 4), ("train", 2), ("train", 6)]
    for task in tasks[:3]:
        task.prepare()
        assert torch.isfinite(task.call())


def test_ratios_count_where_the_reference_was_timed_too() -> None:
    """At a batch that only one model can do there is no ratio to wait for."""
    device = FakeDevice()
    alone = replace(device.task("b", 0.5, "inference", noise=0.5), images=512)
    timed = device.run([device.task("a", 0.5), device.task("b", 0.5), alone], RULE)
    assert (timed.stopped, timed.blocks) == ("narrow", PILOT)


def test_calls_for() -> None:
    assert calls_for(0.3, 0.2) == 1
    assert calls_for(0.1, 0.2) == 2
    assert calls_for(0.09, 0.2) == 3
    assert calls_for(0.0, 0.2) > 1000


def test_timing_trains_nothing_away() -> None:
    """A session's thousands of steps keep finite weights: the arithmetic of a step, at learning rate 0."""
    model = build("resnet20", 10, 32)
    before = [p.clone() for p in model.parameters()]
    recipe = replace(smoke(), precision="fp32", batch_size=4)
    tasks = make_tasks("resnet20", model, TaskShape(recipe, Setting(), 10, 32, (2, 4, 8)), torch.device("cpu"))
    kinds = [("train", 4), ("inference", 2), ("inference", 4), ("inference", 8), ("latency", 1)]
    assert [(t.kind, t.images) for t in tasks] == kinds
    for task in tasks:
        task.prepare()
        task.call()
        assert model.training == (task.kind == "train")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is not None for p in model.parameters()), "a training step has a backward pass"


def timed(*series: tuple[str, list[float]]) -> Timed:
    samples = [
        Sample(model=model, kind="train", block=block, position=0, batch_size=8, calls=1, seconds=seconds)
        for model, values in series
        for block, seconds in enumerate(values)
    ]
    return Timed(tuple(samples), (), "narrow", len(series[0][1]), 10, 1.0)


@pytest.mark.parametrize(
    ("values", "load", "says"),
    [
        ([0.2] * 30, None, None),
        ([0.2] * 29 + [0.9], None, None),  # one in thirty happens
        ([0.2] * 26 + [0.9] * 4, None, "4 of 30 samples of a (train, batch 8) took more than 1.5 times the median"),
        ([0.2 + 0.002 * i for i in range(30)], None, "became 19 % slower during the session"),
        ([0.0002] * 30, None, "are short: median 200 µs"),
        ([0.2] * 30, 0.5, "50 % of the CPU was busy with other work"),
    ],
)
def test_warnings(values: list[float], load: float | None, says: str | None) -> None:
    warnings = warnings_of(timed(("a", values)), load)
    assert len(warnings) == (says is not None), warnings
    assert says is None or says in warnings[0]


def test_slow_samples_of_several_tasks_are_one_warning() -> None:
    (warning,) = warnings_of(timed(("a", [0.2] * 26 + [0.9] * 4), ("b", [0.2] * 27 + [0.9] * 3)))
    assert "4 of 30 samples of a (train, batch 8), 3 of 30 samples of b (train, batch 8) took more than" in warning
