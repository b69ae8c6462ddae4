"""How long two models train to one accuracy. Example: equal_accuracy({"seresnet": runs, "vit_tiny": others}).seconds

The target is fixed by a rule, so that nobody chooses it after the runs: the lower of the two models' final validation
accuracies, each a mean over seeds. The *leader* ended above it. What its seeds took until a validation first reached
the target stands against what the other model, the *follower*, took to its end.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.analysis.stats import satterthwaite
from bench.core.stats import Interval, t_quantile
from bench.core.text import plural, significant
from bench.store.records import FinishedRun


class Point(NamedTuple):
    """A validation: what had been spent by then, in any unit, and the accuracy."""

    spent: float
    accuracy: float


Curve = Sequence[Point]  # one run's validations, in their order


class Passage(NamedTuple):
    """What a run had spent at the last validation below the target, and at the first that reached it (inf: never)."""

    below: float
    reached: float


@dataclass(frozen=True)
class Gain:
    """The follower's expense over the leader's at equal accuracy: above 1 the leader is there for less.

    `ratio` is of geometric means over seeds, with the leader's taken at the first validation that reached the target.
    Its ends are a 95 % interval over the seeds of both, between the two validations around each passage included; nan
    where there is none. `at_last_below` is the ratio had the target been reached right after the validation before:
    without seeds' spread, the true ratio lies between the two. `n` of the ratio is 0 where a seed never reached it.
    """

    ratio: Interval
    at_last_below: float
    passages: tuple[Passage, ...]  # one per seed of the leader
    follower: float  # geometric mean of what the follower spent to its end
    seeds: int  # the smaller number on a side

    @property
    def leader(self) -> float:
        """Geometric mean at the first validation that reached the target; inf where a seed never did."""
        return geometric_mean([passage.reached for passage in self.passages])


@dataclass(frozen=True)
class EqualAccuracy:
    """Two models at the target that the rule gives them. `seconds` and `flops` are None where they are unknown."""

    leader: str
    follower: str
    target: float  # validation accuracy
    reached: int  # seeds of the leader that reached it
    seeds: int  # of the leader, with `diverged`
    diverged: int  # seeds of the leader that diverged and so never reach it
    seconds: Gain | None
    samples: Gain
    flops: Gain | None


def equal_accuracy(
    runs: Mapping[str, Sequence[FinishedRun]], diverged: Mapping[str, int] | None = None
) -> EqualAccuracy:
    """Two models' runs under equal conditions, by name; `diverged`: how many further seeds of a model diverged.

    Of two equally accurate models the first is the leader. Raises ValueError unless there are two models with runs.
    """
    if len(runs) != 2 or not all(runs.values()):
        raise ValueError("equal accuracy is a question about two models with runs")
    finals = {model: statistics.fmean(run.history[-1].val_accuracy for run in own) for model, own in runs.items()}
    leader = max(finals, key=lambda model: finals[model])  # the first of equal ones
    follower = next(model for model in runs if model != leader)
    lost = (diverged or {}).get(leader, 0)
    both = runs[leader], runs[follower]
    samples = gain(_curves(both[0], "samples_seen"), _curves(both[1], "samples_seen"), lost)
    timed = not any(run.shared_device for own in both for run in own)
    seconds = gain(_curves(both[0], "train_seconds"), _curves(both[1], "train_seconds"), lost) if timed else None
    costs = [own[0].metrics.train_flops_2x for own in both]
    return EqualAccuracy(
        leader=leader,
        follower=follower,
        target=finals[follower],
        reached=sum(math.isfinite(passage.reached) for passage in samples.passages),
        seeds=len(runs[leader]) + lost,
        diverged=lost,
        seconds=seconds,
        samples=samples,
        flops=_scaled(samples, float(costs[0]), float(costs[1])) if costs[0] and costs[1] else None,
    )


def _curves(runs: Sequence[FinishedRun], clock: str) -> list[Curve]:
    return [[Point(getattr(epoch, clock), epoch.val_accuracy) for epoch in run.history] for run in runs]


def passage(curve: Curve, target: float) -> Passage:
    """Where a run first reached the target; `below` is 0 where already its first validation did."""
    below = 0.0
    for point in curve:
        if point.accuracy >= target:
            return Passage(below, point.spent)
        below = point.spent
    return Passage(below, math.inf)


def gain(leader: Sequence[Curve], follower: Sequence[Curve], diverged: int = 0) -> Gain:
    """The ratio of expenses at the follower's mean final accuracy, with its interval over the seeds of both.

    The variance of the ratio's logarithm has two parts, as in `crossed.py`: the leader's seeds pass at different times,
    and the follower's seeds move the target as well as their own expense. The first is the variance over the leader's
    seeds, at least that of a moment anywhere between two validations (width² / 12). The second is the jackknife's,
    which leaves out one seed of the follower, and so its share of the target, at a time (Tukey 1958, Annals of
    Mathematical Statistics 29:614). Degrees of freedom as in Satterthwaite 1946. The low end lies that far below the
    ratio at the first validation that reached the target, the high end that far above the one at the validation before.
    No interval where a side has one seed, or where a target without one of the follower's seeds is never reached.
    """
    target, ends = final(follower), geometric_mean([curve[-1].spent for curve in follower])
    passages = [passage(curve, target) for curve in leader]
    own = [*passages, *[Passage(math.inf, math.inf)] * diverged]
    seeds = min(len(leader), len(follower))
    below, reached = (geometric_mean(list(values)) for values in zip(*own, strict=True))
    if not (math.isfinite(reached) and reached > 0 and ends > 0):
        return Gain(Interval(math.nan, math.nan, math.nan, 0), math.nan, tuple(passages), ends, seeds)
    value, most = ends / reached, ends / below if below > 0 else math.inf
    half = _half_width(leader, follower, passages) if seeds > 1 else math.nan
    ratio = Interval(value, value * math.exp(-half), most * math.exp(half), seeds)
    return Gain(ratio, most, tuple(passages), ends, seeds)


def _half_width(leader: Sequence[Curve], follower: Sequence[Curve], passages: Sequence[Passage]) -> float:
    """Half the interval of the ratio's logarithm from seeds alone; nan where it cannot be known."""
    # seeds that pass between the same two validations differ by less than these, which is no proof that none do
    between = [math.log(p.reached / p.below) ** 2 / 12 for p in passages if p.below > 0]
    own = max(statistics.variance(math.log(p.reached) for p in passages), statistics.fmean(between) if between else 0.0)
    without = [_log_ratio(leader, [*follower[:seed], *follower[seed + 1 :]]) for seed in range(len(follower))]
    if not all(map(math.isfinite, without)):
        return math.nan
    jackknife = (len(without) - 1) * statistics.pvariance(without)
    parts = [(own / len(passages), len(passages) - 1), (jackknife, len(without) - 1)]
    if (variance := sum(part for part, _ in parts)) == 0:
        return math.nan
    return t_quantile(satterthwaite(parts)) * math.sqrt(variance)


