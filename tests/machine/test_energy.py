"""Energy and clocks from fake counters; where there are none, the reason."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.machine import energy

GPU = "GPU-abc"


def fake_rapl(root: Path, microjoules: list[int], most: int = 1_000_000) -> list[Path]:
    paths = []
    for i, value in enumerate(microjoules):
        folder = root / f"intel-rapl:{i}"
        (folder / f"intel-rapl:{i}:0").mkdir(parents=True)
        (folder / f"intel-rapl:{i}:0" / "energy_uj").write_text("77")  # a part of the package: not counted twice
        (folder / "energy_uj").write_text(str(value))
        (folder / "max_energy_range_uj").write_text(str(most))
        paths.append(folder / "energy_uj")
    return paths


def test_rapl_adds_packages_and_undoes_the_wrap_around(tmp_path: Path) -> None:
    first, second = fake_rapl(tmp_path, [100, 999_000])
    meter = energy.find_meter(None, rapl=tmp_path)
    assert meter.joules is not None
    assert meter.joules() == 0
    first.write_text("300100")
    second.write_text("999500")
    assert meter.joules() == pytest.approx(0.3005)
    second.write_text("500")  # wrapped at 1,000,000
    assert meter.joules() == pytest.approx(0.3005 + 0.001)


def test_a_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    meter = energy.find_meter(None, rapl=tmp_path)
    assert meter.joules is None
    assert "no RAPL counter" in meter.why_not
    fake_rapl(tmp_path, [5])[0].write_text("nonsense")
    meter = energy.find_meter(None, rapl=tmp_path)
    assert meter.joules is None
    assert "cannot be read" in meter.why_not


def test_joules_per_image_by_hand() -> None:
    """50 W for steps of 0.5 s and 10 images: 2.5 J per image, over a window of at least six seconds."""
    time = [0.0]
    meter = energy.Meter("fake", lambda: 50 * time[0])
    calls = [0]

    def step() -> None:
        time[0] += 0.5
        calls[0] += 1

    joules = energy.joules_per_image(meter, step, 10, lambda: None, lambda: time[0])
    assert joules == pytest.approx(2.5)
    assert calls[0] * 0.5 >= energy.WINDOW_SECONDS


class FakeNvml(SimpleNamespace):
    """An NVML that answers some questions, throttles, and has another process."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonGpuIdle = 1
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksEventReasonHwThermalSlowdown = 64

    def __init__(self) -> None:
        super().__init__()
        self.millijoules, self.pids, self.used = 1000, [1, 2, 3], 1_000_000_000

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == GPU
        return "handle"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        assert index == 1
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.millijoules += 2500
        return self.millijoules

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:
        return 1980 if which == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        raise RuntimeError("not supported")

    def nvmlDeviceGetTemperature(self, handle: str, which: int) -> int:
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 1 | 4

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=self.used, total=80_000_000_000)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake: Any = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.parametrize("gpu", [GPU, "1"])
def test_nvml_counts_joules(nvml: FakeNvml, gpu: str) -> None:
    meter = energy.find_meter(gpu)
    assert meter.joules is not None
    assert meter.joules() - meter.joules() == pytest.approx(-2.5)


def test_nvml_that_fails_is_a_reason(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: str) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", fails)
    meter = energy.find_meter(GPU)
    assert meter.joules is None
    assert "Not Supported" in meter.why_not


@pytest.mark.parametrize(
    ("pids", "used", "expected"),
    [
        ([7], 3_000_000_000, (0, 1_000_000_000, False)),
        ([], 3_000_000_000, (0, 1_000_000_000, False)),
        ([7, 8, 9], 3_000_000_000, (2, 1_000_000_000, True)),
        ([], 30_000_000_000, (0, 28_000_000_000, True)),
        ([7], 1_000_000_000, (0, 0, False)),
    ],
)
def test_a_gpu_that_others_use(nvml: FakeNvml, pids: list[int], used: int, expected: tuple[int, int, bool]) -> None:
    """By their processes, else by the memory that this one, with two billion bytes, does not hold."""
    nvml.pids, nvml.used = pids, used
    others = energy.others_on(GPU, 2_000_000_000)
    assert (others.processes, others.memory_bytes, others.shared) == expected


def test_without_nvml_nobody_else_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.others_on(GPU, 0) == energy.OthersOnGpu(None, None)
    assert not energy.others_on(GPU, 0).shared


def test_the_state_of_a_gpu_and_what_it_warns_of(nvml: FakeNvml) -> None:
    state = energy.gpu_state(GPU)
    assert state == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_celsius": 61,
        "throttle_reasons": "SwPowerCap",
        "processes": 3,
    }
    assert energy.warnings_of_state(state, {}) == [
        "the GPU was throttled before the session: SwPowerCap",
        "2 other processes on the GPU before the session",
    ]
    assert energy.gpu_state(None) == {}
    assert energy.warnings_of_state({}, {}) == []
