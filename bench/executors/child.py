"""One child process a task. Example: outcome = call(child_run, (spec, source, root), on_event, timeout=3600)

A child that runs out of memory, breaks its CUDA context, hangs or is killed ends alone. Its progress and its failure
come back as events through a pipe. It never outlives this process: a second pipe, which only ever ends, tells it.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.core.errors import Busy, Interrupted

# From a polite request to the end: a step and a checkpoint fit in; a compilation or a hang is abandoned.
GRACE_SECONDS = 20.0
EVERY_SECONDS = 0.2  # between two reports of steps: a GPU makes thousands a second
LOOK_SECONDS = 1.0  # between two looks at whether the child is alive
FREQUENT = ("step", "tick")
EXIT_ORPHANED = 70
NOTHING: Mapping[str, str] = MappingProxyType({})
STARTING = threading.Lock()  # the environment belongs to all threads of a process


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `ok`, the status of its failure, or `killed` where it had no time to say."""

    status: str
    message: str = ""
    traceback: str = ""


def call(
    function: Callable[..., None] | str,
    args: tuple[Any, ...],
    on_event: Callable[[dict[str, Any]], None],
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] = NOTHING,
) -> Outcome:
    """Run function(report, *args) in a fresh process with more `environment`, and wait, at most `timeout` seconds.

    `function` may be named, module:function: then this process need not import what only the child needs.

    `report` sends an event, and raises Interrupted once the child was asked to stop. KeyboardInterrupt asks it to,
    waits `grace` seconds for it, ends it and goes on; another one ends it at once. So does the timeout. `stop` is for
    callers in other threads, which no KeyboardInterrupt reaches: once it is set, this thread raises one.
    """
    context = multiprocessing.get_context("spawn")  # fork does not survive CUDA or threads
    receiver, sender = context.Pipe(duplex=False)
    life, lifeline = context.Pipe(duplex=False)  # the child reads `life`, which ends with this process
    process = context.Process(target=_child, args=(sender, life, function, args), daemon=True)
    oom_kills = _oom_kills()
    failures: list[Outcome] = []

    def listen(seconds: float | None, stop: threading.Event | None = None) -> bool:
        """Pass events on until the child has closed its end, or died; False where the time is over first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            alive = process.is_alive()  # asked for: a grandchild may hold the pipe open after the child's death
            try:
                if receiver.poll(min(left, LOOK_SECONDS) if alive else 0):
                    with _undisturbed():
                        event = receiver.recv()
                elif alive:
                    continue
                else:
                    return True
            except (EOFError, OSError):
                return True
            if event["event"] == "failure":
                failures.append(Outcome(event["status"], event["message"], event["traceback"]))
            else:
                on_event(event)

    with no_interrupt(), surrounded(environment):
        process.start()
    sender.close()
    life.close()
    try:
        in_time = listen(timeout, stop)
        if in_time:
            process.join()
        else:
            _stop(process, listen, grace)
    except BaseException:
        _stop(process, listen, grace)
        raise
    finally:
        _kill(process)
        receiver.close()
        lifeline.close()
    if not in_time:
        return Outcome("timeout", f"not done after {timeout:g} s")
    if failures:
        return failures[-1]
    if process.exitcode == 0:
        return Outcome("ok")
    code = process.exitcode or 0
    if code < 0 and _oom_kills() > oom_kills:
        return Outcome("oom", "the system ran out of memory and killed its process")
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome("killed", f"its process ended by {reason}")


def _stop(process: SpawnProcess, listen: Callable[[float], bool], grace: float) -> None:
    """Ask the child to save and stop, hear it out, end it. A second interruption ends it at once."""
    try:
        process.terminate()
        if listen(grace):
            process.join(grace)
    finally:
        _kill(process)


def _kill(process: SpawnProcess) -> None:
    """End the child and everything that it has started: it leads a process group of its own."""
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def end_children() -> None:
    """End every child at once, whichever thread has started it: at its exit, Python would wait for them."""
    for process in multiprocessing.active_children():
        if isinstance(process, SpawnProcess):
            _kill(process)


def _oom_kills() -> int:
    """How often this machine's kernel has killed a process for its memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait: an event half read would make nonsense of those after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """A child inherits ignored signals: so Ctrl-C never prints a child's traceback, not even while it imports."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def surrounded(environment: Mapping[str, str]) -> Iterator[None]:
    """A process that is started meanwhile inherits these variables; no other start comes in between."""
    with STARTING:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _named(function: Callable[..., None] | str) -> Callable[..., None]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), name)
    return found


def _child(sender: Connection, life: Connection, function: Callable[..., None] | str, args: tuple[Any, ...]) -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which asks this process to stop
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_follow, args=(life,), daemon=True).start()
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if stopped.is_set():
            raise Interrupted("stopped by the user")
        if event["event"] in FREQUENT:
            if time.monotonic() - last < EVERY_SECONDS:
                return
            last = time.monotonic()
        sender.send(event)

    try:
        _named(function)(report, *args)
    except Exception as error:
        from bench.core.status import one_line, status_of

        text = str(error) if isinstance(error, Interrupted | Busy) else one_line(error)
        trace = traceback.format_exc()
        sender.send({"event": "failure", "status": status_of(error), "message": text, "traceback": trace})
    finally:
        sender.close()


def _follow(life: Connection) -> None:
    """End with the parent, whatever ends it: an orphan would go on writing where another may have taken over."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(EXIT_ORPHANED)
