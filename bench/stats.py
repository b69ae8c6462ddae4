"""From raw samples to figures with intervals. Example: ratio_interval(a_seconds, b_seconds)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats as scipy_stats

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


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Geometric mean of paired ratios with a t-interval on their logarithms.

    The pairs are within-block times of two models, so that a drift of the machine cancels.
    """
    logs = [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
    mean, n = statistics.fmean(logs), len(logs)
    if n < 2:
        return Interval(math.exp(mean), math.nan, math.nan, n)
    half = scipy_stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * statistics.stdev(logs) / math.sqrt(n)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of a few seeds' values with a t-interval: what another seed may bring, on these test images."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = scipy_stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def share_interval(share: float, images: int) -> Interval:
    """Wilson's interval for an accuracy on `images` test images: one run, other images like these.

    Wilson 1927, by scipy. `share` in 0..1.
    """
    result = scipy_stats.binomtest(round(share * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(share, float(result.low), float(result.high), images)
