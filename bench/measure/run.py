"""The straight line from a spec to a record. Example: run_one(spec, dataset, store, report)

`run_one` trains and measures one run in a child process of its own (executors/local.py) and sends its progress to
`report`. bench/measure/session.py is its sister for speed sessions.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bench.measure.cost
from bench.core.errors import Diverged, Unfit, UserError
from bench.core.files import cache_dir, from_json, sha256, to_json, write_atomically
from bench.core.status import one_line
from bench.data.datasets import Dataset, DataSource
from bench.data.loader import Batches, HeldOut
from bench.machine import environment
from bench.measure.checkpoint import SHARE, Checkpoints
from bench.measure.cost import Audit, Cost, ModuleCost, count
from bench.measure.session import build, synchroniser
from bench.measure.step import Note, arrange, make_optimizer, make_step, random_streams, set_random_streams
from bench.measure.timing import stopwatch_of
from bench.measure.train import Clock, Evaluation, Trained, evaluate, restore, train
from bench.plan.budget import Course, samples_for
from bench.plan.recipes import length
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import ALONE, Company, Recipe, RunSpec, SessionSpec, content_id, slug, to_dict
from bench.store.disk import REFERENCE, Store, history_csv, now, shared_device
from bench.store.records import SCHEMA, Record
from models import registry
from models.drop_path import set_drop_path
from models.registry import ModelError

Report = Callable[[dict[str, Any]], None]


def build_model(spec: RunSpec, note: Note = lambda text: None) -> nn.Module:
    """The spec's model on the CPU, its weights decided by the seed alone; its memory format is the setting's.

    `note` hears where the recipe's drop_path reaches nothing.
    """
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)  # a model from a file may draw from these two
    np.random.seed(spec.seed)
    model = registry.build(spec.model, spec.data.num_classes, spec.data.image_size)
    rate = spec.recipe.drop_path
    if not set_drop_path(model, rate) and rate:
        note(f"the recipe's drop_path of {rate:g} reaches no block of this model, which was trained without it")
    return arrange(model, spec.setting)


def check_model(name: str, num_classes: int, image_size: int) -> list[str]:
    """Build and try a model on the CPU before anything long begins; returns warnings.

    Forward and backward on two images in train mode, forward on one and on two in eval mode. Raises ModelError for a
    model that cannot be built, puts out anything but finite (B, num_classes) floats (1,000 logits for 10 classes would
    train without a word), answers the same images differently in eval mode, or has no gradient.
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
    except Exception as error:  # a stranger's code may raise anything
        raise ModelError(f"model '{name}' fails on {image_size} px images: {one_line(error)}") from error
    if not torch.equal(first, second):
        raise ModelError(f"model '{name}' answers the same images differently in eval mode: its accuracy has no value")
    warnings = []
    total = sum(p.requires_grad for p in model.parameters())
    if reached < total:
        warnings.append(f"{name}: {total - reached} of {total} parameter tensors get no gradient")
    count = tokens(model)
    if count is not None and count < 16:
        warnings.append(
            f"{name} cuts a {image_size} px image into only {count} tokens: a smaller patch would be fairer"
        )
    return warnings


def _logits(out: Any, name: str, images: int, num_classes: int) -> torch.Tensor:
    """The output, if it is one. Raises ModelError."""
    if not isinstance(out, torch.Tensor) or out.shape != (images, num_classes) or not out.is_floating_point():
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(f"model '{name}' puts out {shape} for {images} images, not ({images}, {num_classes}) logits")
    if not torch.isfinite(out).all():
        raise ModelError(f"model '{name}' puts out values that are not finite before any training")
    return out


