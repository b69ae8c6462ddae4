"""Comparisons of finished runs. Example: compare([store])[0].rows[0].values["flops"]

A comparison holds runs that differ only in model and seed. Speeds are medians of one speed session and their ratios
are taken within its blocks; runs without a common session get no ratio rather than a doubtful one.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from bench.analysis.conditions import Conditions, as_text, differing, group_of, in_words, same_plan, told_apart
from bench.analysis.equal_accuracy import equal_accuracy
from bench.analysis.equal_accuracy import sentence as sentence_of
from bench.analysis.references import held_against, sentence
from bench.analysis.sessions import about_limit, about_starts, why_ended
from bench.core.errors import UserError
from bench.core.files import inert
from bench.core.stats import Interval, mean_interval, ratio_over_starts, share_interval
from bench.core.text import plural, significant
from bench.data.provenance import overlap
from bench.plan.keys import REFERENCE, Fact, question, speed_key
from bench.plan.settings import words
from bench.store.disk import Store
from bench.store.records import FailedRun, FinishedRun, RunRecord, Session, finished, inert_copy, shown_names
from bench.store.seconds import with_seconds
from bench.store.views import NOT_SHARED, quartiles, sessions_of


@dataclass(frozen=True)
class Column:
    """One figure of a table, what its two ends are, and how it compares with the reference model's."""

    key: str
    title: str
    unit: str
    show: Callable[[float], str]
    base: str  # the unit in which the figure is stored: of the CSV and JSON formats
    spread: tuple[str, str] = ("min", "max")  # over seeds; of speeds the quartiles of the samples, q1 and q3
    ratio: str = "cost"  # "" | "cost": of the figures | "train", "inference", "latency": within a session's blocks
    best: str = ""  # "high" | "low" | "": never marked as the best, because it has no interval

    @property
    def timed(self) -> bool:
        """Whether it comes from a speed session, so that its ratio has an interval."""
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
    facts: dict[str, Fact] = field(default_factory=dict)  # FACTS, for the CSV and JSON formats: audit, other units


@dataclass(frozen=True)
class Failure:
    """A run without figures, and why."""

    run_id: str
    model: str
    seed: int
    status: str
    message: str
    dataset: str = ""


# The conditions that the CSV and JSON formats carry.
ABOUT = (
    *("dataset", "content", "train_images", "test_images", "recipe", "track", "epochs", "budget", "batch_size"),
    *("precision", "setting", "device_name", "threads", "torch", "apart"),
)
FACTS = ("flops_2x", "train_flops_2x", "flops_audit")


@dataclass(frozen=True)
class Comparison:
    """Runs under equal conditions, best accuracy first."""

    title: str
    conditions: Conditions | None  # None where nothing finished
    run_ids: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    question: str = ""  # equal for comparisons that differ only in the number of training images
    session: Session | None = None  # where the speeds come from
    reference: str | None = None  # the model that ratios refer to; None: no ratios
    differs: tuple[str, ...] = ()  # what tells it from the others beside it, in words


@dataclass(frozen=True)
class Loaded:
    """What stores hold, read once, with every text in it inert; `damaged` names the records that are left out."""

    runs: list[RunRecord]
    sessions: list[Session]
    damaged: list[str]
    names: Mapping[str, str] = field(default_factory=dict)  # how each text of the stores stands in here

    def shown(self, name: str | None) -> str | None:
        """How a name that a user gave, as the stores have it or as it is shown, stands in here."""
        return None if name is None else self.names.get(name, name)


def load(stores: list[Store]) -> Loaded:
    """Every run and session of these stores, each once, in the order in which they were started."""
    runs: dict[str, RunRecord] = {}
    damaged: list[str] = []
    every = [run for store in stores for run in store.runs(damaged)]
    timed = {session.id: session for store in stores for session in store.sessions(damaged)}
    names = shown_names([*every, *timed.values()])
    for run in sorted((inert_copy(run, names) for run in every), key=lambda r: (r.started, r.run_id)):
        # The same run in two stores is one run: the newest that finished, and a failure only where none did.
        if isinstance(run, FinishedRun) or not isinstance(runs.get(run.run_id), FinishedRun):
            runs[run.run_id] = run
    sessions = sorted((inert_copy(s, names) for s in timed.values()), key=lambda s: (s.started, s.id))
    return Loaded(with_seconds(list(runs.values())), sessions, damaged, names)


