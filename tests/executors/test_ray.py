"""The Ray engine on a cluster of two nodes of one CPU each, all on this machine. Example: pytest tests/executors/test_ray.py"""

from __future__ import annotations

import contextlib
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
from bench.executors import child as local
from bench.executors.protocol import LOST, REFUSED, Answer, Device, Task
from bench.executors.ray import RayEngine
from bench.executors.worker import Look, as_device
from bench.machine.identity import Identity, identity

ray_exceptions = pytest.importorskip("ray.exceptions")

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 150.0


@pytest.fixture(scope="module")
def expected() -> Identity:
    return identity()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU; what they share with other tests on this machine is theirs alone."""
    from ray.cluster_utils import Cluster

    place = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVIT_HOST_LOCK", str(place / "host.lock"))
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))  # one for all, whoever has a token
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        soon = {"health_check_period_ms": 300, "health_check_initial_delay_ms": 300}  # a node that died is missed
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the engine has said."""
    return []


@pytest.fixture(scope="module")
def engine(cluster: Any, expected: Identity, said: list[str]) -> Iterator[RayEngine]:
    engine = RayEngine(cluster.address, None, 2, expected, said.append)
    yield engine
    engine.close()


@pytest.fixture
def devices(engine: RayEngine) -> list[Device]:
    return devices_of(engine, 2)


def devices_of(engine: RayEngine, count: int) -> list[Device]:
    """So many of them, once they are there and have been looked at."""

    def look() -> list[Device] | None:
        found = engine.devices()
        if len(found) == count:
            return found
        engine.events(0.1)
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


class Sweep:
    """Tasks under tickets, and what was heard of them."""

    def __init__(self, engine: RayEngine) -> None:
        self.engine = engine
        self.events: dict[int, list[dict[str, Any]]] = {}
        self.answers: dict[int, Answer] = {}

    def start(self, device: Device, function: str, *args: Any, **more: Any) -> int:
        ticket = len(self.events) + 1
        self.events[ticket] = []
        self.engine.start([(ticket, Task(function, f"tests.far_work:{function}", args, **more), device)])
        return ticket

    def hear(self) -> None:
        for ticket, heard in self.engine.events(0.5):
            if isinstance(heard, Answer):
                assert ticket not in self.answers, "answered twice"
                self.answers[ticket] = heard
            else:
                self.events[ticket].append(heard)

    def answer(self, ticket: int) -> Answer:
        """Its end."""
        return until(lambda: self.hear() or self.answers.get(ticket))

    def event(self, ticket: int, kind: str) -> dict[str, Any]:
        """The first of its kind."""
        return until(lambda: self.hear() or next((e for e in self.events[ticket] if e["event"] == kind), None))


@pytest.fixture
def sweep(engine: RayEngine) -> Sweep:
    return Sweep(engine)


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


def test_a_node_that_is_not_what_the_driver_is_is_left_out_with_the_reason(cluster: Any, engine: RayEngine) -> None:
    said: list[str] = []
    engine._say, before = said.append, engine._say
    expected, engine._expected = engine._expected, replace(engine._expected, versions=(("python", "2.7"),))
    node = cluster.add_node(num_cpus=1)
    try:
        until(lambda: engine.devices() and not engine.events(0.1) and said)
    finally:
        engine._expected, engine._say = expected, before
        cluster.remove_node(node)
    (words,) = said
    assert words.startswith("left out: ")
    assert words.endswith(f"python {sys.version.split()[0]}, not 2.7")
    assert len(devices_of(engine, 2)) == 2


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
        row = {"type": asked, "kind": "fast", "native_bf16": True, "threads": 8}
        places = [(index, str(index)) for index in range(4)] if asked == "cuda" else [(None, None)]
        return Look(name, devices=tuple(as_device({**row, "index": i, "visible": v}, node, name) for i, v in places))


def rays(monkeypatch: pytest.MonkeyPatch, asked: str | None, said: list[str], **nodes: dict[str, float]) -> RayEngine:
    monkeypatch.setitem(sys.modules, "ray", Rays(**nodes))
    return RayEngine("", asked, 3, Identity("", "", ()), said.append)


