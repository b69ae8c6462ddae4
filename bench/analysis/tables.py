"""Comparisons from stores, without torch. Example: compare([Store(Path("results/local"))])[0].rows[0].values["flops"]

A comparison holds runs that differ in nothing but model and seed. Speeds are medians of one speed session and their
ratios are taken within its blocks; runs without a common session get no ratio rather than a doubtful one.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from bench.analysis.references import held_against, sentence
from bench.core.errors import UserError
from bench.core.files import inert
from bench.core.stats import Interval, mean_interval, ratio_interval, share_interval
from bench.data.provenance import content_words, overlap
from bench.plan.settings import words
from bench.plan.spec import Setting
from bench.present.session_table import inert_record, significant, why_ended
from bench.store.disk import (
    NOT_SHARED,
    REFERENCE,
    RESULT_COLUMNS,
    Store,
    comparability_key,
    quartiles,
    question,
    results,
    seconds_per_call,
    sessions_of,
    shared_device,
    speed_rows,
)
from bench.store.records import Record


@dataclass(frozen=True)
class Column:
    """One figure of a table, what the two figures around it are, and how it compares with the reference model."""

    key: str
    title: str
    unit: str
    show: Callable[[float], str]
    base: str  # the unit in which the figure is stored: of the CSV and JSON formats
    spread: tuple[str, str] = ("min", "max")  # over seeds; of speeds the quartiles of the samples, q1 and q3
    ratio: str = "cost"  # "" | "cost": of the figures | "train", "inference", "latency": within a session's blocks
    best: str = ""  # "high" | "low" | "": never called the best, for want of an interval

    @property
    def timed(self) -> bool:
        """Whether it comes from a speed session, and its ratio so with an interval."""
        return self.ratio in ("train", "inference", "latency")

    @property
    def ends(self) -> str:
        """What `low` and `high` of its figures are, in words."""
        return ENDS[self.spread]


QUARTILES, WITH_INTERVAL = ("q1", "q3"), ("low", "high")
ENDS = {WITH_INTERVAL: "95 % interval", QUARTILES: "quartiles", ("min", "max"): "extremes"}
# fmt: off
COLUMNS = (
    Column("accuracy", "test accuracy", "%", lambda v: f"{100 * v:.2f}", "share", WITH_INTERVAL, "", "high"),
    Column("train_seconds", "training", "s", significant, "s"),
    Column("train_images_per_second", "training", "images/s", significant, "images/s", QUARTILES, "train", "high"),
    Column("inference_images_per_second", "inference", "images/s", significant, "images/s", QUARTILES, "inference",
           "high"),
    Column("latency_ms", "latency of 1", "ms", significant, "ms", QUARTILES, "latency", "low"),
    Column("flops", "FLOPs", "M mult-adds", lambda v: f"{v / 1e6:,.1f}", "mult-adds", best="low"),
    Column("samples_seen", "samples seen", "thousands", lambda v: f"{v / 1e3:,.1f}", "samples"),
    Column("params", "parameters", "M", lambda v: f"{v / 1e6:,.3f}", "parameters", best="low"),
    Column("activations", "activations", "M", lambda v: f"{v / 1e6:,.2f}", "activations", best="low"),
    Column("peak_memory_bytes", "peak memory", "MB", lambda v: f"{v / 1e6:,.0f}", "bytes"),
)
# fmt: on


@dataclass(frozen=True)
class Row:
    """One model: its figures, and their ratios to the reference model's."""

    model: str
    family: str
    runs: int
    values: dict[str, Interval]
    ratios: dict[str, Interval] = field(default_factory=dict)
    marked: frozenset[str] = frozenset()  # keys of figures that must not be read without their note
    facts: dict[str, Any] = field(default_factory=dict)  # FACTS, for the CSV and JSON formats: audit, other units


@dataclass(frozen=True)
class Failure:
    """A run without figures, and why."""

    run_id: str
    model: str
    seed: int
    status: str
    message: str
    dataset: str = ""


# What all rows of a comparison share.
ABOUT = (
    *("dataset", "content", "train_images", "test_images", "recipe", "track", "epochs", "budget", "batch_size"),
    *("precision", "setting", "device_name", "threads", "torch"),
)
FACTS = ("flops_2x", "train_flops_2x", "flops_audit")


@dataclass(frozen=True)
class Comparison:
    """Runs under equal conditions, best accuracy first."""

    title: str
    about: dict[str, Any]  # ABOUT; empty where nothing finished
    run_ids: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    asks: str = ""  # the same for comparisons that differ in nothing but the number of training images


