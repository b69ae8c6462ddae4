"""Which of two models is better, by how much, and how sure is that? Example: pairs([store], ["seresnet", "vit_tiny"])

Reads predictions for accuracy, speed sessions for speed and histories for the time to a target. A pair is two models
under equal conditions in one track; its figures are of A against B. The words come from verdicts.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.analysis.conditions import Conditions, as_text, conditions_of, group_of, same_plan, told_apart
from bench.analysis.crossed import (
    Difference,
    images_needed,
    on_images_like_these,
    on_this_test_set,
    seeds_needed_for_images,
)
from bench.analysis.equal_accuracy import EqualAccuracy, equal_accuracy
from bench.analysis.sessions import turns
from bench.analysis.stats import holm, median_time, welch_ratio
from bench.analysis.tables import Loaded, like_the_newest, load
from bench.analysis.verdicts import ACROSS_TRACKS, MOST_SEEDS, claim, points, verdict, what_would_help
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.core.stats import Interval, mean_interval
from bench.plan.budget import parse_budget
from bench.plan.keys import REFERENCE, question, speed_key
from bench.plan.recipes import TRACKS
from bench.store.disk import Store
from bench.store.lr_doubt import doubt
from bench.store.predictions import Arrays, read_arrays
from bench.store.records import FailedRun, FinishedRun, LRSearch, Session, finished, inert_copy
from bench.store.views import sessions_of

Right = npt.NDArray[np.bool_]
NONE = Interval(math.nan, math.nan, math.nan, 0)
TEST_ARRAYS = ("test_predicted", "test_label", "test_loss")
TRANSFORMERS = ("vit", "hybrid")  # families that the original project's claim is about
MARGIN = 0.005  # of accuracy, as a share: what the original project calls comparable
Clock = Literal["seconds", "samples"]


@dataclass(frozen=True)
class Reached:
    """When one model's finished runs reached the target, by the training clock; when they ended where they never did.

    Seconds are nan where runs shared their device. A finished run that missed the target never reaches it: it was
    trained to its planned end. Runs that were stopped before say nothing and are not here.
    """

    seconds: tuple[float, ...]
    samples: tuple[int, ...]
    reached: tuple[bool, ...]
    diverged: int = 0  # further runs, which never reach it

    @property
    def all(self) -> bool:
        """Whether every run reached it."""
        return all(self.reached) and not self.diverged

    @property
    def timed(self) -> bool:
        """Whether its seconds mean anything."""
        return not any(map(math.isnan, self.seconds))

    def times(self, clock: Sequence[float]) -> list[float]:
        """A clock's figures at the target, one per finished run; inf for those that never reached it."""
        return [time if there else math.inf for time, there in zip(clock, self.reached, strict=True)]

    def mean(self, clock: Clock) -> Interval:
        """Mean over seeds with a t-interval; none unless every run reached the target."""
        values = [float(value) for value in getattr(self, clock)]
        if not self.all or any(map(math.isnan, values)):
            return NONE
        mean = mean_interval(values)
        # All at the same validation: they may differ between two validations, and that was not seen.
        return mean if len(set(values)) > 1 else Interval(mean.value, math.nan, math.nan, mean.n)

    @property
    def share(self) -> str:
        """`2 of 3`."""
        return f"{sum(self.reached)} of {len(self.reached) + self.diverged}"


@dataclass(frozen=True)
class Side:
    """One model of a pair: its runs under these conditions, seed by seed."""

    model: str
    runs: tuple[FinishedRun, ...]
    right: Right  # (seeds, images): whether the test image was classified correctly
    flops: float | None  # multiply-adds of a forward pass
    train_flops: float | None  # forward and backward, two per multiply-add
    lr: tuple[float, ...]
    search_samples: float = 0  # of all trials of its learning-rate search; 0 where there was none
    search_trials: int = 0
    search_edge: bool = False  # the rate is the highest or the lowest one tried
    search_doubt: str = ""  # why the rate chosen may be luck
    left_out: tuple[str, ...] = ()  # seeds without predictions, and why
    diverged: int = 0  # how many of those diverged: they never reach a target


