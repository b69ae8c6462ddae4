"""One child process per task. Example: outcome = call("bench.measure.run:child_run", args, on_event, timeout=3600)

A child that runs out of memory, breaks its CUDA context, hangs or is killed ends alone. Its events come back through a
pipe, what it prints through another. It never outlives this process: it watches a third, which ends with this process.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.core.errors import Interrupted
from bench.core.events import Event, Failed, Note, Numbered, OfRun, Report, decode, encode, is_frequent
from bench.core.files import inert_lines
from bench.core.status import failure
from bench.executors.processes import NOTHING, Surroundings, blocked, start

# From a polite request to the end: a step and a checkpoint fit in; a compilation or a hang is abandoned.
GRACE_SECONDS = 20.0
EVERY_SECONDS = 0.2  # between two frequent events: a GPU makes thousands of steps a second
LOOK_SECONDS = 1.0  # between two checks whether the child is alive
EXIT_SECONDS = 10.0  # from a child's last word to its end: freeing a GPU, stopping a compiler's processes
EXIT_ORPHANED = 70
STAYS = "its work was done, but a thread or an atexit function of the model's code went on"
MOST_PRINTED = 1 << 20  # bytes of what a child prints that are passed on
DONE = b""  # the child's last word, where its function returned


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `ok`, the status of its failure, or `killed` if it had no time to report one."""

    status: str
    message: str = ""
    traceback: str = ""


def call(
    function: Callable[..., None] | str,
    args: tuple[Any, ...],
    on_event: Report,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] = NOTHING,
) -> Outcome:
    """Run function(report, *args) in a process of its own with these variables added; wait at most `timeout` seconds.

    `function` may be named, "module:function": then this process need not import what only the child needs.

    In the child, `report` sends an event, and raises Interrupted once the child was asked to stop. KeyboardInterrupt
    asks it to stop, gives it `grace` seconds, ends it and is raised again; a second one ends it at once. The timeout
    stops it the same way. `stop` is for callers in other threads, which no KeyboardInterrupt reaches: once it is set,
    this thread raises one.
    """
    oom_kills = _oom_kills()
    with contextlib.ExitStack() as pipes:
        receiver, sender = _pipe(pipes)
        life, _ = _pipe(pipes)  # the child reads it; the other end closes with this process
        heard, voice = multiprocessing.Pipe(duplex=False)
        pipes.enter_context(_printed(heard))
        pipes.callback(voice.close)
        process = start(_child, (sender, life, voice, pickle.dumps((function, args))), environment)
        for connection in (sender, life, voice):
            connection.close()
        listener = _Listener(process, receiver, on_event)
        try:
            in_time = listener.listen(timeout, stop)
            if in_time:
                process.join(EXIT_SECONDS)
                if stays := process.is_alive():
                    on_event(Note(f"its process did not end within {EXIT_SECONDS:g} s and was ended: {STAYS}"))
            else:
                _stop(process, listener, grace)
        except BaseException:
            _stop(process, listener, grace)
            raise
        finally:
            _kill(process)
    if not in_time:
        return Outcome("timeout", f"not done after {timeout:g} s")
    exit_code = 0 if stays else process.exitcode or 0
    return listener.outcome or _exit_outcome(exit_code, oom=_oom_kills() > oom_kills)


def _pipe(closing: contextlib.ExitStack) -> tuple[Connection, Connection]:
    reader, writer = multiprocessing.Pipe(duplex=False)
    closing.callback(reader.close)
    closing.callback(writer.close)
    return reader, writer


