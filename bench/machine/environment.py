"""Where a figure was measured. Example: describe(torch.device("cpu"))["device_name"]

Functions that need torch import it when they are called.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "vit-pytorch", "fvcore", "numpy")
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # names of CPU flags; emulated bf16 is slower than fp32


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def choose_device(asked: str | None) -> torch.device:
    """`asked`, or CUDA where there is one, else the CPU. Raises UserError for a device that is not here."""
    import torch

    if asked is None:
        return torch.device("cuda" if has_cuda() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"unknown device '{asked}'; choices: cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{asked}' is not supported; choices: cpu, cuda, cuda:N")
    if device.type == "cuda" and not has_cuda():
        raise UserError("torch sees no CUDA device here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no {asked}; torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device


def hide_other_gpus(device: torch.device) -> None:
    """Let child processes see `device` alone, as their only GPU: which of several it is, is not part of a run."""
    if device.type == "cuda" and device.index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = visible.split(",") if visible else [str(i) for i in range(device.index + 1)]
        os.environ["CUDA_VISIBLE_DEVICES"] = every[device.index]


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's own name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The model name that the operating system gives, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def resolve_precision(asked: str, device: torch.device) -> str:
    """auto -> bf16 where the device computes in it natively, else fp32."""
    import torch

    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"  # Ampere and newer
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "fp32"
    return "bf16" if any(flag in flags for flag in NATIVE_BF16) else "fp32"


def fix_numerics(deterministic: bool) -> None:
    """The same arithmetic for every model: fp32 means fp32 (TF32 off); deterministic kernels where asked for."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def git_state() -> tuple[str, bool | None]:
    """(commit, whether tracked files differ from it) of this checkout; ("", None) outside one."""

    def git(*words: str) -> str:
        where = Path(__file__).resolve().parent
        return subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "", None


def training_code() -> str:
    """SHA-256 over the source that decides what a training computes: only the same code continues a checkpoint."""
    root = Path(__file__).resolve().parent
    files = [
        root / "budget.py",
        root / "train.py",
        root / "step.py",
        root / "data" / "augment.py",
        root / "data" / "loader.py",
    ]
    files += sorted((root.parent / "models").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def describe(device: torch.device) -> dict[str, Any]:
    """Everything about this machine and checkout that a reader of a figure may ask for, one fact a key."""
    import torch

    commit, dirty = git_state()
    facts: dict[str, Any] = {
        "device": device.type,
        "device_name": device_name(device),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "tf32": "off",
        "commit": commit,
        "dirty": dirty,
    }
    facts["torch"] = str(torch.__version__)  # a class of torch's own, which a checkpoint may not hold
    if device.type == "cpu":
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    else:
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
            "gpu_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
        }
    return facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # built from source and put on the path
        return "unknown"


def _driver() -> str:
    try:
        import pynvml  # the module of nvidia-ml-py

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as error:  # a sidecar: no fault of it may cost a measurement
        return f"unknown ({type(error).__name__})"


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak, where the system lets us; else the old one stays."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def reserved_memory_bytes(device: torch.device) -> int | None:
    """The peak of what torch's allocator took from the GPU, its own pool included; None on a CPU."""
    import torch

    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def peak_memory_bytes(device: torch.device) -> int | None:
    """The peak of this process so far, training and evaluation and the data set included; None where nobody knows.

    CUDA: bytes allocated by torch. CPU: resident bytes of the whole process, Python and its libraries included.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage on Linux: its peak is inherited from the parent, which has built every model of the sweep.
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
