"""A Ray cluster as an engine: a Ray task a run, each with a child process. Example: RayEngine("auto", None, 1, …)

The board decides which device a task gets; Ray carries it there and keeps account of CPUs and GPUs, so that drivers
who share a cluster do not share a device. Events come home through an actor beside the driver, answers as results.
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
from bench.core.files import inert
from bench.executors.child import FREQUENT, Outcome
from bench.executors.protocol import LOST, REFUSED, Answer, Device, Heard, Task, variables
from bench.executors.worker import Look, look, work
from bench.machine.identity import Identity

NODES_SECONDS = 2.0  # between two looks at which nodes there are
LETTER_SECONDS = 2.0  # between two reports of one run's steps: a cluster has many runs
ROOM_SECONDS = 30.0  # for others' tasks on a host that a session wants to itself
CONNECT_SECONDS = 10.0  # for an address to take a connection
PATIENCE_SECONDS = 120.0  # after the last fit node was lost: clusters grow anew
SILENT = {  # unless its user wants to hear Ray
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what it would print of nodes that died is said in a run's own line
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as from Ray 2.60 on; without it, others warn that it will be so
}
STOP_SECONDS = 0.2  # between two moments in which a waiting main thread can be interrupted
Say = Callable[[str], None]


@dataclass
class Running:
    """A task that Ray has. `refused`: it was called back, because Ray did not free the host for it."""

    ticket: int
    device: Device
    refused: bool = False


class RayEngine:
    """The nodes of a cluster: of those with GPUs every GPU, else of every node its CPUs as one device."""

    far = True

    def __init__(self, address: str, asked: str | None, seats: int, expected: Identity, say: Say) -> None:
        """Connect to `address` (auto, HOST:PORT, ray://HOST:PORT), or start Ray on this machine where it is empty.

        `asked`: as --device; None: GPUs where any node has one. `seats`: how many runs may share a device. `say`
        hears what is left out. Raises UserError where there is no Ray, or none of the same version.
        """
        if asked is not None and asked.startswith("cuda:"):
            raise UserError(f"--device {asked} is a GPU of one machine, and Ray chooses among those of many: say cuda")
        self._ray = ray = _import()
        _connect(ray, address)
        self._expected, self._seats, self._say = expected, seats, say
        self._alive: dict[str, dict[str, Any]] = {}  # Ray's words for each node
        self._looked = -math.inf  # when they were read
        self._names: dict[str, str] = {}
        self._looks: dict[Any, str] = {}  # a reference to a Look that is under way: the node
        self._fit: dict[str, tuple[Device, ...]] = {}
        self._wrong: dict[str, str] = {}
        self._none_since: float | None = None
        self._running: dict[Any, Running] = {}  # by the reference to its answer
        self._waiting: dict[int, float] = {}  # tickets that want a whole host and have not begun: until when
        self._heard: list[Heard] = []
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
        """Whether a node that is there has not yet said what it is."""
        return bool(self._looks)

    def devices(self) -> list[Device]:
        """Those of all nodes that said what they are, and are still there; none while all are being looked at.

        Raises UserError where no node is fit, at once, or, if there were some before, after PATIENCE_SECONDS.
        """
        if time.monotonic() - self._looked >= NODES_SECONDS:
            self._read_nodes()
        for node in self._alive.keys() - self._fit.keys() - self._wrong.keys() - set(self._looks.values()):
            self._begin_look(node)
        for reference in _ready(self._ray, list(self._looks), 0):
            self._end_look(reference)
        found = [device for node in self._alive for device in self._fit.get(node, ())]
        if found or self._looks:
            self._none_since = None
            return found
        if self._none_since is None:
            self._none_since = time.monotonic()
        if not self._fit or time.monotonic() - self._none_since >= PATIENCE_SECONDS:
            why = "; ".join(self._wrong[node] for node in self._alive if node in self._wrong)
            raise UserError(f"no node of the Ray cluster is fit for this sweep: {why or 'there is none'}")
        return []

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """A Ray task each, on the device's node."""
        for ticket, task, device in tasks:
            options = {"name": task.name, "scheduling_strategy": self._pinned(device.node), **self._room(task, device)}
            given = (ticket, task, variables(task, device), self._mailbox)
            self._running[self._carry.options(**options).remote(*given)] = Running(ticket, device)
            if task.whole_host:
                self._waiting[ticket] = time.monotonic() + ROOM_SECONDS

    def events(self, seconds: float) -> list[Heard]:
        """What was heard; nothing, but at once, where a new node has said what it is."""
        self._call_back()
        for reference in _ready(self._ray, [*self._running, *self._looks, self._letters], seconds):
            if reference in self._running:
                running = self._running[reference]
                self._heard.append((running.ticket, self._answer(reference, running)))
                self._waiting.pop(running.ticket, None)
                del self._running[reference]
            elif reference == self._letters:
                self._read_letters()
        heard, self._heard = self._heard, []
        return heard

    def stop(self) -> None:
        """Ray raises KeyboardInterrupt where a task runs, which becomes a polite stop of its child."""
        for reference in self._running:
            self._ray.cancel(reference, force=False, recursive=False)

    def close(self) -> None:
        """Leave the cluster, and with it whatever still runs; end Ray where it was started here."""
        self._ray.shutdown()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _read_nodes(self) -> None:
        self._looked = time.monotonic()
        self._alive = {row["NodeID"]: row for row in self._ray.nodes() if row["Alive"]}
        for node, row in self._alive.items():
            self._name(node, row["NodeManagerHostname"])

    def _name(self, node: str, hostname: str) -> None:
        """Its host's name, with a number where another node has that already."""
        if node not in self._names:
            others = sum(name.partition("#")[0] == hostname for name in self._names.values())
            self._names[node] = f"{hostname}#{others + 1}" if others else hostname

    def _say_left_out(self) -> None:
        without = [self._names[node] for node, row in self._alive.items() if not _gpus(row)]
        if without:
            self._say(f"left out, as nodes without a GPU: {', '.join(without)} (--device cpu trains on all CPUs)")

    def _begin_look(self, node: str) -> None:
        """Ask a node what it is, unless Ray has nothing to give there: a head often has no CPUs."""
        row, name = self._alive[node], self._names[node]
        if not (_gpus(row) if self._type == "cuda" else _cpus(row)):
            self._wrong[node] = f"Ray gives {name} no {'GPU' if self._type == 'cuda' else 'CPUs'}"
            return
        there = self._look.options(num_cpus=0, scheduling_strategy=self._pinned(node))
        self._looks[there.remote(self._expected, self._type, node, name, _gpus(row))] = node

    def _end_look(self, reference: Any) -> None:
        node = self._looks.pop(reference)
        try:
            found: Look = self._ray.get(reference)
        except Exception as error:
            found = Look(self._names[node], f"{self._names[node]}: {_why(self._ray, error)}")
        if node not in self._alive:
            return
        if found.wrong or not found.devices:
            self._wrong[node] = found.wrong or f"{found.where} has no {self._type} device"
            self._say(f"left out: {self._wrong[node]}")
        else:
            self._fit[node] = tuple(self._as_ray_has_it(device) for device in found.devices)[: self._count(node)]

    def _count(self, node: str) -> int:
        return _gpus(self._alive[node]) if self._type == "cuda" else 1

    def _as_ray_has_it(self, device: Device) -> Device:
        """With the CPUs that Ray gives the node; which GPU a task sees is what Ray gives it."""
        threads = device.threads
        if device.type == "cpu":
            threads = max(1, min(threads, int(_cpus(self._alive[device.node]))))
        # Ray's own idea of OMP_NUM_THREADS is 1 for tasks that reserve no CPU
        return replace(device, seats=self._seats, threads=threads, environment=(("OMP_NUM_THREADS", str(threads)),))

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _pinned(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _room(self, task: Task, device: Device) -> dict[str, float]:
        """What Ray is to keep for a task: a share of its device, or all of the node."""
        row = self._alive.get(device.node, {"Resources": {}})
        if task.whole_host:
            return {"num_cpus": _cpus(row), "num_gpus": _gpus(row)}
        if device.type == "cuda":
            return {"num_cpus": 0, "num_gpus": _in_rays_steps(task.share)}
        return {"num_cpus": _in_rays_steps(task.share * _cpus(row)), "num_gpus": 0}

    def _call_back(self) -> None:
        """Who waits for a whole host longer than ROOM_SECONDS waits no longer; its reference then says so."""
        late = {ticket for ticket, until in self._waiting.items() if time.monotonic() >= until}
        for reference, running in self._running.items() if late else ():
            if running.ticket in late:
                running.refused = True
                del self._waiting[running.ticket]
                self._ray.cancel(reference, force=False, recursive=False)

    def _read_letters(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # a mailbox that died begins anew, empty
            for ticket, event in self._ray.get(self._letters):
                if event is None:
                    self._waiting.pop(ticket, None)
                else:
                    self._heard.append((ticket, event))
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
            words = f"{where}: Ray did not free its whole host within {ROOM_SECONDS:g} s, others' tasks run there"
            return Answer(Outcome(REFUSED, words), where)
        except errors.RayTaskError as error:
            return Answer(Outcome("failed", _why(self._ray, error), str(error)), where)
        except errors.RayError as error:
            return Answer(Outcome(LOST, f"{where}: {_why(self._ray, error)}"), where)


# --- on the nodes ----------------------------------------------------------------------------------------------------


class Mailbox:
    """The actor beside the driver that keeps (ticket, event) until they are taken; None tells that a task begins."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, dict[str, Any] | None]] = []
        self._there = asyncio.Event()

    async def put(self, ticket: int, event: dict[str, Any] | None) -> None:
        """Nobody waits for this."""
        self._letters.append((ticket, event))
        self._there.set()

    async def take(self) -> list[tuple[int, dict[str, Any] | None]]:
        """All that came since the last call, as soon as there is something."""
        await self._there.wait()
        letters, self._letters = self._letters, []
        self._there.clear()
        return letters


def carry(ticket: int, task: Task, environment: Mapping[str, str], mailbox: Any) -> Answer:
    """What a Ray worker does with a task. Raises KeyboardInterrupt once it was cancelled."""
    put, last = mailbox.put.remote, -math.inf

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if event["event"] in FREQUENT:
            if time.monotonic() - last < LETTER_SECONDS:
                return
            last = time.monotonic()
        put(ticket, event)

    put(ticket, None)
    _forget_main()
    return _interruptible(lambda stop: work(task, environment, report, stop))


def look_here(expected: Identity, asked: str, node: str, name: str, gpus: int) -> Look:
    """What a Ray worker says of its node: with the threads and GPUs that any process of the node would find."""
    _forget_main()
    if "OMP_NUM_THREADS" not in _first_environment():
        os.environ.pop("OMP_NUM_THREADS", None)  # by Ray, for a task that reserves no CPU
    if gpus and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # by Ray before 2.60, for a task that reserves no GPU
    return look(expected, asked, node, name)


def _interruptible(do: Callable[[threading.Event], Answer]) -> Answer:
    """do(stop) in a thread, while this one, the main thread, waits for an interruption, which sets `stop`.

    Ray interrupts once, and where `do` happens to start its child, which ignores interruptions, that would be lost.
    """
    stop, over = threading.Event(), threading.Event()
    done, raised = list[Answer](), list[BaseException]()

    def run() -> None:
        try:
            done.append(do(stop))
        except BaseException as error:
            raised.append(error)
        over.set()

    threading.Thread(target=run, daemon=True).start()
    while not over.is_set():
        try:
            over.wait(STOP_SECONDS)  # Thread.join, interrupted, takes the thread for ended (bpo-45274)
        except KeyboardInterrupt:
            stop.set()
    if raised:
        raise raised[0]
    return done[0]


def _forget_main() -> None:
    """Child processes load the file of their parent's __main__ again: Ray's worker, a second of CPU for nothing."""
    vars(sys.modules["__main__"]).pop("__file__", None)


def _first_environment() -> set[str]:
    """The variables with which this process began; none where nobody can say."""
    try:
        return {words.split("=")[0] for words in Path("/proc/self/environ").read_text(errors="replace").split("\0")}
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
    """Ray's own words, of which there are many, are kept from the terminal; its handler of SIGTERM from this process.

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
        place = f"reach a Ray cluster at {address}" if address else "start Ray on this machine"
        token = " (one that was started with a token needs RAY_AUTH_MODE=token here, too)"
        words = _short(error).partition(". ")[0]  # what follows tells what to pass to Ray
        raise UserError(f"cannot {place}: {words}{token * ('Failed to connect' in words)}") from None


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Nothing reaches the terminal as an error, not even from C++; what matters is raised."""
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
    """Whoever handles SIGTERM goes on to do so."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _ready(ray: Any, references: list[Any], seconds: float) -> list[Any]:
    """Those that have come, at the latest after so many seconds; as soon as one has, all that have."""
    if not references or not ray.wait(references, num_returns=1, timeout=seconds)[0]:
        return []
    ready: list[Any] = ray.wait(references, num_returns=len(references), timeout=0)[0]
    return ready


def _why(ray: Any, error: Exception) -> str:
    """An error of Ray's in a few words."""
    errors = ray.exceptions
    words = {
        errors.NodeDiedError: "the node is lost",
        errors.TaskUnschedulableError: "the node is lost",
        errors.WorkerCrashedError: "its Ray worker ended",
        errors.OutOfMemoryError: "Ray ended it, for the node ran out of memory",
        errors.ObjectLostError: "its answer is lost",
    }
    known = next((found for kind, found in words.items() if isinstance(error, kind)), None)
    return known or _short(getattr(error, "cause", None) or error)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {inert(str(error))[:300]}"


def _cpus(row: dict[str, Any]) -> float:
    return float(row["Resources"].get("CPU", 0))


def _gpus(row: dict[str, Any]) -> int:
    return int(row["Resources"].get("GPU", 0))


def _in_rays_steps(amount: float) -> float:
    """Rounded down, so that as many as should fit do: Ray counts in ten-thousandths."""
    return math.floor(amount * 10_000 + 1e-6) / 10_000
