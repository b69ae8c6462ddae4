"""A model's section as the page words it. Example: run_cells(section.runs[0]); heat(section.confusions[0].counts)"""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.stats import share_interval
from bench.core.text import plural, significant
from bench.present.report.confusion import Confusion
from bench.present.report.mistakes import Mistakes
from bench.store.records import FinishedRun, RunRecord

RUN_HEADS = ("run", "data", "recipe", "seed", "status", "test accuracy", "training", "started", "commit")


def matrix_text(confusion: Confusion) -> str:
    """How many runs a matrix is of, or why there is none."""
    if confusion.why_not:
        return confusion.why_not
    runs = "1 run." if confusion.runs == 1 else f"Sum of {confusion.runs} runs."
    if confusion.counts:
        return runs
    return f"{confusion.class_count} classes are too many for a matrix; these are the most frequent errors. {runs}"


def error_lines(confusion: Confusion) -> list[str]:
    """The most frequent errors as text."""
    return [f"{e.true} predicted as {e.predicted}: {e.count:,} of {e.of:,}" for e in confusion.confused]


def heat(counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """How strongly each cell is coloured, 0 to 9: hits by their share of the class, errors by the largest of them."""
    most = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=1)
    return [[_level(n, sum(row) if i == j else most) for j, n in enumerate(row)] for i, row in enumerate(counts)]


def _level(count: int, most: int) -> int:
    return min(9, -(-9 * count // most)) if most else 0


def mistakes_text(mistakes: Mistakes) -> str:
    """How many test images are wrong, and which of them are shown."""
    shown = len(mistakes.images)
    which = "all are shown" if mistakes.wrong == shown else f"the {shown} with the greatest loss are shown"
    return f"The run of seed {mistakes.seed} misclassified {mistakes.wrong:,} of {mistakes.of:,} test images; {which}."


def missing_images(sheets: Sequence[Mistakes]) -> list[str]:
    """Why there are no images, each reason once."""
    return list(dict.fromkeys(one.why_not for one in sheets if not one.images))


def run_cells(run: RunRecord) -> list[str]:
    """The cells of RUN_HEADS after the first; accuracy with Wilson's 95 % interval for other test images."""
    recipe, accuracy, seconds, status = run.spec.recipe, "none", "not measured", "ok"
    if isinstance(run, FinishedRun):
        interval = share_interval(run.metrics.accuracy, run.metrics.test_images)
        accuracy = f"{100 * interval.value:.2f} % ({100 * interval.low:.2f}–{100 * interval.high:.2f})"
        if (measured := run.metrics.train_seconds) is not None and not run.shared_device:
            seconds = f"{significant(measured)} s" + (", of the seed alone" if run.seconds_from else "")
    else:
        status = f"{run.status}. {run.message}".rstrip()
    track = f"track {recipe.track}, " if recipe.track else ""
    under = f"{track}{recipe.name}, {recipe.budget or plural(recipe.epochs, 'epoch')}"
    started, commit = run.started[:16].replace("T", " "), str(run.environment.get("commit") or "")
    cells = [run.spec.data.name, under, str(run.spec.seed), status, accuracy, seconds, started]
    return [*cells, commit[:7] or "unknown"]
