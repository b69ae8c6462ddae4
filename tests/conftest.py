"""Shared fixtures: no GPU but for tests that ask for one, a data set that trains in a second, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# The tests run side by side, and two processes of two threads on two cores are six times slower (LOG.md). Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU the tests do as elsewhere, except those marked `gpu`."""
    if "gpu" not in request.keywords:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def make_npz(path: Path, per_class: int = 40, size: int = 16) -> Path:
    """Three classes that differ in brightness, so that anything that learns at all learns them."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", per_class), ("test", per_class // 2)):
        labels = np.repeat(np.arange(3), count)
        noise = rng.integers(0, 60, (len(labels), size, size, 3))
        arrays[f"{part}_x"] = (noise + 90 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{part}_y"] = labels
    np.savez(path, **arrays, classes=np.array(["dark", "middle", "bright"]))
    return path


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_npz(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture(scope="session")
def factory() -> Path:
    """The file of the models that do what they should not, as in `--models {factory}:raises`."""
    return ROOT / "tests" / "misbehaving.py"


@pytest.fixture(scope="session")
def bench() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python run_bench.py …` as a user does, in the checkout."""

    def run(*words: str | Path, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "run_bench.py", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    return run
