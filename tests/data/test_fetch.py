"""Downloads against a server that does what it is told: what arrives, what was asked for, what is said."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import platform
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.files import state_of
from bench.data import fetch as module
from bench.data.fetch import SLOW_SECONDS, TRIES, RemoteFile, fault, fetch
from tests.misbehaving_server import Answer, Server

ROOT = Path(__file__).resolve().parent.parent
CONTENT = random.Random(0).randbytes(300_000)
SIZE, SOME = len(CONTENT), 100_000
OTHER = random.Random(1).randbytes(SIZE)
REST = f"bytes={SOME}-"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SEVIT_OFFLINE", raising=False)
    monkeypatch.setattr(module, "CHUNK_BYTES", 30_000)  # ten pieces at least, whatever the kernel hands over at once


@pytest.fixture
def official() -> Iterator[Server]:
    with Server(CONTENT) as server:
        yield server


@pytest.fixture
def mirror() -> Iterator[Server]:
    with Server(CONTENT) as server:
        yield server


def remote(*sources: Server | str, algorithm: str = "sha256") -> RemoteFile:
    urls = tuple(s if isinstance(s, str) else s.url() for s in sources)
    return RemoteFile("a.tar.gz", urls, SIZE, f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")


def seal(file: RemoteFile, path: Path) -> dict[str, object]:
    return {"state": state_of(path), "checksum": file.checksum}


class Watched:
    """A call of fetch with everything injected: what was said, which progress there was, how long it slept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 0.0
        self.said: list[str] = []
        self.slept: list[float] = []
        self.progress: list[tuple[str, int, int]] = []
        self.on_bytes: Callable[[int], None] = lambda done: None

    def __call__(self, file: RemoteFile) -> Path:
        return fetch(
            file, self.folder, self._progress, self.said.append, clock=lambda: self.now, sleep=self.slept.append
        )

    def _progress(self, what: str, done: int, of: int) -> None:
        self.progress.append((what, done, of))
        if what == "a.tar.gz":
            self.on_bytes(done)

    def refused(self, file: RemoteFile) -> str:
        with pytest.raises(UserError) as refusal:
            self(file)
        message = str(refusal.value)
        assert "\n" not in message
        assert message.startswith("a.tar.gz could not be fetched (")
        assert str(self.folder.absolute() / "a.tar.gz") in message, "where to put a copy"
        assert file.checksum in message
        assert "--data-dir or SEVIT_DATA" in message
        return message


@pytest.fixture
def get(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "data")


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".locks"}


# --- what is right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_whole_file(get: Watched, official: Server, mirror: Server, algorithm: str) -> None:
    file = remote(official, mirror, algorithm=algorithm)
    path = get(file)
    assert path == get.folder / "a.tar.gz"
    assert path.read_bytes() == CONTENT
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}
    assert json.loads((get.folder / "a.tar.gz.verified").read_text()) == seal(file, path)
    assert (official.asked, mirror.asked) == ([None], []), "the official source first, and no other"
    assert official.headers[0]["Accept-Encoding"] == "identity"
    fetched = [done for what, done, _ in get.progress if what == "a.tar.gz"]
    checked = [done for what, done, _ in get.progress if what == "checking a.tar.gz"]
    assert fetched[0] == 0
    assert fetched[-1] == checked[-1] == SIZE
    assert fetched == sorted(fetched)
    assert {of for _, _, of in get.progress} == {SIZE}
    assert get.said == get.slept == []


def test_a_file_in_place_needs_no_connection(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz", CONTENT)
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == []
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}
    assert not (get.folder / ".locks").exists(), "a folder that others prepared may be read-only"


def test_what_was_verified_is_read_again_only_where_it_changed(get: Watched, official: Server) -> None:
    file, path = remote(official), put(get.folder, "a.tar.gz", CONTENT)
    get(file)
    at = path.stat().st_mtime_ns
    get.progress.clear()
    get(file)
    assert get.progress == []
    path.write_bytes(OTHER)
    os.utime(path, ns=(at, at))  # the same size and time, as after unpacking another release over it
    assert fault(file, path) == f"has sha256 {hashlib.sha256(OTHER).hexdigest()}, not {file.checksum[7:]}"
    assert get(file).read_bytes() == CONTENT
    assert official.asked == [None]
    assert (get.folder / "a.tar.gz.wrong-1").read_bytes() == OTHER, "what is wrong is kept"
    assert any("wrong-1" in text for text in get.said)


