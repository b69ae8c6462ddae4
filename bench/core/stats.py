"""From paired samples to figures with intervals. Example: ratio_interval(a_seconds, b_seconds)

scipy.special only, imported inside the functions: importing scipy.stats takes over a second, in every child.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
PILOT = 10  # the first blocks of a session; their spread decides how many follow
ONE_START = 0.02  # on the logarithm: within this, one process start shows nothing about two models


class Interval(NamedTuple):
    """A figure, the ends of its 95 % interval (nan where n is too small for one), and the number of samples.

    For figures without an interval, tables put quartiles or extremes into the ends; `Column.spread` says which.
    """

    value: float
    low: float
    high: float
    n: int


def log_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Logarithms of paired ratios. Times within one block are a pair, so that drift of the machine cancels."""
    return [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]


def t_quantile(df: float) -> float:
    """The quantile of Student's t for a two-sided interval at CONFIDENCE."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + CONFIDENCE) / 2))


def t_half(logs: Sequence[float], n: int) -> float:
    """Half the width of a t-interval for a mean of n, with the spread and degrees of freedom of `logs`."""
    return t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(n)


def blocks_needed(pilots: Sequence[Sequence[float]], half_width: float, most: int) -> int:
    """How many blocks, including the pilot, narrow every interval to at most ± half_width on the logarithm.

    Stein's two-stage procedure (1945, Annals of Mathematical Statistics 16:243): the number depends only on the pilot's
    spread, which is independent of its mean, so the interval of `ratio_interval` keeps its coverage.
    """
    needed = [math.ceil(t_half(logs, 1) ** 2 / half_width**2) for logs in pilots if len(logs) > 1]
    return min(most, max([PILOT, *needed]))


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Geometric mean of paired ratios, in the order of the blocks, with a 95 % interval on their logarithms.

    Up to PILOT blocks: the ordinary t-interval. With more, their number was chosen by the pilot's spread, and Stein's
    interval is exact: the pilot's spread and degrees of freedom around the mean of all blocks. Where the ordinary
    interval is wider, because the machine became noisier after the pilot, it is used instead.
    """
    logs = log_ratios(numerator, denominator)
    mean, n = statistics.fmean(logs), len(logs)
    if n < 2:
        return Interval(math.exp(mean), math.nan, math.nan, n)
    half = max(t_half(logs, n), t_half(logs[:PILOT], n))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def ratio_over_starts(numerator: Sequence[Sequence[float]], denominator: Sequence[Sequence[float]]) -> Interval:
    """Geometric mean of paired ratios over process starts, each a list in the order of its blocks; `n` counts blocks.

    Two copies of one network differ by about 1 % for the life of a process, so blocks of one start are not independent.
    With two starts or more: a t-interval on the means of the starts' logarithms. Their spread holds both components,
    between starts and between blocks, and Satterthwaite's degrees of freedom of that sum are starts - 1 (one-way random
    effects: Scheffé 1959, The Analysis of Variance, section 7.2). The standard error is never taken to be below that of
    the blocks, which a few starts that agree by luck would suggest.

    With one start the other component was not seen: the interval of `ratio_interval`, and at least ± ONE_START, so that
    a smaller difference gives no verdict. Raises ValueError where starts or blocks do not pair.
    """
    logs = [log_ratios(a, b) for a, b in zip(numerator, denominator, strict=True)]
    if len(logs) == 1:
        value, low, high, n = ratio_interval(numerator[0], denominator[0])
        doubt = math.exp(ONE_START)
        return Interval(value, min(low, value / doubt), max(high, value * doubt), n)
    means = [statistics.fmean(start) for start in logs]
    mean, blocks = statistics.fmean(means), sum(statistics.variance(s) / len(s) for s in logs if len(s) > 1)
    error = math.sqrt(max(statistics.variance(means) / len(means), blocks / len(means) ** 2))
    half = t_quantile(len(means) - 1) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), sum(map(len, logs)))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over a few seeds with a t-interval: what other seeds may give on these test images."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = t_half(values, n)
    return Interval(mean, mean - half, mean + half, n)


def share_interval(share: float, images: int) -> Interval:
    """Wilson's interval for the accuracy of one run: what other test images like these may give. `share` in 0..1.

    Wilson 1927 (Journal of the American Statistical Association 22:209).
    """
    counted, z2 = round(share * images) / images, statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    middle = counted + z2 / (2 * images)
    half = math.sqrt(z2 * counted * (1 - counted) / images + (z2 / (2 * images)) ** 2)
    low, high = (middle - half) / (1 + z2 / images), (middle + half) / (1 + z2 / images)
    # at the ends exactly 0 and 1, despite rounding
    return Interval(share, low if counted > 0 else 0.0, high if counted < 1 else 1.0, images)


def difference_of_shares(a: Interval, b: Interval) -> Interval:
    """A minus B of two of `share_interval`, with a 95 % interval, as if they had seen different images.

    Newcombe 1998 (Statistics in Medicine 17:873), method 10. Where both saw the same images it is too wide rather than
    too narrow, since two classifiers mostly err on the same ones.
    """
    low = math.hypot(a.value - a.low, b.high - b.value)
    high = math.hypot(a.high - a.value, b.value - b.low)
    value = a.value - b.value
    return Interval(value, value - low, value + high, min(a.n, b.n))
