"""The setting of a sweep whose user named none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.drive import auto_setting
from bench.drive.auto_setting import choose, of_session, under, with_setting
from bench.drive.planning import Plan
from bench.plan.settings import CACHED_SECONDS, COMPILE_SECONDS, FUSED_GAIN, repays_compiling
from bench.plan.spec import RunSpec
from bench.store.disk import Store
from tests.synthetic import RECIPE, failure, record, spec

SHARE_SAVED = 1 - 1 / FUSED_GAIN


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_setting, "has_compiler", lambda: True)


def plan(epochs: int, models: tuple[str, ...] = ("seresnet", "vit_tiny"), seeds: int = 1, **changes: Any) -> Plan:
    """Of 45,000 training images on a GPU."""
    recipe = replace(RECIPE, epochs=epochs, batch_size=100)
    specs = [
        spec(model, seed, recipe=recipe, **{"device": "cuda", "device_name": "H100", **changes})
        for seed in range(seeds)
        for model in models
    ]
    dataset: Any = SimpleNamespace(train_index=range(45_000))
    return Plan(specs, dataset, dataset)


def not_asked(spec: RunSpec, images: int) -> float:
    raise AssertionError("the answer is clear without")


def test_compiling_is_repaid_by_what_faster_steps_save() -> None:
    enough = COMPILE_SECONDS / SHARE_SAVED
    assert repays_compiling({"a": [enough + 1]})
    assert not repays_compiling({"a": [enough - 1]})
    assert repays_compiling({"a": [enough + 1, CACHED_SECONDS / SHARE_SAVED]}), "the second run takes it from the cache"
    assert not repays_compiling({"a": [enough + 1], "b": [1.0]}), "one setting for all models"
    assert repays_compiling({"a": [2 * enough + 1], "b": [1.0], "c": []})


def test_short_and_long_sweeps_need_no_measurement() -> None:
    assert choose([plan(20)], not_asked)[0] == "graphed", "the H100's sweep of 20 epochs"
    assert choose([plan(2000)], not_asked)[0] == "fused"


def test_between_them_the_measured_pace_decides() -> None:
    """200 epochs of CIFAR-10: 9 million images, 450 s at 20,000 images/s."""
    asked: list[tuple[str, str, int]] = []

    def at(images_per_second: float) -> str:
        def seconds(one: RunSpec, images: int) -> float:
            asked.append((one.model, one.setting.name, images))
            return 200 * 45_000 / images_per_second

        return choose([plan(200)], seconds)[0]

    assert at(20_000) == "fused"
    assert at(40_000) == "graphed"
    assert set(asked) == {("seresnet", "graphed", 45_000), ("vit_tiny", "graphed", 45_000)}
    assert choose([plan(200)], lambda one, images: None)[0] == "graphed", "nothing could be measured"


def test_without_a_compiler_it_is_graphed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_setting, "has_compiler", lambda: False)
    assert choose([plan(2000)], not_asked) == ("graphed", "because fused needs a C++ compiler")


def settle(store: Store, *plans: Plan) -> tuple[set[str], list[str]]:
    """The settings that a sweep into this store gets, and the lines on the screen."""
    lines: list[str] = []
    display: Any = SimpleNamespace(line=lines.append)
    context: Any = SimpleNamespace(store=store, executor=SimpleNamespace(remote=False), display=display)
    return {one.setting.name for made in with_setting(list(plans), context) for one in made.specs}, lines


def test_a_session_follows_the_runs_of_its_models_else_the_same_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, models = Store(tmp_path), ("seresnet", "vit_tiny")
    assert of_session(models, 120.0, "cpu", store) == ("eager", "")
    enough = 2 * COMPILE_SECONDS / SHARE_SAVED
    assert of_session(models, 120.0, "cuda", store) == ("graphed", "because 2 min of timing do not repay compiling")
    assert of_session(models, enough + 1, "cuda", store)[0] == "fused"
    store.write_record(record(replace(plan(1).specs[0], device="cpu", device_name="Test CPU"), 0.5))
    assert of_session(models, 120.0, "cuda", store)[0] == "graphed", "what a CPU did says nothing"
    store.write_record(record(under("fused", plan(1).specs[0]), 0.5))
    assert of_session(models, 120.0, "cuda", store) == ("fused", "under which runs of these models are in the store")
    assert of_session(("cct_2",), 90.0, "cuda", store)[0] == "graphed"
    monkeypatch.setattr(auto_setting, "has_compiler", lambda: False)
    assert of_session(("cct_2",), 9e9, "cuda", store) == ("graphed", "because fused needs a C++ compiler")


def test_a_cpu_stays_eager_without_a_word(tmp_path: Path) -> None:
    cpu = plan(20, device="cpu", device_name="Test CPU")
    assert settle(Store(tmp_path), cpu) == ({"eager"}, [])
    (after,) = with_setting([cpu], SimpleNamespace())  # type: ignore[arg-type]
    assert [one.run_id for one in after.specs] == [one.run_id for one in cpu.specs]


@pytest.mark.parametrize("begun", ["eager", "fused"])
def test_a_sweep_goes_on_under_the_setting_in_which_it_began(tmp_path: Path, begun: str) -> None:
    """Whatever the rule would choose now; other seeds and failed runs count, other work does not."""
    store, short = Store(tmp_path), plan(20)
    elsewhere = under(begun, plan(30).specs[0])
    store.write_record(record(elsewhere, 0.5))
    names, (line,) = settle(store, short)
    assert names == {"graphed"}
    assert line == (
        "setting graphed, because at most about 2 min of training do not repay compiling; --setting chooses another"
    )
    store.write_failure(failure(under(begun, replace(short.specs[0], seed=7, device_name="A100"))))
    names, (line,) = settle(store, short, plan(20, seeds=2))
    assert names == {begun}, "one for all plans and models"
    assert "runs of this sweep are in the store" in line
