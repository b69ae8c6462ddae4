"""Can a speed session be trusted? Example: python benchmarks/trust.py aa --sessions 30

aa           one model under two names: how often does the 95 % interval of their ratio hold 1 (95 of 100 expected)
sensitivity  one model against itself with 5 % more time in every step: how often is it found slower
timm         inference images/s of one model, measured alternately by this harness and by timm's own method

A session is what `time` does: three fresh processes, the models built in either order in turns, each under the stopping
rule as shipped (pilot, Stein's number of blocks, 2 %) with short samples; the interval is over starts and blocks. Run
nothing else meanwhile. LOG.md has results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from bench.core.stats import Interval, ratio_interval, ratio_over_starts  # noqa: E402
from bench.measure.device import device_name, fix_numerics  # noqa: E402
from bench.measure.session import training_task  # noqa: E402
from bench.measure.timing import Rule, Task, TaskShape, Timed, make_ready, make_tasks, stopwatch_of, time_blocks  # noqa: E402
from bench.plan.recipes import shared  # noqa: E402
from bench.plan.spec import Setting  # noqa: E402
from models.registry import build  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 8 if DEVICE.type == "cpu" else 128
EXTRA = 0.05


def small_network() -> nn.Module:
    """A few milliseconds a step on a CPU core, so that hundreds of sessions fit into minutes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def train_task(name: str, model: nn.Module) -> Task:
    """The training step of `model`, as a session times it."""
    shape = TaskShape(replace(shared(), batch_size=BATCH, precision="fp32"), Setting(), num_classes=10, image_size=32)
    return training_task(make_tasks(name, model.to(DEVICE), shape, DEVICE))


def session(tasks: list[Task], sample_seconds: float, seed: int, seconds: float) -> Timed:
    """One session under the shipped rule."""
    rule = Rule("a", half_width=0.02, seconds=seconds, sample_seconds=sample_seconds)
    stopwatch = stopwatch_of(DEVICE, time.perf_counter)
    ready = [make_ready(task, sample_seconds, stopwatch) for task in tasks]
    return time_blocks(ready, rule, stopwatch, time.perf_counter, seed)


def one_start(kind: str, seed: int, sample_seconds: float, limit: float) -> None:
    """Time a and b in this process, built in turns a first and b first; print one line of JSON."""
    torch.manual_seed(0)
    made = {name: train_task(name, small_network()) for name in ("ab" if seed % 2 else "ba")}
    a, b = made["a"], made["b"]
    extra = 0
    if kind == "sensitivity":
        b, extra = slower(b)
    timed = session([a, b], sample_seconds, seed, limit)
    seconds = {m: [s.seconds_per_call for s in timed.samples if s.model == m] for m in ("a", "b")}
    print(json.dumps({**seconds, "extra": extra, "stopped": timed.stopped}), flush=True)


def slower(task: Task) -> tuple[Task, int]:
    """The task with extra matrix products that take EXTRA of its time, and how many."""
    side = torch.randn(24, 24, device=DEVICE)
    stopwatch = stopwatch_of(DEVICE, time.perf_counter)

    def extra(times: int) -> None:
        for _ in range(times):
            torch.mm(side, side)

    for _ in range(20):
        task.call()
    # alternately, so that a drift of the machine does not count as work
    pairs = [(stopwatch(task.call, 40) / 40, stopwatch(lambda: extra(2000), 1) / 2000) for _ in range(15)]
    times = max(1, round(EXTRA * statistics.median(step / product for step, product in pairs)))
    return replace(task, call=lambda: (task.call(), extra(times))), times


