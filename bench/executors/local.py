"""One child process a run. Example: outcome = call(child_run, (spec, source, root), on_event)

A child that runs out of memory, breaks its CUDA context or is killed ends alone. Its progress and its failure come
back as events through a pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `ok`, the status of its failure, or `killed` where it had no time to say."""

    status: str
    message: str = ""
    traceback: str = ""


def call(function: Callable[..., None], args: tuple[Any, ...], on_event: Callable[[dict[str, Any]], None]) -> Outcome:
    """Run function(report, *args) in a fresh process and wait. KeyboardInterrupt ends the child, then goes on."""
    context = multiprocessing.get_context("spawn")  # fork does not survive CUDA or threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, args), daemon=True)
    with _no_interrupt():
        process.start()
    sender.close()
    failure: Outcome | None = None
    try:
        while True:
            try:
                event = receiver.recv()
            except (EOFError, OSError):  # the child has closed its end, or died
                break
            if event["event"] == "failure":
                failure = Outcome(event["status"], event["message"], event["traceback"])
            else:
                on_event(event)
        process.join()
    except BaseException:
        process.terminate()
        process.join()
        raise
    finally:
        receiver.close()
    if failure is not None:
        return failure
    if process.exitcode == 0:
        return Outcome("ok")
    code = process.exitcode or 0
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome("killed", f"its process ended by {reason}")


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
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


def _child(sender: Connection, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    try:
        function(sender.send, *args)
    except Exception as error:
        from bench.runner import status_of

        message = " ".join(str(error).split())[:300]
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
        trace = traceback.format_exc()
        sender.send({"event": "failure", "status": status_of(error), "message": text, "traceback": trace})
    finally:
        sender.close()
