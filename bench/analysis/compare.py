"""Which of two models is better, on which budget, by how much, how sure? Example: pairs([Store(…)], ["a", "b"])

Reads stores, without torch: predictions for accuracy, speed sessions for speed, histories for the time to a target. A
pair is two models under equal conditions in one track; its figures are of A against B. Words come from verdicts.py.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.crossed import (
    Difference,
    images_needed,
    on_images_like_these,
    on_this_test_set,
    seeds_needed_for_images,
)
from bench.analysis.tables import Loaded, like_the_newest, load, same_plan
from bench.analysis.verdicts import ACROSS_TRACKS, Condition, claim, fails, points, verdict, what_would_help
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.core.stats import Interval, holm, kaplan_meier_median, mean_interval, ratio_interval, welch_ratio
from bench.data.provenance import content_words
from bench.plan.recipes import TRACKS
from bench.store.disk import (
    REFERENCE,
    Store,
    comparability_key,
    question,
    search_samples,
    seconds_per_call,
    sessions_of,
    shared_device,
)
from bench.store.records import Record

Right = npt.NDArray[np.bool_]
NONE = Interval(math.nan, math.nan, math.nan, 0)
TEST_ARRAYS = ("test_predicted", "test_label", "test_loss")
MARGIN = 0.005  # of accuracy, as a share: the seed's own "comparable"


@dataclass(frozen=True)
class Reached:
    """One model's runs and the target: `seconds` on the training clock, `samples`; of those that did not, the end's.

    Seconds are nan where runs shared their device.
    """

    seconds: tuple[float, ...]
    samples: tuple[int, ...]
    reached: tuple[bool, ...]
    diverged: int = 0  # runs beside these, which never will

    @property
    def all(self) -> bool:
        """Whether every run reached it."""
        return all(self.reached) and not self.diverged

    def mean(self, what: str) -> Interval:
        """Mean over seeds with a t-interval, of `seconds` or `samples`; none unless every run reached the target."""
        values = [float(value) for value in getattr(self, what)]
        if not self.all or any(map(math.isnan, values)):
            return NONE
        found = mean_interval(values)
        # All at the same look: between two looks they may differ, and that was not seen.
        return found if len(set(values)) > 1 else Interval(found.value, math.nan, math.nan, found.n)

    @property
    def share(self) -> str:
        """`2 of 3`."""
        return f"{sum(self.reached)} of {len(self.reached) + self.diverged}"


@dataclass(frozen=True)
class Side:
    """One model of a pair: its runs under these conditions, seed by seed."""

    model: str
    runs: tuple[Record, ...]
    right: Right  # (seeds, images): was the test image classified rightly
    flops: float | None  # multiply-adds of a forward pass
    train_flops: float | None  # forward and backward, two a multiply-add
    lr: tuple[float, ...]
    search_samples: int  # of all trials of the search for its learning rate; 0 where there was none
    search_trials: int
    search_edge: bool = False  # the rate is the last one tried on its side
    left_out: tuple[str, ...] = ()  # seeds without predictions, and why
    diverged: int = 0  # of those: they never reach a target


@dataclass(frozen=True)
class Pair:
    """A against B under one set of conditions. Ratios are A's figure over B's; of speeds, above 1 means A is faster."""

    about: dict[str, Any]
    a: Side
    b: Side
    like_these: Difference
    this_set: Difference
    p_like_these: float  # of all pairs compared under these conditions, by Holm
    p_this_set: float
    tests: int
    speed: Interval = NONE  # training images/s
    inference: Interval = NONE
    flops: Interval = NONE
    target: float | None = None
    named_before: bool = False  # the target, before the runs
    reached: tuple[Reached, Reached] | None = None
    time_to_target: Interval = NONE
    flops_to_target: Interval = NONE
    margin: float = MARGIN
    words: dict[str, str] = field(default_factory=dict)  # verdict, verdict_this_set, claim, help

    @property
    def track(self) -> str:
        """shared, family, or none."""
        return str(self.about["track"])

    @property
    def asks(self) -> str:
        """The same text for pairs that differ in nothing but the track, shared or family."""
        return json.dumps([self.conditions, self.a.model, self.b.model])

    @property
    def conditions(self) -> str:
        """The same text for pairs that differ in nothing but models and track."""
        run = self.a.runs[0]
        asked = question(run["spec"])
        if self.track:
            asked["recipe"] = {k: asked["recipe"][k] for k in ("budget", "epochs", "validations")}
        key = comparability_key(run["spec"], run["environment"])
        return json.dumps([bool(self.track), asked, key], sort_keys=True)


# --- from stores to pairs ------------------------------------------------------------------------------------------


def pairs(
    stores: list[Store], models: Sequence[str] = (), margin: float = MARGIN, target: float | None = None
) -> list[Pair]:
    """Every pair of `models` (none: of all; one: of it and all others) wherever both have runs under equal conditions.

    Raises UserError where a model has none, or no pair has any in common.
    """
    return pairs_loaded(load(stores), stores, models, margin, target)


def pairs_loaded(
    found: Loaded,
    stores: list[Store],
    models: Sequence[str] = (),
    margin: float = MARGIN,
    target: float | None = None,
) -> list[Pair]:
    """`pairs` for stores that were read already; predictions and searches are read here."""
    groups = by_conditions(found)
    known = {run["spec"]["model"] for runs in groups.values() for run in runs}
    for model in models:
        if model not in known:
            raise UserError(f"no finished runs of '{model}' here; there are {', '.join(sorted(known)) or 'none'}")
    made = []
    searches = [search for store in stores for search in store.searches()]
    for runs in groups.values():
        failed = [r for r in found.runs if r["status"] != "ok" and same_plan(r["spec"], runs[0]["spec"])]
        sides = {model: _with_search(side, searches) for model, side in sides_of(runs, failed, stores).items()}
        wanted = [(sides[a], sides[b]) for a, b in ordered(list(sides), models)]
        made += _family(wanted, runs, found, margin, target)
    if not made and any(ordered(sorted({run["spec"]["model"] for run in runs}), models) for runs in groups.values()):
        raise UserError("the predictions of these runs are missing or damaged, so that they cannot be compared")
    if not made:
        raise UserError("no two of these models have runs under equal conditions; run them in one command")
    return sorted(made, key=lambda pair: TRACKS.index(pair.track) if pair.track else -1)


def by_conditions(found: Loaded) -> dict[str, list[Record]]:
    """Finished runs by everything that must be equal between them; several of one seed: the newest."""
    groups: dict[str, dict[tuple[str, int], Record]] = {}
    for run in found.runs:
        if run["status"] == "ok":
            key = [question(run["spec"]), comparability_key(run["spec"], run["environment"])]
            group = groups.setdefault(json.dumps(key, sort_keys=True), {})
            group[run["spec"]["model"], run["spec"]["seed"]] = run
    return {key: list(group.values()) for key, group in groups.items()}


def ordered(there: list[str], models: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (A, B) of the models that are there, in the order in which they were named."""
    if len(models) == 1:
        return [(models[0], other) for other in sorted(there) if other != models[0] and models[0] in there]
    named = models or sorted(there, key=lambda model: (model != REFERENCE, model))
    return list(combinations([m for m in named if m in there], 2))


