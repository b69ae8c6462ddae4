"""The search for the best setting, by the driver: reuse, a candidate that ends its process, a dry run, damage."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.analysis.check import check
from bench.data.datasets import DataSource
from bench.drive import setting_search
from bench.drive.context import SweepContext
from bench.drive.planning import Plan
from bench.executors.child import Outcome
from bench.measure.setting_choice import setting_search_id
from bench.plan.keys import session_key
from bench.plan.recipes import shared
from bench.plan.request import ExecutionOptions, OutputOptions, RunRequest
from bench.plan.settings import SETTINGS
from bench.plan.spec import SessionSpec, Setting, session_of
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.store.disk import Store
from bench.store.records import Candidate, SettingSearch, encode
from tests import synthetic
from tests.engines import AtOnce

RECIPE = replace(shared(), batch_size=2, precision="fp32")

# A transformer in name only: it has the choice of attention, and one of the choices ends its process.
FACTORY = """
import os
from torch import nn


class Attention(nn.Module):
    fused_attn = True

    def forward(self, x):
        if not self.fused_attn:
            os._exit(3)
        return x


def simple(num_classes, image_size):
    side = (image_size - 3) // 2 + 1
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, num_classes))


def choosy(num_classes, image_size):
    return nn.Sequential(Attention(), simple(num_classes, image_size))
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "models.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes too long for a test; child processes inherit the variable."""
    monkeypatch.setenv("CXX", "no-such-compiler")


PLENTY = 30.0  # seconds: even on a busy machine every candidate starts in time


def session(name: str, **changes: Any) -> SessionSpec:
    spec = SessionSpec(((name, "source"),), RECIPE, SETTINGS["tuned"], "cpu", "here", 16, 10, name, seconds=PLENTY)
    return replace(spec, **changes)


NOISE = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.01]


def test_a_candidate_that_ends_its_process_is_left_out(
    factory: Path,
    no_compiler: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Explicit attention ends the process, in both layouts; the search ends all the same, and is not repeated."""
    store, spec = Store(tmp_path / "store"), session(f"{factory}:choosy")
    best = setting_search.settings_for(spec, store, ScreenDisplay(make_console()))
    out = capsys.readouterr().out
    assert out.count("exit code 3; again without it") == 2
    assert "of 6 candidates timed in turns" in out
    assert "2 failed" in out
    facts = setting_search.environment_here("cpu")
    search = store.setting_search(setting_search_id(spec, facts))
    assert search is not None
    assert [row.status for row in search.candidates].count("killed") == 2
    assert best == {f"{factory}:choosy": search.chosen}
    assert search.chosen.attention != "explicit"

    def known(other: SessionSpec) -> dict[str, Setting]:
        return setting_search.known_settings(other, facts, store)

    monkeypatch.setattr(setting_search, "call_alone", lambda *args, **options: Outcome("failed", "it is known already"))
    assert setting_search.settings_for(spec, store, ScreenDisplay(make_console())) == best
    assert known(spec) == best
    others = [session(f"{factory}:choosy", deterministic=True), session(f"{factory}:simple")]
    others += [replace(spec, recipe=replace(RECIPE, batch_size=4)), replace(spec, models=((spec.models[0][0], "new"),))]
    assert [known(other) for other in others] == [{}] * 4
    assert known(replace(spec, recipe=replace(RECIPE, epochs=3, lr=1.0))) == best


def search_record(identifier: str, spec: SessionSpec, chosen: Setting) -> SettingSearch:
    facts = setting_search.environment_here("cpu")
    return SettingSearch(
        id=identifier,
        started="2026-01-01T00:00:00.000+00:00",
        model=spec.models[0][0],
        source="",
        key=session_key(spec, facts),
        recipe=spec.recipe,
        num_classes=10,
        limit_seconds=1.0,
        candidates=(Candidate(setting=Setting(), status="ok", message="", seconds=tuple(NOISE)),),
        chosen=chosen,
        environment=dict(facts),
    )


def test_a_damaged_search_is_named_and_made_anew(tmp_path: Path) -> None:
    store, record = Store(tmp_path), search_record("x-1", session("x"), Setting())
    store.write_setting_search(record)
    assert store.setting_search("x-1") == record
    path = tmp_path / "tuning" / "x-1.json"
    path.write_text(path.read_text().replace("0.99", "0.09"))
    assert store.setting_search("x-1") is None
    store.rebuild_views()
    assert check(store, rebuild=False)[0] == [f"{path}: its checksum does not match"]
    plain = {**msgspec.json.decode(encode(record)), "chosen": asdict(Setting("tuned"))}
    path.write_bytes(synthetic.sealed(plain))
    assert check(store, rebuild=False)[0] == [f"{path}: the chosen setting is not among its candidates"]


def test_a_dry_run_counts_each_search_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models on two data sets of one shape, one model known: one search to come, and nothing is started."""
    store = Store(tmp_path)
    context = SweepContext(store, AtOnce(lambda *_: pytest.fail("nothing is to be run")), ScreenDisplay(make_console()))
    recipe = replace(RECIPE, batch_size=4)
    plans = []
    for name in ("one", "other"):
        data = replace(synthetic.DATA, name=name)
        specs = [
            synthetic.spec(model, seed, data=data, recipe=recipe, setting=SETTINGS["tuned"])
            for seed in (0, 1)
            for model in ("resnet20", "seresnet")
        ]
        plans.append(Plan(specs, DataSource(name, None, None, 1.0), None))  # type: ignore[arg-type]
    known = session_of([plans[0].specs[0]], 77.0)
    (alone,) = setting_search.each_alone(known)
    facts = setting_search.environment_here("cpu")
    store.write_setting_search(search_record(setting_search_id(alone, facts), alone, Setting()))
    execution, output = ExecutionOptions(setting="tuned", tune_limit=77.0), OutputOptions(store=tmp_path, dry_run=True)
    request = RunRequest(("resnet20", "seresnet"), execution=execution, output=output)
    tuned, probed, seconds = setting_search.with_best_settings(plans, request, context)
    assert (probed, seconds) == ([], 77.0)
    assert {spec.setting for plan in tuned for spec in plan.specs if spec.model == "resnet20"} == {Setting()}
    assert {spec.setting for plan in tuned for spec in plan.specs if spec.model == "seresnet"} == {SETTINGS["tuned"]}
    assert capsys.readouterr().out.count("the best setting is searched for first: seresnet, about 77 s each") == 2
