"""What runs within a job of SLURM, or of submitit's stand-ins for it. Example: executor.submit(Job(task, (), files))

The task goes on in a thread, with a child process; the main thread waits, so that signals are heard in it. Preemption
and the near end of the time limit arrive as USR2, for which submitit calls `checkpoint`: the child saves and ends, the
job is requeued under its number, and goes on from what is in the store. Its events and its answer are JSON, in files
beside submitit's: the driver executes nothing that it finds in a folder.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from bench.core.files import inert, write_atomically
from bench.executors.child import FREQUENT, GRACE_SECONDS, Outcome
from bench.executors.protocol import Answer, Device, Task
from bench.executors.worker import Look, look, work
from bench.machine.identity import Identity

WAIT_SECONDS = 0.1  # between two looks of the main thread
EVERY_SECONDS = 5.0  # between two reports of steps: they pass through a disk that many share
SAVE_SECONDS = 2 * GRACE_SECONDS + 10  # for a child to save and end, and be ended where it does not
KILL_SECONDS = 60.0  # from SLURM's SIGTERM to its SIGKILL (KillWait, 30 s unless a site says otherwise)
LAST_TIME = "it was requeued as often as --retries allows"
Variables = tuple[tuple[str, str | None], ...]  # of a process; None takes one away


class Finished(Exception):
    """Nothing is left that could be saved: the answer is there."""


@dataclass(frozen=True)
class Files:
    """Where a job writes, under a name of its own: numbers of jobs come again."""

    folder: Path  # submitit's, on a disk that the job and the driver share
    token: str

    @property
    def events(self) -> Path:
        """A line an event, as they come; there before the job is: who sees it sees the driver's disk."""
        return self.folder / f"{self.token}.events"

    @property
    def answer(self) -> Path:
        """Written once, at the end."""
        return self.folder / f"{self.token}.answer"


@dataclass
class Job:
    """A task as submitit's callable. `patient`: whoever ends this process decides whether it is requeued."""

    task: Task
    environment: tuple[tuple[str, str], ...]  # of the child
    files: Files
    variables: Variables = ()  # of this process
    patient: bool = True

    def __post_init__(self) -> None:
        self._working: _Working | None = None

    def __call__(self) -> str:
        """Carry the task out; the status of its answer. Raises SystemExit where it was ended before its end."""
        import submitit
        from submitit.core.utils import UncompletedJobError

        environment = submitit.JobEnvironment()
        own_process = environment.cluster != "debug"  # whose signals are the driver's
        surround(self.variables)
        with event_log(self.files.events) as log:
            working = _Working(self.task, self.environment, log)
            if own_process:
                signal.signal(signal.SIGTERM, lambda number, frame: working.stop.set())
            working.start()
            self._working = working
            try:
                working.wait(math.inf)
                if self.patient and own_process and working.interrupted:
                    _wait_for_the_end()
            except Finished:
                pass
            except UncompletedJobError:  # raised by submitit after `checkpoint`, instead of requeueing once more
                working.answer = Answer(Outcome("timeout", f"its job's time limit is over, and {LAST_TIME}"))
            except KeyboardInterrupt:
                working.stop.set()
                working.wait(SAVE_SECONDS)
                raise
            if own_process:  # from here on the answer is being written, and nothing may come in between
                signal.signal(getattr(signal, f"SIG{environment.USR_SIG}"), signal.SIG_IGN)
            answer = log.completed(working.result())
        write_answer(self.files.answer, answer)
        return answer.outcome.status

    def checkpoint(self) -> Any:
        """Called by submitit in its signal handler: save, and say how to go on. Raises Finished into `__call__`."""
        from submitit.helpers import DelayedSubmission

        if self._working is not None and self._working.answer is None:
            self._working.stop.set()
            self._working.wait(SAVE_SECONDS)
        elif self._working is not None and not self._working.interrupted:
            raise Finished
        return DelayedSubmission(replace(self))


