"""Weights that a run keeps: the printed example loads them and gets the record's accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from bench.core.errors import Interrupted
from bench.core.events import Event, Note, Probed, StepDone
from bench.data.datasets import DataSource
from bench.drive import sweep
from bench.drive.context import SweepContext
from bench.drive.planning import Plan
from bench.measure.probe import child_probe
from bench.measure.run import run_one
from bench.measure.weights import weights_file
from bench.plan.recipes import smoke
from bench.plan.spec import RunOptions, RunSpec, Setting
from bench.store.check import store_problems
from bench.store.disk import WEIGHTS, Store
from bench.store.records import FinishedRun

Here = Callable[..., CompletedProcess[str]]
KEEP = RunOptions(keep_weights=True)
TINY = """
from torch import nn

def make(num_classes, image_size):
    width = 8
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )
"""


@pytest.fixture
def tiny(tmp_path: Path, tiny_npz: Path) -> tuple[RunSpec, DataSource]:
    (tmp_path / "tiny.py").write_text(TINY)
    source = DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32", lr=0.03)
    return RunSpec(f"{tmp_path}/tiny.py:make", source.load().ref, recipe, Setting(), "cpu", "here", 0), source


@pytest.fixture
def spec(tiny: tuple[RunSpec, DataSource]) -> RunSpec:
    from models.registry import source_hash

    return replace(tiny[0], model_source=source_hash(tiny[0].model))


def ignore(event: Event) -> None:
    pass


def test_weights_of_a_resumed_run_give_the_records_accuracy(
    spec: RunSpec, tiny: tuple[RunSpec, DataSource], tmp_path: Path, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = tiny[1].load(), Store(tmp_path / "store")
    steps = 0

    def interrupt(event: Event) -> None:
        nonlocal steps
        steps += isinstance(event, StepDone)
        if steps == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_one(spec, data, store, interrupt, options=KEEP)
    assert not (store.run_dir(spec) / WEIGHTS).exists()
    record = run_one(spec, data, store, ignore, options=KEEP)
    assert record.metrics.segments == 2
    assert set(store.runs()[0].files) == {"history.csv", "predictions.npz", WEIGHTS}  # type: ignore[union-attr]
    store.rebuild_views()
    assert list(store_problems(store)) == []

    printed = here("weights", spec.run_id[-6:], "--results", store.root)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == here("weights", "--results", store.root).stdout
    assert f"test accuracy {record.metrics.accuracy!r} in its record" in printed.stdout
    names: dict[str, Any] = {}
    exec(printed.stdout, names)
    assert float(capsys.readouterr().out) == record.metrics.accuracy
    with np.load(store.run_dir(spec) / "predictions.npz") as predictions:
        assert names["predicted"].tolist() == predictions["test_predicted"].tolist()
        assert len(set(predictions["test_predicted"])) > 1
    with safe_open(store.run_dir(spec) / WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["mean"]) == pytest.approx(
            data.arrays.train_x[data.train_index].mean((0, 1, 2)), rel=1e-4
        )

    missing = here("weights", "nosuch", "--results", store.root)
    assert missing.returncode == 2
    assert f"no weights of 'nosuch'; choose from {spec.run_id}" in missing.stderr
    path = store.run_dir(spec) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "is not the file that the run's record describes" in here("weights", "--results", store.root).stderr
    assert f"{spec.run_id}: {WEIGHTS}: its checksum does not match" in list(store_problems(store))
    path.unlink()
    assert "cannot be read" in here("weights", "--results", store.root).stderr

    again = run_one(spec, data, store, ignore)  # repeated without
    assert again.metrics.accuracy == record.metrics.accuracy
    none = here("weights", "--results", store.root)
    assert (none.returncode, "no run here has kept its weights; add --keep-weights" in none.stderr) == (2, True)


def test_weights_of_an_earlier_training_go(tmp_path: Path) -> None:
    """Whether this machine or another one trained again without keeping them; with them, another machine's come."""
    from tests.synthetic import write_pair

    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8}, seeds=1, images=50)
    write_pair(other, {"seresnet": 0.9, "vit_tiny": 0.8}, seeds=1, images=50)
    run = store.runs()[0]
    assert isinstance(run, FinishedRun)
    files = {"history.csv": b"epoch"}
    path = store.run_dir(run.spec) / WEIGHTS
    store.write_record(run, {**files, WEIGHTS: b"weights"})
    assert path.read_bytes() == b"weights"
    folder = f"runs/{run.run_id}"
    plain = [(f"{folder}/{path.name}", path.read_bytes()) for path in other.run_dir(run.spec).iterdir()]
    store.adopt([(name, content) for name, content in plain if not name.endswith("record.json")], again=True)
    assert path.exists()  # nothing came that says the run was done
    store.adopt(plain, again=True)
    assert not path.exists()
    store.adopt([*plain, (f"{folder}/{WEIGHTS}", b"theirs")], again=True)
    assert path.read_bytes() == b"theirs"
    store.write_record(run, files)
    assert not path.exists()


class Odd(nn.Module):
    """Two names for one tensor, another memory format, an extra state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.twin = self.conv.weight

    def get_extra_state(self) -> Any:
        return {"calls": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Stats:
    mean, std = torch.zeros(3), torch.ones(3)


def test_peculiar_tensors_are_kept_and_what_cannot_be_costs_no_run() -> None:
    from safetensors.torch import load

    model, notes = Odd(), list[Event]()
    kept = weights_file(model, Stats(), notes.append)  # type: ignore[arg-type]
    tensors = load(kept[WEIGHTS])
    assert set(tensors) == {"conv.weight", "conv.bias", "twin"}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, model.state_dict()[name])
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    assert weights_file(model, Stats(), notes.append) == {}  # type: ignore[arg-type]
    (note,) = notes
    assert isinstance(note, Note)
    assert note.text.startswith("the weights could not be kept: ")


def test_the_plan_says_how_large_they_are(spec: RunSpec, tmp_path: Path) -> None:
    """8 * 27 + 8 parameters of the convolution, 4 * 8 and a counter of 8 bytes of BatchNorm, 8 * 3 + 3 of the head."""
    events: list[Event] = []
    child_probe(events.append, [spec])
    (probed,) = (event for event in events if isinstance(event, Probed))
    assert probed.weights_bytes == 4 * (224 + 32 + 27) + 8

    class Screen:
        lines: list[str] = []  # noqa: RUF012

        def line(self, text: str) -> None:
            self.lines.append(text)

    plan = Plan.__new__(Plan)
    object.__setattr__(plan, "specs", [spec, replace(spec, seed=1)])
    context = SweepContext(Store(tmp_path), None, Screen())  # type: ignore[arg-type]
    sweep.say_weights([plan], {spec.model: 3_400_000}, False, context)
    assert Screen.lines == [f"weights to keep: about 6.8 MB for 2 runs (each: {spec.model} 3.4 MB)"]
