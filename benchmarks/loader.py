"""What loading costs. Example: python benchmarks/loader.py --models resnet20,vit_params --rounds 5

Prints images/s of the loader alone, and its share of each model's training step at batch 128, for three recipes: crop +
flip; with TrivialAugment too; with cutout and mixup or cutmix as well. For each model a round times an epoch of each
recipe's batches and a training step, in random order; a share is the ratio of the medians. Targets: 3 % of a step for
the first recipe, 10 % for the others. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.measure.device import choose_device, device_name, fix_numerics, resolve_precision
from bench.measure.limits import random_batches
from bench.measure.step import arrange
from bench.measure.timing import Stopwatch, TaskShape, calls_for, make_tasks, stopwatch_of
from bench.plan.recipes import shared
from bench.plan.spec import Recipe, Setting
from models.registry import build, expand_names

CLASSES, SIZE = 10, 32
STRONG = {"policy": "trivialaugment", "cutout": 16, "mixup": 0.2, "cutmix": 1.0}
TARGETS = {"crop + flip": 0.03, "+ trivialaugment": 0.10, "+ cutout + mixup/cutmix": 0.10}
SAMPLE_SECONDS = 0.2


def recipes(precision: str) -> dict[str, Recipe]:
    """The recipes, under the names of TARGETS."""
    plain = replace(shared(), batch_size=128, precision=precision)
    strong = replace(plain, **STRONG)  # type: ignore[arg-type]
    return dict(zip(TARGETS, (plain, replace(plain, policy="trivialaugment"), strong), strict=True))


def loader_task(recipe: Recipe, device: torch.device) -> tuple[Callable[[], object], int]:
    """(a call that loads an epoch of batches, its number of batches); the epoch's random draws are included."""
    batches = random_batches(recipe, CLASSES, SIZE, device)

    def load() -> None:
        for _ in batches.epoch(0):
            pass

    return load, batches.steps


def seconds_a_batch(
    tasks: dict[str, tuple[Callable[[], object], int]], rounds: int, stopwatch: Stopwatch
) -> dict[str, list[float]]:
    """One sample of each task per round, in seconds per batch; each round has its own random order."""
    rng, calls = random.Random(0), {}
    for name, (call, _) in tasks.items():
        stopwatch(call, 1)  # to warm up
        calls[name] = calls_for(stopwatch(call, 1), SAMPLE_SECONDS)
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name in rng.sample(list(tasks), len(tasks)):
            call, batches = tasks[name]
            samples[name].append(stopwatch(call, calls[name]) / calls[name] / batches)
    return samples


def report(model: str, samples: dict[str, list[float]]) -> None:
    """Print one line per recipe: images/s, the share, the target."""
    middle = {name: statistics.median(seconds) for name, seconds in samples.items()}
    n = len(samples["step"])
    print(f"{model}: a step of 128 images takes {1e3 * middle['step']:.2f} ms (median of {n})")
    for name, target in TARGETS.items():
        share = middle[name] / middle["step"]
        low, high = (1e3 * edge(samples[name]) for edge in (min, max))
        print(
            f"  {name:24} {128 / middle[name]:>12,.0f} images/s  {1e3 * middle[name]:7.3f} ms per batch "
            f"({low:.3f} to {high:.3f}, n = {n})  {100 * share:5.2f} % of a step; "
            f"target {100 * target:.0f} %: {'met' if share <= target else 'not met'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="names and globs, as run_bench.py takes them")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    fix_numerics(deterministic=False)
    device = choose_device(arguments.device)
    precision, setting = resolve_precision("auto", device), Setting()
    stopwatch = stopwatch_of(device, time.perf_counter)
    print(f"{device_name(device)}, {precision}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    by_name = recipes(precision)
    loaders = {name: loader_task(recipe, device) for name, recipe in by_name.items()}
    shape = TaskShape(by_name["crop + flip"], setting, CLASSES, SIZE)
    for model in expand_names(arguments.models):
        network = arrange(build(model, CLASSES, SIZE), setting).to(device)
        step, *_ = make_tasks(model, network, shape, device)
        step.prepare()
        report(model, seconds_a_batch({**loaders, "step": (step.call, 1)}, arguments.rounds, stopwatch))


if __name__ == "__main__":
    main()
