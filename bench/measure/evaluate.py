"""Predictions and losses on held-out images. Example: evaluate(model, held_out.batches(), device, "fp32").accuracy"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.measure.step import autocast


@dataclass(frozen=True)
class Evaluation:
    """One pass over held-out images: predicted class, cross-entropy and true class per image, in their order."""

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


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    precision: str,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate in eval mode and in the precision of training; results leave the device once, at the end."""
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
