"""What a sweep and an engine say to each other. Example: engine.start([(1, task, device)]); engine.events(0.5)

An engine knows devices and carries tasks to them; which task goes where, what is tried again and what becomes of an
answer is decided by bench/drive/board.py. Light: workers of an engine import this, and torch is for their child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.executors.child import GRACE_SECONDS, Outcome
from bench.machine.identity import Identity

# How a task can end beside the statuses of a run (schema.STATUSES): the machine was lost with it; the machine is not
# what the driver is (code, versions, data); a session found no idle host.
LOST, UNFIT, REFUSED = "lost", "unfit", "refused"


@dataclass(frozen=True)
class Device:
    """A GPU, or all cores of a node, on which `seats` runs may train at once."""

    name: str  # for people, and unique: "node-2 cuda:0"
    node: str  # unique for each machine of the engine
    type: str  # cpu | cuda
    kind: str  # its own name, which decides what speeds may be compared; "": only the run will tell
    native_bf16: bool
    threads: int  # of torch, for a run that has the device to itself (CPU)
    seats: int = 1
    environment: tuple[tuple[str, str], ...] = ()  # variables by which a process on the node finds it
    apart: bool = False  # a queue: every seat becomes a job with a device of its own, and nothing is shared

    @property
    def beside(self) -> int:
        """How many runs may train at once on one and the same piece of hardware."""
        return 1 if self.apart else self.seats


@dataclass(frozen=True)
class Task:
    """One call in a child process, wherever that is.

    Where `root`, the driver's store, is among `args`, a worker that does not see it puts its own there.
    `share`: a whole device is 1, an accuracy run beside others less. `whole_host`: nothing else on the machine.
    """

    name: str  # a run's or a trial's; names its folder where no disk is shared
    function: str  # module:function, looked up in the child: whoever hands it on needs no torch
    args: tuple[Any, ...]
    root: Path | None = None
    mark: str = ""  # of the driver's store: who sees this file there sees the same disk
    home: str = ""  # the driver's machine
    folder: Path | None = None  # the driver's, for far machines that have it, too
    expected: Identity | None = None  # None: the driver's own machine
    share: float = 1.0
    whole_host: bool = False
    timeout: float | None = None
    grace: float = GRACE_SECONDS
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """How a task ended, and all that must not be lost on the way: its events but for steps, and files for the store."""

    outcome: Outcome
    where: str = ""
    events: tuple[dict[str, Any], ...] = ()
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)  # (path within the store, content)

    def event(self, kind: str) -> dict[str, Any] | None:
        """The last one of its kind, if there was one."""
        return next((e for e in reversed(self.events) if e["event"] == kind), None)


Heard = tuple[int, dict[str, Any] | Answer]  # a ticket's event, or its end


class Engine(Protocol):
    """Where tasks are carried out. Used by one thread."""

    far: bool  # whether its devices may be others' machines: checked, of several kinds, out of the driver's sight

    @property
    def looking(self) -> bool:
        """Whether a machine that is there has not yet said what it is."""

    def devices(self) -> list[Device]:
        """Those that are fit for work now; others may come and go. Raises UserError where there can be none."""

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Begin tasks under tickets, in this order; every ticket is answered once."""

    def events(self, seconds: float) -> list[Heard]:
        """What was heard since, at once where there is something, else after at most so many seconds.

        Events may be lost, an answer is not.
        """

    def stop(self) -> None:
        """Ask everything that runs to save and end; the answers still come."""

    def close(self) -> None:
        """Leave nothing of one's own behind."""


def reference(function: Callable[..., None]) -> str:
    """A function as a Task names it."""
    return f"{function.__module__}:{function.__qualname__}"


def variables(task: Task, device: Device) -> Mapping[str, str]:
    """Of the task's process: the device's, and its own."""
    return {**dict(device.environment), **dict(task.environment)}
