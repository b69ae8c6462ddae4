"""Within an epoch nothing goes to the device and nothing comes back: shown on a device from which nothing can be read.

Torch's meta device has shapes and no values: `.item()`, `bool(tensor)`, `.cpu()`, `nonzero` and indexing by a mask
raise there, and a tensor that is still on the CPU shows beside one that is not. On CUDA: test_gpu.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data.loader import Batches
from bench.measure.evaluate import Evaluation
from bench.measure.train import Stepped, begin, train
from bench.plan.budget import Course
from bench.plan.recipes import shared
from bench.plan.spec import Recipe
from models.drop_path import set_drop_path
from models.registry import CATALOGUE, build
from models.tables import tables_to_buffers

META = torch.device("meta")
RECIPE = replace(shared(), epochs=1, batch_size=4, precision="fp32")
IMAGES = np.zeros((8, 32, 32, 3), np.uint8)
LABELS = np.zeros(8, np.int64)
# Deeper ones of the same blocks would say nothing new, and take seconds.
MODELS = [name for name in CATALOGUE if not name.endswith("110")]


class Transfers(TorchDispatchMode):
    """Names of operators that see tensors of two devices; a 0-dim tensor on the CPU is a kernel's argument."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        flat = torch.utils._pytree.tree_leaves((args, kwargs, out))
        devices = {t.device.type for t in flat if isinstance(t, torch.Tensor) and t.ndim}
        if len(devices) > 1:
            self.names.append(func.name())
        return out


def one_epoch(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, recipe: Recipe = RECIPE
) -> tuple[int, dict[int, int], Exception | None]:
    """Steps taken, transfers by step, and what ended the epoch."""

    def no_fused(model: nn.Module, recipe: Any, capturable: bool = False) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)  # torch has no fused one for this device

    monkeypatch.setattr("bench.measure.train.make_optimizer", no_fused)
    batches = Batches.create(IMAGES, LABELS, recipe, 10, 0, META, resident=True)
    training = begin(model, batches, Course(batches.steps * batches.batch_size, batches.batch_size, batches.steps))
    transfers_until, error = [0], None  # by step
    with Transfers() as transfers:
        try:
            for event in train(training, no_validation):
                assert isinstance(event, Stepped)
                transfers_until.append(len(transfers.names))
        except (NotImplementedError, RuntimeError) as raised:
            error = raised
    steps = len(transfers_until) - 1
    assert training.progress.step == steps
    return steps, {step: transfers_until[step] - transfers_until[step - 1] for step in range(2, steps + 1)}, error


def no_validation() -> Evaluation:
    raise AssertionError("the losses are read before any validation")


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_without_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are taken; the first to read anything is the look at the losses after the last one."""
    check_epoch(*one_epoch(build(name, 10, 32).to(META), monkeypatch))


def test_strong_augmentation_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = replace(RECIPE, policy="trivialaugment", cutout=8, mixup=0.8, cutmix=1.0)
    check_epoch(*one_epoch(build("resnet20", 10, 32).to(META), monkeypatch, strong))
    stronger = replace(strong, policy="randaugment", random_erasing=0.25)
    check_epoch(*one_epoch(build("resnet20", 10, 32).to(META), monkeypatch, stronger))


@pytest.mark.parametrize("name", ["vit_params", "cct_2"])
def test_stochastic_depth_without_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name, 10, 32)
    assert set_drop_path(model, 0.5)
    check_epoch(*one_epoch(model.to(META), monkeypatch))


def check_epoch(steps: int, transfers: dict[int, int], error: Exception | None) -> None:
    """Two steps, no transfer after the first, which follows the epoch's draws, and a read at the end."""
    assert steps == 2, error
    assert error is not None
    assert "isfinite" in _source(error), "the epoch's end reads the losses"
    assert transfers == {2: 0}


def _source(error: Exception) -> str:
    """The line of bench/measure/train.py at which an exception passed."""
    import traceback

    lines = [
        f.line or "" for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith("bench/measure/train.py")
    ]
    return " ".join(lines).replace("finite.all()", "isfinite")


class Reads(nn.Module):
    """Looks at a value in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) * (2 if x.sum() > 0 else 1)


class Carries(nn.Module):
    """Copies a table to the device in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)
        self.table = torch.ones(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) + self.table.to(x.device)


def test_the_test_sees_a_read_and_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one_epoch(Reads().to(META), monkeypatch)[0] == 0
    assert one_epoch(Carries().to(META), monkeypatch)[1] == {2: 1}


def test_a_table_becomes_a_buffer_and_stays_out_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Carries()
    images = torch.randn(2, 3, 32, 32)
    before, names = model(images), set(model.state_dict())
    tables_to_buffers(model)
    assert torch.equal(model(images), before)
    assert set(model.state_dict()) == names
    assert one_epoch(model.to(META), monkeypatch)[1] == {2: 0}
