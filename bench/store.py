"""Records on disk. Example: Store(Path("results/local")).runs() -> every run's record

    runs/<run_id>/spec.json record.json history.csv predictions.npz     one folder a run
    speed/<id>.json                                                     one file a speed session
    results.csv history.csv timings.csv environment.csv                 views, rebuilt from the records

A record is written to a temporary name, flushed and renamed: that is the moment a run counts as done.
"""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.spec import SCHEMA, RunSpec, to_dict

Record = dict[str, Any]

# What a reader opens first; a missing value is an empty cell, in every row the same columns.
# fmt: off
RESULT_COLUMNS = (
    "run_id", "model", "family", "dataset", "recipe", "seed", "device", "device_name", "status", "accuracy",
    "val_accuracy", "test_loss", "train_seconds", "first_step_seconds", "wall_seconds", "epochs", "samples_seen",
    "train_images_per_second", "inference_images_per_second", "latency_ms", "loop_images_per_second",
    "speed_session", "flops", "params", "activations", "peak_memory_bytes", "train_images", "test_images",
    "image_size", "num_classes", "batch_size", "precision", "setting", "torch", "commit", "dirty", "started",
    "message",
)
# fmt: on


def now() -> str:
    """The time in UTC, for a record's `started`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would lock colleagues out of a shared store
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_json(data: Any) -> bytes:
    """Readable, stable JSON. Raises ValueError for nan and infinity, which JSON does not have."""
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> bytes:
    """CSV with exactly `columns`; None becomes an empty cell. Raises ValueError for a key that is no column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="raise", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


class Store:
    """A directory of records. Reading never writes; several processes may read while one writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        """Raise UserError, before anything long begins, where the store cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe."):
                pass
        except OSError as error:
            raise UserError(
                f"the store '{self.root}' cannot be written ({error.strerror}); choose another with --results DIR"
            ) from None

    def run_dir(self, spec: RunSpec) -> Path:
        """The folder of a run."""
        return self.root / "runs" / spec.run_id

    def write_spec(self, spec: RunSpec) -> None:
        """First of all, so that an interrupted run's folder says what it was to be."""
        write_atomically(self.run_dir(spec) / "spec.json", to_json(to_dict(spec)))

    def write_record(self, spec: RunSpec, record: Record) -> None:
        """Last of all: the run is done."""
        write_atomically(self.run_dir(spec) / "record.json", to_json(record))

    def record(self, spec: RunSpec) -> Record | None:
        """The record of a run, or None where it is not done."""
        path = self.run_dir(spec) / "record.json"
        return _read(path) if path.is_file() else None

    def is_done(self, spec: RunSpec) -> bool:
        """Whether the run finished well. One that failed is tried again by the same command."""
        record = self.record(spec)
        return record is not None and record["status"] == "ok"

    def runs(self) -> list[Record]:
        """Every finished or failed run's record, in the order in which they were started."""
        return sorted(
            (_read(path) for path in self.root.glob("runs/*/record.json")), key=lambda r: (r["started"], r["run_id"])
        )

    def write_session(self, session_id: str, session: Record) -> None:
        """A finished speed session."""
        write_atomically(self.root / "speed" / f"{session_id}.json", to_json(session))

    def sessions(self) -> list[Record]:
        """Every speed session, oldest first."""
        return sorted((_read(path) for path in self.root.glob("speed/*.json")), key=lambda s: (s["started"], s["id"]))

    def rebuild_views(self) -> list[Path]:
        """Write the four CSV files anew from the records; returns their paths."""
        runs, sessions = self.runs(), self.sessions()
        environment = [
            {"record": r.get("run_id") or r["id"], "fact": fact, "value": value}
            for r in (*runs, *sessions)
            for fact, value in sorted(r.get("environment", {}).items())
        ]
        timings = [
            {"session": s["id"], "recipe": s["recipe"]["name"], **sample} for s in sessions for sample in s["samples"]
        ]
        history = [row for run in runs for row in long_history(run)]
        sample_columns = ("model", "kind", "block", "position", "batch_size", "calls", "seconds")
        views = {
            "results.csv": to_csv(RESULT_COLUMNS, results(runs, sessions)),
            "history.csv": to_csv(("run_id", "model", "dataset", "seed", "epoch", "metric", "value"), history),
            "timings.csv": to_csv(("session", "recipe", *sample_columns), timings),
            "environment.csv": to_csv(("record", "fact", "value"), environment),
        }
        for name, content in views.items():
            write_atomically(self.root / name, content)
        return [self.root / name for name in views]


