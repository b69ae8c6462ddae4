"""Commands without the seconds of their imports. Example: out, error = Command(["list"]).communicate(timeout=280)

A command is forked from the fork server of this pytest worker, which has imported all there is, and the fork server of
the command from the command, instead of two new Pythons: 7 s of CPU less. It has all else of a process of its own: its
session, signals, environment, folder and output, and the processes below it that it has anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import TimeoutExpired
from types import ModuleType
from typing import Any

from bench.executors import processes

ROOT = Path(__file__).resolve().parent.parent
SERVER = b"sevit-server"  # the name of a forked fork server, whose command line is that of what it is forked from


def draws_nothing() -> None:
    """Sweeps end without charts, two to ten seconds each."""
    from bench.cli import run

    run.draw = lambda *_: []  # type: ignore[assignment]


class Command:
    """`python run_bench.py …` in the checkout, without its charts: of a Popen what tests ask.

    `screen`: a file to print into instead of `stdout`; `before` runs in the new process, ahead of the command.
    """

    def __init__(
        self, words: Sequence[str | Path], screen: int | None = None, before: Callable[[], object] = draws_nothing
    ) -> None:
        self.args = ["run_bench.py", *map(str, words)]
        (out, out_end), (error, error_end) = multiprocessing.Pipe(duplex=False), multiprocessing.Pipe(duplex=False)
        if screen is not None:
            out_end = Connection(os.dup(screen), readable=False)
        begun, beginning = multiprocessing.Pipe(duplex=False)
        if not processes._serves({}):
            changed = set((processes._conditions or {}).items()) ^ set(processes._read_at_load({}).items())
            raise RuntimeError(f"this command needs a process of its own; read as the server was loaded: {changed}")
        context = multiprocessing.get_context("forkserver")
        args = (dict(os.environ), (out_end, error_end), beginning, self.args, before)
        self._process = context.Process(target=_command, args=args, daemon=True)
        self._process.start()
        for end in (out_end, error_end, beginning):
            end.close()
        begun.poll(None)  # from now on it has a session of its own
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(pipe.fileno()), encoding="utf-8") for pipe in (out, error))

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, to its end; it is ended where that takes too long."""
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                raise
            return texts[0].result(), texts[1].result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _command(
    environment: dict[str, str],
    streams: tuple[Connection, ...],
    beginning: Connection,
    words: list[str],
    before: Callable[[], object],
) -> None:
    """In the forked process: become one that nobody forked, then do as run_bench.py does."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    # The inherited ones may be those of another kind of file; a line at a time, as after `python -u`.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, "utf-8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.argv = words
    sys.modules["__main__"] = ModuleType("__main__")
    sys.modules["__main__"].__file__ = str(ROOT / words[0])
    multiprocessing.current_process().daemon = False  # a daemon may start no process
    forkserver._forkserver.__init__()  # type: ignore[misc]
    util.spawnv_passfds = _started  # type: ignore[assignment]
    beginning.close()
    before()

    from bench.cli.main import main

    sys.exit(main())


_spawned = util.spawnv_passfds


def _started(path: bytes, args: Sequence[Any], passed: Sequence[int]) -> int:
    """Start a helper of multiprocessing's: the fork server is forked, any other is a new Python."""
    if "forkserver" not in args[-1]:
        return _spawned(path, args, passed)
    if pid := os.fork():
        return pid
    try:
        ctypes.CDLL(None).prctl(15, SERVER)  # PR_SET_NAME
        kept = sorted({0, 1, 2, *passed})
        for below, above in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
            os.closerange(below + 1, above)
        exec(args[-1], {})
    finally:
        os._exit(0)
