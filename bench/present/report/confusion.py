"""Confusion matrices from stored predictions. Example: confusion(comparison.title, runs, stores).confused[0]"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.analysis.compare import read_predictions
from bench.store.disk import Store
from bench.store.predictions import Arrays
from bench.store.records import FinishedRun

MOST_CLASSES = 20  # of a confusion matrix that still fits a page
MOST_PAIRS = 10  # of classes, where there are more

Pairs = Counter[tuple[int, int]]  # images by (true class, predicted class)


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

    `counts`: one row per true class, one column per predicted class, and `classes` their names; both empty for more
    than MOST_CLASSES. `confused`: the most frequent errors, at most MOST_PAIRS.
    """

    subject: str  # the comparison's title
    class_count: int
    classes: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    confused: tuple[Confused, ...] = ()
    runs: int = 0
    why_not: str = ""  # where there are no figures


def confusion(subject: str, runs: Sequence[FinishedRun], stores: list[Store]) -> Confusion:
    """The sum over the runs whose predictions can be read."""
    first, count = runs[0], runs[0].spec.data.num_classes
    matrix = Confusion(subject, count)
    readable = [answers for run in runs if (answers := answers_of(run, stores)) is not None]
    if not readable:
        return replace(matrix, why_not="The predictions of these runs are missing or damaged.")
    pairs: Pairs = Counter()
    for answers in readable:
        pairs += counted(answers["test_label"], answers["test_predicted"], count)
    confused = tuple(
        Confused(class_name(first, true), class_name(first, predicted), wrong, of)
        for true, predicted, wrong, of in most_confused(pairs)
    )
    matrix = replace(matrix, confused=confused, runs=len(readable))
    if count > MOST_CLASSES:
        return matrix
    counts = tuple(tuple(pairs[true, predicted] for predicted in range(count)) for true in range(count))
    return replace(matrix, classes=tuple(class_name(first, i) for i in range(count)), counts=counts)


def counted(label: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Pairs:
    """How many images of a class were predicted as which: only what occurs, as a square of the classes may not fit."""
    both = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    places, counts = np.unique(both, return_counts=True)
    return Counter(
        {divmod(place, classes): count for place, count in zip(places.tolist(), counts.tolist(), strict=True)}
    )


def most_confused(pairs: Pairs) -> list[tuple[int, int, int, int]]:
    """The most frequent errors: true class, predicted class, how often, of how many; ties in order of the classes."""
    images: Counter[int] = Counter()
    for (true, _), count in pairs.items():
        images[true] += count
    wrong = [(-count, *pair) for pair, count in pairs.items() if pair[0] != pair[1]]
    return [(true, predicted, -count, images[true]) for count, true, predicted in heapq.nsmallest(MOST_PAIRS, wrong)]


def answers_of(run: FinishedRun, stores: list[Store]) -> Arrays | None:
    """A run's predictions; None where they cannot be read or name a class that the data does not have."""
    answers = read_predictions(run, stores)
    if answers is None:
        return None
    for name in ("test_label", "test_predicted"):
        if answers[name].min() < 0 or answers[name].max() >= run.spec.data.num_classes:
            return None
    return answers


def class_name(run: FinishedRun, index: int) -> str:
    """The name in the record; the number where there are not as many names as classes."""
    return run.classes[index] if len(run.classes) == run.spec.data.num_classes else str(index)