@dataclass(frozen=True)
class Pair:
    """A against B under one set of conditions. Ratios are A's figure over B's; of speeds, above 1 means A is faster."""

    conditions: Conditions
    a: Side
    b: Side
    like_these: Difference
    this_set: Difference
    p_like_these: float  # adjusted by Holm for all pairs compared under these conditions
    p_this_set: float
    tests: int
    speed: Interval = NONE  # training images/s
    inference: Interval = NONE
    by_batch: str = ""  # where the order of their training speeds turns with the batch size
    training_seconds: Interval = NONE  # of whole trainings, A's over B's; none where they shared a device or a budget
    equal_accuracy: EqualAccuracy | None = None
    flops: Interval = NONE
    target: float | None = None
    named_before: bool = False  # whether the target was named before the runs
    reached: tuple[Reached, Reached] | None = None
    time_to_target: Interval = NONE
    flops_to_target: Interval = NONE
    margin: float = MARGIN
    named: bool = False  # whether the user named these two, and so asks for the claim of them

    @property
    def verdict(self) -> str:
        """One of verdicts.VERDICTS, on images like these."""
        return verdict(self.like_these, self.p_like_these, self.margin)

    @property
    def verdict_this_set(self) -> str:
        """The same on this very test set."""
        return verdict(self.this_set, self.p_this_set, self.margin)

    @property
    def claim(self) -> str:
        """Whether "A is faster and at most the margin less accurate" holds, does not hold, or is open."""
        return claim(self.like_these, self.speed, self.margin)

    @property
    def claimed(self) -> bool:
        """Whether somebody makes that claim: the original project, or the user, who named the pair."""
        return self.named or self.original_claim

    @property
    def original_claim(self) -> bool:
        """Whether the original project makes that claim: of an SE-ResNet against a transformer, or a hybrid."""
        families = [side.runs[0].family for side in (self.a, self.b)]
        return families[0] == "cnn" and self.a.model.startswith(REFERENCE) and families[1] in TRANSFORMERS

    @cached_property  # it looks for numbers of seeds and images
    def what_would_change(self) -> str:
        """One sentence on what would change the answer."""
        return what_would_change(self)

    @property
    def track(self) -> str:
        """shared, family, or "" for none."""
        return self.conditions.track

    @property
    def question(self) -> str:
        """A text that is equal for pairs that differ only in the track."""
        return as_text(self.group, self.a.model, self.b.model)

    @property
    def group(self) -> str:
        """A text that is equal for pairs that differ only in models and track."""
        run = self.a.runs[0]
        asked = question(run.spec)
        if self.track:
            asked["recipe"] = {k: asked["recipe"][k] for k in ("budget", "epochs", "validations")}
        return as_text(bool(self.track), asked, asdict(speed_key(run.spec, run.environment)))


# --- from stores to pairs ------------------------------------------------------------------------------------------


def pairs(
    stores: list[Store],
    models: Sequence[str] = (),
    margin: float = MARGIN,
    target: float | None = None,
    reference: str | None = None,
) -> list[Pair]:
    """Every pair of `models` (none: of all; one: of it and all others) that has runs under equal conditions.

    Without models the `reference` is A in its pairs, by default seresnet. Raises UserError where a model has no runs,
    or no pair has any in common.
    """
    return pairs_loaded(load(stores), stores, models, margin, target, reference)


def pairs_loaded(
    loaded: Loaded,
    stores: list[Store],
    models: Sequence[str] = (),
    margin: float = MARGIN,
    target: float | None = None,
    reference: str | None = None,
) -> list[Pair]:
    """`pairs` for stores that were read already; predictions and searches are read here."""
    models, reference = [loaded.names.get(model, model) for model in models], loaded.shown(reference)
    groups = by_conditions(loaded)
    known = {run.spec.model for runs in groups.values() for run in runs}
    for model in models:
        if model not in known:
            raise UserError(f"no finished runs of '{model}' here; there are {', '.join(sorted(known)) or 'none'}")
    made, comparable = list[Pair](), False
    searches = [inert_copy(search, loaded.names) for store in stores for search in store.lr_searches()]
    failures = [run for run in loaded.runs if isinstance(run, FailedRun)]
    for runs, conditions in zip(groups.values(), told_apart([runs[0] for runs in groups.values()]), strict=True):
        failed = [r for r in failures if same_plan(r.spec, runs[0].spec)]
        sides = {model: _with_search(side, searches) for model, side in sides_of(runs, failed, stores).items()}
        chosen = [(sides[a], sides[b]) for a, b in ordered(list(sides), models, reference)]
        made += _family(chosen, conditions, loaded.sessions, margin, target)
        comparable |= bool(ordered(sorted({run.spec.model for run in runs}), models))
    if not made and comparable:
        raise UserError("the predictions of these runs are missing or damaged, so that they cannot be compared")
    if not made:
        raise UserError("no two of these models have runs under equal conditions; run them in one command")
    return sorted(made, key=lambda pair: TRACKS.index(pair.track) if pair.track else -1)