def _read(path: Path) -> Record:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); delete it, and the same command makes it anew") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not {"status", "id"} & data.keys():
        raise UserError(f"'{path}' is no record; delete it, and the same command makes it anew")
    return data


def history_csv(history: Iterable[Any]) -> bytes:
    """A run's own history.csv from its train.Epoch rows."""
    rows = [asdict(epoch) for epoch in history]
    return to_csv(list(rows[0]) if rows else ["epoch"], rows)


def long_history(run: Record) -> list[dict[str, Any]]:
    """One row an epoch and metric, the form that plots and spreadsheets group easily."""
    spec = run["spec"]
    about = {"run_id": run["run_id"], "model": spec["model"], "dataset": spec["data"]["name"], "seed": spec["seed"]}
    return [
        {**about, "epoch": epoch["epoch"], "metric": metric, "value": value}
        for epoch in run.get("history", [])
        for metric, value in epoch.items()
        if metric != "epoch"
    ]


def comparability_key(spec: Record, environment: Record) -> Record:
    """What must be equal for two speeds to share an axis."""
    return {
        **{fact: environment.get(fact) for fact in ("device", "device_name", "driver", "torch")},
        "precision": spec["recipe"]["precision"],
        "batch_size": spec["recipe"]["batch_size"],
        "image_size": spec["data"]["image_size"],
        "setting": spec["setting"]["name"],
        "deterministic": spec["deterministic"],
        "threads": environment.get("torch_threads") if spec["device"] == "cpu" else None,
    }


def sessions_of(run: Record, sessions: list[Record]) -> list[Record]:
    """The speed sessions with this run's model as its code was, classes, recipe and comparability key; oldest first."""
    spec = run["spec"]
    key = comparability_key(spec, run.get("environment", {}))
    return [
        s
        for s in sessions
        if s["sources"].get(spec["model"]) == spec["model_source"]
        and s["num_classes"] == spec["data"]["num_classes"]
        and s["recipe"] == spec["recipe"]
        and s["key"] == key
    ]


def seconds_per_call(session: Record, model: str, kind: str) -> list[float]:
    """Raw samples of one model and kind, by block."""
    picked = [s for s in session["samples"] if s["model"] == model and s["kind"] == kind]
    return [s["seconds"] / s["calls"] for s in sorted(picked, key=lambda s: s["block"])]


def results(runs: list[Record], sessions: list[Record]) -> list[dict[str, Any]]:
    """The rows of results.csv: one a run, joined with the speed session that timed its model."""
    return [_result(run, next(reversed(sessions_of(run, sessions)), None)) for run in runs]


def _result(run: Record, session: Record | None) -> dict[str, Any]:
    spec, metrics, environment = run["spec"], run.get("metrics", {}), run.get("environment", {})
    row: dict[str, Any] = {
        "run_id": run["run_id"],
        "model": spec["model"],
        "family": run.get("family"),
        "dataset": spec["data"]["name"],
        "recipe": spec["recipe"]["name"],
        "seed": spec["seed"],
        "device": spec["device"],
        "device_name": spec["device_name"],
        "status": run["status"],
        "message": run.get("message"),
        "epochs": spec["recipe"]["epochs"],
        "batch_size": spec["recipe"]["batch_size"],
        "precision": spec["recipe"]["precision"],
        "setting": spec["setting"]["name"],
        "image_size": spec["data"]["image_size"],
        "num_classes": spec["data"]["num_classes"],
        "started": run["started"],
        **{k: environment.get(k) for k in ("torch", "commit", "dirty")},
    }
    row |= {k: v for k, v in metrics.items() if k in RESULT_COLUMNS}
    if session is not None:
        median = {
            kind: statistics.median(seconds_per_call(session, spec["model"], kind))
            for kind in ("train", "inference", "latency")
        }
        batch = spec["recipe"]["batch_size"]
        row["train_images_per_second"] = batch / median["train"]
        row["inference_images_per_second"] = batch / median["inference"]
        row["latency_ms"] = 1000 * median["latency"]
        row["speed_session"] = session["id"]
    return row
