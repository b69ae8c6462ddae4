"""One run from spec to record, in this process."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from bench.cli.main import main
from bench.cli.requests import expand_dataset, parse_models
from bench.core.errors import Diverged, Unfit
from bench.core.events import Event, StepDone
from bench.core.status import status_of
from bench.data.datasets import DataSource
from bench.data.own import MOST_CLASSES
from bench.measure import counting, session
from bench.measure import run as run_module
from bench.measure.build import build_model
from bench.measure.evaluate import Evaluation
from bench.measure.phases import Phases
from bench.measure.run import run_one
from bench.plan.recipes import smoke
from bench.plan.spec import Colocation, RunOptions, RunSpec, Setting, session_of
from bench.store.disk import Store
from bench.store.records import PHASES, Damaged, TrialResults, decode, encode
from bench.store.views import sessions_of
from models.errors import ModelError
from models.registry import source_hash
from tests import synthetic


@pytest.fixture
def source(tiny_npz: Path) -> DataSource:
    return DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)


def make_spec(source: DataSource, **changes: Any) -> RunSpec:
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32")
    return replace(RunSpec("resnet20", source.load().ref, recipe, Setting(), "cpu", "here", 0), **changes)


def ignore(event: Event) -> None:
    pass


def test_a_gpu_that_others_use_is_a_note_unless_they_are_of_this_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    for facts, runs, shared in (({"gpu_shared": True}, 1, True), ({"gpu_shared": True}, 2, False), ({}, 2, None)):
        monkeypatch.setattr(run_module, "describe", lambda device, facts=facts: dict(facts))
        options = RunOptions(colocation=Colocation(runs, 4))
        assert run_module.facts_of(torch.device("cpu"), options, notes.append).get("gpu_shared") is shared
    (note,) = notes
    assert note.startswith("other processes used this GPU when the run began")


def test_the_test_set_is_read_once_at_the_end(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test part has 60 images and the validation part 12, so that a look tells by its size what it was at."""
    looks: list[int] = []
    original = run_module.evaluate

    def watched(*words: Any, **named: Any) -> Evaluation:
        evaluation = original(*words, **named)
        looks.append(len(evaluation.labels))
        return evaluation

    monkeypatch.setattr(run_module, "evaluate", watched)
    record = run_one(make_spec(source), source.load(), Store(tmp_path), ignore)
    assert looks == [12, 12, 60]
    assert record.metrics.test_images == 60
    assert record.modules is not None
    whole, *parts = record.modules
    assert (whole.name, parts[-1].name) == ("", "fc")
    for figure in ("params", "flops", "activations"):
        total = getattr(whole, figure)
        assert total == getattr(record.metrics, figure)
        assert sum(getattr(part, figure) for part in parts) == total, "a ResNet has no parameters outside of its parts"


