"""The Ray executor on a cluster of two one-CPU nodes on this machine. Example: pytest tests/executors/test_ray.py"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.core.events import Described, DeviceFound, Event, Numbered, StepDone
from bench.executors.child import Outcome
from bench.executors.protocol import LOST, REFUSED, Answer, Device, Task
from bench.executors.ray import RayExecutor
from bench.executors.worker import Look, as_device
from bench.machine.identity import Identity, identity
from tests.conftest import ROOT
from tests.ray_nodes import two_nodes

ray_exceptions = pytest.importorskip("ray.exceptions")
pytestmark = pytest.mark.long

DEADLINE = 150.0


@pytest.fixture(scope="module")
def expected() -> Identity:
    return identity()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with two_nodes(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the executor has reported."""
    return []


@pytest.fixture(scope="module")
def executor(cluster: Any, expected: Identity, said: list[str]) -> Iterator[RayExecutor]:
    executor = RayExecutor(cluster.address, None, 2, expected, said.append)
    yield executor
    executor.close()


@pytest.fixture
def devices(executor: RayExecutor) -> list[Device]:
    return devices_of(executor, 2)


def devices_of(executor: RayExecutor, count: int) -> list[Device]:
    """So many of them, once they are there and have been looked at."""

    def look() -> list[Device] | None:
        found = executor.devices()
        if len(found) == count:
            return found
        executor.events(0.1)
        return None

    return until(look)


def until(look: Callable[[], Any]) -> Any:
    """What `look` finds, once it finds something; fails after DEADLINE."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE:g} s")


TICKETS = itertools.count(1)  # never again the same one: what an earlier test started may still report


class Sweep:
    """Tasks under tickets, and their messages."""

    def __init__(self, executor: RayExecutor) -> None:
        self.executor = executor
        self.events: dict[int, list[Event]] = {}
        self.answers: dict[int, Answer] = {}

    def start(self, device: Device, function: str, *args: Any, **more: Any) -> int:
        ticket = next(TICKETS)
        self.events[ticket] = []
        self.executor.start([(ticket, Task(function, f"tests.far_work:{function}", args, **more), device)])
        return ticket

    def listen(self) -> None:
        for ticket, message in self.executor.events(0.5):
            if ticket not in self.events:
                continue
            if isinstance(message, Answer):
                assert ticket not in self.answers, "answered twice"
                self.answers[ticket] = message
            else:
                self.events[ticket].append(message.event if isinstance(message, Numbered) else message)

    def answer(self, ticket: int) -> Answer:
        """Its end."""
        return until(lambda: self.listen() or self.answers.get(ticket))

    def wait_for(self, ticket: int, event: Event) -> None:
        until(lambda: self.listen() or event in self.events[ticket])

    def described(self, ticket: int) -> dict[str, Any]:
        """What a child of tests/far_work.py reports of itself."""
        until(lambda: self.listen() or any(isinstance(event, Described) for event in self.events[ticket]))
        return next(event.environment for event in self.events[ticket] if isinstance(event, Described))


@pytest.fixture
def sweep(executor: RayExecutor) -> Sweep:
    return Sweep(executor)


def gone(pid: int) -> bool:
    """Whether no such process is left, but for one that nobody has buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_devices_are_the_nodes_with_the_cpus_that_ray_gives_them(devices: list[Device], said: list[str]) -> None:
    first, second = devices
    assert first.node != second.node
    assert second.name == f"{first.name}#2"  # one host
    assert [(d.type, d.threads, d.seats, d.environment) for d in devices] == [
        ("cpu", 1, 2, (("OMP_NUM_THREADS", "1"),))
    ] * 2
    assert first.kind
    assert said == []


