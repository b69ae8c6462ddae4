"""What a session does beside timing. Example: pytest tests/measure/test_session.py"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from bench.core.events import Event, ModelTurn
from bench.measure import limits
from bench.measure.session import Pace, _with_groups
from bench.measure.timing import Task
from bench.store.records import OperatorGroups
from tests.synthetic import session

BOUND = {
    "name": "compute",
    "share": 0.5,
    "shares": {},
    "flops_per_second": 1.0,
    "operators": 1,
    "bytes": 1,
    "flops_2x": 1.0,
    "step_seconds": 1.0,
    "twice_the_batch": None,
    "experiment": "",
}


def test_a_profiler_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other model's groups are kept, and each model is named while it has its turn."""

    def explain(call: Callable[[], object], device: torch.device) -> dict[str, float]:
        if call() == "b":
            raise RuntimeError("no kineto")
        return {"convolution": 0.5}

    monkeypatch.setattr(limits, "explain", explain)
    events: list[Event] = []
    pace = Pace(torch.device("cpu"), time.perf_counter() + 60, events.append)
    tasks = [Task(name, "train", 8, lambda name=name: name) for name in ("a", "b")]
    timed = session({"a": [1.0], "b": [1.0]}, bounds={"a": BOUND, "b": BOUND})
    assert _with_groups(timed, tasks, pace).groups == {
        "a": OperatorGroups(step_seconds=1.0, groups={"convolution": 0.5})
    }
    assert pace.warnings == ["b: the profiler did not say where a step spends its time: RuntimeError: no kineto"]
    assert [event.model for event in events if isinstance(event, ModelTurn)] == ["a", "", "b", ""]