def by_conditions(loaded: Loaded) -> dict[str, list[FinishedRun]]:
    """Finished runs by everything that must be equal between them; of several with one seed the newest."""
    groups: dict[str, dict[tuple[str, int], FinishedRun]] = {}
    for run in finished(loaded.runs):
        groups.setdefault(group_of(run), {})[run.spec.model, run.spec.seed] = run
    return {key: list(group.values()) for key, group in groups.items()}


def ordered(present: list[str], models: Sequence[str], reference: str | None = None) -> list[tuple[str, str]]:
    """Pairs (A, B) of the models that are present, in the order in which they were named."""
    if len(models) == 1:
        return [(models[0], other) for other in sorted(present) if other != models[0] and models[0] in present]
    first = REFERENCE if reference is None else reference
    named = models or sorted(present, key=lambda model: (model != first, model))
    return list(combinations([m for m in named if m in present], 2))


def sides_of(runs: list[FinishedRun], failed: list[FailedRun], stores: list[Store]) -> dict[str, Side]:
    """Each model's runs with their predictions; runs without, and `failed` ones, are named in `left_out`."""
    sides = {}
    for model in dict.fromkeys(run.spec.model for run in runs):
        own = like_the_newest([r for r in runs if r.spec.model == model])
        own.sort(key=lambda r: r.spec.seed)
        read = [(run, right) for run in own if (right := predictions(run, stores)) is not None]
        if not read:
            continue
        first, recipe = read[0][0].metrics, own[0].spec.recipe
        kept, right = tuple(run for run, _ in read), np.stack([right for _, right in read])
        lost = {r.spec.seed: "its predictions are missing or damaged" for r in own if r not in kept}
        others = [r for r in failed if r.spec.model == model and r.spec.recipe == recipe]
        lost |= {r.spec.seed: r.status for r in others}
        sides[model] = Side(
            model,
            kept,
            right,
            first.flops,
            first.train_flops_2x,
            lr=(recipe.lr,),
            left_out=tuple(f"seed {seed}: {why}" for seed, why in sorted(lost.items())),
            diverged=sum(r.status == "diverged" for r in others),
        )
    return sides


def predictions(run: FinishedRun, stores: list[Store]) -> Right | None:
    """Which test images a run got right; None where no store has predictions that fit."""
    arrays = read_predictions(run, stores)
    return None if arrays is None else np.asarray(arrays["test_predicted"] == arrays["test_label"])


def read_predictions(run: FinishedRun, stores: list[Store]) -> Arrays | None:
    """TEST_ARRAYS of a run's predictions.npz, for as many test images as its record says; None where none fit.

    The predicted and the true classes are always there, losses only where they were written.
    """
    for store in stores:
        try:
            content = store.read(f"runs/{run.run_id}/predictions.npz")
            checksum = run.files.get("predictions.npz")
            if checksum and sha256(content) != checksum:  # damaged, or from another attempt at this run
                continue
            arrays = read_arrays(content, TEST_ARRAYS, run.metrics.test_images)
        except (OSError, ValueError):
            continue
        if {*TEST_ARRAYS[:2]} <= arrays.keys():
            return arrays
    return None


def _with_search(side: Side, searches: list[LRSearch]) -> Side:
    """The side with what the search for its learning rate took."""
    spec = side.runs[0].spec
    if not spec.recipe.track:
        return side
    for search in reversed(searches):
        other = search.spec
        same = all(getattr(other, k) == getattr(spec, k) for k in ("model", "model_source", "data", "setting"))
        # a trial is as long as its rung says, under the rate that it tries
        alike = replace(
            other.recipe,
            lr=spec.recipe.lr,
            epochs=spec.recipe.epochs,
            budget=spec.recipe.budget,
            validations=spec.recipe.validations,
        )
        if same and other.device_name == spec.device_name and search.chosen in side.lr and alike == spec.recipe:
            return replace(
                side,
                search_samples=search.samples,
                search_trials=len(search.trials),
                search_edge=search.edge,
                search_doubt=doubt(search, side.runs[0].metrics.val_images or 0),
            )
    return side


