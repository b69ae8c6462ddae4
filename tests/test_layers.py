"""The import rules and size limits of CONTRIBUTING.md, read off the source."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted(path for folder in ("bench", "models") for path in (ROOT / folder).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

# What each package may import, beside itself, `core` and what those named here may import.
ABOVE: dict[str, tuple[str, ...]] = {
    "core": (),
    "models": (),
    "plan": ("models",),
    "data": ("plan",),
    "machine": ("plan",),
    "store": ("plan",),
    "measure": ("data", "machine", "store"),
    "executors": ("measure",),
    "drive": ("executors",),
    "analysis": ("store", "data"),
    "present": ("analysis",),
    "cli": ("drive", "present"),
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """A module's dotted name; a package's is that of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Names that a file imports anywhere but under `if TYPE_CHECKING`: modules, and what is taken from them."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree_of(path))
    return frozenset(names)


def modules(path: Path) -> set[str]:
    """Modules of this repository that a file imports."""
    ours = {n for n in imports(path) if n.split(".")[0] in ("bench", "models")}
    return {n if n in MODULES else n.rpartition(".")[0] for n in ours} - {name_of(path)}


def outside(path: Path) -> set[str]:
    """Top-level packages from elsewhere that a file imports."""
    return {n.split(".")[0] for n in imports(path)} - {"bench", "models"} - sys.stdlib_module_names


def package(module: str) -> str:
    """`plan` of bench.plan.spec, `models` of models.vit."""
    first, *rest = module.split(".")
    return rest[0] if first == "bench" and rest else first