@contextlib.contextmanager
def _printed(reader: Connection) -> Iterator[None]:
    """Pass what a child prints on to stderr, without what a terminal would obey; a grandchild may go on printing."""
    ended = threading.Event()
    thread = threading.Thread(target=_pass_on, args=(reader, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * LOOK_SECONDS)


def _pass_on(reader: Connection, ended: threading.Event) -> None:
    decoder, left, over = codecs.getincrementaldecoder("utf-8")("replace"), MOST_PRINTED, False
    with reader:
        while not (over and left < 0):
            over = ended.is_set()
            if not reader.poll(0 if over else LOOK_SECONDS):
                if over:
                    return
                continue
            if not (content := os.read(reader.fileno(), 1 << 16)):
                return
            text = inert_lines(decoder.decode(content[: max(left, 0)]))
            if 0 <= left < len(content):
                text += f"\n(it printed more than {MOST_PRINTED:,} bytes; the rest is left out)\n"
            left -= len(content)
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a terminal or a pipe that is closed
                print(text, end="", file=sys.stderr, flush=True)


class _Listener:
    """Passes a child's events on. `outcome`: as the child reported it, if it did."""

    def __init__(self, process: BaseProcess, receiver: Connection, on_event: Report) -> None:
        self.outcome: Outcome | None = None
        self._process, self._receiver, self._on_event = process, receiver, on_event

    def listen(self, seconds: float | None, stop: threading.Event | None = None) -> bool:
        """Until the child's last word, or its death; False if the time is over first."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            alive = self._process.is_alive()  # a grandchild may hold the pipe open after the child's death
            try:
                if self._receiver.poll(min(left, LOOK_SECONDS) if alive else 0):
                    with blocked("SIGINT", "SIGTERM", "SIGHUP"):  # an event half read would garble all after it
                        content = self._receiver.recv_bytes()
                elif alive:
                    continue
                else:
                    return True
            except (EOFError, OSError):
                return True
            if self._take(content):
                return True
        return False

    def _take(self, content: bytes) -> bool:
        """Pass an event on; whether it was the last word."""
        if content == DONE:
            self.outcome = self.outcome or Outcome("ok")
            return True
        try:
            event = decode(content)
        except ValueError as error:  # not a finite number, say
            self.outcome = Outcome("failed", f"its process reported nonsense: {error}")
            return False
        assert not isinstance(event, Numbered)
        if isinstance(event, Failed):
            self.outcome = Outcome(event.status, event.message, event.traceback)
            return True
        self._on_event(event)
        return False


def _exit_outcome(code: int, oom: bool) -> Outcome:
    """Of a child that reported no outcome."""
    if code == 0:
        return Outcome("ok")
    if code < 0 and oom:
        return Outcome("oom", "the system ran out of memory and killed its process")
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome("killed", f"its process ended by {reason}")


def _stop(process: BaseProcess, listener: _Listener, grace: float) -> None:
    """Ask the child to save and stop, pass its last events on, end it. A second interruption ends it at once."""
    try:
        process.terminate()
        if listener.listen(grace):
            process.join(min(grace, EXIT_SECONDS))
    finally:
        _kill(process)


def _kill(process: BaseProcess) -> None:
    """End the child and everything it started: it leads a process group of its own."""
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def end_children() -> None:
    """End every child at once, whichever thread started it: at its exit, Python would wait for them."""
    for process in multiprocessing.active_children():
        _kill(process)


def _oom_kills() -> int:
    """How often this machine's kernel has killed a process for its memory; 0 if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


# --- in the child ----------------------------------------------------------------------------------------------------


def _child(surroundings: Surroundings, sender: Connection, life: Connection, voice: Connection, work: bytes) -> None:
    # stdout is the command's: what a model prints must not come between the rows of a CSV
    for number in (1, 2):
        os.dup2(voice.fileno(), number)
    voice.close()
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    stopped = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which asks this process to stop
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_follow, args=(life,), daemon=True).start()
    last: dict[str, float] = {}  # of each run where several take turns

    def report(event: Event) -> None:
        if stopped.is_set():
            raise Interrupted("stopped by the user")
        if is_frequent(event):
            name = event.name if isinstance(event, OfRun) else ""
            if time.monotonic() - last.get(name, 0.0) < EVERY_SECONDS:
                return
            last[name] = time.monotonic()
        sender.send_bytes(encode(event))

    try:
        surroundings.enter()
        del sys.argv[1:]  # a model's file may parse arguments, but these were not for it
        function, args = pickle.loads(work)  # not before: it imports what may read the environment
        _resolve(function)(report, *args)
        sender.send_bytes(DONE)
    except SystemExit:  # its exit code says so
        raise
    except BaseException as error:  # a model's code may define such, or raise KeyboardInterrupt
        sender.send_bytes(encode(failure(error)))
    finally:
        sender.close()


def _resolve(function: Callable[..., None] | str) -> Callable[..., None]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    named: Callable[..., None] = getattr(importlib.import_module(module), name)
    return named


def _follow(life: Connection) -> None:
    """End with the parent, whatever ends it: an orphan would go on writing where another may have taken over."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(EXIT_ORPHANED)
