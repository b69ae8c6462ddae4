"""The straight line from a spec to a record. Example: run_one(spec, dataset, store, report)

`run_one` trains and measures one run in a child process of its own (executors/local.py) and sends its progress to
`report`. bench/session.py is its sister for speed sessions.
"""

from __future__ import annotations

import copy
import io
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import environment
from bench.checkpoint import SHARE, Checkpoints
from bench.cost import Audit, count
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.data.loader import Batches, HeldOut
from bench.errors import Diverged
from bench.files import write_atomically
from bench.schema import SCHEMA, Record
from bench.session import build, synchroniser
from bench.settings import keep_compiled_code
from bench.spec import Recipe, RunSpec, SessionSpec, to_dict
from bench.status import one_line
from bench.step import Note, arrange, make_optimizer
from bench.store import REFERENCE, Store, history_csv, now, shared_device
from bench.timing import stopwatch_of
from bench.train import Clock, Evaluation, Trained, evaluate, restore, train
from models import registry
from models.drop_path import set_drop_path
from models.registry import ModelError

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class DataSource:
    """How a child process finds the data again: the arguments of datasets.load."""

    name: str
    data_dir: Path
    image_size: int | None
    train_fraction: float

    def load(self) -> Dataset:
        """Raises UserError as datasets.load does."""
        return datasets.load(self.name, self.data_dir, self.image_size, self.train_fraction)


@dataclass(frozen=True)
class Company:
    """How many runs train on the device at once, and how many threads one alone would have (CPU)."""

    runs: int = 1
    threads_alone: int | None = None


ALONE = Company()


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
) -> Record:
    """Data, model, cost, training, one look at the test set, record; from the last checkpoint where there is one.

    `report` may raise Interrupted: the training is saved, and Interrupted passed on. `share` of the time may go into
    checkpoints. Raises what any step raises.
    """
    if dataset.ref != spec.data:
        raise RuntimeError(f"the data of '{spec.data.name}' changed since the sweep was planned")
    started, begin = now(), time.perf_counter()
    if registry.source_hash(spec.model) != spec.model_source:
        raise RuntimeError(f"the file behind '{spec.model}' changed since the sweep was planned")
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
    cost, cost_notes, audit = _cost(model, spec.data.image_size)
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
        tell({"event": "continued", "step": state["progress"]["step"]})
    try:
        trained = train(
            model,
            batches,
            lambda: look(validation),
            spec.recipe,
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
        )
        # the only time that a finished run has looked at the test set
        test = look(HeldOut.create(arrays.test_x, arrays.test_y, batches))
        if not np.isfinite(test.losses).all():
            raise Diverged(spec.recipe.epochs * batches.steps, "test loss")
    except Diverged:
        keeper.clear()  # the next attempt must not begin where this one went wrong
        raise
    streaming = [] if batches.resident else ["training images do not fit on the device: they were streamed to it"]
    metrics = {
        **measured(trained, test, spec.recipe.batch_size),
        **cost,
        "epochs": spec.recipe.epochs,
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
        "metrics": metrics,
        "history": [asdict(epoch) for epoch in trained.history],
        "setting_used": trained.setting_used,
        "notes": [*dataset.notes, *model_notes, *cost_notes, *streaming, *setting_notes],
        "flops_audit": audit,
        "classes": list(arrays.classes),
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
    progress, losses = restore(state, trial, make_optimizer(trial, recipe), device)
    if len(losses) != steps or len(progress.history) > recipe.epochs:
        raise ValueError("its epochs have another length")


def make_batches(spec: RunSpec, dataset: Dataset, device: torch.device) -> Batches:
    """The training part as batches on the device, augmented there as the recipe says."""
    images, labels = dataset.arrays.train_x[dataset.train_index], dataset.arrays.train_y[dataset.train_index]
    layout = spec.setting.memory_format
    return Batches.create(images, labels, spec.recipe, spec.data.num_classes, spec.seed, device, layout)


def make_keeper(spec: RunSpec, model: nn.Module, store: Store, facts: dict[str, Any], share: float) -> Checkpoints:
    """The run's checkpoints, and under which conditions one may be continued: never half by other code."""
    about = {"run_id": spec.run_id, "code": environment.training_code(), "torch": facts["torch"]}
    about |= {"device_name": facts["device_name"]}
    if spec.device == "cpu":
        about["threads"] = facts["torch_threads"]  # sums are taken in another order
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Checkpoints(store.run_dir(spec) / "checkpoints", about, size, share=share)


def measured(trained: Trained, test: Evaluation, batch_size: int) -> dict[str, Any]:
    """The figures of a training. `loop_images_per_second` is the training's own speed, loading included."""
    steady = trained.samples_seen - trained.segments * batch_size  # each segment's first step is off the clock
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


def _cost(model: nn.Module, image_size: int) -> tuple[dict[str, Any], list[str], dict[str, Any] | None]:
    """(metrics, notes, the audit in full). A failing counter leaves empty cells and a note, and costs no training."""
    try:
        cost = count(model, image_size)
        figures: dict[str, Any] = {"flops": cost.flops, "activations": cost.activations, "params": cost.params}
        figures |= {"flops_2x": 2 * cost.flops, "train_flops_2x": cost.train_flops_2x}
        return {**figures, "flops_audit": cost.audit.verdict}, audit_notes(cost.audit), asdict(cost.audit)
    except Exception as error:  # fvcore traces the model, and tracing may raise anything
        params = sum(p.numel() for p in model.parameters())
        return {"flops": None, "params": params}, [f"FLOPs not counted: {one_line(error)}"], None


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
    report: Report, spec: RunSpec, source: DataSource, root: Path, again: bool, company: Company = ALONE
) -> None:
    """What a child process does for one run, as the only one: nothing, where another has done it meanwhile."""
    store = Store(root)
    with store.claim(spec.run_id):
        if again or not store.is_done(spec):
            run_one(spec, source.load(), store, report, company=company)