def compare(stores: list[Store], reference: str | None = None, by_device: bool = True) -> list[Comparison]:
    """One comparison for each set of equal conditions, in the order in which they were first run.

    `reference` is the model that ratios refer to: by default seresnet where it takes part, else the first one run.
    Raises UserError, unless `by_device`, where the same data and recipe were measured under different comparability
    keys, and says which part differs: their speeds must not be read as if they were one measurement.
    """
    return compare_loaded(load(stores), reference, by_device)


def compare_loaded(loaded: Loaded, reference: str | None = None, by_device: bool = True) -> list[Comparison]:
    """`compare` for stores that were read already."""
    reference = loaded.shown(reference)
    groups: dict[str, list[FinishedRun]] = {}
    for run in finished(loaded.runs):
        groups.setdefault(group_of(run), []).append(run)
    if not by_device:
        _refuse_mixed_keys([group[0] for group in groups.values()])
    failed = [run for run in loaded.runs if isinstance(run, FailedRun)]
    comparisons = []
    every = told_apart([group[-1] for group in groups.values()])
    differs = differing(list(map(in_words, every)))
    for group, conditions, own_words in zip(groups.values(), every, differs, strict=True):
        own = [run for run in failed if same_plan(run.spec, group[0].spec)]
        failed = [run for run in failed if run not in own]
        made = _comparison(group, conditions, own_words, loaded.sessions, reference)
        comparisons.append(replace(made, failures=_failures(own)))
    titles = [c.conditions.data_title for c in comparisons if c.conditions]
    comparisons = [
        replace(c, notes=(*c.notes, *overlap(title, titles))) for c, title in zip(comparisons, titles, strict=True)
    ]
    if failed:
        comparisons.append(Comparison("runs that did not finish", None, (), (), _failures(failed), ()))
    if loaded.damaged:
        notes = tuple(f"left out: {inert(line)}" for line in loaded.damaged)
        comparisons.append(Comparison("damaged records (run_bench.py check)", None, (), (), (), notes))
    return comparisons


def _refuse_mixed_keys(firsts: list[FinishedRun]) -> None:
    """Raise UserError where two groups ask the same question under different comparability keys."""
    questions: dict[str, list[FinishedRun]] = {}
    for run in firsts:
        asked = question(run.spec)
        recipe = {k: v for k, v in asked["recipe"].items() if k not in ("precision", "batch_size")}
        # settings are reported side by side, in one table each
        questions.setdefault(as_text(asked["data"], recipe, run.spec.setting.name), []).append(run)
    for group in questions.values():
        keys = [asdict(speed_key(run.spec, run.environment)) for run in group]
        different = [part for part in keys[0] if len({json.dumps(key[part]) for key in keys}) > 1]
        if different:
            parts = "; ".join(f"{part}: {' or '.join(_distinct(key[part] for key in keys))}" for part in different)
            data, recipe_name = group[0].spec.data.name, group[0].spec.recipe.name
            raise UserError(
                f"{data} under recipe {recipe_name} was measured under conditions that must not share a table "
                f"({parts}); --by-device makes one table for each"
            )