@dataclass(frozen=True)
class Loaded:
    """What stores hold, read once, every text in it inert; `damaged` names what cannot be believed."""

    runs: list[Record]
    sessions: list[Record]
    damaged: list[str]


def frame(stores: list[Store]) -> pd.DataFrame:
    """Every run as a row with results.csv's columns; from the records, because pandas would read a model NA as nan."""
    found = load(stores)
    return pd.DataFrame(results(found.runs, found.sessions), columns=list(RESULT_COLUMNS))


def history_frame(stores: list[Store]) -> pd.DataFrame:
    """One row an epoch: run_id, model, dataset, seed and the columns of a run's history.csv."""
    return history_of(load(stores))


def history_of(found: Loaded) -> pd.DataFrame:
    """`history_frame` of stores that were read already."""
    rows = []
    for run in found.runs:
        spec = run["spec"]
        about = {"run_id": run["run_id"], "model": spec["model"], "dataset": spec["data"]["name"], "seed": spec["seed"]}
        hidden = dict.fromkeys(NOT_SHARED, None) if shared_device(run) else {}
        rows += [
            {**about, **epoch, **{k: v for k, v in hidden.items() if k in epoch}} for epoch in run.get("history", [])
        ]
    return pd.DataFrame(rows)


def load(stores: list[Store]) -> Loaded:
    """Every run and session of these stores, each once, in the order in which they were started."""
    runs: dict[str, Record] = {}
    damaged: list[str] = []
    every = [inert_record(r) for store in stores for r in store.runs(damaged)]
    for run in sorted(every, key=lambda r: (r["started"], r["run_id"])):
        # The same run in two stores is one run: the newest that went well, and a failure only where none did.
        if run["status"] == "ok" or runs.get(run["run_id"], run)["status"] != "ok":
            runs[run["run_id"]] = run
    sessions = {s["id"]: inert_record(s) for store in stores for s in store.sessions(damaged)}
    return Loaded(list(runs.values()), sorted(sessions.values(), key=lambda s: (s["started"], s["id"])), damaged)


def _conditions(run: Record) -> str:
    """Everything that must be equal within a comparison, as one string to group by."""
    spec, environment = run["spec"], run.get("environment", {})
    return json.dumps([question(spec), comparability_key(spec, environment)], sort_keys=True)


def compare(stores: list[Store], reference: str = REFERENCE, by_device: bool = True) -> list[Comparison]:
    """One comparison for each set of equal conditions, in the order in which they were first run.

    Raises UserError, unless `by_device`, where the same data and recipe were measured under different comparability
    keys, and says which part differs: their speeds must not be read off one page as if they were one measurement.
    """
    return compare_loaded(load(stores), reference, by_device)


def compare_loaded(found: Loaded, reference: str = REFERENCE, by_device: bool = True) -> list[Comparison]:
    """`compare` for stores that were read already."""
    runs, sessions, damaged = found.runs, found.sessions, found.damaged
    groups: dict[str, list[Record]] = {}
    for run in runs:
        if run["status"] == "ok":
            groups.setdefault(_conditions(run), []).append(run)
    if not by_device:
        _refuse_mixed_keys([group[0] for group in groups.values()])
    comparisons = [_comparison(group, sessions, reference) for group in groups.values()]
    names = [f"{c.about['dataset']} {c.about['content']}" for c in comparisons]
    comparisons = [
        replace(c, notes=(*c.notes, *overlap(name, names))) for c, name in zip(comparisons, names, strict=True)
    ]
    failed = [r for r in runs if r["status"] != "ok"]
    for index, comparison in enumerate(comparisons):
        plan = list(groups.values())[index][0]["spec"]
        mine = [r for r in failed if same_plan(r["spec"], plan)]
        failed = [r for r in failed if r not in mine]
        comparisons[index] = replace(comparison, failures=_failures(mine))
    if failed:
        comparisons.append(Comparison("runs that did not finish", {}, (), (), _failures(failed), ()))
    if damaged:
        notes = tuple(f"left out: {inert(line)}" for line in damaged)
        comparisons.append(Comparison("records that cannot be believed (run_bench.py check)", {}, (), (), (), notes))
    return comparisons