def sides_of(runs: list[Record], failed: list[Record], stores: list[Store]) -> dict[str, Side]:
    """Each model's runs with their predictions; of those without, and of the `failed`, it is kept that they were."""
    sides = {}
    for model in dict.fromkeys(run["spec"]["model"] for run in runs):
        mine = like_the_newest([r for r in runs if r["spec"]["model"] == model])
        mine.sort(key=lambda r: int(r["spec"]["seed"]))
        read = [(run, right) for run in mine if (right := predictions(run, stores)) is not None]
        if not read:
            continue
        first, recipe = read[0][0]["metrics"], mine[0]["spec"]["recipe"]
        kept, right = tuple(run for run, _ in read), np.stack([right for _, right in read])
        lost = {r["spec"]["seed"]: "its predictions are missing or damaged" for r in mine if r not in kept}
        others = [r for r in failed if r["spec"]["model"] == model and r["spec"]["recipe"] == recipe]
        lost |= {r["spec"]["seed"]: r["status"] for r in others}
        sides[model] = Side(
            model,
            kept,
            right,
            first.get("flops"),
            first.get("train_flops_2x"),
            lr=(float(recipe["lr"]),),
            search_samples=0,
            search_trials=0,
            left_out=tuple(f"seed {seed}: {why}" for seed, why in sorted(lost.items())),
            diverged=sum(r["status"] == "diverged" for r in others),
        )
    return sides