def _gradients(model: nn.Module, out: torch.Tensor, name: str) -> int:
    """How many trainable tensors a loss reaches. Raises ModelError where it is none, or a gradient is not finite."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(f"model '{name}' has nothing to train: no parameter requires a gradient")
    if out.requires_grad:
        torch.nn.functional.cross_entropy(out, torch.zeros(len(out), dtype=torch.long)).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    if not any(bool(g.any()) for g in found):
        raise ModelError(f"model '{name}' cannot learn: no gradient reaches its parameters")
    if not all(bool(torch.isfinite(g).all()) for g in found):
        raise ModelError(f"model '{name}' has gradients that are not finite before any training")
    return len(found)


def run_one(
    spec: RunSpec,
    dataset: Dataset,
    store: Store,
    report: Report,
    share: float = SHARE,
    company: Company = ALONE,
    target: float | None = None,
) -> Record:
    """Data, model, cost, training, one look at the test set, record; from the last checkpoint where there is one.

    `report` may raise Interrupted: the training is saved, and Interrupted passed on. `share` of the time may go into
    checkpoints. `target`: the validation accuracy whose time will be asked for, named before the training. Raises what
    any step raises.
    """
    if dataset.ref != spec.data:
        raise Unfit(f"the data of '{spec.data.name}' are not those that the sweep was planned with")
    started, begin = now(), time.perf_counter()
    if registry.source_hash(spec.model) != spec.model_source:
        raise Unfit(f"the file behind '{spec.model}' is not the one that the sweep was planned with")
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    if spec.setting.compile_mode:
        keep_compiled_code()
    facts = environment.describe(device)  # before the work: what is on disk may change while it goes on
    if company.runs > 1:
        facts["threads_alone"] = company.threads_alone
    store.write_spec(spec)
    batches = make_batches(spec, dataset, device)
    model_notes: list[str] = []
    model = build_model(spec, model_notes.append)
    cost, cost_notes, counts = _cost(model, spec)
    model = model.to(device)
    keeper = make_keeper(spec, model, store, facts, share)
    sync = synchroniser(device)
    clock, first_clock = Clock(time.perf_counter, sync), Clock(time.perf_counter, sync)
    arrays = dataset.arrays

    validation = HeldOut.create(arrays.train_x[dataset.val_index], arrays.train_y[dataset.val_index], batches)

    def look(part: HeldOut) -> Evaluation:
        tick = {"event": "tick"}
        return evaluate(model, part.batches(), device, spec.recipe.precision, on_batch=lambda: report(tick))

    def tell(event: dict[str, Any]) -> None:
        while keeper.notes:
            report({"event": "note", "text": keeper.notes.pop(0)})
        report(event)

    setting_notes: list[str] = []

    def hear(text: str) -> None:
        setting_notes.append(text)
        tell({"event": "note", "text": text})

    state = keeper.load(lambda found: _try_out(found, model, spec.recipe, batches.steps, device))
    if state is not None:
        course, pace = course_of(spec.recipe, state["progress"]["samples"], batches.steps), None
    else:
        course, pace = plan_course(spec, batches, model, cost.get("train_flops_2x"), device)
    tell({"event": "planned", "steps": course.steps, "epochs": course.epochs})
    if state is not None:
        tell({"event": "continued", "step": state["progress"]["step"]})
    try:
        trained = train(
            model,
            batches,
            lambda: look(validation),
            spec.recipe,
            course,
            device,
            clock,
            first_clock,
            on_step=lambda step: tell({"event": "step", "step": step}),
            on_epoch=lambda epoch: tell({"event": "epoch", **asdict(epoch)}),
            keeper=keeper,
            start=state,
            setting=spec.setting,
            on_note=hear,
            runs_at_once=company.runs,
            target=target,
        )
        # the only time that a finished run has looked at the test set
        test = look(HeldOut.create(arrays.test_x, arrays.test_y, batches))
        if not np.isfinite(test.losses).all():
            raise Diverged(course.steps, "test loss")
    except Diverged:
        keeper.clear()  # the next attempt must not begin where this one went wrong
        raise
    streaming = [] if batches.resident else ["training images do not fit on the device: they were streamed to it"]
    metrics = {
        **measured(trained, test, course),
        **cost,
        "epochs": course.epochs,
        "pace_seconds": pace.seconds if pace else None,
        "pace_images_per_second": pace.images_per_second if pace else None,
        "train_images": len(batches.labels),
        "test_images": len(arrays.test_y),
        "checkpoint_seconds": keeper.seconds,
        "runs_at_once": trained.runs_at_once,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
        "wall_seconds": time.perf_counter() - begin,
    }
    record = {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "status": "ok",
        "spec": to_dict(spec),
        "family": registry.family(spec.model),
        "started": started,
        **({} if trained.target is None else {"target": trained.target}),
        "metrics": metrics,
        "history": [asdict(epoch) for epoch in trained.history],
        "setting_used": trained.setting_used,
        "notes": [*dataset.notes, *model_notes, *cost_notes, *streaming, *setting_notes],
        **counts,
        "classes": list(arrays.classes),
        "provenance": asdict(dataset.provenance),
        "environment": facts,
    }
    folder = store.run_dir(spec)
    write_atomically(folder / "history.csv", history_csv(trained.history))
    save_predictions(folder / "predictions.npz", trained.validation, test)
    store.write_record(spec, record)
    keeper.clear()
    return record


def _try_out(state: dict[str, Any], model: nn.Module, recipe: Recipe, steps: int, device: torch.device) -> None:
    """Put a checkpoint into a copy first, so that one that fits only half leaves no trace. Raises what restore does."""
    trial = copy.deepcopy(model)
    restore(state, trial, make_optimizer(trial, recipe), device, course_of(recipe, state["progress"]["samples"], steps))


def make_batches(spec: RunSpec, dataset: Dataset, device: torch.device) -> Batches:
    """The training part as batches on the device, augmented there as the recipe says."""
    images, labels = dataset.arrays.train_x[dataset.train_index], dataset.arrays.train_y[dataset.train_index]
    layout = spec.setting.memory_format
    return Batches.create(images, labels, spec.recipe, spec.data.num_classes, spec.seed, device, layout)


@dataclass(frozen=True)
class Pace:
    """A model's steady speed in its own training, measured before it, and the seconds that took."""

    images_per_second: float
    seconds: float