def _family(
    sides: list[tuple[Side, Side]], conditions: Conditions, sessions: list[Session], margin: float, target: float | None
) -> list[Pair]:
    """Pairs under one set of conditions: their p values are adjusted for one another."""
    like = [on_images_like_these(a.right, b.right) for a, b in sides]
    this = [on_this_test_set(a.right, b.right) for a, b in sides]
    tested = [math.nan if d.of_runs else d.p for d in like]
    p_like, p_this = holm(tested), holm([d.p for d in this])
    made = []
    for index, (a, b) in enumerate(sides):
        goal, named_before = _target(a, b, target)
        reached = None if goal is None else (reach(a.runs, goal, a.diverged), reach(b.runs, goal, b.diverged))
        made.append(
            Pair(
                conditions=conditions,
                a=a,
                b=b,
                like_these=like[index],
                this_set=this[index],
                p_like_these=p_like[index],
                p_this_set=p_this[index],
                tests=sum(not math.isnan(p) for p in tested),
                speed=session_ratio(a, b, "train", sessions),
                inference=session_ratio(a, b, "inference", sessions),
                by_batch=next((text for s in together(a, b, sessions) if (text := turns(a.model, b.model, s))), ""),
                training_seconds=_training_seconds(a, b),
                equal_accuracy=equal_accuracy(
                    {a.model: a.runs, b.model: b.runs}, {a.model: a.diverged, b.model: b.diverged}
                ),
                flops=_exact(a.flops, b.flops),
                target=goal,
                named_before=named_before,
                reached=reached,
                time_to_target=_ratio_to_target(reached, "seconds"),
                flops_to_target=_scaled(_ratio_to_target(reached, "samples"), a.train_flops, b.train_flops),
                margin=margin,
            )
        )
    return made


def _exact(a: float | None, b: float | None) -> Interval:
    """The ratio of two counts, which have no spread."""
    return Interval(a / b, a / b, a / b, 1) if a and b else NONE


def together(a: Side, b: Side, sessions: list[Session]) -> list[Session]:
    """The sessions that timed both as they were run, the newest first."""
    return [s for s in reversed(sessions_of(a.runs[-1], sessions)) if s in sessions_of(b.runs[-1], sessions)]


def session_ratio(a: Side, b: Side, kind: str, sessions: list[Session]) -> Interval:
    """A's images/s over B's in the newest session that timed both as they were run."""
    for session in together(a, b, sessions):
        if (ratio := session.ratio(b.model, a.model, kind)).n:
            return ratio
    return NONE


def _training_seconds(a: Side, b: Side) -> Interval:
    """A's training seconds over B's, with Welch's interval on logarithms.

    Runs under one key are of one device. Only runs that trained alone count, and none do where the budget was the time.
    """
    if timed_budget(conditions_of(a.runs[0])) or any(run.shared_device for run in (*a.runs, *b.runs)):
        return NONE
    values = [[run.metrics.train_seconds or 0.0 for run in side.runs if run.timed_alone] for side in (a, b)]
    if not all(values):
        return NONE
    return welch_ratio(*values) if all(map(all, values)) else NONE


def timed_budget(conditions: Conditions) -> bool:
    """Whether the budget is a time, so that all trainings are equally long."""
    return parse_budget(conditions.budget).kind == "seconds"


def turned(pair: Pair) -> Pair:
    """The same pair with B for A: differences change their sign, ratios become their inverse."""
    return replace(
        pair,
        a=pair.b,
        b=pair.a,
        like_these=_negative(pair.like_these),
        this_set=_negative(pair.this_set),
        speed=_inverse(pair.speed),
        inference=_inverse(pair.inference),
        training_seconds=_inverse(pair.training_seconds),
        flops=_inverse(pair.flops),
        reached=pair.reached and (pair.reached[1], pair.reached[0]),
        time_to_target=_inverse(pair.time_to_target),
        flops_to_target=_inverse(pair.flops_to_target),
    )