def start(kind: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """What one fresh process found."""
    words = [sys.executable, __file__, kind, "--child", str(seed), *options]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def report(kind: str, sessions: int, starts: int, options: Sequence[str]) -> None:
    """Time the sessions, each in its own process starts; print each interval, then how many were right."""
    where = f"{device_name(DEVICE)}, torch {torch.__version__}"
    print(f"{kind}: sessions of {starts} process starts on {where}", flush=True)
    found = list[Interval]()
    for index in range(sessions):
        rows = [start(kind, index * starts + number, options) for number in range(starts)]
        found.append(ratio_over_starts([row["a"] for row in rows], [row["b"] for row in rows]))
        value, low, high, blocks = found[-1]
        extra = f", extra products per step {[row['extra'] for row in rows]}" if kind == "sensitivity" else ""
        limited = sum(row["stopped"] != "narrow" for row in rows)
        print(
            f"{index + 1}: {value:.4f} ({low:.4f}-{high:.4f}), {blocks} blocks, {limited} starts stopped by the limit"
            f"{extra}, load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    if kind == "aa":
        right = sum(one.low <= 1 <= one.high for one in found)
        print(f"the interval contains 1 in {right} of {sessions} (95 of 100 expected)")
    else:
        print(f"found slower in {sum(one.high < 1 for one in found)} of {sessions}")
    halves = [100 * (one.high / one.low - 1) / 2 for one in found]
    middle = statistics.median(one.value for one in found)
    widths = f"median {statistics.median(halves):.2f} %, largest {max(halves):.2f} %"
    print(f"ratio: median {middle:.4f}; half-width: {widths}")


def timm_images_per_second(model: nn.Module, images: torch.Tensor) -> float:
    """Like timm's benchmark script: 10 calls to warm up, then 40 timed one by one."""
    stopwatch = stopwatch_of(DEVICE, time.perf_counter)
    with torch.no_grad():
        for _ in range(10):
            model(images)
        total = sum(stopwatch(lambda: model(images), 1) for _ in range(40))
    return 40 * len(images) / total


def versus_timm(rounds: int) -> None:
    """Run both methods alternately on the same module and images."""
    recipe = replace(shared(), batch_size=32, precision="fp32")
    shape = TaskShape(recipe, Setting(), num_classes=10, image_size=32)
    for name in ("resnet20", "vit_params"):
        model = build(name, 10, 32).to(DEVICE, memory_format=torch.channels_last)
        task = next(t for t in make_tasks(name, model, shape, DEVICE) if t.kind == "inference")
        images = torch.randn(32, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
        mine, theirs = [], []

        def ours(task: Task = task) -> float:
            timed = session([task], 0.2, 0, 20.0)
            return 32 / statistics.median(s.seconds_per_call for s in timed.samples)

        def timms(model: nn.Module = model, images: torch.Tensor = images) -> float:
            return timm_images_per_second(model.eval(), images)

        todo: list[tuple[list[float], Callable[[], float]]] = [(mine, ours), (theirs, timms)]
        for index in range(rounds):
            for kept, method in todo if index % 2 else todo[::-1]:
                kept.append(method())
        value, low, high, n = ratio_interval(mine, theirs)
        ours_median, timms_median = statistics.median(mine), statistics.median(theirs)
        print(f"{name}, batch 32: this harness {ours_median:,.0f}, timm's method {timms_median:,.0f} images/s")
        print(f"  ratio {value:.3f} ({low:.3f} to {high:.3f}, n = {n})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("aa", "sensitivity", "timm"))
    parser.add_argument("--sessions", type=int, help="default: aa 30, sensitivity 20, timm 8 rounds")
    parser.add_argument("--starts", type=int, default=3, help="process starts of a session (3)")
    parser.add_argument("--sample-seconds", type=float, default=0.01)
    parser.add_argument("--seconds", type=float, default=7.0, help="limit of one start (7)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sessions = arguments.sessions or {"aa": 30, "sensitivity": 20, "timm": 8}[arguments.kind]
    fix_numerics(deterministic=False)
    if arguments.kind == "timm":
        versus_timm(sessions)
    elif arguments.child is not None:
        one_start(arguments.kind, arguments.child, arguments.sample_seconds, arguments.seconds)
    else:
        options = ["--sample-seconds", str(arguments.sample_seconds), "--seconds", str(arguments.seconds)]
        report(arguments.kind, sessions, arguments.starts, options)


if __name__ == "__main__":
    main()
