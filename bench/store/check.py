"""Is a store what it claims to be? Example: list(store_problems(store))

Holds every record, prediction, checksum and view against the others, and changes nothing. Comparisons and verdicts are
checked by bench/analysis/check.py, which the command calls.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.core.files import from_json, sha256
from bench.core.text import plural
from bench.plan.budget import parse_budget
from bench.plan.spec import spec_id
from bench.store.disk import RUN_FILES, VIEWS, WEIGHTS, Store
from bench.store.predictions import read_arrays
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
    folder = f"runs/{run.run_id}"
    # from the JSON itself: decoding drops what it does not know, and turns 1 into 1.0
    name = spec_id(decode_raw(store.read(f"{folder}/record.json"), run.run_id)["spec"])
    if not run.run_id.endswith(f"-{name}"):
        yield "its name is not the hash of its spec"
    yield from spec_problems(store, name, run)
    if not isinstance(run, FinishedRun):
        return
    for file in (*RUN_FILES, *(name for name in run.files if name == WEIGHTS)):
        try:
            content = store.read_beside(run.run_id, file)
        except FileNotFoundError:
            yield f"{file} is missing"
        except (OSError, ValueError) as error:
            yield f"{file} cannot be read ({error})"
        else:
            if sha256(content) != run.files.get(file, sha256(content)):
                yield f"{file}: its checksum does not match"
            if file == "predictions.npz":
                yield from prediction_problems(content, run)
    yield from history_problems(run)


def spec_problems(store: Store, name: str, run: RunRecord) -> Iterator[str]:
    """Whether spec.json says the same as the record's spec, whose hash is `name`."""
    try:
        if spec_id(from_json(store.read(f"runs/{run.run_id}/spec.json"))) != name:
            yield "spec.json and the record's spec differ"
    except FileNotFoundError:
        if isinstance(run, FinishedRun):
            yield "spec.json is missing"
    except (AttributeError, KeyError, TypeError):
        yield "spec.json is not a spec"
    except (OSError, ValueError) as error:
        yield f"spec.json cannot be read ({error})"


def history_problems(run: FinishedRun) -> Iterator[str]:
    """Epochs in order up to the recipe's; seconds and samples never fall; the last row agrees with the metrics."""
    history, metrics, recipe = run.history, run.metrics, run.spec.recipe
    epochs = [row.epoch for row in history]
    each = len(epochs) == recipe.epochs and epochs == list(range(1, len(epochs) + 1))
    if not recipe.budget and not recipe.validations and not each:
        yield f"its epochs are not 1 to {recipe.epochs}, each once and in order"
    if epochs != sorted(set(epochs)):
        yield "its epochs are not in order, each once"
    budget = parse_budget(recipe.budget) if recipe.budget else None
    if budget and budget.kind == "samples" and metrics.samples_seen != budget.amount:
        yield f"it saw {plural(metrics.samples_seen, 'sample')}, and its budget is {recipe.budget}"
    for field in ("train_seconds", "samples_seen"):
        values = [value for row in history if (value := getattr(row, field)) is not None]
        if values != sorted(values):
            yield f"{field} falls from one epoch to the next"
        if getattr(history[-1], field) != getattr(metrics, field):
            yield f"{field} of the last epoch differs from the record's"
    if history[-1].val_accuracy != metrics.val_accuracy:
        yield "the last epoch's validation accuracy differs from the record's"


def prediction_problems(content: bytes, run: FinishedRun) -> Iterator[str]:
    """The record's accuracies and losses, computed again from the predictions of both parts."""
    metrics = run.metrics
    parts = (
        ("test", metrics.accuracy, metrics.test_loss, metrics.test_images),
        ("val", metrics.val_accuracy, metrics.val_loss, metrics.val_images),
    )
    for part, accuracy, loss, count in parts:
        names = predicted, labels, losses = [f"{part}_{what}" for what in ("predicted", "label", "loss")]
        try:
            arrays = read_arrays(content, names, count)
        except ValueError as error:
            yield f"predictions.npz {error}"
            continue
        if missing := [name for name in names if name not in arrays]:
            yield f"predictions.npz lacks {', '.join(missing)}"
            continue
        if float((arrays[predicted] == arrays[labels]).mean()) != accuracy:
            yield f"the {part} predictions give another accuracy than the record's"
        mean = float(arrays[losses].mean(dtype=np.float64))
        # not the other way round, which nan would pass
        if loss is not None and not abs(mean - loss) <= LOSS_TOLERANCE * max(1.0, loss):
            yield f"the {part} losses give another mean than the record's"


def view_problems(store: Store, views: dict[str, bytes]) -> Iterator[str]:
    """Views that differ from what the records give."""
    for name in VIEWS:
        try:
            if store.read(name, most=len(views[name])) != views[name]:
                raise ValueError
        except FileNotFoundError:
            yield f"{name} is missing (check --rebuild writes it)"
        except (OSError, ValueError):
            yield f"{name} differs from the records (check --rebuild writes it anew)"
