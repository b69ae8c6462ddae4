"""Time models in turns. Example: timed = time_blocks(tasks, rule, stopwatch, now, seed=0)

On a machine whose speed drifts, timing one model after the other is unreliable. Here every block times each task once,
in a new random order, and ratios are taken within a block. Raw samples are kept. docs/measurement.md describes
the protocol.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bench.core.stats import PILOT, blocks_needed, log_ratios
from bench.measure.step import Note, layout, make_inference, make_optimizer, make_step, set_lr
from bench.plan.session_plan import FEWEST_BLOCKS
from bench.plan.spec import Recipe, Setting
from bench.store.records import Sample

KINDS = ("train", "inference", "latency")
MOST_BLOCKS = 200  # an interval that is still wide then will stay so
# Stopwatch(call, n): seconds that n calls take, with no synchronisation between them.
Stopwatch = Callable[[Callable[[], object], int], float]


@dataclass(frozen=True)
class Task:
    """Something to time: `call` processes `images` images, possibly asynchronously.

    `prepare` is called before each sample and not timed: switching a model between training and evaluation visits every
    module, which a training loop does once per epoch, not at every step.
    """

    model: str
    kind: str  # one of KINDS
    images: int
    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Rule:
    """When one process start of a session ends.

    After the pilot (PILOT blocks, divided among the starts), Stein's two-stage rule fixes the number of blocks
    (stats.blocks_needed), so that the blocks leave the ratio of every task to the same task of `reference` a 95 %
    interval of at most ± `half_width` on its logarithm. Looking at the interval after every block and stopping when it
    happens to be narrow would spoil its coverage; a number fixed by the pilot's spread alone does not. The blocks are
    divided among `starts`; those after the first have its number, `blocks`. `seconds` is the limit of this start's
    blocks, whatever the interval.
    """

    reference: str
    half_width: float
    seconds: float
    sample_seconds: float
    starts: int = 1
    blocks: int | None = None

    @property
    def pilot(self) -> int:
        """Blocks after which their number is fixed, or that number where it is."""
        return self.blocks or max(FEWEST_BLOCKS, math.ceil(PILOT / self.starts))


@dataclass(frozen=True)
class Timed:
    """Raw samples and why sampling ended: `stopped` is narrow, limit, blocks (MOST_BLOCKS) or alone (no ratio)."""

    samples: tuple[Sample, ...]
    first_calls: tuple[Sample, ...]  # block 0, one call each: allocation, autotuning, compilation
    stopped: str
    blocks: int
    planned_blocks: int
    seconds: float


@dataclass(frozen=True)
class Ready:
    """A task that has run, how many calls make a sample, and about how many seconds that takes."""

    task: Task
    calls: int
    seconds: float
    first: Sample


def wall_stopwatch(now: Callable[[], float], sync: Callable[[], None]) -> Stopwatch:
    """For a CPU: reads the clock twice, each time after the device has finished."""

    def measure(call: Callable[[], object], calls: int) -> float:
        sync()
        start = now()
        for _ in range(calls):
            call()
        sync()
        return now() - start

    return measure


def event_stopwatch(device: torch.device) -> Stopwatch:
    """For a GPU: two events in the stream around all calls, which exclude the host's own time."""

    def measure(call: Callable[[], object], calls: int) -> float:
        with torch.cuda.device(device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000

    return measure


def stopwatch_of(device: torch.device, now: Callable[[], float]) -> Stopwatch:
    """Events on CUDA, the wall clock on a CPU."""
    return event_stopwatch(device) if device.type == "cuda" else wall_stopwatch(now, lambda: None)


def calls_for(seconds_per_call: float, at_least: float) -> int:
    """How many calls a sample of at least `at_least` seconds needs."""
    return max(1, -int(-at_least // max(seconds_per_call, 1e-9)))


def make_ready(task: Task, sample_seconds: float, stopwatch: Stopwatch, like: Sample | None = None) -> Ready:
    """Call a task once, timed separately, and once more to find how many calls a sample of `sample_seconds` needs.

    `like`: a sample of an earlier process start, so that all of a session have as many calls.
    """
    task.prepare()
    first = _sample(task, (0, 0), 1, stopwatch(task.call, 1))
    if like is not None:
        return Ready(task, like.calls, like.seconds, first)
    once = stopwatch(task.call, 1)
    calls = calls_for(once, sample_seconds)
    return Ready(task, calls, calls * once, first)


def time_blocks(
    ready: Sequence[Ready],
    rule: Rule,
    stopwatch: Stopwatch,
    now: Callable[[], float],
    seed: int,
    on_block: Callable[[int, int], None] = lambda block, of: None,
    on_task: Callable[[Task], None] = lambda task: None,
) -> Timed:
    """Randomised complete blocks: each task once per block, in a new order, until `rule` ends them.

    A block that would probably end after the limit is not begun. `on_task` gets each task before it runs, so that a
    crash can be attributed.
    """
    rng = random.Random(seed)
    samples: list[Sample] = []
    start, planned, stopped = now(), rule.pilot, ""
    block = 0
    while not stopped:
        order = rng.sample(range(len(ready)), len(ready))
        for position, index in enumerate(order):
            task, n = ready[index].task, ready[index].calls
            on_task(task)
            task.prepare()
            samples.append(_sample(task, (block, position), n, stopwatch(task.call, n)))
        block += 1
        if block == rule.pilot and rule.blocks is None:
            planned = max(planned, math.ceil(_plan(samples, rule) / rule.starts))
        on_block(block, planned)
        if block >= planned:
            alone = len({one.task.model for one in ready}) == 1
            stopped = "alone" if alone else "narrow" if planned * rule.starts < MOST_BLOCKS else "blocks"
        elif block >= FEWEST_BLOCKS and (now() - start) * (block + 1) / block > rule.seconds:
            stopped = "limit"
    return Timed(tuple(samples), tuple(one.first for one in ready), stopped, block, planned, now() - start)


def _sample(task: Task, place: tuple[int, int], calls: int, seconds: float) -> Sample:
    block, position = place
    return Sample(
        model=task.model,
        kind=task.kind,
        block=block,
        position=position,
        batch_size=task.images,
        calls=calls,
        seconds=seconds,
    )


def _plan(pilot: list[Sample], rule: Rule) -> int:
    """The number of blocks that the pilot requires."""
    series: dict[tuple[str, str, int], list[float]] = {}
    for sample in pilot:
        series.setdefault((sample.model, sample.kind, sample.batch_size), []).append(sample.seconds_per_call)
    ratios = [
        log_ratios(seconds, series[rule.reference, kind, batch])
        for (model, kind, batch), seconds in series.items()
        if model != rule.reference and (rule.reference, kind, batch) in series
    ]
    return blocks_needed(ratios, rule.half_width, MOST_BLOCKS)


@dataclass(frozen=True)
class TaskShape:
    """What decides the shapes and kernels of a model's tasks.

    `batch_sizes`: of inference; none: the recipe's. `train_batch_sizes`: of training steps beside the recipe's.
    """

    recipe: Recipe
    setting: Setting
    num_classes: int
    image_size: int
    batch_sizes: tuple[int, ...] = ()
    train_batch_sizes: tuple[int, ...] = ()


def make_tasks(
    name: str, model: nn.Module, shape: TaskShape, device: torch.device, note: Note = lambda text: None
) -> list[Task]:
    """Training steps, the first at the recipe's batch size, inference at each batch size, and a single image.

    They use random images that are already on the device: dense arithmetic takes the same time whatever the pixels are,
    and loading is not included. `note` gets the reason where the setting is not available.
    """
    recipe, setting = shape.recipe, shape.setting
    generator = torch.Generator().manual_seed(0)
    sizes = sorted({*shape.batch_sizes} or {recipe.batch_size})
    steps = list(dict.fromkeys([recipe.batch_size, *sorted(shape.train_batch_sizes)]))
    most = max(*sizes, *steps)
    images = torch.randn(most, 3, shape.image_size, shape.image_size, generator=generator).to(device)
    labels = torch.randint(shape.num_classes, (max(steps),), generator=generator).to(device)
    batches = {n: images[:n].contiguous(memory_format=layout(setting)) for n in {1, *steps, *sizes}}
    del images
    infer = make_inference(model, recipe, setting, device, note)

    def inference(kind: str, n: int) -> Task:
        return Task(name, kind, n, lambda: infer(batches[n]), model.eval)

    def training(n: int) -> Task:
        """With an optimizer of its own: a graph captured at one batch size shares no state with another."""
        # lr 0: the same arithmetic, and the weights stay finite
        optimizer, targets = _at_rest(make_optimizer(model, recipe, setting.graphed)), labels[:n].clone()
        step = make_step(model, optimizer, recipe, setting, device, note)
        return Task(name, "train", n, lambda: step(batches[n], targets), model.train)

    return [*(training(n) for n in steps), *(inference("inference", n) for n in sizes), inference("latency", 1)]


def _at_rest(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    set_lr(optimizer, 0.0)
    return optimizer


# --- warnings ------------------------------------------------------------------------------------------------------

OUTLIER, OUTLIERS = 1.5, 0.05  # times the median; share of a series' samples
DRIFT = 0.10  # of the machine's speed, from the first third of the blocks to the last
SHORTEST = 1e-3  # seconds; below, the clock's own overhead shows


def warnings_of(timed: Timed, cpu_load: float | None = None) -> list[str]:
    """Warnings such as hyperfine's: outliers, drift, samples that are too short, other work on the CPU.

    `cpu_load`: the share of the cores that was busy with other work when the session began, or None.
    """
    series: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in timed.samples:
        series.setdefault((sample.model, sample.kind, sample.batch_size), []).append(sample)
    warnings, outliers, trends = list[str](), list[str](), list[float]()
    for (model, kind, batch), samples in series.items():
        seconds = [s.seconds for s in samples]
        middle = statistics.median(seconds)
        slow = sum(s > OUTLIER * middle for s in seconds)
        if slow > max(1, OUTLIERS * len(seconds)):
            outliers.append(f"{slow} of {len(seconds)} samples of {model} ({kind}, batch {batch})")
        if middle < SHORTEST:
            warnings.append(f"samples of {model} ({kind}, batch {batch}) are short: median {1e6 * middle:.0f} µs")
        third = len(seconds) // 3
        if third:
            trends.append(statistics.median(seconds[-third:]) / statistics.median(seconds[:third]) - 1)
    if outliers:
        slow_ones = ", ".join(outliers)
        warnings.append(f"{slow_ones} took more than {OUTLIER:g} times the median: something else was running")
    if trends and abs(trend := statistics.median(trends)) > DRIFT:
        way = "slower" if trend > 0 else "faster"
        warnings.append(f"the machine became {100 * abs(trend):.0f} % {way} during the session: heat or other work")
    if cpu_load is not None and cpu_load > 0.25:
        warnings.append(f"{100 * cpu_load:.0f} % of the CPU was busy with other work when the session began")
    return warnings
