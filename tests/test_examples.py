"""The example in a module's first docstring works: a command parses, Python compiles, and what it calls is there."""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib
import inspect
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.cli.requests import parse
from tests.conftest import ROOT

HELPERS = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith(("test_", "__init__"))]
FILES = sorted([*(p for d in ("bench", "models", "benchmarks") for p in (ROOT / d).rglob("*.py")), *HELPERS])
# What an example may use although its module does not know it: what the reader has at hand.
AT_HAND = {"Path", "Store", "Device", "Task", "report", "read", "torch", "np"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def examples(path: Path) -> list[str]:
    """What stands behind each `Example:` of a first docstring, to the end of its line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return [line.partition("Example:")[2].strip() for line in text.splitlines() if "Example:" in line]


EXAMPLES = [(name_of(path), text) for path in FILES for text in examples(path)]


def test_every_module_shows_its_use() -> None:
    packages = ("bench", "models", "benchmarks")
    own = [p for p in FILES if p.name != "__init__.py" and p.relative_to(ROOT).parts[0] in packages]
    assert [name_of(path) for path in own if not examples(path)] == []


class Parsed(Exception):
    """A script's arguments were accepted."""


def parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise unless the program that a command line names accepts its arguments; nothing is executed."""
    python, script, *rest = words
    assert python == "python"
    if script == "run_bench.py":
        parse(rest)
        return
    if "argparse" not in (ROOT / script).read_text(encoding="utf-8"):
        return
    accept = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser) -> None:
        assert "usage" in self.format_help()
        accept(self, rest)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def unknown(tree: ast.Module, module: ModuleType) -> set[str]:
    """Names that are called, or written like a class or constant, and that neither the module nor the example has."""
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id[:1].isupper()}
    return {n for n in (called | named) - bound - AT_HAND if not hasattr(module, n) and not hasattr(builtins, n)}


def check_arguments(call: ast.Call, module: ModuleType) -> None:
    """Raise TypeError unless a function of the module takes such arguments; `…` as the last one: and others."""
    function = getattr(module, call.func.id, None) if isinstance(call.func, ast.Name) else None
    unpacked = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
    if not callable(function) or unpacked:
        return
    more = any(isinstance(value, ast.Constant) and value.value is ... for value in call.args)
    try:
        signature = inspect.signature(function)
    except ValueError:  # an exception that takes what its base class takes
        return
    (signature.bind_partial if more else signature.bind)(*call.args, **{k.arg: k.value for k in call.keywords if k.arg})


def claims(tree: ast.Module, module: ModuleType) -> list[str]:
    """Comparisons with `==` in which everything is known."""
    known = {*vars(module), *vars(builtins)}
    return [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare) and isinstance(node.value.ops[0], ast.Eq)
        if {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} <= known
    ]


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if text.startswith("python "):
        parses(shlex.split(text), monkeypatch)
        return
    tree = ast.parse(text.replace("…", "..."))
    module = importlib.import_module(name)
    assert unknown(tree, module) == set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            check_arguments(node, module)
    for claim in claims(tree, module):
        assert eval(claim, vars(module)), claim


def test_a_wrong_example_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("bench.core.text")
    assert unknown(ast.parse("significance(1.0); Text()"), module) == {"significance", "Text"}
    with pytest.raises(TypeError):
        check_arguments(ast.parse("plural(1)", mode="eval").body, module)  # type: ignore[arg-type]
    assert claims(ast.parse("plural(1, 'run') == '1 run'; x == 1"), module) == ["plural(1, 'run') == '1 run'"]
    with pytest.raises(SystemExit):
        parses(["python", "benchmarks/subset.py", "--no-such-flag"], monkeypatch)
