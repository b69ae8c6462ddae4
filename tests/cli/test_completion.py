"""The shell's completion: a script that bash accepts, with the names in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from subprocess import CompletedProcess

from bench.cli.completion import names, script
from bench.cli.parser import COMMANDS
from bench.plan.presets import PRESETS
from bench.plan.settings import SUMMARIES
from models.registry import CATALOGUE

ASK = """
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sevit_python; echo "${COMPREPLY[*]}"; }
ask python run_bench.py --models 'seresnet,vit_t'
ask .venv/bin/python ./run_bench.py time --setting eager,com
ask python run_bench.py run --preset sm
ask python run_bench.py data fetch ciFAR10
ask python run_bench.py data fetch fash
ask python run_bench.py wei
ask python run_bench.py --keep
ask python other.py --models vit_t
"""


def test_bash_completes_commands_flags_and_names(here: Callable[..., CompletedProcess[str]]) -> None:
    done = here("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    checked = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    asked = subprocess.run(["bash"], input=done.stdout + ASK, text=True, capture_output=True, timeout=60)
    assert asked.stdout.splitlines() == [
        "seresnet,vit_tiny",
        "eager,compiled",
        "smoke",
        "",
        "fashion_mnist",
        "weights",
        "--keep-weights",
        "",
    ]


def test_both_scripts_have_every_name() -> None:
    assert set(names("models")) == set(CATALOGUE)
    assert names("datasets")[:2] == ["digits", "cifar10"]
    for shell in ("bash", "zsh"):
        text = script(shell)
        for name in (*COMMANDS, *CATALOGUE, *PRESETS, *SUMMARIES, "tiny_imagenet", "slurm"):
            assert name in text


def test_another_shell_is_refused(here: Callable[..., CompletedProcess[str]]) -> None:
    done = here("completion", "tcsh")
    assert done.returncode == 2
    assert "invalid choice: 'tcsh' (choose from bash, zsh)" in done.stderr.replace("'bash', 'zsh'", "bash, zsh")