def test_a_node_that_is_not_what_the_driver_is_is_left_out_with_the_reason(cluster: Any, executor: RayExecutor) -> None:
    said: list[str] = []
    executor._say, before = said.append, executor._say
    expected, executor._expected = executor._expected, replace(executor._expected, versions=(("python", "2.7"),))
    node = cluster.add_node(num_cpus=1)
    try:
        until(lambda: executor.devices() and not executor.events(0.1) and said)
    finally:
        executor._expected, executor._say = expected, before
        cluster.remove_node(node)
    (words,) = said
    assert words.startswith("left out: ")
    assert words.endswith(f"python {sys.version.split()[0]}, not 2.7")
    assert len(devices_of(executor, 2)) == 2


class Rays:
    """Ray, as far as the nodes are concerned, with GPUs that this machine has not."""

    exceptions = ray_exceptions

    def __init__(self, **nodes: dict[str, float]) -> None:
        self.rows = [
            {
                "NodeID": f"{name.encode().hex():0<56}",
                "NodeManagerHostname": name,
                "Alive": True,
                "Resources": dict(resources),
            }
            for name, resources in nodes.items()
        ]
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def init(self, **options: Any) -> None:
        assert options["address"] == "local"

    def nodes(self) -> list[dict[str, Any]]:
        return self.rows

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "0" * 56)

    def remote(self, **options: Any) -> Any:
        return lambda what: SimpleNamespace(options=lambda **more: self.Remote(self, what, more))

    class Remote:
        def __init__(self, rays: Rays, what: Any, options: dict[str, Any]) -> None:
            self.rays, self.what, self.options = rays, what, options
            self.take = self

        def remote(self, *args: Any) -> Any:
            self.rays.calls.append((getattr(self.what, "__name__", ""), self.options))
            return (self.what, args) if args else self

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [reference for reference in references if isinstance(reference, tuple)], []

    def get(self, reference: Any) -> Look:
        """Four GPUs wherever one looks, whatever Ray knows of."""
        asked, node, name = reference[1][1:4]
        gpus = [DeviceFound("cuda", index, "fast", True, 8, str(index)) for index in range(4)]
        rows = gpus if asked == "cuda" else [DeviceFound("cpu", None, "fast", True, 8)]
        return Look(name, devices=tuple(as_device(row, node, name) for row in rows))


def rays(monkeypatch: pytest.MonkeyPatch, asked: str | None, said: list[str], **nodes: dict[str, float]) -> RayExecutor:
    monkeypatch.setitem(sys.modules, "ray", Rays(**nodes))
    return RayExecutor("", asked, 3, Identity("", "", ()), said.append)


def test_where_a_node_has_gpus_only_those_count_and_as_many_as_ray_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    executor = rays(monkeypatch, None, said, head={}, a={"CPU": 8.0, "GPU": 2.0}, b={"CPU": 8.0})
    executor.devices()
    found = executor.devices()
    assert [(d.name, d.seats, d.threads, d.environment) for d in found] == [
        (f"a cuda:{index}", 3, 8, (("OMP_NUM_THREADS", "8"),))
        for index in range(2)  # not CUDA_VISIBLE_DEVICES, which is Ray's
    ]
    assert said == ["left out, for lack of a GPU: head, b (--device cpu trains on all CPUs)"]
    task = Task("a", "b:c", ())
    assert executor._room(replace(task, share=1 / 3), found[0]) == {"num_cpus": 0, "num_gpus": 0.3333}
    assert executor._room(replace(task, whole_host=True), found[0]) == {"num_cpus": 8.0, "num_gpus": 2}


def test_on_cpus_a_device_has_those_that_ray_gives_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = rays(monkeypatch, "cpu", [], head={}, a={"CPU": 8.0, "GPU": 2.0}, b={"CPU": 3.0})
    executor.devices()
    a, b = executor.devices()
    assert (a.threads, b.threads) == (8, 3)
    assert executor._room(Task("a", "b:c", (), share=1 / 3), a) == {"num_cpus": 2.6666, "num_gpus": 0}


