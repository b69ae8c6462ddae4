"""Learning curves by epochs, seconds, FLOPs or images. Example: learning_curves(runs, POSITIONS[0], scope)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.core.events import Epoch
from bench.core.text import plural
from bench.present.charts.accuracy import Runs
from bench.present.charts.model import Axis, Chart, Mark, Series
from bench.present.charts.parts import Draft, Scope, finish, percent, spread
from bench.store.records import FinishedRun


class Progress(NamedTuple):
    """How far a run is."""

    seconds: float
    samples: int
    epochs: float = 0.0


@dataclass(frozen=True)
class Position:
    """One way to count how far a run is. `counter_of` gives None where it cannot be known of a run."""

    name: str
    title: str
    axis: str
    unit: str
    counter_of: Callable[[FinishedRun], Callable[[Progress], float] | None]


def _by_seconds(run: FinishedRun) -> Callable[[Progress], float] | None:
    return None if run.shared_device else lambda progress: progress.seconds


def _by_flops(run: FinishedRun) -> Callable[[Progress], float] | None:
    flops = run.metrics.train_flops_2x
    return (lambda progress: progress.samples * flops / 1e12) if flops else None


POSITIONS = (
    Position("epochs", "epochs", "epochs", "epochs", lambda run: lambda progress: progress.epochs),
    Position(
        "seconds", "training time", "training seconds (evaluation is not counted)", "training seconds", _by_seconds
    ),
    Position(
        "FLOPs", "training FLOPs", "training TFLOP (forward and backward, two per multiply-add)", "TFLOP", _by_flops
    ),
    Position(
        "samples",
        "images seen",
        "training images seen, thousands",
        "thousand images",
        lambda run: lambda progress: progress.samples / 1000,
    ),
)


def learning_curves(runs: Runs, position: Position, scope: Scope) -> Chart | None:
    """Validation accuracy after each validation; a line per run, with its model's name at the end of the first."""
    series, left_out = list[Series](), 0
    for model, group in runs.items():
        label = scope.common.names[model]
        for run in group:
            counter = position.counter_of(run)
            if counter is None:
                left_out += 1
                continue
            series.append(Series(model, "line", _curve(run, counter, label)))
            label = ""
    if not series:
        return None
    numbers = Counter(one.model for one in series)
    draft = Draft(
        key="learning_curves",
        title=f"Learning curves by {position.title}",
        x=Axis(position.axis, from_zero=True),
        y=Axis("validation accuracy, %"),
        series=tuple(series),
        sentences=(
            "Accuracy on validation images after each validation; one line per run, "
            f"{spread(list(numbers.values()), 'run')} of each of {plural(len(numbers), 'model')}.",
            "No validation image is a test image; the ups and downs of a line have no interval.",
            _about_left_out(position, left_out, sum(map(len, runs.values()))),
        ),
        models=tuple(numbers),
        position=position.name,
    )
    return finish(draft, scope)


def _curve(run: FinishedRun, counter: Callable[[Progress], float], label: str) -> tuple[Mark, ...]:
    last = len(run.history) - 1
    return tuple(
        Mark(
            counter(Progress(epoch.train_seconds or 0.0, epoch.samples_seen, epoch.epoch)),
            100 * epoch.val_accuracy,
            label=label if i == last else "",
            hover=(f"run {run.run_id}", f"seed {run.spec.seed}", *_hover(epoch)),
        )
        for i, epoch in enumerate(run.history)
    )


def _hover(epoch: Epoch) -> tuple[str, ...]:
    return (
        f"epoch {epoch.epoch:.4g}",
        f"{percent(epoch.val_accuracy)} on validation",
        f"loss {epoch.val_loss:.3f} on validation, {epoch.train_loss:.3f} in training",
    )


def _about_left_out(position: Position, left_out: int, total: int) -> str:
    if not left_out:
        return ""
    if position.name == "seconds":
        return (
            f"{left_out} of {plural(total, 'run')} shared the device with others (--runs-per-device): their seconds "
            "are not comparable and are left out."
        )
    return f"Left out, because FLOPs of a training step were not counted: {left_out} of {plural(total, 'run')}."
