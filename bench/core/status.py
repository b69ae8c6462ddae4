"""Failures by name. Example: status_of(MemoryError()) == "oom" """

from __future__ import annotations

import sys
import traceback

from bench.core.errors import Busy, Diverged, Interrupted, Unfit
from bench.core.events import Failed
from bench.core.files import inert


def status_of(error: BaseException) -> str:
    """Expected failures by name: oom, diverged, interrupted, busy, unfit, else failed."""
    torch = sys.modules.get("torch")  # where nobody has loaded it, it has raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)):
        return "oom"
    # torch's CPU allocator, and the C++ library beneath it, raise a plain RuntimeError
    if isinstance(error, RuntimeError) and any(t in str(error) for t in ("can't allocate memory", "std::bad_alloc")):
        return "oom"
    named = {Diverged: "diverged", Interrupted: "interrupted", Busy: "busy", Unfit: "unfit"}
    return next((status for kind, status in named.items() if isinstance(error, kind)), "failed")


def one_line(error: BaseException) -> str:
    """An exception as its type and message, without line breaks."""
    message = inert(str(error))[:300]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def failure(error: BaseException) -> Failed:
    """What a worker reports of an exception that is being handled: status, one line, traceback."""
    text = str(error) if isinstance(error, Interrupted | Busy) else one_line(error)
    trace = traceback.format_exc().encode(errors="replace").decode()  # a file's name may be no UTF-8
    return Failed(status_of(error), text, trace)
