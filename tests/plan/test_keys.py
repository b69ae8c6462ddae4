"""What makes two machines, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.analysis.tables import compare
from bench.core.errors import UserError
from bench.measure.setting_choice import setting_search_id
from bench.plan.keys import speed_key
from bench.plan.spec import session_of
from bench.store.records import Session, decode, encode
from bench.store.views import sessions_of
from tests.synthetic import ENVIRONMENT, record, sealed, session, spec, write_store

HOST = {"cpu": "AMD EPYC", "cpu_count": 64, "cpu_cores": 16, "cpu_capability": "AVX2"}
ON_GPU = {**ENVIRONMENT, **HOST, "device": "cuda", "device_name": "NVIDIA H100", "driver": "580"}


@pytest.mark.parametrize(("fact", "other"), [("cpu", "Xeon"), ("cpu_cores", 8), ("cpu_capability", "AVX512")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_host_is_another_machine(device: str, fact: str, other: Any) -> None:
    """On a CPU that calls itself the same, and for the same card."""
    one, here = spec("seresnet", device=device), ON_GPU if device == "cuda" else ENVIRONMENT | HOST
    assert speed_key(one, here) == speed_key(one, dict(here))
    assert speed_key(one, here) != speed_key(one, here | {fact: other})
    assert speed_key(one, here) == speed_key(one, here | {"cpu_count": 128}), "not given to the run"


def test_a_gpu_that_others_use_is_another_machine() -> None:
    """Coarsely: how many they are is not asked; older records, which do not say, count as alone."""
    one = spec("seresnet", device="cuda")
    alone, shared = ON_GPU | {"gpu_shared": False}, ON_GPU | {"gpu_shared": True, "gpu_other_processes": 2}
    assert speed_key(one, ON_GPU) == speed_key(one, alone)
    assert speed_key(one, shared) == speed_key(one, shared | {"gpu_other_processes": 5})
    assert speed_key(one, shared) != speed_key(one, alone)
    assert speed_key(one, ON_GPU | {"gpu_shared": "yes"}) == speed_key(one, ON_GPU), "a hostile record"
    searched = session_of([one], 60.0)
    assert setting_search_id(searched, shared) == setting_search_id(searched, alone)


def test_older_records_say_all_cores_or_nothing() -> None:
    older = {fact: value for fact, value in HOST.items() if fact != "cpu_cores"}
    assert speed_key(spec("seresnet"), ENVIRONMENT | older).cpu_cores == 64
    assert speed_key(spec("seresnet"), ENVIRONMENT).host == ""
    assert speed_key(spec("seresnet"), ENVIRONMENT | HOST).host == "AMD EPYC, 16 cores, AVX2"
    hostile = ENVIRONMENT | {"cpu": 3.0, "cpu_cores": "x", "cpu_capability": True}
    assert speed_key(spec("seresnet"), hostile) == speed_key(spec("seresnet"), ENVIRONMENT)


def test_an_older_session_has_its_host_from_its_environment() -> None:
    """Its key was recorded without one; its runs are still timed by it, those of another host are not."""
    timed = msgspec.structs.replace(session({"seresnet": [1.0]}), environment=ENVIRONMENT | HOST)
    raw = msgspec.json.decode(encode(timed))
    raw["key"] = {part: value for part, value in raw["key"].items() if not part.startswith("cpu")}
    read = decode(sealed(raw), timed.id, Session)
    assert read.key == replace(timed.key, cpu="AMD EPYC", cpu_cores=16, cpu_capability="AVX2")
    assert decode(encode(read), read.id, Session) == read
    run = record(spec("seresnet"), 0.9, environment=ENVIRONMENT | HOST)
    assert sessions_of(run, [read]) == [read]
    elsewhere = record(spec("seresnet"), 0.9, environment=ENVIRONMENT | HOST | {"cpu_capability": "AVX512"})
    assert sessions_of(elsewhere, [read]) == []


def test_two_hosts_have_two_tables_whose_titles_tell_them_apart(tmp_path: Path) -> None:
    store = write_store(tmp_path, {})
    for seed, capability in enumerate(("AVX2", "AVX512")):
        facts = ENVIRONMENT | HOST | {"cpu_capability": capability}
        store.write_record(record(spec("seresnet", seed), 0.9, environment=facts))
    with pytest.raises(UserError, match="cpu_capability: AVX2 or AVX512"):
        compare([store], by_device=False)
    titles = [comparison.title.rpartition(" · ")[2] for comparison in compare([store])]
    assert titles == ["cpu_capability AVX2", "cpu_capability AVX512"]