def test_another_published_checksum_means_reading_again(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz", CONTENT)
    get(remote(official))
    get.progress.clear()
    get(remote(official, algorithm="md5"))
    assert get.progress[-1] == ("checking a.tar.gz", SIZE, SIZE)
    assert official.asked == []


def test_a_fault_is_named(tmp_path: Path) -> None:
    file = remote("http://127.0.0.1/")
    assert fault(file, tmp_path / "none") == "is missing"
    assert fault(file, tmp_path) == "is not a file"
    assert fault(file, put(tmp_path, "short", CONTENT[:1234])) == "has 1,234 bytes, not 300,000"
    right = put(tmp_path, "right", CONTENT)
    assert fault(file, right) is None
    assert fault(replace(file, checksum=file.checksum.upper().replace("SHA", "sha")), right) is None
    assert fault(replace(file, checksum="md5:0"), right) == f"has md5 {hashlib.md5(CONTENT).hexdigest()}, not 0"


# --- transfers that end early --------------------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(get: Watched, official: Server) -> None:
    official.plan = [Answer(cut_after=SOME), Answer(cut_after=50_000)]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, REST, "bytes=150000-"], "only the rest was asked for"
    assert get.slept == [1.0, 2.0]
    assert "ended at byte 100,000 of 300,000" in get.said[0]


def test_a_reset_connection_is_resumed(get: Watched, official: Server) -> None:
    official.plan = [Answer(hold_after=SOME, cut_after=SOME, reset=True)]
    get.on_bytes = lambda done: official.go_on.set() if done == SOME else None
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, REST]


@pytest.fixture
def impatient(get: Watched, official: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official server falls silent after SOME bytes, and the client's patience is as good as over then."""

    def when_all_came(done: int) -> None:
        if done == SOME and len(sockets) == 1:
            assert sockets[0].gettimeout() == module.READ_SECONDS
            sockets[0].settimeout(0.01)  # nothing more comes before go_on, however long it waits

    sockets: list[socket.socket] = []
    begin = http.client.HTTPResponse.__init__

    def note_socket(self: http.client.HTTPResponse, sock: socket.socket, *rest: Any, **more: Any) -> None:
        sockets.append(sock)
        begin(self, sock, *rest, **more)

    monkeypatch.setattr(http.client.HTTPResponse, "__init__", note_socket)
    official.plan = [Answer(hold_after=SOME)]
    get.on_bytes = when_all_came


@pytest.mark.usefixtures("impatient")
def test_a_silent_connection_is_resumed(get: Watched, official: Server) -> None:
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, REST]
    assert "nothing came for 20 s" in get.said[0]


@pytest.mark.usefixtures("impatient")
def test_a_silent_source_is_left_where_there_is_another(get: Watched, official: Server, mirror: Server) -> None:
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert (official.asked, mirror.asked) == ([None], [REST])
    assert "trying another source" in get.said[0]


def test_no_answer_at_all_is_asked_again(get: Watched, official: Server) -> None:
    official.plan = [Answer(status=0)]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, None]
    assert "lost before an answer" in get.said[0]


def test_a_source_that_always_ends_early_is_left_for_a_mirror(get: Watched, official: Server, mirror: Server) -> None:
    official.plan = [Answer(cut_after=SOME)] + [Answer(cut_after=0)] * (TRIES - 1)
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert official.asked == [None] + [REST] * (TRIES - 1)
    assert mirror.asked == [REST], "it goes on from the same byte"
    assert get.slept == [1.0, 2.0, 4.0]


def test_a_connection_that_brings_much_may_break_any_number_of_times(
    get: Watched, official: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENOUGH_BYTES", 30_000)
    official.plan = [Answer(cut_after=30_000)] * 9
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None] + [f"bytes={30_000 * n}-" for n in range(1, 10)]
    assert get.slept == [1.0] * 9


def test_ctrl_c_leaves_what_came(get: Watched, official: Server) -> None:
    def interrupt(done: int) -> None:
        if done == SOME:
            raise KeyboardInterrupt

    official.plan = [Answer(hold_after=SOME)]
    get.on_bytes = interrupt
    with pytest.raises(KeyboardInterrupt):
        get(remote(official))
    assert (get.folder / "a.tar.gz.part").read_bytes() == CONTENT[:SOME]
    again = Watched(get.folder)
    assert again(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, REST]
    assert again.progress[0] == ("a.tar.gz", SOME, SIZE), "the bar begins where it left off"
    assert again.said == []


