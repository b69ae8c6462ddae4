"""Users' models that are neither ours nor a zoo's: each trains to a record, or is refused with the reason."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.analysis.check import problems
from bench.core.errors import Interrupted
from bench.core.events import EpochDone, Event, ModelTurn, Probed
from bench.data.datasets import DataSource
from bench.measure import pace, session
from bench.measure.build import build_model, build_plain
from bench.measure.device import device_name, fix_numerics
from bench.measure.probe import check_run, child_probe
from bench.measure.run import child_run, run_one
from bench.measure.switches import GLOBAL_HOOKS, SWITCHES, kept
from bench.plan.recipes import smoke
from bench.plan.spec import RunSpec, Setting, session_of
from bench.store.disk import Store
from bench.store.records import FinishedRun, TrialResults
from models.errors import ModelError
from models.registry import source_hash
from tests.conftest import ROOT

PECULIAR = ROOT / "tests" / "peculiar.py"
CONVOLVE = nn.Conv2d.forward


@pytest.fixture
def source(tiny_npz: Path) -> DataSource:
    return DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)


def make_spec(source: DataSource, factory: str, **changes: Any) -> RunSpec:
    name = f"{PECULIAR}:{factory}"
    recipe = replace(smoke(), **{"epochs": 1, "batch_size": 20, "precision": "fp32", **changes})
    return RunSpec(name, source.load().ref, recipe, Setting(), "cpu", "here", 0, model_source=source_hash(name))


def ignore(event: Event) -> None:
    pass


@pytest.mark.parametrize("factory", ["weight_norm", "compiled", "scripted", "attends", "untraceable"])
def test_a_run_is_a_row_whether_its_flops_are_counted_or_not(source: DataSource, factory: str, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), make_spec(source, factory)
    run_one(spec, source.load(), store, ignore)
    assert store.is_done(spec)
    record = store.record(spec)
    assert isinstance(record, FinishedRun)
    counted = factory in ("weight_norm", "attends")
    assert (record.metrics.flops is not None) == (record.metrics.activations is not None) == counted
    assert any(note.startswith("FLOPs not counted") for note in record.notes) != counted
    assert record.metrics.params
    store.rebuild_views()
    assert list(problems(store)) == []


@pytest.mark.parametrize("factory", ["weight_norm", "attends"])
def test_a_model_that_cannot_be_copied_resumes(source: DataSource, factory: str, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), make_spec(source, factory, epochs=4)
    events: list[Event] = []

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.row.epoch == 2:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        run_one(spec, source.load(), store, stop)
    record = run_one(spec, source.load(), store, events.append)
    assert [type(e).__name__ for e in events if type(e).__name__ in ("Continued", "Note")] == ["Continued"]
    whole = run_one(spec, source.load(), Store(tmp_path / "whole"), ignore)
    assert record.metrics.segments == 2
    assert [row.val_loss for row in record.history] == [row.val_loss for row in whole.history]
    assert record.metrics.test_loss == whole.metrics.test_loss


def test_a_budget_in_seconds_needs_no_copy(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST", 0.0)
    spec = make_spec(source, "weight_norm", epochs=0, budget="0.1s")
    record = run_one(spec, source.load(), Store(tmp_path), ignore)
    assert record.metrics.pace_images_per_second


@pytest.mark.parametrize(
    ("factory", "precision", "note"),
    [
        ("views", "fp32", "does not run in channels_last"),
        ("views", "bf16", "does not run in channels_last"),
        ("deep", "fp32", "does not run in channels_last"),
        ("lazy", "fp32", ""),
        ("fourier", "fp32", ""),
        ("weight_norm", "bf16", ""),
        ("frozen_norm", "fp32", ""),
    ],
)
def test_what_passes_the_probe_trains(
    source: DataSource, factory: str, precision: str, note: str, tmp_path: Path
) -> None:
    spec = make_spec(source, factory, precision=precision)
    warnings = check_run(spec)
    assert [note in warning for warning in warnings] == ([True] if note else [])
    record = run_one(spec, source.load(), Store(tmp_path), ignore)
    assert [text for text in record.notes if "channels_last" in text] == [w.partition(": ")[2] for w in warnings]
    assert record.metrics.params
    assert (record.metrics.flops is None) == (factory == "fourier" and record.metrics.activations is None)
    assert record.setting_used == "eager"


@pytest.mark.parametrize(
    ("factory", "changes", "says"),
    [
        ("puts", {"precision": "bf16"}, "under bf16, though not under fp32: "),
        (
            "vector_norm",
            {"batch_size": 1},
            "in a training step on 1 image with adamw in fp32: ValueError",
        ),
        ("sparse", {"optimizer": "adamw"}, "in a training step on 2 images with adamw in fp32: "),
        ("in_place", {}, "changes its input in place; write x = x - 0.5 instead"),
    ],
)
def test_what_cannot_train_is_refused_with_the_condition(
    source: DataSource, factory: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(says)):
        check_run(make_spec(source, factory, **changes))


def test_a_model_is_not_blamed_for_conditions_that_it_does_not_meet(source: DataSource) -> None:
    assert check_run(make_spec(source, "puts")) == []
    assert check_run(make_spec(source, "vector_norm", batch_size=2)) == []


def test_lazy_weights_are_the_seeds(source: DataSource) -> None:
    first, same = (build_model(make_spec(source, "lazy")) for _ in range(2))
    pairs = zip(first.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("factory", "names"),
    [
        ("float64", ["default dtype (torch.float32 to torch.float64)"]),
        ("three_threads", ["number of threads (1 to 3)"]),
        ("no_gradients", ["gradients (True to False)"]),
        ("on_meta", ["default device (cpu to meta)"]),
        ("anomalies", ["anomaly detection"]),
        ("tf32", ["TF32 products", "TF32 convolutions"]),
        ("new_tf32", ["precision of fp32 (none to tf32)", "precision of fp32 convolutions (none to tf32)"]),
        ("deterministic", ["cudnn.benchmark (True to False)", "deterministic algorithms"]),
        ("elsewhere", [f"working directory ({Path.cwd()} to /)"]),
        ("hooked", ["forward hooks of all modules"]),
    ],
)
def test_switches_of_the_process_are_put_back_and_named(factory: str, names: list[str]) -> None:
    notes: list[str] = []
    with one_thread():
        fix_numerics(deterministic=False)
        before = {name: get() for name, (get, _) in SWITCHES.items()}
        hooks = [dict(getattr(nn.modules.module, name)) for name in GLOBAL_HOOKS]
        build_plain(f"{PECULIAR}:{factory}", 3, 16, notes.append)
        assert {name: get() for name, (get, _) in SWITCHES.items()} == before
        assert [dict(getattr(nn.modules.module, name)) for name in GLOBAL_HOOKS] == hooks
    assert len(notes) == 1
    assert all(name in notes[0] for name in names), notes


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    with kept():
        torch.set_num_threads(1)
        yield


@pytest.mark.parametrize("name", ["resnet20", "vit_tiny", "simple_vit", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_our_models_and_the_zoos_change_no_switch(name: str) -> None:
    notes: list[str] = []
    build_plain(name, 10, 32, notes.append)
    assert notes == []


def test_a_run_and_a_session_are_measured_under_the_usual_switches(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names what was put back; the model beside it is what it is alone; relative stores stay in place."""
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    monkeypatch.chdir(tmp_path)
    spec = replace(make_spec(source, "elsewhere"), device_name=device_name(torch.device("cpu")))
    child_run(ignore, spec, source, Path("store"))
    record = Store(tmp_path / "store").record(spec)
    assert isinstance(record, FinishedRun)
    assert [text for text in record.notes if "working directory" in text]
    specs = [make_spec(source, name) for name in ("float64", "disturbs", "plain")]
    turns: list[tuple[int, object]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ModelTurn):
            turns.append((torch.get_num_threads(), nn.Conv2d.forward))

    with one_thread():
        timed = session.time_models(session_of(specs, 0.0), TrialResults(), Store(tmp_path), on_event)
    assert [text for text in timed.warnings if "default dtype" in text and text.startswith(specs[0].model)]
    assert not timed.not_as_set[specs[0].model]
    assert set(turns) == {(1, CONVOLVE)}, "each turn begins with what the session has"
    (warning,) = (text for text in timed.warnings if "as it runs" in text)
    assert warning.startswith(specs[1].model)
    assert warning.endswith("put back: number of threads (1 to 3), torch.nn.Conv2d.forward")


