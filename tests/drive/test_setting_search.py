"""The search for the best setting: its verdict on known samples, its memory, a candidate that ends its process."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.drive import setting_search as tune
from bench.executors.child import Outcome
from bench.machine import environment
from bench.plan.recipes import shared
from bench.plan.settings import SETTINGS, space
from bench.plan.spec import SessionSpec, Setting
from bench.present.screen.progress import Display, make_console
from bench.store.check import check
from bench.store.disk import Store

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


PLENTY = 30.0  # on a busy machine, too, every candidate is begun in time


def session(name: str, **changes: Any) -> SessionSpec:
    made = SessionSpec(((name, "source"),), RECIPE, SETTINGS["tuned"], "cpu", "here", 16, 10, name, seconds=PLENTY)
    return replace(made, **changes)


def row(seconds: list[float], status: str = "ok", setting: Setting | None = None) -> dict[str, Any]:
    return {"setting": asdict(setting or Setting()), "status": status, "message": "", "seconds": seconds}


NOISE = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.01]


@pytest.mark.parametrize(
    ("factors", "chosen"),
    [
        ([1.0, 0.8, 0.7], 2),  # clearly the fastest
        ([1.0, 0.7, 0.699], 1),  # the last two cannot be told apart: the simpler
        ([1.0, 0.995, 1.2], 0),  # within the 1 % that two copies of one network differ by
        ([1.0], 0),
    ],
)
def test_the_fastest_or_the_simplest_that_cannot_be_told_from_it(factors: list[float], chosen: int) -> None:
    rows = [row([f * n for n in (NOISE if i % 2 else NOISE[::-1])]) for i, f in enumerate(factors)]
    assert tune.choose(rows) == chosen


def test_what_was_not_timed_is_not_chosen() -> None:
    rows = [row(NOISE), row([], "slower"), row([], "failed"), row([], "untried")]
    assert tune.choose(rows) == 0
    assert tune.choose([row([], "failed"), row([0.5, 0.5, 0.5])]) == 1
    assert tune.choose([row([], "failed")]) == 0


def test_a_search_times_its_candidates_in_equal_rounds(
    factory: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tune.SAMPLE_SECONDS, "cpu", 0.01)
    heard: list[dict[str, Any]] = []
    skip = {1: {"status": "killed", "message": "its process ended by SIGKILL"}}
    rows = tune.search(session(f"{factory}:simple"), f"{factory}:simple", {}, heard.append)
    assert [Setting(**r["setting"]) for r in rows] == space("cpu", attention_choice=False)
    assert rows[0]["status"] == "ok"
    lengths = {len(r["seconds"]) for r in rows if r["status"] == "ok"}
    assert len(lengths) == 1
    assert tune.FEWEST_ROUNDS <= lengths.pop() <= tune.MOST_ROUNDS
    assert [e["index"] for e in heard if e["event"] == "candidate"] == [0, 1]
    again = tune.search(session(f"{factory}:simple", seconds=0.1), f"{factory}:simple", skip, heard.append)
    assert (again[1]["status"], again[1]["message"]) == ("killed", "its process ended by SIGKILL")
    assert again[1]["seconds"] == []


def test_no_time_left_is_said(factory: Path, no_compiler: None) -> None:
    rows = tune.search(session(f"{factory}:simple", seconds=1e-6), f"{factory}:simple", {}, lambda event: None)
    assert [(r["status"], r["message"]) for r in rows] == [("ok", ""), ("untried", "no time left")]
    assert len(rows[0]["seconds"]) == tune.FEWEST_ROUNDS


def test_a_candidate_that_ends_its_process_is_left_out(
    factory: Path,
    no_compiler: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Explicit attention ends the process, in both layouts; the search ends all the same, and is not repeated."""
    store, spec = Store(tmp_path / "store"), session(f"{factory}:choosy")
    found = tune.settings_for(spec, store, Display(make_console()))
    out = capsys.readouterr().out
    assert out.count("exit code 3; again without it") == 2
    assert "of 6 candidates timed in turns" in out
    assert "2 failed" in out
    record = store.tuning(tune.tuning_id(spec, environment.describe(torch.device("cpu"))))
    assert record is not None
    assert [r["status"] for r in record["candidates"]].count("killed") == 2
    assert found == {f"{factory}:choosy": Setting(**record["chosen"])}
    assert record["chosen"]["attention"] != "explicit"

    monkeypatch.setattr(tune, "call_alone", lambda *words, **more: Outcome("failed", "it was to be known already"))
    assert tune.settings_for(spec, store, Display(make_console())) == found
    assert tune.known_settings(spec, store) == found
    others = [session(f"{factory}:choosy", deterministic=True), session(f"{factory}:simple")]
    others += [replace(spec, recipe=replace(RECIPE, batch_size=4)), replace(spec, models=((spec.models[0][0], "new"),))]
    assert [tune.known_settings(other, store) for other in others] == [{}] * 4
    assert tune.known_settings(replace(spec, recipe=replace(RECIPE, epochs=3, lr=1.0)), store) == found


def test_a_damaged_search_is_named_and_made_anew(tmp_path: Path, factory: Path) -> None:
    store = Store(tmp_path)
    facts = {"device": "cpu", "device_name": "here", "torch": "2", "torch_threads": 1}
    record = {"schema": 2, "id": "x-1", "started": "2026-01-01", "model": "x", "source": "", "key": facts}
    record |= {"recipe": asdict(RECIPE), "num_classes": 10, "limit_seconds": 1.0, "environment": facts}
    store.write_tuning(record | {"candidates": [row(NOISE)], "chosen": asdict(Setting())})
    assert store.tuning("x-1") is not None
    path = tmp_path / "tuning" / "x-1.json"
    path.write_text(path.read_text().replace("0.99", "0.09"))
    assert store.tuning("x-1") is None
    store.rebuild_views()
    problems, _ = check(store, rebuild=False)
    assert problems == [f"{path}: its checksum does not hold"]
    store.write_tuning(record | {"candidates": [row(NOISE)], "chosen": asdict(Setting("tuned"))})
    assert check(store, rebuild=False)[0] == [f"{path}: what it chose is not among its candidates"]
