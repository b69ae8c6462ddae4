"""What limits a training step. Example: bound(work, ceilings, batch_size, seconds)

The ceilings are measured on the same device in the same session: a large matrix product, a large copy, an operator on
one element, the loader alone. The work of a step is counted: operators, bytes read and written by each, floating-point
operations. Work divided by its ceiling is a lower bound on the step's time (for operators that run one by one, unfused,
as in eager mode). The largest of the four names the limit.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.data.loader import Batches
from bench.measure.timing import Stopwatch
from bench.plan.spec import Recipe
from bench.store.records import Ceilings

# Large enough that launching an operator is negligible, small enough to end within a second or two.
MATMUL_SIZE = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
LOADER_IMAGES = 4096
TRIALS = 5  # the best is the ceiling
BOUNDS = ("launch", "bandwidth", "compute", "loader")

# Groups of operators by parts of their names; the first match counts.
GROUPS = (
    ("attention", ("scaled_dot_product", "flash", "efficient_attention")),
    ("convolution", ("convolution", "conv2d", "conv_")),
    ("matrix product", ("mm", "linear", "bmm", "einsum", "matmul")),
    ("normalisation", ("batch_norm", "layer_norm", "group_norm", "native_norm")),
    ("optimizer", ("_fused_adam", "_fused_sgd", "_foreach", "adam", "sgd")),
    ("softmax and loss", ("softmax", "nll_loss", "cross_entropy")),
    (
        "copies and layout",
        ("copy", "clone", "contiguous", "cat", "stack", "fill_", "zero", "empty", "_to_copy", "index"),
    ),
    ("pooling and sums", ("pool", "sum", "mean", "norm")),
)


@dataclass(frozen=True)
class Work:
    """A training step: operators that compute, the bytes of their inputs and outputs, floating-point operations."""

    operators: int
    bytes: int
    flops_2x: int | None


@dataclass(frozen=True)
class Limit:
    """The nearest limit, the share of the step's time that it explains, and the shares of all limits."""

    name: str
    share: float
    shares: dict[str, float]
    flops_per_second: float | None


def measure_ceilings(device: torch.device, precision: str, batches: Batches, stopwatch: Stopwatch) -> Ceilings:
    """The four ceilings, each the best of TRIALS; takes a few seconds."""
    size, length = MATMUL_SIZE[device.type], COPY_BYTES[device.type] // 4
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(length, device=device)
    target = torch.ones_like(source)
    one = torch.zeros(1, device=device)

    def best(call: Callable[[], object], calls: int) -> float:
        stopwatch(call, 1)
        return min(stopwatch(call, calls) / calls for _ in range(TRIALS))

    def load() -> None:
        for _ in batches.epoch(0):
            pass

    with torch.inference_mode():
        return Ceilings(
            flops_per_second=2 * size**3 / best(lambda: a @ b, 2),
            bytes_per_second=2 * 4 * length / best(lambda: target.copy_(source), 2),
            launch_seconds=best(lambda: one.add_(1.0), 2000),
            loader_images_per_second=batches.steps * batches.batch_size / best(load, 1),
        )


def random_batches(recipe: Recipe, num_classes: int, image_size: int, device: torch.device) -> Batches:
    """Random images, to time the recipe's loading."""
    count = max(LOADER_IMAGES // recipe.batch_size, 1) * recipe.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    return Batches.create(images, np.zeros(count, np.int64), recipe, num_classes, 0, device)


FREE = ("aten::empty", "aten::detach", "aten::_unsafe_view")  # no kernel, no bytes moved


class _Counting(TorchDispatchMode):
    """Counts operators that run a kernel, and the bytes that they read and write; views do neither."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not any(p in func.name() for p in FREE):
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.operators += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def count_work(step: Callable[[], object], flops_2x: int | None) -> Work:
    """Run one step and count its work. `flops_2x`: of the whole batch, counted elsewhere (cost.train_flops)."""
    with _Counting() as counting:
        step()
    return Work(counting.operators, counting.bytes, flops_2x)


def bound(work: Work, ceilings: Ceilings, batch_size: int, seconds: float) -> Limit:
    """Which of the four limits a step of `seconds` is nearest to."""
    times = {
        "launch": work.operators * ceilings.launch_seconds,
        "bandwidth": work.bytes / ceilings.bytes_per_second,
        "compute": (work.flops_2x or 0) / ceilings.flops_per_second,
        "loader": batch_size / ceilings.loader_images_per_second,
    }
    shares = {name: time / seconds for name, time in times.items()}
    name = max(BOUNDS, key=lambda b: shares[b])
    return Limit(name, shares[name], shares, work.flops_2x / seconds if work.flops_2x else None)


# Twice the batch relieves a limit by launches, but not one by arithmetic or bytes. Ratio of images/s at twice the batch
# to the original: above the first value launches were the limit, below the second they were not.
CONFIRMS_LAUNCH, REFUTES_LAUNCH = 1.4, 1.15


def confirmed(name: str, twice_the_batch: float | None) -> str:
    """Whether the experiment with twice the batch supports it: `confirmed`, `refuted`, `unclear`, `not tried`."""
    if twice_the_batch is None or name == "loader":
        return "not tried"
    launches = twice_the_batch > CONFIRMS_LAUNCH
    if not launches and twice_the_batch >= REFUTES_LAUNCH:
        return "unclear"
    return "confirmed" if launches == (name == "launch") else "refuted"


def group_of(operator: str) -> str:
    """The group that an operator belongs to."""
    plain = operator.lower().removeprefix("aten::")
    return next((group for group, pieces in GROUPS if any(piece in plain for piece in pieces)), "elementwise")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what torch's profiler writes to the terminal at its start and stop; errors are still raised."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def explain(step: Callable[[], object], device: torch.device, steps: int = 3) -> dict[str, float]:
    """Seconds of one step by group of operators, largest first, from torch's profiler.

    Self time, so that nothing is counted twice: of kernels on CUDA, of operators on a CPU. Time spent in Python is not
    included.
    """
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _quiet_stderr(), profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.key.startswith(("ProfilerStep", "cuda", "Optimizer", "[memory]", "autograd::", "torch::")):
            continue
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if spent > 0 and (event.key.startswith("aten::") or cuda):
            seconds[group_of(event.key)] += spent / 1e6 / steps
    return dict(seconds.most_common())
