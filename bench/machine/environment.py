"""Facts about this machine and checkout, without torch. Example: git_state()[0], cpu_name(), driver_version()"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "timm", "vit-pytorch", "fvcore", "numpy")
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # names of CPU flags; emulated bf16 is slower than fp32


def cpu_name() -> str:
    """The model name that the operating system gives, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_has_bf16() -> bool:
    """Whether the CPU computes in bf16 natively."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in NATIVE_BF16)


def cores_given(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many of its cores the machine gives this process: by affinity, and by a container's limit on their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()  # cgroup v2: microseconds of each period, or "max"
        return min(cores, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):
        return cores


def hide_other_gpus(index: int) -> None:
    """Let child processes see one GPU only: which of several it is does not identify a run."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(index + 1)]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[index]


def git_state() -> tuple[str, bool | None]:
    """(commit, whether tracked files differ from it) of this checkout; ("", None) outside one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "", None


def package_version(package: str) -> str:
    """The installed version; `unknown` for a package that was built from source and put on the path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def process_age() -> float:
    """Seconds since this process began, in steps of the kernel's clock of 0.01 s; 0 where /proc does not say."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5), field 22
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def nvidia_driver() -> str | None:
    """The version of this machine's NVIDIA driver; None where there is none, or it is hidden from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    version = driver_version()
    return None if hidden or version.startswith("unknown") else version


def driver_version() -> str:
    """The NVIDIA driver's version, or `unknown` with the reason."""
    try:
        import pynvml  # the module of nvidia-ml-py

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as error:  # optional: its failure must not lose a measurement
        return f"unknown ({type(error).__name__})"
