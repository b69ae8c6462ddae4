"""Files that are never seen half written, JSON that is what it seems, locks that die with their owner.

Example: write_atomically(path, to_json(record))
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.core.errors import Busy, UserError

TEMPORARY = ".tmp-"  # in the names of files that a crash may leave behind; remove_leftovers removes them
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Control characters, and those that turn the direction of what follows (Unicode's Trojan Source, CVE-2021-42574).
NOT_PRINTED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]"
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would lock colleagues out of a shared store
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # where a directory can be flushed, the new name survives a power cut too
            _flush_directory(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _flush_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_dir() -> Path:
    """Where this user's caches are: downloads, compiled code. Without a home (a bare user id), `/`, as in Docker."""
    root = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path("/.cache" if root.startswith("~") else root) / "sevit-bench"


def state_of(path: Path) -> list[int]:
    """What shows that a file was changed or exchanged: unpacking another release may keep its size and its time."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def remove_leftovers(folder: Path) -> None:
    """Remove what a crash left half written; only the folder's owner may call this."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def sha256(content: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def to_json(data: Any) -> bytes:
    """Readable, stable JSON. Raises ValueError for nan and infinity, which JSON does not have."""
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_json(content: bytes) -> Any:
    """Strict JSON: no repeated key, no nan or infinity under any spelling. Raises ValueError."""
    return json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_once,
        parse_float=_finite,
        parse_int=_short_integer,
        parse_constant=_no_constant,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _short_integer(text: str) -> int:
    if len(text) > 18:  # nothing here counts to a quintillion; longer ones cannot become floats
        raise ValueError(f"{text[:20]}… is no plausible number")
    return int(text)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def to_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> bytes:
    """CSV with exactly `columns`; None becomes an empty cell. Raises ValueError for a key that is no column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="raise", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else no_formula(v) for k, v in row.items()} for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def no_formula(value: Any) -> Any:
    """A text that a spreadsheet would compute gets an apostrophe before it (OWASP, CSV injection); numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


@lru_cache(maxsize=4096)  # records repeat their few names a thousand times
def inert(text: str) -> str:
    """A text from elsewhere on one line, unable to move a cursor, colour a terminal or turn the reading direction."""
    return inert_line(" ".join(text.split()))


def inert_line(text: str) -> str:
    """The same for a line whose spaces are a layout."""
    return NOT_PRINTED.sub("�", text)


@contextlib.contextmanager
def lock(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold `path` as a lock; the kernel frees it when the process ends, however it ends.

    Raises Busy, with what the owner wrote about itself, where it is not to be had within wait_seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = path.with_suffix(".owner")
    try:
        with _file_lock(path).acquire(timeout=wait_seconds, poll_interval=0.2):
            # Who, for those who have to wait. Only a courtesy: a full disk must not keep anybody from working.
            with contextlib.suppress(OSError):
                about.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
            yield
    except Timeout:
        raise Busy(_owner(about)) from None
    except NotImplementedError:
        raise UserError(f"the file system of '{path.parent}' knows no locks; name a folder on another one") from None


@contextlib.contextmanager
def patient_lock(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold `path` as a lock, however long that takes; `waiting` hears who has it, where somebody has."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
        except Busy as busy:
            waiting(str(busy) or "another process")
            stack.enter_context(lock(path, wait_seconds=-1))
        yield


def holder(path: Path) -> str | None:
    """Who holds the lock, or None where nobody does."""
    if not path.exists():
        return None
    try:
        with _file_lock(path).acquire(timeout=0):
            return None
    except Timeout:
        return _owner(path.with_suffix(".owner"))


def _file_lock(path: Path) -> FileLock:
    # Where a file system has no flock, filelock would fall back to a file that its owner must delete, and a dead
    # owner's would stay for ever: better an error that says so.
    return FileLock(path, mode=0o666, fallback_to_soft=False)


def _owner(about: Path) -> str:
    try:
        return inert(about.read_text(encoding="utf-8", errors="replace"))[:120]
    except OSError:
        return "another process"
