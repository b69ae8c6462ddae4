"""Statistics of seeds and test images. Example: welch_ratio(a_seconds, b_seconds)

Formulas are written out: importing scipy.stats takes 1.2 s longer than scipy.special, and `table` and `compare` would
wait for it. The tests hold them against scipy.stats.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from bench.core.stats import CONFIDENCE, Interval, t_quantile


def median_interval(values: Sequence[float]) -> Interval:
    """A median with a 95 % interval between two of the sorted values, whatever their distribution.

    The number of values below the true median is binomial with one half (Thompson 1936, Annals of Mathematical
    Statistics 7:122). The ends are nan for fewer than six values. Raises StatisticsError without any.
    """
    from scipy.special import bdtr

    ordered, n = sorted(values), len(values)
    # the r smallest and the r largest may be left out where fewer than r below the median is rare enough
    left_out = max((r for r in range(n // 2 + 1) if r and bdtr(r - 1, n, 0.5) <= (1 - CONFIDENCE) / 2), default=0)
    middle = statistics.median(ordered)
    if not left_out:
        return Interval(middle, math.nan, math.nan, n)
    return Interval(middle, ordered[left_out - 1], ordered[n - left_out], n)


# --- unpaired samples: one figure per seed ---------------------------------------------------------------------------


def satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent (variance, degrees of freedom); a variance may be subtracted.

    Satterthwaite 1946 (Biometrics Bulletin 2:110), equation 17. nan where all variances are 0.
    """
    below = sum(variance**2 / df for variance, df in parts)
    return sum(variance for variance, _ in parts) ** 2 / below if below > 0 else math.nan


def two_sided(statistic: float, df: float) -> float:
    """Two-sided p of Student's t."""
    from scipy.special import stdtr

    return min(1.0, 2 * float(stdtr(df, -abs(statistic))))


def welch_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Ratio of the geometric means of two unpaired samples, such as each seed's seconds to a target.

    Welch 1947 (Biometrika 34:28) on the logarithms; `n` is that of the smaller sample. The ends are nan where a sample
    has one value, or where neither has any spread. Raises ValueError for an empty sample or a value not above 0.
    """
    if not numerator or not denominator:
        raise ValueError("a ratio needs a value on both sides")
    sides = [[math.log(value) for value in values] for values in (numerator, denominator)]
    mean, n = statistics.fmean(sides[0]) - statistics.fmean(sides[1]), min(map(len, sides))
    if n < 2:
        return Interval(math.exp(mean), math.nan, math.nan, n)
    parts = [(statistics.variance(logs) / len(logs), len(logs) - 1) for logs in sides]
    variance = sum(part for part, _ in parts)
    if variance == 0:  # all seeds reached the target at the same validation: their real spread was not seen
        return Interval(math.exp(mean), math.nan, math.nan, n)
    half = t_quantile(satterthwaite(parts)) * math.sqrt(variance)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for the number of tests, in the order given.

    Holm 1979 (Scandinavian Journal of Statistics 6:65). A nan stands for a test that could not be made: it stays nan
    and is not counted.
    """
    adjusted, lowest = list(p_values), 0.0
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    for smaller, i in enumerate(order):
        # never below the one before: adjusting keeps the order
        lowest = max(lowest, min(1.0, (len(order) - smaller) * p_values[i]))
        adjusted[i] = lowest
    return adjusted


def power_of_t(difference: float, standard_error: float, df: float) -> float:
    """The power of a two-sided t-test at 5 % for a true `difference`, in the unit of `standard_error`.

    Noncentral t: Johnson, Kotz & Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 31.
    """
    from scipy.special import nctdtr

    if standard_error == 0:
        return 1.0
    # beyond 30 scipy's nctdtr is nan here and there, and the power is at least 0.98 anyway
    shift, edge = min(30.0, abs(difference) / standard_error), t_quantile(df)
    # the wrong side contributes less than a billionth beyond 6 and is nan beyond 8
    return float(1 - nctdtr(df, shift, edge) + (nctdtr(df, shift, -edge) if shift < 6 else 0.0))


def least(enough: Callable[[int], bool]) -> int:
    """The least whole number from 2 on that is enough, if all larger ones are too."""
    high = 2
    while not enough(high):
        high *= 2
    low = high // 2  # either not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def median_time(times: Sequence[float]) -> float | None:
    """The time by which half of the runs had reached a target; `times` are inf for those that never did.

    The lower of two middle ones. None where under half reached it. Where no run was stopped before its planned end this
    is Kaplan and Meier's median. Raises ValueError without runs.
    """
    if not times:
        raise ValueError("a median needs a run")
    middle = statistics.median_low(times)
    return middle if math.isfinite(middle) else None
