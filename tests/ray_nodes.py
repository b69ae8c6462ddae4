"""A Ray cluster of one-CPU nodes on this machine. Example: with two_nodes(tmp_path) as cluster: cluster.add_node()"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT


@contextlib.contextmanager
def two_nodes(place: Path) -> Iterator[Any]:
    """Two nodes; what they share with other tests on this machine, under `place`, is theirs alone."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVIT_HOST_LOCK", str(place / "host.lock"))
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))  # one for all, whoever has a token
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("SEVIT_START_METHOD", "spawn")  # the tests' tasks need no torch, which a fork server would import
        soon = {"health_check_period_ms": 300, "health_check_initial_delay_ms": 300}  # a node that died is missed
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()
