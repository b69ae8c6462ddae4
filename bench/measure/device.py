"""Device, precision, memory and facts, as torch reports them. Example: describe(choose_device("cpu"))["device_name"]"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.core.errors import UserError
from bench.core.events import Described, DeviceFound, Report
from bench.machine import energy
from bench.machine.environment import (
    PACKAGES,
    cores_given,
    cpu_has_bf16,
    cpu_name,
    driver_version,
    git_state,
    nvidia_driver,
    package_version,
)
from bench.plan.keys import Fact

DRIVERS = {11: 450, 12: 525, 13: 580}  # by major version of CUDA: the oldest driver (CUDA's release notes, Linux)


def choose_device(asked: str | None) -> torch.device:
    """`asked`, or CUDA where there is one, else the CPU. Raises UserError for a device that is not available."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"unknown device '{asked}'; choices: cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{asked}' is not supported; choices: cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        why = why_no_gpu(nvidia_driver(), torch.version.cuda)
        raise UserError(f"torch sees no CUDA device here{f': {why}' if why else ''}; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no {asked}; torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device


def why_no_gpu(driver: str | None, cuda: str | None) -> str:
    """Why torch, built for CUDA `cuda` or None, sees no GPU although there is this NVIDIA driver; "" for no driver."""
    if driver is None:
        return ""
    if cuda is None:
        return (
            f"torch here is a CPU build, so this machine's NVIDIA GPU (driver {driver}) is not used; "
            "install a build for CUDA: pip install --force-reinstall torch"
        )
    least, have = DRIVERS.get(int(cuda.partition(".")[0])), driver.partition(".")[0]
    if least and have.isdecimal() and int(have) < least:
        return (
            f"torch here is built for CUDA {cuda}, which needs NVIDIA driver {least} or newer; this machine has "
            f"{driver}, so its GPU is not used; update the driver, or install a torch for an older CUDA"
        )
    return f"there is an NVIDIA driver ({driver}), but torch for CUDA {cuda} finds no GPU; see what nvidia-smi says"


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's model name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def gpu_uuid(device: torch.device) -> str | None:
    """The GPU's name for NVML, since CUDA and NVML may number GPUs differently; None for a CPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 natively: GPUs from Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else cpu_has_bf16()


def resolve_precision(asked: str, device: torch.device) -> str:
    """auto -> bf16 where the device computes in it natively, else fp32."""
    if asked != "auto":
        return asked
    return "bf16" if has_native_bf16(device) else "fp32"


def fix_numerics(deterministic: bool) -> None:
    """The same arithmetic for every model: fp32 means fp32 (TF32 off); deterministic kernels where asked for."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def describe(device: torch.device) -> dict[str, Fact]:
    """Facts about this machine and checkout that a record keeps."""
    commit, dirty = git_state()
    facts: dict[str, Fact] = {
        "device": device.type,
        "device_name": device_name(device),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "cpu_cores": cores_given(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
        "tf32": "off",
        "commit": commit,
        "dirty": dirty,
    }
    facts["torch"] = str(torch.__version__)  # it is a subclass of str, which a checkpoint may not hold
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        others = energy.others_on(gpu_uuid(device) or "", torch.cuda.memory_reserved(device))
        facts |= {
            "gpu_shared": others.shared,
            "gpu_other_processes": others.processes,
            "gpu_other_memory_bytes": others.memory_bytes,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver_version(),
            "gpu_memory_bytes": properties.total_memory,
            "gpu_processors": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "mig": " MIG "
            in device_name(device),  # CUDA names a slice by its profile: NVIDIA H100 80GB HBM3 MIG 1g.10gb
        }
    return facts


def synchroniser(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished; it does nothing on a CPU."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


# --- memory ------------------------------------------------------------------------------------------------------


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak where the system allows it; else the old one stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def reserved_memory_bytes(device: torch.device) -> int | None:
    """Peak memory that torch's allocator reserved on the GPU; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory of this process, data set included; None where it is unknown.

    CUDA: bytes allocated by torch. CPU: resident bytes of the whole process, Python and its libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage on Linux: its peak is inherited from the parent process.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- in a child process, for a driver that loads no torch ----------------------------------------------------------


def child_devices(report: Report, asked: str | None) -> None:
    """Report each available device: every GPU, the one GPU requested, or all cores of the CPU as one device.

    `asked`: the value of --device. Raises UserError for a device that is not available.
    """
    chosen = choose_device(asked)
    if chosen.type == "cpu":
        note = why_no_gpu(nvidia_driver(), torch.version.cuda) if asked is None else ""
        report(_device_event(chosen, None, note))
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    for index in range(torch.cuda.device_count()) if chosen.index is None else [chosen.index]:
        report(_device_event(torch.device("cuda", index), names[index]))


def _device_event(device: torch.device, visible: str | None, note: str = "") -> DeviceFound:
    return DeviceFound(
        type=device.type,
        index=device.index,
        kind=device_name(device),
        native_bf16=has_native_bf16(device),
        threads=torch.get_num_threads(),
        visible=visible,
        note=note,
    )


def child_describe(report: Report, device_type: str) -> None:
    """Report the facts that a record of this machine holds."""
    report(Described(describe(torch.device(device_type))))
