"""The CSV files of a store, derived from its records. Example: views_of(store.runs(), store.sessions())["results.csv"]

Pure functions from records to rows: `results.csv` has one row per run, `speed.csv` one per model, kind and batch size
of a session; the others are long, one fact per row. A missing value is an empty cell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bench.core.events import Epoch
from bench.core.files import to_csv
from bench.plan.keys import speed_key, step_key
from bench.store.records import FinishedRun, RunRecord, Session
from bench.store.seconds import with_seconds

Row = dict[str, Any]
# fmt: off
RESULT_COLUMNS = (
    "run_id", "model", "family", "dataset", "recipe", "track", "budget", "lr", "seed", "device", "device_name",
    "status", "accuracy",
    "val_accuracy", "test_loss", "train_seconds", "segments", "first_step_seconds", "checkpoint_seconds",
    "wall_seconds", "pace_seconds", "epochs", "samples_seen", "target",
    "train_images_per_second", "inference_images_per_second", "latency_ms", "loop_images_per_second",
    "speed_session", "flops", "flops_2x", "train_flops_2x", "flops_audit", "params", "activations",
    "peak_memory_bytes", "train_images", "test_images",
    "image_size", "num_classes", "content_hash", "split_hash", "data_source", "data_version", "data_official",
    "batch_size", "precision", "setting", "setting_used", "runs_at_once", "together",
    "seconds_from",
    "torch", "commit", "dirty", "started", "message",
)

# Times are of one call; quartiles and n are of the raw samples.
SPEED_COLUMNS = (
    "session", "model", "kind", "batch_size", "status", "images_per_second", "median_ms", "q1_ms", "q3_ms", "n",
    "reference", "ratio", "ratio_low", "ratio_high", "memory_bytes", "reserved_bytes", "bound", "bound_share",
    "experiment", "flops_per_second", "joules_per_1000_images", "joules_missing", "build_seconds",
    "first_call_seconds", "setting", "memory_format", "policy", "device_name", "driver", "torch", "precision",
    "image_size", "num_classes", "stopped", "starts", "blocks", "started", "message",
)
# fmt: on

# Figures that mean nothing where the run shared its device with other runs.
NOT_SHARED = (
    "train_seconds",
    "first_step_seconds",
    "checkpoint_seconds",
    "wall_seconds",
    "pace_seconds",
    "loop_images_per_second",
)


def views_of(runs: list[RunRecord], sessions: list[Session]) -> dict[str, bytes]:
    """The content of the CSV files by name, from the records."""
    facts = [(run.run_id, run.environment) for run in runs] + [(s.id, s.environment) for s in sessions]
    environment = [
        {"record": name, "fact": fact, "value": value} for name, known in facts for fact, value in sorted(known.items())
    ]
    timings = [
        {"session": s.id, "recipe": s.recipe.name, **msgspec.structs.asdict(sample)}
        for s in sessions
        for sample in s.samples
    ]
    history = [row for run in with_seconds(runs) for row in long_history(run)]
    sample_columns = ("model", "kind", "start", "block", "position", "batch_size", "calls", "seconds")
    return {
        "results.csv": to_csv(RESULT_COLUMNS, results(runs, sessions)),
        "speed.csv": to_csv(SPEED_COLUMNS, (row for s in sessions for row in speed_rows(s))),
        "history.csv": to_csv(("run_id", "model", "dataset", "seed", "epoch", "metric", "value"), history),
        "timings.csv": to_csv(("session", "recipe", *sample_columns), timings),
        "environment.csv": to_csv(("record", "fact", "value"), environment),
    }


def history_csv(history: Iterable[Epoch]) -> bytes:
    """A run's own history.csv."""
    rows = [msgspec.structs.asdict(epoch) for epoch in history]
    return to_csv(Epoch.__struct_fields__, rows)


def long_history(run: RunRecord) -> list[Row]:
    """One row per epoch and metric, the form that plots and spreadsheets group easily."""
    if not isinstance(run, FinishedRun):
        return []
    names = {"run_id": run.run_id, "model": run.spec.model, "dataset": run.spec.data.name, "seed": run.spec.seed}
    return [
        {**names, "epoch": epoch.epoch, "metric": metric, "value": value}
        for epoch in run.history
        for metric, value in sorted(msgspec.structs.asdict(epoch).items())
        if metric != "epoch" and not (metric in NOT_SHARED and run.shared_device)
    ]


def sessions_of(run: RunRecord, sessions: list[Session]) -> list[Session]:
    """The sessions that timed this run's model: same code, classes, training step and key; oldest first."""
    spec, key = run.spec, speed_key(run.spec, run.environment)
    return [
        s
        for s in sessions
        if s.sources.get(spec.model) == spec.model_source
        and s.num_classes == spec.data.num_classes
        and step_key(s.recipe_of(spec.model)) == step_key(spec.recipe)
        and s.key == key
        and s.settings.get(spec.model, spec.setting) == spec.setting
    ]


def results(runs: list[RunRecord], sessions: list[Session]) -> list[Row]:
    """The rows of results.csv: one per run, joined with the newest speed session that timed its model."""
    return [_result(run, next(reversed(sessions_of(run, sessions)), None)) for run in with_seconds(runs)]


