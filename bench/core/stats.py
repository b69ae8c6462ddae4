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


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over a few seeds with a t-interval: what other seeds may give on these test images."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = t_half(values, n)
    return Interval(mean, mean - half, mean + half, n)