def _refuse_mixed_keys(firsts: list[Record]) -> None:
    """Raise UserError where two groups ask the same question under different comparability keys."""
    questions: dict[str, list[Record]] = {}
    for run in firsts:
        asked = question(run["spec"])
        recipe = {k: v for k, v in asked["recipe"].items() if k not in ("precision", "batch_size")}
        words = [asked["data"], recipe, run["spec"]["setting"]["name"]]
        questions.setdefault(json.dumps(words, sort_keys=True), []).append(run)
    for group in questions.values():  # settings are reported side by side, a table each
        keys = [comparability_key(run["spec"], run["environment"]) for run in group]
        different = [part for part in keys[0] if len({json.dumps(key[part]) for key in keys}) > 1]
        if different:
            parts = "; ".join(f"{part}: {' or '.join(_distinct(key[part] for key in keys))}" for part in different)
            data, recipe = group[0]["spec"]["data"]["name"], group[0]["spec"]["recipe"]["name"]
            raise UserError(
                f"{data} under recipe {recipe} was measured under conditions that must not share a table ({parts}); "
                "--by-device makes one table for each"
            )


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def same_plan(a: Record, b: Record) -> bool:
    """Whether two runs' specs are of one comparison: all but model, seed, and in a track the recipe."""
    same = all(a[k] == b[k] for k in ("device", "device_name", "deterministic")) and question(a) == question(b)
    return same and a["setting"]["name"] == b["setting"]["name"]


def _failures(runs: list[Record]) -> tuple[Failure, ...]:
    specs = [run["spec"] for run in runs]
    return tuple(
        Failure(r["run_id"], s["model"], s["seed"], r["status"], r.get("message", ""), s["data"]["name"])
        for r, s in zip(runs, specs, strict=True)
    )


def _comparison(runs: list[Record], sessions: list[Record], reference: str) -> Comparison:
    by_model: dict[str, list[Record]] = {}
    for run in runs:
        by_model.setdefault(run["spec"]["model"], []).append(run)
    by_model = {model: like_the_newest(group) for model, group in by_model.items()}
    ids, older = tuple(run["run_id"] for run in runs), len(runs)
    runs = [run for group in by_model.values() for run in group]
    older -= len(runs)
    session = _common_session(by_model, sessions)
    timed = _by_model(session)
    rows = [_row(model, group, timed.get(model)) for model, group in by_model.items()]
    rows.sort(key=lambda row: (-row.values["accuracy"].value, row.model))
    base = next((row for row in rows if row.model == reference), None)
    if base is not None:
        rows = [replace(r, ratios=_ratios(r, base, timed)) for r in rows]
    first, spec = runs[0], runs[0]["spec"]
    about = {
        "dataset": spec["data"]["name"],
        "content": content_words(spec["data"]["name"], first.get("provenance")),
        "train_images": first["metrics"]["train_images"],
        "test_images": first["metrics"]["test_images"],
        "recipe": "each family's own" if spec["recipe"]["track"] == "family" else spec["recipe"]["name"],
        "track": spec["recipe"]["track"],
        "epochs": spec["recipe"]["epochs"] or None,
        "budget": spec["recipe"]["budget"] or f"{spec['recipe']['epochs']} epochs",
        "batch_size": spec["recipe"]["batch_size"],
        "precision": spec["recipe"]["precision"],
        "setting": spec["setting"]["name"],
        "device_name": spec["device_name"],
        "threads": comparability_key(spec, first["environment"])["threads"],
        "torch": first["environment"]["torch"],
    }
    notes = _notes(runs, rows, base, session, reference)
    if older:
        notes.append(f"{older} run(s) left out: their model's file, or its recipe in this track, was changed since.")
    asked = question(spec)
    asked["data"] = {k: v for k, v in asked["data"].items() if k not in ("split_hash", "train_fraction")}
    asks = json.dumps([asked, comparability_key(spec, first["environment"])], sort_keys=True)
    return Comparison(_title(about), about, ids, tuple(rows), (), tuple(notes), asks)


def like_the_newest(runs: list[Record]) -> list[Record]:
    """Those of one model's runs that are of its newest code and recipe.

    A factory's file that was edited is another model under the same name; and in a track a new search, or an edited
    recipe, makes other runs of a model that is still asked the same question.
    """
    newest = max(runs, key=lambda run: str(run["started"]))["spec"]
    return [r for r in runs if all(r["spec"][k] == newest[k] for k in ("model_source", "recipe"))]


def _common_session(by_model: dict[str, list[Record]], sessions: list[Record]) -> Record | None:
    """The session that timed most of these models together, the newest of equals."""
    votes = Counter(s["id"] for group in by_model.values() for s in sessions_of(group[-1], sessions))
    ranked = sorted((s for s in sessions if s["id"] in votes), key=lambda s: (votes[s["id"]], s["started"]))
    return ranked[-1] if ranked else None