def _result(run: RunRecord, session: Session | None) -> Row:
    spec, recipe = run.spec, run.spec.recipe
    row: Row = {
        "run_id": run.run_id,
        "model": spec.model,
        "family": run.family,
        "dataset": spec.data.name,
        "recipe": recipe.name,
        "track": recipe.track,
        "budget": recipe.budget,
        "lr": recipe.lr,
        "seed": spec.seed,
        "device": spec.device,
        "device_name": spec.device_name,
        "status": run.status,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "setting": spec.setting.name,
        "image_size": spec.data.image_size,
        "content_hash": spec.data.content_hash,
        "split_hash": spec.data.split_hash,
        "num_classes": spec.data.num_classes,
        "started": run.started,
        **{k: run.environment.get(k) for k in ("torch", "commit", "dirty")},
    }
    row |= _figures(run) if isinstance(run, FinishedRun) else {"message": run.message}
    return row | (_speeds(spec.model, recipe.batch_size, session) if session is not None else {})


def _figures(run: FinishedRun) -> Row:
    """The figures of a finished run."""
    hidden = NOT_SHARED if run.shared_device else ()
    origin = {f"data_{k}": getattr(run.provenance, k, None) for k in ("source", "version", "official")}
    metrics = {k: v for k, v in msgspec.structs.asdict(run.metrics).items() if k in RESULT_COLUMNS and k not in hidden}
    return {
        **metrics,
        **origin,
        "target": run.target,
        "setting_used": run.setting_used,
        "seconds_from": run.seconds_from,
    }


def _speeds(model: str, batch: int, session: Session) -> Row:
    """Medians of the session that timed a run's model."""
    row: Row = {"speed_session": session.id}
    figures: dict[str, tuple[str, Callable[[float], float]]] = {
        "train": ("train_images_per_second", lambda s: batch / s),
        "inference": ("inference_images_per_second", lambda s: batch / s),
        "latency": ("latency_ms", lambda s: 1000 * s),
    }
    for kind, (column, figure) in figures.items():
        if seconds := session.seconds_per_call(model, kind):
            row[column] = figure(statistics.median(seconds))
    return row


def speed_rows(session: Session) -> list[Row]:
    """The rows of speed.csv for one session; what could not be timed is a row with its status.

    `ratio` is of speeds, the reference's time over one's own: above 1 is faster.
    """
    common = {k: getattr(session.key, k) for k in ("policy", "device_name", "driver", "torch", "precision")}
    common |= {k: getattr(session, k) for k in ("num_classes", "stopped", "starts", "blocks", "started", "reference")}
    common |= {"image_size": session.key.image_size, "session": session.id}
    memory = {(m.model, m.kind, m.batch_size): m for m in session.memory}
    firsts = {(s.model, s.kind, s.batch_size): s.seconds for s in session.first_calls if s.start == 0}
    rows = []
    for task in dict.fromkeys((s.model, s.kind, s.batch_size) for s in session.samples):
        model, kind, batch = task
        peak, setting = memory.get(task), session.settings.get(model)
        rows.append(
            {
                **common,
                **dict(zip(("model", "kind", "batch_size"), task, strict=True)),
                **_timing(session, model, kind, batch),
                "memory_bytes": peak.bytes if peak else None,
                "reserved_bytes": peak.reserved_bytes if peak else None,
                "first_call_seconds": firsts.get(task),
                "build_seconds": session.build_seconds.get(model),
                "setting": setting.name if setting else None,
                "memory_format": setting.memory_format if setting else None,
                **(_training_limits(session, model) if (kind, batch) == ("train", session.recipe.batch_size) else {}),
            }
        )
    failed = ("model", "kind", "batch_size", "status", "message")
    return rows + [{**common, **{k: getattr(failure, k) for k in failed}} for failure in session.failures]


def _timing(session: Session, model: str, kind: str, batch: int) -> Row:
    """Median, quartiles and the ratio to the reference model."""
    seconds = session.seconds_per_call(model, kind, batch)
    low, middle, high = quartiles(seconds)
    row: Row = {"status": "ok", "n": len(seconds), "images_per_second": batch / middle}
    row |= {"median_ms": 1e3 * middle, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high}
    ratio = session.ratio(session.reference, model, kind, batch)
    if ratio.n and model != session.reference:
        row |= {"ratio": ratio.value, "ratio_low": finite(ratio.low), "ratio_high": finite(ratio.high)}
    return row


def _training_limits(session: Session, model: str) -> Row:
    """What limits a training step, and its energy."""
    bound, energy = session.bounds.get(model), session.energy
    return {
        "bound": bound.name if bound else None,
        "bound_share": bound.share if bound else None,
        "experiment": bound.experiment if bound else None,
        "flops_per_second": bound.flops_per_second if bound else None,
        "joules_per_1000_images": energy.joules_per_1000_images.get(model),
        "joules_missing": energy.why_not,
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile: the spread of raw samples, not an interval for the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, middle, high


def finite(value: float) -> float | None:
    """None for nan, which is an empty cell."""
    return value if math.isfinite(value) else None
