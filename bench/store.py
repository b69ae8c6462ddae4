"""Records on disk. Example: Store(Path("results/local")).runs() -> every run's record

    runs/<run_id>/spec.json record.json history.csv predictions.npz     one folder a run; checkpoints/ until it is done
    speed/<id>.json                                                     one file a speed session
    tuning/<id>.json                                                    one file a search for a model's best setting
    search/<id>.json                                                    one file a search for a model's learning rate
    results.csv history.csv timings.csv environment.csv                 views, rebuilt from the records
    locks/                                                              who is at work on what

A record is written to a temporary name, flushed and renamed: that is the moment a run counts as done. Many processes
may use one store: a run is worked on under its lock, which dies with its owner.
"""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import schema
from bench.errors import Busy, UserError
from bench.files import TEMPORARY, holder, lock, remove_leftovers, sha256, to_csv, to_json, write_atomically
from bench.schema import Damaged, Record
from bench.settings import policy
from bench.spec import RunSpec, SessionSpec, to_dict
from bench.stats import ratio_interval

REFERENCE = "seresnet"  # the model that ratios are to, where it is among those compared
RUN_FILES = ("history.csv", "predictions.npz")  # beside the record, which holds their checksums
VIEWS = ("results.csv", "speed.csv", "history.csv", "timings.csv", "environment.csv")
VIEWS_WAIT_SECONDS = 60.0
# What another machine may send: nothing that leads out of the store, no checkpoints, no views.
ADOPTED = re.compile(
    r"runs/\w[\w.-]*/(spec\.json|record\.json|history\.csv|predictions\.npz)|speed/\w[\w.-]*\.json", re.ASCII
)
LOOK_SECONDS = 2.0  # between two looks at whether another process has finished
RELEASE_SECONDS = 5.0  # until the kernel has cleared up after a process that was killed

# What a reader opens first; a missing value is an empty cell, in every row the same columns.
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
    "batch_size", "precision", "setting", "setting_used", "runs_at_once",
    "torch", "commit", "dirty", "started", "message",
)

# A row for each model, kind and batch size of a session; times are of one call, quartiles and n of its raw samples.
SPEED_COLUMNS = (
    "session", "model", "kind", "batch_size", "status", "images_per_second", "median_ms", "q1_ms", "q3_ms", "n",
    "reference", "ratio", "ratio_low", "ratio_high", "memory_bytes", "reserved_bytes", "bound", "bound_share",
    "experiment", "flops_per_second", "joules_per_1000_images", "joules_missing", "build_seconds",
    "first_call_seconds", "setting", "memory_format", "policy", "device_name", "driver", "torch", "precision",
    "image_size", "num_classes", "stopped", "blocks", "started", "message",
)
# fmt: on


