"""The examples of docs/own.md print what the page says."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import ROOT

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/own.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, text in BLOCKS:
        if kind == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    runpy.run_path("make_photos.py")
    *shown, last = [shlex.split(text)[2:] for kind, text in BLOCKS if kind == "sh"]
    printed = [here(*words, cwd=tmp_path).stdout for words in shown]
    assert printed == [text for kind, text in BLOCKS if kind == "text"]
    planned = here(*last, "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("mynet.py:small") == 5, "one run a seed"
