"""What the driver and an executor say to each other. Example: executor.start([(1, task, device)])

An executor knows devices and carries tasks to them. Which task goes where, what is retried and what an answer means is
decided by bench/drive/board.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench.core.events import Event, Numbered
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.machine.identity import Identity

# How a task can end beside the statuses of bench.core.status: its machine was lost; its machine differs from the
# driver's (code, versions, data); a session found no idle host.
LOST, UNFIT, REFUSED = "lost", "unfit", "refused"
E = TypeVar("E")


@dataclass(frozen=True)
class Device:
    """A GPU, or all cores of a node, on which `seats` runs may train at once."""

    name: str  # for people, and unique: "node-2 cuda:0"
    node: str  # unique for each machine of the executor
    type: str  # cpu | cuda
    kind: str  # its model name, which decides which speeds may be compared; "": only the run will tell
    native_bf16: bool
    threads: int  # of torch, for a run that has the device to itself (CPU)
    seats: int = 1
    environment: tuple[tuple[str, str], ...] = ()  # variables by which a process on the node finds it
    queued: bool = False  # a queue: every seat becomes a job with a device of its own, and nothing is shared
    note: str = ""  # a sentence for the user before anything long begins

    @property
    def runs_at_once(self) -> int:
        """How many runs may share one piece of hardware."""
        return 1 if self.queued else self.seats


@dataclass(frozen=True)
class Task:
    """One call in a child process, on whatever machine.

    If `root`, the driver's store, is among `args`, a worker that does not see it puts a folder of its own there.
    `share`: 1 for a whole device, less for a run that shares it. `whole_host`: nothing else may run on the machine.
    """

    name: str  # a run's or a trial's; names its folder if no disk is shared
    function: str  # "module:function", imported in the child only
    args: tuple[Any, ...]
    root: Path | None = None
    marker: str = ""  # a file in `root`: a machine that sees it shares the driver's disk
    driver_host: str = ""
    folder: Path | None = None  # the driver's working directory, entered by machines that have it, too
    expected: Identity | None = None  # what the machine must run; None: it is the driver's own machine
    share: float = 1.0
    whole_host: bool = False
    timeout: float | None = None
    grace: float = GRACE_SECONDS
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """How a task ended.

    `events`: all but the frequent ones, in order; a Numbered's n is its place here. `files`: (path within the store,
    content) of what the driver's disk lacks.
    """

    outcome: Outcome
    where: str = ""
    events: tuple[Event, ...] = ()
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    def event(self, kind: type[E]) -> E | None:
        """The last one of its kind, if any."""
        return next((event for event in reversed(self.events) if isinstance(event, kind)), None)


Message = tuple[int, Event | Numbered | Answer]  # a ticket's event, or its end


class Executor(Protocol):
    """Where tasks run. Used by one thread."""

    remote: bool  # whether its devices may be of other machines: to be checked, of several kinds, on other disks

    @property
    def looking(self) -> bool:
        """Whether a machine has not yet reported what it is."""

    def devices(self) -> list[Device]:
        """The devices ready for work; others may come and go. Raises UserError if there can be none."""

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Start tasks under tickets, in this order; every ticket gets one answer."""

    def events(self, seconds: float) -> list[Message]:
        """The messages since the last call: at once if there are any, else after at most `seconds`.

        Events may be lost, answers are not.
        """

    def stop(self) -> None:
        """Ask everything that runs to save and end; the answers still come."""

    def close(self) -> None:
        """Leave nothing behind."""


def variables(task: Task, device: Device) -> Mapping[str, str]:
    """Environment variables of the task's process: the device's, and its own."""
    return {**dict(device.environment), **dict(task.environment)}