def now() -> str:
    """The time in UTC, for a record's `started`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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

    # --- one at a time -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, run_id: str, wait_seconds: float = 0.0) -> Iterator[None]:
        """Work on a run as the only one. Raises Busy where somebody else still does after wait_seconds."""
        with lock(self._lock(run_id), wait_seconds):
            remove_leftovers(self.root / "runs" / run_id)
            yield

    def owner(self, run_id: str) -> str | None:
        """Who is at work on a run now, or None."""
        return holder(self._lock(run_id))

    @contextlib.contextmanager
    def claim_timing(self) -> Iterator[None]:
        """Time as the only one in this store. Raises Busy."""
        with lock(self.root / "locks" / "timing.lock"):
            for folder in ("speed", "tuning"):
                remove_leftovers(self.root / folder)
            yield

    def timing_owner(self) -> str | None:
        """Who is timing now, or None."""
        return holder(self.root / "locks" / "timing.lock")

    def wait_for_timing(self) -> None:
        """Until nobody is timing in this store: two at once would spoil both."""
        while self.timing_owner():
            time.sleep(LOOK_SECONDS)

    def _lock(self, run_id: str) -> Path:
        return self.root / "locks" / f"{run_id}.lock"

    # --- write ---------------------------------------------------------------------------------------------------

    def write_spec(self, spec: RunSpec) -> None:
        """First of all, so that an interrupted run's folder says what it was to be."""
        write_atomically(self.run_dir(spec) / "spec.json", to_json(to_dict(spec)))

    def write_record(self, spec: RunSpec, record: Record) -> None:
        """Last of all, under the run's claim: the run is done. Adds the checksums."""
        if record["status"] == "ok":
            folder = self.run_dir(spec)
            files = {name: sha256((folder / name).read_bytes()) for name in RUN_FILES if (folder / name).is_file()}
            record = {**record, "files": files}
        write_atomically(self.run_dir(spec) / "record.json", to_json(schema.seal(record)))

    def write_failure(self, spec: RunSpec, record: Record) -> None:
        """A run that did not end well is a row all the same; it never replaces one that did, nor disturbs an owner."""
        with contextlib.suppress(Busy), self.claim(spec.run_id, RELEASE_SECONDS):
            if not self.is_done(spec):
                self.write_record(spec, record)

    def forget_failure(self, spec: RunSpec) -> None:
        """Remove the record of a run that did not end well: another device has done the same work since."""
        with contextlib.suppress(Busy), self.claim(spec.run_id, RELEASE_SECONDS):
            if self.record(spec) is not None and not self.is_done(spec):
                (self.run_dir(spec) / "record.json").unlink(missing_ok=True)

    def adopt(self, files: Iterable[tuple[str, bytes]], again: bool = False) -> None:
        """Take over what a machine that does not see this disk has found out: files of runs and sessions, by name.

        A run that is done already stays as it is, unless it was to be done again. Raises ValueError for a name that no
        machine of ours sends, and Busy.
        """
        runs: dict[str, dict[str, bytes]] = {}
        for name, content in files:
            if not ADOPTED.fullmatch(name):
                raise ValueError(f"a worker sent '{name}', which is no file of a store")
            folder, _, rest = name.partition("/")
            if folder == "runs":
                run_id, _, file = rest.partition("/")
                runs.setdefault(run_id, {})[file] = content
            else:
                write_atomically(self.root / name, content)
        for run_id, found in runs.items():
            with self.claim(run_id, RELEASE_SECONDS):
                there = self._believed(self.root / "runs" / run_id / "record.json", run_id)
                if there is not None and there["status"] == "ok" and not again:
                    continue
                for file in sorted(found, key=lambda file: file == "record.json"):  # last of all: the run is done
                    write_atomically(self.root / "runs" / run_id / file, found[file])

    @contextlib.contextmanager
    def marked(self) -> Iterator[str]:
        """A file's name in the store, there as long as this lasts: a machine that finds it sees the same disk.

        A new one each time: a copy of this store on another machine must not look like this one.
        """
        name = f"locks/driver-{uuid.uuid4().hex}"
        write_atomically(self.root / name, b"")
        try:
            yield name
        finally:
            (self.root / name).unlink(missing_ok=True)

    def write_session(self, session_id: str, session: Record) -> None:
        """A finished speed session, with its checksum."""
        write_atomically(self.root / "speed" / f"{session_id}.json", to_json(schema.seal(session)))

    def write_tuning(self, tuning: Record) -> None:
        """A finished search for a model's best setting, with its checksum; it replaces an earlier one of its name."""
        write_atomically(self.root / "tuning" / f"{tuning['id']}.json", to_json(schema.seal(tuning)))

    def write_search(self, search: Record) -> None:
        """A search for a learning rate as far as it is, with its checksum; it replaces an earlier one of its name."""
        write_atomically(self.root / "search" / f"{search['id']}.json", to_json(schema.seal(search)))

    # --- read ----------------------------------------------------------------------------------------------------

    # One of them: None where there is none, or none that can be believed. All of them: in the order in which they were
    # started; what cannot be believed is left out and named in `damaged`, and views and tables say so.

    def tuning(self, name: str) -> Record | None:
        """A search for a model's best setting by its name."""
        return self._believed(self.root / "tuning" / f"{name}.json", name)

    def tunings(self, damaged: list[str] | None = None) -> list[Record]:
        """Every search for a model's best setting."""
        return self._every("tuning", damaged)

    def search(self, name: str) -> Record | None:
        """A search for a learning rate by its name, finished or not."""
        return self._believed(self.root / "search" / f"{name}.json", name)

    def searches(self, damaged: list[str] | None = None) -> list[Record]:
        """Every search for a learning rate."""
        return self._every("search", damaged)

    def sessions(self, damaged: list[str] | None = None) -> list[Record]:
        """Every speed session."""
        return self._every("speed", damaged)

    def record(self, spec: RunSpec) -> Record | None:
        """The record of a run."""
        return self._believed(self.run_dir(spec) / "record.json", spec.run_id)

    def is_done(self, spec: RunSpec) -> bool:
        """Whether the run finished well. One that failed, or whose record is damaged, is tried again."""
        record = self.record(spec)
        return record is not None and record["status"] == "ok"

    def runs(self, damaged: list[str] | None = None) -> list[Record]:
        """Every finished or failed run's record."""
        paths = {path.parent.name: path for path in self.root.glob("runs/*/record.json")}
        return sorted(self._read_all(paths, damaged), key=lambda r: (r["started"], r["run_id"]))

    def _every(self, folder: str, damaged: list[str] | None) -> list[Record]:
        paths = {path.stem: path for path in self.root.glob(f"{folder}/*.json")}
        return sorted(self._read_all(paths, damaged), key=lambda r: (r["started"], r["id"]))

    def _read_all(self, paths: dict[str, Path], damaged: list[str] | None) -> list[Record]:
        found = []
        for name, path in sorted(paths.items()):
            try:
                record = self._read(path, name)
            except Damaged as error:
                if damaged is not None:
                    damaged.append(f"{path}: {error}")
                continue
            if record is not None:
                found.append(record)
        return found

    def _believed(self, path: Path, name: str) -> Record | None:
        with contextlib.suppress(Damaged):
            return self._read(path, name)
        return None

    def _read(self, path: Path, name: str) -> Record | None:
        try:
            return schema.checked(path.read_bytes(), name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"'{path}' cannot be read ({error.strerror})") from None

    # --- views ---------------------------------------------------------------------------------------------------

    def rebuild_views(self) -> list[Path]:
        """Write the four CSV files anew from the records; returns their paths.

        One process at a time, so that an older view never replaces a newer one.
        """
        paths = [self.root / name for name in VIEWS]
        try:
            with lock(self.root / "locks" / "views.lock", VIEWS_WAIT_SECONDS):
                for left in self.root.glob(f"{TEMPORARY}*"):  # half a view, of somebody who was killed
                    left.unlink(missing_ok=True)
                for path, content in zip(paths, views_of(self.runs(), self.sessions()).values(), strict=True):
                    write_atomically(path, content)
        except Busy:  # for a minute: whoever it is writes them after what is here was recorded
            pass
        return paths


