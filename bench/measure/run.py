"""One run, from a spec to a record. Example: record = run_one(spec, dataset, store, report)

`run_one` runs in a child process of its own (bench/executors/child.py) and sends its progress to `report`.
bench/measure/session.py does the same for speed sessions.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.core.errors import Diverged, Unfit, UserError
from bench.core.events import Continued, Event, Note, Placed, Planned, Report, Tick, TrialDone
from bench.data.datasets import Dataset, DataSource
from bench.data.loader import Batches, HeldOut
from bench.machine.environment import process_age
from bench.machine.identity import training_code
from bench.measure.build import build_model, make_batches
from bench.measure.checkpoint import SHARE, Checkpoints, State
from bench.measure.counting import CountedCost, cost_of
from bench.measure.device import describe, device_name, fix_numerics, peak_memory_bytes, synchroniser
from bench.measure.evaluate import Evaluation, evaluate, make_forward
from bench.measure.pace import Pace, course_of, plan_course
from bench.measure.phases import Phases
from bench.measure.step import Forward, make_optimizer, undisturbed
from bench.measure.supervise import Clocks, Trained, Turns, noticing_pauses, supervise, to_end
from bench.measure.switches import Switches
from bench.measure.train import begin, restore
from bench.measure.weights import weights_file
from bench.plan.budget import Course
from bench.plan.keys import Fact
from bench.plan.recipes import length
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import RunOptions, RunSpec
from bench.store.disk import Store, now
from bench.store.records import FinishedRun, Metrics
from bench.store.views import history_csv
from models import registry

DEFAULT = RunOptions()


def run_one(
    spec: RunSpec,
    dataset: Dataset,
    store: Store,
    report: Report,
    share: float = SHARE,
    options: RunOptions = DEFAULT,
    phases: Phases | None = None,
) -> FinishedRun:
    """Data, model, cost, training, one look at the test set, record; from the last checkpoint where there is one.

    `report` may raise Interrupted: the training is saved, and Interrupted passed on. At most `share` of the time goes
    into checkpoints. `phases` has counted since the process began. Raises what any step raises.
    """
    return to_end(run_in_turns(spec, Images(dataset), store, report, share, options, phases))


def run_in_turns(
    spec: RunSpec,
    images: Images,
    store: Store,
    report: Report,
    share: float = SHARE,
    options: RunOptions = DEFAULT,
    phases: Phases | None = None,
    remarks: Sequence[str] = (),
) -> Turns[FinishedRun]:
    """The same, with a turn after each training step for others in this process (together.py).

    `remarks`: notes that may still grow.
    """
    started, phases = now(), phases or Phases()
    check_unchanged(spec, images.dataset)
    device = prepare_device(spec)
    store.write_spec(spec)
    phases.enter("data")
    batches = images.batches(spec, device)
    phases.enter("build")
    dataset = images.dataset
    notes = Notes(report, dataset.notes, batches.resident)
    model = build_model(spec, notes.about_model.append)
    switches = Switches.now()  # before its code runs for the first time
    # the conditions of the training; soon, since what is on disk may change
    facts = facts_of(device, options, notes.about_run)
    phases.enter("count")
    cost = cost_of(model, spec)
    phases.enter("move")
    model = model.to(device)
    notes.keeper = keeper = make_keeper(spec, model, store, facts, share / options.together)
    validation, test = images.validation(batches), images.test(batches)
    phases.enter("count")  # the pace of a budget in seconds
    state, course, pace = resume_or_plan(spec, batches, cost, notes, options.samples)
    training = begin(model, batches, course, spec.setting, notes.about_run, state, options)
    forward = make_forward(model, spec.setting, device, spec.recipe.precision, notes.about_run)
    try:
        clocks = Clocks.of(time.perf_counter, synchroniser(device), phases, alone=options.together == 1)
        with noticing_pauses(notes.about_run):
            look = partial(_look, model, validation, forward, report)
            trained = yield from supervise(training, look, clocks, notes.report, keeper)
        phases.enter("test")
        seen = _look(model, test, forward, report)  # the only time that a finished run has looked at the test set
        if not np.isfinite(seen.losses).all():
            raise Diverged(course.steps, "test loss")
        notes.about_switches(switches.put_back())
    except Diverged:
        keeper.clear()  # the next attempt must not resume where this one went wrong
        raise
    phases.enter("saving")
    files = files_of(trained, seen)
    alone = trained.together == 1  # else the process's seconds and memory are not this run's own
    seconds = phases.seconds() if alone else {}
    peak = peak_memory_bytes(device) if alone else None
    measured = Measured(course, pace, trained, seen, keeper.seconds, peak)
    record = FinishedRun(
        run_id=spec.run_id,
        spec=spec,
        family=registry.family(spec.model),
        started=started,
        target=trained.target,
        metrics=metrics_of(measured, batches, cost, sum(seconds.values()) if alone else None),
        history=trained.history,
        setting_used=trained.setting_used,
        first_step_from_cache=trained.from_cache,
        phases=seconds,
        seconds_from="" if alone else options.seconds_from,
        notes=(*notes.collected(cost.notes), *remarks),
        flops_audit=cost.audit,
        modules=cost.modules,
        classes=tuple(dataset.arrays.classes),
        provenance=dataset.provenance,
        environment=facts,
    )
    if options.keep_weights:
        files |= weights_file(model, batches, notes.report)
    store.write_record(record, files)  # the record last: then the run is done
    keeper.clear()
    return record


def run_trial(spec: RunSpec, images: Images, report: Report, together: int = 1) -> Turns[TrialDone]:
    """Train and validate, without a look at the test set, a record or a checkpoint. Raises what a step raises."""
    device = prepare_device(spec)
    batches, model = images.batches(spec, device), build_model(spec)
    flops = cost_of(model, spec).train_flops if length(spec.recipe).kind == "flops" else None
    model = model.to(device)
    validation = images.validation(batches)
    course, _ = plan_course(spec, batches, flops)
    report(Planned(course.steps, course.epochs))
    training = begin(model, batches, course, spec.setting, options=RunOptions(together=together))
    forward = make_forward(model, spec.setting, device, spec.recipe.precision)
    clocks = Clocks.of(time.perf_counter, synchroniser(device), alone=together == 1)
    trained = yield from supervise(training, lambda: _look(model, validation, forward, report), clocks, report)
    seen = trained.validation
    return TrialDone(course.samples, trained.train_seconds, seen.accuracy, seen.loss, len(seen.labels))


# --- the steps of a run ------------------------------------------------------------------------------------------


def check_unchanged(spec: RunSpec, dataset: Dataset) -> None:
    """Raise Unfit where data or a model's file are not those that the sweep was planned with."""
    if dataset.ref != spec.data:
        raise Unfit(f"the data of '{spec.data.name}' are not those that the sweep was planned with")
    if registry.source_hash(spec.model) != spec.model_source:
        raise Unfit(f"the file behind '{spec.model}' is not the one that the sweep was planned with")


