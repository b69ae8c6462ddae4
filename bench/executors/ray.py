"""A Ray cluster as an executor: one Ray task per run, in a child process. Example: RayExecutor("auto", None, 1, …)

The board decides which device a task gets. Ray carries it there and keeps account of CPUs and GPUs, so that drivers
sharing a cluster do not share a device. Events come back through an actor beside the driver, answers as results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.events import Event, Numbered, is_frequent
from bench.core.files import inert
from bench.executors.child import Outcome
from bench.executors.protocol import LOST, REFUSED, Answer, Device, Message, Task, variables
from bench.executors.worker import Look, look, work
from bench.machine.identity import Identity

NODES_SECONDS = 2.0  # between two readings of the list of nodes
FREQUENT_SECONDS = 2.0  # between two frequent events of one run: a cluster has many runs
ROOM_SECONDS = 30.0  # for others' tasks to leave a host that a session needs to itself
CONNECT_SECONDS = 10.0  # for an address to accept a connection
PATIENCE_SECONDS = 120.0  # after the last usable node was lost: clusters add nodes again
SILENT = {  # defaults, which the user's environment overrides
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # a run's own line reports a node that died
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour from Ray 2.60 on; older versions warn if it is not set
}
STOP_SECONDS = 0.2  # between two moments in which a waiting main thread can be interrupted
Say = Callable[[str], None]


@dataclass
class Running:
    """A task that Ray has. `refused`: it was cancelled because Ray did not free the host for it."""

    ticket: int
    device: Device
    refused: bool = False


class RayExecutor:
    """A cluster's devices: every GPU if any node has one, else each node's CPUs as one device."""

    remote = True

    def __init__(self, address: str, asked: str | None, seats: int, expected: Identity, say: Say) -> None:
        """Connect to `address` (auto, HOST:PORT, ray://HOST:PORT); if it is empty, start Ray on this machine.

        `asked`: as --device; None: GPUs if any node has one. `seats`: how many runs may share a device. `say` is told
        which nodes are left out. Raises UserError if Ray is missing, or a cluster is missing or of another version.
        """
        if asked is not None and asked.startswith("cuda:"):
            raise UserError(f"--device {asked} names one machine's GPU, but Ray chooses among many machines: use cuda")
        self._ray = ray = _import()
        _connect(ray, address)
        self._expected, self._seats, self._say = expected, seats, say
        self._alive: dict[str, dict[str, Any]] = {}  # Ray's description of each node
        self._read_at = -math.inf  # when that was read
        self._names: dict[str, str] = {}
        self._looks: dict[Any, str] = {}  # reference to a Look under way -> node
        self._fit: dict[str, tuple[Device, ...]] = {}
        self._wrong: dict[str, str] = {}
        self._none_since: float | None = None
        self._running: dict[Any, Running] = {}  # by the reference to its answer
        self._waiting: dict[int, float] = {}  # tickets that need a whole host and have not started -> deadline
        self._messages: list[Message] = []
        self._read_nodes()
        self._type = asked or ("cuda" if any(map(_gpus, self._alive.values())) else "cpu")
        if asked is None and self._type == "cuda":
            self._say_left_out()
        here = self._pinned(ray.get_runtime_context().get_node_id())
        self._mailbox = ray.remote(num_cpus=0, max_restarts=-1)(Mailbox).options(scheduling_strategy=here).remote()
        self._letters = self._mailbox.take.remote()
        self._carry, self._look = ray.remote(max_retries=0)(carry), ray.remote(max_retries=0)(look_here)

    @property
    def looking(self) -> bool:
        """Whether a node has not yet reported what it is."""
        return bool(self._looks)

    def devices(self) -> list[Device]:
        """The devices of all nodes that have reported and are still there.

        Raises UserError if no node is fit: at once if none ever was, else after PATIENCE_SECONDS.
        """
        if time.monotonic() - self._read_at >= NODES_SECONDS:
            self._read_nodes()
        for node in self._alive.keys() - self._fit.keys() - self._wrong.keys() - set(self._looks.values()):
            self._begin_look(node)
        for reference in _ready(self._ray, list(self._looks), 0):
            self._end_look(reference)
        devices = [device for node in self._alive for device in self._fit.get(node, ())]
        if devices or self._looks:
            self._none_since = None
            return devices
        if self._none_since is None:
            self._none_since = time.monotonic()
        if not self._fit or time.monotonic() - self._none_since >= PATIENCE_SECONDS:
            why = "; ".join(self._wrong[node] for node in self._alive if node in self._wrong)
            raise UserError(f"no node of the Ray cluster is fit for this sweep: {why or 'there is none'}")
        return []

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """One Ray task each, on the device's node."""
        for ticket, task, device in tasks:
            options = {"name": task.name, "scheduling_strategy": self._pinned(device.node), **self._room(task, device)}
            reference = self._carry.options(**options).remote(ticket, task, variables(task, device), self._mailbox)
            self._running[reference] = Running(ticket, device)
            if task.whole_host:
                self._waiting[ticket] = time.monotonic() + ROOM_SECONDS

    def events(self, seconds: float) -> list[Message]:
        """The messages; empty, but at once, if a new node has reported what it is."""
        self._cancel_late()
        for reference in _ready(self._ray, [*self._running, *self._looks, self._letters], seconds):
            if reference in self._running:
                running = self._running[reference]
                self._messages.append((running.ticket, self._answer(reference, running)))
                self._waiting.pop(running.ticket, None)
                del self._running[reference]
            elif reference == self._letters:
                self._read_letters()
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        """Ray raises KeyboardInterrupt where a task runs, which stops its child politely."""
        for reference in self._running:
            self._ray.cancel(reference, force=False, recursive=False)

    def close(self) -> None:
        """Leave the cluster, and with it whatever still runs; end Ray if it was started here."""
        self._ray.shutdown()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _read_nodes(self) -> None:
        self._read_at = time.monotonic()
        self._alive = {row["NodeID"]: row for row in self._ray.nodes() if row["Alive"]}
        for node, row in self._alive.items():
            self._name(node, row["NodeManagerHostname"])

    def _name(self, node: str, hostname: str) -> None:
        """Its host name, with a number if another node has the same."""
        if node not in self._names:
            others = sum(name.partition("#")[0] == hostname for name in self._names.values())
            self._names[node] = f"{hostname}#{others + 1}" if others else hostname

    def _say_left_out(self) -> None:
        without = [self._names[node] for node, row in self._alive.items() if not _gpus(row)]
        if without:
            self._say(f"left out, for lack of a GPU: {', '.join(without)} (--device cpu trains on all CPUs)")

    def _begin_look(self, node: str) -> None:
        """Ask a node what it is, unless it has nothing to offer: a head node often has no CPUs."""
        row, name = self._alive[node], self._names[node]
        if not (_gpus(row) if self._type == "cuda" else _cpus(row)):
            self._wrong[node] = f"Ray has no {'GPU' if self._type == 'cuda' else 'CPUs'} on {name}"
            return
        there = self._look.options(num_cpus=0, scheduling_strategy=self._pinned(node))
        self._looks[there.remote(self._expected, self._type, node, name, _gpus(row))] = node

    def _end_look(self, reference: Any) -> None:
        node = self._looks.pop(reference)
        try:
            result: Look = self._ray.get(reference)
        except Exception as error:
            result = Look(self._names[node], f"{self._names[node]}: {_why(self._ray, error)}")
        if node not in self._alive:
            return
        if result.wrong or not result.devices:
            self._wrong[node] = result.wrong or f"{result.where} has no {self._type} device"
            self._say(f"left out: {self._wrong[node]}")
        else:
            devices = result.devices[: _gpus(self._alive[node]) if self._type == "cuda" else 1]
            self._fit[node] = tuple(map(self._as_ray_has_it, devices))

    def _as_ray_has_it(self, device: Device) -> Device:
        """With the CPUs that Ray gives the node; which GPU a task sees is up to Ray."""
        threads = device.threads
        if device.type == "cpu":
            threads = max(1, min(threads, int(_cpus(self._alive[device.node]))))
        # Ray itself sets OMP_NUM_THREADS to 1 for tasks that reserve no CPU
        return replace(device, seats=self._seats, threads=threads, environment=(("OMP_NUM_THREADS", str(threads)),))

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _pinned(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _room(self, task: Task, device: Device) -> dict[str, float]:
        """What Ray must reserve for a task: a share of its device, or all of the node."""
        row = self._alive.get(device.node, {"Resources": {}})
        if task.whole_host:
            return {"num_cpus": _cpus(row), "num_gpus": _gpus(row)}
        if device.type == "cuda":
            return {"num_cpus": 0, "num_gpus": _in_rays_steps(task.share)}
        return {"num_cpus": _in_rays_steps(task.share * _cpus(row)), "num_gpus": 0}

    def _cancel_late(self) -> None:
        """Cancel tasks that have waited for a whole host longer than ROOM_SECONDS."""
        late = {ticket for ticket, deadline in self._waiting.items() if time.monotonic() >= deadline}
        for reference, running in self._running.items() if late else ():
            if running.ticket in late:
                running.refused = True
                del self._waiting[running.ticket]
                self._ray.cancel(reference, force=False, recursive=False)

    def _read_letters(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # a mailbox that died starts again, empty
            for ticket, event in self._ray.get(self._letters):
                if event is None:
                    self._waiting.pop(ticket, None)
                else:
                    self._messages.append((ticket, event))
        self._letters = self._mailbox.take.remote()

    def _answer(self, reference: Any, running: Running) -> Answer:
        """A task's own, or what became of it."""
        where, errors = running.device.name, self._ray.exceptions
        try:
            answer: Answer = self._ray.get(reference)
            return answer
        except errors.TaskCancelledError:
            if not running.refused:
                return Answer(Outcome("interrupted", "stopped by the user"), where)
            why = f"{where}: other tasks still ran there after {ROOM_SECONDS:g} s, so Ray could not free the whole host"
            return Answer(Outcome(REFUSED, why), where)
        except errors.RayTaskError as error:
            return Answer(Outcome("failed", _why(self._ray, error), str(error)), where)
        except errors.RayError as error:
            return Answer(Outcome(LOST, f"{where}: {_why(self._ray, error)}"), where)


# --- on the nodes ----------------------------------------------------------------------------------------------------

Letter = tuple[int, Event | Numbered | None]  # a ticket's event; None: the task has started


class Mailbox:
    """The actor beside the driver that keeps letters until they are taken."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []
        self._arrived = asyncio.Event()

    async def put(self, ticket: int, event: Event | Numbered | None) -> None:
        """Nobody waits for this."""
        self._letters.append((ticket, event))
        self._arrived.set()

    async def take(self) -> list[Letter]:
        """All letters since the last call, as soon as there are any."""
        await self._arrived.wait()
        letters, self._letters = self._letters, []
        self._arrived.clear()
        return letters


def carry(ticket: int, task: Task, environment: Mapping[str, str], mailbox: Any) -> Answer:
    """What a Ray worker does with a task. Raises KeyboardInterrupt if it was cancelled."""
    put, last = mailbox.put.remote, -math.inf

    def on_event(event: Event | Numbered) -> None:
        nonlocal last
        if is_frequent(event):
            if time.monotonic() - last < FREQUENT_SECONDS:
                return
            last = time.monotonic()
        put(ticket, event)

    put(ticket, None)
    _forget_main()
    return _interruptible(lambda stop: work(task, environment, on_event, stop))


def look_here(expected: Identity, asked: str, node: str, name: str, gpus: int) -> Look:
    """What a Ray worker reports of its node: the threads and GPUs that any process of the node would find."""
    _forget_main()
    if "OMP_NUM_THREADS" not in _first_environment():
        os.environ.pop("OMP_NUM_THREADS", None)  # set by Ray, for a task that reserves no CPU
    if gpus and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # set by Ray before 2.60, for a task that reserves no GPU
    return look(expected, asked, node, name)


def _interruptible(do: Callable[[threading.Event], Answer]) -> Answer:
    """do(stop) in a thread, while this one, the main thread, waits for an interruption, which sets `stop`.

    Ray interrupts only once; while `do` starts its child, which ignores interruptions, that would be lost.
    """
    stop, over = threading.Event(), threading.Event()
    answers, errors = list[Answer](), list[BaseException]()

    def run() -> None:
        try:
            answers.append(do(stop))
        except BaseException as error:
            errors.append(error)
        over.set()

    threading.Thread(target=run, daemon=True).start()
    while not over.is_set():
        try:
            over.wait(STOP_SECONDS)  # not Thread.join, which takes the thread for ended once interrupted (bpo-45274)
        except KeyboardInterrupt:
            stop.set()
    if errors:
        raise errors[0]
    return answers[0]


def _forget_main() -> None:
    """Child processes load the file of their parent's __main__ again: Ray's worker, a second of CPU for nothing."""
    vars(sys.modules["__main__"]).pop("__file__", None)


def _first_environment() -> set[str]:
    """The variables with which this process started; empty if that is not known."""
    try:
        return {entry.split("=")[0] for entry in Path("/proc/self/environ").read_text(errors="replace").split("\0")}
    except OSError:
        return set()


# --- Ray -------------------------------------------------------------------------------------------------------------


def _import() -> Any:
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError('Ray is not installed here; install it with: pip install -e ".[ray]"') from None
    return ray


def _connect(ray: Any, address: str) -> None:
    """Connect, and keep Ray's many messages off the terminal and its SIGTERM handler out of this process.

    Raises UserError.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        with _own_sigterm(), _mute(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "include_dashboard": False}
            if address:
                del quiet["include_dashboard"]
            ray.init(address=address or "local", **quiet)
    except Exception as error:
        task = f"reach a Ray cluster at {address}" if address else "start Ray on this machine"
        token = " (a cluster started with a token needs RAY_AUTH_MODE=token here, too)"
        why = _short(error).partition(". ")[0]  # the rest says what to pass to Ray
        raise UserError(f"cannot {task}: {why}{token * ('Failed to connect' in why)}") from None


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Nothing reaches stderr, not even from C++; what matters is raised."""
    with open(os.devnull, "w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the present handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _ready(ray: Any, references: list[Any], seconds: float) -> list[Any]:
    """All that are ready as soon as one is, or after at most `seconds`."""
    if not references or not ray.wait(references, num_returns=1, timeout=seconds)[0]:
        return []
    ready: list[Any] = ray.wait(references, num_returns=len(references), timeout=0)[0]
    return ready


def _why(ray: Any, error: Exception) -> str:
    """One of Ray's errors in a few words."""
    errors = ray.exceptions
    reasons = {
        errors.NodeDiedError: "the node is lost",
        errors.TaskUnschedulableError: "the node is lost",
        errors.WorkerCrashedError: "its Ray worker ended",
        errors.OutOfMemoryError: "the node ran out of memory, so Ray ended it",
        errors.ObjectLostError: "its answer is lost",
    }
    known = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), None)
    return known or _short(getattr(error, "cause", None) or error)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {inert(str(error))[:300]}"


def _cpus(row: dict[str, Any]) -> float:
    return float(row["Resources"].get("CPU", 0))


def _gpus(row: dict[str, Any]) -> int:
    return int(row["Resources"].get("GPU", 0))


def _in_rays_steps(amount: float) -> float:
    """Rounded down to Ray's ten-thousandths, so that as many tasks as should fit do."""
    return math.floor(amount * 10_000 + 1e-6) / 10_000
