"""One run from spec to record, in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import Diverged, Unfit
from bench.core.status import status_of
from bench.data.datasets import DataSource
from bench.measure import run as runner
from bench.measure import session
from bench.measure.run import run_one, session_of
from bench.measure.train import Evaluation
from bench.plan.recipes import smoke
from bench.plan.spec import RunSpec, Setting
from bench.store import records as schema
from bench.store.disk import Store, sessions_of
from models.registry import ModelError
from tests import synthetic


@pytest.fixture
def source(tiny_npz: Path) -> DataSource:
    return DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)


def make_spec(source: DataSource, **changes: Any) -> RunSpec:
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32")
    return replace(RunSpec("resnet20", source.load().ref, recipe, Setting(), "cpu", "here", 0), **changes)


def ignore(event: dict[str, Any]) -> None:
    pass


def test_the_test_set_is_read_once_at_the_end(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test part has 60 images and the validation part 12, so that a look tells by its size what it was at."""
    looks: list[int] = []
    original = runner.evaluate

    def counting(*words: Any, **named: Any) -> Evaluation:
        found = original(*words, **named)
        looks.append(len(found.labels))
        return found

    monkeypatch.setattr(runner, "evaluate", counting)
    record = run_one(make_spec(source), source.load(), Store(tmp_path), ignore)
    assert looks == [12, 12, 60]
    assert record["metrics"]["test_images"] == 60
    whole, *parts = record["modules"]
    assert (whole["name"], parts[-1]["name"]) == ("", "fc")
    for figure in ("params", "flops", "activations"):
        assert whole[figure] == record["metrics"][figure]
        assert sum(part[figure] for part in parts) == whole[figure], "a ResNet has no parameters outside of its parts"


def test_a_model_that_cannot_be_counted_has_a_note_and_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("cannot be traced")

    monkeypatch.setattr(runner, "counted", fails)
    of = synthetic.spec("resnet20")
    model = runner.build_model(of)
    figures, notes, kept = runner._cost(model, of)
    assert figures == {"flops": None, "params": sum(p.numel() for p in model.parameters())}
    assert notes == ["FLOPs not counted: RuntimeError: cannot be traced"]
    assert kept == {"flops_audit": None}


@pytest.mark.parametrize(
    "modules", ["fc", [{"name": "fc"}], [{"name": "fc", "params": -1, "flops": 1, "activations": 1}]]
)
def test_modules_are_counts_where_given(modules: Any) -> None:
    made = {**synthetic.record(synthetic.spec("resnet20"), 0.9), "files": {}}
    fine = [{"name": "fc", "params": 650, "flops": 640, "activations": 10}]
    assert schema.validate({**made, "modules": fine}, made["run_id"])
    with pytest.raises(schema.Damaged):
        schema.validate({**made, "modules": modules}, made["run_id"])


def test_the_record_is_written_last(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies while it saves its predictions is not done."""

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    spec, store = make_spec(source), Store(tmp_path)
    monkeypatch.setattr(runner, "save_predictions", fails)
    with pytest.raises(OSError, match="No space"):
        run_one(spec, source.load(), store, ignore)
    assert not store.is_done(spec)


def test_changed_data_are_refused(source: DataSource, tmp_path: Path) -> None:
    spec = make_spec(source)
    other = replace(spec, data=replace(spec.data, content_hash="0" * 64))
    with pytest.raises(Unfit, match="not those that the sweep was planned with"):
        run_one(other, source.load(), Store(tmp_path), ignore)


def test_a_seed_decides_the_weights() -> None:
    source = DataSource("digits", Path(), None, 1.0)
    first, same, other = (runner.build_model(make_spec(source, seed=seed)) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_session_is_found_again_by_the_runs_it_timed(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    store, spec = Store(tmp_path), make_spec(source)
    record = run_one(spec, source.load(), store, ignore)
    made = session.time_models(session_of([spec], 0.0), session.Found(), store, ignore)
    assert [s["id"] for s in sessions_of(record, store.sessions())] == [made["id"]]
    assert {s["kind"] for s in made["samples"]} == {"train", "inference", "latency"}
    assert len(made["samples"]) == 3 * 3
    assert "groups" not in made, "a session after a sweep is short"


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
    from bench.measure.cost import count

    monkeypatch.setattr(runner, "cache_dir", lambda: tmp_path)
    of = synthetic.spec("resnet20")
    model = runner.build_model(of)
    fresh = count(model, 32)
    assert runner.counted(model, of) == fresh
    (path,) = tmp_path.glob("costs/*.json")
    calls: list[int] = []
    monkeypatch.setattr(runner, "count", lambda *_: (calls.append(1), fresh)[1])
    assert runner.counted(model, of) == fresh
    assert not calls
    path.write_text(path.read_text().replace("272", "273"))
    assert runner.counted(model, of) == fresh
    assert len(calls) == 1
