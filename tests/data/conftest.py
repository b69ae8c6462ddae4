"""Every test of data has a cache of its own; one data set is known by its checksums, as the real CIFAR-10 is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data import identity
from bench.data.arrays import Arrays
from bench.data.catalogue import CATALOGUE
from bench.data.identity import CIFAR10
from tests.tiny_archives import MAKERS, facts_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sevit-bench"


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """A stand-in for CIFAR-10 of 50 + 10 images, known by its checksums as the real one is."""
    _, truth = MAKERS["cifar10"]()
    monkeypatch.setitem(CATALOGUE, "cifar10", replace(CATALOGUE["cifar10"], facts=facts_of(truth)))
    train, test = (identity._records(x, y) for x, y in ((truth.train_x, truth.train_y), (truth.test_x, truth.test_y)))

    def sha(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    known = replace(
        CIFAR10,
        train=tuple(sha(train[i : i + 10].tobytes()) for i in range(0, 50, 10)),
        train_in_any_order=sha(b"".join(sorted(hashlib.sha256(r.tobytes()).digest() for r in train))),
        test=sha(test.tobytes()),
        test_labels=sha(truth.test_y.astype(np.uint8).tobytes()),
        copies={sha((truth.test_x ^ 1).tobytes()): "a known copy"},
    )
    monkeypatch.setattr(identity, "CIFAR10", known)
    return truth
