"""One training loop for every model. Example: events = train(begin(model, batches, course), validate)

The loop is a generator that yields after every step and every validation. Clocks, checkpoints, progress and
interruption belong to whoever drives it (supervise.py); together.py lets several trainings take turns.
Within an epoch nothing is read back from the device: losses stay there until a validation reads them all at once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import Diverged
from bench.core.events import Epoch
from bench.data.loader import Batches
from bench.measure.checkpoint import State
from bench.measure.evaluate import Evaluation
from bench.measure.step import Note, Step, make_optimizer, make_step, random_streams, set_lr, set_random_streams
from bench.plan.budget import Course
from bench.plan.spec import Recipe, RunOptions, Setting

EAGER = Setting()


@dataclass
class Progress:
    """Where a training stands between two steps; with weights, optimizer and random streams all it needs to resume.

    The order of the data needs no state of its own: it follows from seed, epoch and step.
    """

    samples: int = 0  # to be seen in all; under a budget in seconds measured once, before training
    step: int = 0  # steps done, over all segments
    segments: int = 0
    first_step_seconds: float = 0.0  # of the first segment
    train_seconds: float = 0.0
    runs_at_once: int = 1  # on the device, the most of any segment
    together: int = 1  # in one process, the most of any segment
    target: float | None = None  # validation accuracy whose time is asked for, as named before the first step
    history: list[Epoch] = field(default_factory=list)


@dataclass
class Training:
    """Everything that one training consists of."""

    model: nn.Module
    batches: Batches
    course: Course
    optimizer: torch.optim.Optimizer
    step: Step
    progress: Progress
    losses: Tensor  # by step of the epoch, on the device

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        return self.batches.recipe

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.batches.labels.device

    @property
    def next_mark(self) -> int | None:
        """The step after which it is validated next; None at the end."""
        marks, done = self.course.marks, len(self.progress.history)
        return marks[done] if done < len(marks) else None


@dataclass(frozen=True)
class Stepped:
    """A step was launched; `step` are done now."""

    step: int


@dataclass(frozen=True)
class Validated:
    """The model was validated after `step` steps; `train_loss`: mean of the last epoch's steps."""

    step: int
    train_loss: float
    lr: float
    evaluation: Evaluation


def lr_factor(step: int, steps: int, warmup_steps: float) -> float:
    """Share of the recipe's lr at `step` of `steps`: linear warm-up, then a cosine that ends at 0 after the last step.

    Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def begin(
    model: nn.Module,
    batches: Batches,
    course: Course,
    setting: Setting = EAGER,
    note: Note = lambda text: None,
    state: State | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008  # frozen
) -> Training:
    """A training from its first step, or from `state`, a snapshot.

    `note` is called with the reason where the setting fails. `options.target` counts only where there is no snapshot.
    """
    device = batches.labels.device
    optimizer = make_optimizer(model, batches.recipe, capturable=setting.graphed)
    step = make_step(model, optimizer, batches.recipe, setting, device, note)
    progress, losses = Progress(course.samples, target=options.target), torch.zeros(batches.steps, device=device)
    if state is not None:
        progress, losses = restore(state, model, optimizer, device, course)
    progress.segments += 1
    progress.runs_at_once = max(progress.runs_at_once, options.colocation.runs)
    progress.together = max(progress.together, options.together)
    return Training(model, batches, course, optimizer, step, progress, losses)


def train(training: Training, validate: Callable[[], Evaluation]) -> Generator[Stepped | Validated]:
    """Train to the end of the course; whoever drives this adds a row to the history after each validation.

    Raises Diverged at the first validation after a bad loss, in training or on validation.
    """
    recipe, course, progress, batches = training.recipe, training.course, training.progress, training.batches
    total, warmup = course.steps, recipe.warmup_fraction * course.steps
    previous = [0, *course.marks]
    training.model.train()
    with contextlib.closing(batches.steps_between(progress.step, total)) as coming:
        for number in range(len(progress.history), len(course.marks)):
            mark = course.marks[number]
            for images, labels in itertools.islice(coming, mark - progress.step):
                step = progress.step
                set_lr(training.optimizer, recipe.lr * lr_factor(step, total, warmup))
                count = course.images(step)
                if count < len(images):
                    images, labels = images[:count], labels[:count]
                training.losses[step % batches.steps] = training.step(images, labels)
                progress.step = step + 1
                yield Stepped(step + 1)
            train_loss = _mean_loss(training.losses, previous[number], mark)
            evaluation = validate()
            if not np.isfinite(evaluation.losses).all():
                raise Diverged(mark, "validation loss")
            training.model.train()
            yield Validated(mark, train_loss, recipe.lr * lr_factor(mark - 1, total, warmup), evaluation)


def _mean_loss(losses: Tensor, previous: int, mark: int) -> float:
    """Mean loss of the steps since the previous mark, of the last epoch's at most. Raises Diverged where one is bad."""
    steps = len(losses)
    recent = losses[torch.arange(max(previous, mark - steps), mark, device=losses.device) % steps]
    if not bool(torch.isfinite(recent).all()):
        raise Diverged(mark - len(recent) + int(torch.isfinite(recent).logical_not().nonzero()[0]))
    return float(recent.mean())


def snapshot(training: Training) -> State:
    """A training between two steps as tensors and plain data."""
    progress = asdict(training.progress)
    return {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "random": random_streams(training.device),
        "progress": {**progress, "history": [msgspec.structs.asdict(row) for row in training.progress.history]},
        "losses": training.losses.cpu(),
    }


def restore(
    state: State, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, course: Course
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
        raise ValueError("it belongs to a training of another length")
    passed = sum(mark <= progress.step for mark in course.marks)
    if len(progress.history) not in ((passed, passed - 1) if progress.step in course.marks else (passed,)):
        raise ValueError("its validations do not match its steps")
    return progress, losses