PACE_SHARE, PACE_LEAST, PACE_MOST = 0.05, 1.0, 30.0  # of a budget in seconds, measured after as long; seconds
PACE_STEPS = 3  # before measuring, and at least while: allocation, compilation and caches are not the steady state


def course_of(recipe: Recipe, samples: int, steps_per_epoch: int) -> Course:
    """A training of so many samples under a recipe. Raises ValueError for less than a batch."""
    return Course(samples, recipe.batch_size, steps_per_epoch, recipe.validations)


def plan_course(
    spec: RunSpec, batches: Batches, model: nn.Module, train_flops: float | None, device: torch.device
) -> tuple[Course, Pace | None]:
    """How long the run will be; for a budget in seconds by a measurement of its speed. Raises ValueError."""
    recipe, budget = spec.recipe, length(spec.recipe)
    if budget.kind == "epochs":
        return course_of(recipe, recipe.epochs * batches.steps * batches.batch_size, batches.steps), None
    pace = None
    if budget.kind == "seconds":
        limit = min(PACE_MOST, max(PACE_LEAST, PACE_SHARE * budget.amount))
        pace = measure_pace(spec, batches, model, device, limit)
    speed = pace.images_per_second if pace else None
    return course_of(recipe, samples_for(budget, recipe.batch_size, train_flops, speed), batches.steps), pace


def measure_pace(spec: RunSpec, batches: Batches, model: nn.Module, device: torch.device, limit: float) -> Pace:
    """The speed of steps as the training will take them, loading included, on a copy; leaves no trace."""
    begin, streams = time.perf_counter(), random_streams(device)
    trial = copy.deepcopy(model).train()
    optimizer = make_optimizer(trial, spec.recipe, capturable=spec.setting.graphed)
    step = make_step(trial, optimizer, spec.recipe, spec.setting, device)
    source = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
    sync = synchroniser(device)

    def seconds_of(steps: int) -> float:
        sync()
        start = time.perf_counter()
        for images, labels in itertools.islice(source, steps):
            step(images, labels)
        sync()
        return time.perf_counter() - start

    seconds_of(PACE_STEPS)
    once = seconds_of(PACE_STEPS) / PACE_STEPS
    steps = max(PACE_STEPS, round(limit / once))
    seconds_of(steps)  # for as long: the first seconds of a process are slower than those after them
    speed = steps * batches.batch_size / seconds_of(steps)
    set_random_streams(streams, device)
    return Pace(speed, time.perf_counter() - begin)


