"""Files from the network, whole and verified. Example: fetch(RemoteFile("a.tgz", urls, size, "md5:…"), data_dir)

The loop is ours, around requests: pooch has no resuming, mirrors or locks and deletes wrong files; torchvision does not
resume and knows only MD5; huggingface_hub serves its own hub.

`NAME` is only ever the whole, verified file. Beside it: `NAME.part`, an unfinished download, which the next attempt,
call or source continues, since the checksum decides in the end; `NAME.verified`, which saves reading an unchanged file
again; `NAME.wrong-1`, a complete download with another checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from bench.core.errors import UserError
from bench.core.files import inert, patient_lock, state_of, to_json, write_atomically

if TYPE_CHECKING:  # requests takes 0.15 s to import, and usually every file is in place
    import requests

SLOW_BYTES_PER_SECOND = 250_000  # cs.toronto.edu serves CIFAR-10 at 55 to 85 kB/s (pytorch/vision#9536)
SLOW_SECONDS = 20.0  # over which a speed is measured
CONNECT_SECONDS, READ_SECONDS = 10, 20  # short, to fail soon without a network
HEAD_SECONDS = 60  # from the request to the end of the last redirect's header
MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
TRIES = 4  # failures in a row at one source; the count restarts after ENOUGH_BYTES
ENOUGH_BYTES = 1_000_000
LONGEST_WAIT_SECONDS = 60.0  # even if Retry-After asks for more
CHUNK_BYTES = 1 << 18
MOST_KEPT = 2  # wrong files per name, so that the disk does not fill
CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-\d{1,18}|\*)/(?P<total>\d{1,18}|\*)")

Progress = Callable[[str, int, int], None]  # what, bytes (or items) done, of how many; called often: must be cheap


def silent(what: str, done: int, of: int) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its sources, size and checksum."""

    name: str  # within its folder
    urls: tuple[str, ...]  # the official source first, then mirrors, tried in this order
    size: int  # bytes
    checksum: str  # "sha256:HEX" or "md5:HEX", as published


@dataclass(frozen=True)
class _Job:
    """What each step of one call needs."""

    file: RemoteFile
    path: Path  # where the file is to be
    part: Path  # the unfinished download
    progress: Progress
    say: Callable[[str], None]
    clock: Callable[[], float]  # seconds, monotonic
    sleep: Callable[[float], None]


class _PassedOver(Exception):
    """This source cannot be used; the message says why."""


class _CannotResume(_PassedOver):
    """This source cannot resume; the part is not given up for it while another source may continue."""

    def __init__(self, start: int) -> None:
        super().__init__(f"cannot resume at byte {start:,}")


class _Broken(Exception):
    """This attempt failed, another may work; `wait_seconds`: what the server asked for, if anything."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Silent(_Broken):
    """Nothing came for READ_SECONDS: reason to try another source, else to try again."""


class _Slow(Exception):
    """This source is too slow."""

    def __init__(self, bytes_per_second: float) -> None:
        super().__init__(f"only {bytes_per_second / 1000:,.0f} kB/s")
        self.bytes_per_second = bytes_per_second


def fault(file: RemoteFile, path: Path, progress: Progress = silent) -> str | None:
    """None if the file at `path` is right, else a clause that says what is wrong. Reads all of it."""
    if not path.is_file():
        return "is not a file" if path.exists() else "is missing"
    if (size := _size(path)) != file.size:
        return f"has {size:,} bytes, not {file.size:,}"
    algorithm, _, expected = file.checksum.partition(":")
    assert algorithm in ("sha256", "md5"), file.checksum
    digest, done = hashlib.new(algorithm, usedforsecurity=False), 0  # MD5 under FIPS as well
    with open(path, "rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            progress(f"checking {file.name}", done := done + len(chunk), size)
    if digest.hexdigest() != expected.lower():
        return f"has {algorithm} {digest.hexdigest()}, not {expected}"
    return None


def fetch(
    file: RemoteFile,
    folder: Path,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The verified file `folder`/`file.name`, fetched unless it is in place; of several processes, only one fetches it.

    `say` gets a line for whatever a user should know: a wait, a retry, another source, a wrong file kept.
    Raises UserError if no source has it or SEVIT_OFFLINE forbids connections; OSError if the disk is full or the folder
    read-only. However it ends, the next call continues from there.
    """
    assert file.urls
    path = folder / file.name
    if (wrong := _verify(file, path, progress)) is None:
        return path
    reasons = [f"the existing file {wrong}"] if path.exists() else []
    if os.environ.get("SEVIT_OFFLINE", "0") not in ("", "0"):
        raise _given_up(file, path, [*reasons, "SEVIT_OFFLINE is set: no connection was tried"])
    waiting = f"{file.name}: waiting for {{}}, which is fetching it"
    with patient_lock(folder / ".locks" / f"{file.name}.lock", lambda owner: say(waiting.format(owner))):
        if _verify(file, path, progress) is None:  # fetched by the process we waited for
            return path
        job = _Job(file, path, path.with_name(f"{file.name}.part"), progress, say, clock, sleep)
        _complete(job, reasons)
        if path.exists():
            say(f"{file.name}: the existing file {wrong}; it is kept as {_set_aside(path, path).name}")
        with open(job.part, "r+b") as content:
            os.fsync(content.fileno())
        os.replace(job.part, path)
        _note_verified(file, path)
    return path


