"""A store made by real runs in this process, and models that do what they should not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from bench import session
from bench.recipes import smoke
from bench.runner import DataSource, run_one, session_of
from bench.spec import RunSpec, Setting
from bench.store import Store

settings.register_profile("thorough", max_examples=3000, deadline=None)

FACTORY = """
import ctypes, os, sys, time
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, classes, size, how):
        super().__init__()
        self.flat, self.drop = nn.Flatten(), nn.Dropout(0.2)
        self.head, self.how, self.kept = nn.Linear(3 * size * size, classes), how, []

    def forward(self, x):
        if self.training and len(x) > 2:
            self.misbehave()
        return self.head(self.drop(self.flat(x)))

    def misbehave(self):
        if self.how == "hangs":
            print("now it hangs", flush=True)
            time.sleep(1e6)
        if self.how == "slow":
            time.sleep(0.02)
        if self.how == "segfaults":
            ctypes.string_at(0)
        if self.how == "is_killed":
            os.kill(os.getpid(), 9)
        while self.how == "eats":
            self.kept.append(torch.empty(2**26))

def fine(classes, size): return Model(classes, size, "fine")
def fine_too(classes, size): return Model(classes, size, "fine")
def slow(classes, size): return Model(classes, size, "slow")
def hangs(classes, size): return Model(classes, size, "hangs")
def segfaults(classes, size): return Model(classes, size, "segfaults")
def is_killed(classes, size): return Model(classes, size, "is_killed")
def eats(classes, size): return Model(classes, size, "eats")
def never_built(classes, size): time.sleep(1e6)
def exits(classes, size): sys.exit(0)
def dies_built(classes, size): os._exit(9)

class Bad(nn.Module):
    def __init__(self, classes, how):
        super().__init__()
        self.how, self.head = how, nn.Linear(3, classes)
        self.head.requires_grad_(how != "frozen")

    def forward(self, x):
        out = self.head(x.mean((2, 3)))
        if self.how == "cut":
            return out.detach()
        if self.how == "infinite":
            return out / 0
        if self.how == "tuple":
            return out, out
        if self.how == "integers":
            return out.long()
        if self.how == "one_by_one" and len(x) == 1:
            raise ValueError("needs two")
        return out + torch.rand(()) if self.how == "random" else out

def bad(how): return lambda classes, size: Bad(classes, how)
frozen, cut, infinite, random_, pair = map(bad, ("frozen", "cut", "infinite", "random", "tuple"))
integers, one_by_one = map(bad, ("integers", "one_by_one"))
"""


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mine.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture(scope="session")
def words(tiny_npz: Path) -> list[str]:
    """A sweep on the tiny data set; a test adds --epochs, --models and --results."""
    return [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--device=cpu", "--timing-limit=1s"]


@pytest.fixture(scope="session")
def pristine(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two finished runs and one speed session; do not write to it."""
    root = tmp_path_factory.mktemp("pristine")
    store, source = Store(root), DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    dataset = source.load()
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32")
    specs = [RunSpec(m, dataset.ref, recipe, Setting(), "cpu", "here", 0) for m in ("resnet20", "vit_params")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
        for spec in specs:
            run_one(spec, dataset, store, lambda event: None)
        session.time_models(session_of(specs, 0.0), session.Found(), store, lambda event: None)
    store.rebuild_views()
    return root


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    """A copy of `pristine` to damage."""
    shutil.copytree(pristine, tmp_path / "store")
    return Store(tmp_path / "store")
