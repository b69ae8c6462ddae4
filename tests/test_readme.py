"""Commands of the documents are run as written, unless they need a GPU or a network; their figures are the store's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.analysis import tables
from bench.present.table_formats import render_short
from bench.store.disk import Store
from bench.store.records import FinishedRun
from tests.conftest import ROOT, make_npz
from tests.synthetic import session, write_pair

DOCUMENTS = ("README.md", "docs/commands.md", "docs/models.md")
BLOCKS = [
    block
    for name in DOCUMENTS
    for block in re.findall(r"```(\w*)\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
]
COMMANDS = list(
    dict.fromkeys(
        line.split("  #")[0].strip()
        for kind, text in BLOCKS
        if kind == "sh"
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    )
)
# Run elsewhere or not at all, and why.
NEEDS = {
    "make ": "CI runs make check, which installs and runs make test",
    "python3 -m venv": "make bench does this",
    ".venv/bin/python ": "make bench and make test do this",
    "python run_bench.py export": "TensorBoard or MLflow; tests/present/test_export.py asks both",
    "python run_bench.py --preset": "CIFAR-10 and hours, or a GPU",
    "python run_bench.py --models seresnet,vit_tiny": "minutes; make bench runs it",
}
# In a process of their own, from the copy of the checkout. The others run in this process, by the same function.
STARTED = ("python run_bench.py --dataset npz:mine.npz", "python run_bench.py compare seresnet vit_tiny")


def runnable(command: str) -> bool:
    return not any(command.startswith(start) for start in NEEDS)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with a store and the files that the documents name."""
    root = tmp_path_factory.mktemp("readme")
    for name in ("bench", "models", "run_bench.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    shutil.copytree(ROOT / "results" / "reference", root / "results" / "reference")
    store = Store(root / "results/local")
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8}, seeds=2, images=500)
    store.write_session(session({"seresnet": [1, 1.1], "vit_tiny": [2, 2.1]}))
    store.rebuild_views()
    make_npz(root / "mine.npz")
    for kind, text in BLOCKS:
        first = text.splitlines()[0] if text else ""
        if kind in ("python", "toml") and first.startswith("# "):
            (root / first[2:].split()[0]).write_text(text, encoding="utf-8")
    return root


def test_the_documents_have_commands() -> None:
    assert len([c for c in COMMANDS if runnable(c)]) >= 20
    for start in (*STARTED, *NEEDS):
        assert any(command.startswith(start) for command in COMMANDS), start


def turn(command: str) -> int:
    """Those that train or time come last, so that the others have a small store to read; then what reads theirs."""
    return 2 if " weights " in command else int("--models" in command and "--dry-run" not in command)


TURNS = [
    pytest.param(command, marks=[pytest.mark.long] if turn(command) else [])
    for command in sorted(filter(runnable, COMMANDS), key=turn)
]


@pytest.mark.parametrize("command", TURNS)
def test_a_command_of_the_documents(command: str, workplace: Path, here: Callable[..., CompletedProcess[str]]) -> None:
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python", "run_bench.py"), f"'{command}' is neither run nor excused in NEEDS"
    if command.startswith(STARTED):
        started = [sys.executable, script, *words]
        done = subprocess.run(started, cwd=workplace, capture_output=True, text=True, timeout=280)
    else:
        done = here(*words, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_output_in_the_readme_has_the_columns_of_today() -> None:
    (shown,) = (text for kind, text in BLOCKS if kind == "text" and text.startswith("wrote results/local"))
    (comparison,) = tables.compare([Store(ROOT / "results/reference/cpu-2core")], None)
    _, table = render_short(comparison, 80).split("\n\n")
    assert shown.split("\n\n")[2].splitlines()[:3] == table.splitlines()[:3]
    assert max(map(len, shown.splitlines())) <= 80


# --- figures of results/reference/h100 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def h100() -> dict[str, FinishedRun]:
    runs = [run for run in Store(ROOT / "results/reference/h100").runs() if isinstance(run, FinishedRun)]
    return {run.spec.model: run for run in runs}


def text_of(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def times_as_fast(runner: FinishedRun, other: FinishedRun) -> float:
    """How much earlier a run passed another one's final validation accuracy, in training seconds."""
    target = other.history[-1].val_accuracy
    return other.metrics.train_seconds / next(e.train_seconds for e in runner.history if e.val_accuracy >= target)


def test_figures_of_the_readme(h100: dict[str, FinishedRun]) -> None:
    text, models = text_of("README.md"), ("seresnet", "vit_flops", "vit_tiny")
    a, b, c = (f"{100 * h100[model].metrics.accuracy:.1f} %" for model in models)
    assert f"SE-ResNet-56 (`seresnet`) reached {a}, a ViT of equal FLOPs (`vit_flops`) {b} and ViT-Tiny {c}" in text
    a, b, c = (f"{round(h100[model].metrics.loop_images_per_second or 0, -2):,.0f}" for model in models)
    assert f"({a} images/s against {b} and {c})" in text
    b, c = (f"{times_as_fast(h100['seresnet'], h100[model]):.1f}" for model in models[1:])
    assert f"passed the ViTs' final validation accuracy {b} and {c} times as fast" in text


def test_figures_of_the_h100_page(h100: dict[str, FinishedRun]) -> None:
    text = text_of("results/reference/h100/README.md")
    for model, run in h100.items():
        metrics = run.metrics
        figures = f"{100 * metrics.accuracy:.2f} | {metrics.train_seconds:.1f} | {metrics.loop_images_per_second:,.0f}"
        assert f"| `{model}` | {figures} |" in text
    for model in ("vit_flops", "vit_tiny"):
        assert f"needed {h100[model].metrics.train_seconds:.1f} s" in text
        assert f"({times_as_fast(h100['seresnet'], h100[model]):.1f}×)" in text
