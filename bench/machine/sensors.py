"""Memory and clocks during a sweep, as one line of text. Example: read = sensors_of("cpu"); print(read())

On a CPU from /proc and /sys, on a GPU from NVML. A value that the machine does not report is `not readable here`.
Reading takes about a millisecond. None of this is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.machine import energy

Sensors = Callable[[], str]
PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
UNKNOWN = "not readable here"
KILO, GIGA = 1e3, 1e9


def sensors_of(asked: str | None) -> Sensors:
    """The reader for a device, named as in --device. It may raise; its caller must tolerate that.

    None: the first GPU where NVML shows one, else the CPU.
    """
    gpu = gpu_of(asked or "cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # torch then computes on the CPU
    if asked == "cpu" or (asked is None and (hidden or energy.gpu_memory(gpu) is None)):
        return cpu_line
    return lambda: gpu_line(gpu)


def gpu_of(device: str) -> str:
    """`cuda` or `cuda:N` as NVML's name of that GPU, following CUDA_VISIBLE_DEVICES."""
    number = device.partition(":")[2] or "0"
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[int(number)] if int(number) < len(visible) else number


def cpu_line(proc: Path = PROC, cpus: Path = CPUS, pid: int | None = None) -> str:
    """Resident memory of this process's descendants, of how much the machine has, and the clocks of its cores."""
    return f"memory {memory_text(proc, pid or os.getpid())} · clock {clock_text(proc, cpus)}"


def memory_text(proc: Path, pid: int) -> str:
    """Such as `1.2 of 16.0 GB`. Pages that processes share are counted in each of them."""
    try:
        used = sum(resident_bytes(proc, child) for child in descendants(proc, pid))
        total = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        return f"{used / GIGA:.1f} of {int(total.split()[1]) * 1024 / GIGA:.1f} GB"
    except (OSError, ValueError, StopIteration):
        return UNKNOWN


def descendants(proc: Path, pid: int) -> list[int]:
    """All descendants of `pid`. Raises OSError where the kernel keeps no lists of children.

    Linux lists the children of each thread (CONFIG_PROC_CHILDREN), so that not every process has to be read.
    """
    children = [
        int(c) for task in (proc / str(pid) / "task").iterdir() for c in (task / "children").read_text().split()
    ]
    pids = []
    for child in children:
        try:
            pids += [child, *descendants(proc, child)]
        except OSError:  # it has ended since
            continue
    return pids


def resident_bytes(proc: Path, pid: int) -> int:
    """The resident set of a process; 0 where it has ended."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def clock_text(proc: Path, cpus: Path) -> str:
    """Such as `2.45 GHz`, or `1.20 to 3.40 GHz` where the cores differ."""
    try:
        mhz = [int(path.read_text()) / KILO for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        if not mhz:
            lines = (proc / "cpuinfo").read_text().splitlines()
            mhz = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return UNKNOWN
    if not mhz:
        return UNKNOWN
    low, high = f"{min(mhz) / KILO:.2f}", f"{max(mhz) / KILO:.2f}"
    return f"{high} GHz" if low == high else f"{low} to {high} GHz"


def gpu_line(gpu: str) -> str:
    """Memory of the whole GPU, clocks, temperature and power, each where NVML reports it."""
    state, memory = energy.gpu_state(gpu), energy.gpu_memory(gpu)
    units: dict[str, Callable[[float], str]] = {
        "sm_clock_mhz": lambda mhz: f"clock {mhz / KILO:.2f} GHz",
        "memory_clock_mhz": lambda mhz: f"memory clock {mhz / KILO:.2f} GHz",
        "temperature_celsius": lambda celsius: f"{celsius} °C",
        "power_watts": lambda watts: f"{watts:.0f} W",
    }
    parts = [f"memory {memory[0] / GIGA:.1f} of {memory[1] / GIGA:.1f} GB"] if memory else []
    parts += [say(state[name]) for name, say in units.items() if name in state]
    return " · ".join(parts) or f"memory and clocks {UNKNOWN}"