def test_phases_add_up_to_the_wall_clock(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the work moves, each part by seconds of its own."""
    clock, spec = [100.0], make_spec(source)

    def takes(seconds: float, name: str, owner: Any = run_module) -> None:
        original = getattr(owner, name)

        def slow(*words: Any, **named: Any) -> Any:
            clock[0] += seconds
            return original(*words, **named)

        monkeypatch.setattr(owner, name, slow)

    for seconds, name in enumerate(("prepare_device", "make_batches", "build_model", "cost_of"), 1):
        takes(seconds, name)
    takes(5, "validation", run_module.Images)
    takes(10, "evaluate")
    takes(20, "predictions_npz")

    def report(event: Event) -> None:
        clock[0] += 0.25 if isinstance(event, StepDone) else 0.0

    phases = Phases(lambda: clock[0], before=7.0)
    record = run_one(spec, source.load(), Store(tmp_path), report, phases=phases)
    steps = record.metrics.samples_seen // 20
    expected = {"start": 8, "data": 2, "build": 3, "count": 4, "move": 5, "first step": 0.25}
    expected |= {"training": 0.25 * (steps - 1), "validation": 20, "test": 10, "saving": 20}
    assert record.phases == expected
    assert tuple(record.phases) == PHASES
    assert record.metrics.wall_seconds == sum(expected.values()) == clock[0] - 100 + 7
    assert decode(encode(record), record.run_id) == record
    older = {k: v for k, v in json.loads(encode(record)).items() if k != "phases"}
    assert decode(synthetic.sealed(older), record.run_id) == msgspec.structs.replace(record, phases={})


def test_a_model_that_cannot_be_counted_has_a_note_and_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("cannot be traced")

    monkeypatch.setattr(counting, "cached_count", fails)
    spec = synthetic.spec("resnet20")
    model = build_model(spec)
    cost = counting.cost_of(model, spec)
    assert cost.metrics == {"flops": None, "params": sum(p.numel() for p in model.parameters())}
    assert cost.notes == ["FLOPs not counted: RuntimeError: cannot be traced"]
    assert (cost.audit, cost.modules, cost.train_flops) == (None, None, None)


@pytest.mark.parametrize(
    "modules", ["fc", [{"name": "fc"}], [{"name": "fc", "params": -1, "flops": 1, "activations": 1}]]
)
def test_modules_are_counts_where_given(modules: Any) -> None:
    run = synthetic.record(synthetic.spec("resnet20"), 0.9)
    body = json.loads(encode(run))
    fine = [{"name": "fc", "params": 650, "flops": 640, "activations": 10}]
    assert decode(synthetic.sealed({**body, "modules": fine}), run.run_id)
    with pytest.raises(Damaged):
        decode(synthetic.sealed({**body, "modules": modules}), run.run_id)


def test_the_record_is_written_last(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies while it saves its predictions is not done."""

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    spec, store = make_spec(source), Store(tmp_path)
    monkeypatch.setattr(run_module, "predictions_npz", fails)
    with pytest.raises(OSError, match="No space"):
        run_one(spec, source.load(), store, ignore)
    assert not store.is_done(spec)


def test_predictions_hold_every_class_that_data_may_have() -> None:
    labels = np.array([17, MOST_CLASSES - 1])
    seen = Evaluation(labels[::-1].copy(), np.ones(2, np.float32), labels)
    with np.load(io.BytesIO(run_module.predictions_npz(seen, seen))) as stored:
        assert stored["test_label"].tolist() == labels.tolist()
        assert stored["val_predicted"].tolist() == labels[::-1].tolist()


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_names_that_are_no_utf8_are_in_the_record_as_far_as_they_can_be(
    kind: str, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name in Latin-1, as on an old disk: data, model and store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, code, store = tmp_path / "caf\udce9.npz", tmp_path / "n\udce9t.py", Store(tmp_path / "\udcff")
    if kind == "npz":
        shutil.copy(tiny_npz, data)
    else:
        for part, label, image in np.ndindex(2, 2, 20):
            folder = data / ("train", "test")[part] / f"\udcff{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), 100 * label).save(folder / f"{image}.ppm")
    code.write_text("from models.registry import build\ndef net(c, s):\n    return build('resnet20', c, s)\n")
    code.with_name("net.py").write_text("a neighbour with nearly that name")
    source = DataSource(expand_dataset(f"{kind}:{data}"), tmp_path / "data", None, 1.0)
    (model,) = parse_models(f"{code}:net")
    assert model == f"{tmp_path}/n\ufffdt.py:net"
    assert source_hash(model) == hashlib.sha256(code.read_bytes()).hexdigest()
    spec = make_spec(source, model=model, model_source=source_hash(model))
    run_one(spec, source.load(), store, ignore)
    assert store.is_done(spec)
    (found,) = store.runs()
    assert found.spec.model == model
    assert found.spec.data.name == f"{kind}:caf\ufffd{'.npz' * (kind == 'folder')}"
    assert main(["report", "--results", str(store.root), "--images", "none"]) == 0
    assert main(["plot", "--results", str(store.root)]) == 0
    assert main(["table", "--results", str(store.root), "--out", str(tmp_path / "\udcff.md")]) == 0
    assert model.encode() in (store.root / "report.html").read_bytes()


def test_changed_data_are_refused(source: DataSource, tmp_path: Path) -> None:
    spec = make_spec(source)
    other = replace(spec, data=replace(spec.data, content_hash="0" * 64))
    with pytest.raises(Unfit, match="not those that the sweep was planned with"):
        run_one(other, source.load(), Store(tmp_path), ignore)


def test_a_seed_decides_the_weights() -> None:
    source = DataSource("digits", Path(), None, 1.0)
    first, same, other = (build_model(make_spec(source, seed=seed)) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_session_is_found_again_by_the_runs_it_timed(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    store, spec = Store(tmp_path), make_spec(source)
    record = run_one(spec, source.load(), store, ignore)
    timed = session.time_models(session_of([spec], 60.0), TrialResults(), store, ignore)
    assert [s.id for s in sessions_of(record, store.sessions())] == [timed.id]
    assert {s.kind for s in timed.samples} == {"train", "inference", "latency"}
    assert len(timed.samples) == 3 * 10
    assert (timed.stopped, timed.starts, timed.planned_starts, timed.left_out) == ("alone", 1, 1, ())
    assert not timed.groups, "a session after a sweep is short"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "oom"),
        (MemoryError(), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "oom"),
        (Diverged(3), "diverged"),
        (ModelError("x"), "failed"),
        (RuntimeError("x"), "failed"),
    ],
)
def test_failures_by_name(error: BaseException, status: str) -> None:
    assert status_of(error) == status


def test_a_count_is_made_once_and_believed_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache it is the same to the last field; a damaged file is counted anew."""
    monkeypatch.setattr(counting, "cache_dir", lambda: tmp_path)
    spec = synthetic.spec("resnet20")
    model = build_model(spec)
    fresh = counting.count(model, 32)
    assert counting.cached_count(spec) == fresh
    (path,) = tmp_path.glob("costs/*.json")
    calls: list[int] = []
    monkeypatch.setattr(counting, "count", lambda *_: (calls.append(1), fresh)[1])
    assert counting.cached_count(spec) == fresh
    assert not calls
    path.write_text(path.read_text().replace("272", "273"))
    assert counting.cached_count(spec) == fresh
    assert len(calls) == 1
