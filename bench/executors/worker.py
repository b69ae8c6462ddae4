"""What a machine does with a task. Example: work(task, {"OMP_NUM_THREADS": "2"}, report)

The same for every executor: check that this machine runs the driver's code, use its own store and data where the
driver's are out of sight, run the function in a child process, and return what it wrote if no disk is shared.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import Busy, NotIdle
from bench.core.events import DeviceFound, Event, Numbered, Report, is_frequent
from bench.core.files import cache_dir
from bench.executors.child import GRACE_SECONDS, Outcome, call
from bench.executors.protocol import REFUSED, UNFIT, Answer, Device, Task
from bench.machine import host
from bench.machine.identity import Identity, differences, identity
from bench.plan.spec import content_id

RETURNED = ("runs", "speed")  # folders of a store; checkpoints and locks stay on the worker
LOOK_SECONDS = 300.0  # importing torch from a cold network disk takes minutes
KEPT_SECONDS = 30 * 86400.0  # results stay on a worker that long, in case the driver dies before it has them
NumberedReport = Callable[[Event | Numbered], None]


def work(
    task: Task, environment: Mapping[str, str], on_event: NumberedReport, stop: threading.Event | None = None
) -> Answer:
    """Carry out a task here. `on_event` gets its events as they come, the ones that matter with a number.

    The numbered ones are in the answer, too, so that the driver takes each exactly once. Raises only KeyboardInterrupt,
    after `stop` or Ctrl-C. On a far machine, a process may carry out one task at a time.
    """
    where, kept = platform.node(), list[Event]()
    if task.folder is not None and task.folder.is_dir():
        os.chdir(task.folder)  # so that relative paths of data and models mean what they mean to the driver
    if task.expected is not None and (wrong := differences(task.expected, identity())):
        return Answer(Outcome(UNFIT, f"{where} has {'; '.join(wrong)}"), where)

    def number(event: Event) -> None:
        if is_frequent(event):
            on_event(event)
        else:
            kept.append(event)
            on_event(Numbered(len(kept) - 1, event))

    root = own_root(task)
    args = tuple(root if isinstance(arg, Path) and arg == task.root else arg for arg in task.args)
    try:
        with _claimed_host(task, stop):
            outcome = call(task.function, args, number, task.timeout, task.grace, stop, environment)
    except host.Over as over:
        return Answer(Outcome("busy", str(over)), where)
    except Busy as busy:
        return Answer(Outcome(REFUSED, f"{where}: {busy}"), where)
    files = files_to_return(root) if root is not None and root != task.root else ()
    return Answer(outcome, where, tuple(kept), files)


def call_alone(
    function: Callable[..., None] | str,
    args: tuple[Any, ...],
    on_event: Report,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> Outcome:
    """As child.call, while no run of this tool trains on this machine. Raises NotIdle.

    `busy`: another session was timing here and has ended.
    """
    try:
        with host.alone():
            return call(function, args, on_event, timeout, grace)
    except host.Over as over:
        return Outcome("busy", str(over))
    except Busy as busy:
        raise NotIdle(not_idle(str(busy))) from None


def not_idle(why: str) -> str:
    """The message of a session that found no idle machine."""
    return f"nothing is timed beside other work: {why}; rerun the same command once that has ended"


@contextlib.contextmanager
def _claimed_host(task: Task, stop: threading.Event | None) -> Iterator[None]:
    """Room on this machine for one run, or all of it, if it is idle. Raises Busy."""
    if not task.whole_host:
        with host.at_work(stop):
            yield
        return
    with host.alone():
        if task.expected is not None and (why := host.busy()):
            raise Busy(why)
        yield


def own_root(task: Task) -> Path | None:
    """The driver's store if this machine sees it, else a folder in this user's cache for this task alone."""
    if task.root is None:
        return None
    if task.expected is None or (task.root / task.marker).is_file():
        return task.root
    folder = cluster_dir()
    _forget_old(folder)
    return folder / content_id([task.driver_host, str(task.root), task.expected.code]) / task.name


def cluster_dir() -> Path:
    """Where this user's results wait on a machine whose disk the driver does not see."""
    return cache_dir() / "cluster"


def _forget_old(folder: Path) -> None:
    for store in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            if time.time() - store.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(store, ignore_errors=True)


def files_to_return(root: Path) -> tuple[tuple[str, bytes], ...]:
    """(path within the store, content) of all results in a worker's own store; a record follows what it describes."""
    paths = [
        path
        for folder in RETURNED
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts and not path.name.startswith(".")
    ]
    paths.sort(key=lambda path: path.name == "record.json")
    return tuple((path.relative_to(root).as_posix(), path.read_bytes()) for path in paths)


@dataclass(frozen=True)
class Look:
    """A machine's devices, or what is wrong with it, as it reports itself."""

    where: str
    wrong: str = ""
    devices: tuple[Device, ...] = ()


def look(expected: Identity, asked: str | None, node: str, name: str) -> Look:
    """Check that this machine runs the driver's code, and list its devices of the kind asked for (see --device).

    `node` and `name` are the executor's names for it: unique, and for people.
    """
    where = platform.node()
    if wrong := differences(expected, identity()):
        return Look(where, f"{where} has {'; '.join(wrong)}")
    rows: list[Event] = []
    outcome = call("bench.measure.device:child_devices", (asked,), rows.append, LOOK_SECONDS)
    devices = tuple(as_device(row, node, name) for row in rows if isinstance(row, DeviceFound))
    if outcome.status != "ok" or not devices:
        return Look(where, f"{where}: {outcome.message or 'no device was found'}")
    return Look(where, devices=devices)


def as_device(row: DeviceFound, node: str, name: str) -> Device:
    """A Device from the event of bench.measure.device."""
    return Device(
        name=name if row.index is None else f"{name} {row.type}:{row.index}",
        node=node,
        type=row.type,
        kind=row.kind,
        native_bf16=row.native_bf16,
        threads=row.threads,
        environment=() if row.visible is None else (("CUDA_VISIBLE_DEVICES", row.visible),),
        note=row.note,
    )