def make_keeper(spec: RunSpec, model: nn.Module, store: Store, facts: dict[str, Any], share: float) -> Checkpoints:
    """The run's checkpoints, and under which conditions one may be continued: never half by other code."""
    about = {"run_id": spec.run_id, "code": environment.training_code(), "torch": facts["torch"]}
    about |= {"device_name": facts["device_name"]}
    if spec.device == "cpu":
        about["threads"] = facts["torch_threads"]  # sums are taken in another order
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Checkpoints(store.run_dir(spec) / "checkpoints", about, size, share=share)


def measured(trained: Trained, test: Evaluation, course: Course) -> dict[str, Any]:
    """The figures of a training. `loop_images_per_second` is the training's own speed, loading included."""
    steady = trained.samples_seen - trained.segments * course.batch_size  # each segment's first step is off the clock
    return {
        "accuracy": test.accuracy,
        "test_loss": test.loss,
        "val_accuracy": trained.validation.accuracy,
        "val_loss": trained.validation.loss,
        "train_seconds": trained.train_seconds,
        "first_step_seconds": trained.first_step_seconds,
        "segments": trained.segments,
        "samples_seen": trained.samples_seen,
        "loop_images_per_second": max(steady, 0) / trained.train_seconds if trained.train_seconds else None,
    }


def counted(model: nn.Module, spec: RunSpec) -> Cost:
    """The model's cost, from this user's cache where the same code has counted it: a count takes seconds. Raises any.

    A model from elsewhere is counted every time: what it consists of is not known.
    """
    if registry.family(spec.model) == "external":
        return count(model, spec.data.image_size)
    code = [sha256(Path(str(bench.measure.cost.__file__)).read_bytes()), environment.training_code()]
    versions = [version(package) for package in ("torch", "fvcore", "timm", "vit-pytorch")]
    about = [spec.model, spec.data.num_classes, spec.data.image_size, code, versions]
    path = cache_dir() / "costs" / f"{slug(spec.model)}-{content_id(about)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = from_json(path.read_bytes())
        if found.pop("checksum") == content_id(found):
            audit: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found["audit"].items()}
            modules = tuple(ModuleCost(**row) for row in found["modules"])
            return Cost(**{**found, "audit": Audit(**audit), "modules": modules})
    cost = count(model, spec.data.image_size)
    with contextlib.suppress(OSError):  # a home that cannot be written costs seconds, no more
        plain = from_json(to_json(asdict(cost)))
        write_atomically(path, to_json({**plain, "checksum": content_id(plain)}))
    return cost


def _cost(model: nn.Module, spec: RunSpec) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """(metrics, notes, the audit in full and the costs of the modules, as a record keeps them).

    A failing counter leaves empty cells and a note, and costs no training.
    """
    try:
        cost = counted(model, spec)
        figures: dict[str, Any] = {"flops": cost.flops, "activations": cost.activations, "params": cost.params}
        figures |= {"flops_2x": 2 * cost.flops, "train_flops_2x": cost.train_flops_2x}
        kept = ("name", "params", "flops", "activations")
        modules = [{k: v for k, v in asdict(module).items() if k in kept} for module in cost.modules]
        counts = {"flops_audit": asdict(cost.audit), "modules": modules}
        return {**figures, "flops_audit": cost.audit.verdict}, audit_notes(cost.audit), counts
    except Exception as error:  # fvcore traces the model, and tracing may raise anything
        params = sum(p.numel() for p in model.parameters())
        return {"flops": None, "params": params}, [f"FLOPs not counted: {one_line(error)}"], {"flops_audit": None}


