"""From raw samples to figures with intervals. Example: ratio_interval(a_seconds, b_seconds)

scipy.special alone, and inside the functions: scipy.stats takes over a second to import, which every child would wait.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
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


def t_quantile(df: int) -> float:
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
