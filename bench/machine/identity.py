"""Whether two machines run the same thing. Example: differences(expected, identity()) -> ["torch 2.12, not 2.13"]

A cluster's nodes have checkouts and environments of their own; a sweep over two versions of the code is no comparison.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench.machine.environment import PACKAGES, git_state

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Identity:
    """A checkout and what it runs on. `code`: SHA-256 over bench/ and models/, for what is not committed."""

    commit: str
    code: str
    versions: tuple[tuple[str, str], ...]


def identity() -> Identity:
    """This machine's, read now: from the files that a child process would load."""
    versions = [("python", platform.python_version()), *((package, _version(package)) for package in PACKAGES)]
    return Identity(git_state()[0], code_hash(ROOT), tuple(versions))


def code_hash(root: Path) -> str:
    """SHA-256 over names and contents of all Python files of bench/ and models/ below `root`."""
    found = hashlib.sha256()
    for path in sorted(path for folder in ("bench", "models") for path in (root / folder).rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()


def differences(expected: Identity, found: Identity) -> list[str]:
    """What `found` has otherwise, each in a few words; none where the two run the same."""
    words = []
    if found.commit != expected.commit:
        words.append(f"commit {found.commit[:10] or 'unknown'}, not {expected.commit[:10] or 'unknown'}")
    elif found.code != expected.code:
        words.append("changed files in bench/ or models/ that differ from the driver's")
    theirs = dict(found.versions)
    words += [
        f"{package} {theirs.get(package, 'missing')}, not {version}"
        for package, version in expected.versions
        if theirs.get(package) != version
    ]
    return words


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