def _by_model(session: Record | None) -> dict[str, Record]:
    """The session for each of its models, with that model's samples alone; empty without a session.

    Looking through all samples for every figure would take time that grows with the square of the models.
    """
    samples: dict[str, list[Record]] = {}
    for sample in session["samples"] if session is not None else []:
        samples.setdefault(sample["model"], []).append(sample)
    return {model: {**(session or {}), "samples": own} for model, own in samples.items()}


def _title(about: dict[str, Any]) -> str:
    threads = f", {about['threads']} threads" if about["threads"] else ""
    setting = "" if about["setting"] == "eager" else f" · {about['setting']}"
    track = f"track {about['track']}, " if about["track"] else ""
    content = f"{about['content']}; " if about["content"] else ""
    return (
        f"{about['dataset']} ({content}{about['train_images']:,} training and {about['test_images']:,} test images) · "
        f"{track}recipe {about['recipe']}, {about['budget']}, batch {about['batch_size']}, {about['precision']} · "
        f"{about['device_name']}{threads}, torch {about['torch']}{setting}"
    )


def _row(model: str, runs: list[Record], session: Record | None) -> Row:
    values: dict[str, Interval] = {}
    accuracies = [r["metrics"]["accuracy"] for r in runs]
    if len(runs) == 1:
        values["accuracy"] = share_interval(accuracies[0], runs[0]["metrics"]["test_images"])
    else:
        values["accuracy"] = mean_interval(accuracies)
    # Under a budget in epochs every run sees as many samples, and the title says how many.
    budgeted = ("samples_seen",) if runs[0]["spec"]["recipe"]["budget"] else ()
    for key in ("train_seconds", *budgeted, "flops", "params", "activations", "peak_memory_bytes"):
        alone = [r for r in runs if key not in NOT_SHARED or not shared_device(r)]
        found = [r["metrics"][key] for r in alone if r["metrics"].get(key) is not None]
        if found:
            middle = statistics.median(found)
            values[key] = Interval(middle, min(found), max(found), len(found))
    if session is not None:
        batch = session["recipe"]["batch_size"]
        for kind, key in (("train", "train_images_per_second"), ("inference", "inference_images_per_second")):
            if seconds := seconds_per_call(session, model, kind):
                values[key] = _spread([batch / s for s in seconds])
        if seconds := seconds_per_call(session, model, "latency"):
            values["latency_ms"] = _spread([1000 * s for s in seconds])
    audits = {r["metrics"].get("flops_audit") for r in runs}
    facts = {k: runs[-1]["metrics"].get(k) for k in FACTS}
    marked = frozenset({"flops"} if audits & {"mismatch", "failed"} else ())
    return Row(model, runs[0]["family"], len(runs), values, {}, marked, facts)


def _spread(values: list[float]) -> Interval:
    low, middle, high = quartiles(values)
    return Interval(middle, low, high, len(values))


def _ratios(row: Row, base: Row, timed: dict[str, Record]) -> dict[str, Interval]:
    ratios = {}
    for column in COLUMNS:
        if column.key not in row.values or column.key not in base.values:
            continue
        mine, theirs = row.values[column.key], base.values[column.key]
        if column.ratio == "cost" and theirs.value:
            ratios[column.key] = Interval(mine.value / theirs.value, math.nan, math.nan, mine.n)
        elif column.timed:
            times = [seconds_per_call(timed[r.model], r.model, column.ratio) for r in (row, base)]
            # images/s: time of the reference over one's own; latency: one's own over the reference's
            ratios[column.key] = ratio_interval(*(times if column.ratio == "latency" else times[::-1]))
    return ratios


def _found_settings(runs: list[Record]) -> list[str]:
    return _distinct(f"{run['spec']['model']} {words(Setting(**run['spec']['setting']))}" for run in runs)