def test_where_a_node_has_gpus_only_those_count_and_as_many_as_ray_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    engine = rays(monkeypatch, None, said, head={}, a={"CPU": 8.0, "GPU": 2.0}, b={"CPU": 8.0})
    engine.devices()
    found = engine.devices()
    assert [(d.name, d.seats, d.threads, d.environment) for d in found] == [
        (f"a cuda:{index}", 3, 8, (("OMP_NUM_THREADS", "8"),))
        for index in range(2)  # not CUDA_VISIBLE_DEVICES, which is Ray's
    ]
    assert said == ["left out, as nodes without a GPU: head, b (--device cpu trains on all CPUs)"]
    task = Task("a", "b:c", ())
    assert engine._room(replace(task, share=1 / 3), found[0]) == {"num_cpus": 0, "num_gpus": 0.3333}
    assert engine._room(replace(task, whole_host=True), found[0]) == {"num_cpus": 8.0, "num_gpus": 2}


def test_on_cpus_a_device_has_those_that_ray_gives_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = rays(monkeypatch, "cpu", [], head={}, a={"CPU": 8.0, "GPU": 2.0}, b={"CPU": 3.0})
    engine.devices()
    a, b = engine.devices()
    assert (a.threads, b.threads) == (8, 3)
    assert engine._room(Task("a", "b:c", (), share=1 / 3), a) == {"num_cpus": 2.6666, "num_gpus": 0}


def test_where_no_node_is_fit_each_ones_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = rays(monkeypatch, "cuda", [], a={"CPU": 8.0}, b={"CPU": 3.0})
    with pytest.raises(UserError, match="Ray gives a no GPU; Ray gives b no GPU"):
        engine.devices()


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_is_heard_and_answered(sweep: Sweep, devices: list[Device]) -> None:
    tickets = [sweep.start(device, "says", device.name, share=0.5) for device in devices for _ in range(2)]
    for ticket, device in zip(tickets, [d for d in devices for _ in range(2)], strict=True):
        answer = sweep.answer(ticket)
        assert answer.outcome == local.Outcome("ok")
        began = answer.event("began")
        assert began is not None
        assert (began["words"], began["OMP_NUM_THREADS"]) == (device.name, "1")
        assert answer.event("step") is None  # not among what must not be lost
        assert sweep.event(ticket, "step") == {"event": "step", "step": 1}
        assert sweep.event(ticket, "began") == began


def test_a_child_that_fails_ends_as_it_does_on_the_drivers_machine(sweep: Sweep, devices: list[Device]) -> None:
    raises, dies = sweep.start(devices[0], "raises"), sweep.start(devices[1], "dies")
    assert sweep.answer(dies).outcome == local.Outcome("killed", "its process ended by SIGKILL")
    outcome = sweep.answer(raises).outcome
    assert (outcome.status, outcome.message) == ("failed", "ValueError: a fault of the run")
    assert outcome.traceback.splitlines()[-1] == outcome.message