def test_a_switch_that_a_model_sets_while_it_trains_is_a_note(source: DataSource, tmp_path: Path) -> None:
    with one_thread():
        record = run_one(make_spec(source, "disturbs"), source.load(), Store(tmp_path), ignore)
        assert (torch.get_num_threads(), nn.Conv2d.forward) == (1, CONVOLVE)
    (note,) = (text for text in record.notes if "while it ran" in text)
    assert note.endswith("number of threads (1 to 3), torch.nn.Conv2d.forward")


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="no such signal")
def test_seconds_of_a_stopped_process_are_named(source: DataSource, tmp_path: Path) -> None:
    def continued(event: Event) -> None:
        if isinstance(event, EpochDone):
            os.kill(os.getpid(), signal.SIGCONT)

    before = signal.getsignal(signal.SIGCONT)
    record = run_one(make_spec(source, "plain", epochs=2), source.load(), Store(tmp_path), continued)
    assert [note for note in record.notes if "continued after a stop 2 times (SIGCONT)" in note]
    assert signal.getsignal(signal.SIGCONT) == before


def test_torchs_own_functions_are_put_back() -> None:
    notes: list[str] = []
    before = (nn.Conv2d.forward, nn.functional.cross_entropy, torch.Tensor.backward)
    build_plain(f"{PECULIAR}:patched", 3, 16, notes.append)
    assert (nn.Conv2d.forward, nn.functional.cross_entropy, torch.Tensor.backward) == before
    assert "__call__" not in vars(nn.Linear)
    (note,) = notes
    names = ("nn.functional.cross_entropy", "Tensor.backward", "nn.Conv2d.forward", "nn.Linear.__call__")
    assert all(f"torch.{name}" in note for name in names), note


def test_a_model_is_not_blamed_for_the_one_before_it(source: DataSource) -> None:
    events: list[Event] = []
    child_probe(events.append, [make_spec(source, name) for name in ("patched", "no_gradients", "disturbs", "plain")])
    done = {event.model.rpartition(":")[2]: event.warnings for event in events if isinstance(event, Probed)}
    assert {name: len(warnings) for name, warnings in done.items()} == {
        "patched": 1, "no_gradients": 1, "disturbs": 1, "plain": 0,
    }  # fmt: skip