def _notes(runs: list[Record], rows: list[Row], base: Row | None, session: Record | None, reference: str) -> list[str]:
    notes = []
    if any(row.runs == 1 for row in rows):
        notes.append(
            "Accuracy of one run: the interval is Wilson's 95 % for other test images and leaves out what another seed "
            "would change."
        )
    if any(row.runs > 1 for row in rows):
        notes.append("Accuracy of several seeds: mean with a 95 % t-interval over seeds, on this test set.")
    if session is not None:
        notes.append(
            f"Speeds: medians of {session['blocks']} blocks in which the models took turns ({why_ended(session)}), on "
            "images already on the device; loading is not in them, and it is in the training seconds."
        )
        notes += [f"Speed session: {warning}." for warning in session["warnings"]]
    if base is not None:
        notes.append(
            f"× is the ratio to {reference}: above 1 is faster for images/s and more for all else"
            + (
                "; of speeds the geometric mean over the blocks, with its 95 % interval in the CSV and JSON formats."
                if session is not None
                else "."
            )
        )
    if session is not None and (apart := [row.model for row in rows if row.model not in session["models"]]):
        notes.append(f"No speed for {', '.join(apart)}: not timed in turns with the others; name all in one command.")
    if any("flops" in row.marked for row in rows):
        notes.append("† These FLOPs did not pass the audit against torch's own counter; another note says how.")
    if runs[0]["spec"]["setting"]["name"] == "tuned":
        notes.append(f"Settings found by the same search for each: {'; '.join(_found_settings(runs))}.")
    if runs[0]["spec"]["recipe"]["track"]:
        rates = _distinct(f"{run['spec']['model']} {run['spec']['recipe']['lr']:g}" for run in runs)
        notes.append(f"Learning rates found on validation, by as many trials for each: {', '.join(rates)}.")
    if together := [run for run in runs if shared_device(run)]:
        notes.append(
            f"{len(together)} of {len(runs)} runs shared the device with others (--runs-per-device): their seconds "
            "compare with nothing and are left out."
        )
    if base is None:
        notes.append(f"No ratios: {reference} is not among these models.")
    if runs[0]["spec"]["device"] == "cpu":
        notes.append(
            "Peak memory on a CPU is that of the whole process: Python, torch, the data and the evaluation included."
        )
    notes += _literature(runs, rows)
    return notes + list(dict.fromkeys(note for run in runs for note in run.get("notes", [])))


def _literature(runs: list[Record], rows: list[Row]) -> list[str]:
    """What was published for the same models and data after as many samples, and whether these runs reach it."""
    data = runs[0]["spec"]["data"]
    samples = {run["spec"]["model"]: run["metrics"]["samples_seen"] for run in runs}  # one recipe, so one number each
    held = [
        held_against(r.model, data["name"], samples[r.model], r.values["accuracy"], data["train_fraction"])
        for r in rows
    ]
    return [sentence(of_one) for of_one in held if of_one]


# --- what may be said of a figure ----------------------------------------------------------------------------------


def best_row(column: Column, rows: Sequence[Row]) -> str | None:
    """The model whose figure is the best of these rows' as far as its interval allows to say so; else None.

    Accuracies are judged by their own 95 % intervals, speeds and latencies by those of their ratios within blocks,
    counts by themselves. Seconds, samples and memory have no interval and no best. Nor has a column with a FLOP count
    that failed its audit, be it the least or not: the true one might be less.
    """
    rows = [row for row in rows if column.key in row.values]
    if not column.best or any(column.key in row.marked for row in rows):
        return None
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    judged = {r.model: r.ratios.get(column.key, nothing) if column.timed else r.values[column.key] for r in rows}
    return apart(judged, column.best == "high")


def apart(intervals: Mapping[str, Interval], high: bool) -> str | None:
    """Whose interval lies wholly above all others' (or below, if not `high`); None where none does or one is alone."""
    if len(intervals) < 2:
        return None
    first = (max if high else min)(intervals, key=lambda name: intervals[name].value)
    best, others = intervals[first], [interval for name, interval in intervals.items() if name != first]
    # with nan, which every comparison denies, nothing is apart
    alone = all(best.low > other.high if high else best.high < other.low for other in others)
    return first if alone else None


def why_missing(row: Row, column: Column, comparison: Comparison) -> str:
    """Why a model has no such figure, in a few words that may stand in its cell."""
    if column.timed:
        if any(other.timed and other.key in row.values for other in COLUMNS):
            return "its timing failed"
        together = any(column.key in other.values for other in comparison.rows)
        return "not timed in turns with the others" if together else "not timed"
    if column.key in NOT_SHARED and "train_seconds" not in row.values:
        return "runs shared the device"
    if column.key == "samples_seen":
        return "the same for all under a budget in epochs"
    return "not counted" if column.key in ("flops", "params", "activations") else "not measured"


def speed_frame(stores: list[Store]) -> pd.DataFrame:
    """Every row of speed.csv, from the records."""
    return pd.DataFrame([row for session in load(stores).sessions for row in speed_rows(session)])
