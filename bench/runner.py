"""The straight line from a spec to a record. Example: run_one(spec, dataset, store, report)

This module alone composes the others. `run_one` trains and measures one run; `time_models` is the speed session
after a sweep. Both run in a child process of their own (executors/local.py) and send their progress to `report`.
"""

from __future__ import annotations

import io
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
from bench.cost import count
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.data.loader import Batches
from bench.spec import SCHEMA, RunSpec, Setting, content_id, slug, to_dict
from bench.store import Record, Store, comparability_key, history_csv, now, write_atomically
from bench.timing import KINDS, Task, make_tasks, time_blocks
from bench.train import Clock, Diverged, Evaluation, Trained, evaluate, train
from models import registry
from models.registry import ModelError

Report = Callable[[dict[str, Any]], None]

# One speed session: long enough to be worth reading, short enough to follow every sweep.
BLOCKS = 10
SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.1}
SESSION_SECONDS_A_MODEL = 45.0


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


def build_model(spec: RunSpec) -> nn.Module:
    """The spec's model on the CPU, its weights decided by the seed alone; its memory format is the setting's."""
    torch.manual_seed(spec.seed)
    model = registry.build(spec.model, spec.data.num_classes, spec.data.image_size)
    return _lay_out(model, spec.setting)


def _lay_out(model: nn.Module, setting: Setting) -> nn.Module:
    if setting.memory_format == "channels_last":
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def check_model(name: str, num_classes: int, image_size: int) -> list[str]:
    """Build and try a model on two images before anything long begins; returns warnings.

    Raises ModelError for a model that cannot be built or puts out anything but (2, num_classes) floats: 1,000 logits
    for 10 classes would train without a word.
    """
    from models.external import tokens

    images = torch.zeros(2, 3, image_size, image_size)
    try:
        model = registry.build(name, num_classes, image_size)
        with torch.no_grad():
            outputs = [model.train()(images), model.eval()(images)]
    except ModelError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise ModelError(f"model '{name}' fails on {image_size} px images: {_one_line(error)}") from error
    for out in outputs:
        if not isinstance(out, torch.Tensor) or out.shape != (2, num_classes) or not out.is_floating_point():
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise ModelError(f"model '{name}' puts out {shape} for two images, not (2, {num_classes}) logits")
    count = tokens(model)
    if count is not None and count < 16:
        return [f"{name} cuts a {image_size} px image into only {count} tokens: a smaller patch would be fairer"]
    return []


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits until the device has finished; nothing to wait for on a CPU."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def run_one(spec: RunSpec, dataset: Dataset, store: Store, report: Report) -> Record:
    """Data, model, cost, training, one look at the test set, record. Raises what any of them raises."""
    if dataset.ref != spec.data:
        raise RuntimeError(f"the data of '{spec.data.name}' changed since the sweep was planned")
    started, begin = now(), time.perf_counter()
    if registry.source_hash(spec.model) != spec.model_source:
        raise RuntimeError(f"the file behind '{spec.model}' changed since the sweep was planned")
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    facts = environment.describe(device)  # before the work: what is on disk may change while it goes on
    store.write_spec(spec)
    arrays, recipe = dataset.arrays, spec.recipe
    train_x, train_y = arrays.train_x[dataset.train_index], arrays.train_y[dataset.train_index]
    val_x, val_y = arrays.train_x[dataset.val_index], arrays.train_y[dataset.val_index]
    batches = Batches.create(train_x, train_y, recipe.batch_size, spec.seed, recipe.crop_padding, recipe.flip, device)
    model = build_model(spec)
    cost, cost_note = _cost(model, spec.data.image_size)
    model = model.to(device)
    sync = synchroniser(device)
    clock, first_clock = Clock(time.perf_counter, sync), Clock(time.perf_counter, sync)

    def look(images: Any, labels: Any) -> Evaluation:
        return evaluate(model, batches.plain(images, labels), device, recipe.precision)

    trained = train(
        model,
        batches,
        lambda: look(val_x, val_y),
        recipe,
        device,
        clock,
        first_clock,
        on_step=lambda step: report({"event": "step", "step": step}),
        on_epoch=lambda epoch: report({"event": "epoch", **asdict(epoch)}),
    )
    test = look(arrays.test_x, arrays.test_y)  # the only time that a run looks at the test set
    if not np.isfinite(test.losses).all():
        raise Diverged(recipe.epochs * batches.steps, "test loss")
    metrics = {
        **measured(trained, test, recipe.batch_size),
        **cost,
        "epochs": recipe.epochs,
        "train_images": len(train_y),
        "test_images": len(arrays.test_y),
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
        "notes": [*dataset.notes, *cost_note],
        "classes": list(arrays.classes),
        "environment": facts,
    }
    folder = store.run_dir(spec)
    write_atomically(folder / "history.csv", history_csv(trained.history))
    save_predictions(folder / "predictions.npz", trained.validation, test)
    store.write_record(spec, record)
    return record


