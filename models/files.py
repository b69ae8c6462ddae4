"""The files of models from elsewhere. Example: sources_of("path/to/file.py")

A model's file may import what lies beside it and in the folder the command is given in, where `package.module` may lie.
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


def folders_of(source: str) -> list[Path]:
    """Where the imports of a model's module are looked for, after the installed packages."""
    beside = [model_file(source).resolve().parent] if source.endswith(".py") else []
    return list(dict.fromkeys([*beside, Path.cwd()]))


def mistaken(source: str) -> Path | None:
    """The file of the current folder that a module's name may mean, where this tool's own package has that name."""
    if source.partition(".")[0] not in OURS:
        return None
    path = Path(*source.split(".")).with_suffix(".py")
    ours = Path(__file__).resolve().parent.parent / path
    return path if path.is_file() and path.resolve() != ours else None


def sources_of(source: str) -> list[Path]:
    """The module's file and the files of its folders that it imports, and they in turn; none for installed packages.

    Read, not imported; imports that are computed are not seen.
    """
    folders = folders_of(source)
    first = model_file(source).resolve() if source.endswith(".py") else _module(Path.cwd(), source.split("."))
    sources, waiting = list[Path](), [first] if first and first.is_file() else []
    while waiting:
        path = waiting.pop()
        if path not in sources:
            sources.append(path)
            waiting += _imported(path, folders)
    return sources


def _imported(path: Path, folders: list[Path]) -> Iterator[Path]:
    """Files below `folders` that the import statements of a file name; below the second none of this tool's own."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # importing it will say so
        return
    for node in ast.walk(tree):
        names = list[tuple[Path, str]]()
        if isinstance(node, ast.Import):
            names = [(folder, alias.name) for alias in node.names for folder in folders]
        elif isinstance(node, ast.ImportFrom):
            starts = [path.parents[node.level - 1]] if node.level else folders
            stem = f"{node.module}." if node.module else ""
            modules = [node.module or "", *(stem + alias.name for alias in node.names)]
            names = [(start, name) for name in modules for start in starts]
        for start, name in names:
            ours = start in folders[1:] and name.partition(".")[0] in OURS
            if name and not ours and (found := _module(start, name.split("."))):
                yield found.resolve()


def _module(folder: Path, names: list[str]) -> Path | None:
    base = folder.joinpath(*names)
    choices = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in choices if path.is_file()), None)


_brought: dict[str, list[Path]] = {}  # modules that models' files have imported from their folders


@contextlib.contextmanager
def neighbours(source: str) -> Iterator[None]:
    """Modules of a model's folders can be imported meanwhile; those of another file's folders are forgotten first."""
    folders = folders_of(source)
    for name in [name for name, other in _brought.items() if other != folders]:
        sys.modules.pop(name, None)
        del _brought[name]
    before = set(sys.modules)
    sys.path += map(str, folders)
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(str(folder))
        new = set(sys.modules) - before
        _brought.update((name, folders) for name in new if any(_is_of(name, folder) for folder in folders))


def _is_of(name: str, folder: Path) -> bool:
    """Whether an imported module is one of the user's folder: not ours, nor of an environment that lies in it."""
    file = getattr(sys.modules[name], "__file__", None)
    if not file or name.partition(".")[0] in OURS:
        return False
    path = Path(file)
    return path.is_relative_to(folder) and not INSTALLED.intersection(path.parts)
