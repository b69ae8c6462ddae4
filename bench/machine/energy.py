"""Joules, clocks, temperature, throttling, where the machine tells. Example: meter = find_meter(device); meter.joules()

NVIDIA GPUs through nvidia-ml-py, CPUs through RAPL's counters in /sys. Where neither can be read the figure is missing
with its reason, never zero. No fault here may cost a measurement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

RAPL = Path("/sys/class/powercap")
WINDOW_SECONDS = 6.0  # NVML's counter moves every 20 to 100 ms: a window of seconds keeps that under 2 %


@dataclass(frozen=True)
class Meter:
    """A counter of joules since some moment: of what (`source`), and why there is none where `joules` is None."""

    source: str
    joules: Callable[[], float] | None
    why_not: str = ""


def find_meter(device: torch.device, rapl: Path = RAPL) -> Meter:
    """The counter of the device that computes."""
    return _nvml_meter(device) if device.type == "cuda" else _rapl_meter(rapl)


def _nvml_meter(device: torch.device) -> Meter:
    try:
        pynvml, handle = _nvml(device)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # Volta and newer
    except Exception as error:
        return Meter("nvml", None, f"NVML does not say ({type(error).__name__}: {error})")
    return Meter("nvml", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)


def _rapl_meter(root: Path) -> Meter:
    """The packages' counters, their wrap-around undone."""
    counters = sorted(root.glob("*-rapl:[0-9]*/energy_uj"))
    counters = [path for path in counters if path.parent.name.count(":") == 1]  # packages, not their parts
    if not counters:
        return Meter("rapl", None, "this machine has no RAPL counter (virtual machines rarely do)")
    try:
        wraps = [int((path.parent / "max_energy_range_uj").read_text()) for path in counters]
        last = [int(path.read_text()) for path in counters]
    except (OSError, ValueError) as error:
        return Meter("rapl", None, f"RAPL's counter cannot be read ({getattr(error, 'strerror', None) or error})")
    total = [0]

    def joules() -> float:
        for i, path in enumerate(counters):
            value = int(path.read_text())
            total[0] += value - last[i] if value >= last[i] else value + wraps[i] - last[i]
            last[i] = value
        return total[0] / 1e6

    return Meter("rapl", joules)


def joules_per_image(
    meter: Meter, call: Callable[[], object], images: int, sync: Callable[[], None], now: Callable[[], float]
) -> float:
    """Joules for one image of a training step, over a window of at least WINDOW_SECONDS. The whole device's."""
    assert meter.joules is not None
    sync()
    start, before, calls = now(), meter.joules(), 0
    while now() - start < WINDOW_SECONDS:
        call()
        sync()
        calls += 1
    return (meter.joules() - before) / (calls * images)


def _nvml(device: torch.device) -> tuple[Any, Any]:
    import pynvml  # the module of nvidia-ml-py
    import torch

    pynvml.nvmlInit()
    # by its own name: the numbers of CUDA and NVML differ where CUDA_VISIBLE_DEVICES is set
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)


def gpu_state(device: torch.device) -> dict[str, Any]:
    """Clocks (MHz), power (W), temperature (°C), reasons for low clocks and other processes; {} on a CPU."""
    if device.type != "cuda":
        return {}
    try:
        pynvml, handle = _nvml(device)
    except Exception as error:
        return {"why_not": f"{type(error).__name__}: {error}"}
    asked: dict[str, Callable[[], Any]] = {
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "temperature_celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: _reasons(pynvml, pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        "processes": lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    }
    state = {}
    for name, ask in asked.items():
        with contextlib.suppress(Exception):  # not every card answers every question
            state[name] = ask()
    return state


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes of the GPU's memory in use, whoever uses them, and all of them; None where NVML does not say."""
    try:
        pynvml, handle = _nvml(device)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.used), int(memory.total)
    except Exception:
        return None


def _reasons(pynvml: Any, mask: int) -> str:
    """The names of the reasons that slow a GPU down, by commas; being idle or at the user's own clocks is none."""
    harmless = ("GpuIdle", "ApplicationsClocksSetting", "None", "All")
    names = {
        name.removeprefix("nvmlClocksEventReason"): getattr(pynvml, name)
        for name in dir(pynvml)
        if name.startswith("nvmlClocksEventReason")
    }
    return ", ".join(sorted(n for n, bit in names.items() if n not in harmless and isinstance(bit, int) and mask & bit))


def warnings_of_state(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What the GPU's state before and after a session says against it."""
    found = []
    for when, state in (("before", before), ("after", after)):
        if state.get("throttle_reasons"):
            found.append(f"the GPU was held back {when} the session: {state['throttle_reasons']}")
        if state.get("processes", 1) > 1:
            found.append(f"{state['processes'] - 1} other process(es) on the GPU {when} the session")
    return found
