"""Shared fixtures: no GPU but for tests that ask for one, a data set that trains in a second, the command line."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.main import main
from bench.executors import processes
from bench.plan.settings import keep_compiled_code
from tests.commands import Command

# The tests run side by side, and two processes of two threads on two cores are six times slower (LOG.md). Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What torch would set by itself as a test first compiles: after that the fork server, which did not have it, was left
# unused, and every child of every later test was a new Python of 6 s.
keep_compiled_code()
# Tests that run side by side train and time side by side: to each other they are other machines.
os.environ["SEVIT_HOST_LOCK"] = str(Path(tempfile.gettempdir()) / f"sevit-bench-test-{os.getpid()}.lock")

ROOT = Path(__file__).resolve().parent.parent


# A worker gets a file at a time; of the long ones none may be left for the end, when it would run alone.
LONG = [
    "readme",
    "processes",
    "kill",
    "cluster",
    "ray",
    "slurm",
    "cli",
    "runs",
    "speed",
    "search",
    "report_browser",
    "static",
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With workers (-n), the long files come first, the longest of all at the very beginning."""

    def place(item: pytest.Item) -> int:
        return [*LONG, name := item.path.stem.removeprefix("test_")].index(name)

    if hasattr(config, "workerinput"):
        items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def served() -> None:
    """The fork server of this process is for tasks with its variables, not for those of whichever test comes first."""
    processes._conditions = processes._read_at_load({})


@pytest.fixture(autouse=True)
def no_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU the tests do as elsewhere, except those marked `gpu`."""
    if "gpu" not in request.keywords:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def read_at_load() -> Iterator[None]:
    """These variables stay as they were, whatever a library sets: else the next test's children are not forked."""
    before = processes._read_at_load({})
    yield
    for name in processes._read_at_load({}).keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


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


@pytest.fixture
def gate(factory: Path, tmp_path: Path) -> tuple[str, Path]:
    """A model that trains slowly, and the file at whose appearance it goes on at full speed."""
    copy = Path(shutil.copy(factory, tmp_path / "gated.py"))
    return f"{copy}:gated", copy.with_name("go")


@pytest.fixture(scope="session")
def bench() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python run_bench.py …` as a user does, in the checkout."""

    def run(*words: str | Path, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "run_bench.py", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def forked() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a process that is forked, not a new Python: 7 s of CPU less. See tests/commands.py."""

    def run(*words: str | Path, timeout: float = 280, **more: Any) -> subprocess.CompletedProcess[str]:
        process = Command(words, **more)
        out, error = process.communicate(timeout)
        return subprocess.CompletedProcess(process.args, process.wait(), out, error)

    return run


@pytest.fixture(scope="session")
def here() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in this process, which has imported torch already: four seconds of CPU less a command.

    For whatever a process of its own would not tell more of; runs and sessions have theirs all the same. What those
    print themselves is not in the result.
    """

    def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                code = main([str(word) for word in words])
            except SystemExit as leaving:  # --help
                code = int(leaving.code or 0)
        return subprocess.CompletedProcess(words, code, out.getvalue(), error.getvalue())

    return run


@pytest.fixture(scope="session", autouse=True)
def draw() -> Iterator[Callable[..., list[Path]]]:
    """Sweeps in this process end without charts, two to ten seconds each; `charts` brings them back."""
    from bench.cli import run

    with pytest.MonkeyPatch.context() as patch:
        original = run.draw
        patch.setattr(run, "draw", lambda *_: [])
        yield original


@pytest.fixture
def charts(draw: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps in this process draw as everywhere."""
    from bench.cli import run

    monkeypatch.setattr(run, "draw", draw)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps in this process end without the timing pass, a child of its own, where a test asks nothing of it."""
    from bench.drive import sweep

    monkeypatch.setattr(sweep, "time_if_needed", lambda *_: True)