def prepare_device(spec: RunSpec) -> torch.device:
    """The spec's device, with its numerics fixed."""
    fix_numerics(spec.deterministic)
    if spec.setting.compile_mode:
        keep_compiled_code()
    return torch.device(spec.device)


def facts_of(device: torch.device, options: RunOptions, note: Callable[[str], None]) -> dict[str, Fact]:
    """The environment as the record keeps it; `note` hears that others use the GPU."""
    facts = describe(device)
    if options.colocation.runs > 1:
        facts["threads_alone"] = options.colocation.threads_alone
        if "gpu_shared" in facts:  # with runs of this sweep, as the record says elsewhere
            facts["gpu_shared"] = False
    elif facts.get("gpu_shared"):
        note("other processes used this GPU when the run began: its seconds are not those of a GPU by itself")
    return facts


def make_keeper(spec: RunSpec, model: nn.Module, store: Store, facts: dict[str, Fact], share: float) -> Checkpoints:
    """The run's checkpoints, and the conditions under which one may be resumed: never by other code."""
    conditions: dict[str, Fact] = {"run_id": spec.run_id, "code": training_code(), "torch": facts["torch"]}
    conditions |= {"device_name": facts["device_name"]}
    if spec.device == "cpu":
        conditions["threads"] = facts["torch_threads"]  # sums are taken in another order
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Checkpoints(store.run_dir(spec) / "checkpoints", conditions, size, share=share)


