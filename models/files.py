"""The files of models from elsewhere. Example: sources_of("path/to/file.py")

A model's file may import what lies beside it, and `package.module` may lie in the current folder.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import sys
from collections.abc import Iterator
from pathlib import Path

OURS = ("bench", "models")
INSTALLED = {"site-packages", "dist-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"}


def model_file(name: str) -> Path:
    """The file of that name. Records have U+FFFD for what is no UTF-8 in a name: then the one file that looks so."""
    alike = glob.glob(glob.escape(name).replace("\ufffd", "?")) if "\ufffd" in name else []
    alike = [path for path in alike if path.encode(errors="replace").decode() == name.replace("\ufffd", "?")]
    return Path(alike[0] if len(alike) == 1 else name)


def folder_of(source: str) -> Path:
    """Where the imports of a model's module are looked for, after the installed packages."""
    return model_file(source).resolve().parent if source.endswith(".py") else Path.cwd()


def sources_of(source: str) -> list[Path]:
    """The module's file and the files of its folder that it imports, and they in turn; none for installed packages.

    Read, not imported; imports that are computed are not seen.
    """
    folder = folder_of(source)
    first = model_file(source).resolve() if source.endswith(".py") else _module(folder, source.split("."))
    sources, waiting = list[Path](), [first] if first and first.is_file() else []
    while waiting:
        path = waiting.pop()
        if path not in sources:
            sources.append(path)
            waiting += _imported(path, folder)
    return sources


def _imported(path: Path, folder: Path) -> Iterator[Path]:
    """Files below `folder` that the import statements of a file name."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # importing it will say so
        return
    for node in ast.walk(tree):
        names = list[tuple[Path, str]]()
        if isinstance(node, ast.Import):
            names = [(folder, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else folder
            stem = f"{node.module}." if node.module else ""
            names = [(start, node.module or ""), *((start, stem + alias.name) for alias in node.names)]
        for start, name in names:
            if name and (found := _module(start, name.split("."))):
                yield found.resolve()


def _module(folder: Path, names: list[str]) -> Path | None:
    base = folder.joinpath(*names)
    choices = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in choices if path.is_file()), None)


_brought: dict[str, Path] = {}  # modules that models' files have imported from their folders


@contextlib.contextmanager
def neighbours(source: str) -> Iterator[None]:
    """Modules beside a model's file can be imported meanwhile; those of another file's folder are forgotten first."""
    folder, before = folder_of(source), set(sys.modules)
    for name in [name for name, other in _brought.items() if other != folder]:
        sys.modules.pop(name, None)
        del _brought[name]
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _brought.update((name, folder) for name in set(sys.modules) - before if _is_of(name, folder))


def _is_of(name: str, folder: Path) -> bool:
    """Whether an imported module is one of the user's folder: not ours, nor of an environment that lies in it."""
    file = getattr(sys.modules[name], "__file__", None)
    if not file or name.partition(".")[0] in OURS:
        return False
    path = Path(file)
    return path.is_relative_to(folder) and not INSTALLED.intersection(path.parts)
