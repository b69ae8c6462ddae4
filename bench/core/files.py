"""Files that are never seen half written, JSON that is what it seems, locks that die with their owner.

Example: write_atomically(path, to_json(record))
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import stat
import tempfile
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from bench.core.errors import Busy, UserError

TEMPORARY = ".tmp-"  # in the names of files that a crash may leave behind; remove_leftovers removes them
MOST_TOML_BYTES = 65_536  # tomllib takes a minute for 400 kB of nested tables
MOST_BYTES = 1 << 28  # of a file that is read whole: more than any record takes, less than a machine's memory
# Where a spreadsheet would begin to compute: at a cell's start, and after what another locale takes for its end. East
# Asian spreadsheets take the full-width signs, too (OWASP, CSV injection).
FORMULA = re.compile(r"(?:^|(?<=[;\t\r\n]))(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])")
# Control characters, and those that turn the direction of what follows (Unicode's Trojan Source, CVE-2021-42574).
NOT_PRINTED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]"
)

COMMANDS = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")  # ECMA-48: CSI, OSC, others


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file that a stranger may have put there: a pipe or a device in its place would have no end.

    Raises OSError as opening does, and ValueError for a link, for whatever else is no regular file, and for more than
    `most` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise ValueError(f"{path.name} is a link or a socket, not a regular file") from None
        raise
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        if about.st_size > most:
            raise ValueError(f"{path.name} is larger than the {most:,} bytes that are read")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a user's TOML file, called `what` ("recipe file") in errors. Raises UserError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML_BYTES + 1)
        if len(content) > MOST_TOML_BYTES:
            raise ValueError(f"it has more than {MOST_TOML_BYTES:,} bytes")
        return tomllib.loads(content.decode("utf-8-sig"))  # Windows' editors begin with a byte order mark
    except FileNotFoundError:
        raise UserError(f"no {what} '{path}'") from None
    except UnicodeDecodeError:
        raise UserError(f"{what} '{path}' is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError, RecursionError) as error:  # tomllib's own, an integer of thousands of digits, [[[[…
        raise UserError(f"{what} '{path}' cannot be read: {error}") from None


def link_within(path: Path, root: Path) -> Path | None:
    """The first link found on the way from `path` up to `root`, which itself may be one: it may lead anywhere."""
    way = (path, *path.parents)
    return next((place for place in way[: way.index(root)] if place.is_symlink()), None)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old file or the new one, never half of one."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace several files of one folder as one; the last of them says that the others belong to it.

    All are on disk before any is replaced, so that a full disk changes nothing. The last one is removed first and comes
    last: whoever is killed between leaves a folder without it, never one in which it describes other files.
    """
    staged: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, staged[path] = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(staged[path], 0o644)  # mkstemp's 0600 would lock colleagues out of a shared store
        if not staged:
            return
        *others, last = staged
        if others:
            with contextlib.suppress(FileNotFoundError):
                last.unlink()
                _flush_directory(last.parent)
            for path in others:
                os.replace(staged[path], path)
            _flush_directory(last.parent)
        os.replace(staged[last], last)
        _flush_directory(last.parent)
    except BaseException:
        for temporary in staged.values():
            Path(temporary).unlink(missing_ok=True)
        raise


def _flush_directory(folder: Path) -> None:
    """So that new names survive a power cut too; not every file system can."""
    with contextlib.suppress(OSError):
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
    """Remove what a crash left half written in a folder, not below it; only the folder's owner may call this."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)


def sha256(content: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def to_json(data: Any) -> bytes:
    """Readable, stable JSON, as json indents it. Raises ValueError for nan and infinity, which JSON does not have."""
    compact = json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return msgspec.json.format(compact, indent=1) + b"\n"  # json itself indents in Python


def from_json(content: bytes) -> Any:
    """Strict JSON: no repeated key, no nan or infinity under any spelling, no number that nothing measures.

    Raises ValueError.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_once,
            parse_float=_plausible,
            parse_int=_short_integer,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _plausible(text: str) -> float:
    # far from where a ratio or a square of two such numbers is infinite or 0, or a logarithm fails
    if not 1e-70 < abs(value := float(text)) < 1e70 and value != 0:
        raise ValueError(f"{text[:20]} is no plausible number")
    return value


def _short_integer(text: str) -> int:
    if len(text) > 18:  # nothing here counts to a quintillion; longer ones cannot become floats
        raise ValueError(f"{text[:20]}… is no plausible number")
    return int(text)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """CSV with exactly `columns`; None becomes an empty cell. Raises ValueError for a key that is no column."""
    known, lines = {*columns}, [",".join(map(_cell, columns))]
    for row in rows:
        if unknown := row.keys() - known:
            raise ValueError(f"no columns: {', '.join(sorted(unknown))}")
        lines.append(",".join([_cell(row.get(column)) for column in columns]))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    return _text_cell(value) if isinstance(value, str) else "" if value is None else str(value)


@lru_cache(maxsize=4096)
def _text_cell(text: str) -> str:
    """A text, with an apostrophe before whatever a spreadsheet would compute, and in quotes where it needs them."""
    guarded = FORMULA.sub("'", text)
    needed = guarded != text or any(sign in text for sign in ',"\r\n')
    return '"' + guarded.replace('"', '""') + '"' if needed else guarded


@lru_cache(maxsize=4096)  # records repeat their few names a thousand times
def inert(text: str) -> str:
    """A text from elsewhere on one line, unable to move a cursor, colour a terminal or turn the reading direction."""
    return inert_line(" ".join(text.split()))


def distinct(texts: Iterable[str]) -> dict[str, str]:
    """Each text as it is shown: inert, and no two the same.

    Where several would look alike, all but the one that looks as it is end in digits of their hash: `my model [3fa2]`.
    """
    alike: dict[str, list[str]] = {}
    for text in sorted(set(texts)):
        alike.setdefault(unicodedata.normalize("NFC", inert(text)), []).append(text)
    shown, taken = dict[str, str](), set(alike)
    for look, group in alike.items():
        for text in group:
            shown[text] = inert(text)
            if len(group) > 1 and text != look:
                digits = sha256(text.encode("utf-8", "surrogatepass"))
                marked = (f"{look} [{digits[:n]}]".lstrip() for n in range(4, len(digits) + 1))
                shown[text] = next(mark for mark in marked if mark not in taken)
                taken.add(shown[text])
    return shown


def inert_line(text: str) -> str:
    """The same for a line whose spaces are a layout."""
    return NOT_PRINTED.sub("�", text)


def inert_lines(text: str) -> str:
    """The same for a text of several lines: colours and other commands to a terminal are left out."""
    plain = COMMANDS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return "\n".join(map(inert_line, plain.split("\n")))


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
            # A new file each time: an old one may be a link, in a store that a stranger made.
            with contextlib.suppress(OSError):
                about.unlink(missing_ok=True)
                with about.open("x", encoding="utf-8") as file:
                    file.write(f"process {os.getpid()} on {platform.node()}")
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
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"'{path}' is in the place of a lock, and is a link or no file; remove it")
    return FileLock(path, mode=0o666, fallback_to_soft=False)


def _owner(about: Path) -> str:
    try:
        return inert(read_file(about, most=1000).decode("utf-8", "replace"))[:120]
    except (OSError, ValueError):
        return "another process"
