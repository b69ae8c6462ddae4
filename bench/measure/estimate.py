"""Estimate runs before they start. Example: child_estimate(report, spec, train_images=45_000)"""

from __future__ import annotations

import contextlib
import statistics
import time

import torch

from bench.core.events import CostCounted, Estimated, Report
from bench.measure.counting import cached_count
from bench.measure.session import build
from bench.measure.timing import stopwatch_of
from bench.plan.budget import samples_for
from bench.plan.recipes import length, training_images
from bench.plan.spec import RunSpec, session_of


def child_costs(report: Report, specs: list[RunSpec]) -> None:
    """Report the training FLOPs of one image for each model that can be counted."""
    for spec in specs:
        with contextlib.suppress(Exception):  # the run itself will report what is wrong
            if flops := cached_count(spec).train_flops_2x:
                report(CostCounted(spec.model, spec.data.num_classes, spec.data.image_size, flops))


def child_estimate(report: Report, spec: RunSpec, train_images: int) -> None:
    """Report a run's expected training seconds: three training steps after two to warm up."""
    _, tasks = build(session_of([spec], 0.0), spec.model)
    task = next(task for task in tasks if task.kind == "train")
    task.prepare()
    stopwatch = stopwatch_of(torch.device(spec.device), time.perf_counter)
    stopwatch(task.call, 2)
    step = statistics.median(stopwatch(task.call, 1) for _ in range(3))
    images = training_images(spec.recipe, train_images)
    if images is None:
        flops = cached_count(spec).train_flops_2x
        images = samples_for(length(spec.recipe), spec.recipe.batch_size, flops)
    report(Estimated(step * images / spec.recipe.batch_size))
