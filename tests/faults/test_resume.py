"""A run that was stopped and resumed equals one that was not, bit for bit; damaged checkpoints are never used."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import Diverged, Interrupted
from bench.core.events import Continued, Event, Note
from bench.data.datasets import DataSource
from bench.measure import checkpoint, counting
from bench.measure import run as measure_run
from bench.measure.checkpoint import Checkpoints
from bench.measure.cost import Cost, count
from bench.measure.run import run_one
from bench.measure.step import random_streams, set_random_streams
from bench.plan.recipes import smoke
from bench.plan.spec import RunSpec, Setting
from bench.store.disk import Store
from bench.store.records import FinishedRun
from models import registry

ALWAYS = 1e9  # a share of the time that is never used up: a checkpoint at every step


class Restless(nn.Module):
    """BatchNorm statistics, dropout, and noise from every generator a model may draw from."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).mean((2, 3))
        if self.training:
            x = x + 0.1 * random.random() + 0.1 * float(np.random.rand()) + 0.1 * torch.rand(())
        return self.head(x)


@pytest.fixture
def source(tiny_npz: Path) -> DataSource:
    return DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name `restless` builds the model above."""
    original = registry.build
    monkeypatch.setattr(registry, "build", lambda name, *a: Restless() if name == "restless" else original(name, *a))
    monkeypatch.setattr(counting, "count", counted_once)


COSTS: dict[str, Cost] = {}


def counted_once(model: nn.Module, image_size: int) -> Cost:
    """The cost of a model, counted for the first of a hundred runs only: half of their time would go into it."""
    name, streams = type(model).__name__, random_streams(torch.device("cpu"))
    COSTS[name] = COSTS.get(name) or count(model, image_size)
    set_random_streams(streams, torch.device("cpu"))  # a count draws, too: then all runs would differ from the first
    return COSTS[name]


def make_spec(source: DataSource, model: str = "restless", **changes: Any) -> RunSpec:
    recipe = replace(smoke(), **{"epochs": 3, "batch_size": 20, "precision": "fp32", "crop_padding": 2, **changes})
    return RunSpec(model, source.load().ref, recipe, Setting(), "cpu", "here", 0)


class Stopper:
    """A report that raises after a number of events, once."""

    def __init__(self, after: int, error: type[BaseException] = Interrupted) -> None:
        self.left, self.error, self.events = after, error, list[Event]()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.left -= 1
        if self.left == 0:
            raise self.error("stopped")

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]

    @property
    def resumed(self) -> bool:
        return any(isinstance(event, Continued) for event in self.events)


NEVER = 10**9


def outcome(store: Store, spec: RunSpec) -> tuple[Any, ...]:
    """All that timing does not touch."""
    record = store.record(spec)
    assert isinstance(record, FinishedRun)
    history = [msgspec.structs.replace(epoch, train_seconds=0.0) for epoch in record.history]
    with np.load(store.run_dir(spec) / "predictions.npz") as data:
        predictions = {name: data[name].tolist() for name in data.files}
    metrics = record.metrics
    return history, predictions, (metrics.accuracy, metrics.test_loss, metrics.val_loss, metrics.samples_seen)


def train_through(spec: RunSpec, source: DataSource, root: Path, stops: list[Stopper]) -> tuple[Any, ...]:
    """Train with these interruptions, each resumed by the next attempt."""
    store, dataset = Store(root), source.load()
    for stop in stops:
        with pytest.raises(stop.error):
            run_one(spec, dataset, store, stop, share=ALWAYS)
        assert not store.is_done(spec)
    run_one(spec, dataset, store, Stopper(NEVER), share=ALWAYS)
    return outcome(store, spec)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", [{"optimizer": "adamw"}, {"optimizer": "sgd"}, {"epochs": 0, "budget": "241samples", "validations": 4}]
)
def test_stopped_anywhere_and_resumed_is_the_same(source: DataSource, tmp_path: Path, changes: dict[str, Any]) -> None:
    """About 15 steps, 3 validations and the test set make 22 events or so: stopped at each of them in turn."""
    spec = make_spec(source, **changes)
    whole = train_through(spec, source, tmp_path / "whole", [])
    every = Stopper(NEVER)
    run_one(spec, source.load(), Store(tmp_path / "count"), every, share=ALWAYS)
    assert len(every.events) >= 18
    for after in range(1, len(every.events) + 1):
        stopped = train_through(spec, source, tmp_path / str(after), [Stopper(after)])
        assert stopped == whole, f"stopped at event {after}: {every.events[after - 1]}"


def test_many_interruptions_are_counted(source: DataSource, tmp_path: Path) -> None:
    spec = make_spec(source)
    whole = train_through(spec, source, tmp_path / "whole", [])
    assert train_through(spec, source, tmp_path / "often", [Stopper(5) for _ in range(5)]) == whole
    record = Store(tmp_path / "often").record(spec)
    assert isinstance(record, FinishedRun)
    assert record.metrics.segments == 6
    assert record.metrics.samples_seen == 3 * 100


def test_a_crash_resumes_from_the_last_checkpoint(source: DataSource, tmp_path: Path) -> None:
    """No chance to save: what a kill -9 leaves."""
    spec = make_spec(source)
    whole = train_through(spec, source, tmp_path / "whole", [])
    assert train_through(spec, source, tmp_path / "a", [Stopper(9, OSError), Stopper(3, ValueError)]) == whole


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet20", "vit_params"])
def test_registered_models_too(source: DataSource, tmp_path: Path, model: str) -> None:
    spec = make_spec(source, model)
    assert train_through(spec, source, tmp_path / "a", []) == train_through(spec, source, tmp_path / "b", [Stopper(8)])


def test_the_clock_adds_up_over_segments(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves by one at each reading, a stretch counts 1, and each segment's first step none."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(measure_run.time, "perf_counter", lambda: float(next(ticks)))
    spec, store = make_spec(source), Store(tmp_path)
    with pytest.raises(Interrupted):
        run_one(spec, source.load(), store, Stopper(3), share=0.0)  # in the 3rd step: one stretch of two steps
    record = run_one(spec, source.load(), store, Stopper(NEVER), share=0.0)
    # 1 for steps 2-3, then the new first step, then 1 for what is left of epoch 1 and 1 for each other epoch
    assert record.metrics.train_seconds == 4.0
    assert record.metrics.segments == 2


def test_random_depth_and_augmentation_too(source: DataSource, tmp_path: Path) -> None:
    """With stochastic depth, two operations per image and random erasing."""
    spec = make_spec(source, "vit_params")
    recipe = replace(spec.recipe, epochs=1, drop_path=0.5, policy="randaugment", random_erasing=0.5)
    spec = replace(spec, recipe=recipe)
    assert train_through(spec, source, tmp_path / "a", []) == train_through(spec, source, tmp_path / "b", [Stopper(3)])


# --- damaged, foreign and hostile checkpoints ----------------------------------------------------------------------


def stop_with_two(spec: RunSpec, source: DataSource, root: Path) -> list[Path]:
    """A run stopped after some steps, and its checkpoints, newest first."""
    with pytest.raises(Interrupted):
        run_one(spec, source.load(), Store(root), Stopper(8), share=ALWAYS)
    paths = sorted((Store(root).run_dir(spec) / "checkpoints").glob("*.pt"), reverse=True)
    assert len(paths) == 2
    return paths


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "both"])
def test_a_damaged_checkpoint_is_passed_over(source: DataSource, tmp_path: Path, damage: str) -> None:
    spec = make_spec(source)
    whole = train_through(spec, source, tmp_path / "whole", [])
    newest, previous = stop_with_two(spec, source, tmp_path / "s")
    if damage in ("flip", "both"):
        flip(newest, newest.stat().st_size // 2)
    else:
        newest.write_bytes(newest.read_bytes()[: 0 if damage == "empty" else 1000])
    if damage == "both":
        flip(previous, 100)
    report = Stopper(NEVER)
    run_one(spec, source.load(), Store(tmp_path / "s"), report, share=ALWAYS)
    assert outcome(Store(tmp_path / "s"), spec) == whole
    assert len(report.notes) == (2 if damage == "both" else 1)
    assert all("its checksum does not" in note for note in report.notes)
    assert report.resumed == (damage != "both")


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def plant(path: Path, content: Any) -> None:
    """Write a forged checkpoint under a name whose checksum holds."""
    conditions = [part for name, part in content.items() if name != "state"] if isinstance(content, dict) else [{}]
    keeper = Checkpoints(path.parent, conditions[0], 0)
    if isinstance(content, dict):
        keeper.save(999, content["state"])
    else:
        torch.save(content, path.parent / "x")
        data = (path.parent / "x").read_bytes()
        (path.parent / "x").unlink()
        (path.parent / f"000000999-{checkpoint.sha256(data)}.pt").write_bytes(data)


def test_a_hostile_checkpoint_executes_nothing(source: DataSource, tmp_path: Path) -> None:
    spec = make_spec(source)
    whole = train_through(spec, source, tmp_path / "whole", [])
    newest, _ = stop_with_two(spec, source, tmp_path / "s")
    plant(newest, Evil(tmp_path / "executed"))
    report = Stopper(NEVER)
    run_one(spec, source.load(), Store(tmp_path / "s"), report)
    assert not (tmp_path / "executed").exists()
    assert outcome(Store(tmp_path / "s"), spec) == whole
    assert any("it cannot be read" in note for note in report.notes)


@pytest.mark.parametrize("fault", ["weights", "progress", "nothing", "optimizer"])
def test_a_checkpoint_that_does_not_fit_is_passed_over(source: DataSource, tmp_path: Path, fault: str) -> None:
    """The checksum holds and the conditions are equal, but it was made by hand."""
    spec = make_spec(source)
    whole = train_through(spec, source, tmp_path / "whole", [])
    newest, _ = stop_with_two(spec, source, tmp_path / "s")
    content = torch.load(newest, weights_only=True)
    state = content["state"]
    if fault == "weights":
        state["model"]["head.weight"] = torch.zeros(3, 9)
    elif fault == "progress":
        state["progress"]["step"] = 14
    elif fault == "optimizer":
        state["optimizer"]["param_groups"] = []
    else:
        state.clear()
    plant(newest, content)
    report = Stopper(NEVER)
    run_one(spec, source.load(), Store(tmp_path / "s"), report)
    assert outcome(Store(tmp_path / "s"), spec) == whole
    assert any("it does not fit the model" in note for note in report.notes)


def test_other_code_does_not_resume_a_run(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(source)
    stop_with_two(spec, source, tmp_path)
    monkeypatch.setattr(measure_run, "training_code", lambda: "edited")
    report = Stopper(NEVER)
    run_one(spec, source.load(), Store(tmp_path), report)
    assert not report.resumed
    assert sum("under other conditions (code)" in note for note in report.notes) == 2


def test_a_diverged_run_starts_over(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN at step 7 of 15: found at the end of its epoch, with the step's number, and no checkpoint is left."""
    spec, calls = make_spec(source), [0]
    original = Restless.forward

    def breaks(self: Restless, x: torch.Tensor) -> torch.Tensor:
        calls[0] += self.training and x.device.type != "meta"  # the FLOP count is no training
        return original(self, x) * (float("nan") if calls[0] > 7 else 1.0)

    monkeypatch.setattr(Restless, "forward", breaks)
    with pytest.raises(Diverged, match="at step 7"):
        run_one(spec, source.load(), Store(tmp_path), Stopper(NEVER), share=ALWAYS)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_finished_run_leaves_no_checkpoint(source: DataSource, tmp_path: Path) -> None:
    train_through(make_spec(source), source, tmp_path, [Stopper(5)])
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("checkpoints"))


# --- cadence -------------------------------------------------------------------------------------------------------


def test_saving_costs_under_one_per_cent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: steps of 0.1 s for three hours, saves of 0.3 s. What is saved in is counted against all time."""
    time, saves = [0.0], 0

    def slow(*_: Any) -> None:
        time[0] += 0.3

    monkeypatch.setattr(checkpoint, "write_atomically", slow)
    keeper = Checkpoints(tmp_path, {}, 4 * 860_000, now=lambda: time[0])
    while time[0] < 3 * 3600:
        time[0] += 0.1
        if keeper.due():
            keeper.save(saves, {})
            saves += 1
            assert keeper.seconds <= 0.0131 * time[0], "one save that took longer than was guessed"
    assert keeper.seconds <= 0.01 * time[0]
    assert 300 <= saves <= 360, "and it is used: every 30 s"


def test_a_full_disk_while_saving_does_not_end_the_run(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    report, spec = Stopper(NEVER), make_spec(source)
    run_one(spec, source.load(), Store(tmp_path), report, share=ALWAYS)
    assert Store(tmp_path).is_done(spec)
    assert any("could not be written (No space left on device)" in note for note in report.notes)
