"""What a dashboard shows of a run: parameters, curves, final figures. Example: exported(loaded)

A curve's step is the number of training images seen, which every run counts, whatever its batch size and budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import NamedTuple

from bench.analysis.tables import Loaded
from bench.store.records import FinishedRun, finished
from bench.store.views import Row, results

Parameter = str | int | float | bool
# Of results.csv and of an epoch: what a dashboard calls a column. Names with a slash are grouped by what is before it.
PARAMETERS = (
    *("model", "family", "dataset", "seed", "image_size", "num_classes", "train_images", "target", "setting"),
    *("setting_used", "device", "device_name", "torch", "commit", "dirty"),
)
CURVES = {
    "val_accuracy": "validation/accuracy",
    "val_loss": "validation/loss",
    "train_loss": "training/loss",
    "lr": "training/learning_rate",
    "epoch": "training/epoch",
}
FIGURES = {
    "accuracy": "final/test_accuracy",
    "test_loss": "final/test_loss",
    **{
        column: f"final/{column}"
        for column in (
            *("val_accuracy", "train_seconds", "wall_seconds", "epochs", "samples_seen", "train_images_per_second"),
            *("inference_images_per_second", "latency_ms", "loop_images_per_second", "flops", "flops_2x"),
            *("train_flops_2x", "params", "activations", "peak_memory_bytes"),
        )
    },
}


class Point(NamedTuple):
    """A value of a curve; `time` in seconds since 1970."""

    step: int
    time: float
    value: float


@dataclass(frozen=True)
class ExportedRun:
    """A finished run in a dashboard's terms. What was not measured is not there."""

    run_id: str
    started: float  # seconds since 1970, as `ended` is
    ended: float
    parameters: dict[str, Parameter]
    curves: dict[str, list[Point]]
    figures: dict[str, float]

    @property
    def last(self) -> int:
        """The step at which the training ended."""
        return max(point.step for points in self.curves.values() for point in points)


def exported(loaded: Loaded) -> Iterator[ExportedRun]:
    """The finished runs in a dashboard's terms, each with the newest speed session of its model.

    A point's time is the run's start plus the seconds of training until then, where those are known: what was not
    training (compiling, validating) is left out of it, as in the tables.
    """
    runs = finished(loaded.runs)
    for run, row in zip(runs, results([*runs], loaded.sessions), strict=True):
        started = seconds_since_1970(run.started)
        times = [started + (epoch.train_seconds or 0.0) for epoch in run.history]
        yield ExportedRun(
            run.run_id,
            started,
            times[-1],
            parameters_of(run, row),
            {
                name: [
                    Point(epoch.samples_seen, time, float(getattr(epoch, key)))
                    for epoch, time in zip(run.history, times, strict=True)
                ]
                for key, name in CURVES.items()
            },
            {name: float(row[key]) for key, name in FIGURES.items() if row.get(key) is not None},
        )


def seconds_since_1970(started: str) -> float:
    """A record's start; 0 where that is no time, which only a store that was made by hand can have."""
    try:
        return max(0.0, datetime.fromisoformat(started).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def parameters_of(run: FinishedRun, row: Row) -> dict[str, Parameter]:
    """What was trained, with every field of the recipe; `row`: the run's row of results.csv."""
    recipe = asdict(run.spec.recipe)
    if run.spec.recipe.budget:
        del recipe["epochs"]  # 0, in place of the budget; those trained are a figure
    every = {
        **{key: row[key] for key in PARAMETERS},
        "train_fraction": run.spec.data.train_fraction,
        "recipe": recipe.pop("name"),
        **recipe,
    }
    return {key: value for key, value in every.items() if value not in (None, "")}
