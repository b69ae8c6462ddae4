"""Runs for TensorBoard and MLflow: what they show, and that their own packages read it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.analysis.tables import Loaded, load
from bench.present.export.runs import exported
from bench.store.disk import Store
from tests.synthetic import RECIPE, failure, record, session, spec, write_predicted

Here = Callable[..., CompletedProcess[str]]
START = 1767225600.0  # 2026-01-01 in UTC: date -ud 2026-01-01 +%s


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two finished runs and a failed one."""
    store = Store(tmp_path / "store")
    for seed in (0, 1):
        of = spec("seresnet", seed)
        store.write_spec(of)
        write_predicted(store, of, [0, 1], [0, 1], [0.1, 0.1])
    store.write_failure(failure(spec("vit_tiny")))
    return store


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_record_becomes_parameters_curves_and_figures() -> None:
    timed = session({"seresnet": [0.5]})
    (run,) = exported(Loaded([record(spec("seresnet"), 0.9, target=0.8)], [timed], []))
    few = {"model": "seresnet", "dataset": "cifar10", "seed": 0, "recipe": RECIPE.name, "epochs": 3, "target": 0.8}
    few |= {"setting": "eager", "device": "cpu", "device_name": "Test CPU", "lr": RECIPE.lr, "dirty": False}
    assert run.parameters.items() >= few.items()
    assert not {"budget", "track", "name"} & run.parameters.keys()  # empty, or there as "recipe"
    assert run.curves["validation/accuracy"] == [
        (1000, START + 10, pytest.approx(0.3)),
        (2000, START + 20, pytest.approx(0.6)),
        (3000, START + 30, pytest.approx(0.9)),
    ]
    assert [point.value for point in run.curves["validation/loss"]] == [2.1, 1.05, pytest.approx(0.7)]
    assert [point.value for point in run.curves["training/loss"]] == [2.0, 1.0, pytest.approx(2 / 3)]
    assert [point.value for point in run.curves["training/learning_rate"]] == pytest.approx([1e-3, 5e-4, 1e-3 / 3])
    assert [point.value for point in run.curves["training/epoch"]] == [1, 2, 3]
    figures = {"final/test_accuracy": 0.9, "final/train_seconds": 30.0, "final/flops": 127_105_568.0}
    figures |= {"final/params": 861_818.0, "final/train_images_per_second": RECIPE.batch_size / 0.5}
    assert run.figures.items() >= figures.items()
    assert "final/pace_seconds" not in run.figures
    assert "final/train_flops_2x" not in run.figures  # not in this record
    assert (run.started, run.ended, run.last) == (START, START + 30, 3000)


def test_what_was_not_measured_is_left_out() -> None:
    recipe = replace(RECIPE, epochs=0, budget="3ksamples")
    of = record(
        spec("seresnet", recipe=recipe), 0.9, started="some day", metrics={"train_seconds": None, "flops": None}
    )
    (run,) = exported(Loaded([of], [], []))
    assert run.parameters["budget"] == "3ksamples"
    assert "epochs" not in run.parameters
    assert not {"final/train_seconds", "final/flops", "final/loop_images_per_second"} & run.figures.keys()
    assert (run.started, run.figures["final/epochs"]) == (0, 3)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_its_remedy(
    name: str, store: Store, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    done = here("export", "--to", name, store.root, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"run_bench.py: --to {name} needs its package (")
    assert done.stderr.endswith(f'): pip install -e ".[{name}]"\n')
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_a_store(store: Store, here: Here) -> None:
    before = contents(store.root)
    done = here("export", "--to", "tensorboard", "--results", store.root, "--out", store.root / "plots" / "new")
    assert (done.returncode, "which export only reads; choose another with --out" in done.stderr) == (2, True)
    assert contents(store.root) == before


def test_tensorboard_reads_what_is_exported(store: Store, tmp_path: Path, here: Here) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    before, out = contents(store.root), tmp_path / "out"
    for _ in range(2):  # a second time shows nothing twice
        done = here("export", "--to", "tensorboard", store.root, "--out", out)
        assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"wrote 2 runs to {out}\nto see them: tensorboard --logdir {out}\nleft out: 1 failed run; `table` says why\n"
    )
    assert contents(store.root) == before
    runs = {run.run_id: run for run in exported(load([store]))}
    assert {path.name for path in out.iterdir()} == runs.keys()
    for name, run in runs.items():
        log = EventAccumulator(str(out / name))
        log.Reload()
        shown = {tag: [(s.step, s.wall_time, s.value) for s in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
        curves = {tag: [tuple(point) for point in points] for tag, points in run.curves.items()}
        figures = {tag: [(run.last, run.ended, value)] for tag, value in run.figures.items()}
        for tag, points in (curves | figures).items():
            assert shown.pop(tag) == [pytest.approx(point) for point in points], tag  # float32
        assert shown == {}
        metadata = log.SummaryMetadata("_hparams_/session_start_info")
        start = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
        values = {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in start.hparams.items()}
        assert values == run.parameters


def test_mlflow_reads_what_is_exported(store: Store, tmp_path: Path, here: Here) -> None:
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no store in a file")
    tracking = pytest.importorskip("mlflow.tracking")
    before, out = contents(store.root), tmp_path / "out"
    uri = f"sqlite:///{out}/mlflow.db"
    for text in (f"wrote 2 runs to {uri}\n", f"wrote 0 runs to {uri} (2 were there already)\n"):
        done = here("export", "--to", "mlflow", store.root, "--out", out)
        assert done.stdout.startswith(f"{text}to see them: mlflow ui --backend-store-uri {uri}\n"), done.stderr
    assert contents(store.root) == before
    client = tracking.MlflowClient(uri)
    runs = {run.run_id: run for run in exported(load([store]))}
    experiment = client.get_experiment_by_name("sevit-bench").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert found.keys() == runs.keys()
    for name, run in runs.items():
        shown = found[name]
        assert (shown.info.status, shown.info.start_time) == ("FINISHED", 1000 * run.started)
        assert shown.data.params == {key: str(value) for key, value in run.parameters.items()}
        assert shown.data.metrics == {key: points[-1].value for key, points in run.curves.items()} | run.figures
        history = client.get_metric_history(shown.info.run_id, "validation/accuracy")
        points = [(point.step, point.timestamp / 1000, point.value) for point in history]
        assert sorted(points) == [tuple(point) for point in run.curves["validation/accuracy"]]
    # A server is shared: only what an interrupted export left of this very run is replaced.
    name, run = next(iter(runs.items()))
    client.delete_run(found[name].info.run_id)
    half = client.create_run(experiment, start_time=int(1000 * run.started), run_name=name).info.run_id
    others = client.create_run(experiment, start_time=1, run_name=name).info.run_id
    client.set_terminated(others, "FINISHED")
    assert (
        f"wrote 1 run to {uri} (1 was there already)\n"
        in here("export", "--to", "mlflow", store.root, "--out", out).stdout
    )
    kept = {run.info.run_id for run in client.search_runs([experiment]) if run.info.run_name == name}
    assert half not in kept
    assert others in kept
    assert len(kept) == 2
