"""A store made by real runs in this process, to be damaged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from bench.analysis.verdicts_csv import write_verdicts
from bench.data.datasets import DataSource
from bench.measure import session
from bench.measure.run import run_one
from bench.plan.recipes import smoke
from bench.plan.spec import RunSpec, Setting, session_of
from bench.store.disk import Store
from bench.store.records import TrialResults

settings.register_profile("thorough", max_examples=3000, deadline=None)


@pytest.fixture(scope="session")
def words(tiny_npz: Path) -> list[str]:
    """A sweep on the tiny data set; a test adds --epochs, --models and --results."""
    return [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]


@pytest.fixture(scope="session")
def pristine(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two finished runs and one speed session; do not write to it."""
    root = tmp_path_factory.mktemp("pristine")
    store, source = Store(root), DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    dataset = source.load()
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32")
    specs = [RunSpec(m, dataset.ref, recipe, Setting(), "cpu", "here", 0) for m in ("resnet20", "vit_params")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
        for spec in specs:
            run_one(spec, dataset, store, lambda event: None)
        quick = replace(session_of(specs, 60.0), starts=1, half_width=5.0)
        session.time_models(quick, TrialResults(), store, lambda event: None)
    store.rebuild_views()
    write_verdicts(store)
    return root


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    """A copy of `pristine` to damage."""
    shutil.copytree(pristine, tmp_path / "store")
    return Store(tmp_path / "store")
