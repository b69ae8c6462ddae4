"""What a machine says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.machine.environment import cores_given, process_age


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_cores_given_are_those_of_affinity_and_of_a_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert cores_given(quota) == 8, "no cgroup"
    for text, cores in (("max 100000", 8), ("250000 100000", 3), ("6400000 100000", 8), ("nonsense", 8)):
        quota.write_text(f"{text}\n")
        assert cores_given(quota) == cores, text


def test_a_process_knows_its_age() -> None:
    age = process_age()
    if Path("/proc/self/stat").exists():
        assert 0 < age < 86400
