"""A lock that keeps speed sessions and runs apart on one machine. Example: why_not = busy()

Runs may train side by side; a speed session needs the whole machine. Both take one lock per machine, whatever the
sweep, store or executor: a run waits until a session is over, a session is refused while a run trains.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import Busy

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOOK_SECONDS = 0.5  # to measure the CPU's load; between two attempts to lock
WAIT_SECONDS = 10.0  # for runs that are about to end
MOST_LOAD = 0.2  # share of all cores that other work may use when a session starts on a shared machine


def _path() -> Path:
    """The same for every user of the machine; SEVIT_HOST_LOCK names another, for machines that are simulated."""
    return Path(os.environ.get("SEVIT_HOST_LOCK") or Path(tempfile.gettempdir()) / "sevit-bench-host.lock")


class Over(Busy):
    """Another session was timing here and has ended: its results may be the ones needed."""


@contextlib.contextmanager
def at_work(stop: threading.Event | None = None) -> Iterator[None]:
    """Hold while training beside other runs; waits until no session runs. KeyboardInterrupt once `stop` is set."""
    with _opened() as handle:
        while not _locked(handle, exclusive=False):
            if stop is not None and stop.wait(LOOK_SECONDS):
                raise KeyboardInterrupt
            if stop is None:
                time.sleep(LOOK_SECONDS)
        yield


@contextlib.contextmanager
def alone(seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold while timing, with no other run of this tool on the machine.

    Raises Busy where a run still trains after `seconds`; Over once another session, for which it waited, has ended.
    """
    deadline, session = time.monotonic() + seconds, False
    with _opened() as handle:
        while not _locked(handle, exclusive=True):
            beside_runs = _locked(handle, exclusive=False)
            _unlock(handle)
            session |= not beside_runs
            if beside_runs and time.monotonic() >= deadline:
                raise Busy("a run of this tool trains on this machine")
            time.sleep(LOOK_SECONDS)
        if session:
            raise Over("another session")
        yield


def busy(most_load: float = MOST_LOAD) -> str | None:
    """Why this machine is not idle: other work on its cores or GPUs; None where it is."""
    load = cpu_load()
    if load is not None and load > most_load:
        return f"{100 * load:.0f} % of its cores are busy with other work"
    users = _gpu_processes()
    return f"{users} other process{'es' * (users > 1)} compute on its GPUs" if users else None


def cpu_load() -> float | None:
    """The share of all cores that other processes use; None where /proc does not report it."""

    def busy_and_all() -> tuple[int, int]:
        user, nice, system, idle, iowait, *rest = (int(x) for x in Path("/proc/stat").read_text().split()[1:9])
        return user + nice + system + sum(rest), user + nice + system + idle + iowait + sum(rest)

    try:
        before = busy_and_all()
        time.sleep(LOOK_SECONDS)
        after = busy_and_all()
    except (OSError, ValueError):
        return None
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def _gpu_processes() -> int:
    """How many processes compute on this machine's GPUs; 0 where that is unknown."""
    try:
        import pynvml  # the module of nvidia-ml-py

        pynvml.nvmlInit()
        gpus = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return sum(len(pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)) for gpu in gpus)
    except Exception:  # no NVIDIA driver: no GPU to compute on
        return 0


# The kernel frees the lock when its owner dies. Where the lock is not available, everything proceeds without it: it is
# advisory.
@contextlib.contextmanager
def _opened() -> Iterator[int | None]:
    try:
        handle = os.open(_path(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:
        yield None
        return
    try:
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o666)  # whatever the umask: other users' runs take it too
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int | None, exclusive: bool) -> bool:
    """Whether the lock was taken."""
    if handle is None or fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _unlock(handle: int | None) -> None:
    if handle is not None and fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
