"""Compile a run's training step before the run. Example: child_compile(report, spec, 2)

What is compiled stays in torch's cache, where the run finds it, whatever its seed and length.
bench/drive/compile_ahead.py calls this, for the models of a sweep side by side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bench.core.events import Compiled, Report
from bench.data.loader import Batches
from bench.measure.build import build_model
from bench.measure.device import fix_numerics
from bench.measure.step import make_optimizer, make_step
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import RunSpec


def child_compile(report: Report, spec: RunSpec, threads: int) -> None:
    """Take one training step at the run's shapes, compiled by `threads` processes of torch's; nothing is captured.

    Raises RuntimeError where it cannot be compiled, and whatever a step raises.
    """
    keep_compiled_code()  # before the import, which sets another place for the cache where none is set
    import torch._inductor.config as inductor

    fix_numerics(spec.deterministic)
    inductor.compile_threads = threads  # it is no part of the cache's key
    device, failures = torch.device(spec.device), list[str]()
    model, images, targets = build_model(spec).to(device).train(), *one_batch(spec, device)
    optimizer = make_optimizer(model, spec.recipe)
    step = make_step(model, optimizer, spec.recipe, replace(spec.setting, graphed=False), device, failures.append)
    step(images, targets)
    if failures:
        raise RuntimeError(failures[0])
    report(Compiled(bool(step.from_cache)))


def one_batch(spec: RunSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random images as the run's own come: the same types, strides and kind of target."""
    count, size, classes = spec.recipe.batch_size, spec.data.image_size, spec.data.num_classes
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    labels = np.arange(count, dtype=np.int64) % classes
    batches = Batches.create(images, labels, spec.recipe, classes, spec.seed, device, spec.setting.memory_format)
    return next(batches.steps_between(0, 1))