CHILD = """
import os, sys
from pathlib import Path
from bench.data import fetch as module
from bench.data.fetch import RemoteFile, fetch

module.READ_SECONDS = 120  # the server waits for all of them to start, on a busy machine as well

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: four write into one pipe

url, size, checksum, folder = sys.argv[1:]
path = fetch(RemoteFile("a.tar.gz", (url,), int(size), checksum), Path(folder), tell, lambda text: tell("said", text))
tell("has", path)
"""


def child(file: RemoteFile, folder: Path, stdout: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CHILD, *file.urls, str(file.size), file.checksum, str(folder)]
    return subprocess.Popen(words, cwd=ROOT, stdout=stdout, text=True)


def test_a_killed_process_leaves_what_came_and_no_lock(get: Watched, official: Server) -> None:
    official.plan = [Answer(hold_after=SOME)]
    with child(remote(official), get.folder, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(line == f"a.tar.gz {SOME} {SIZE}\n" for line in process.stdout), "it got what was sent"
        os.kill(process.pid, signal.SIGKILL)
    came = (get.folder / "a.tar.gz.part").stat().st_size
    assert SOME - 8192 <= came <= SOME, "all but what Python had not handed over"
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, f"bytes={came}-"]
    assert get.said == [], "nobody was waited for"


def test_four_processes_fetch_once(tmp_path: Path, official: Server) -> None:
    official.plan = [Answer(hold_after=SOME)]
    reading, writing = os.pipe()
    processes = [child(remote(official), tmp_path, writing) for _ in range(4)]
    os.close(writing)
    said, others = [], []
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            (said if line.startswith("said") else others).append(line)
            if len(said) == 3:
                official.go_on.set()  # three wait, so one fetches
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert official.asked == [None], "one whole transfer"
    waiting = {line.split("waiting for ")[1].split(",")[0] for line in said}
    holders = {f"process {process.pid} on {platform.node()}" for process in processes}
    assert len(waiting & holders) <= 1, "only one held it"
    assert waiting <= holders | {"another process"}, "who has not yet written its name is not named"
    assert others.count(f"has {tmp_path / 'a.tar.gz'}\n") == 4
    assert (tmp_path / "a.tar.gz").read_bytes() == CONTENT


# --- what servers make of a range ----------------------------------------------------------------------------------


def test_a_server_without_ranges_starts_over(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz.part", OTHER[:SOME])
    official.plan = [Answer(status=200)]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [REST, None]
    assert "starting again" in get.said[0]
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}


@pytest.mark.parametrize(
    "answer",
    [Answer(status=200), Answer(status=416), Answer(status=200, tells_length=False, body=b"<html>")],
    ids=["all", "416", "a page of no length"],
)
def test_what_one_source_does_not_continue_another_does(
    get: Watched, official: Server, mirror: Server, answer: Answer
) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT[:SOME])
    official.plan = [answer]
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert (official.asked, mirror.asked) == ([REST], [REST])
    assert "cannot resume" in get.said[0]


PAGE = Answer(status=200, tells_length=False, body=b"<html>log in</html>")


@pytest.mark.parametrize("ends", [Answer(status=404), PAGE], ids=["404", "a page of no length"])
def test_a_part_that_nobody_continues_outlives_those_who_bring_less(
    get: Watched, official: Server, ends: Answer
) -> None:
    """Even a server that answers a range with a page of no length: what came in an hour is not lost to it."""
    put(get.folder, "a.tar.gz.part", CONTENT[:SOME])
    official.plan = [Answer(status=200, tells_length=False), *[ends] * 9]
    with pytest.raises(UserError):
        get(remote(official))
    assert (get.folder / "a.tar.gz.part").read_bytes() == CONTENT[:SOME]
    official.plan = []
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked[-1] == REST


def test_a_range_that_starts_earlier_overwrites(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT[:60_000] + OTHER[60_000:SOME])
    official.plan = [Answer(first=60_000)]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [REST]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(first=SOME + 1),
        Answer(status=416),
        Answer(status=416, headers={"Content-Range": f"bytes */{SIZE}"}),
        Answer(status=206, headers={"Content-Range": "bytes"}),
    ],
    ids=["a later start", "416", "416 with the size", "no range named"],
)
def test_a_server_that_cannot_continue_is_asked_for_all(get: Watched, official: Server, answer: Answer) -> None:
    put(get.folder, "a.tar.gz.part", OTHER[:SOME])
    official.plan = [answer]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [REST, None]
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}, "noticed before it was whole"


