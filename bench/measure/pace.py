"""The length of a training. Example: course, pace = plan_course(spec, batches, train_flops=None)

A budget in seconds becomes a number of samples through the model's own speed, measured on a copy before training.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass

from bench.data.loader import Batches
from bench.measure.build import build_model
from bench.measure.device import synchroniser
from bench.measure.step import make_optimizer, make_step, undisturbed
from bench.plan.budget import Course, samples_for
from bench.plan.recipes import length
from bench.plan.spec import Recipe, RunSpec

SHARE, LEAST, MOST = 0.05, 1.0, 30.0  # of a budget, and limits in seconds: length of the warm-up and of the measurement
STEPS = 3  # at least, before and during a measurement: allocation and compilation are not the steady state


@dataclass(frozen=True)
class Pace:
    """A model's steady training speed, and how long it took to measure."""

    images_per_second: float
    seconds: float


def course_of(recipe: Recipe, samples: int, steps_per_epoch: int) -> Course:
    """A training of `samples` images under a recipe. Raises ValueError for less than one batch."""
    return Course(samples, recipe.batch_size, steps_per_epoch, recipe.validations)


def plan_course(spec: RunSpec, batches: Batches, train_flops: float | None) -> tuple[Course, Pace | None]:
    """The run's course; a budget in seconds needs a measurement of its speed. Raises ValueError."""
    recipe, budget = spec.recipe, length(spec.recipe)
    if budget.kind == "epochs":
        return course_of(recipe, recipe.epochs * batches.steps * batches.batch_size, batches.steps), None
    pace = None
    if budget.kind == "seconds":
        pace = measure_pace(spec, batches, min(MOST, max(LEAST, SHARE * budget.amount)))
    speed = pace.images_per_second if pace else None
    return course_of(recipe, samples_for(budget, recipe.batch_size, train_flops, speed), batches.steps), pace


def measure_pace(spec: RunSpec, batches: Batches, limit: float) -> Pace:
    """The speed of steps as the training will take them, loading included, on a model built for it."""
    begin = time.perf_counter()
    with undisturbed(batches.labels.device):
        speed = _images_per_second(spec, batches, limit)
    return Pace(speed, time.perf_counter() - begin)


def _images_per_second(spec: RunSpec, batches: Batches, limit: float) -> float:
    device = batches.labels.device
    trial = build_model(spec).to(device)
    trial.train()
    optimizer = make_optimizer(trial, spec.recipe, capturable=spec.setting.graphed)
    step = make_step(trial, optimizer, spec.recipe, spec.setting, device)
    source = batches.steps_between(0, sys.maxsize)
    sync = synchroniser(device)

    def seconds_of(steps: int) -> float:
        sync()
        start = time.perf_counter()
        for images, labels in itertools.islice(source, steps):
            step(images, labels)
        sync()
        return time.perf_counter() - start

    seconds_of(STEPS)
    once = seconds_of(STEPS) / STEPS
    steps = max(STEPS, round(limit / once))
    seconds_of(steps)  # as long as the measurement: the first seconds of a process are slower
    speed = steps * batches.batch_size / seconds_of(steps)
    source.close()
    return speed