def _negative(d: Difference) -> Difference:
    return d._replace(value=-d.value, low=-d.high, high=-d.low, seeds_a=d.seeds_b, seeds_b=d.seeds_a)


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.n) if ratio.n else ratio


# --- time to a target ----------------------------------------------------------------------------------------------


def _target(a: Side, b: Side, asked: float | None) -> tuple[float | None, bool]:
    """The target and whether all runs began with it: the one asked for, else the runs' own where it is one."""
    own = {run.target for side in (a, b) for run in side.runs}
    if asked is None:
        only = own.pop() if len(own) == 1 else None
        return only, only is not None
    return asked, own == {asked}


def reach(runs: Sequence[FinishedRun], target: float, diverged: int = 0) -> Reached:
    """When each run first reached the target on validation; for those that never did, when they ended."""
    seconds, samples, reached = list[float](), list[int](), list[bool]()
    for run in runs:
        first = next((epoch for epoch in run.history if epoch.val_accuracy >= target), None)
        row = first or run.history[-1]
        known = None if run.shared_device else row.train_seconds
        seconds.append(math.nan if known is None else known)
        samples.append(row.samples_seen)
        reached.append(first is not None)
    return Reached(tuple(seconds), tuple(samples), tuple(reached), diverged)


def _ratio_to_target(reached: tuple[Reached, Reached] | None, clock: Clock) -> Interval:
    """A's over B's with Welch's interval on logarithms; none where a run never reached it, or seconds mean nothing."""
    if reached is None or not all(side.all for side in reached):
        return NONE
    values: list[tuple[float, ...]] = [getattr(side, clock) for side in reached]
    if any(math.isnan(v) or v <= 0 for side in values for v in side):
        return NONE
    return welch_ratio(*values)


def _scaled(ratio: Interval, a: float | None, b: float | None) -> Interval:
    """A ratio of samples as one of training FLOPs."""
    if not a or not b:
        return NONE
    return Interval(ratio.value * a / b, ratio.low * a / b, ratio.high * a / b, ratio.n)


def median_seconds(side: Reached) -> float | None:
    """Median of the seconds to the target over all runs; None where under half reached it, or they shared a device."""
    return median_time([*side.times(side.seconds), *[math.inf] * side.diverged]) if side.timed else None


# --- words ---------------------------------------------------------------------------------------------------------


def what_would_change(pair: Pair) -> str:
    """One sentence on what would change the answer."""
    if pair.verdict != "no verdict":
        low, high = pair.like_these.low, pair.like_these.high
        if pair.verdict == "equivalent":
            return f"A margin below {points(max(abs(low), abs(high)))}, another recipe, budget or data set."
        return f"Another recipe, budget or data set; the interval ends {points(min(abs(low), abs(high)))} from 0."
    if pair.like_these.of_runs or pair.like_these.images < 2:
        return what_would_help(pair.like_these, pair.margin, None, None)
    right, seen = (pair.a.right, pair.b.right), pair.like_these.value
    seeds = seeds_needed_for_images(*right, pair.margin)
    images = images_needed(*right, pair.margin) if seeds is None or seeds > MOST_SEEDS else None
    return what_would_help(
        pair.like_these, pair.margin, seeds_needed_for_images(*right, seen) if seen else None, seeds, images
    )


def across_tracks(made: list[Pair]) -> list[tuple[Pair, Pair, str]]:
    """(shared, family, word) for every two pairs that ask the same in both tracks."""
    families: dict[str, list[Pair]] = {}
    for pair in made:
        if pair.track == "family":
            families.setdefault(pair.question, []).append(pair)
    return [
        (one, other, ACROSS_TRACKS[one.verdict, other.verdict])
        for one in made
        if one.track == "shared"
        for other in families.get(one.question, [])
    ]


def interval_of(pair: Pair, metric: str) -> Interval:
    """The interval that a condition is tested on, in its unit; of nan where there is none."""
    if metric == "accuracy":
        d = pair.like_these
        if d.of_runs:  # of these two runs alone
            return NONE
        return Interval(100 * d.value, 100 * d.low, 100 * d.high, d.images)
    intervals = {"speed": pair.speed, "time_to_target": pair.time_to_target, "flops": pair.flops}
    return intervals[metric]