def audit_notes(audit: Audit) -> list[str]:
    """What a reader of a FLOP count must know, a sentence each; none where two counters agree and nothing is left."""
    notes = []
    if audit.verdict == "mismatch":
        notes.append(
            f"FLOPs do not pass the audit: products {audit.products:,} by fvcore, {audit.torch:,} by torch "
            f"({'; '.join(audit.differing)})"
        )
    elif audit.verdict == "failed":
        notes.append(f"FLOPs could not be audited: {audit.why}")
    if audit.unsupported:
        notes.append(f"operators not counted in the FLOPs: {', '.join(audit.unsupported)}")
    if audit.unused:
        shown = ", ".join(audit.unused[:5]) + (", …" if len(audit.unused) > 5 else "")
        notes.append(f"{len(audit.unused)} module(s) with parameters that the forward pass never calls: {shown}")
    return notes


def run_trial(spec: RunSpec, dataset: Dataset, report: Report) -> dict[str, Any]:
    """Train and validate, without a look at the test set, a record or a checkpoint. Raises what a step raises."""
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    if spec.setting.compile_mode:
        keep_compiled_code()
    batches, model = make_batches(spec, dataset, device), build_model(spec)
    flops = _cost(model, spec)[0].get("train_flops_2x") if length(spec.recipe).kind == "flops" else None
    model = model.to(device)
    clock, first = (Clock(time.perf_counter, synchroniser(device)) for _ in range(2))
    arrays = dataset.arrays
    validation = HeldOut.create(arrays.train_x[dataset.val_index], arrays.train_y[dataset.val_index], batches)
    course, _ = plan_course(spec, batches, model, flops, device)
    report({"event": "planned", "steps": course.steps, "epochs": course.epochs})
    trained = train(
        model,
        batches,
        lambda: evaluate(model, validation.batches(), device, spec.recipe.precision),
        spec.recipe,
        course,
        device,
        clock,
        first,
        on_step=lambda step: report({"event": "step", "step": step}),
        setting=spec.setting,
    )
    return {
        "samples": course.samples,
        "train_seconds": trained.train_seconds,
        "val_accuracy": trained.validation.accuracy,
        "val_loss": trained.validation.loss,
    }


def save_predictions(path: Path, validation: Evaluation, test: Evaluation) -> None:
    """Per image the predicted class, the true one and the loss, of the validation and the test part, in data order."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {}
    for part, seen in (("val", validation), ("test", test)):
        arrays[f"{part}_predicted"] = seen.predicted.astype(np.int16)
        arrays[f"{part}_label"] = seen.labels.astype(np.int16)
        arrays[f"{part}_loss"] = seen.losses.astype(np.float32)
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def failure_record(spec: RunSpec, status: str, message: str, started: str) -> Record:
    """A run that did not end well is a row all the same."""
    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "status": status,
        "message": message,
        "spec": to_dict(spec),
        "family": registry.family(spec.model),
        "started": started,
        "metrics": {},
    }


def child_probe(report: Report, names: list[str], num_classes: int, image_size: int) -> None:
    """What a child process does before a sweep: try each model; the events say which, so that a crash has a name."""
    for name in names:
        report({"event": "probe", "model": name})
        try:
            report({"event": "probed", "model": name, "warnings": check_model(name, num_classes, image_size)})
        except ModelError as error:
            report({"event": "unfit", "model": name, "why": str(error)})


def child_run(
    report: Report,
    spec: RunSpec,
    source: DataSource,
    root: Path,
    again: bool,
    company: Company = ALONE,
    target: float | None = None,
) -> None:
    """What a child process does for one run, as the only one: nothing, where another has done it meanwhile.

    The run is that of the device that is here: its first event says its name.
    """
    store = Store(root)
    spec = replace(spec, device_name=environment.device_name(torch.device(spec.device)))  # whatever was expected
    report({"event": "placed", "run_id": spec.run_id, "device_name": spec.device_name})
    with store.claim(spec.run_id):
        if again or not store.is_done(spec):
            run_one(spec, data_here(source), store, report, company=company, target=target)


def data_here(source: DataSource) -> Dataset:
    """The data on this machine. Raises Unfit where it cannot have them: the model is not to blame."""
    try:
        return source.load()
    except UserError as error:
        raise Unfit(str(error)) from error


def child_trial(report: Report, spec: RunSpec, source: DataSource) -> None:
    """What a child process does for one trial of a search; its last event is what was found."""
    report({"event": "trial", **run_trial(spec, data_here(source), report)})


def training_images(spec: RunSpec, train_images: int) -> int | None:
    """Images that a run will have seen at its end; None where its own speed or its FLOPs will decide."""
    budget, batch = length(spec.recipe), spec.recipe.batch_size
    if budget.kind == "epochs":
        return spec.recipe.epochs * (train_images // batch) * batch
    return samples_for(budget, batch) if budget.kind == "samples" else None


def known_seconds(spec: RunSpec, train_images: int, known: list[Record]) -> tuple[float | None, str]:
    """(training seconds, their origin): the budget's, or by the speed of the latest run of the same work, or None."""
    budget, images = length(spec.recipe), training_images(spec, train_images)
    if budget.kind == "seconds":
        return budget.amount, "its budget"
    mine = to_dict(spec)
    for record in reversed(known):
        other, speed = record["spec"], record.get("metrics", {}).get("loop_images_per_second")
        same = all(other[k] == mine[k] for k in ("model", "model_source", "device_name", "setting"))
        same = same and other["data"]["image_size"] == spec.data.image_size
        same = same and all(other["recipe"][k] == mine["recipe"][k] for k in ("batch_size", "precision", "optimizer"))
        if same and speed and images and not shared_device(record):
            return images / speed, "an earlier run"
    return None, ""