def test_where_no_node_is_fit_each_ones_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = rays(monkeypatch, "cuda", [], a={"CPU": 8.0}, b={"CPU": 3.0})
    with pytest.raises(UserError, match="Ray has no GPU on a; Ray has no GPU on b"):
        executor.devices()


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_is_heard_and_answered(sweep: Sweep, devices: list[Device]) -> None:
    tickets = [sweep.start(device, "says", device.name, share=0.5) for device in devices for _ in range(2)]
    for ticket, device in zip(tickets, [d for d in devices for _ in range(2)], strict=True):
        answer = sweep.answer(ticket)
        assert answer.outcome == Outcome("ok")
        described = answer.event(Described)
        assert described is not None
        assert (described.environment["words"], described.environment["OMP_NUM_THREADS"]) == (device.name, "1")
        assert answer.events == (described,)
        sweep.wait_for(ticket, StepDone(1))
        assert described in sweep.events[ticket]


def test_a_child_that_fails_ends_as_it_does_on_the_drivers_machine(sweep: Sweep, devices: list[Device]) -> None:
    raises, dies = sweep.start(devices[0], "raises"), sweep.start(devices[1], "dies")
    assert sweep.answer(dies).outcome == Outcome("killed", "its process ended by SIGKILL")
    outcome = sweep.answer(raises).outcome
    assert (outcome.status, outcome.message) == ("failed", "ValueError: a bug in the run")
    assert outcome.traceback.splitlines()[-1] == outcome.message