def views_of(runs: list[Record], sessions: list[Record]) -> dict[str, bytes]:
    """The content of the CSV files by name, from the records."""
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
    return {
        "results.csv": to_csv(RESULT_COLUMNS, results(runs, sessions)),
        "speed.csv": to_csv(SPEED_COLUMNS, (row for s in sessions for row in speed_rows(s))),
        "history.csv": to_csv(("run_id", "model", "dataset", "seed", "epoch", "metric", "value"), history),
        "timings.csv": to_csv(("session", "recipe", *sample_columns), timings),
        "environment.csv": to_csv(("record", "fact", "value"), environment),
    }


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
        if metric != "epoch" and not (metric in NOT_SHARED and shared_device(run))
    ]


# What a run measures of the device, and means nothing where it shared the device with others.
NOT_SHARED = (
    "train_seconds",
    "first_step_seconds",
    "checkpoint_seconds",
    "wall_seconds",
    "pace_seconds",
    "loop_images_per_second",
)


def shared_device(run: Record) -> bool:
    """Whether other runs trained on the same device at the same time (--runs-per-device)."""
    return bool(run.get("metrics", {}).get("runs_at_once", 1) > 1)


def comparability_key(spec: Record, environment: Record) -> Record:
    """What must be equal for two speeds to share an axis."""
    return {
        **{fact: environment.get(fact) for fact in ("device", "device_name", "driver", "torch")},
        "precision": spec["recipe"]["precision"],
        "batch_size": spec["recipe"]["batch_size"],
        "image_size": spec["data"]["image_size"],
        "policy": policy(spec["setting"]["name"]),
        "deterministic": spec["deterministic"],
        # A run that shared the cores had fewer threads than the session that timed its model, which had them all.
        "threads": environment.get("threads_alone", environment.get("torch_threads"))
        if spec["device"] == "cpu"
        else None,
    }


