"""What a machine may be like: a terminal that is not UTF-8, a user without a home, `~` in every flag."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.cli.main import main
from bench.cli.requests import PlotRequest, ReportRequest, parse
from bench.core.files import cache_dir
from bench.core.text import print_any_character
from bench.data.datasets import default_data_dir, load
from bench.store.disk import Store
from tests.conftest import make_npz
from tests.synthetic import write_pair

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's bare user id: no HOME, no entry in passwd."""
    for name in ("HOME", "XDG_CACHE_HOME", "SEVIT_DATA"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


def narrow(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """Standard output and error as they are under PYTHONIOENCODING."""
    written = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding, "strict", write_through=True))
    return written


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_terminal_can_show_any_table(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(Store(tmp_path), {"seresnet": 0.9, "modèle≥": 0.8}, images=100)
    written = narrow(monkeypatch, encoding)
    for command in ("table", "compare"):
        assert main([command, "--results", str(tmp_path)]) == 0
    for words in (["list", "models"], ["data", "list"], ["cost", "no_such_møđel"]):
        main(words)
    text = written.getvalue().decode(encoding)
    assert "seresnet" in text
    assert ("modèle≥" in text) == (encoding == "utf-8")


def test_a_model_prints_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run's process begins: with `print_any_character`."""
    written = narrow(monkeypatch, "ascii")
    print_any_character()
    print("épochs ≥ 1 \udce9")
    assert written.getvalue() == b"?pochs ? 1 ?\n"


def test_without_a_home_there_are_still_data(nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == Path("/.cache/sevit-bench")
    npz = make_npz(tmp_path / "x.npz")
    monkeypatch.setattr("bench.data.cache.reserve", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert load(f"npz:{npz}", default_data_dir()).ref.num_classes == 3
    assert main(["data", "list"]) == 0
    assert main(["data", "show", "npz:~/x.npz"]) == 2


def test_a_tilde_is_the_home_in_every_flag(
    here: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SEVIT_DATA", "~/data")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert (default_data_dir(), cache_dir()) == (home / "data", home / ".cache" / "sevit-bench")
    write_pair(Store(home / "s"), {"seresnet": 0.9, "vit_tiny": 0.8}, images=100)
    make_npz(home / "x.npz")
    (home / "r.toml").write_text("epochs = 1")
    (home / "m.py").write_text("def net(classes, size): ...")
    for words in (
        "table --results=~/s --out=~/t.txt",
        "compare --results=~/s --out=~/v.csv",
        "data show npz:~/x.npz --data-dir=~/d --out=~/f.png",
    ):
        done = here(*words.split(), cwd=elsewhere)
        assert done.returncode == 0, done.stderr
    done = here("--models=~/m.py:net", "--recipe=~/r.toml", "--dataset=npz:~/x.npz", "--dry-run", cwd=elsewhere)
    assert "~" not in done.stderr
    for words in (["plot", "--results=~/s", "--out=~/p"], ["report", "--results=~/s", "--out=~/p"]):
        request = parse(words)
        assert isinstance(request, PlotRequest | ReportRequest)
        assert (request.stores, request.out) == ((home / "s",), home / "p")
    assert not os.listdir(elsewhere)
    assert {"t.txt", "v.csv", "f.png"} <= {*os.listdir(home)}
