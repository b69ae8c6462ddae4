"""Whether two machines run the same code and versions. Example: differences(identity(), identity()) == []

A cluster's nodes have their own checkouts and environments; results of two versions of the code are not comparable.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from bench.machine.environment import PACKAGES, ROOT, git_state, package_version

# Files below bench/ that determine what a training computes.
TRAINING_CODE = ("plan/budget.py", "measure/train.py", "measure/step.py", "data/augment.py", "data/loader.py")


@dataclass(frozen=True)
class Identity:
    """A checkout and its environment. `code`: SHA-256 over bench/ and models/, which covers uncommitted changes."""

    commit: str
    code: str
    versions: tuple[tuple[str, str], ...]


def identity() -> Identity:
    """This machine's identity, read now from the files that a child process would load."""
    versions = [("python", platform.python_version()), *((package, package_version(package)) for package in PACKAGES)]
    return Identity(git_state()[0], code_hash(ROOT), tuple(versions))


def training_code() -> str:
    """SHA-256 over the source that determines what a training computes: only the same code resumes a checkpoint."""
    files = [ROOT / "bench" / name for name in TRAINING_CODE] + sorted((ROOT / "models").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def code_hash(root: Path) -> str:
    """SHA-256 over names and contents of all Python files of bench/ and models/ below `root`."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("bench", "models") for path in (root / folder).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def differences(expected: Identity, actual: Identity) -> list[str]:
    """How `actual` differs, one short text per difference; empty where both run the same."""
    different = []
    if actual.commit != expected.commit:
        different.append(f"commit {actual.commit[:10] or 'unknown'}, not {expected.commit[:10] or 'unknown'}")
    elif actual.code != expected.code:
        different.append("changed files in bench/ or models/ that differ from the driver's")
    versions = dict(actual.versions)
    different += [
        f"{package} {versions.get(package, 'missing')}, not {version}"
        for package, version in expected.versions
        if versions.get(package) != version
    ]
    return different