def predictions(run: Record, stores: list[Store]) -> Right | None:
    """Which test images a run got right; None where no store has predictions that fit."""
    found = read_predictions(run, stores)
    return None if found is None else np.asarray(found["test_predicted"] == found["test_label"])


def read_predictions(run: Record, stores: list[Store]) -> dict[str, npt.NDArray[Any]] | None:
    """TEST_ARRAYS of a run's predictions.npz, of as many test images as its record says; None where none fit.

    The predicted and the true classes are always there, losses only where they were written.
    """
    for store in stores:
        try:
            content = (store.root / "runs" / run["run_id"] / "predictions.npz").read_bytes()
            wanted = run["files"].get("predictions.npz")
            if wanted and sha256(content) != wanted:  # damaged, or of another attempt at this run
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as data:
                found = {name: np.asarray(data[name]) for name in data.files if name in TEST_ARRAYS}
            shapes = {found[name].shape for name in TEST_ARRAYS[:2]}
        except Exception:  # numpy, zipfile and zlib each have their own ways to say that a file is broken
            continue
        if shapes == {(run["metrics"]["test_images"],)}:
            return found
    return None


def _with_search(side: Side, searches: list[Record]) -> Side:
    """The side with what the search for its learning rate took."""
    spec = side.runs[0]["spec"]
    if not spec["recipe"]["track"]:
        return side
    own = {k: v for k, v in spec["recipe"].items() if k not in ("lr", "epochs", "budget", "validations")}
    for search in reversed(searches):
        other = search["spec"]
        same = all(other[k] == spec[k] for k in ("model", "model_source", "data", "setting", "device_name"))
        if same and search["chosen"] in side.lr and own == {k: other["recipe"][k] for k in own}:
            return replace(
                side,
                search_samples=search_samples(search),
                search_trials=len(search["trials"]),
                search_edge=search["edge"],
            )
    return side


def _family(
    sides: list[tuple[Side, Side]], runs: list[Record], found: Loaded, margin: float, target: float | None
) -> list[Pair]:
    """Pairs under one set of conditions: their p values are adjusted for one another."""
    like = [on_images_like_these(a.right, b.right) for a, b in sides]
    this = [on_this_test_set(a.right, b.right) for a, b in sides]
    tested = [math.nan if d.of_runs else d.p for d in like]
    p_like, p_this = holm(tested), holm([d.p for d in this])
    made = []
    for index, (a, b) in enumerate(sides):
        aim, before = _target(a, b, target)
        reached = None if aim is None else (reach(a.runs, aim, a.diverged), reach(b.runs, aim, b.diverged))
        pair = Pair(
            about=conditions_of(runs[0]),
            a=a,
            b=b,
            like_these=like[index],
            this_set=this[index],
            p_like_these=p_like[index],
            p_this_set=p_this[index],
            tests=sum(not math.isnan(p) for p in tested),
            speed=session_ratio(a, b, "train", found.sessions),
            inference=session_ratio(a, b, "inference", found.sessions),
            flops=_exact(a.flops, b.flops),
            target=aim,
            named_before=before,
            reached=reached,
            time_to_target=_ratio_to_target(reached, "seconds"),
            flops_to_target=_scaled(_ratio_to_target(reached, "samples"), a.train_flops, b.train_flops),
            margin=margin,
        )
        made.append(replace(pair, words=words_of(pair)))
    return made