def measured(trained: Trained, test: Evaluation, batch_size: int) -> dict[str, Any]:
    """The figures of a training. `loop_images_per_second` is the training's own speed, loading included."""
    steady = trained.samples_seen - batch_size
    return {
        "accuracy": test.accuracy,
        "test_loss": test.loss,
        "val_accuracy": trained.validation.accuracy,
        "val_loss": trained.validation.loss,
        "train_seconds": trained.train_seconds,
        "first_step_seconds": trained.first_step_seconds,
        "samples_seen": trained.samples_seen,
        "loop_images_per_second": steady / trained.train_seconds if trained.train_seconds else None,
    }


def _cost(model: nn.Module, image_size: int) -> tuple[dict[str, int | None], list[str]]:
    """A failing counter leaves empty cells and a note; it never costs a training."""
    try:
        cost = count(model, image_size)
        notes = [f"FLOPs are too low: {', '.join(cost.uncounted)} not counted"] if cost.uncounted else []
        return {"flops": cost.flops, "activations": cost.activations, "params": cost.params}, notes
    except Exception as error:  # fvcore traces the model, and tracing may raise anything
        params = sum(p.numel() for p in model.parameters())
        return {"flops": None, "activations": None, "params": params}, [f"FLOPs not counted: {_one_line(error)}"]


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


def status_of(error: BaseException) -> str:
    """Expected failures by name: oom, diverged, else failed."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "oom"
    # torch's CPU allocator raises a plain RuntimeError
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "oom"
    return "diverged" if isinstance(error, Diverged) else "failed"


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


def child_run(report: Report, spec: RunSpec, source: DataSource, root: Path) -> None:
    """What a child process does for one run."""
    run_one(spec, source.load(), Store(root), _throttled(report))


def _throttled(report: Report, every: float = 0.2) -> Report:
    """Passes everything but steps that follow the last one too soon: a GPU makes thousands a second."""
    last = 0.0

    def pass_on(event: dict[str, Any]) -> None:
        nonlocal last
        if event["event"] == "step":
            if time.monotonic() - last < every:
                return
            last = time.monotonic()
        report(event)

    return pass_on


def child_session(report: Report, specs: list[RunSpec], root: Path) -> None:
    """What a child process does for one speed session."""
    time_models(specs, Store(root), report)


def time_models(specs: list[RunSpec], store: Store, report: Report) -> Record:
    """One speed session of the specs' models, which differ in nothing else; writes and returns its record."""
    first = specs[0]
    assert len({(s.data, s.recipe, s.setting, s.device) for s in specs}) == 1, "one session, one set of conditions"
    started, device = now(), torch.device(first.device)
    environment.fix_numerics(first.deterministic)
    facts = environment.describe(device)
    tasks: list[Task] = []
    for spec in specs:
        tasks += _tasks(spec, device)
    samples = time_blocks(
        tasks,
        BLOCKS,
        SAMPLE_SECONDS[device.type],
        SESSION_SECONDS_A_MODEL * len(specs),
        time.perf_counter,
        synchroniser(device),
        seed=first.seed,
        on_block=lambda block: report({"event": "block", "block": block, "blocks": BLOCKS}),
    )
    key = comparability_key(to_dict(first), facts)
    names = [spec.model for spec in specs]
    session: Record = {
        "schema": SCHEMA,
        "id": f"{slug('-'.join(names))}-{content_id([names, key, started])}",
        "started": started,
        "models": names,
        "sources": {spec.model: spec.model_source for spec in specs},
        "kinds": list(KINDS),
        "key": key,
        "recipe": asdict(first.recipe),
        "num_classes": first.data.num_classes,
        "samples": [asdict(sample) for sample in samples],
        "environment": facts,
    }
    store.write_session(session["id"], session)
    return session


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
        if same and speed:
            return training_images(spec, train_images) / speed
    return None


def child_estimate(report: Report, spec: RunSpec, train_images: int) -> None:
    """What a child process does to estimate a run: three training steps after two to warm up."""
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    task = next(task for task in _tasks(spec, device) if task.kind == "train")
    samples = time_blocks([task], 3, 0.0, 0.0, time.perf_counter, synchroniser(device), seed=0)
    step = statistics.median(sample.seconds_per_call for sample in samples)
    report({"event": "estimate", "seconds": step * training_images(spec, train_images) / spec.recipe.batch_size})


def _tasks(spec: RunSpec, device: torch.device) -> list[Task]:
    model = build_model(spec).to(device)
    return make_tasks(spec.model, model, spec.recipe, spec.data.num_classes, spec.data.image_size, device, spec.setting)


def save_traceback(folder: Path, text: str) -> Path:
    """Keep a failed run's traceback beside its record."""
    path = folder / "traceback.txt"
    write_atomically(path, text.encode())
    return path