def allowed(name: str) -> set[str]:
    """Every package that `name` may import."""
    below = {name, *(() if name == "models" else ("core",))}
    for lower in ABOVE[name]:
        below |= allowed(lower)
    return below


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a directed graph, one for each arrow that closes one; none where there is no circle at all."""
    found: list[list[str]] = []
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> None:
        state[node] = 1
        for target in sorted(graph.get(node, ())):
            if state.get(target) == 1:
                found.append([*path[path.index(target) :], target])
            elif target not in state:
                visit(target, [*path, target])
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            visit(node, [node])
    return found


def test_every_package_has_its_place() -> None:
    assert {package(name) for name in MODULES} - {"bench"} == set(ABOVE)


def test_an_imported_module_exists() -> None:
    """The rest of this file would not notice a name that has moved."""
    for path in FILES:
        assert modules(path) <= MODULES.keys(), path


@pytest.mark.parametrize("name", ABOVE)
def test_a_package_imports_only_what_lies_below(name: str) -> None:
    for path in FILES:
        if package(name_of(path)) == name:
            wrong = {m for m in modules(path) if package(m) not in allowed(name)}
            assert not wrong, path


def test_no_circle_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        source = name_of(path) if path.name == "__init__.py" else name_of(path.parent)
        graph.setdefault(source, set()).update(name_of(MODULES[m].parent) for m in modules(path))
    assert circles({source: targets - {source} for source, targets in graph.items()}) == []


def test_no_circle_between_modules() -> None:
    assert circles({name_of(path): modules(path) for path in FILES}) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_plan_and_core_need_little() -> None:
    """What describes and what everybody uses must load in no time."""
    for path in FILES:
        if package(name_of(path)) in ("plan", "core"):
            late = {"scipy"} if path.name == "stats.py" else set()  # its quantiles, when one is asked for
            assert outside(path) <= {"msgspec", "filelock"} | late, path
        if package(name_of(path)) == "plan":
            assert {m for m in modules(path) if package(m) == "models"} <= {"models.registry", "models.errors"}, path


TORCH = {"torch", "torchvision", "timm", "fvcore", "vit_pytorch"}


def test_only_workers_import_torch() -> None:
    """Not even late, inside a function: drivers and readers ask a child process."""
    with_torch = [path for path in FILES if outside(path) & TORCH and package(name_of(path)) != "models"]
    others = [name_of(path) for path in with_torch if package(name_of(path)) != "measure"]
    assert sorted(others) == ["bench.data.augment", "bench.data.loader"]


def test_nobody_but_workers_imports_what_imports_torch() -> None:
    loads = {name_of(path) for path in FILES if outside(path) & TORCH and package(name_of(path)) != "models"}
    while more := {name_of(p) for p in FILES if modules(p) & loads and package(name_of(p)) != "models"} - loads:
        loads |= more
    workers = {"bench.data.augment", "bench.data.loader"}
    assert [name for name in sorted(loads - workers) if package(name) != "measure"] == []


def test_functions_named_for_child_processes_exist() -> None:
    """`bench.measure.run:child_run`: no import and no type checker sees such a name."""
    named = [
        (path, node.value)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and re.fullmatch(r"bench(\.\w+)+:\w+", str(node.value))
    ]
    assert len(named) >= 8
    for path, text in named:
        module, _, function = text.partition(":")
        functions = [node.name for node in tree_of(MODULES[module]).body if isinstance(node, ast.FunctionDef)]
        assert function in functions, f"{path}: {text}"


# --- sizes -----------------------------------------------------------------------------------------------------------


def functions() -> Iterator[tuple[str, Function]]:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_functions_fit_a_screen() -> None:
    lines = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: count for name, count in lines.items() if count > 80} == {}


def test_functions_take_few_parameters() -> None:
    """As a caller sees them: without `self` and `cls`."""
    counts = {}
    for name, node in functions():
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        counts[name] = len([one for one in named if one.arg not in ("self", "cls")])
    assert {name: count for name, count in counts.items() if count > 8} == {}


OPEN_CONTENT = 40  # content that is truly open: JSON before its types are known, a recipe file, plotly's figures


def test_data_between_packages_is_typed() -> None:
    count = sum(path.read_text(encoding="utf-8").count("dict[str, Any]") for path in FILES)
    assert count <= OPEN_CONTENT, "use a dataclass or a msgspec struct; where that is no use, say why and raise this"


# --- what is loaded --------------------------------------------------------------------------------------------------


def loaded(code: str) -> set[str]:
    """Modules in memory after this code, in a process of its own."""
    printing = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", printing], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def command(words: str, code: int) -> str:
    """Python that runs a command, and fails unless it exits with this code."""
    lines = ("import sys", "from bench.cli.main import main", "try:", f"    code = main({words.split()!r})")
    lines += ("except SystemExit as leaving:", "    code = leaving.code or 0")
    return "\n".join([*lines, f"assert code == {code}, code"])


def chain(parts: Iterable[str]) -> str:
    return "\n".join(parts)


# Several in one process: what one of them would load stays loaded to the end.
TORCH_FREE = {
    "imports": chain(
        f"import {name}"
        for name in MODULES
        if package(name) not in ("measure", "models") and name not in ("bench.data.augment", "bench.data.loader")
    ),
    "help": command("--help", 0),
    "lists": chain(command(f"list {what}", 0) for what in ("models", "datasets", "recipes", "presets", "settings")),
    "data": command("data list", 0),
    "readers": chain(
        (
            command("table --results results/reference/cpu-2core", 0),
            command("compare --results results/reference/cpu-2core", 0),
            command("check --results results/reference/cpu-2core", 0),
        )
    ),
    "typos": chain(
        command(words, 2)
        for words in (
            "--setting turned",
            "--models vit_tinny",
            "--models seresnet --recipe sharde",
            "--models seresnet --seeds 1,,2",
            "--models seresnet --dataset cifar11",
            "--models seresnet --device cudda",
            "--models seresnet --executor rey",
            "--preset smokke",
            "--track familly",
            "table --results results/none",
            "time --models vit_tinny",
            "time --models seresnet --device cudda",
            "time --models seresnet --setting turned",
            "compare --fail-if much",
            "cost vit_tinny",
        )
    ),
}


@pytest.mark.parametrize("code", TORCH_FREE.values(), ids=TORCH_FREE)
def test_torch_stays_unloaded(code: str) -> None:
    assert not loaded(code) & TORCH


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("bench.core.stats", {"scipy", "numpy"}),
        ("bench.store.disk", {"scipy", "pandas"}),  # in every child
        ("bench.drive.sweep", {"matplotlib", "scipy", "pandas"}),  # before every plan, and every refusal
        ("bench.drive.speed", {"matplotlib", "scipy", "pandas"}),
        ("bench.present.charts.build", {"matplotlib"}),
        ("bench.analysis.tables", {"scipy.stats", "pandas"}),
        ("bench.analysis.verdicts", {"scipy.stats"}),
        ("bench.cli.main", {"numpy", "scipy", "pandas", "rich"}),  # --help, list, typos
    ],
)
def test_what_is_slow_to_import_waits_until_it_is_needed(module: str, slow: set[str]) -> None:
    assert not loaded(f"import {module}") & slow


OWN_PIPE = "bench.executors.child"  # pickles for its own child, which reads a pipe that nobody else can write to


def test_no_pickled_modules_anywhere() -> None:
    """Nothing that is merely read may execute: no pickle, and no torch.load that allows it."""
    for path in FILES:
        pickles = {n.split(".")[0] for n in imports(path)} & {"pickle", "shelve", "dill", "joblib"}
        assert not pickles or name_of(path) == OWN_PIPE, path
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                safe = {"torch.load": ("weights_only", True)}.get(ast.unparse(node.func), ("allow_pickle", False))
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert given.get(safe[0]) is safe[1], f"{path}:{node.lineno}"
