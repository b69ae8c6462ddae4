"""Every command in the README that needs neither a GPU nor a network is run here, as it is written there."""

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

from tests.conftest import ROOT, make_npz
from tests.synthetic import write_store

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.strip() and not line.startswith("#")
]
# Run elsewhere or not at all, and why.
NEEDS = {
    "make ": "CI runs make check, which installs and runs make test",
    "python3 -m venv": "what make bench does",
    ".venv/bin/python ": "what make bench and make test do",
    "python run_bench.py --preset": "CIFAR-10 and hours, or a GPU",
    "python run_bench.py --models seresnet,vit_tiny": "minutes; make bench runs it",
}


# In processes of their own, in the copy of the checkout. The others run in this one, by the same function.
STARTED = ("python run_bench.py --dataset npz:mine.npz", "python run_bench.py compare")


def needed(command: str) -> bool:
    return not any(command.startswith(start) for start in NEEDS)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with a store and the files that the README names."""
    root = tmp_path_factory.mktemp("readme")
    for name in ("bench", "models", "run_bench.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    shutil.copytree(ROOT / "results" / "reference", root / "results" / "reference")
    write_store(
        root / "results/local", {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [1, 1.1], "vit_tiny": [2, 2.1]}
    )
    make_npz(root / "mine.npz")
    for kind, text in BLOCKS:
        first = text.splitlines()[0] if text else ""
        if kind in ("python", "toml") and first.startswith("# "):
            (root / first[2:].split()[0]).write_text(text, encoding="utf-8")
    return root


def test_the_readme_has_commands() -> None:
    assert len([c for c in COMMANDS if needed(c)]) >= 8
    assert all(any(c.startswith(start) for c in COMMANDS) for start in STARTED)
    assert "make bench" in COMMANDS
    assert "make test" in COMMANDS


@pytest.mark.parametrize("command", [c for c in COMMANDS if needed(c)])
def test_a_command_of_the_readme(command: str, workplace: Path, here: Callable[..., CompletedProcess[str]]) -> None:
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python", "run_bench.py"), f"'{command}' is neither run nor excused in NEEDS"
    if command.startswith(STARTED):
        started = [sys.executable, script, *words]
        done = subprocess.run(started, cwd=workplace, capture_output=True, text=True, timeout=280)
    else:
        done = here(*words, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_files_named_in_the_readme_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_table_is_the_reference_stores() -> None:
    """The README's figures are those of the committed store, not a copy that ages."""
    from bench.analysis.tables import compare
    from bench.present.table_formats import render
    from bench.store.disk import Store

    table = render(compare([Store(ROOT / "results/reference/cpu-2core")]), "markdown")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    assert all(row in README for row in rows)