class Images:
    """A data set on the device, once for all runs of a process, which differ in the seed or the learning rate."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._batches: Batches | None = None
        self._held_out: dict[str, HeldOut] = {}

    def batches(self, spec: RunSpec, device: torch.device) -> Batches:
        """The spec's training batches."""
        if self._batches is None:
            self._batches = make_batches(spec, self.dataset, device)
        return replace(self._batches, recipe=spec.recipe, seed=spec.seed)

    def validation(self, batches: Batches) -> HeldOut:
        """The validation images, on the batches' device."""
        arrays, index = self.dataset.arrays, self.dataset.val_index
        return self._part("validation", arrays.train_x[index], arrays.train_y[index], batches)

    def test(self, batches: Batches) -> HeldOut:
        """The test images, on the batches' device."""
        return self._part("test", self.dataset.arrays.test_x, self.dataset.arrays.test_y, batches)

    def _part(self, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], batches: Batches) -> HeldOut:
        if name not in self._held_out:
            self._held_out[name] = HeldOut.create(images, labels, batches)
        return self._held_out[name]


def resume_or_plan(
    spec: RunSpec, batches: Batches, cost: CountedCost, notes: Notes, samples: int | None = None
) -> tuple[State | None, Course, Pace | None]:
    """(a checkpoint's state, its course, None), or (None, a new course, the pace measured for it).

    `samples`: where the length is known already.
    """
    recipe, pace = spec.recipe, None

    def fits(state: State) -> None:
        # Into a new model first, so that a checkpoint that fits only half leaves no trace.
        device = batches.labels.device
        with undisturbed(device):
            trial = build_model(spec).to(device)
            course = course_of(recipe, state["progress"]["samples"], batches.steps)
            restore(state, trial, make_optimizer(trial, recipe), device, course)

    assert notes.keeper is not None
    state = notes.keeper.load(fits)
    if state is not None:
        course = course_of(recipe, state["progress"]["samples"], batches.steps)
    elif samples is not None:
        course = course_of(recipe, samples, batches.steps)
    else:
        course, pace = plan_course(spec, batches, cost.train_flops)
    notes.report(Planned(course.steps, course.epochs))
    if state is not None:
        notes.report(Continued(state["progress"]["step"]))
    return state, course, pace


def _look(model: nn.Module, part: HeldOut, forward: Forward, report: Report) -> Evaluation:
    """Evaluate; the report is asked in between whether to go on."""
    return evaluate(model, part.batches(), forward, on_batch=lambda: report(Tick()))


class Notes:
    """Collects what a reader of the record must know, and passes it on to the screen as it comes."""

    def __init__(self, report: Report, of_data: tuple[str, ...], resident: bool) -> None:
        self._report, self._of_data = report, list(of_data)
        self._streaming = [] if resident else ["training images do not fit on the device: they were streamed to it"]
        self._of_run: list[str] = []
        self.about_model: list[str] = []
        self.keeper: Checkpoints | None = None  # its notes go to the screen only

    def report(self, event: Event) -> None:
        """Report an event, after what the keeper noted."""
        while self.keeper is not None and self.keeper.notes:
            self._report(Note(self.keeper.notes.pop(0)))
        self._report(event)

    def about_run(self, text: str) -> None:
        """Why the setting is not in use, or what disturbed the run."""
        self._of_run.append(text)
        self.report(Note(text))

    def about_switches(self, changed: Sequence[str]) -> None:
        """Which switches of the process the model's code changed while it ran, if any."""
        if changed:
            self.about_run(
                "the model's code changed switches of the whole process while it ran, so not all of it ran under those "
                f"that the record names: {', '.join(changed)}"
            )

    def collected(self, of_cost: list[str]) -> list[str]:
        """All notes of the record."""
        return [*self._of_data, *self.about_model, *of_cost, *self._streaming, *self._of_run]