def _log_ratio(leader: Sequence[Curve], follower: Sequence[Curve]) -> float:
    target = final(follower)
    reached = geometric_mean([passage(curve, target).reached for curve in leader])
    spent = geometric_mean([curve[-1].spent for curve in follower])
    return math.log(spent / reached) if math.isfinite(reached) else -math.inf


def final(curves: Sequence[Curve]) -> float:
    """Mean over seeds of the last validation's accuracy."""
    return statistics.fmean(curve[-1].accuracy for curve in curves)


def geometric_mean(values: Sequence[float]) -> float:
    """Of values not below 0: 0 where one is 0, inf where one is inf."""
    if math.inf in values:
        return math.inf
    return math.exp(statistics.fmean(map(math.log, values))) if all(values) else 0.0


def _scaled(samples: Gain, leader: float, follower: float) -> Gain:
    """A gain in samples as one in training FLOPs, given each model's for one sample."""
    by, ratio = follower / leader, samples.ratio
    return Gain(
        Interval(ratio.value * by, ratio.low * by, ratio.high * by, ratio.n),
        samples.at_last_below * by,
        tuple(Passage(p.below * leader, p.reached * leader) for p in samples.passages),
        samples.follower * follower,
        samples.seeds,
    )


# --- words -----------------------------------------------------------------------------------------------------------

UNITS = {"seconds": ("s", 1.0), "flops": ("training TFLOP", 1e-12), "samples": ("samples", 1.0)}


def sentence(equal: EqualAccuracy) -> str:
    """`a reached b's final 75.72 % on validation after 16.2 s, where b took 29.3 s: 1.81× (…)`."""
    clock = clock_of(equal)
    took, ratio = took_text(equal, clock), ratio_text(equal, clock)
    return (
        f"{equal.leader} reached {equal.follower}'s final {100 * equal.target:.2f} % on validation after {took[0]}, "
        f"where {equal.follower} took {took[1]}: {ratio}"
    )


def clock_of(equal: EqualAccuracy) -> str:
    """The first of UNITS that is known."""
    return next(clock for clock in UNITS if getattr(equal, clock) is not None)


def took_text(equal: EqualAccuracy, clock: str) -> tuple[str, str]:
    """What the leader had spent at the target, geometric mean over seeds, or each seed where one never reached it; and
    what the follower spent in all.
    """
    one, (unit, scale) = getattr(equal, clock), UNITS[clock]
    times = [one.leader] if one.ratio.n else sorted(passage.reached for passage in one.passages)
    figures = [significant(time * scale) for time in times if math.isfinite(time)]
    after = [f"{', '.join(figures)} {unit}"] if figures else []
    if never := equal.seeds - equal.reached:
        after.append(f"never with {never} of {plural(equal.seeds, 'seed')}")
    return ", ".join(after), f"{significant(one.follower * scale)} {unit}"


def ratio_text(equal: EqualAccuracy, clock: str) -> str:
    """`1.81× (1.20–2.90, 3 seeds)`; of one seed the ratios at the two validations around the passage."""
    value, ends = ratio_parts(equal, clock)
    return f"{value} ({ends})" if ends else value


def ratio_parts(equal: EqualAccuracy, clock: str) -> tuple[str, str]:
    """`1.81×` and `1.20–2.90, 3 seeds`; "no ratio" and nothing where a seed never reached the target."""
    one: Gain = getattr(equal, clock)
    value, low, high, n = one.ratio
    if not n:
        return "no ratio", ""
    if n > 1:
        return f"{_figure(value)}×", f"{'no interval' if math.isnan(low) else _ends(low, high)}, {plural(n, 'seed')}"
    return f"{_figure(value)}×", f"{_ends(value, one.at_last_below)} between validations; one seed, so no interval"


def _ends(low: float, high: float) -> str:
    return f"{_figure(low)}–{_figure(high)}" if math.isfinite(high) else f"{_figure(low)} or more"


def _figure(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else significant(value)