def step_of(recipe: Record) -> Record:
    """What of a recipe decides how long a training step takes: the rest may differ from a session to a run."""
    parts = {part: recipe[part] for part in ("optimizer", "batch_size", "precision")}
    used = {part: recipe[part] > 0 for part in ("clip_grad_norm", "label_smoothing", "drop_path")}
    return {**parts, **used}


def question(spec: Record) -> Record:
    """What runs must have in common, but for device and speed, to be compared: their data, and their recipe.

    In a track the learning rate is each model's own, in track `family` the rest of the recipe too.
    """
    recipe = spec["recipe"]
    if recipe["track"] == "family":
        recipe = {k: recipe[k] for k in ("track", "budget", "epochs", "validations", "batch_size", "precision")}
    elif recipe["track"]:
        recipe = {k: v for k, v in recipe.items() if k != "lr"}
    return {"data": spec["data"], "recipe": recipe}


def session_key(spec: SessionSpec, environment: Record) -> Record:
    """A session's comparability key."""
    about = {"recipe": asdict(spec.recipe), "data": {"image_size": spec.image_size}, "setting": asdict(spec.setting)}
    return comparability_key({**about, "deterministic": spec.deterministic, "device": spec.device}, environment)


def sessions_of(run: Record, sessions: list[Record]) -> list[Record]:
    """The speed sessions with this run's model as its code was, classes, recipe and comparability key; oldest first."""
    spec = run["spec"]
    key = comparability_key(spec, run.get("environment", {}))
    return [
        s
        for s in sessions
        if s["sources"].get(spec["model"]) == spec["model_source"]
        and s["num_classes"] == spec["data"]["num_classes"]
        and step_of(s.get("recipes", {}).get(spec["model"], s["recipe"])) == step_of(spec["recipe"])
        and s["key"] == key
        and s["settings"].get(spec["model"], spec["setting"]) == spec["setting"]
    ]


def search_samples(search: Record) -> int:
    """Training samples of all trials of a search for a learning rate: what the choice took."""
    return sum(trial["samples"] for trial in search["trials"])


