"""A sweep of eight runs on Ray clusters of two and four nodes, all on this machine; lost runs are retried.

The runs train nothing (far_work.short_run), but go all the way: board, Ray task, child process, record, store.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.data.datasets import DataSource
from bench.drive.context import SweepContext
from bench.drive.opening import wait_for_devices
from bench.drive.planning import Plan
from bench.drive.runs import RunPolicy, Views, train_all
from bench.machine.environment import cpu_name
from bench.machine.identity import identity
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.store.disk import Store
from tests import synthetic
from tests.conftest import ROOT
from tests.faults.processes import eventually
from tests.ray_nodes import two_nodes

pytest.importorskip("ray")
pytestmark = pytest.mark.long

SPECS = [synthetic.spec("seresnet", seed, device_name=cpu_name()) for seed in range(8)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU; the third and the fourth come later."""
    with two_nodes(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


def drive(address: str, root: Path, nodes: int, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """The sweep, or the rest of it, after which so many nodes are left: (failures, finished runs)."""
    from bench.executors.ray import RayExecutor

    store, expected = Store(root), identity()
    source, views = DataSource("none", None, None, 1.0), SimpleNamespace(rebuild_if_due=meanwhile)
    plan = Plan(SPECS, source, cast(Any, SimpleNamespace(train_index=range(1000))))
    todo = {spec.run_id for spec in SPECS if not store.is_done(spec)}
    with store.marked() as marker:
        executor = RayExecutor(address, None, 1, expected, print)
        try:
            wait_for_devices(executor)
            context = SweepContext(store, executor, ScreenDisplay(make_console()), expected, marker)
            policy = RunPolicy(function="tests.far_work:short_run")
            trained = train_all([plan], todo, context, cast(Views, views), policy)
            assert eventually(lambda: len(executor.devices()) == nodes), "a lost one is missed within seconds"
            return trained.failures, sum(map(store.is_done, SPECS))
        finally:
            executor.close()


def starts(root: Path) -> Counter[str]:
    return Counter((root / "starts").read_text().split())


def test_two_nodes_do_every_run_once(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "go").touch()
    assert drive(cluster.address, tmp_path, 2) == (0, 8)
    assert starts(tmp_path) == Counter({spec.run_id: 1 for spec in SPECS})
    printed = capsys.readouterr().out
    assert printed.count("test accuracy 50.00 %") == 8
    assert len({line.rpartition(" on ")[2] for line in printed.splitlines() if ") on " in line}) == 2


def test_no_run_is_lost_with_a_node(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four nodes; the last one goes down while every node holds a run that waits."""
    doomed, printed = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)][1:], ""

    def meanwhile() -> None:
        nonlocal printed
        printed += capsys.readouterr().out
        all_hold_one = (tmp_path / "starts").exists() and len(starts(tmp_path)) == 8
        if all_hold_one and doomed:  # four are done, four wait
            cluster.remove_node(doomed.pop(), allow_graceful=False)
        if "retry 1 of at most 3" in printed:
            (tmp_path / "go").touch()

    assert drive(cluster.address, tmp_path, 3, meanwhile) == (0, 8), printed
    counted = starts(tmp_path)
    assert set(counted) == {spec.run_id for spec in SPECS}
    assert sorted(counted.values()) == [1] * 7 + [2], "one was lost with its node and retried"
    assert len(Store(tmp_path).runs()) == 8


def test_a_killed_drivers_sweep_is_finished_by_the_next_driver(cluster: Any, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.drive.test_cluster import drive\n"
    code += "drive(sys.argv[1], Path(sys.argv[2]), 3)"
    driver = subprocess.Popen([sys.executable, "-c", code, cluster.address, str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 500
        while not (tmp_path / "starts").exists() or len(starts(tmp_path)) < 5:  # the fifth and later ones wait
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = {spec.run_id for spec in SPECS if Store(tmp_path).is_done(spec)}
    assert 2 <= len(before) < 8, "of the first four two may be running yet"
    (tmp_path / "go").touch()
    assert drive(cluster.address, tmp_path, 3) == (0, 8)
    counted = starts(tmp_path)
    assert all(counted[name] == 1 for name in before), "finished runs are not repeated"
    assert len(Store(tmp_path).runs()) == 8
