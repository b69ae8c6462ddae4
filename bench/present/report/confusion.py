"""Confusion matrices from stored predictions. Example: confusion(comparison.title, runs, stores).confused[0]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.compare import read_predictions
from bench.store.disk import Store
from bench.store.records import FinishedRun

MOST_CLASSES = 20  # of a confusion matrix that still fits a page
MOST_PAIRS = 10  # of classes, where there are more

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]
Predictions = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Confused:
    """How often images of class `true` were predicted as `predicted`, of how many of that class, over all runs."""

    true: str
    predicted: str
    count: int
    of: int


@dataclass(frozen=True)
class Confusion:
    """A model's confusion matrix in one comparison, summed over its runs (seeds).

    `counts`: one row per true class, one column per predicted class; empty for more than MOST_CLASSES. `confused`: the
    most frequent errors, at most MOST_PAIRS.
    """

    subject: str  # the comparison's title
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] = ()
    confused: tuple[Confused, ...] = ()
    runs: int = 0
    why_not: str = ""  # where there are no figures


def confusion(subject: str, runs: Sequence[FinishedRun], stores: list[Store]) -> Confusion:
    """The sum over the runs whose predictions can be read."""
    names = class_names(runs[0])
    matrix = Confusion(subject, names)
    readable = [answers for run in runs if (answers := answers_of(run, stores)) is not None]
    if not readable:
        return replace(matrix, why_not="The predictions of these runs are missing or damaged.")
    label = np.concatenate([answers["test_label"] for answers in readable]).astype(np.int64)
    predicted = np.concatenate([answers["test_predicted"] for answers in readable]).astype(np.int64)
    shown = tuple(map(tuple, counted(label, predicted, len(names)).tolist())) if len(names) <= MOST_CLASSES else ()
    return replace(matrix, counts=shown, confused=most_confused(label, predicted, names), runs=len(readable))


def counted(label: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Counts:
    """How many images of each class (rows) were predicted as each class (columns)."""
    both = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def most_confused(label: Labels, predicted: Labels, names: Sequence[str]) -> tuple[Confused, ...]:
    """The most frequent errors, (N,) true and predicted classes given; ties in the order of the classes.

    Counted without a matrix, which would fill the memory for 25,000 classes.
    """
    wrong = label != predicted
    pairs, counts = np.unique(label[wrong] * len(names) + predicted[wrong], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    places = [(*divmod(int(pairs[i]), len(names)), int(counts[i])) for i in first]
    return tuple(
        Confused(names[true], names[guess], count, int((label == true).sum())) for true, guess, count in places
    )


def answers_of(run: FinishedRun, stores: list[Store]) -> Predictions | None:
    """A run's predictions; None where they cannot be read or name a class that the data does not have."""
    answers = read_predictions(run, stores)
    classes = len(class_names(run))
    if answers is None:
        return None
    for name in ("test_label", "test_predicted"):
        values = answers[name]
        if values.dtype.kind not in "iu" or not len(values) or values.min() < 0 or values.max() >= classes:
            return None
    return answers


def class_names(run: FinishedRun) -> tuple[str, ...]:
    """The names in the record; numbers where there are not as many names as classes."""
    count = run.spec.data.num_classes
    return run.classes if len(run.classes) == count else tuple(map(str, range(count)))
