"""Intervals of seeds and images against published figures and an independent computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies
from scipy import stats

from bench.analysis.stats import (
    holm,
    least,
    median_interval,
    median_time,
    power_of_t,
    satterthwaite,
    welch_ratio,
)

# --- unpaired samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 3), (2, 8), (10, 5)])
def test_welch_ratio_against_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sizes[1])
    a, b = rng.lognormal(1, 0.2, sizes[0]), rng.lognormal(0, 0.5, sizes[1])
    theirs = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    found = welch_ratio(a.tolist(), b.tolist())
    assert found.value == pytest.approx(stats.gmean(a) / stats.gmean(b))
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert found.n == min(sizes)


def test_welch_ratio_at_its_ends() -> None:
    one = welch_ratio([6.0], [2.0, 2.0])
    assert one.value == pytest.approx(3)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    still = welch_ratio([6.0, 6.0], [2.0, 2.0])
    assert still.value == pytest.approx(3)
    assert math.isnan(still.low), "no spread was seen, which is not to say that there is none"
    for wrong in ([], [0.0, 1.0], [-1.0]):
        with pytest.raises(ValueError):  # noqa: PT011 (math.log's own words)
            welch_ratio(wrong, [1.0, 2.0])


def closed_testing(p_values: list[float]) -> list[float]:
    """Holm's procedure by its reason: every intersection that holds a hypothesis is tested by Bonferroni."""
    every = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(every, size)]
    return [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in every]


@given(strategies.lists(strategies.floats(0, 1), max_size=7), strategies.lists(strategies.integers(0, 7), max_size=3))
def test_holm_against_closed_testing(p_values: list[float], missing: list[int]) -> None:
    given_values = list(p_values)
    for place in missing:
        given_values.insert(place, math.nan)
    found = holm(given_values)
    assert [math.isnan(p) for p in found] == [math.isnan(p) for p in given_values]
    assert [p for p in found if not math.isnan(p)] == pytest.approx(closed_testing(p_values))


def seeds_needed(sd_a: float, sd_b: float, difference: float) -> int:
    """Seeds per model with which Welch's test detects a difference with 80 % power, for known spreads."""

    def enough(seeds: int) -> bool:
        parts = [(sd**2 / seeds, seeds - 1) for sd in (sd_a, sd_b)]
        error = math.sqrt(sum(part for part, _ in parts))
        return power_of_t(difference, error, satterthwaite(parts)) >= 0.8

    return least(enough)


def test_power_against_the_noncentral_t() -> None:
    """A rule of thumb says 5 / 10 / 17 / 26. Five seeds have a power of 0.79 for σ = .10: six are needed."""
    assert [seeds_needed(sd, sd, 0.2) for sd in (0.10, 0.15, 0.20, 0.25)] == [6, 10, 17, 26]
    for sd, seeds in ((0.10, 5), (0.10, 6), (0.25, 25), (0.25, 26)):
        error, df = sd * math.sqrt(2 / seeds), 2 * seeds - 2
        edge, shift = stats.t.ppf(0.975, df), 0.2 / error
        theirs = stats.nct.sf(edge, df, shift) + stats.nct.cdf(-edge, df, shift)
        assert power_of_t(0.2, error, df) == pytest.approx(theirs)


def test_power_by_simulation() -> None:
    """Unequal spreads: scipy's Welch test detects the difference four times in five with that number of seeds."""
    seeds = seeds_needed(0.3, 0.1, 0.25)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.25, 0.3, (20_000, seeds)), rng.normal(0, 0.1, (20_000, seeds))
    power = (stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert 0.79 <= power <= 0.86


def test_power_at_its_ends() -> None:
    assert seeds_needed(0, 0, 0.1) == 2
    assert seeds_needed(0.001, 0.001, 0.2) == 2, "where scipy's noncentral t is nan"
    assert seeds_needed(0.2, 0.2, -0.2) == seeds_needed(0.2, 0.2, 0.2)
    normal = 2 * (1.959964 + 0.841621) ** 2 * (0.2 / 0.001) ** 2
    assert seeds_needed(0.2, 0.2, 0.001) == pytest.approx(normal, rel=1e-4)


def test_the_median_time_to_a_target() -> None:
    assert median_time([5, 9]) == 5, "a half is enough"
    assert median_time([9, 7, math.inf, 5]) == 7
    assert median_time([5, math.inf, math.inf]) is None
    assert median_time([31.4, 20.0, math.inf]) == 31.4
    with pytest.raises(ValueError, match="run"):
        median_time([])


@pytest.mark.parametrize(
    ("n", "ranks"),
    # Conover 1999, Practical Nonparametric Statistics, table A3: the sign test's critical values
    [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (50, (18, 33))],
)
def test_the_interval_of_a_median(n: int, ranks: tuple[int, int] | None) -> None:
    found = median_interval([float(i) for i in range(n, 0, -1)])
    assert found.value == (n + 1) / 2
    assert found.n == n
    assert (math.isnan(found.low) and math.isnan(found.high)) if ranks is None else (found.low, found.high) == ranks