def test_files_come_home_where_the_drivers_store_is_not_seen(
    sweep: Sweep, devices: list[Device], expected: Identity, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    task = {"root": root, "marker": "mark-of-the-store", "expected": expected}
    answer = sweep.answer(sweep.start(devices[1], "stores", root, **task))
    assert answer.files == (("runs/a-1/history.csv", b"epoch"), ("runs/a-1/record.json", b"{}"))
    event = answer.event(Described)
    assert event is not None
    assert Path(str(event.environment["root"])).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert not root.exists()


def test_an_unfit_machine_is_an_answer(sweep: Sweep, devices: list[Device], expected: Identity) -> None:
    other = replace(expected, commit="0" * 40)
    answer = sweep.answer(sweep.start(devices[0], "says", "", expected=other))
    assert answer.outcome.status == "unfit"
    assert "not 0000000000" in answer.outcome.message


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_session_gets_the_whole_host(sweep: Sweep, devices: list[Device]) -> None:
    assert sweep.answer(sweep.start(devices[1], "says", "", whole_host=True)).outcome == Outcome("ok")


def test_stop_lets_what_runs_save_and_a_session_is_refused_meanwhile(
    sweep: Sweep, devices: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.executors.ray.ROOM_SECONDS", 0.5)
    runs = [sweep.start(device, "works_until_stopped", tmp_path / device.node) for device in devices]
    pids = [sweep.described(ticket)["pid"] for ticket in runs]
    refused = sweep.answer(sweep.start(devices[1], "says", "", whole_host=True)).outcome
    assert refused.status == REFUSED
    assert refused.message.startswith(f"{devices[1].name}: ")
    waits = sweep.start(devices[0], "says", "")
    assert not sweep.answers.keys() & {*runs, waits}

    sweep.executor.stop()
    for ticket in (*runs, waits):
        assert sweep.answer(ticket).outcome == Outcome("interrupted", "stopped by the user")
    assert [int((tmp_path / device.node).read_text()) for device in devices] == pids
    assert all(map(gone, pids))


def test_a_node_may_come_and_be_lost_with_what_runs_there(
    cluster: Any,
    executor: RayExecutor,
    sweep: Sweep,
    devices: list[Device],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    node = cluster.add_node(num_cpus=1, num_gpus=2)
    (new,) = set(devices_of(executor, 3)) - set(devices)
    gpu = replace(new, type="cuda")  # Ray believes in them
    shares = [({"share": 1.0}, 1), ({"share": 0.5}, 1), ({"whole_host": True}, 2)]
    for share, count in shares:
        described = sweep.answer(sweep.start(gpu, "says", "", **share)).event(Described)
        assert described is not None
        seen = str(described.environment["CUDA_VISIBLE_DEVICES"]).split(",")
        assert len(seen) == count
        assert set(seen) <= {"0", "1"}
    lost = sweep.start(new, "works_until_stopped", tmp_path / "saved")
    waits = sweep.start(new, "says", "")
    pid = sweep.described(lost)["pid"]
    cluster.remove_node(node, allow_graceful=False)
    for ticket in (lost, waits):
        answer = sweep.answer(ticket)
        assert answer.outcome.status == LOST
        assert answer.outcome.message.startswith(f"{new.name}: ")
        assert answer.where == new.name
    assert devices_of(executor, 2) == devices
    until(lambda: gone(pid))
    late = sweep.start(new, "says", "")
    assert sweep.answer(late).outcome.status == LOST


@contextlib.contextmanager
def node_without(folder: Path, cluster: Any) -> Iterator[None]:
    """A third node that sees an empty disk where everybody else sees `folder`; skips where that takes more rights.

    Its children are forked from a server, as on any other cluster.
    """
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--num-cpus=1"]
    command = [*apart, *start, "--block"]
    environment = {name: value for name, value in os.environ.items() if name != "SEVIT_START_METHOD"}
    node = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        node.terminate()
        node.wait(DEADLINE)


def test_results_come_home_from_a_disk_that_is_not_shared(
    cluster: Any, executor: RayExecutor, sweep: Sweep, devices: list[Device], expected: Identity, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "mark").touch()
    task = {"root": root, "marker": "mark", "expected": expected}
    with node_without(root, cluster):
        (far,) = set(devices_of(executor, 3)) - set(devices)
        away, here = (sweep.start(device, "stores", root, **task) for device in (far, devices[0]))
        assert sweep.answer(away).files == (("runs/a-1/history.csv", b"epoch"), ("runs/a-1/record.json", b"{}"))
        assert sweep.answer(here).files == ()
    seen = [sweep.described(ticket)["root"] for ticket in (away, here)]
    assert seen[1] == str(root)
    assert Path(seen[0]).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert (root / "runs" / "a-1" / "record.json").is_file()
    devices_of(executor, 2)


# --- the driver ------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from bench.core.events import Numbered
from bench.executors.protocol import Device, Task
from bench.executors.ray import RayExecutor
from bench.machine.identity import identity
executor = RayExecutor(sys.argv[1], None, 1, identity(), print)
device = Device("a node", sys.argv[2], "cpu", "", False, 1)
executor.start([(1, Task("a", "tests.far_work:works_until_stopped", (Path(sys.argv[3]),)), device)])
while True:
    for ticket, message in executor.events(1.0):
        if isinstance(message, Numbered):
            print(message.event.environment["pid"], flush=True)
"""


def test_what_ran_for_a_killed_driver_ends(cluster: Any, devices: list[Device], tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address, devices[0].node, str(tmp_path / "saved")]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert driver.stdout is not None
    try:
        words = driver.stdout.readline()
        assert words.strip().isdigit(), words + driver.stdout.read()  # Ray says nothing on the terminal
        pid = int(words)
        assert not gone(pid)
    finally:
        driver.kill()
        driver.wait()
    until(lambda: gone(pid))


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_one_gpu_of_many_machines_is_no_device(expected: Identity) -> None:
    with pytest.raises(UserError, match="use cuda"):
        RayExecutor("auto", "cuda:1", 1, expected, print)


def test_a_cluster_that_is_not_there_is_named(expected: Identity) -> None:
    with pytest.raises(UserError, match="cannot reach a Ray cluster at 127"):
        RayExecutor("127.0.0.1:1", None, 1, expected, print)


def test_without_ray_the_extra_is_named(expected: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="\\[ray\\]"):
        RayExecutor("", None, 1, expected, print)
