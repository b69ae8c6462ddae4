"""From raw samples to figures with intervals. Example: ratio_interval(a_seconds, b_seconds)

scipy.special alone, and inside the functions: scipy.stats takes over a second to import, which every child would wait.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A figure between two others, and the number of samples.

    Here the others are the ends of a 95 % interval, nan where n is too small for one. Tables put quartiles or extremes
    there for figures that have no interval; `Column.spread` says which.
    """

    value: float
    low: float
    high: float
    n: int


PILOT = 10  # blocks that decide how many there will be


def log_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Logarithms of paired ratios: within-block times of two models, so that a drift of the machine cancels."""
    return [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]


def t_quantile(df: float) -> float:
    """Of Student's t: CONFIDENCE lies between minus it and it."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + CONFIDENCE) / 2))


def t_half(logs: Sequence[float], n: int) -> float:
    """Half the width of a t-interval for a mean of n, with the spread and the degrees of freedom of `logs`."""
    return t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(n)


def blocks_needed(pilots: Sequence[Sequence[float]], half_width: float, most: int) -> int:
    """How many blocks, the pilot's included, bring every interval to at most ± half_width on the logarithm.

    Stein 1945 (Annals of Mathematical Statistics 16:243), two stages: the number depends on the pilot's spread alone,
    which tells nothing of the mean, so that the interval of `ratio_interval` keeps its coverage.
    """
    wanted = [math.ceil(t_half(logs, 1) ** 2 / half_width**2) for logs in pilots if len(logs) > 1]
    return min(most, max([PILOT, *wanted]))


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Geometric mean of paired ratios with a 95 % interval on their logarithms, in the order of the blocks.

    Up to PILOT blocks the ordinary t-interval. Beyond, their number was chosen by the pilot's spread: Stein's interval,
    whose coverage is exact then (pilot's spread and degrees of freedom, all blocks' mean), or the ordinary one where
    that is wider, as it is when the machine became less quiet after the pilot.
    """
    logs = log_ratios(numerator, denominator)
    mean, n = statistics.fmean(logs), len(logs)
    if n < 2:
        return Interval(math.exp(mean), math.nan, math.nan, n)
    half = max(t_half(logs, n), t_half(logs[:PILOT], n))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of a few seeds' values with a t-interval: what another seed may bring, on these test images."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = t_half(values, n)
    return Interval(mean, mean - half, mean + half, n)


def share_interval(share: float, images: int) -> Interval:
    """Wilson's interval for an accuracy on `images` test images: one run, other images like these.

    Wilson 1927 (Journal of the American Statistical Association 22:209). `share` in 0..1.
    """
    counted, z2 = round(share * images) / images, statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    middle = counted + z2 / (2 * images)
    half = math.sqrt(z2 * counted * (1 - counted) / images + (z2 / (2 * images)) ** 2)
    low, high = (middle - half) / (1 + z2 / images), (middle + half) / (1 + z2 / images)
    # exactly 0 and 1 at the ends, where rounding would leave a speck
    return Interval(share, low if counted > 0 else 0.0, high if counted < 1 else 1.0, images)


# --- unpaired samples: one figure a seed -----------------------------------------------------------------------------


def satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent (variance, degrees of freedom); a variance may be subtracted.

    Satterthwaite 1946 (Biometrics Bulletin 2:110), equation 17. nan where all are 0.
    """
    below = sum(variance**2 / df for variance, df in parts)
    return sum(variance for variance, _ in parts) ** 2 / below if below > 0 else math.nan


def two_sided(statistic: float, df: float) -> float:
    """The chance that Student's t lies at least as far from 0 as `statistic`."""
    from scipy.special import stdtr

    return min(1.0, 2 * float(stdtr(df, -abs(statistic))))