def test_a_part_that_is_whole_needs_no_connection(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT)
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == []
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}


def test_a_part_that_is_whole_and_wrong_is_kept_aside(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz.part", OTHER)
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None]
    assert (get.folder / "a.tar.gz.wrong-1").read_bytes() == OTHER


def test_a_part_beyond_the_size_is_dropped(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT + b"!")
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None]
    assert names(get.folder) == {"a.tar.gz", "a.tar.gz.verified"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(tells_length=False),
        Answer(tells_length=False, body=CONTENT + b"and more"),
        Answer(headers={"Content-Encoding": "gzip"}),  # Apache's word for a file that is called .gz
        Answer(headers={"Content-Type": ""}),
    ],
    ids=["no length", "more than all", "a gzip file", "no type"],
)
def test_headers_that_must_not_matter(get: Watched, official: Server, answer: Answer) -> None:
    official.plan = [answer]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None]


# --- other sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "HTTP 404"),
        (Answer(status=403), "HTTP 403"),
        (Answer(status=204), "HTTP 204"),
        (Answer(body=b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}), "sent an HTML page"),
        (Answer(status=200, body=b"other one"), "has 9 bytes, not 300,000"),
        (Answer(status=206, headers={"Content-Range": "bytes 100000-100008/100009"}), "has 100,009 bytes, not 300,000"),
        (Answer(status=416, headers={"Content-Range": "bytes */1234"}), "has 1,234 bytes, not 300,000"),
        (Answer(status=302, headers={"Location": "ftp://127.0.0.1/file"}), "No connection adapters"),
        (Answer(status=302, headers={"Location": "/"}), f"redirects more than {module.MOST_REDIRECTS} times"),
    ],
)
def test_a_source_that_will_not_do_is_passed_over(
    get: Watched, official: Server, mirror: Server, answer: Answer, reason: str
) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT[:SOME])
    loops = answer.headers.get("Location") == "/"
    official.plan = [answer] * (module.MOST_REDIRECTS if loops else 1)
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert len(official.asked) == (module.MOST_REDIRECTS if loops else 1), "it is not asked again"
    assert mirror.asked == [REST], "what came before is continued"
    assert len(get.said) == 1
    assert reason in get.said[0]
    assert get.slept == []


def test_mirrors_are_asked_in_their_order(get: Watched, official: Server, mirror: Server) -> None:
    order: list[str] = []
    with Server(CONTENT) as last:
        for name, server in (("official", official), ("mirror", mirror), ("last", last)):
            server.plan = [Answer(status=404)]
            server.asked = Noted(order, name)
        message = get.refused(remote(official, mirror, last))
        assert order == ["official", "mirror", "last"]
        assert message.count("HTTP 404") == 3
        assert message.index(official.url()) < message.index(mirror.url()) < message.index(last.url())


class Noted(list[str | None]):
    """A server's log that writes into one of several servers too."""

    def __init__(self, order: list[str], name: str) -> None:
        super().__init__()
        self._order, self._name = order, name

    def append(self, asked: str | None) -> None:
        super().append(asked)
        self._order.append(self._name)


