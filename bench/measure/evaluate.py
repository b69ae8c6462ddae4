"""Predictions and losses on held-out images. Example: evaluate(model, held_out.batches(), forward).accuracy

Under a setting with a CUDA graph the forward pass is captured once, for one shape, and serves every validation and the
test. It is not compiled: that would cost tens of seconds to save a few tenths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.loader import EVAL_BATCH
from bench.measure.step import Capture, Forward, Note, autocast, cuda_capture, first_that_works, layout
from bench.plan.spec import Setting


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


def make_forward(
    model: nn.Module,
    setting: Setting,
    device: torch.device,
    precision: str,
    note: Note = lambda text: None,
    capture: Capture | None = None,
) -> Forward:
    """(B, 3, S, S) images, B at most EVAL_BATCH -> (B, C) float32 logits, in the precision of training.

    A graph is captured at the first call, of a model in eval mode, for EVAL_BATCH images; fewer are padded, and what
    comes out for the padding is cut off. Its logits last until the next call. `note` hears why there is none.
    """

    def plain(images: Tensor) -> Tensor:
        with autocast(device, precision):
            logits: Tensor = model(images)
            return logits.float()

    if not setting.graphed:
        return plain
    own: Tensor | None = None
    replay: Callable[[], Tensor] | None = None

    def captured(images: Tensor) -> Tensor:
        nonlocal own, replay
        if own is None:
            size = (EVAL_BATCH, *images.shape[1:])
            own = fixed = torch.zeros(size, device=device).contiguous(memory_format=layout(setting))
            way: Callable[[], Callable[[], Tensor] | None] = partial(capture or cuda_capture, lambda: plain(fixed))
            replay = first_that_works([(setting.name, way)], None, note, "validation: ")[1]
        if replay is None:
            return plain(images)
        own[: len(images)].copy_(images)
        return replay()[: len(images)]

    return captured


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    forward: Forward,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate in eval mode, `forward` being the model's; results leave the device once, at the end."""
    model.eval()
    predicted, losses, truth = [], [], []
    for images, labels in batches:
        logits = forward(images)
        predicted.append(logits.argmax(1))
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        truth.append(labels)
        on_batch()
    return Evaluation(
        torch.cat(predicted).cpu().numpy(), torch.cat(losses).cpu().numpy(), torch.cat(truth).cpu().numpy()
    )
