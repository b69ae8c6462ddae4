"""What runs inside a job of SLURM, or of submitit's stand-ins for it. Example: Job(task, (), files)

The task runs in a thread, with a child process; the main thread waits, so that it can handle signals. Preemption and
the approaching time limit arrive as USR2, for which submitit calls `checkpoint`: the child saves and ends, the job is
requeued under its number, and resumes from what is in the store. Events and the answer are JSON files beside
submitit's: the driver executes nothing that it finds in a folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from bench.core.events import Event, Numbered, decode, encode, is_frequent
from bench.core.files import inert, write_atomically
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.executors.processes import set_variables, spawn_only
from bench.executors.protocol import Answer, Task
from bench.executors.worker import Look, look, work
from bench.machine.identity import Identity

WAIT_SECONDS = 0.1  # between two looks of the main thread
FREQUENT_SECONDS = 5.0  # between two frequent events: they pass through a disk that many share
SAVE_SECONDS = 2 * GRACE_SECONDS + 10  # for a child to save and end, or to be ended
KILL_SECONDS = 60.0  # from SLURM's SIGTERM to its SIGKILL (KillWait, 30 s unless a site says otherwise)
Variables = Mapping[str, str | None]  # of a process; None removes one


class Finished(Exception):
    """There is an answer, and nothing left to save."""


@dataclass(frozen=True)
class Files:
    """Where a job writes, under a name of its own, since job numbers repeat."""

    folder: Path  # submitit's, on a disk that the job and the driver share
    token: str

    @property
    def events(self) -> Path:
        """One line per event. It exists before the job does: a node that sees it shares the driver's disk."""
        return self.folder / f"{self.token}.events"

    @property
    def answer(self) -> Path:
        """Written once, at the end."""
        return self.folder / f"{self.token}.answer"


@dataclass
class Job:
    """A task as submitit's callable. `patient`: whoever ends this process decides whether it is requeued."""

    task: Task
    environment: Mapping[str, str]  # of the child
    files: Files
    variables: Variables = field(default_factory=dict)  # of this process
    patient: bool = True

    def __post_init__(self) -> None:
        self._working: _Working | None = None

    def __call__(self) -> str:
        """Carry out the task and return the status of its answer. Raises SystemExit if it was ended before that."""
        import submitit
        from submitit.core.utils import UncompletedJobError

        environment = submitit.JobEnvironment()
        own_process = environment.cluster != "debug"  # there, signals are the driver's
        set_variables(self.variables)
        with event_log(self.files.events) as log:
            working = _Working(self.task, self.environment, log)
            if own_process:
                spawn_only()
                signal.signal(signal.SIGTERM, lambda number, frame: working.stop.set())
            working.start()
            self._working = working
            try:
                working.wait(math.inf)
                if self.patient and own_process and working.interrupted:
                    _wait_for_the_end()
            except Finished:
                pass
            except UncompletedJobError:  # raised by submitit after `checkpoint`, instead of requeueing again
                reason = "its job's time limit is over, and it was requeued as often as --retries allows"
                working.answer = Answer(Outcome("timeout", reason))
            except KeyboardInterrupt:
                working.stop.set()
                working.wait(SAVE_SECONDS)
                raise
            if own_process:  # from here on the answer is being written, and must not be interrupted
                signal.signal(getattr(signal, f"SIG{environment.USR_SIG}"), signal.SIG_IGN)
            answer = log.completed(working.result())
        write_answer(self.files.answer, answer)
        return answer.outcome.status

    def checkpoint(self) -> Any:
        """Called by submitit's signal handler: save, and return how to go on. Raises Finished into `__call__`."""
        from submitit.helpers import DelayedSubmission

        if self._working is not None and self._working.answer is None:
            self._working.stop.set()
            self._working.wait(SAVE_SECONDS)
        elif self._working is not None and not self._working.interrupted:
            raise Finished
        return DelayedSubmission(replace(self))


