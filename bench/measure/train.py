"""One training loop for every model. Example: train(model, batches, validate, recipe, device, clock, first_clock)

One clock counts training and pauses for evaluation and checkpoints. Within an epoch nothing is read back from the
device, but by a checkpoint: losses stay there until the epoch's end, where one transfer brings them all.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.core.errors import Diverged, Interrupted
from bench.data.loader import Batches
from bench.measure.step import autocast, make_optimizer, make_step, random_streams, set_lr, set_random_streams
from bench.plan.budget import Course
from bench.plan.spec import Recipe, Setting

Numbered = tuple[int, tuple[Tensor, Tensor]]  # a batch with its number in the epoch


class Clock:
    """Seconds of training only. `now` and `synchronize` are injected: a test counts exactly when they are called."""

    def __init__(self, now: Callable[[], float], synchronize: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._now, self._synchronize = now, synchronize

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside; the device has finished before each reading."""
        self._synchronize()
        start = self._now()
        try:
            yield
        finally:  # an interrupted stretch was trained all the same, and is saved
            self._synchronize()
            self.seconds += self._now() - start


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv: a validation. Seconds are of training since the start, without the very first step."""

    epoch: float  # passes through the training images so far; whole numbers where it is validated after each
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    train_seconds: float
    samples_seen: int


@dataclass(frozen=True)
class Evaluation:
    """One pass over held-out images: per image the class predicted and the cross-entropy, in their order."""

    predicted: NDArray[np.int64]
    losses: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Top-1 share in 0..1."""
        return float((self.predicted == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats, without label smoothing."""
        return float(self.losses.mean())


@dataclass(frozen=True)
class Trained:
    """What training took. `first_step_seconds` is apart: it holds allocation, autotuning and compilation."""

    history: tuple[Epoch, ...]
    validation: Evaluation  # after the last epoch
    first_step_seconds: float
    train_seconds: float
    samples_seen: int
    segments: int = 1  # one more for every continuation; the first step of each is not in train_seconds
    setting_used: str = "eager"  # what really ran the steps
    runs_at_once: int = 1  # on the device, the most of any segment: above 1 the seconds mean nothing
    target: float | None = None  # named before the first step


class Keeper(Protocol):
    """Where checkpoints go (bench.measure.checkpoint)."""

    def due(self) -> bool:
        """Whether it is time for one."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep `state`, which holds tensors and plain data only."""


@dataclass
class Progress:
    """Where a training stands between two steps; with weights, optimizer and random streams all that goes on from it.

    The order of the data needs no state of its own: it follows from seed, epoch and step.
    """

    samples: int = 0  # that the training is to see in all; under a budget in seconds measured once, before it began
    step: int = 0  # steps done, in all
    segments: int = 0
    first_step_seconds: float = 0.0  # of the first segment
    train_seconds: float = 0.0
    runs_at_once: int = 1  # on the device, the most of any segment
    target: float | None = None  # the validation accuracy whose time is asked for, as it was named at the beginning
    history: list[Epoch] = field(default_factory=list)


def lr_factor(step: int, steps: int, warmup_steps: float) -> float:
    """Share of the recipe's lr at `step` of `steps`: linear warm-up, then a cosine that ends at 0 after the last step.

    Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, losses: Tensor, device: torch.device
) -> dict[str, Any]:
    """A training between two steps as tensors and plain data. `losses`: of the epoch under way."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_streams(device),
        "progress": asdict(progress),
        "losses": losses.cpu(),
    }


def restore(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, course: Course
) -> tuple[Progress, Tensor]:
    """Put a snapshot back; returns its progress and losses.

    Raises ValueError for a progress that contradicts itself or the course, and what torch raises for another model's
    weights.
    """
    model.load_state_dict(state["model"])
    rates = [group["lr"] for group in optimizer.param_groups]  # a graph's tensor stays where the graph reads it
    optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    set_random_streams(state["random"], device)
    saved = state["progress"]
    progress = Progress(**{**saved, "history": [Epoch(**row) for row in saved["history"]]})
    losses = state["losses"].to(device)
    if progress.samples != course.samples or len(losses) != course.steps_per_epoch or progress.step > course.steps:
        raise ValueError("it is of a training of another length")
    passed = sum(mark <= progress.step for mark in course.marks)
    if len(progress.history) not in ((passed, passed - 1) if progress.step in course.marks else (passed,)):
        raise ValueError("its validations do not fit its steps")
    return progress, losses


def train(
    model: nn.Module,
    batches: Batches,
    validate: Callable[[], Evaluation],
    recipe: Recipe,
    course: Course,
    device: torch.device,
    clock: Clock,
    first_clock: Clock,
    on_step: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    keeper: Keeper | None = None,
    start: dict[str, Any] | None = None,
    setting: Setting | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    runs_at_once: int = 1,
    target: float | None = None,
) -> Trained:
    """Train to the end of the course, validating at its marks; from `start`, a snapshot, where one is given.

    `on_note` hears why the setting could not be had; default: eager. `target` is kept from the first segment on.

    `clock` counts every step but the first of this process, which `first_clock` counts; evaluation and checkpoints
    are on neither. `on_step` gets the number of steps launched, on_epoch each finished row; what they or `validate`
    raise as Interrupted is raised after a last checkpoint. Raises Diverged at the first mark after a bad loss, in
    training or on validation.
    """
    setting = setting or Setting()
    optimizer = make_optimizer(model, recipe, capturable=setting.graphed)
    step_model = make_step(model, optimizer, recipe, setting, device, on_note)
    total, marks = course.steps, course.marks
    warmup = recipe.warmup_fraction * total
    # By step of the epoch; a mark more than an epoch after the last one hears of bad losses in its own epoch alone,
    # and in the validation.
    progress, losses = Progress(course.samples, target=target), torch.zeros(batches.steps, device=device)
    if start is not None:
        progress, losses = restore(start, model, optimizer, device, course)
        clock.seconds = progress.train_seconds
    progress.segments += 1
    progress.runs_at_once = max(progress.runs_at_once, runs_at_once)
    fresh, held_out = True, None

    def run(steps: Iterator[Numbered], losses: Tensor) -> None:
        """Steps until the iterator ends or a checkpoint is due."""
        for step, (images, labels) in steps:
            set_lr(optimizer, recipe.lr * lr_factor(step, total, warmup))
            count = course.images(step)
            if count < len(images):
                images, labels = images[:count], labels[:count]
            losses[step % batches.steps] = step_model(images, labels)
            progress.step = step + 1
            on_step(step + 1)
            if keeper is not None and keeper.due():
                return

    def save() -> None:
        if keeper is not None:
            progress.train_seconds = clock.seconds
            progress.first_step_seconds = progress.first_step_seconds or first_clock.seconds
            keeper.save(progress.step, snapshot(model, optimizer, progress, losses, device))

    try:
        while len(progress.history) < len(marks):
            mark, before = marks[len(progress.history)], ([0, *marks])[len(progress.history)]
            model.train()
            while progress.step < mark:
                epoch, first = divmod(progress.step, batches.steps)
                end = min(mark, (epoch + 1) * batches.steps)
                steps = itertools.islice(enumerate(batches.epoch(epoch, first), progress.step), end - progress.step)
                while progress.step < end:
                    if fresh:
                        with first_clock.running():
                            run(_take_one(steps), losses)
                        fresh = False
                        continue
                    with clock.running():
                        run(steps, losses)
                    if progress.step < end:
                        save()
            since = torch.arange(max(before, mark - batches.steps), mark, device=device) % batches.steps
            found = losses[since]
            if not bool(torch.isfinite(found).all()):
                raise Diverged(mark - len(found) + int(torch.isfinite(found).logical_not().nonzero()[0]))
            held_out = validate()
            if not np.isfinite(held_out.losses).all():
                raise Diverged(mark, "validation loss")
            passes = mark / batches.steps
            progress.history.append(
                Epoch(
                    epoch=int(passes) if passes.is_integer() else passes,
                    train_loss=float(found.mean()),
                    val_loss=held_out.loss,
                    val_accuracy=held_out.accuracy,
                    lr=recipe.lr * lr_factor(mark - 1, total, warmup),
                    train_seconds=clock.seconds,
                    samples_seen=course.seen(mark),
                )
            )
            on_epoch(progress.history[-1])
        if held_out is None:  # interrupted after the last epoch
            held_out = validate()
    except Interrupted:
        save()
        raise
    return Trained(
        tuple(progress.history),
        held_out,
        progress.first_step_seconds or first_clock.seconds,
        clock.seconds,
        samples_seen=course.samples,
        segments=progress.segments,
        setting_used=step_model.used,
        runs_at_once=progress.runs_at_once,
        target=progress.target,
    )


def _take_one(steps: Iterator[Numbered]) -> Iterator[Numbered]:
    yield next(steps)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    precision: str,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Predictions and losses in eval mode, in the precision of training; the transfer home is one at the end."""
    model.eval()
    predicted, losses, truth = [], [], []
    for images, labels in batches:
        with autocast(device, precision):
            logits = model(images).float()
        predicted.append(logits.argmax(1))
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        truth.append(labels)
        on_batch()
    return Evaluation(
        torch.cat(predicted).cpu().numpy(), torch.cat(losses).cpu().numpy(), torch.cat(truth).cpu().numpy()
    )
