"""Is a store what it claims to be? Example: python run_bench.py check --results results/local

Every record, session, prediction, checksum and view is held against the others; nothing is changed but by --rebuild,
which writes the views anew. No torch is needed.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.analysis.tables import Loaded, compare_loaded
from bench.core.files import from_json, sha256
from bench.plan.budget import parse_budget
from bench.plan.spec import content_id, spec_id
from bench.present.pair_table import VERDICTS, verdicts_csv, write_verdicts
from bench.store.disk import RUN_FILES, VIEWS, Store, question, views_of
from bench.store.records import Record, filled

ROUNDING = 1e-9
LOSS_TOLERANCE = 1e-4  # relative; a mean of float32 losses summed in another order


def problems(store: Store) -> Iterator[str]:
    """Everything wrong with a store, a sentence each. Raises UserError for a schema of the future."""
    damaged: list[str] = []
    runs = store.runs(damaged)
    sessions = store.sessions(damaged)
    store.tunings(damaged)
    store.searches(damaged)
    yield from damaged
    for run in runs:
        for problem in run_problems(store, run):
            yield f"{run['run_id']}: {problem}"
    yield from comparison_problems(runs, sessions)
    yield from view_problems(store, views_of(runs, sessions))
    yield from verdict_problems(store)


def run_problems(store: Store, run: Record) -> Iterator[str]:
    """What is wrong with one run whose record can be read."""
    folder = store.root / "runs" / run["run_id"]
    if not run["run_id"].endswith(f"-{spec_id(run['spec'])}"):
        yield "its name is not the hash of its spec"
    try:
        if filled(from_json((folder / "spec.json").read_bytes())) != run["spec"]:
            yield "spec.json and the record's spec differ"
    except FileNotFoundError:
        if run["status"] == "ok":
            yield "spec.json is missing"
    except (OSError, ValueError) as error:
        yield f"spec.json cannot be read ({error})"
    if run["status"] != "ok":
        return
    for name in RUN_FILES:
        wanted = run["files"].get(name)
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif wanted and sha256((folder / name).read_bytes()) != wanted:
            yield f"{name}: its checksum does not hold"
    yield from history_problems(run)
    if (folder / "predictions.npz").is_file():
        yield from prediction_problems((folder / "predictions.npz").read_bytes(), run)


def history_problems(run: Record) -> Iterator[str]:
    """Epochs in order to the recipe's; seconds and samples never fall; the last row is what the metrics say."""
    history, metrics, recipe = run["history"], run["metrics"], run["spec"]["recipe"]
    epochs = [row["epoch"] for row in history]
    if not recipe["budget"] and not recipe["validations"] and epochs != list(range(1, recipe["epochs"] + 1)):
        yield "its epochs are not 1 to the recipe's, each once and in order"
    if epochs != sorted(set(epochs)):
        yield "its epochs are not in order, each once"
    budget = parse_budget(recipe["budget"]) if recipe["budget"] else None
    if budget and budget.kind == "samples" and metrics["samples_seen"] != budget.amount:
        yield "it saw another number of samples than its budget"
    for field in ("train_seconds", "samples_seen"):
        values = [row[field] for row in history]
        if values != sorted(values):
            yield f"{field} falls from one epoch to the next"
        if values[-1] != metrics[field]:
            yield f"{field} of the last epoch is not the record's"
    if history[-1]["val_accuracy"] != metrics["val_accuracy"]:
        yield "the last epoch's validation accuracy is not the record's"


def prediction_problems(content: bytes, run: Record) -> Iterator[str]:
    """The stated accuracies and the test loss, computed again from the predictions."""
    metrics = run["metrics"]
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
            found: dict[str, Any] = {
                part: (arrays[f"{part}_predicted"], arrays[f"{part}_label"]) for part in ("val", "test")
            }
            losses = arrays["test_loss"]
    except Exception as error:  # numpy, zipfile and zlib each have their own ways to say that a file is broken
        yield f"predictions.npz cannot be read ({type(error).__name__})"
        return
    for part, field in (("test", "accuracy"), ("val", "val_accuracy")):
        predicted, labels = found[part]
        if predicted.shape != labels.shape or not len(labels):
            yield f"the {part} predictions and labels do not fit each other"
        elif float((predicted == labels).mean()) != metrics[field]:
            yield f"the {part} predictions give another accuracy than the record's"
    if len(found["test"][1]) != metrics["test_images"]:
        yield "the predictions are of another number of test images"
    if abs(float(losses.mean()) - metrics["test_loss"]) > LOSS_TOLERANCE * max(1.0, metrics["test_loss"]):
        yield "the losses give another mean than the record's"


def comparison_problems(runs: list[Record], sessions: list[Record]) -> Iterator[str]:
    """Comparisons whose runs were not trained under one and the same recipe and on the same data."""
    conditions = {r["run_id"]: content_id(question(r["spec"])) for r in runs}
    for comparison in compare_loaded(Loaded(runs, sessions, [])):
        if len({conditions[run_id] for run_id in comparison.run_ids}) > 1:
            yield f"{comparison.title}: compares runs of different recipes or data"


def view_problems(store: Store, wanted: dict[str, bytes]) -> Iterator[str]:
    """Views that are not what the records make of them."""
    for name in VIEWS:
        path = store.root / name
        if not path.is_file():
            yield f"{name} is missing (check --rebuild makes it)"
        elif path.read_bytes() != wanted[name]:
            yield f"{name} is not what the records say (check --rebuild makes it anew)"


def verdict_problems(store: Store) -> Iterator[str]:
    """Verdicts that are not what the runs give. None at all is no fault: they are written at the end of a sweep."""
    path = store.root / VERDICTS
    if not path.is_file():
        return
    wanted = verdicts_csv(store)
    if wanted is None:  # a rebuild leaves them: they may be all that is left of runs that were deleted
        yield f"{VERDICTS} is of runs that are not here"
    elif not same_figures(path.read_bytes(), wanted):
        yield f"{VERDICTS} is not what the records say (check --rebuild makes it anew)"


def same_figures(one: bytes, other: bytes) -> bool:
    """Whether two CSV files say the same but for the last digits, which differ with another machine's exp and log."""
    if one == other:
        return True
    try:
        rows = [list(csv.reader(io.StringIO(content.decode()))) for content in (one, other)]
        return all(_same_cell(*cells) for pair in zip(*rows, strict=True) for cells in zip(*pair, strict=True))
    except (ValueError, csv.Error):  # no text, or not as many rows or cells
        return False


def _same_cell(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=ROUNDING, abs_tol=ROUNDING)
    except ValueError:
        return False


def check(store: Store, rebuild: bool) -> tuple[list[str], str]:
    """(problems, a closing line), after writing the views anew where asked to. Raises UserError where it cannot."""
    if rebuild:
        store.check_writable()
        store.rebuild_views()
        write_verdicts(store)
    found = list(problems(store))
    runs, sessions = store.runs(), store.sessions()
    finished = sum(run["status"] == "ok" for run in runs)
    line = f"{store.root}: {finished} finished and {len(runs) - finished} other runs, {len(sessions)} speed sessions"
    return found, f"{line}, {len(found)} problem{'s' * (len(found) != 1)}"