def _distinct(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def _failures(runs: list[FailedRun]) -> tuple[Failure, ...]:
    return tuple(Failure(r.run_id, r.spec.model, r.spec.seed, r.status, r.message, r.spec.data.name) for r in runs)


def _comparison(
    runs: list[FinishedRun],
    conditions: Conditions,
    differs: tuple[str, ...],
    sessions: list[Session],
    reference: str | None,
) -> Comparison:
    by_model: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_model.setdefault(run.spec.model, []).append(run)
    by_model = {model: like_the_newest(group) for model, group in by_model.items()}
    current = [run for group in by_model.values() for run in group]
    if reference is None:
        reference = REFERENCE if REFERENCE in by_model or len(by_model) == 1 else next(iter(by_model))
    session = _common_session(by_model, sessions)
    timed = _by_model(session)
    rows = [_row(model, group, timed.get(model)) for model, group in by_model.items()]
    rows.sort(key=lambda row: (-row.values["accuracy"].value, row.model))
    base = next((row for row in rows if row.model == reference), None)
    if base is not None:
        rows = [replace(r, ratios=_ratios(r, base, timed)) for r in rows]
    notes = _notes(current, rows, session, reference)
    if older := len(runs) - len(current):
        notes.append(
            f"{plural(older, 'run')} left out: the model's file, or its recipe in this track, has changed since."
        )
    return Comparison(
        title=_title(conditions, differs),
        differs=differs,
        conditions=conditions,
        run_ids=tuple(run.run_id for run in runs),
        rows=tuple(rows),
        failures=(),
        notes=tuple(notes),
        question=_question(current[0]),
        session=session,
        reference=base.model if base is not None else None,
    )


def _question(run: FinishedRun) -> str:
    asked = question(run.spec)
    asked["data"] = {k: v for k, v in asked["data"].items() if k not in ("split_hash", "train_fraction")}
    return as_text(asked, asdict(speed_key(run.spec, run.environment)))


def like_the_newest(runs: list[FinishedRun]) -> list[FinishedRun]:
    """Those of one model's runs that have its newest code and recipe.

    A factory's file that was edited is another model under the same name; and in a track a new search, or an edited
    recipe, makes other runs of a model that is still asked the same question.
    """
    newest = max(runs, key=lambda run: run.started).spec
    return [r for r in runs if (r.spec.model_source, r.spec.recipe) == (newest.model_source, newest.recipe)]


def _common_session(by_model: dict[str, list[FinishedRun]], sessions: list[Session]) -> Session | None:
    """The session that timed most of these models together; of several the newest."""
    votes = Counter(s.id for group in by_model.values() for s in sessions_of(group[-1], sessions))
    ranked = sorted((s for s in sessions if s.id in votes), key=lambda s: (votes[s.id], s.started))
    return ranked[-1] if ranked else None


Seconds = dict[str, list[list[float]]]  # of one model: by kind and process start, seconds per call of each block


def _by_model(session: Session | None) -> dict[str, Seconds]:
    """Raw samples by model and kind, in one pass: a search for each figure takes time quadratic in the models."""
    if session is None:
        return {}
    sizes = {"train": session.recipe.batch_size, "inference": session.recipe.batch_size, "latency": 1}
    seconds: dict[str, Seconds] = {}
    for sample in sorted(session.samples, key=lambda s: s.block):
        if sizes.get(sample.kind) == sample.batch_size:
            starts = seconds.setdefault(sample.model, {}).setdefault(sample.kind, [[] for _ in range(session.starts)])
            starts[sample.start].append(sample.seconds_per_call)
    return seconds


def _title(c: Conditions, differs: Sequence[str]) -> str:
    """The conditions in one line; those that nearly all share are left out unless they tell it from others."""
    words = in_words(c)
    threads = f", {plural(c.threads, 'thread')}" if c.threads else ""
    setting = "" if words["setting"] == "eager" and "eager" not in differs else f" · {words['setting']}"
    size = f" of {words['size']}" if words["size"] in differs else ""
    track = f"track {c.track}, " if c.track else ""
    content = f"{c.content}; " if c.content else ""
    return (
        f"{c.dataset} ({content}{c.train_images:,} training and {c.test_images:,} test images{size}) · "
        f"{track}recipe {c.recipe}, {c.budget_words}, batch {c.batch_size}, {c.precision} · "
        f"{c.device_name}{threads}, torch {c.torch}{setting}{f' · {c.apart}' if c.apart else ''}"
    )


def _row(model: str, runs: list[FinishedRun], timed: Seconds | None) -> Row:
    values: dict[str, Interval] = {}
    accuracies = [run.metrics.accuracy for run in runs]
    if len(runs) == 1:
        values["accuracy"] = share_interval(accuracies[0], runs[0].metrics.test_images)
    else:
        values["accuracy"] = mean_interval(accuracies)
    # Under a budget in epochs every run sees as many samples, and the title says how many.
    budgeted = ("samples_seen",) if runs[0].spec.recipe.budget else ()
    for key in ("train_seconds", *budgeted, "flops", "params", "activations", "peak_memory_bytes"):
        valid = [run for run in runs if key not in NOT_SHARED or run.timed_alone]
        figures = [figure for run in valid if (figure := getattr(run.metrics, key)) is not None]
        if figures:
            middle = statistics.median(figures)
            values[key] = Interval(middle, min(figures), max(figures), len(figures))
    batch, seconds = runs[0].spec.recipe.batch_size, timed or {}
    for kind, key in (("train", "train_images_per_second"), ("inference", "inference_images_per_second")):
        if kind in seconds:
            values[key] = _spread([batch / s for start in seconds[kind] for s in start])
    if "latency" in seconds:
        values["latency_ms"] = _spread([1000 * s for start in seconds["latency"] for s in start])
    unsound = {run.metrics.flops_audit for run in runs} & {"mismatch", "failed"}
    facts = {name: getattr(runs[-1].metrics, name) for name in FACTS}
    return Row(model, runs[0].family, len(runs), values, {}, frozenset({"flops"} if unsound else ()), facts)


def _spread(values: list[float]) -> Interval:
    low, middle, high = quartiles(values)
    return Interval(middle, low, high, len(values))


def _ratios(row: Row, base: Row, timed: dict[str, Seconds]) -> dict[str, Interval]:
    ratios = {}
    for column in COLUMNS:
        if column.key not in row.values or column.key not in base.values:
            continue
        own, other = row.values[column.key], base.values[column.key]
        if column.ratio == "cost" and other.value:
            ratios[column.key] = Interval(own.value / other.value, math.nan, math.nan, own.n)
        elif column.timed:
            times = [timed[model][column.ratio] for model in (row.model, base.model)]
            # images/s: the reference's time over one's own; latency: one's own over the reference's
            ratios[column.key] = ratio_over_starts(*(times if column.ratio == "latency" else times[::-1]))
    return ratios


# --- notes -----------------------------------------------------------------------------------------------------------


def _notes(runs: list[FinishedRun], rows: list[Row], session: Session | None, reference: str) -> list[str]:
    notes = _accuracy_notes(rows)
    if session is not None:
        notes += [
            f"Speeds: medians of {plural(session.blocks, 'block')} in which the models took turns "
            f"({why_ended(session)}), on images already on the device: loading is in the training seconds only.",
            *filter(None, (about_starts(session), about_limit(session))),
            *(f"Speed session: {warning}." for warning in session.warnings),
        ]
    notes += _ratio_notes(rows, session, reference)
    notes += _equal_accuracy_notes(runs, reference)
    if any("flops" in row.marked for row in rows):
        notes.append("† These FLOPs did not pass the audit against torch's own counter; another note says how.")
    notes += _run_notes(runs)
    notes += _literature(runs, rows)
    return notes + list(dict.fromkeys(note for run in runs for note in run.notes))


def _accuracy_notes(rows: list[Row]) -> list[str]:
    notes = []
    if any(row.runs == 1 for row in rows):
        notes.append(
            "Accuracy of one run: Wilson's 95 % interval for other test images; it leaves out what another seed would "
            "change."
        )
    if any(row.runs > 1 for row in rows):
        notes.append("Accuracy of several seeds: mean with a 95 % t-interval over seeds, on this test set.")
    return notes


def _ratio_notes(rows: list[Row], session: Session | None, reference: str) -> list[str]:
    notes = []
    known = any(row.model == reference for row in rows)
    if known:
        speeds = " Ratios of speeds are geometric means over the blocks; CSV and JSON give their 95 % intervals."
        notes.append(
            f"× is the ratio to {reference}: above 1 is faster for images/s, and more for everything else."
            f"{speeds if session is not None else ''}"
        )
    if session is not None and (untimed := [row.model for row in rows if row.model not in session.models]):
        notes.append(
            f"No speed for {', '.join(untimed)}: not timed together with the others; name all models in one command."
        )
    if not known:
        notes.append(f"No ratios: {reference} is not among these models.")
    return notes


def _equal_accuracy_notes(runs: list[FinishedRun], reference: str) -> list[str]:
    """The reference against each other model: how long the better one took to the other's final accuracy."""
    by_model: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_model.setdefault(run.spec.model, []).append(run)
    own = by_model.pop(reference, None)
    if own is None or not by_model:
        return []
    first, *others = [sentence_of(equal_accuracy({reference: own, model: other})) for model, other in by_model.items()]
    meaning = (
        "the lower of two final validation accuracies; × is what the less accurate model took, over what the other did"
    )
    return [f"Equal accuracy ({meaning}): {first}.", *(f"Equal accuracy: {other}." for other in others)]


def _run_notes(runs: list[FinishedRun]) -> list[str]:
    notes, spec = [], runs[0].spec
    if spec.setting.name == "tuned":
        settings = _distinct(f"{run.spec.model} {words(run.spec.setting)}" for run in runs)
        notes.append(f"Settings, found by the same search for each model: {'; '.join(settings)}.")
    if spec.recipe.track:
        rates = _distinct(f"{run.spec.model} {run.spec.recipe.lr:g}" for run in runs)
        notes.append(f"Learning rates found on validation, with as many trials for each model: {', '.join(rates)}.")
    if shared := [run for run in runs if run.shared_device and not run.seconds_from]:
        notes.append(
            f"{len(shared)} of {plural(len(runs), 'run')} shared the device with others (--runs-per-device): their "
            "seconds are not comparable and are left out."
        )
    if together := [run for run in runs if run.seconds_from]:
        alone = _distinct(f"{run.spec.model} seed {run.spec.seed}" for run in runs if run.timed_alone)
        notes.append(
            f"{len(together)} of {plural(len(runs), 'run')} trained together with other seeds. Their seconds are those "
            f"of the run alone ({', '.join(alone) or 'not in these stores'}): its images/s times the images seen."
        )
    if spec.device == "cpu":
        notes.append(
            "Peak memory on a CPU is that of the whole process, including Python, torch, the data and the evaluation."
        )
    return notes


def _literature(runs: list[FinishedRun], rows: list[Row]) -> list[str]:
    """What was published for the same models and data after as many samples, and whether these runs reach it."""
    data = runs[0].spec.data
    samples = {run.spec.model: run.metrics.samples_seen for run in runs}  # one recipe, so the same for all seeds
    sentences = [
        sentence(held_against(r.model, data.name, samples[r.model], r.values["accuracy"], data.train_fraction))
        for r in rows
    ]
    return [text for text in sentences if text]


# --- the best figure, missing figures --------------------------------------------------------------------------------


def best_row(column: Column, rows: Sequence[Row]) -> str | None:
    """The model whose figure is the best of these rows, where its interval shows that; else None.

    Accuracies are judged by their own 95 % intervals, speeds and latencies by those of their ratios within blocks,
    counts by themselves. Seconds, samples and memory have no interval and so no best. Nor does a column in which a FLOP
    count failed its audit: the true count might be lower.
    """
    rows = [row for row in rows if column.key in row.values]
    if not column.best or any(column.key in row.marked for row in rows):
        return None
    none = Interval(math.nan, math.nan, math.nan, 0)
    intervals = {r.model: r.ratios.get(column.key, none) if column.timed else r.values[column.key] for r in rows}
    return apart(intervals, column.best == "high")


def apart(intervals: Mapping[str, Interval], high: bool) -> str | None:
    """The name whose interval lies wholly above all others (below, if not `high`); None where none does."""
    if len(intervals) < 2:
        return None
    first = (max if high else min)(intervals, key=lambda name: intervals[name].value)
    best, others = intervals[first], [interval for name, interval in intervals.items() if name != first]
    # comparisons with nan are false: then nothing is apart
    separate = all(best.low > other.high if high else best.high < other.low for other in others)
    return first if separate else None


def why_missing(row: Row, column: Column, comparison: Comparison) -> str:
    """Why a model lacks this figure, in a few words for its cell."""
    if column.timed:
        if any(other.timed and other.key in row.values for other in COLUMNS):
            return "its timing failed"
        together = any(column.key in other.values for other in comparison.rows)
        return "not timed together with the others" if together else "not timed"
    if column.key in NOT_SHARED and "train_seconds" not in row.values:
        return "runs shared the device"
    if column.key == "samples_seen":
        return "the same for all under a budget in epochs"
    return "not counted" if column.key in ("flops", "params", "activations") else "not measured"
