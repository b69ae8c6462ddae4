"""The import rules of CONTRIBUTING.md, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEASURES = ("train", "step", "timing", "cost", "limits", "energy")
COMPOSED = ("runner", "session", "runs", "tune", "search", "store", "cli", "sweep", "speed", "executors")
COMPOSERS = {f"bench.{n}" for n in COMPOSED}


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere but under `if TYPE_CHECKING`, relative ones made absolute."""
    found: set[str] = set()
    package = ".".join(path.relative_to(ROOT).parts[:-1])

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(p for p in (package if node.level else "", node.module or "") if p)
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_spec_imports_the_standard_library_only() -> None:
    outside = {n for n in imports(ROOT / "bench/plan/spec.py") if n.split(".")[0] not in sys.stdlib_module_names}
    assert not outside


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=lambda p: p.name)
def test_models_never_import_bench(path: Path) -> None:
    assert not [n for n in imports(path) if n.split(".")[0] == "bench"]


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "bench/data").glob("*.py")),
        *(ROOT / f"bench/{n}.py" for n in MEASURES),
    ],
    ids=lambda p: p.name,
)
def test_what_measures_never_imports_what_composes(path: Path) -> None:
    assert not [n for n in imports(path) if any(n == c or n.startswith(f"{c}.") for c in COMPOSERS)]


def test_nothing_imports_the_command_line() -> None:
    for path in ROOT.glob("bench/**/*.py"):
        assert not imports(path) & {"bench.cli.main"}, path
        if path.name not in ("cli.py", "sweep.py"):
            assert "bench.drive.sweep" not in imports(path), path


TORCH_FREE = """
import sys
{code}
assert "torch" not in sys.modules, "torch was imported"
"""


@pytest.mark.parametrize(
    "code",
    [
        "import bench.analysis.tables, bench.present.table_formats, bench.present.table_choice",
        "import bench.data.datasets",
        "from bench.cli import main; assert main(['data', 'list']) == 0",
        "import bench.present.session_table, bench.store.check, bench.machine.energy, bench.core.files, bench.store.records",
        "import bench.analysis.compare, bench.present.pair_table",
        "import bench.present.charts.build, bench.present.charts.static, bench.present.report.page",
        "import bench.present.report.facts, bench.present.report.models, bench.present.report.story",
        "import bench.analysis.crossed, bench.analysis.verdicts; bench.analysis.verdicts.parse_condition('speed < 1')",
        "import bench.store.disk, bench.plan.recipes, bench.plan.presets, bench.core.stats, bench.present.screen.progress, bench.present.screen.live",
        "from models.registry import expand_names; expand_names('vit_*')",
        "from bench.cli import main; assert main(['list', 'models']) == 0",
        "from bench.cli import main; assert main(['list', 'datasets']) == 0",
        "from bench.cli import main; assert main(['list', 'recipes']) == 0",
        "from bench.cli import main; assert main(['list', 'presets']) == 0",
        "from bench.cli import main; assert main(['list', 'settings']) == 0",
        "from bench.cli import main; assert main(['--setting', 'turned']) == 2",
        "from bench.cli import main; assert main(['--models', 'vit_tinny']) == 2",
        "from bench.cli import main; assert main(['--models', 'seresnet', '--recipe', 'sharde']) == 2",
        "from bench.cli import main; assert main(['--models', 'seresnet', '--seeds', '1,,2']) == 2",
        "from bench.cli import main; assert main(['table', '--results', 'results/none']) == 2",
        "from bench.cli import main; assert main(['time', '--models', 'vit_tinny']) == 2",
        "from bench.cli import main; assert main(['compare', '--fail-if', 'much']) == 2",
        "from bench.cli import main; assert main(['--track', 'familly']) == 2",
        "from bench.cli import main; assert main(['check', '--results', 'results/reference/cpu-2core']) == 0",
    ],
)
def test_torch_stays_unloaded(code: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", TORCH_FREE.format(code=code)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("bench.store.disk", "scipy"),  # in every child
        ("bench.measure.timing", "scipy"),
        ("bench.drive.sweep", "matplotlib"),  # before every plan, and every refusal
        ("bench.drive.speed", "matplotlib"),
        ("bench.present.charts.build", "matplotlib"),
        ("bench.analysis.tables", "scipy.stats"),
        ("bench.analysis.verdicts", "scipy"),
    ],
)
def test_what_is_slow_to_import_waits_until_it_is_needed(module: str, unloaded: str) -> None:
    code = f"import sys, {module}\nassert {unloaded!r} not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_help_needs_no_torch() -> None:
    code = "import sys, contextlib\nfrom bench.cli import main\nwith contextlib.suppress(SystemExit):\n"
    code += "    main(['--help'])"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nassert 'torch' not in sys.modules"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "COMMAND" in result.stdout


def test_no_pickled_modules_anywhere() -> None:
    """Nothing that is merely read may execute: no pickle, and no torch.load that allows it."""
    for path in [*ROOT.glob("bench/**/*.py"), *ROOT.glob("models/*.py")]:
        assert not {"pickle", "shelve", "dill", "joblib"} & imports(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                safe = {"torch.load": ("weights_only", True)}.get(ast.unparse(node.func), ("allow_pickle", False))
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert given.get(safe[0]) is safe[1], f"{path}:{node.lineno}"