def child_costs(report: Report, specs: list[RunSpec]) -> None:
    """What a child process does to say how much work models are: FLOPs of training on one image, where they can be."""
    for spec in specs:
        with contextlib.suppress(Exception):  # the run itself will say what is wrong with it
            flops = counted(build_model(spec), spec).train_flops_2x
            if flops:
                shape = {"num_classes": spec.data.num_classes, "image_size": spec.data.image_size}
                report({"event": "cost", "model": spec.model, **shape, "train_flops": flops})


def child_estimate(report: Report, spec: RunSpec, train_images: int) -> None:
    """What a child process does to estimate a run: three training steps after two to warm up."""
    _, tasks = build(session_of([spec], 0.0), spec.model)
    (task,) = (task for task in tasks if task.kind == "train")
    task.prepare()
    stopwatch = stopwatch_of(torch.device(spec.device), time.perf_counter)
    stopwatch(task.call, 2)
    step = statistics.median(stopwatch(task.call, 1) for _ in range(3))
    images = training_images(spec, train_images)
    if images is None:
        flops = count(build_model(spec), spec.data.image_size).train_flops_2x
        images = samples_for(length(spec.recipe), spec.recipe.batch_size, flops)
    report({"event": "estimate", "seconds": step * images / spec.recipe.batch_size})


def session_of(specs: list[RunSpec], seconds: float) -> SessionSpec:
    """The speed session for runs that differ in nothing but model and seed, and in a track in the recipe."""
    first = specs[0]
    conditions = {(s.data, s.recipe.batch_size, s.recipe.precision, s.setting.name, s.device) for s in specs}
    assert len(conditions) == 1, "one session, one set of conditions"
    names = [spec.model for spec in specs]
    return SessionSpec(
        models=tuple((spec.model, spec.model_source) for spec in specs),
        recipe=first.recipe,
        setting=first.setting,
        device=first.device,
        device_name=first.device_name,
        image_size=first.data.image_size,
        num_classes=first.data.num_classes,
        reference=REFERENCE if REFERENCE in names else names[0],
        deterministic=first.deterministic,
        seconds=seconds,
        own_settings=tuple((spec.model, spec.setting) for spec in specs),
        own_recipes=tuple((spec.model, spec.recipe) for spec in specs) if first.recipe.track else (),
    )


def save_traceback(folder: Path, text: str) -> Path:
    """Keep a failed run's traceback beside its record."""
    path = folder / "traceback.txt"
    write_atomically(path, text.encode())
    return path
