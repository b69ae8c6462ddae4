"""Try models before any long work starts. Example: warnings = check_model("seresnet20", 10, 32)"""

from __future__ import annotations

import torch
from torch import nn

from bench.core.events import Probed, ProbeFailed, ProbeStarted, Report
from bench.core.status import one_line
from bench.core.text import plural
from models import registry
from models.errors import ModelError

FEW_TOKENS = 16


def child_probe(report: Report, names: list[str], num_classes: int, image_size: int) -> None:
    """Try each model; the events say which is being tried, so that a crash has a name."""
    for name in names:
        report(ProbeStarted(name))
        try:
            report(Probed(name, tuple(check_model(name, num_classes, image_size))))
        except ModelError as error:
            report(ProbeFailed(name, str(error)))


def check_model(name: str, num_classes: int, image_size: int) -> list[str]:
    """Build and try a model on the CPU; returns warnings.

    Forward and backward on two images in train mode, forward on one and on two in eval mode. Raises ModelError for a
    model that cannot be built, outputs anything but finite (B, num_classes) floats (1,000 logits for 10 classes would
    train without an error), answers the same images differently in eval mode, or has no gradient.
    """
    from models.external import tokens

    torch.manual_seed(0)
    images = torch.randn(2, 3, image_size, image_size)
    try:
        model = registry.build(name, num_classes, image_size)
        out = _logits(model.train()(images), name, 2, num_classes)
        reached = _gradients(model, out, name)
        model.eval()
        with torch.no_grad():
            _logits(model(images[:1]), name, 1, num_classes)
            first, second = (_logits(model(images), name, 2, num_classes) for _ in range(2))
    except ModelError:
        raise
    except Exception as error:  # external code may raise anything
        raise ModelError(f"model '{name}' fails on {image_size} px images: {one_line(error)}") from error
    if not torch.equal(first, second):
        raise ModelError(f"model '{name}' answers the same images differently in eval mode: its accuracy means nothing")
    warnings = []
    total = sum(p.requires_grad for p in model.parameters())
    if reached < total:
        warnings.append(f"{name}: {total - reached} of {plural(total, 'parameter tensor')} get no gradient")
    count = tokens(model)
    if count is not None and count < FEW_TOKENS:
        warnings.append(f"{name} cuts a {image_size} px image into only {count} tokens: use a smaller patch")
    return warnings


def _logits(out: object, name: str, images: int, num_classes: int) -> torch.Tensor:
    """The output as a tensor of logits. Raises ModelError where it is not one."""
    if not isinstance(out, torch.Tensor) or out.shape != (images, num_classes) or not out.is_floating_point():
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(f"model '{name}' puts out {shape} for {images} images, not ({images}, {num_classes}) logits")
    if not torch.isfinite(out).all():
        raise ModelError(f"model '{name}' puts out values that are not finite before any training")
    return out


def _gradients(model: nn.Module, out: torch.Tensor, name: str) -> int:
    """How many trainable tensors get a gradient. Raises ModelError where none does, or a gradient is not finite."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(f"model '{name}' has nothing to train: no parameter requires a gradient")
    if out.requires_grad:
        torch.nn.functional.cross_entropy(out, torch.zeros(len(out), dtype=torch.long)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not any(bool(g.any()) for g in gradients):
        raise ModelError(f"model '{name}' cannot learn: no gradient reaches its parameters")
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise ModelError(f"model '{name}' has gradients that are not finite before any training")
    return len(gradients)
