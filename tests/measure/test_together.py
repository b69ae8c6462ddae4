"""Trainings that take turns: each is the one it would have been alone, to the last bit, whatever the others do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import Interrupted, Unfit
from bench.core.events import Continued, Event, Failed, Finished, OfRun, StepDone, TrialDone, of_run
from bench.data.datasets import DataSource
from bench.measure import counting, together
from bench.measure.device import device_name
from bench.measure.run import Images, run_one, run_trial
from bench.measure.supervise import Turns, to_end
from bench.measure.together import Company, Job, child_runs, child_trials, take_turns
from bench.plan.recipes import smoke
from bench.plan.spec import RunOptions, RunSpec, Setting
from bench.store.disk import Store
from bench.store.records import FinishedRun
from models import registry
from tests.faults.test_resume import Restless, counted_once, outcome

CPU = torch.device("cpu")


class Greedy(Restless):
    """Asks for more memory than there is, in its third step."""

    steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 3:
            raise MemoryError
        return super().forward(x)


@pytest.fixture(autouse=True)
def odd_models(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Callable[[], nn.Module]] = {"restless": Restless, "greedy": Greedy}
    original = registry.build
    monkeypatch.setattr(registry, "build", lambda name, *a: made[name]() if name in made else original(name, *a))
    monkeypatch.setattr(counting, "count", counted_once)


@pytest.fixture
def source(tiny_npz: Path) -> DataSource:
    return DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)


def spec_of(source: DataSource, seed: int, epochs: int = 2, model: str = "restless", **recipe: Any) -> RunSpec:
    how = replace(smoke(), **{"epochs": epochs, "batch_size": 20, "precision": "fp32", "lr": 0.01, **recipe})
    ref = source.load().ref
    return RunSpec(model, ref, how, Setting(), "cpu", device_name(CPU), seed)


def run_side_by_side(
    specs: list[RunSpec], source: DataSource, store: Store, report: Callable[[Event], None], width: int | None = None
) -> None:
    child_runs(
        report,
        [(f"run {number}", spec) for number, spec in enumerate(specs)],
        source,
        store.root,
        RunOptions(together=len(specs) if width is None else width, seconds_from="the first"),
    )


def alone(specs: list[RunSpec], source: DataSource, folder: Path) -> list[Any]:
    store, dataset = Store(folder), source.load()
    for spec in specs:
        run_one(spec, dataset, store, lambda event: None)
    return [outcome(store, spec) for spec in specs]


def test_each_is_the_run_it_would_have_been_alone(source: DataSource, tmp_path: Path) -> None:
    """Three of different lengths, of a model that draws from every generator; two at a time: one joins later."""
    specs = [spec_of(source, seed, epochs) for seed, epochs in ((0, 3), (1, 1), (2, 2))]
    store, events = Store(tmp_path / "together"), list[Event]()
    run_side_by_side(specs, source, store, events.append, width=2)
    assert [outcome(store, spec) for spec in specs] == alone(specs, source, tmp_path / "alone")
    assert [of_run(events, f"run {n}")[-1] for n in range(3)] == [Finished()] * 3
    for spec in specs:
        record = store.record(spec)
        assert isinstance(record, FinishedRun)
        assert (record.metrics.together, record.seconds_from, record.shared_device) == (2, "the first", True)
        assert (record.metrics.train_seconds, record.metrics.wall_seconds, record.phases) == (None, None, {})
        assert all(row.train_seconds is None for row in record.history)


def test_they_do_take_turns(source: DataSource, tmp_path: Path) -> None:
    """Step by step, from the first on."""
    events: list[Event] = []
    run_side_by_side([spec_of(source, seed) for seed in (0, 1)], source, Store(tmp_path), events.append)
    steps = [event.name for event in events if isinstance(event, OfRun) and isinstance(event.said, StepDone)]
    assert steps == ["run 0", "run 1"] * (len(steps) // 2)


def test_ones_failure_is_its_own(source: DataSource, tmp_path: Path) -> None:
    """One diverges, one runs out of memory, one is busy elsewhere; the fourth is what it is alone."""
    specs = [
        spec_of(source, 0, lr=1e30), spec_of(source, 1, model="greedy"), spec_of(source, 2), spec_of(source, 3)
    ]  # fmt: skip
    store, events = Store(tmp_path / "together"), list[Event]()
    with Store(tmp_path / "together").claim(specs[2].run_id):
        run_side_by_side(specs, source, store, events.append)
    ends = [of_run(events, f"run {number}")[-1] for number in range(4)]
    assert [end.status for end in ends if isinstance(end, Failed)] == ["diverged", "oom", "busy"]
    assert "not finite" in ends[0].message  # type: ignore[union-attr]
    assert "Traceback" in ends[1].traceback  # type: ignore[union-attr]
    assert ends[3] == Finished()
    assert [outcome(store, specs[3])] == alone(specs[3:], source, tmp_path / "alone")


def test_stopped_all_are_saved_and_go_on(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two steps; then one goes on by itself and two together, and all are as if nothing had been."""
    specs = [spec_of(source, seed) for seed in range(3)]
    store, seen = Store(tmp_path / "together"), list[Event]()

    def stop(event: Event) -> None:
        seen.append(event)
        if len([e for e in seen if isinstance(e, OfRun) and isinstance(e.said, StepDone)]) > 4:
            raise Interrupted("stopped by the user")

    with pytest.raises(Interrupted):
        run_side_by_side(specs, source, store, stop)
    run_one(specs[0], source.load(), store, lambda event: None)
    events: list[Event] = []
    run_side_by_side(specs, source, store, events.append)
    assert of_run(events, "run 0")[-1] == Finished(), "it is done already"
    assert [[e for e in of_run(events, f"run {n}") if isinstance(e, Continued)] for n in (1, 2)] == [[Continued(2)]] * 2
    assert [outcome(store, spec) for spec in specs] == alone(specs, source, tmp_path / "alone")
    records = [store.record(spec) for spec in specs]
    assert [record.metrics.together for record in records] == [3, 3, 3], "the most of any segment"  # type: ignore[union-attr]