def test_files_come_home_where_the_drivers_store_is_not_seen(
    sweep: Sweep, devices: list[Device], expected: Identity, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    task = {"root": root, "mark": "mark-of-the-store", "expected": expected}
    answer = sweep.answer(sweep.start(devices[1], "stores", root, **task))
    assert answer.files == (("runs/a-1/history.csv", b"epoch"), ("runs/a-1/record.json", b"{}"))
    event = answer.event("root")
    assert event is not None
    assert Path(event["root"]).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert not root.exists()


def test_an_unfit_machine_is_an_answer(sweep: Sweep, devices: list[Device], expected: Identity) -> None:
    other = replace(expected, commit="0" * 40)
    answer = sweep.answer(sweep.start(devices[0], "says", "", expected=other))
    assert answer.outcome.status == "unfit"
    assert "not 0000000000" in answer.outcome.message


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_session_gets_the_whole_host(sweep: Sweep, devices: list[Device]) -> None:
    assert sweep.answer(sweep.start(devices[1], "says", "", whole_host=True)).outcome == local.Outcome("ok")


def test_stop_lets_what_runs_save_and_a_session_is_refused_meanwhile(
    sweep: Sweep, devices: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.executors.ray.ROOM_SECONDS", 0.5)
    runs = [sweep.start(device, "works_until_stopped", tmp_path / device.node) for device in devices]
    pids = [sweep.event(ticket, "began")["pid"] for ticket in runs]
    refused = sweep.answer(sweep.start(devices[1], "says", "", whole_host=True)).outcome
    assert refused.status == REFUSED
    assert refused.message.startswith(f"{devices[1].name}: ")
    waits = sweep.start(devices[0], "says", "")
    assert not sweep.answers.keys() & {*runs, waits}

    sweep.engine.stop()
    for ticket in (*runs, waits):
        assert sweep.answer(ticket).outcome == local.Outcome("interrupted", "stopped by the user")
    assert [int((tmp_path / device.node).read_text()) for device in devices] == pids
    assert all(map(gone, pids))


def test_a_node_may_come_and_be_lost_with_what_runs_there(
    cluster: Any,
    engine: RayEngine,
    sweep: Sweep,
    devices: list[Device],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    node = cluster.add_node(num_cpus=1, num_gpus=2)
    (new,) = set(devices_of(engine, 3)) - set(devices)
    gpu = replace(new, type="cuda")  # Ray believes in them
    shares = [({"share": 1.0}, 1), ({"share": 0.5}, 1), ({"whole_host": True}, 2)]
    for share, count in shares:
        began = sweep.answer(sweep.start(gpu, "says", "", **share)).event("began")
        assert began is not None
        seen = began["CUDA_VISIBLE_DEVICES"].split(",")
        assert len(seen) == count
        assert set(seen) <= {"0", "1"}
    lost = sweep.start(new, "works_until_stopped", tmp_path / "saved")
    waits = sweep.start(new, "says", "")
    pid = sweep.event(lost, "began")["pid"]
    cluster.remove_node(node, allow_graceful=False)
    for ticket in (lost, waits):
        answer = sweep.answer(ticket)
        assert answer.outcome.status == LOST
        assert answer.outcome.message.startswith(f"{new.name}: ")
        assert answer.where == new.name
    assert devices_of(engine, 2) == devices
    until(lambda: gone(pid))
    late = sweep.start(new, "says", "")
    assert sweep.answer(late).outcome.status == LOST


@contextlib.contextmanager
def node_without(folder: Path, cluster: Any) -> Iterator[None]:
    """A third node that sees an empty disk where everybody else sees `folder`; skips where that takes more rights."""
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--num-cpus=1"]
    words = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    node = subprocess.Popen([*apart, *start, "--block"], **words)
    try:
        yield
    finally:
        node.terminate()
        node.wait(DEADLINE)


def test_results_come_home_from_a_disk_that_is_not_shared(
    cluster: Any, engine: RayEngine, sweep: Sweep, devices: list[Device], expected: Identity, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "mark").touch()
    task = {"root": root, "mark": "mark", "expected": expected}
    with node_without(root, cluster):
        (far,) = set(devices_of(engine, 3)) - set(devices)
        away, here = (sweep.start(device, "stores", root, **task) for device in (far, devices[0]))
        assert sweep.answer(away).files == (("runs/a-1/history.csv", b"epoch"), ("runs/a-1/record.json", b"{}"))
        assert sweep.answer(here).files == ()
    seen = [sweep.event(ticket, "root")["root"] for ticket in (away, here)]
    assert seen[1] == str(root)
    assert Path(seen[0]).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert (root / "runs" / "a-1" / "record.json").is_file()
    devices_of(engine, 2)


# --- the driver ------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from bench.executors.engine import Device, Task
from bench.executors.identity import identity
from bench.executors.ray import RayEngine
engine = RayEngine(sys.argv[1], None, 1, identity(), print)
device = Device("a node", sys.argv[2], "cpu", "", False, 1)
engine.start([(1, Task("a", "tests.far_work:works_until_stopped", (Path(sys.argv[3]),)), device)])
while True:
    for ticket, heard in engine.events(1.0):
        if heard["event"] == "began":
            print(heard["pid"], flush=True)
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
    with pytest.raises(UserError, match="say cuda"):
        RayEngine("auto", "cuda:1", 1, expected, print)


def test_a_cluster_that_is_not_there_is_named(expected: Identity) -> None:
    with pytest.raises(UserError, match="cannot reach a Ray cluster at 127"):
        RayEngine("127.0.0.1:1", None, 1, expected, print)


def test_without_ray_the_extra_is_named(expected: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="\\[ray\\]"):
        RayEngine("", None, 1, expected, print)
