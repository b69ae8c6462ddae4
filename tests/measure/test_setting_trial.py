"""The search for a model's fastest setting: its choice on known samples, its rounds, its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core.events import CandidateStarted, CandidateTurn, Event
from bench.measure import setting_trial
from bench.measure.setting_choice import choose
from bench.plan.recipes import shared
from bench.plan.settings import SETTINGS, space
from bench.plan.spec import SessionSpec, Setting
from bench.store.disk import Store
from bench.store.records import Candidate

RECIPE = replace(shared(), batch_size=2, precision="fp32")
PLENTY = 30.0  # seconds: even on a busy machine every candidate starts in time
NOISE = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.01]

FACTORY = """
from torch import nn


def simple(num_classes, image_size):
    side = (image_size - 3) // 2 + 1
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, num_classes))
"""


@pytest.fixture
def simple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small external model, on a machine where nothing can be compiled: that takes too long for a test."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(setting_trial.SAMPLE_SECONDS, "cpu", 0.01)
    path = tmp_path / "models.py"
    path.write_text(FACTORY)
    return f"{path}:simple"


def session(name: str, **changes: Any) -> SessionSpec:
    spec = SessionSpec(((name, "source"),), RECIPE, SETTINGS["tuned"], "cpu", "here", 16, 10, name, seconds=PLENTY)
    return replace(spec, **changes)


def candidate(seconds: list[float], status: str = "ok") -> Candidate:
    return Candidate(setting=Setting(), status=status, message="", seconds=tuple(seconds))


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
    candidates = [candidate([f * n for n in (NOISE if i % 2 else NOISE[::-1])]) for i, f in enumerate(factors)]
    assert choose(candidates) == chosen


def test_a_candidate_that_was_not_timed_is_not_chosen() -> None:
    assert choose([candidate(NOISE), *(candidate([], status) for status in ("slower", "failed", "untried"))]) == 0
    assert choose([candidate([], "failed"), candidate([0.5, 0.5, 0.5])]) == 1
    assert choose([candidate([], "failed")]) == 0


def test_a_search_times_its_candidates_in_equal_rounds(simple: str) -> None:
    events: list[Event] = []
    candidates = setting_trial.search(session(simple), simple, {}, events.append)
    assert [c.setting for c in candidates] == space("cpu", attention_choice=False)
    assert candidates[0].status == "ok"
    timed = [index for index, c in enumerate(candidates) if c.status == "ok"]
    (rounds,) = {len(candidates[index].seconds) for index in timed}
    assert setting_trial.FEWEST_ROUNDS <= rounds <= setting_trial.MOST_ROUNDS
    assert [e.index for e in events if isinstance(e, CandidateStarted)] == [0, 1]
    turns = [e.index for e in events if isinstance(e, CandidateTurn)]
    assert sorted(turns) == sorted(timed * rounds)


def test_a_candidate_that_took_a_process_down_is_skipped(simple: str) -> None:
    skip = {1: ("killed", "its process ended by SIGKILL")}
    candidates = setting_trial.search(session(simple, seconds=0.1), simple, skip, lambda event: None)
    assert (candidates[1].status, candidates[1].message) == skip[1]
    assert candidates[1].seconds == ()


def test_a_candidate_without_time_left_says_so(simple: str) -> None:
    candidates = setting_trial.search(session(simple, seconds=1e-6), simple, {}, lambda event: None)
    assert [(c.status, c.message) for c in candidates] == [("ok", ""), ("untried", "no time left")]
    assert len(candidates[0].seconds) == setting_trial.FEWEST_ROUNDS


def test_the_record_of_a_search(simple: str, tmp_path: Path) -> None:
    """It chooses what `choose` does; from the moment it is written no candidate is blamed for a crash."""
    store, spec, events = Store(tmp_path / "store"), session(simple, seconds=0.1), list[Event]()
    setting_trial.child_setting_search(events.append, spec, {}, store.root)
    (search,) = store.setting_searches()
    assert (search.model, search.source, search.recipe) == (simple, "source", RECIPE)
    assert search.chosen == search.candidates[choose(search.candidates)].setting
    assert store.setting_search(search.id) == search
    last = events[-1]
    assert isinstance(last, CandidateStarted)
    assert last.index == -1
