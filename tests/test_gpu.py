"""What needs a CUDA device: `make gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
import torch

from bench.data.loader import Batches
from models.registry import CATALOGUE, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_trains_in_bf16(name: str) -> None:
    device = torch.device("cuda")
    model = build(name, 10, 32).to(device, memory_format=torch.channels_last)
    images = torch.randn(8, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(images).float().logsumexp(1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_batches_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8), np.arange(64)
    made = [Batches.create(images, labels, 16, 0, 2, True, torch.device(d)) for d in ("cpu", "cuda")]
    for (x, y), (gx, gy) in zip(made[0].epoch(1), made[1].epoch(1), strict=True):
        assert torch.equal(y, gy.cpu())
        torch.testing.assert_close(x, gx.cpu())


def test_a_sweep_on_the_gpu(bench: Callable[..., CompletedProcess[str]], tiny_npz: Path, tmp_path: Path) -> None:
    data = ["--dataset", f"npz:{tiny_npz}", "--recipe", "smoke", "--epochs", "2", "--batch-size", "20"]
    done = bench(*data, "--models", "resnet20,vit_params", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(tmp_path / "results.csv")
    assert set(results["device"]) == {"cuda"}
    assert set(results["precision"]) <= {"bf16", "fp32"}
    assert (results["peak_memory_bytes"] > 1e6).all()
    assert (results["train_images_per_second"] > 0).all()
