"""Time models in turns. Example: samples = time_blocks([task_a, task_b], blocks=10, …)

On a machine whose speed drifts, two models timed one after the other say little. Here every block times each model
once, in a fresh random order, and a ratio is taken within a block. Raw samples are what is kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.spec import Recipe, Setting
from bench.train import autocast, make_optimizer, make_step

KINDS = ("train", "inference", "latency")


@dataclass(frozen=True)
class Task:
    """Something to time: `call` processes `images` images, asynchronously if the device likes.

    `prepare` comes before each sample, off the clock: switching a model between training and evaluation visits every
    module, which a training loop does once an epoch and not at every step.
    """

    model: str
    kind: str  # train | inference | latency
    images: int
    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Sample:
    """One measurement: `calls` calls took `seconds` together, as the `position`-th in its block."""

    model: str
    kind: str
    block: int
    position: int
    batch_size: int
    calls: int
    seconds: float

    @property
    def seconds_per_call(self) -> float:
        return self.seconds / self.calls


def time_calls(call: Callable[[], object], calls: int, now: Callable[[], float], sync: Callable[[], None]) -> float:
    """Seconds for `calls` calls without a synchronisation between them; the clock is read twice."""
    sync()
    start = now()
    for _ in range(calls):
        call()
    sync()
    return now() - start


def calls_for(seconds_per_call: float, at_least: float) -> int:
    """How many calls make a sample of at least `at_least` seconds."""
    return max(1, -int(-at_least // max(seconds_per_call, 1e-9)))


def time_blocks(
    tasks: list[Task],
    blocks: int,
    sample_seconds: float,
    time_limit: float,
    now: Callable[[], float],
    sync: Callable[[], None],
    seed: int,
    on_block: Callable[[int], None] = lambda block: None,
) -> list[Sample]:
    """Randomised complete blocks: each task once a block, in a fresh order.

    Each task is first called twice, uncounted: once to warm up, once to find how many calls should make a sample of
    sample_seconds; that number stays the same for all its samples, however long they turn out. Ends after
    `blocks` blocks, or after the block in which `time_limit` seconds are over, but never before the third.
    """
    rng = random.Random(seed)
    start = now()
    calls = []
    for task in tasks:
        task.prepare()
        time_calls(task.call, 1, now, sync)
        calls.append(calls_for(time_calls(task.call, 1, now, sync), sample_seconds))
    samples: list[Sample] = []
    for block in range(blocks):
        order = rng.sample(range(len(tasks)), len(tasks))
        for position, index in enumerate(order):
            task, n = tasks[index], calls[index]
            task.prepare()
            seconds = time_calls(task.call, n, now, sync)
            samples.append(Sample(task.model, task.kind, block, position, task.images, n, seconds))
        on_block(block + 1)
        if block >= 2 and now() - start > time_limit:
            break
    return samples


def make_tasks(
    name: str,
    model: nn.Module,
    recipe: Recipe,
    num_classes: int,
    image_size: int,
    device: torch.device,
    setting: Setting,
) -> list[Task]:
    """A training step, a batch of inference and a single image for one model, on random images on the device.

    Dense arithmetic takes the same time whatever the pixels are; loading is not in these figures.
    """
    layout = torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(recipe.batch_size, 3, image_size, image_size, generator=generator)
    images = images.to(device).contiguous(memory_format=layout)
    labels = torch.randint(num_classes, (recipe.batch_size,), generator=generator).to(device)
    one = images[:1].contiguous(memory_format=layout)
    # lr 0: the arithmetic of a step is the same, and the weights stay finite for ever
    step = make_step(model, _at_rest(make_optimizer(model, recipe)), recipe, device)

    def infer(batch: torch.Tensor) -> object:
        with torch.inference_mode(), autocast(device, recipe.precision):
            return F.softmax(model(batch), dim=1)

    return [
        Task(name, "train", recipe.batch_size, lambda: step(images, labels), model.train),
        Task(name, "inference", recipe.batch_size, lambda: infer(images), model.eval),
        Task(name, "latency", 1, lambda: infer(one), model.eval),
    ]


def _at_rest(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer
