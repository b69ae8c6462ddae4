"""How long runs will take, as far as it is known. Example: known_seconds(spec, 45_000, store.runs())"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.core.events import CostCounted, Estimated, Event
from bench.drive.forecast import Size
from bench.drive.planning import Plan
from bench.executors.child import call
from bench.plan.recipes import length, training_images
from bench.plan.spec import RunSpec
from bench.store.disk import Store
from bench.store.records import FinishedRun, RunRecord

Shape = tuple[str, int, int]  # model, classes, image size


def group_of(spec: RunSpec) -> str:
    """The same for runs that take equally long: they differ in the seed."""
    return replace(spec, seed=0).run_id


def known_seconds(spec: RunSpec, train_images: int, known: Sequence[RunRecord]) -> tuple[float | None, str]:
    """(training seconds, their origin): the budget's, or by the speed of the latest run of the same work, or None."""
    budget, images = length(spec.recipe), training_images(spec.recipe, train_images)
    if budget.kind == "seconds":
        return budget.amount, "its budget"
    for run in reversed(known):
        if not isinstance(run, FinishedRun) or run.shared_device or not _same_step(run.spec, spec):
            continue
        if (speed := run.metrics.loop_images_per_second) and images:
            return images / speed, "an earlier run"
    return None, ""


def _same_step(one: RunSpec, other: RunSpec) -> bool:
    """Whether the runs of two specs take the same training steps on the same kind of device."""

    def work(spec: RunSpec) -> tuple[object, ...]:
        recipe = (spec.recipe.batch_size, spec.recipe.precision, spec.recipe.optimizer)
        return (spec.model, spec.model_source, spec.device_name, spec.setting, spec.data.image_size, recipe)

    return work(one) == work(other)


def estimate(spec: RunSpec, train_images: int, known: Sequence[RunRecord], remote: bool) -> tuple[float | None, str]:
    """(training seconds, their origin), or (None, why there is no estimate)."""
    seconds, origin = known_seconds(spec, train_images, known)
    if seconds is not None:
        return seconds, origin
    if remote:
        return None, "no estimate: no run of this model has been measured on such a device"
    events: list[Event] = []
    outcome = call("bench.measure.estimate:child_estimate", (spec, train_images), events.append, grace=0)
    timed = next((event for event in events if isinstance(event, Estimated)), None)
    return (timed.seconds, "a step timed now") if timed else (None, f"{outcome.status}: {outcome.message}")


def sizes_of(todo: Sequence[tuple[RunSpec, Plan]], store: Store) -> dict[str, Size]:
    """How much work the runs are, by group: FLOPs of a training step times images; seconds, where earlier runs tell.

    A model that cannot be counted has no FLOPs, and comes last.
    """
    groups = {group_of(spec): (spec, len(plan.dataset.train_index)) for spec, plan in todo}
    flops: dict[Shape, float] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, CostCounted):
            flops[event.model, event.num_classes, event.image_size] = event.train_flops

    one_each = {_shape(spec): spec for spec, _ in groups.values()}
    call("bench.measure.estimate:child_costs", (list(one_each.values()),), on_event, grace=0)
    known, sizes = store.runs(), {}
    for group, (spec, train_images) in groups.items():
        images, budget = training_images(spec.recipe, train_images), length(spec.recipe)
        amount = flops[_shape(spec)] * images if images and _shape(spec) in flops else None
        amount = budget.amount if budget.kind == "flops" else amount
        sizes[group] = Size(group, amount, known_seconds(spec, train_images, known)[0])
    return sizes


def _shape(spec: RunSpec) -> Shape:
    return spec.model, spec.data.num_classes, spec.data.image_size
