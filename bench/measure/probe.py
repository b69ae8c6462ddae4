"""Try models before any long work starts. Example: warnings = check_run(spec)"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from bench.core.events import Probed, ProbeFailed, ProbeStarted, Report
from bench.core.files import inert
from bench.core.status import one_line, status_of
from bench.core.text import plural
from bench.measure.build import CONTIGUOUS, build_model, build_plain
from bench.measure.device import synchroniser
from bench.measure.step import autocast, layout, make_optimizer, make_step
from bench.measure.switches import kept
from bench.measure.weights import weights_bytes
from bench.plan.spec import Recipe, RunSpec, Setting
from models.errors import ModelError

FEW_TOKENS = 16


def child_probe(report: Report, specs: Sequence[RunSpec]) -> None:
    """Try each run's model with check_run; the events say which is being tried, so that a crash has a name."""
    for spec in specs:
        sizes: list[int] = []
        report(ProbeStarted(spec.model))
        try:
            noted: list[str] = []
            with kept(noted.append):  # what it changes while it is tried must not meet the next one
                warnings = check_run(spec, sizes.append)
            report(Probed(spec.model, (*warnings, *(f"{spec.model}: {text}" for text in noted)), *sizes))
        except ModelError as error:
            report(ProbeFailed(spec.model, inert(str(error))))


def check_run(spec: RunSpec, on_size: Callable[[int], None] = lambda size: None) -> list[str]:
    """check_model under the run's own conditions, then a training step with them; returns warnings.

    What passes can train: memory format, optimizer, precision and a batch of one are tried as the run will have them.
    A run for a GPU is tried there if this machine has one; else on the CPU in fp32, which has a bf16 of its own.
    Raises ModelError, which names the condition.
    """
    warnings: list[str] = []
    name, size = spec.model, spec.data.image_size
    with _sentence(name, f"on {size} px images"):
        model = build_model(spec, warnings.append)
        on_size(weights_bytes(model))
    warnings = [f"{name}: {text}" for text in warnings]
    warnings += check_built(model, name, spec.data.num_classes, size, spec.setting)
    device = torch.device(spec.device if spec.device == "cpu" or torch.cuda.is_available() else "cpu")
    fp32, images = replace(spec.recipe, precision="fp32"), min(2, spec.recipe.batch_size)
    with _sentence(name, f"in a training step on {plural(images, 'image')} with {fp32.optimizer} in fp32"):
        model.to(device)
        _one_step(model, fp32, spec, device, images)
    if spec.recipe.precision != "fp32" and device.type == spec.device:
        with _sentence(name, f"under {spec.recipe.precision}, though not under fp32"):
            _one_step(model, spec.recipe, spec, device, images)
    return warnings


def _one_step(model: nn.Module, recipe: Recipe, spec: RunSpec, device: torch.device, images: int) -> None:
    """One eager training step on a few images, as the run takes it; what it does to the weights does not matter."""
    size, classes = spec.data.image_size, spec.data.num_classes
    batch = torch.randn(images, 3, size, size, device=device).contiguous(memory_format=layout(spec.setting))
    eager = replace(spec.setting, compile_mode="", graphed=False)
    model.train()
    step = make_step(model, make_optimizer(model, recipe), recipe, eager, device)
    step(batch, torch.arange(images, device=device) % classes)
    with torch.no_grad(), autocast(device, recipe.precision):
        model.eval()
        model(batch)
    synchroniser(device)()


@contextlib.contextmanager
def _sentence(name: str, condition: str) -> Iterator[None]:
    """External code may raise anything; here it becomes a ModelError that says under which condition."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model '{name}' fails {condition}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why a few images could not be tried: torch's own sentence about memory is of its allocator, and of bytes."""
    return "not enough memory; smaller images take less" if status_of(error) == "oom" else one_line(error)


def check_model(name: str, num_classes: int, image_size: int) -> list[str]:
    """Build a model and try it on the CPU, with check_built; returns warnings. Raises ModelError."""
    torch.manual_seed(0)
    warnings: list[str] = []
    with _sentence(name, f"on {image_size} px images"):
        model = build_plain(name, num_classes, image_size, warnings.append)
    return [*(f"{name}: {text}" for text in warnings), *check_built(model, name, num_classes, image_size, CONTIGUOUS)]


def check_built(model: nn.Module, name: str, num_classes: int, image_size: int, setting: Setting) -> list[str]:
    """Try a model on the CPU in the setting's memory format; returns warnings.

    Forward and backward on two images in train mode, forward on one and on two in eval mode. Raises ModelError for a
    model that outputs anything but finite (B, num_classes) floats (1,000 logits for 10 classes would train without an
    error), changes its images, answers the same images differently in eval mode, or has no gradient.
    """
    from models.external import tokens

    with _sentence(name, f"on {image_size} px images"):
        images = torch.randn(2, 3, image_size, image_size).contiguous(memory_format=layout(setting))
        original = images.clone()
        model.train()
        out = _logits(model(images), name, 2, num_classes)
        reached = _gradients(model, out, name)
        model.eval()
        with torch.no_grad():
            _logits(model(images[:1]), name, 1, num_classes)
            first, second = (_logits(model(images), name, 2, num_classes) for _ in range(2))
    if not torch.equal(images, original):
        raise ModelError(f"model '{name}' changes its input in place; write x = x - 0.5 instead of x.sub_(0.5)")
    if not torch.equal(first, second):
        raise ModelError(
            f"model '{name}' gives different outputs for the same images in eval mode: its accuracy means nothing"
        )
    warnings = []
    total = sum(p.requires_grad for p in model.parameters())
    if reached < total:
        warnings.append(f"{name}: {total - reached} of {plural(total, 'parameter tensor')} receive no gradient")
    count = tokens(model)
    if count is not None and count < FEW_TOKENS:
        warnings.append(f"{name} cuts a {image_size} px image into only {count} tokens: use a smaller patch")
    return warnings


def _logits(out: object, name: str, images: int, num_classes: int) -> torch.Tensor:
    """The output as a tensor of logits. Raises ModelError where it is not one."""
    if not isinstance(out, torch.Tensor) or out.shape != (images, num_classes) or not out.is_floating_point():
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(f"model '{name}' returns {shape} for {images} images, not ({images}, {num_classes}) logits")
    if not torch.isfinite(out).all():
        raise ModelError(f"model '{name}' returns non-finite values before any training")
    return out


def _gradients(model: nn.Module, out: torch.Tensor, name: str) -> int:
    """How many trainable tensors get a gradient. Raises ModelError where none does, or a gradient is not finite."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(f"model '{name}' has nothing to train: no parameter requires a gradient")
    if out.requires_grad:
        torch.nn.functional.cross_entropy(out, torch.zeros(len(out), dtype=torch.long)).backward()
    gradients = [p.grad.to_dense() for p in model.parameters() if p.grad is not None]  # an embedding's may be sparse
    if not any(bool(g.any()) for g in gradients):
        raise ModelError(f"model '{name}' cannot learn: no gradient reaches its parameters")
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise ModelError(f"model '{name}' has non-finite gradients before any training")
    return len(gradients)
