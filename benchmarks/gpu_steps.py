"""Training steps on a GPU by model, batch size and setting. Example: python benchmarks/gpu_steps.py time --seconds 0.5

Prints one line per step: images/s, milliseconds, seconds of the first call (capture, compilation), peak memory. A step
that fails is a line too. `warm` calls each compiled step once: start its parts side by side (`--part 0` to `--part 3`),
and `time` finds their code in the cache. bf16, 32 px, 10 classes, random images, the project's own training step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.core.status import one_line
from bench.measure.device import device_name, fix_numerics, peak_memory_bytes, reset_peak_memory
from bench.measure.step import arrange
from bench.measure.timing import Task, TaskShape, calls_for, event_stopwatch, make_tasks
from bench.plan.recipes import shared
from bench.plan.settings import SETTINGS, keep_compiled_code
from bench.plan.spec import Setting
from models.registry import build

CUDA = torch.device("cuda")
CLASSES, SIZE = 10, 32
EAGER, GRAPHED, FUSED = SETTINGS["eager"], SETTINGS["graphed"], SETTINGS["fused"]
PARTS = 4  # of `warm`
Case = tuple[str, int, Setting]  # model, batch size
COMPILED_CASES: list[Case] = [(n, b, FUSED) for n, b in product(("seresnet", "vit_tiny"), (128, 512))]
CASES: list[Case] = [
    *product(("seresnet", "resnet56", "vit_tiny", "vit_flops"), (128, 512, 1024), (EAGER, GRAPHED)),
    *COMPILED_CASES,
]


def require_cuda(parser: argparse.ArgumentParser) -> None:
    """Exit with code 2 and one sentence where there is no CUDA device; else prepare it as a worker does."""
    if not torch.cuda.is_available():
        parser.exit(2, "this benchmark needs a CUDA device, and torch sees none here\n")
    keep_compiled_code()
    fix_numerics(deterministic=False)
    print(f"{device_name(CUDA)}, torch {torch.__version__}", flush=True)


def training_step(model: str, batch_size: int, setting: Setting, **changes: Any) -> Task:
    """The training step that a run takes, at learning rate 0; `changes` replace fields of the shared recipe.

    Prints a note where the setting is not available and the step runs eagerly.
    """
    torch.manual_seed(0)
    network = arrange(build(model, CLASSES, SIZE), setting).to(CUDA)
    recipe = replace(shared(), batch_size=batch_size, precision="bf16", **changes)
    shape = TaskShape(recipe, setting, CLASSES, SIZE)
    task, *_ = make_tasks(model, network, shape, CUDA, lambda text: print(f"  note: {text}", flush=True))
    task.prepare()
    return task


def images_per_second(task: Task, seconds: float) -> float:
    """Throughput over about `seconds`, after three calls to warm up."""
    stopwatch = event_stopwatch(CUDA)
    stopwatch(task.call, 3)
    calls = max(5, calls_for(stopwatch(task.call, 1), seconds))
    return task.images * calls / stopwatch(task.call, calls)


def measure(case: Case, seconds: float) -> str:
    """A case's line."""
    model, batch_size, setting = case
    reset_peak_memory(CUDA)
    start = time.perf_counter()
    task = training_step(model, batch_size, setting)
    task.call()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    speed = images_per_second(task, seconds)
    return (
        f"{title(case)} {speed:9,.0f} images/s  {1e3 * batch_size / speed:7.3f} ms per step  "
        f"first call {first:5.1f} s  {(peak_memory_bytes(CUDA) or 0) / 1e6:6,.0f} MB"
    )


def title(case: Case) -> str:
    """Model, batch size and setting in columns."""
    model, batch_size, setting = case
    return f"{model:10} batch {batch_size:<5} {setting.name:8}"


def run(cases: Sequence[Case], seconds: float) -> int:
    """Print a line for each case; returns how many failed."""
    failures = 0
    for case in cases:
        try:
            print(measure(case, seconds), flush=True)
        except Exception as error:  # out of memory, a compiler that is missing: the other cases count all the same
            failures += 1
            print(f"{title(case)} failed: {one_line(error)}", flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("time", "warm"), help="time all steps, or only compile some ahead")
    parser.add_argument("--part", type=int, choices=range(PARTS), help=f"warm: one of {PARTS} parts (default: all)")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of a measurement (default: 0.7)")
    arguments = parser.parse_args()
    require_cuda(parser)
    compiled = COMPILED_CASES if arguments.part is None else COMPILED_CASES[arguments.part :: PARTS]
    cases, seconds = (CASES, arguments.seconds) if arguments.action == "time" else (compiled, 0.0)
    return 1 if run(cases, seconds) else 0


if __name__ == "__main__":
    sys.exit(main())