def welch_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Ratio of the geometric means of two unpaired samples, such as each seed's seconds to a target.

    Welch 1947 (Biometrika 34:28) on the logarithms; `n` is that of the smaller sample. Fewer than two on a side, or no
    spread on either: ends of nan. ValueError where a side is empty or a value not above 0.
    """
    if not numerator or not denominator:
        raise ValueError("a ratio needs a value on either side")
    sides = [[math.log(value) for value in values] for values in (numerator, denominator)]
    mean, n = statistics.fmean(sides[0]) - statistics.fmean(sides[1]), min(map(len, sides))
    if n < 2:
        return Interval(math.exp(mean), math.nan, math.nan, n)
    parts = [(statistics.variance(logs) / len(logs), len(logs) - 1) for logs in sides]
    variance = sum(part for part, _ in parts)
    if variance == 0:  # as when all seeds reach a target at the same look: their real spread was not seen
        return Interval(math.exp(mean), math.nan, math.nan, n)
    half = t_quantile(satterthwaite(parts)) * math.sqrt(variance)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of one family, in the order given: below 0.05 means so with all of them looked at.

    Holm 1979 (Scandinavian Journal of Statistics 6:65). A nan is a test that could not be made: it stays nan and
    counts not.
    """
    adjusted, least = list(p_values), 0.0
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    for smaller, i in enumerate(order):
        # never below the one before: who has the smaller p is not let wait behind
        least = max(least, min(1.0, (len(order) - smaller) * p_values[i]))
        adjusted[i] = least
    return adjusted


def power_of_t(difference: float, standard_error: float, df: float) -> float:
    """The chance that a two-sided t-test at 5 % sees a true `difference`, in the unit of `standard_error`.

    Noncentral t: Johnson, Kotz & Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 31.
    """
    from scipy.special import nctdtr

    if standard_error == 0:
        return 1.0
    # beyond 30 scipy's nctdtr turns nan here and there, where the power is 0.98 with a single degree of freedom already
    shift, edge = min(30.0, abs(difference) / standard_error), t_quantile(df)
    # the wrong side, a billionth from 6 on, turns nan from 8 on
    return float(1 - nctdtr(df, shift, edge) + (nctdtr(df, shift, -edge) if shift < 6 else 0.0))


def least(enough: Callable[[int], bool]) -> int:
    """The least whole number from 2 on that is enough, where all larger ones are too."""
    high = 2
    while not enough(high):
        high *= 2
    low = high // 2  # not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_needed(sd_a: float, sd_b: float, difference: float, power: float = 0.8) -> int:
    """Seeds of each model with which Welch's test (two-sided, 5 %) sees a true difference with this power.

    `sd_a` and `sd_b` are run-to-run standard deviations in the unit of `difference`. ValueError for a difference of 0,
    which no test sees. The normal approximation, (1.96 + 0.84)^2 * 2 * (sd / difference)^2, asks for one or two less.
    """
    if difference == 0:
        raise ValueError("no number of seeds sees a difference of 0")

    def enough(seeds: int) -> bool:
        parts = [(sd**2 / seeds, seeds - 1) for sd in (sd_a, sd_b)]
        error = math.sqrt(sum(part for part, _ in parts))
        return power_of_t(difference, error, satterthwaite(parts)) >= power

    return least(enough)


def kaplan_meier(times: Sequence[float], reached: Sequence[bool]) -> list[tuple[float, Fraction]]:
    """At each time at which a run reached the target, in order: the estimated share of runs still without it.

    `times` is when a run reached the target, or for how long it was watched in vain, in one unit. Kaplan & Meier 1958
    (Journal of the American Statistical Association 53:457). ValueError where the two lengths differ.
    """
    runs = list(zip(times, reached, strict=True))
    without, curve = Fraction(1), []  # exact: 3/4 * 2/3 must be one half
    for time in sorted({time for time, there in runs if there}):
        watched = sum(other >= time for other, _ in runs)
        without *= 1 - Fraction(sum(other == time and there for other, there in runs), watched)
        curve.append((time, without))
    return curve


def kaplan_meier_median(times: Sequence[float], reached: Sequence[bool]) -> float | None:
    """Median time to a target by `kaplan_meier`: the first at which at most half of the runs are still without it.

    None where that never comes: with all runs watched equally long, where fewer than half reached it.
    """
    return next((time for time, without in kaplan_meier(times, reached) if without <= Fraction(1, 2)), None)
