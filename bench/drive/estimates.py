"""How long runs will take, as far as it is known. Example: known_seconds(spec, 45_000, store.runs())"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.core.events import CostCounted, Estimated, Event
from bench.drive.forecast import Size
from bench.drive.planning import Plan
from bench.executors.child import call
from bench.plan.recipes import length, training_images
from bench.plan.spec import RunSpec
from bench.store.disk import Store
from bench.store.records import FinishedRun, RunRecord

Shape = tuple[str, int, int]  # model, classes, image size
TIMED_NOW = "a step timed now"


def group_of(spec: RunSpec) -> str:
    """The same for runs that take equally long: they differ in the seed."""
    return replace(spec, seed=0).run_id


Step = tuple[object, ...]


def known_seconds(spec: RunSpec, train_images: int, known: Sequence[RunRecord]) -> tuple[float | None, str]:
    """(training seconds, their origin): the budget's, or by the speed of the latest run of the same work, or None."""
    budget, images = length(spec.recipe), training_images(spec.recipe, train_images)
    if budget.kind == "seconds":
        return budget.amount, "its budget"
    for run in reversed(known):
        if not isinstance(run, FinishedRun) or run.shared_device or _step(run.spec) != _step(spec):
            continue
        if (speed := run.metrics.loop_images_per_second) and images:
            return images / speed, "an earlier run"
    return None, ""


def _step(spec: RunSpec) -> Step:
    """Equal for runs that take the same training steps on the same kind of device."""
    recipe = (spec.recipe.batch_size, spec.recipe.precision, spec.recipe.optimizer)
    return (spec.model, spec.model_source, spec.device_name, spec.setting, spec.data.image_size, recipe)


@dataclass
class Estimator:
    """Training seconds from earlier runs (`known`), else from a step timed now, once per kind of step."""

    known: Sequence[RunRecord]
    remote: bool
    _seconds_per_image: dict[Step, float] = field(default_factory=dict)
    _estimates: dict[tuple[str, int], tuple[float | None, str]] = field(default_factory=dict)  # of each group

    def estimate(self, spec: RunSpec, train_images: int) -> tuple[float | None, str]:
        """(training seconds, their origin), or (None, why there is no estimate)."""
        group = group_of(spec), train_images
        if group not in self._estimates:
            self._estimates[group] = self._estimate(spec, train_images)
        return self._estimates[group]

    def _estimate(self, spec: RunSpec, train_images: int) -> tuple[float | None, str]:
        seconds, origin = known_seconds(spec, train_images, self.known)
        if seconds is not None:
            return seconds, origin
        if self.remote:
            return None, "no estimate: no run of this model has been measured on such a device"
        images = training_images(spec.recipe, train_images)
        if images and _step(spec) in self._seconds_per_image:
            return images * self._seconds_per_image[_step(spec)], TIMED_NOW
        events: list[Event] = []
        outcome = call("bench.measure.estimate:child_estimate", (spec, train_images), events.append, grace=0)
        timed = next((event for event in events if isinstance(event, Estimated)), None)
        if timed is None:
            return None, f"{outcome.status}: {outcome.message}"
        if images:
            self._seconds_per_image[_step(spec)] = timed.seconds / images
        return timed.seconds, TIMED_NOW


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
