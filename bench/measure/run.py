"""One run, from a spec to a record. Example: record = run_one(spec, dataset, store, report)

`run_one` runs in a child process of its own (bench/executors/child.py) and sends its progress to `report`.
bench/measure/session.py does the same for speed sessions.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from bench.measure.evaluate import Evaluation, Forward, evaluate, make_forward
from bench.measure.pace import Pace, course_of, plan_course
from bench.measure.phases import Phases
from bench.measure.step import make_optimizer, undisturbed
from bench.measure.supervise import Clocks, Trained, noticing_pauses, supervise
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
    started, phases = now(), phases or Phases()
    check_unchanged(spec, dataset)
    device = prepare_device(spec)
    store.write_spec(spec)
    phases.enter("data")
    batches = make_batches(spec, dataset, device)
    phases.enter("build")
    notes = Notes(report, dataset.notes, batches.resident)
    model = build_model(spec, notes.about_model.append)
    facts = facts_of(device, options)  # the conditions of the training; soon, since what is on disk may change
    phases.enter("count")
    cost = cost_of(model, spec)
    phases.enter("move")
    model = model.to(device)
    notes.keeper = keeper = make_keeper(spec, model, store, facts, share)
    validation = validation_part(dataset, batches)
    test = HeldOut.create(dataset.arrays.test_x, dataset.arrays.test_y, batches)
    phases.enter("count")  # the pace of a budget in seconds
    state, course, pace = resume_or_plan(spec, batches, cost, notes)
    training = begin(model, batches, course, spec.setting, notes.about_run, state, options)
    forward = make_forward(model, spec.setting, device, spec.recipe.precision, notes.about_run)
    try:
        clocks = Clocks.of(time.perf_counter, synchroniser(device), phases)
        with noticing_pauses(notes.about_run):
            look = partial(_look, model, validation, forward, report)
            trained = supervise(training, look, clocks, notes.report, keeper)
        phases.enter("test")
        seen = _look(model, test, forward, report)  # the only time that a finished run has looked at the test set
        if not np.isfinite(seen.losses).all():
            raise Diverged(course.steps, "test loss")
    except Diverged:
        keeper.clear()  # the next attempt must not resume where this one went wrong
        raise
    phases.enter("saving")
    files = files_of(trained, seen)
    seconds = phases.seconds()
    measured = Measured(course, pace, trained, seen, keeper.seconds, peak_memory_bytes(device))
    record = FinishedRun(
        run_id=spec.run_id,
        spec=spec,
        family=registry.family(spec.model),
        started=started,
        target=trained.target,
        metrics=metrics_of(measured, batches, cost, sum(seconds.values())),
        history=trained.history,
        setting_used=trained.setting_used,
        phases=seconds,
        notes=tuple(notes.collected(cost.notes)),
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


def run_trial(spec: RunSpec, dataset: Dataset, report: Report) -> TrialDone:
    """Train and validate, without a look at the test set, a record or a checkpoint. Raises what a step raises."""
    device = prepare_device(spec)
    batches, model = make_batches(spec, dataset, device), build_model(spec)
    flops = cost_of(model, spec).train_flops if length(spec.recipe).kind == "flops" else None
    model = model.to(device)
    validation = validation_part(dataset, batches)
    course, _ = plan_course(spec, batches, flops)
    report(Planned(course.steps, course.epochs))
    training = begin(model, batches, course, spec.setting)
    forward = make_forward(model, spec.setting, device, spec.recipe.precision)
    clocks = Clocks.of(time.perf_counter, synchroniser(device))
    trained = supervise(training, lambda: _look(model, validation, forward, report), clocks, report)
    return TrialDone(course.samples, trained.train_seconds, trained.validation.accuracy, trained.validation.loss)


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


def facts_of(device: torch.device, options: RunOptions) -> dict[str, Fact]:
    """The environment as the record keeps it."""
    facts = describe(device)
    if options.colocation.runs > 1:
        facts["threads_alone"] = options.colocation.threads_alone
    return facts


def make_keeper(spec: RunSpec, model: nn.Module, store: Store, facts: dict[str, Fact], share: float) -> Checkpoints:
    """The run's checkpoints, and the conditions under which one may be resumed: never by other code."""
    conditions: dict[str, Fact] = {"run_id": spec.run_id, "code": training_code(), "torch": facts["torch"]}
    conditions |= {"device_name": facts["device_name"]}
    if spec.device == "cpu":
        conditions["threads"] = facts["torch_threads"]  # sums are taken in another order
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Checkpoints(store.run_dir(spec) / "checkpoints", conditions, size, share=share)


def validation_part(dataset: Dataset, batches: Batches) -> HeldOut:
    """The validation images, on the batches' device."""
    images, labels = dataset.arrays.train_x[dataset.val_index], dataset.arrays.train_y[dataset.val_index]
    return HeldOut.create(images, labels, batches)


def resume_or_plan(
    spec: RunSpec, batches: Batches, cost: CountedCost, notes: Notes
) -> tuple[State | None, Course, Pace | None]:
    """(a checkpoint's state, its course, None), or (None, a new course, the pace measured for it)."""
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


def metrics_of(measured: Measured, batches: Batches, cost: CountedCost, wall_seconds: float) -> Metrics:
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
        first_step_seconds=trained.first_step_seconds,
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
    spec = replace(spec, device_name=device_name(torch.device(spec.device)))  # whatever was expected
    report(Placed(spec.run_id, spec.device_name))
    with store.claim(spec.run_id):
        if options.rerun or not store.is_done(spec):
            with phases.of("data"):
                dataset = data_here(source)
            run_one(spec, dataset, store, report, options=options, phases=phases)


def child_trial(report: Report, spec: RunSpec, source: DataSource) -> None:
    """One trial of a learning-rate search; its last event holds the result."""
    report(run_trial(spec, data_here(source), report))


def data_here(source: DataSource) -> Dataset:
    """The data on this machine. Raises Unfit where it cannot have them: the model is not to blame."""
    try:
        return source.load()
    except UserError as error:
        raise Unfit(str(error)) from error
