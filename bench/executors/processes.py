"""Start child processes within 0.1 s. Example: process = start(target, (1, 2), {"OMP_NUM_THREADS": "2"})

multiprocessing's fork server imports torch and all else that a worker needs once (bench/measure/preload.py) and forks a
child per call; it holds no CUDA context and no thread. A forked child gets the caller's environment, working directory
and import path, but shares what libraries read when the server loaded them. Where a task needs that otherwise, off
Linux (forks break macOS' own libraries, and Windows has none), and if SEVIT_START_METHOD is "spawn", the child is
spawned, which takes some 3 s where it needs torch.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, str] = MappingProxyType({})
PRELOAD = "bench.measure.preload"
# Read when a library or Python itself is loaded, so too late for a forked child; OMP_WAIT_POLICY has no substitute in
# libgomp. Of these names two are none: bench.measure.preload.begin makes up for OMP_NUM_THREADS, which most tasks set;
# PYTHONBREAKPOINT, which Ray sets where it is used, is read when a breakpoint is reached.
READ_AT_LOAD = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "TORCH", "PYTORCH_"),
    *("NVIDIA_", "LD_", "MALLOC_", "GLIBC_", "PYTHON"),
)
NOT_AT_LOAD = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")
# In the server only. OpenBLAS starts its threads when numpy loads it, and none may run where a process forks; a library
# that asks whether there is a GPU as it is imported gets the answer from NVML, without touching CUDA.
SERVER_ALONE = {
    "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "OMP_NUM_THREADS": None, "PYTHONSAFEPATH": "1",
}  # fmt: skip
CHANGING = threading.Lock()  # the environment is one for all threads

_conditions: dict[str, str] | None = None  # what the server read at load; None: no server yet
_spawn_only = not sys.platform.startswith("linux") or os.environ.get("SEVIT_START_METHOD") == "spawn"


def warm_up(environment: Mapping[str, str] = NOTHING) -> None:
    """Start the server unless it is there, without waiting for its imports.

    From now on it serves tasks whose READ_AT_LOAD variables are those of this process and `environment`.
    """
    global _conditions
    if _conditions is None:
        _conditions = _read_at_load(environment)
        _serves(environment)


def spawn_only() -> None:
    """Do without a server: a process with a single child need not wait for imports that this child can do without."""
    global _spawn_only
    _spawn_only = True


def start(target: Callable[..., None], args: tuple[Any, ...], environment: Mapping[str, str]) -> BaseProcess:
    """A daemon process that runs target(surroundings, *args), where surroundings.enter() must come first."""
    warm_up()
    if _serves(environment):
        surroundings = Surroundings({**os.environ, **environment})
        process = multiprocessing.get_context("forkserver").Process(target=target, args=(surroundings, *args))
        process.daemon = True
        process.start()
        return process
    spawned = multiprocessing.get_context("spawn").Process(target=target, args=(Surroundings(), *args), daemon=True)
    with no_interrupt(), changed(environment):
        spawned.start()
    return spawned


def _read_at_load(environment: Mapping[str, str]) -> dict[str, str]:
    every = {**os.environ, **environment}
    return {name: every[name] for name in every if name.startswith(READ_AT_LOAD) and name not in NOT_AT_LOAD}


def _serves(environment: Mapping[str, str]) -> bool:
    """Whether the server can fork a child with these variables; if so, it runs, though it may still be importing."""
    if _spawn_only or _read_at_load(environment) != _conditions:
        return False
    with blocked("SIGHUP"):  # a terminal that is closed tells all processes; these end with this one
        # else ensure_running below starts it, which unblocks the signals blocked here
        resource_tracker.ensure_running()
    forkserver.set_forkserver_preload([PRELOAD])
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # the server does not take it from its command (gh-117378)
    # Blocked in the server and in a child until it can handle them; a scheduler signals all processes at once.
    with changed({**_conditions, **SERVER_ALONE, **path}), blocked(*SIGNALS):
        forkserver.ensure_running()
    return True


# --- what a forked child would otherwise have from the server -------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """The caller's environment; none: the process is spawned and has it."""

    environment: Mapping[str, str] | None = None

    def enter(self) -> None:
        """In the child, before anything else."""
        if self.environment is None:
            return
        os.environ.clear()
        os.environ.update(self.environment)
        importlib.import_module(PRELOAD).begin()


# --- signals and variables of a process that starts another ----------------------------------------------------------

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@contextlib.contextmanager
def blocked(*names: str) -> Iterator[None]:
    """These signals wait, for this thread, and for good in processes started meanwhile; not on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.Signals[name] for name in names})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Ctrl-C waits for the end of this, and processes started meanwhile never see it: none prints a traceback."""
    pressed = False

    def hold(*_: object) -> None:
        nonlocal pressed
        pressed = True

    try:
        before = signal.signal(signal.SIGINT, hold)  # another thread may be the one that takes the signal
    except ValueError:  # not the main thread, which alone may set handlers
        with blocked("SIGINT"):
            yield
        return
    try:
        with blocked("SIGINT"):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def changed(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Processes started meanwhile inherit these variables (None: not set), and no others' changes come in between."""
    with CHANGING:
        before = {name: os.environ.get(name) for name in environment}
        set_variables(environment)
        try:
            yield
        finally:
            set_variables(before)


def set_variables(variables: Mapping[str, str | None]) -> None:
    """In this process; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