# --- what is in place ----------------------------------------------------------------------------------------------


def _verify(file: RemoteFile, path: Path, progress: Progress) -> str | None:
    """As `fault`, but without reading a file that was right before and has not changed since."""
    with contextlib.suppress(OSError):
        if _size(path) == file.size and _sidecar(path).read_bytes() == _seal(file, path):
            return None
    if (wrong := fault(file, path, progress)) is None:
        _note_verified(file, path)
    return wrong


def _note_verified(file: RemoteFile, path: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only shared folder: every call reads the file
        write_atomically(_sidecar(path), _seal(file, path))


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _seal(file: RemoteFile, path: Path) -> bytes:
    return to_json({"state": state_of(path), "checksum": file.checksum})


def _set_aside(wrong: Path, path: Path) -> Path:
    """Move a wrong file to the next free `NAME.wrong-N`, or over the last of them; return that path."""
    places = [path.with_name(f"{path.name}.wrong-{n}") for n in range(1, MOST_KEPT + 1)]
    place = next((place for place in places if not place.exists()), places[-1])
    os.replace(wrong, place)
    return place


def _size(path: Path) -> int:
    """Bytes; 0 if there is no file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _given_up(file: RemoteFile, path: Path, reasons: list[str]) -> UserError:
    return UserError(
        inert(
            f"{file.name} could not be fetched ({'; '.join(reasons)}); put a copy at {path.absolute()} "
            f"({file.size:,} bytes, {file.checksum}), or choose its folder with --data-dir or SEVIT_DATA"
        )
    )


# --- what comes from elsewhere -------------------------------------------------------------------------------------


def _complete(job: _Job, reasons: list[str]) -> None:
    """Make the part the right file. A complete but wrong one is kept and fetched once more, elsewhere if possible.

    Raises UserError with the `reasons` so far and each source's since.
    """
    urls = list(job.file.urls)
    for _ in range(2):
        source = _fill(job, urls, reasons)
        if (wrong := fault(job.file, job.part, job.progress)) is None:
            return
        kept = _set_aside(job.part, job.path).name
        reasons.append(f"{source or 'the earlier download'} {wrong}, kept as {kept}")
        job.say(f"{job.file.name}: {reasons[-1]}")
        after = urls.index(source) if source else len(urls)
        urls = [*urls[after + 1 :], *urls[:after]] or urls
    raise _given_up(job.file, job.path, reasons)


def _fill(job: _Job, urls: list[str], reasons: list[str]) -> str | None:
    """Bring the part to its size; return the source of its last bytes, None if it was complete.

    A slow source is left while another is untried; if all are slow, the fastest delivers the rest. If no source can
    resume, the part is kept until as much has come again from the start.
    Raises UserError with the `reasons` so far and each source's.
    """
    untried, slow = list(urls), dict[str, float]()
    whole_only, restarted = list[str](), set[str]()
    source = None
    _take_back(job)
    if _size(job.part) > job.file.size:
        job.part.unlink()
    while _size(job.part) < job.file.size:
        if untried:
            source = untried.pop(0)
            floor = SLOW_BYTES_PER_SECOND if untried else max(slow.values(), default=0.0)
        elif slow:
            source, floor = max(slow, key=lambda url: slow[url]), 0.0
            del slow[source]
        elif whole_only:
            source, floor = whole_only.pop(0), 0.0
            restarted.add(source)  # only once: if it breaks off, it may again not resume
            job.say(f"{job.file.name}: no source resumes at byte {_size(job.part):,}: starting again")
            _take_back(job)
            os.replace(job.part, _spare(job))
        else:
            _take_back(job)
            raise _given_up(job.file, job.path, reasons)
        try:
            _take(job, source, floor)
        except _Slow as reason:
            slow[source] = reason.bytes_per_second
            job.say(f"{job.file.name}: {reason} from {_host(source)}; trying another source")
        except _PassedOver as reason:
            if isinstance(reason, _CannotResume) and source not in restarted:
                whole_only.append(source)
            reasons.append(f"{source}: {reason}")
            if untried or slow:  # else the error says it
                job.say(f"{job.file.name}: {_host(source)}: {reason}; trying another source")
    _spare(job).unlink(missing_ok=True)
    return source


def _spare(job: _Job) -> Path:
    """The part that no source would resume, kept until as much has come again."""
    return job.part.with_name(f"{job.part.name}-before")


def _take_back(job: _Job) -> None:
    """Use the longer of the part and the one before."""
    with contextlib.suppress(FileNotFoundError):
        if _size(_spare(job)) > _size(job.part):
            os.replace(_spare(job), job.part)


def _take(job: _Job, url: str, floor: float) -> None:
    """Take the rest from one source, over as many connections as needed.

    Raises _PassedOver if it cannot be used, _Slow if it delivers less than `floor` bytes/s.
    """
    failures = 0
    while (before := _size(job.part)) < job.file.size:
        try:
            _transfer(job, url, floor)
        except _Broken as broken:
            if floor and isinstance(broken, _Silent):
                raise _Slow(0.0) from None
            failures = 1 if _size(job.part) - before >= ENOUGH_BYTES else failures + 1
            if failures == TRIES:
                raise _PassedOver(f"{broken}, {TRIES} times") from None
            wait = 2.0 ** (failures - 1) if broken.wait_seconds is None else broken.wait_seconds
            job.say(f"{job.file.name}: {_host(url)}: {broken}; trying again in {wait:.0f} s")
            job.sleep(wait)


def _transfer(job: _Job, url: str, floor: float) -> None:
    """Append what one connection delivers to the part. Raises _PassedOver, _Broken, _Slow; OSError for the disk."""
    size = job.file.size
    with _in_time(partial(_ask, url, _size(job.part))) as response:
        done = _first_byte(job, response)
        with _named(job.part), open(job.part, "ab") as out:  # closed however this ends, so that what came is on disk
            out.truncate(done)
            job.progress(job.file.name, done, size)
            since, counted = job.clock(), done
            while done < size:
                if (seconds := job.clock() - since) >= SLOW_SECONDS:
                    if (speed := (done - counted) / seconds) < floor:
                        raise _Slow(speed)
                    since, counted = since + seconds, done
                if not (chunk := _read(response, min(CHUNK_BYTES, size - done))):
                    raise _Broken(f"the connection ended at byte {done:,} of {size:,}")
                out.write(chunk)
                done += len(chunk)
                job.progress(job.file.name, done, size)


def _read(response: requests.Response, most: int) -> bytes:
    """The bytes that have arrived, at most `most`; none at the end, or if the connection is lost."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        return response.raw.read1(most, decode_content=False)  # a .gz declared as gzip-encoded stays as it is
    except ReadTimeoutError:
        raise _Silent(f"nothing came for {READ_SECONDS} s") from None
    except HTTPError:
        return b""


def _in_time(ask: Callable[[], requests.Response]) -> requests.Response:
    """The response, once its head is here: a server that drips it is never silent. Raises _Silent, and as `ask`."""
    answer: list[requests.Response | BaseException] = []
    late = threading.Event()

    def work() -> None:
        try:
            answer.append(ask())
        except BaseException as error:
            answer.append(error)
        if late.is_set() and not isinstance(answer[0], BaseException):
            answer[0].close()

    thread = threading.Thread(target=work, daemon=True)  # one that hangs ends with the process
    thread.start()
    thread.join(HEAD_SECONDS)
    late.set()
    if not answer:
        raise _Silent(f"no complete answer within {HEAD_SECONDS} s")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _ask(url: str, start: int) -> requests.Response:
    """Request all from byte `start` on, and follow redirects without reading their bodies, which may never end.

    Raises _PassedOver if no server is reached or redirects lead nowhere, _Broken if it does not answer.
    """
    for _ in range(MOST_REDIRECTS):
        response = _ask_once(url, start)
        location = response.headers.get("Location", "")
        if response.status_code not in REDIRECTS or not location:
            return response
        response.close()
        try:  # headers are Latin-1 to requests, and UTF-8 to servers that send more than ASCII
            url = urljoin(url, location.encode("latin-1").decode())
        except ValueError:
            raise _PassedOver(f"redirects to no address ({inert(location)[:60]})") from None
    raise _PassedOver(f"redirects more than {MOST_REDIRECTS} times")


def _ask_once(url: str, start: int) -> requests.Response:
    import requests
    from urllib3.exceptions import HTTPError, MaxRetryError

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.Session() as session:
            # requests reads a redirect's body even where it is not to follow it
            session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
            return session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except requests.ReadTimeout:
        raise _Silent(f"no answer within {READ_SECONDS} s") from None
    except requests.ConnectTimeout:
        raise _PassedOver(f"no connection within {CONNECT_SECONDS} s") from None
    except requests.ConnectionError as error:
        if isinstance(reached := error.args[0], MaxRetryError):  # how requests says that it never connected
            raise _PassedOver(_why(reached.reason)) from None
        raise _Broken("the connection was lost before an answer") from None
    except (requests.RequestException, HTTPError, ValueError) as error:  # ValueError: no address at all
        raise _PassedOver(inert(str(error))[:120]) from None


def _why(reason: Exception | None) -> str:
    from urllib3.exceptions import NameResolutionError, ProxyError

    if isinstance(reason, NameResolutionError):
        return "its name cannot be resolved"
    if isinstance(reason, ProxyError):
        return "the proxy cannot reach it"
    cause = reason.__cause__ if reason else None
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else inert(str(reason))[:120]


def _first_byte(job: _Job, response: requests.Response) -> int:
    """The byte of the file at which the response's body starts, at most the part's end.

    Raises _PassedOver if it cannot be the file, _Broken if another request may help.
    """
    status, start, size = response.status_code, _size(job.part), job.file.size
    if status in (408, 429) or status >= 500:
        asked = re.fullmatch(r"\d{1,9}", response.headers.get("Retry-After", ""))  # not a date
        raise _Broken(f"HTTP {status}", min(float(asked[0]), LONGEST_WAIT_SECONDS) if asked else None)
    if status in (200, 206) and response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _PassedOver("sent an HTML page")
    where = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = response.headers.get("Content-Length", "") if status == 200 else where["total"] if where else ""
    if re.fullmatch(r"\d{1,18}", total) and int(total) != size:
        raise _PassedOver(f"has {int(total):,} bytes, not {size:,}")
    if status == 200 and not start:
        return 0
    if status == 206 and where and where["first"] and int(where["first"]) <= start:
        return int(where["first"])
    if status in (200, 206, 416) and start:
        raise _CannotResume(start)
    raise _PassedOver(f"HTTP {status}")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in a full disk's error, which Python itself does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _host(url: str) -> str:
    return urlsplit(url).netloc