def conditions_of(run: Record) -> dict[str, Any]:
    """What a pair's runs have in common, for a title and the CSV file."""
    spec, metrics, environment = run["spec"], run["metrics"], run["environment"]
    recipe = spec["recipe"]
    return {
        "dataset": spec["data"]["name"],
        "content": content_words(spec["data"]["name"], run.get("provenance")),
        "image_size": spec["data"]["image_size"],
        "train_images": metrics["train_images"],
        "test_images": metrics["test_images"],
        "track": recipe["track"],
        "recipe": "each family's own" if recipe["track"] == "family" else recipe["name"],
        "budget": recipe["budget"] or f"{recipe['epochs']} epochs",
        "validations": len(run["history"]),
        "batch_size": recipe["batch_size"],
        "precision": recipe["precision"],
        "setting": spec["setting"]["name"],
        "deterministic": spec["deterministic"],
        "device_name": spec["device_name"],
        "threads": comparability_key(spec, environment)["threads"],
        "torch": environment["torch"],
    }


def _exact(a: float | None, b: float | None) -> Interval:
    """The ratio of two counts, which have no spread."""
    return Interval(a / b, a / b, a / b, 1) if a and b else NONE


def session_ratio(a: Side, b: Side, kind: str, sessions: list[Record]) -> Interval:
    """A's images/s over B's within the blocks of the newest session that timed both as they were run."""
    both = [s for s in sessions_of(a.runs[-1], sessions) if s in sessions_of(b.runs[-1], sessions)]
    for session in reversed(both):
        times = [seconds_per_call(session, side.model, kind) for side in (b, a)]
        if times[0] and len(times[0]) == len(times[1]):
            return ratio_interval(*times)
    return NONE


def turned(pair: Pair) -> Pair:
    """The same pair with B for A: differences change their sign, ratios become their inverse, words follow."""
    other = replace(
        pair,
        a=pair.b,
        b=pair.a,
        like_these=_negative(pair.like_these),
        this_set=_negative(pair.this_set),
        speed=_inverse(pair.speed),
        inference=_inverse(pair.inference),
        flops=_inverse(pair.flops),
        reached=pair.reached and (pair.reached[1], pair.reached[0]),
        time_to_target=_inverse(pair.time_to_target),
        flops_to_target=_inverse(pair.flops_to_target),
    )
    words = {
        "verdict": verdict(other.like_these, other.p_like_these, other.margin),
        "verdict_this_set": verdict(other.this_set, other.p_this_set, other.margin),
        "claim": claim(other.like_these, other.speed, other.margin),
        "help": pair.words["help"],  # it speaks of sizes alone
    }
    return replace(other, words=words)


def _negative(d: Difference) -> Difference:
    return d._replace(value=-d.value, low=-d.high, high=-d.low, seeds_a=d.seeds_b, seeds_b=d.seeds_a)


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.n) if ratio.n else ratio


# --- time to a target ----------------------------------------------------------------------------------------------


def _target(a: Side, b: Side, asked: float | None) -> tuple[float | None, bool]:
    """(the target, whether all runs were begun with it named): the one asked for, else the runs' own if it is one."""
    own = {run.get("target") for side in (a, b) for run in side.runs}
    if asked is None:
        only = own.pop() if len(own) == 1 else None
        return only, only is not None
    return asked, own == {asked}


def reach(runs: Sequence[Record], target: float, diverged: int = 0) -> Reached:
    """When each run first stood at the target or above, on validation; for those that never did, when they ended."""
    seconds, samples, reached = list[float](), list[int](), list[bool]()
    for run in runs:
        there = [epoch for epoch in run["history"] if epoch["val_accuracy"] >= target]
        row = there[0] if there else run["history"][-1]
        seconds.append(math.nan if shared_device(run) else float(row["train_seconds"]))
        samples.append(int(row["samples_seen"]))
        reached.append(bool(there))
    return Reached(tuple(seconds), tuple(samples), tuple(reached), diverged)


