"""The command line. Example: python run_bench.py --models seresnet,vit_tiny

Everything heavy is imported inside the function that needs it: --help, list and a misspelt name answer at once, and no
command imports torch, which only child processes need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import textwrap
from importlib import import_module
from typing import NoReturn

from bench.cli.requests import (
    CheckRequest,
    CompareRequest,
    CompletionRequest,
    CostRequest,
    DataRequest,
    ExplainRequest,
    ExportRequest,
    ListRequest,
    PlotRequest,
    ReportRequest,
    Request,
    TableRequest,
    WeightsRequest,
    parse,
)
from bench.core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER, Terminated, UserError
from bench.core.files import inert
from bench.core.text import print_any_character
from bench.plan.request import RunRequest, TimeRequest
from models.errors import ModelError

__all__ = ["main", "parse"]

# What carries out each request, imported when it is needed.
FUNCTIONS: dict[type[Request], str] = {
    RunRequest: "bench.cli.run:run",
    TimeRequest: "bench.cli.time:time",
    ExplainRequest: "bench.cli.time:explain",
    TableRequest: "bench.cli.readers:table",
    PlotRequest: "bench.cli.readers:plot",
    ReportRequest: "bench.cli.readers:report",
    CompareRequest: "bench.cli.readers:compare",
    ExportRequest: "bench.cli.export:export",
    WeightsRequest: "bench.cli.weights:show",
    CheckRequest: "bench.cli.readers:check",
    CostRequest: "bench.cli.cost:cost",
    DataRequest: "bench.cli.data:run",
    ListRequest: "bench.cli.list:show",
    CompletionRequest: "bench.cli.completion:show",
}
WITH_IMAGES = (RunRequest, TimeRequest, ExplainRequest, CostRequest, DataRequest)
RESUME = "rerun the same command to resume"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 · 1 a run failed, or a store has problems · 2 a mistake of the user's, or the machine's fault · 130 Ctrl-C ·
    143 SIGTERM, or a terminal that was closed.
    """
    print_any_character()
    _handle_signals()
    request = None
    try:
        request = parse(sys.argv[1:] if argv is None else argv)
        module, _, function = FUNCTIONS[type(request)].partition(":")
        code: int = getattr(import_module(module), function)(request)
        return code
    except (UserError, ModelError) as error:
        return _fail(str(error), EXIT_USER)
    except KeyboardInterrupt as interruption:
        print(file=sys.stderr)
        code = EXIT_TERMINATED if isinstance(interruption, Terminated) else EXIT_INTERRUPTED
        return _fail(f"interrupted; finished runs are kept, {RESUME}", code)
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 0
    except MemoryError as error:
        remedy = "a smaller --image-size takes less" if isinstance(request, WITH_IMAGES) else "end other programs"
        return _fail(f"not enough memory ({str(error) or 'on this machine'}); {remedy}", EXIT_USER)
    except OSError as error:  # a full disk, a vanished directory: what was finished is on the disk already
        where = f" '{error.filename}'" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; fix this, then {RESUME}", EXIT_USER)


def _fail(sentence: str, code: int) -> int:
    """Print the error: on one line for scripts, wrapped at words on a terminal."""
    text = f"run_bench.py: {inert(sentence)}"
    if sys.stderr.isatty():
        from bench.cli.list import terminal_width

        text = textwrap.fill(text, terminal_width(), break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)
    return code


def _handle_signals() -> None:
    """`kill` and a closed terminal end a command as Ctrl-C does: its children first, then in order."""
    with contextlib.suppress(ValueError):  # only the main thread may set them; elsewhere signals are the caller's
        signal.signal(signal.SIGTERM, _terminate)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, _hang_up)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _hang_up(number: int, frame: object) -> NoReturn:
    """What is printed from now on goes nowhere: an error while a run saves would end it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    raise Terminated