@dataclass(frozen=True)
class Measured:
    """What a training and its look at the test set gave."""

    course: Course
    pace: Pace | None
    trained: Trained
    test: Evaluation
    checkpoint_seconds: float
    peak_memory_bytes: int | None


def metrics_of(measured: Measured, batches: Batches, cost: CountedCost, wall_seconds: float | None) -> Metrics:
    """The figures of a run. `loop_images_per_second` is the training's own speed, loading included."""
    trained, test, course, pace = measured.trained, measured.test, measured.course, measured.pace
    steady = trained.samples_seen - trained.segments * course.batch_size  # each segment's first step is not timed
    figures: dict[str, Any] = dict(cost.metrics)
    return Metrics(
        accuracy=test.accuracy,
        test_loss=test.loss,
        val_accuracy=trained.validation.accuracy,
        val_loss=trained.validation.loss,
        train_seconds=trained.train_seconds,
        first_step_seconds=trained.first_step_seconds if trained.together == 1 else None,
        segments=trained.segments,
        samples_seen=trained.samples_seen,
        loop_images_per_second=max(steady, 0) / trained.train_seconds if trained.train_seconds else None,
        epochs=course.epochs,
        pace_seconds=pace.seconds if pace else None,
        pace_images_per_second=pace.images_per_second if pace else None,
        train_images=len(batches.labels),
        test_images=len(test.labels),
        val_images=len(trained.validation.labels),
        checkpoint_seconds=measured.checkpoint_seconds,
        runs_at_once=trained.runs_at_once,
        together=trained.together,
        peak_memory_bytes=measured.peak_memory_bytes,
        wall_seconds=wall_seconds,
        **figures,
    )


def files_of(trained: Trained, test: Evaluation) -> dict[str, bytes]:
    """What lies beside the run's record, by name."""
    predictions = predictions_npz(trained.validation, test)
    return {"history.csv": history_csv(trained.history), "predictions.npz": predictions}


def predictions_npz(validation: Evaluation, test: Evaluation) -> bytes:
    """Per image the predicted class, the true one and the loss, of the validation and the test part, in data order."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {}
    for part, seen in (("val", validation), ("test", test)):
        arrays[f"{part}_predicted"] = seen.predicted.astype(np.int32)  # own data may have 100,000 classes
        arrays[f"{part}_label"] = seen.labels.astype(np.int32)
        arrays[f"{part}_loss"] = seen.losses.astype(np.float32)
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


# --- in a child process ------------------------------------------------------------------------------------------


def child_run(report: Report, spec: RunSpec, source: DataSource, root: Path, options: RunOptions = DEFAULT) -> None:
    """One run, under its exclusive lock; does nothing if another process has finished it.

    The run belongs to the device that is here: its first event gives its name.
    """
    phases, store = Phases(before=process_age()), Store(root.absolute())  # a model may change the directory

    def images() -> Images:
        with phases.of("data"):
            return Images(data_here(source))

    to_end(claimed_run(spec, images, store, report, options, phases))


def claimed_run(
    spec: RunSpec,
    images: Callable[[], Images],
    store: Store,
    report: Report,
    options: RunOptions,
    phases: Phases | None = None,
    remarks: Sequence[str] = (),
) -> Turns[None]:
    """A run as that of the device that is here, under its lock, unless it is done. Raises Busy."""
    spec = replace(spec, device_name=device_name(torch.device(spec.device)))  # whatever was expected
    report(Placed(spec.run_id, spec.device_name))
    with store.claim(spec.run_id):
        if options.rerun or not store.is_done(spec):
            yield from run_in_turns(spec, images(), store, report, options=options, phases=phases, remarks=remarks)


def child_trial(report: Report, spec: RunSpec, source: DataSource) -> None:
    """One trial of a learning-rate search; its last event holds the result."""
    report(to_end(run_trial(spec, Images(data_here(source)), report)))


def data_here(source: DataSource) -> Dataset:
    """The data on this machine. Raises Unfit where it cannot have them: the model is not to blame."""
    try:
        return source.load()
    except UserError as error:
        raise Unfit(str(error)) from error