def test_trials_together_find_what_they_find_alone(source: DataSource) -> None:
    specs = [spec_of(source, 7, epochs=1, lr=lr, validations=1) for lr in (0.001, 0.01, 0.1)]
    events: list[Event] = []
    child_trials(events.append, [(str(spec.recipe.lr), spec) for spec in specs], source, 3)
    for spec in specs:
        found = of_run(events, str(spec.recipe.lr))[-1]
        expected = to_end(run_trial(spec, Images(source.load()), lambda event: None))
        assert isinstance(found, TrialDone)
        assert (found.val_accuracy, found.val_loss) == (expected.val_accuracy, expected.val_loss)
        assert (found.train_seconds, found.samples) == (None, expected.samples)


# --- the turns by themselves, with trainings of a few words --------------------------------------------------------


def steps(count: int, log: list[str], name: str, error: Exception | None = None) -> Callable[[int], Turns[Event]]:
    def begin(width: int) -> Iterator[None]:
        log.append(f"{name} of {width}")
        for number in range(count):
            yield
            log.append(f"{name}{number}")
        if error is not None:
            raise error
        return Finished()  # type: ignore[return-value]

    return begin  # type: ignore[return-value]


def test_what_ends_the_process_is_raised_and_the_others_are_closed() -> None:
    closed: list[str] = []

    def endless(width: int) -> Turns[Event]:
        try:
            while True:
                yield
        finally:
            closed.append("closed")

    jobs = [Job("a", endless), Job("b", steps(2, [], "b", Unfit("another machine's data")))]
    with pytest.raises(Unfit):
        take_turns(jobs, CPU, Company(2), lambda name, event: None)
    assert closed == ["closed"]


def test_a_device_that_no_longer_computes_ends_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a device assert; the board runs each by itself then."""
    monkeypatch.setattr(together, "_usable", lambda device: False)
    jobs = [Job("a", steps(1, [], "a", RuntimeError("device-side assert"))), Job("b", steps(9, [], "b"))]
    with pytest.raises(RuntimeError, match="assert"):
        take_turns(jobs, CPU, Company(2), lambda name, event: None)


@pytest.mark.parametrize(("gain", "words", "widths"), [
    (1.88, "3 trained together: 1.88 times the images/s of one alone", ["3", "3", "3", "3"]),
    (1.05, "3 were tried together and then trained one after the other: 1.05 times the images/s of one alone",
     ["4", "3", "3", "1"]),
])  # fmt: skip
def test_how_many_is_found_by_their_own_steps(
    gain: float, words: str, widths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only steps move: one takes a second, three in turns take 3 / gain. Room for three of four."""
    clock, log, ended = [0.0], list[str](), list[str]()
    monkeypatch.setattr(together.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(together, "_room", lambda device: 3)
    active: set[str] = set()

    def job(name: str) -> Job:
        inner = steps(400, log, name)

        def begin(width: int) -> Turns[Event]:
            active.add(name)
            turns = inner(width)
            for _ in turns:
                clock[0] += 1.0 if len(active) == 1 else 1.0 / gain
                yield
            active.discard(name)
            return Finished()

        return Job(name, begin)

    company = Company(0, 4)
    take_turns([job(name) for name in "abcd"], CPU, company, lambda name, event: ended.append(name))
    assert sorted(ended) == list("abcd")
    assert company.remarks == [words]
    assert [entry[-1] for entry in log if " of " in entry][1:] == widths[1:]
    assert (log.index("b100") > log.index("a399")) == (gain < together.WORTH)


@pytest.mark.parametrize("at", [1, 30, 62, 70])
def test_stopped_while_how_many_is_being_found_all_are_asked(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first step, in the measurement of one, as the others join, and in the measurement of all."""
    monkeypatch.setattr(together, "_room", lambda device: 3)
    taken, begun, saved = [0], set[str](), set[str]()

    def job(name: str) -> Job:
        def begin(width: int) -> Turns[Event]:
            begun.add(name)
            while True:
                taken[0] += 1
                if taken[0] >= at:
                    saved.add(name)
                    raise Interrupted("stopped by the user")
                yield

        return Job(name, begin)

    with pytest.raises(Interrupted):
        take_turns([job(name) for name in "abcd"], CPU, Company(0, 4), lambda name, event: None)
    assert saved == begun


def test_one_that_fails_as_it_joins_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_room", lambda device: 3)
    ended: dict[str, Event] = {}
    jobs = [Job("a", steps(200, [], "a")), Job("b", steps(0, [], "b", MemoryError())), Job("c", steps(200, [], "c"))]
    take_turns(jobs, CPU, Company(0, 3), ended.__setitem__)
    assert {name: type(event) for name, event in ended.items()} == {"a": Finished, "b": Failed, "c": Finished}


def test_random_streams_are_each_ones_own() -> None:
    """Also those of Python and numpy."""
    drawn: dict[str, list[float]] = {"a": [], "b": []}

    def draws(name: str) -> Callable[[int], Turns[Event]]:
        def begin(width: int) -> Turns[Event]:
            random.seed(1)
            np.random.seed(1)
            torch.manual_seed(1)
            for _ in range(3):
                drawn[name] += [random.random(), float(np.random.rand()), float(torch.rand(()))]
                yield
            return Finished()

        return begin

    take_turns([Job(name, draws(name)) for name in drawn], CPU, Company(2), lambda name, event: None)
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn["a"])) == 9