class _Working(threading.Thread):
    """The task's thread. A daemon: a process that exits takes it, and its child, along."""

    def __init__(self, task: Task, environment: tuple[tuple[str, str], ...], log: EventLog) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.answer: Answer | None = None
        self._task, self._environment, self._log = task, dict(environment), log

    def run(self) -> None:
        # SLURM may signal a job's whole tree; blocked here, these are in the child too, which is asked by SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
        try:
            self.answer = work(self._task, self._environment, self._log, self.stop)
        except KeyboardInterrupt:
            self.answer = Answer(Outcome("interrupted", "stopped by the user"))
        except BaseException as error:  # a fault of ours, or a full disk
            self.answer = Answer(Outcome("failed", inert(f"{type(error).__name__}: {error}"), traceback.format_exc()))

    def wait(self, seconds: float) -> None:
        """For its answer, at most so long.

        A `join` that an exception ends takes the thread for dead (Python 3.11), and handlers of signals, which may come
        in between, raise some and wait themselves, so that no lock may be held either.
        """
        deadline = time.monotonic() + seconds
        while self.answer is None and time.monotonic() < deadline:
            time.sleep(WAIT_SECONDS)

    @property
    def interrupted(self) -> bool:
        """Whether it is over, and not by itself."""
        return self.answer is not None and self.answer.outcome.status == "interrupted"

    def result(self) -> Answer:
        """Once it is over."""
        assert self.answer is not None
        return self.answer


def _wait_for_the_end() -> None:
    """After SIGTERM, and with all saved: whether the job was cancelled or is to go on elsewhere, SLURM knows.

    The end is a signal: USR2, by which submitit requeues it, or SIGKILL. Raises SystemExit where neither comes.
    """
    time.sleep(KILL_SECONDS)
    raise SystemExit("ended by SIGTERM; what was done is saved")


def look_here(files: Files, variables: Variables, expected: Identity, asked: str | None, node: str, name: str) -> None:
    """worker.look, for a job."""
    surround(variables)
    write_atomically(files.answer, _as_json(asdict(look(expected, asked, node, name))))


def surround(variables: Variables) -> None:
    """Give this process variables, or take them away."""
    for name, value in variables:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# --- answers and events, by way of files ----------------------------------------------------------------------------


def _as_json(found: Any) -> bytes:
    """Of what may hold numbers of numpy's, which say what they are by `item`."""
    return json.dumps(found, default=lambda x: x.item() if hasattr(x, "item") else str(x)).encode()


def write_answer(path: Path, answer: Answer) -> None:
    """Atomically, with the content of its files."""
    files = [(name, base64.b64encode(content).decode()) for name, content in answer.files]
    write_atomically(path, _as_json({**asdict(replace(answer, files=())), "files": files}))


def read_answer(path: Path) -> Answer:
    """Raises OSError, and ValueError, KeyError or TypeError for what is none."""
    found = json.loads(path.read_bytes())
    files = tuple((str(name), base64.b64decode(content)) for name, content in found["files"])
    return Answer(Outcome(**found["outcome"]), str(found["where"]), tuple(found["events"]), files)


def read_look(path: Path) -> Look:
    """Raises as read_answer does."""
    found = json.loads(path.read_bytes())
    devices = [{**row, "environment": tuple(map(tuple, row["environment"]))} for row in found["devices"]]
    return Look(found["where"], found["wrong"], tuple(Device(**row) for row in devices))


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """What was written from `offset` on, in whole lines, and how far that is; nothing where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return [], offset
    found = []
    for line in lines:
        if not line.endswith(b"\n"):
            break
        offset += len(line)
        with contextlib.suppress(ValueError):  # a job that was killed may leave half a line
            if isinstance(event := json.loads(line), dict) and "event" in event:
                found.append(event)
    return found, offset


class EventLog:
    """Writes a job's events, those of all its starts: their numbers go on where the start before was ended."""

    def __init__(self, file: BinaryIO, earlier: tuple[dict[str, Any], ...]) -> None:
        self._file, self._earlier, self._last = file, earlier, 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] in FREQUENT:
            if time.monotonic() - self._last < EVERY_SECONDS:
                return
            self._last = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: events may be lost
            self._file.write(_as_json(self._renumbered(event)) + b"\n")

    def completed(self, answer: Answer) -> Answer:
        """With the events of earlier starts, and SLURM's name for this machine."""
        events = (*self._earlier, *map(self._renumbered, answer.events))
        return replace(answer, events=events, where=os.environ.get("SLURMD_NODENAME") or answer.where)

    def _renumbered(self, event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "n": event["n"] + len(self._earlier)} if "n" in event else event


@contextlib.contextmanager
def event_log(path: Path) -> Iterator[EventLog]:
    """To go on with a file, which may end in half a line."""
    earlier = tuple(event for event in read_events(path)[0] if "n" in event)
    with path.open("ab", buffering=0) as file:
        if file.tell():
            file.write(b"\n")
        yield EventLog(file, earlier)
