"""Which device it is, and why it is not the one that was expected."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.core.errors import UserError
from bench.core.events import DeviceFound, Event
from bench.drive import opening
from bench.drive.opening import opened
from bench.executors.child import Outcome
from bench.machine import environment
from bench.measure import device
from bench.measure.device import child_devices, choose_device, describe, why_no_gpu
from bench.plan.request import RunRequest
from bench.store.disk import Store


@pytest.mark.parametrize(
    ("driver", "cuda", "words"),
    [
        (None, None, None),
        (None, "13.0", None),
        ("580.1", None, "torch here is a CPU build"),
        ("535.104.05", "13.0", "needs NVIDIA driver 580 or newer; this machine has 535.104.05"),
        ("470.1", "12.8", "needs NVIDIA driver 525"),
        ("580.159.04", "13.0", "see what nvidia-smi says"),
        ("535.104.05", "99.1", "see what nvidia-smi says"),
    ],
)
def test_why_there_is_no_gpu(driver: str | None, cuda: str | None, words: str | None) -> None:
    why = why_no_gpu(driver, cuda)
    assert words in why if words else why == ""
    assert "\n" not in why


@pytest.fixture
def idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an NVIDIA GPU whose torch is a CPU build."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(environment, "driver_version", lambda: "580.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)


def found(asked: str | None) -> str:
    events: list[Event] = []
    child_devices(events.append, asked)
    (event,) = events
    assert isinstance(event, DeviceFound)
    return event.note


def test_a_cpu_build_beside_a_gpu_is_said_once_unless_the_cpu_was_asked_for(
    idle_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "torch here is a CPU build" in found(None)
    assert found("cpu") == ""
    with pytest.raises(UserError, match=r"sees no CUDA device here: torch here is a CPU build.*; use --device cpu"):
        choose_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found(None) == "", "hidden on purpose"
    with pytest.raises(UserError, match="sees no CUDA device here; use --device cpu"):
        choose_device("cuda")


def test_the_sentence_comes_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(function: str, args: tuple[str | None], on_event: Any) -> Outcome:
        getattr(device, function.partition(":")[2])(on_event, *args)
        return Outcome("ok")

    monkeypatch.setattr(opening, "call", call)
    monkeypatch.setattr(device, "why_no_gpu", lambda driver, cuda: "the GPU is not used")
    lines: list[str] = []
    display: Any = SimpleNamespace(line=lines.append)
    with opened(RunRequest(models=("resnet20",)), Store(tmp_path), display):
        assert lines == ["the GPU is not used"]


def test_the_facts_of_a_machine_name_its_cpu() -> None:
    facts = describe(torch.device("cpu"))
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert isinstance(facts["cpu_cores"], int)
    assert facts["cpu_cores"] >= 1
    assert "mig" not in facts