def test_a_busy_server_is_asked_again_when_it_says(get: Watched, official: Server) -> None:
    official.plan = [
        Answer(status=503, headers={"Retry-After": "7"}),
        Answer(status=429, headers={"Retry-After": "86400"}),
        Answer(status=503, headers={"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}),
    ]
    assert get(remote(official)).read_bytes() == CONTENT
    assert get.slept == [7.0, 60.0, 4.0]
    assert official.asked == [None] * 4


def test_a_broken_server_is_left_for_a_mirror(get: Watched, official: Server, mirror: Server) -> None:
    official.plan = [Answer(status=500)] * 9
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert official.asked == [None] * TRIES
    assert mirror.asked == [None]
    assert get.slept == [1.0, 2.0, 4.0]


def test_a_redirect_is_followed_with_its_range(get: Watched, official: Server, mirror: Server) -> None:
    put(get.folder, "a.tar.gz.part", CONTENT[:SOME])
    official.plan = [Answer(status=302, headers={"Location": mirror.url("elsewhere")})]
    assert get(remote(official)).read_bytes() == CONTENT
    assert (official.asked, mirror.asked) == ([REST], [REST])


@pytest.mark.parametrize("kind", ["chunked", "long"])
def test_a_redirects_body_is_not_read(kind: str, get: Watched, official: Server, mirror: Server) -> None:
    """It would never end: the server holds the rest of it back until the test is over."""
    headers = {"Location": mirror.url(), "Content-Length": str(10**12)}
    if kind == "chunked":
        headers = {"Location": mirror.url(), "Transfer-Encoding": "chunked"}
    body = b"5\r\nhello\r\n" * 1000
    official.plan = [Answer(302, headers, body, hold_after=100, tells_length=kind == "long")]
    assert get(remote(official)).read_bytes() == CONTENT
    assert not official.go_on.is_set()


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://\xff\xfe", "ftp://x/y", "file:///etc/passwd", "http://a b/"]
)
def test_a_strange_redirect_is_passed_over(location: str, get: Watched, official: Server, mirror: Server) -> None:
    official.plan = [Answer(302, {"Location": location}, b"")]
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert mirror.asked == [None]


def test_a_head_that_never_ends_is_not_waited_for(
    get: Watched, mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte now and then is no silence, so that no limit on a read sees it."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as drips:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = drips.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                over.wait()

        over, thread = threading.Event(), threading.Thread(target=drip, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{drips.getsockname()[1]}/file"
        try:
            assert get(remote(address, mirror)).read_bytes() == CONTENT
        finally:
            over.set()
            thread.join()
    assert any("trying another source" in text for text in get.said)


# --- speed ---------------------------------------------------------------------------------------------------------


def at_speeds(get: Watched, seconds: list[tuple[Server, float]]) -> None:
    """While a server is the last one asked, each piece of the file takes so many seconds of the injected clock."""

    def tick(_: int) -> None:
        asked = [(server, took) for server, took in seconds if server.asked]
        get.now += asked[-1][1]

    get.on_bytes = tick


def first_piece(get: Watched) -> int:
    return next(done for what, done, _ in get.progress if what == "a.tar.gz" and done)


def test_a_slow_source_is_left_where_it_is(get: Watched, official: Server, mirror: Server) -> None:
    at_speeds(get, [(official, SLOW_SECONDS), (mirror, 0.0)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert official.asked == [None]
    assert mirror.asked == [f"bytes={first_piece(get)}-"], "the same byte"
    assert len(get.said) == 1
    assert "kB/s from 127.0.0.1" in get.said[0]


def test_a_source_is_given_its_time(get: Watched, official: Server, mirror: Server) -> None:
    ticks = iter([0.0, SLOW_SECONDS - 1, 0.5])  # with the first byte the window opens; all lies within it
    get.on_bytes = lambda _: setattr(get, "now", get.now + next(ticks, 0.0))
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert mirror.asked == []


def test_a_source_that_becomes_slow_is_left(
    get: Watched, official: Server, mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick(done: int) -> None:
        if done > SIZE // 2 and not mirror.asked:
            get.now += SLOW_SECONDS
            late.append(done)

    late: list[int] = []
    monkeypatch.setattr(module, "SLOW_BYTES_PER_SECOND", 2_000)  # half the file in one window, one piece in the next
    get.on_bytes = tick
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert mirror.asked == [f"bytes={late[1]}-"], "whatever it was on the average"


def test_a_fast_source_is_kept(get: Watched, official: Server, mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_BYTES_PER_SECOND", 1e-9)
    at_speeds(get, [(official, SLOW_SECONDS)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert mirror.asked == []


def test_where_all_are_slow_the_fastest_goes_on(get: Watched, official: Server, mirror: Server) -> None:
    at_speeds(get, [(official, SLOW_SECONDS), (mirror, 1e6)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    pieces = sorted({done for what, done, _ in get.progress if what == "a.tar.gz"})
    assert mirror.asked == [f"bytes={pieces[1]}-"]
    assert official.asked == [None, f"bytes={pieces[2]}-"], "back to the faster one, from the same byte"
    assert len(get.said) == 2


def test_a_slow_last_source_stays_where_it_is_the_fastest(get: Watched, official: Server, mirror: Server) -> None:
    at_speeds(get, [(official, 1e9), (mirror, SLOW_SECONDS)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert (len(official.asked), len(mirror.asked)) == (1, 1)


def test_a_slow_only_source_stays(get: Watched, official: Server) -> None:
    at_speeds(get, [(official, 1e6)])
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None]
    assert get.said == []


def test_a_slow_source_is_taken_up_again_where_the_mirror_fails(get: Watched, official: Server, mirror: Server) -> None:
    mirror.plan = [Answer(status=404)]
    at_speeds(get, [(official, SLOW_SECONDS)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert official.asked == [None, f"bytes={first_piece(get)}-"]


# --- giving up -----------------------------------------------------------------------------------------------------


def test_wrong_content_is_kept_aside_and_fetched_once_more(get: Watched, official: Server) -> None:
    official.content = OTHER
    message = get.refused(remote(official))
    assert official.asked == [None, None], "from scratch"
    assert f"{official.url()} has sha256 {hashlib.sha256(OTHER).hexdigest()}, not" in message
    assert "kept as a.tar.gz.wrong-1" in message
    assert "kept as a.tar.gz.wrong-2" in message
    assert names(get.folder) == {"a.tar.gz.wrong-1", "a.tar.gz.wrong-2"}
    get.refused(remote(official))
    assert names(get.folder) == {"a.tar.gz.wrong-1", "a.tar.gz.wrong-2"}, "at most two"


def test_after_wrong_content_the_next_source_is_asked(get: Watched, official: Server, mirror: Server) -> None:
    official.content = OTHER
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert (official.asked, mirror.asked) == ([None], [None])
    assert (get.folder / "a.tar.gz.wrong-1").read_bytes() == OTHER


def test_a_wrong_mirror_sends_back_to_a_slow_official_source(get: Watched, official: Server, mirror: Server) -> None:
    mirror.content = OTHER
    at_speeds(get, [(official, SLOW_SECONDS), (mirror, 0.0)])
    assert get(remote(official, mirror)).read_bytes() == CONTENT
    assert official.asked == [None, None]
    assert len(mirror.asked) == 1


def test_a_wrong_file_in_place_is_named_and_kept(get: Watched, official: Server) -> None:
    put(get.folder, "a.tar.gz", b"mine")
    official.plan = [Answer(status=404)]
    message = get.refused(remote(official))
    assert "(the existing file has 4 bytes, not 300,000; http://127.0.0.1" in message
    assert (get.folder / "a.tar.gz").read_bytes() == b"mine", "nothing better came"
    assert get(remote(official)).read_bytes() == CONTENT
    assert (get.folder / "a.tar.gz.wrong-1").read_bytes() == b"mine"
    assert any("has 4 bytes" in text and "wrong-1" in text for text in get.said)


def test_offline_tries_no_connection(get: Watched, official: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVIT_OFFLINE", "1")
    assert "SEVIT_OFFLINE" in get.refused(remote(official))
    assert not get.folder.exists()
    put(get.folder, "a.tar.gz", CONTENT)
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == []


def test_nobody_reached_is_said_at_once(get: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, *rest: object, **more: object) -> object:
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **more)  # type: ignore[arg-type]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        urls = ("http://nowhere.invalid/file", f"http://127.0.0.1:{closed.getsockname()[1]}/file")
        message = get.refused(remote(*urls))
    assert f"({urls[0]}: its name cannot be resolved; {urls[1]}: Connection refused)" in message
    assert get.slept == [], "neither is asked twice"


def test_a_proxy_that_is_not_there_is_named(get: Watched, official: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert f"({official.url()}: the proxy cannot reach it)" in get.refused(remote(official))
    assert official.asked == []


def test_a_full_disk_is_named_and_the_part_stays(get: Watched, official: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SOME, hard))  # the kernel's own way to refuse a write
    try:
        with pytest.raises(OSError, match="too large") as full:
            get(remote(official))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    part = get.folder / "a.tar.gz.part"
    assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(part))
    assert part.read_bytes() == CONTENT[:SOME]
    assert get(remote(official)).read_bytes() == CONTENT
    assert official.asked == [None, REST]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, official: Server) -> None:
    put(tmp_path, "data", b"a file")
    with pytest.raises(OSError, match="data") as refusal:
        Watched(tmp_path / "data")(remote(official))
    assert refusal.value.filename
    assert official.asked == []
