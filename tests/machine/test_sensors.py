"""What the live screen shows of the machine, from made-up files and a made-up NVML."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.machine import energy, sensors


def test_memory_and_clocks_from_files(tmp_path: Path) -> None:
    proc, cpus = tmp_path / "proc", tmp_path / "cpu"
    for pid, children, pages in ((1, "2 3", 9), (2, "4", 100), (3, "", 200), (4, "", 300)):
        (proc / str(pid) / "task" / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "task" / str(pid) / "children").write_text(children)
        (proc / str(pid) / "statm").write_text(f"{10 * pages} {pages * 1000} 0")
    (proc / "meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 5 kB\n")
    used = 600_000 * os.sysconf("SC_PAGE_SIZE") / 1e9
    assert sensors.cpu_line(proc, cpus, 1) == f"memory {used:.1f} of 16.4 GB · clock not readable here"
    (proc / "cpuinfo").write_text("cpu MHz\t\t: 2450.0\ncpu MHz\t\t: 2450.2\n")
    assert sensors.clock_text(proc, cpus) == "2.45 GHz"
    for core, kilohertz in enumerate((1_200_000, 3_400_000)):
        (cpus / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (cpus / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    assert sensors.clock_text(proc, cpus) == "1.20 to 3.40 GHz"
    assert sensors.memory_text(proc, 77) == "not readable here"


def test_a_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "gpu_state", lambda _: {"why_not": "no NVML"})
    monkeypatch.setattr(energy, "gpu_memory", lambda _: None)
    read = sensors.sensors_of("cuda")
    assert read() == "memory and clocks not readable here"
    monkeypatch.setattr(energy, "gpu_memory", lambda _: (10_200_000_000, 80_000_000_000))
    monkeypatch.setattr(energy, "gpu_state", lambda _: {"sm_clock_mhz": 1980, "temperature_celsius": 61})
    assert read() == "memory 10.2 of 80.0 GB · clock 1.98 GHz · 61 °C"


@pytest.mark.parametrize(
    ("visible", "device", "gpu"),
    [("", "cuda", "0"), ("", "cuda:2", "2"), ("3,1", "cuda:1", "1"), ("GPU-abc", "cuda", "GPU-abc")],
)
def test_the_gpu_follows_cuda_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str, gpu: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert sensors.gpu_of(device) == gpu


def test_gpu_memory_is_nvml_s(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = SimpleNamespace(nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3, total=handle))
    monkeypatch.setattr(energy, "_nvml", lambda gpu: (nvml, 5))
    assert energy.gpu_memory("0") == (3, 5)
    monkeypatch.setattr(energy, "_nvml", lambda gpu: 1 / 0)
    assert energy.gpu_memory("0") is None