def _ratio_to_target(reached: tuple[Reached, Reached] | None, what: str) -> Interval:
    """A's over B's with Welch's interval on logarithms; none where a run was censored, or seconds mean nothing."""
    if reached is None or not all(side.all for side in reached):
        return NONE
    values: list[tuple[float, ...]] = [getattr(side, what) for side in reached]
    if any(math.isnan(v) or v <= 0 for side in values for v in side):
        return NONE
    return welch_ratio(*values)


def _scaled(ratio: Interval, a: float | None, b: float | None) -> Interval:
    """A ratio of samples as one of training FLOPs."""
    if not a or not b:
        return NONE
    return Interval(ratio.value * a / b, ratio.low * a / b, ratio.high * a / b, ratio.n)


def median_seconds(side: Reached) -> float | None:
    """Kaplan and Meier's median of the seconds to the target; None where too few reached it, or shared their device."""
    if any(map(math.isnan, side.seconds)):
        return None
    never = side.diverged
    return kaplan_meier_median([*side.seconds, *[math.inf] * never], [*side.reached, *[False] * never])


# --- words ---------------------------------------------------------------------------------------------------------


def words_of(pair: Pair) -> dict[str, str]:
    """The verdicts on both questions, the claim, and what would change the answer."""
    word = verdict(pair.like_these, pair.p_like_these, pair.margin)
    return {
        "verdict": word,
        "verdict_this_set": verdict(pair.this_set, pair.p_this_set, pair.margin),
        "claim": claim(pair.like_these, pair.speed, pair.margin),
        "help": what_would_change(pair, word),
    }


def what_would_change(pair: Pair, word: str) -> str:
    """One sentence on what would change the answer."""
    if word != "no verdict":
        low, high = pair.like_these.low, pair.like_these.high
        if word == "equivalent":
            return f"A margin below {points(max(abs(low), abs(high)))}, another recipe, budget or data set."
        return f"Another recipe, budget or data set; the interval ends {points(min(abs(low), abs(high)))} from 0."
    if pair.like_these.of_runs:
        return what_would_help(pair.like_these, pair.margin, None, None)
    seeds = seeds_needed_for_images(pair.a.right, pair.b.right, pair.margin)
    images = None if seeds is not None else images_needed(pair.a.right, pair.b.right, pair.margin)
    return what_would_help(pair.like_these, pair.margin, seeds, images)


def across_tracks(made: list[Pair]) -> list[tuple[Pair, Pair, str]]:
    """(shared, family, word) for every two pairs that ask the same in both tracks."""
    families: dict[str, list[Pair]] = {}
    for pair in made:
        if pair.track == "family":
            families.setdefault(pair.asks, []).append(pair)
    return [
        (one, other, ACROSS_TRACKS[one.words["verdict"], other.words["verdict"]])
        for one in made
        if one.track == "shared"
        for other in families.get(one.asks, [])
    ]


def failing(made: list[Pair], condition: Condition) -> list[Pair]:
    """Pairs of which the whole interval meets the condition."""
    return [pair for pair in made if fails(condition, _interval(pair, condition.metric))]


def untested(made: list[Pair], condition: Condition) -> list[Pair]:
    """Pairs of which there is no interval to hold against the condition."""
    return [pair for pair in made if math.isnan(_interval(pair, condition.metric).low)]


def _interval(pair: Pair, metric: str) -> Interval:
    if metric == "accuracy":
        d = pair.like_these
        if d.of_runs:  # of these two runs alone
            return NONE
        return Interval(100 * d.value, 100 * d.low, 100 * d.high, d.images)
    found: Interval = {"speed": pair.speed, "time_to_target": pair.time_to_target, "flops": pair.flops}[metric]
    return found