def seconds_per_call(session: Record, model: str, kind: str, batch_size: int | None = None) -> list[float]:
    """Raw samples of one model and kind, by block; inference at the recipe's batch size unless another is named."""
    if batch_size is None:
        batch_size = 1 if kind == "latency" else session["recipe"]["batch_size"]
    wanted = (model, kind, batch_size)
    picked = [s for s in session["samples"] if (s["model"], s["kind"], s["batch_size"]) == wanted]
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
        "epochs": metrics.get("epochs", spec["recipe"]["epochs"]),
        **{k: spec["recipe"][k] for k in ("track", "budget", "lr")},
        "target": run.get("target"),
        "batch_size": spec["recipe"]["batch_size"],
        "precision": spec["recipe"]["precision"],
        "setting": spec["setting"]["name"],
        "setting_used": run.get("setting_used"),
        **{k: spec["data"][k] for k in ("image_size", "content_hash", "split_hash")},
        **{f"data_{k}": run.get("provenance", {}).get(k) for k in ("source", "version", "official")},
        "num_classes": spec["data"]["num_classes"],
        "started": run["started"],
        **{k: environment.get(k) for k in ("torch", "commit", "dirty")},
    }
    hidden = NOT_SHARED if shared_device(run) else ()
    row |= {k: v for k, v in metrics.items() if k in RESULT_COLUMNS and k not in hidden}
    if session is not None:
        batch = spec["recipe"]["batch_size"]
        figures: dict[str, tuple[str, Callable[[float], float]]] = {
            "train": ("train_images_per_second", lambda s: batch / s),
            "inference": ("inference_images_per_second", lambda s: batch / s),
            "latency": ("latency_ms", lambda s: 1000 * s),
        }
        for kind, (column, figure) in figures.items():
            if seconds := seconds_per_call(session, spec["model"], kind):
                row[column] = figure(statistics.median(seconds))
        row["speed_session"] = session["id"]
    return row


def speed_rows(session: Record) -> list[dict[str, Any]]:
    """The rows of speed.csv for one session; what could not be timed is a row with its status.

    The ratio is of speeds: the reference's time over one's own, above 1 is faster.
    """
    key, rows = session["key"], []
    memory = {(m["model"], m["kind"], m["batch_size"]): m for m in session["memory"]}
    firsts = {(s["model"], s["kind"], s["batch_size"]): s["seconds"] for s in session["first_calls"]}
    about = {k: key.get(k) for k in ("policy", "device_name", "driver", "torch", "precision", "image_size")}
    about |= {k: session[k] for k in ("num_classes", "stopped", "blocks", "started", "reference")}
    about["session"] = session["id"]
    for model, kind, batch in dict.fromkeys((s["model"], s["kind"], s["batch_size"]) for s in session["samples"]):
        seconds = seconds_per_call(session, model, kind, batch)
        reference = seconds_per_call(session, session["reference"], kind, batch)
        low, middle, high = quartiles(seconds)
        row = {**about, "model": model, "kind": kind, "batch_size": batch, "status": "ok", "n": len(seconds)}
        row |= {"images_per_second": batch / middle, "median_ms": 1e3 * middle, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high}
        if reference and model != session["reference"]:
            ratio = ratio_interval(reference, seconds)
            row |= {"ratio": ratio.value, "ratio_low": finite(ratio.low), "ratio_high": finite(ratio.high)}
        held = memory.get((model, kind, batch), {})
        row |= {"memory_bytes": held.get("bytes"), "reserved_bytes": held.get("reserved_bytes")}
        row |= {"first_call_seconds": firsts.get((model, kind, batch))}
        row |= {"build_seconds": session["build_seconds"].get(model)}
        setting = session["settings"].get(model, {})
        row |= {"setting": setting.get("name"), "memory_format": setting.get("memory_format")}
        if kind == "train":
            found, joules = session["bounds"].get(model, {}), session["energy"]
            row |= {"bound": found.get("name"), "bound_share": found.get("share")}
            row |= {k: found.get(k) for k in ("experiment", "flops_per_second")}
            row["joules_per_1000_images"] = joules.get("joules_per_1000_images", {}).get(model)
            row["joules_missing"] = joules["why_not"]
        rows.append(row)
    for failure in session["failures"]:
        rows.append({**about, **{k: failure[k] for k in ("model", "kind", "batch_size", "status", "message")}})
    return rows


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile: the spread of raw samples, not an interval for the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, middle, high


def finite(value: float) -> float | None:
    """None for nan, which is an empty cell."""
    return value if math.isfinite(value) else None
