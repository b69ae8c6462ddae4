"""Joules, clocks, temperature and throttling, where the machine reports them. Example: gpu_state(None) == {}

NVIDIA GPUs through nvidia-ml-py, CPUs through RAPL's counters in /sys. Where neither can be read, the figure is missing
and the reason given; it is never zero. A failure here never loses a measurement. A GPU is named by its UUID ("GPU-…")
or by its index as NVML counts; None is the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.text import plural

RAPL = Path("/sys/class/powercap")
OTHERS_BYTES = 4 * 1024**3  # more than this process's context, the driver's share and a desktop take
WINDOW_SECONDS = 6.0  # NVML's counter moves every 20 to 100 ms: a window of seconds keeps that under 2 %


@dataclass(frozen=True)
class Meter:
    """A counter of joules: its `source`, and the reason where `joules` is None."""

    source: str
    joules: Callable[[], float] | None
    why_not: str = ""


def find_meter(gpu: str | None, rapl: Path = RAPL) -> Meter:
    """The counter of the device that computes."""
    return _nvml_meter(gpu) if gpu is not None else _rapl_meter(rapl)


def _nvml_meter(gpu: str) -> Meter:
    try:
        pynvml, handle = _nvml(gpu)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # Volta and newer
    except Exception as error:
        return Meter("nvml", None, f"NVML does not report it ({type(error).__name__}: {error})")
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
    """Joules of the whole device per image of a training step, over at least WINDOW_SECONDS."""
    assert meter.joules is not None
    sync()
    start, before, calls = now(), meter.joules(), 0
    while now() - start < WINDOW_SECONDS:
        call()
        sync()
        calls += 1
    return (meter.joules() - before) / (calls * images)


def _nvml(gpu: str) -> tuple[Any, Any]:
    import pynvml  # the module of nvidia-ml-py

    pynvml.nvmlInit()
    by_index = gpu.isdecimal()
    return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(gpu)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(gpu)


def gpu_state(gpu: str | None) -> dict[str, Any]:
    """Clocks (MHz), power (W), temperature (°C), reasons for low clocks and other processes; {} for a CPU."""
    if gpu is None:
        return {}
    try:
        pynvml, handle = _nvml(gpu)
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
        with contextlib.suppress(Exception):  # not every card reports everything
            state[name] = ask()
    return state


@dataclass(frozen=True)
class OthersOnGpu:
    """Who else uses a GPU. None: NVML does not say."""

    processes: int | None = None
    memory_bytes: int | None = None

    @property
    def shared(self) -> bool:
        """Whether what is measured now is measured on a part of the GPU."""
        return bool(self.processes) or (self.memory_bytes or 0) > OTHERS_BYTES


def others_on(gpu: str, own_bytes: int) -> OthersOnGpu:
    """Processes that compute on a GPU beside this one, and what is in use of its memory beyond `own_bytes`.

    Where they are hidden, as from a container, memory tells; where they are listed under numbers of another namespace,
    one of them is this one.
    """
    try:
        pynvml, handle = _nvml(gpu)
        listed = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except Exception:
        return OthersOnGpu()
    memory = gpu_memory(gpu)
    return OthersOnGpu(max(0, len(listed) - 1), max(0, memory[0] - own_bytes) if memory else None)


def gpu_memory(gpu: str) -> tuple[int, int] | None:
    """Bytes of the GPU's memory in use by any process, and in all; None where NVML does not report it."""
    try:
        pynvml, handle = _nvml(gpu)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.used), int(memory.total)
    except Exception:
        return None


def _reasons(pynvml: Any, mask: int) -> str:
    """The reasons that slow a GPU down, separated by commas; idleness and clocks set by the user are left out."""
    harmless = ("GpuIdle", "ApplicationsClocksSetting", "None", "All")
    names = {
        name.removeprefix("nvmlClocksEventReason"): getattr(pynvml, name)
        for name in dir(pynvml)
        if name.startswith("nvmlClocksEventReason")
    }
    return ", ".join(sorted(n for n, bit in names.items() if n not in harmless and isinstance(bit, int) and mask & bit))


def warnings_of_state(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Reasons to doubt a session, from the GPU's state before and after it."""
    warnings = []
    for when, state in (("before", before), ("after", after)):
        if state.get("throttle_reasons"):
            warnings.append(f"the GPU was throttled {when} the session: {state['throttle_reasons']}")
        if state.get("processes", 1) > 1:
            warnings.append(
                f"{plural(state['processes'] - 1, 'other process', 'other processes')} on the GPU {when} the session"
            )
    return warnings
