"""One training loop for every model. Example: train(model, batches, validate, recipe, device, clock, first_clock)

One clock counts training and pauses for evaluation. Within an epoch nothing is read back from the device: losses
stay there until the epoch's end, where one transfer brings them all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.loader import Batches
from bench.spec import Recipe

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
        yield
        self._synchronize()
        self.seconds += self._now() - start


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv. Seconds are of training since the start, without the very first step."""

    epoch: int
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


class Diverged(Exception):
    """A loss stopped being finite; `step` counts from 0. Logits of nan would read as class 0, so as some accuracy."""

    def __init__(self, step: int, what: str = "training loss") -> None:
        super().__init__(f"{what} not finite at step {step}")
        self.step = step


def lr_factor(step: int, steps: int, warmup_steps: float) -> float:
    """Share of the recipe's lr at `step` of `steps`: linear warm-up, then a cosine that ends at 0 after the last step.

    Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; biases, norms and other vectors are not decayed, in every model alike."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    assert recipe.optimizer == "adamw"
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where the recipe's precision, already resolved for the device, says so."""
    assert precision in ("fp32", "bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """(images, labels) -> loss, one whole training step: forward, loss, backward, clip, update.

    The speed session times this same function, so that what is timed is what trains.
    """

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(device, recipe.precision):
            loss = F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm)
        optimizer.step()
        return loss.detach()

    return step


def train(
    model: nn.Module,
    batches: Batches,
    validate: Callable[[], Evaluation],
    recipe: Recipe,
    device: torch.device,
    clock: Clock,
    first_clock: Clock,
    on_step: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train for the recipe's epochs, validating after each.

    `clock` counts every step but the first, which `first_clock` counts; evaluation is on neither. `on_step` gets the
    number of steps launched, on_epoch each finished row. Raises Diverged at the end of an epoch with a bad loss,
    in training or on validation.
    """
    optimizer = make_optimizer(model, recipe)
    step_model = make_step(model, optimizer, recipe, device)
    total = recipe.epochs * batches.steps
    warmup = recipe.warmup_fraction * total
    history: list[Epoch] = []
    for epoch in range(recipe.epochs):
        model.train()
        losses = torch.zeros(batches.steps, device=device)

        def run(steps: Iterator[Numbered], losses: Tensor = losses, epoch: int = epoch) -> None:
            for i, (images, labels) in steps:
                step = epoch * batches.steps + i
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * lr_factor(step, total, warmup)
                losses[i] = step_model(images, labels)
                on_step(step + 1)

        steps = enumerate(batches.epoch(epoch))
        if epoch == 0:
            with first_clock.running():
                run(_take_one(steps))
        with clock.running():
            run(steps)
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            raise Diverged(epoch * batches.steps + int(finite.logical_not().nonzero()[0]))
        held_out = validate()
        if not np.isfinite(held_out.losses).all():
            raise Diverged((epoch + 1) * batches.steps, "validation loss")
        history.append(
            Epoch(
                epoch=epoch + 1,
                train_loss=float(losses.mean()),
                val_loss=held_out.loss,
                val_accuracy=held_out.accuracy,
                lr=recipe.lr * lr_factor((epoch + 1) * batches.steps - 1, total, warmup),
                train_seconds=clock.seconds,
                samples_seen=(epoch + 1) * batches.steps * batches.batch_size,
            )
        )
        on_epoch(history[-1])
    return Trained(tuple(history), held_out, first_clock.seconds, clock.seconds, total * batches.batch_size)


def _take_one(steps: Iterator[Numbered]) -> Iterator[Numbered]:
    yield next(steps)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    precision: str,
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
    return Evaluation(
        torch.cat(predicted).cpu().numpy(), torch.cat(losses).cpu().numpy(), torch.cat(truth).cpu().numpy()
    )
