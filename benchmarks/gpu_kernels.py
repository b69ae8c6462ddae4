"""Where a graphed training step spends its time on a GPU. Example: python benchmarks/gpu_kernels.py --limit 240

Prints the kernels of a captured step by time; the throughput of several captured steps on parallel streams, which is
what several seeds in one process could gain; and that of layouts, attention kernels, batch sizes and other models. The
steps are those of benchmarks/gpu_steps.py. After `--limit` seconds nothing more is started.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.core.status import one_line
from bench.measure.timing import wall_stopwatch
from bench.plan.spec import Setting
from benchmarks.gpu_steps import GRAPHED, images_per_second, require_cuda, training_step

PROFILED = 5  # steps
STREAM_ROUNDS = 40
SECONDS = 0.4  # of a measurement of throughput
CONTIGUOUS = replace(GRAPHED, memory_format="contiguous")


@dataclass(frozen=True)
class Variant:
    """A step to compare with others: `label` says how it differs."""

    model: str
    batch_size: int
    setting: Setting
    label: str
    recipe: dict[str, Any] = field(default_factory=dict)  # fields of the shared recipe to replace
    attention: SDPBackend | None = None  # the only kernel that scaled_dot_product_attention may choose


VARIANTS = (
    Variant("seresnet", 128, CONTIGUOUS, "contiguous"),
    Variant("seresnet", 128, GRAPHED, "no gradient clipping", {"clip_grad_norm": 0.0}),
    Variant("vit_tiny", 128, replace(GRAPHED, attention="explicit"), "explicit attention"),
    Variant("vit_tiny", 128, GRAPHED, "cuDNN attention", attention=SDPBackend.CUDNN_ATTENTION),
    Variant("vit_tiny", 128, GRAPHED, "efficient attention", attention=SDPBackend.EFFICIENT_ATTENTION),
    Variant("vit_tiny", 128, GRAPHED, "flash attention", attention=SDPBackend.FLASH_ATTENTION),
    Variant("vit_tiny", 128, replace(GRAPHED, attention="math"), "math attention"),
    Variant("seresnet", 512, CONTIGUOUS, "contiguous"),
    Variant("vit_tiny", 128, CONTIGUOUS, "contiguous"),
    Variant("seresnet", 256, GRAPHED, "graphed"),
    *(Variant(m, 128, GRAPHED, "graphed") for m in ("vit_params", "cct_2", "seresnet20", "vit_lite", "swin")),
    Variant("seresnet", 2048, GRAPHED, "graphed"),
)


def print_kernels(model: str, batch_size: int, top: int) -> None:
    """The `top` kernels of a graphed step by time, and what all of them take together."""
    from torch.profiler import ProfilerActivity, profile

    task = training_step(model, batch_size, GRAPHED)
    for _ in range(4):
        task.call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            task.call()
        torch.cuda.synchronize()
    microseconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in profiler.events() or ():
        if event.device_time_total:
            microseconds[event.name] += event.device_time_total / PROFILED
            launches[event.name] += 1
    step = 1e3 * batch_size / images_per_second(task, SECONDS)
    print(
        f"{model}, batch {batch_size}: {step:.2f} ms per step, {launches.total() // PROFILED} kernels that take "
        f"{microseconds.total() / 1e3:.2f} ms"
    )
    for name, spent in microseconds.most_common(top):
        print(f"  {spent:8.0f} µs {launches[name] // PROFILED:5d} x {name[:100]}")


def print_streams(model: str, batch_size: int, counts: Sequence[int]) -> None:
    """Total throughput of several graphed steps, each on a stream of its own, for each number of them."""
    steps = []
    for _ in range(max(counts)):
        task = training_step(model, batch_size, GRAPHED)
        task.call()
        steps.append((task, torch.cuda.Stream()))
    stopwatch, alone = wall_stopwatch(time.perf_counter, torch.cuda.synchronize), None
    for count in counts:

        def take_turns(running: int = count) -> None:
            for task, stream in steps[:running]:
                with torch.cuda.stream(stream):
                    task.call()

        stopwatch(take_turns, 3)
        speed = count * batch_size * STREAM_ROUNDS / stopwatch(take_turns, STREAM_ROUNDS)
        alone = alone or speed / count
        print(f"{model}, batch {batch_size}, {count} on streams: {speed:,.0f} images/s in total, {speed / alone:.2f}x")


def print_variant(variant: Variant) -> None:
    """The throughput of a variant."""
    backend = variant.attention
    with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        task = training_step(variant.model, variant.batch_size, variant.setting, **variant.recipe)
        task.call()
        speed = images_per_second(task, SECONDS)
    milliseconds = 1e3 * variant.batch_size / speed
    print(
        f"{variant.model:10} batch {variant.batch_size:<5} {variant.label:22} {speed:9,.0f} images/s  "
        f"{milliseconds:.3f} ms"
    )


def measurements() -> list[tuple[str, Callable[[], None]]]:
    """(title, measurement) in the order of their worth."""
    kernels = [("seresnet", 128, 22), ("vit_tiny", 128, 16), ("seresnet", 512, 12)]
    return [
        *((f"kernels of {m}, batch {b}", lambda m=m, b=b, top=top: print_kernels(m, b, top)) for m, b, top in kernels),
        ("streams", lambda: print_streams("seresnet", 128, (1, 2, 4))),
        *((f"{v.model}, batch {v.batch_size}, {v.label}", lambda v=v: print_variant(v)) for v in VARIANTS),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which nothing is started (300)")
    arguments = parser.parse_args()
    start, failures = time.perf_counter(), 0
    require_cuda(parser)
    for title, measurement in measurements():
        if time.perf_counter() - start > arguments.limit:
            print(f"[{time.perf_counter() - start:.0f} s] time limit: {title} and what follows were not started")
            break
        try:
            measurement()
        except Exception as error:  # a kernel that this GPU or torch does not have: the others count all the same
            failures += 1
            print(f"{title}: failed: {one_line(error)}")
        print(f"[{time.perf_counter() - start:.0f} s]", file=sys.stderr)
        sys.stdout.flush()
        torch.cuda.empty_cache()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