def training_images(spec: RunSpec, train_images: int) -> int:
    """Images that a run will have seen at its end."""
    return spec.recipe.epochs * (train_images // spec.recipe.batch_size) * spec.recipe.batch_size


def known_seconds(spec: RunSpec, train_images: int, known: list[Record]) -> float | None:
    """Training seconds of a run by the speed of the latest run of the same work, or None where there is none."""
    for record in reversed(known):
        other, speed = record["spec"], record.get("metrics", {}).get("loop_images_per_second")
        mine = to_dict(spec)
        same = all(other[k] == mine[k] for k in ("model", "model_source", "device_name", "setting"))
        same = same and other["data"]["image_size"] == spec.data.image_size
        same = same and all(other["recipe"][k] == mine["recipe"][k] for k in ("batch_size", "precision", "optimizer"))
        if same and speed and not shared_device(record):
            return training_images(spec, train_images) / speed
    return None


def child_estimate(report: Report, spec: RunSpec, train_images: int) -> None:
    """What a child process does to estimate a run: three training steps after two to warm up."""
    _, tasks = build(session_of([spec], 0.0), spec.model)
    (task,) = (task for task in tasks if task.kind == "train")
    task.prepare()
    stopwatch = stopwatch_of(torch.device(spec.device), time.perf_counter)
    stopwatch(task.call, 2)
    step = statistics.median(stopwatch(task.call, 1) for _ in range(3))
    report({"event": "estimate", "seconds": step * training_images(spec, train_images) / spec.recipe.batch_size})


def session_of(specs: list[RunSpec], seconds: float) -> SessionSpec:
    """The speed session for runs that differ in nothing but model and seed."""
    first = specs[0]
    conditions = {(s.data, s.recipe, s.setting.name, s.device) for s in specs}
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
    )


def save_traceback(folder: Path, text: str) -> Path:
    """Keep a failed run's traceback beside its record."""
    path = folder / "traceback.txt"
    write_atomically(path, text.encode())
    return path
