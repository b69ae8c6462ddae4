"""Who is at work on this machine. Example: with alone(): … ; with at_work(): …

Runs train side by side, a speed session wants the whole machine. Both say so in one lock of the machine, whatever the
sweep, the store or the engine: a run waits until a session is over, a session is refused while a run trains.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.errors import Busy

LOOK_SECONDS = 0.5  # at the CPU's load; between two tries for the lock
WAIT_SECONDS = 10.0  # for runs that are just ending
MOST_LOAD = 0.2  # of all cores, by strangers, under which a session on somebody else's machine may begin


def _path() -> Path:
    """The same for every user of the machine; SEVIT_HOST_LOCK names another, for machines that are none."""
    return Path(os.environ.get("SEVIT_HOST_LOCK") or Path(tempfile.gettempdir()) / "sevit-bench-host.lock")


@contextlib.contextmanager
def at_work(stop: threading.Event | None = None) -> Iterator[None]:
    """Train here, beside other runs; waits for a session to end. Raises KeyboardInterrupt once `stop` is set."""
    with _held(exclusive=False, seconds=None, stop=stop):
        yield


@contextlib.contextmanager
def alone(seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Time here, with no run of this tool beside. Raises Busy where one is still at work after `seconds`."""
    with _held(exclusive=True, seconds=seconds):
        yield


def busy(most_load: float = MOST_LOAD) -> str | None:
    """Why this machine is not idle: strangers on its cores or GPUs; None where it is."""
    load = cpu_load()
    if load is not None and load > most_load:
        return f"{100 * load:.0f} % of its cores are busy with other work"
    users = _gpu_processes()
    return f"{users} other process{'es' * (users > 1)} compute on its GPUs" if users else None


def cpu_load() -> float | None:
    """The share of all cores that others keep busy while this process sleeps; None where /proc does not say."""

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
    """How many processes compute on any of this machine's GPUs; 0 where nobody can say."""
    try:
        import pynvml  # the module of nvidia-ml-py

        pynvml.nvmlInit()
        gpus = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return sum(len(pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)) for gpu in gpus)
    except Exception:  # no NVIDIA driver: no GPU that anybody could compute on
        return 0


@contextlib.contextmanager
def _held(exclusive: bool, seconds: float | None, stop: threading.Event | None = None) -> Iterator[None]:
    """The machine's lock, shared or not; the kernel frees it when its owner dies. Where there is none, nothing."""
    try:
        import fcntl

        handle = os.open(_path(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except (ImportError, OSError):  # no such locks, or no folder for one: a courtesy between sweeps, not a claim
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o666)  # whatever the umask: other users' runs count too
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise Busy("a run of this tool trains on this machine") from None
            if stop is not None and stop.wait(LOOK_SECONDS):
                raise KeyboardInterrupt
            if stop is None:
                time.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(handle)