class _Working(threading.Thread):
    """The task's thread. A daemon: a process that exits takes it, and its child, along."""

    def __init__(self, task: Task, environment: Mapping[str, str], log: EventLog) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.answer: Answer | None = None
        self._task, self._environment, self._log = task, environment, log

    def run(self) -> None:
        # SLURM may signal a job's whole tree; blocked here, these are blocked in the child too, which SIGTERM stops
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
        try:
            self.answer = work(self._task, self._environment, self._log, self.stop)
        except KeyboardInterrupt:
            self.answer = Answer(Outcome("interrupted", "stopped by the user"))
        except BaseException as error:  # a bug of ours, or a full disk
            self.answer = Answer(Outcome("failed", inert(f"{type(error).__name__}: {error}"), traceback.format_exc()))

    def wait(self, seconds: float) -> None:
        """For its answer, at most `seconds`.

        Not `join`, which takes the thread for ended once an exception ends it (Python 3.11), and without a lock, since
        a signal handler may raise or wait itself at any point.
        """
        deadline = time.monotonic() + seconds
        while self.answer is None and time.monotonic() < deadline:
            time.sleep(WAIT_SECONDS)

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return self.answer is not None and self.answer.outcome.status == "interrupted"

    def result(self) -> Answer:
        """Its answer, once it has one."""
        assert self.answer is not None
        return self.answer


def _wait_for_the_end() -> None:
    """After SIGTERM, with all saved: only SLURM knows whether the job was cancelled or is to go on elsewhere.

    The end is a signal: USR2, by which submitit requeues it, or SIGKILL. Raises SystemExit if neither comes.
    """
    time.sleep(KILL_SECONDS)
    raise SystemExit("ended by SIGTERM; what was done is saved")


def look_here(files: Files, variables: Variables, expected: Identity, asked: str | None, node: str, name: str) -> None:
    """worker.look, for a job."""
    spawn_only()
    set_variables(variables)
    write_atomically(files.answer, msgspec.json.encode(look(expected, asked, node, name)))


# --- answers and events, as files ------------------------------------------------------------------------------------


def write_answer(path: Path, answer: Answer) -> None:
    """Atomically, with the content of its files."""
    write_atomically(path, msgspec.json.encode(answer))


def read_answer(path: Path) -> Answer:
    """Raises OSError, and ValueError for a file that holds no answer."""
    return msgspec.json.decode(path.read_bytes(), type=Answer)


def read_look(path: Path) -> Look:
    """Raises as read_answer does."""
    return msgspec.json.decode(path.read_bytes(), type=Look)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event | Numbered], int]:
    """The events of all whole lines from `offset` on, and where the next line starts; none if there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return [], offset
    events: list[Event | Numbered] = []
    for line in lines:
        if not line.endswith(b"\n"):
            break
        offset += len(line)
        with contextlib.suppress(ValueError):  # a job that was killed may leave half a line
            events.append(decode(line))
    return events, offset


class EventLog:
    """Writes a job's events. After a requeue their numbers go on where those of the start before ended."""

    def __init__(self, file: BinaryIO, earlier: tuple[Event, ...]) -> None:
        self._file, self._earlier, self._last = file, earlier, 0.0

    def __call__(self, event: Event | Numbered) -> None:
        if is_frequent(event):
            if time.monotonic() - self._last < FREQUENT_SECONDS:
                return
            self._last = time.monotonic()
        if isinstance(event, Numbered):
            event = Numbered(event.n + len(self._earlier), event.event)
        with contextlib.suppress(OSError):  # a full disk: events may be lost
            self._file.write(encode(event) + b"\n")

    def completed(self, answer: Answer) -> Answer:
        """The answer with the events of earlier starts, and SLURM's name for this machine."""
        where = os.environ.get("SLURMD_NODENAME") or answer.where
        return replace(answer, events=(*self._earlier, *answer.events), where=where)


@contextlib.contextmanager
def event_log(path: Path) -> Iterator[EventLog]:
    """Continue a file, which may end in half a line."""
    earlier = tuple(event.event for event in read_events(path)[0] if isinstance(event, Numbered))
    with path.open("ab", buffering=0) as file:
        if file.tell():
            file.write(b"\n")
        yield EventLog(file, earlier)
