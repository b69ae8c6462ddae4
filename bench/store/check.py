"""Is a store what it claims to be? Example: list(store_problems(store))

Holds every record, prediction, checksum and view against the others, and changes nothing. Comparisons and verdicts are
checked by bench/analysis/check.py, which the command calls.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.core.files import from_json, sha256
from bench.core.text import plural
from bench.plan.budget import parse_budget
from bench.plan.spec import spec_id
from bench.store.disk import RUN_FILES, VIEWS, Store
from bench.store.records import FinishedRun, RunRecord, decode_raw
from bench.store.views import views_of

LOSS_TOLERANCE = 1e-4  # relative; a mean of float32 losses summed in another order


def store_problems(store: Store) -> Iterator[str]:
    """What is wrong with records, files and views, one sentence each. Raises UserError for a schema of the future."""
    damaged: list[str] = []
    runs = store.runs(damaged)
    sessions = store.sessions(damaged)
    store.setting_searches(damaged)
    store.lr_searches(damaged)
    yield from damaged
    for run in runs:
        for problem in run_problems(store, run):
            yield f"{run.run_id}: {problem}"
    yield from view_problems(store, views_of(runs, sessions))


def run_problems(store: Store, run: RunRecord) -> Iterator[str]:
    """What is wrong with one run whose record can be read."""
    folder = store.root / "runs" / run.run_id
    # from the JSON itself: decoding drops what it does not know, and turns 1 into 1.0
    name = spec_id(decode_raw((folder / "record.json").read_bytes(), run.run_id)["spec"])
    if not run.run_id.endswith(f"-{name}"):
        yield "its name is not the hash of its spec"
    yield from spec_problems(folder / "spec.json", name, run)
    if not isinstance(run, FinishedRun):
        return
    for file in RUN_FILES:
        checksum = run.files.get(file)
        if not (folder / file).is_file():
            yield f"{file} is missing"
        elif checksum and sha256((folder / file).read_bytes()) != checksum:
            yield f"{file}: its checksum does not match"
    yield from history_problems(run)
    if (folder / "predictions.npz").is_file():
        yield from prediction_problems((folder / "predictions.npz").read_bytes(), run)


def spec_problems(path: Path, name: str, run: RunRecord) -> Iterator[str]:
    """Whether spec.json says the same as the record's spec, whose hash is `name`."""
    try:
        if spec_id(from_json(path.read_bytes())) != name:
            yield "spec.json and the record's spec differ"
    except FileNotFoundError:
        if isinstance(run, FinishedRun):
            yield "spec.json is missing"
    except (OSError, ValueError) as error:
        yield f"spec.json cannot be read ({error})"
    except (AttributeError, KeyError, TypeError):
        yield "spec.json is not a spec"


def history_problems(run: FinishedRun) -> Iterator[str]:
    """Epochs in order up to the recipe's; seconds and samples never fall; the last row agrees with the metrics."""
    history, metrics, recipe = run.history, run.metrics, run.spec.recipe
    epochs = [row.epoch for row in history]
    if not recipe.budget and not recipe.validations and epochs != list(range(1, recipe.epochs + 1)):
        yield f"its epochs are not 1 to {recipe.epochs}, each once and in order"
    if epochs != sorted(set(epochs)):
        yield "its epochs are not in order, each once"
    budget = parse_budget(recipe.budget) if recipe.budget else None
    if budget and budget.kind == "samples" and metrics.samples_seen != budget.amount:
        yield f"it saw {plural(metrics.samples_seen, 'sample')}, and its budget is {recipe.budget}"
    for field in ("train_seconds", "samples_seen"):
        values = [getattr(row, field) for row in history]
        if values != sorted(values):
            yield f"{field} falls from one epoch to the next"
        if values[-1] != getattr(metrics, field):
            yield f"{field} of the last epoch differs from the record's"
    if history[-1].val_accuracy != metrics.val_accuracy:
        yield "the last epoch's validation accuracy differs from the record's"


def prediction_problems(content: bytes, run: FinishedRun) -> Iterator[str]:
    """The record's accuracies and test loss, computed again from the predictions."""
    metrics = run.metrics
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        parts = {part: (arrays[f"{part}_predicted"], arrays[f"{part}_label"]) for part in ("val", "test")}
        losses = arrays["test_loss"]
    except Exception as error:  # numpy, zipfile and zlib each have their own ways to say that a file is broken
        yield f"predictions.npz cannot be read ({type(error).__name__})"
        return
    for part, accuracy in (("test", metrics.accuracy), ("val", metrics.val_accuracy)):
        predicted, labels = parts[part]
        if predicted.shape != labels.shape or not len(labels):
            yield f"the {part} predictions and labels differ in number"
        elif float((predicted == labels).mean()) != accuracy:
            yield f"the {part} predictions give another accuracy than the record's"
    if len(parts["test"][1]) != metrics.test_images:
        yield f"the predictions are for {plural(len(parts['test'][1]), 'test image')}, not {metrics.test_images:,}"
    if abs(float(losses.mean()) - metrics.test_loss) > LOSS_TOLERANCE * max(1.0, metrics.test_loss):
        yield "the test losses give another mean than the record's"


def view_problems(store: Store, views: dict[str, bytes]) -> Iterator[str]:
    """Views that differ from what the records give."""
    for name in VIEWS:
        path = store.root / name
        if not path.is_file():
            yield f"{name} is missing (check --rebuild writes it)"
        elif path.read_bytes() != views[name]:
            yield f"{name} differs from the records (check --rebuild writes it anew)"
