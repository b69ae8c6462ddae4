"""Seeds that train in one process against one by one. Example: python benchmarks/together.py --model seresnet

For each number of seeds: so many training steps by all of them taking turns, then as many by one after the other, in
alternating order, with the same networks in the same process. Prints all images/s of both and their ratio with its 95 %
interval over the rounds. The project's own step, random images, on whatever device is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.core.events import Event
from bench.core.stats import Interval, ratio_interval
from bench.measure.device import choose_device, device_name, fix_numerics, resolve_precision, synchroniser
from bench.measure.step import arrange
from bench.measure.supervise import Turns
from bench.measure.timing import TaskShape, make_tasks
from bench.measure.together import Job, Lane
from bench.plan.recipes import shared
from bench.plan.settings import SETTINGS
from bench.plan.spec import Recipe, Setting
from models.registry import build

CLASSES, SIZE, WARM_UP = 10, 32, 3


def lane_of(model: str, recipe: Recipe, setting: Setting, device: torch.device, seed: int) -> Lane:
    """A training without an end, warmed up."""

    def begin(together: int) -> Turns[Event]:
        torch.manual_seed(seed)
        network = arrange(build(model, CLASSES, SIZE), setting).to(device)
        task, *_ = make_tasks(model, network, TaskShape(recipe, setting, CLASSES, SIZE), device, print)
        task.prepare()
        while True:
            task.call()
            yield

    lane = Lane(Job(f"seed {seed}", begin), device, 1)
    for _ in range(WARM_UP):
        lane.step()
    return lane


def in_turns(lanes: list[Lane], steps: int) -> Iterator[Lane]:
    """Whose turn it is, where all train together."""
    for _ in range(steps):
        yield from lanes


def one_by_one(lanes: list[Lane], steps: int) -> Iterator[Lane]:
    """Whose turn it is, where each waits for the one before."""
    for lane in lanes:
        yield from [lane] * steps


def seconds_of(order: Iterator[Lane], device: torch.device) -> float:
    """How long these steps take, until the device has finished."""
    wait = synchroniser(device)
    wait()
    start = time.perf_counter()
    for lane in order:
        lane.step()
    wait()
    return time.perf_counter() - start


def measure(lanes: list[Lane], device: torch.device, rounds: int, steps: int) -> tuple[float, Interval]:
    """(seconds of a round one by one, by how many times together is faster)."""
    together, apart = list[float](), list[float]()
    for number in range(rounds):
        sides = [(together, in_turns), (apart, one_by_one)]
        for seconds, order in sides if number % 2 else reversed(sides):
            seconds.append(seconds_of(order(lanes, steps), device))
    return sum(apart) / rounds, ratio_interval(apart, together)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seresnet")
    parser.add_argument("--seeds", default="1,2,4,8", help="how many at once (default: 1,2,4,8)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--setting", choices=sorted(SETTINGS), help="default: graphed on a GPU, eager on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each seed in a round (default: 20)")
    arguments = parser.parse_args()
    device = choose_device(None)
    setting = SETTINGS[arguments.setting or ("graphed" if device.type == "cuda" else "eager")]
    fix_numerics(deterministic=False)
    precision = resolve_precision("auto", device)
    recipe = replace(shared(), batch_size=arguments.batch_size, precision=precision)
    print(f"{device_name(device)}, torch {torch.__version__}: {arguments.model}, batch {recipe.batch_size}, "
          f"{precision}, {setting.name}, {arguments.rounds} rounds of {arguments.steps} steps")  # fmt: skip
    lanes: list[Lane] = []
    for count in sorted(int(part) for part in arguments.seeds.split(",")):
        while len(lanes) < count:
            lanes.append(lane_of(arguments.model, recipe, setting, device, len(lanes)))
        seconds, gain = measure(lanes, device, arguments.rounds, arguments.steps)
        alone = count * arguments.steps * recipe.batch_size / seconds
        print(f"{count} at once: {alone * gain.value:9,.0f} images/s, one by one {alone:9,.0f}: "
              f"{gain.value:.2f}× ({gain.low:.2f} to {gain.high:.2f}, n = {gain.n})", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
