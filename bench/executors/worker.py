"""What a machine does with a task. Example: answer = work(task, variables(task, device), report)

The same for every engine: make sure that this machine runs what the driver runs, put its own store and data in their
place, run the function in a child process, bring home what it wrote where the driver does not see this disk.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import Busy, NotIdle
from bench.core.files import cache_dir
from bench.executors.child import FREQUENT, GRACE_SECONDS, Outcome, call
from bench.executors.protocol import REFUSED, UNFIT, Answer, Device, Task
from bench.machine import host
from bench.machine.identity import Identity, differences, identity
from bench.plan.spec import content_id

BROUGHT_HOME = ("runs", "speed")  # folders of a store; what a worker keeps for itself are checkpoints and locks
LOOK_SECONDS = 300.0  # importing torch from a cold network disk takes minutes
KEPT_SECONDS = 30 * 86400.0  # results stay on a worker for as long, should the driver die before it has them
Report = Callable[[dict[str, Any]], None]


def work(task: Task, environment: Mapping[str, str], report: Report, stop: threading.Event | None = None) -> Answer:
    """Carry a task out here and now. `report` hears its events as they come; those that matter are in the answer, too.

    Those have a number, `n`, so that nobody takes them twice. Raises nothing but KeyboardInterrupt, after `stop` or
    Ctrl-C; on a far machine, one task at a time is all that a process may do.
    """
    where, kept = platform.node(), list[dict[str, Any]]()
    if task.folder is not None and task.folder.is_dir():
        os.chdir(task.folder)  # relative names of files of data and models mean here what they mean there
    if task.expected is not None and (wrong := differences(task.expected, identity())):
        return Answer(Outcome(UNFIT, f"{where} has {'; '.join(wrong)}"), where)

    def hear(event: dict[str, Any]) -> None:
        if event["event"] not in FREQUENT:
            event = {**event, "n": len(kept)}
            kept.append(event)
        report(event)

    root = own_root(task)
    args = tuple(root if isinstance(arg, Path) and arg == task.root else arg for arg in task.args)
    try:
        with _place(task, stop):
            outcome = call(task.function, args, hear, task.timeout, task.grace, stop, environment)
    except host.Over as over:
        return Answer(Outcome("busy", str(over)), where)
    except Busy as busy:
        return Answer(Outcome(REFUSED, f"{where}: {busy}"), where)
    files = brought_home(root) if root is not None and root != task.root else ()
    return Answer(outcome, where, tuple(kept), files)


def call_alone(
    function: Callable[..., None],
    args: tuple[Any, ...],
    on_event: Report,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> Outcome:
    """As local.call, with no run of this tool beside on this machine. Raises NotIdle.

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
    """The sentence for a session that found no idle machine."""
    return f"nothing is timed beside other work: {why}; the same command times once that has ended"


@contextlib.contextmanager
def _place(task: Task, stop: threading.Event | None) -> Any:
    """Room on this machine for one run, or all of it, which on somebody else's is looked at first. Raises Busy."""
    if not task.whole_host:
        with host.at_work(stop):
            yield
        return
    with host.alone():
        if task.expected is not None and (why := host.busy()):
            raise Busy(why)
        yield


def own_root(task: Task) -> Path | None:
    """The driver's store where this machine sees it, else a folder of this user's that is the task's alone."""
    if task.root is None:
        return None
    if task.expected is None or (task.root / task.mark).is_file():
        return task.root
    folder = cluster_dir()
    _forget_old(folder)
    return folder / content_id([task.home, str(task.root), task.expected.code]) / task.name


def cluster_dir() -> Path:
    """Where this user's results wait on a machine whose disk the driver does not see."""
    return cache_dir() / "cluster"


def _forget_old(folder: Path) -> None:
    for store in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            if time.time() - store.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(store, ignore_errors=True)


def brought_home(root: Path) -> tuple[tuple[str, bytes], ...]:
    """(path within the store, content) of all results in a worker's own store; a record after what it vouches for."""
    paths = [
        path
        for folder in BROUGHT_HOME
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts and not path.name.startswith(".")
    ]
    paths.sort(key=lambda path: path.name == "record.json")
    return tuple((path.relative_to(root).as_posix(), path.read_bytes()) for path in paths)


@dataclass(frozen=True)
class Look:
    """What a machine is, as it says itself: its devices, or what is wrong with it."""

    where: str
    wrong: str = ""
    devices: tuple[Device, ...] = ()


def look(expected: Identity, asked: str | None, node: str, name: str) -> Look:
    """See whether this machine runs what the driver runs, and which devices of the kind that was asked for it has.

    `node` and `name` are the engine's words for it, unique and for people.
    """
    where = platform.node()
    if wrong := differences(expected, identity()):
        return Look(where, f"{where} has {'; '.join(wrong)}")
    found: list[dict[str, Any]] = []
    outcome = call("bench.machine.devices:child_look", (asked,), found.append, LOOK_SECONDS)
    if outcome.status != "ok" or not found:
        return Look(where, f"{where}: {outcome.message or 'no device was found'}")
    return Look(where, devices=tuple(as_device(row, node, name) for row in found if row["event"] == "device"))


def as_device(row: dict[str, Any], node: str, name: str) -> Device:
    """A Device from an event of devices.child_look."""
    index, kind = row["index"], row["type"]
    return Device(
        name=name if index is None else f"{name} {kind}:{index}",
        node=node,
        type=kind,
        kind=row["kind"],
        native_bf16=row["native_bf16"],
        threads=row["threads"],
        environment=() if row["visible"] is None else (("CUDA_VISIBLE_DEVICES", row["visible"]),),
    )
