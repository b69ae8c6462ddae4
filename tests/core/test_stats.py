"""Intervals against published figures and an independent computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies
from scipy import stats

from bench.core.stats import (
    PILOT,
    blocks_needed,
    holm,
    kaplan_meier,
    kaplan_meier_median,
    log_ratios,
    mean_interval,
    ratio_interval,
    seeds_needed,
    share_interval,
    welch_ratio,
)


def test_wilson_against_newcombe() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
    found = share_interval(81 / 263, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("images", [1, 7, 360, 10_000])
def test_wilson_against_scipy(images: int) -> None:
    for right in {0, 1, images // 3, images}:
        theirs = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
        found = share_interval(right / images, images)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert share_interval(1.0, 360).high == 1.0
    assert 0.98 < share_interval(1.0, 360).low < 1.0
    assert share_interval(0.0, 360).low == 0.0


def test_ratio_cancels_drift() -> None:
    """A machine that halves its speed midway: within-block ratios do not notice."""
    drift = np.array([1, 1, 1, 2, 2, 2])
    found = ratio_interval((3 * drift).tolist(), drift.tolist())
    assert found.value == pytest.approx(3)
    assert found.low == pytest.approx(found.high) == pytest.approx(3)


def test_ratio_against_scipys_paired_t() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0.5, 0.1, 10), rng.lognormal(0, 0.1, 10)
    theirs = stats.ttest_1samp(np.log(a) - np.log(b), 0).confidence_interval(0.95)
    found = ratio_interval(a.tolist(), b.tolist())
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert found.n == 10


def test_mean_against_scipy() -> None:
    values = [0.91, 0.93, 0.92, 0.915]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_one_sample_has_no_interval() -> None:
    for found in (mean_interval([0.5]), ratio_interval([2.0], [1.0])):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.n == 1


def test_stein_by_hand() -> None:
    """t(9, 97.5 %) = 2.262157: a pilot of ten with deviation 0.05 needs (2.262157 * 0.05 / 0.02)^2 = 31.98 blocks."""
    pilot = np.array([1, -1] * 5, float)
    pilot *= 0.05 / pilot.std(ddof=1)
    assert blocks_needed([pilot.tolist()], 0.02, 200) == 32
    assert blocks_needed([pilot.tolist(), (pilot / 10).tolist()], 0.02, 200) == 32, "the noisiest pair decides"
    assert blocks_needed([(pilot / 100).tolist()], 0.02, 200) == PILOT
    assert blocks_needed([(pilot * 10).tolist()], 0.02, 200) == 200
    assert blocks_needed([], 0.02, 200) == PILOT


def coverage(rng: np.random.Generator, rule: str, trials: int = 4000) -> float:
    """The share of sessions of equal models whose interval holds 1; noise of 4 % a block, half-width 2 %."""
    logs = rng.normal(0, 0.04, (trials, 200))
    if rule == "stein":
        numbers = [blocks_needed([pilot], 0.02, 200) for pilot in logs[:, :PILOT].tolist()]
    else:  # look after every block from the third on, and stop when the interval happens to be narrow
        looks = np.arange(3, 200)
        sums, squares = (values.cumsum(axis=1)[:, 2:199] for values in (logs, logs**2))
        halves = stats.t.ppf(0.975, looks - 1) * np.sqrt((squares - sums**2 / looks) / (looks - 1) / looks)
        numbers = [int(looks[narrow][0]) if narrow.any() else 200 for narrow in halves <= 0.02]
    found = [ratio_interval(np.exp(row[:n]).tolist(), [1.0] * n) for row, n in zip(logs, numbers, strict=True)]
    return sum(interval.low <= 1 <= interval.high for interval in found) / trials


def test_the_stopping_rule_keeps_its_coverage() -> None:
    """4,000 sessions: a true 95 % lies above 0.943 with a probability of 98 %. Stopping at the first narrow interval
    loses points; this is why the rule does not do that."""
    rng = np.random.default_rng(5)
    assert coverage(rng, "stein") >= 0.943
    assert coverage(rng, "peek") < 0.94


def test_a_machine_that_becomes_noisy_after_the_pilot_widens_the_interval() -> None:
    rng = np.random.default_rng(1)
    quiet, noisy = rng.normal(0, 0.001, PILOT), rng.normal(0, 0.2, 30)
    seconds = np.exp(np.concatenate([quiet, noisy])).tolist()
    found = ratio_interval(seconds, [1.0] * 40)
    theirs = stats.ttest_1samp(log_ratios(seconds, [1.0] * 40), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))


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


def test_seeds_needed_against_the_noncentral_t() -> None:
    """FIELD §6 says 5 / 10 / 17 / 26. Five seeds have a power of 0.79 for σ = .10: six are needed."""
    assert [seeds_needed(sd, sd, 0.2) for sd in (0.10, 0.15, 0.20, 0.25)] == [6, 10, 17, 26]
    for sd, seeds, enough in ((0.10, 5, False), (0.10, 6, True), (0.25, 25, False), (0.25, 26, True)):
        edge, shift = stats.t.ppf(0.975, 2 * seeds - 2), 0.2 / (sd * math.sqrt(2 / seeds))
        power = stats.nct.sf(edge, 2 * seeds - 2, shift) + stats.nct.cdf(-edge, 2 * seeds - 2, shift)
        assert (power >= 0.8) == enough


def test_seeds_needed_by_simulation() -> None:
    """Unequal spreads: scipy's Welch test finds the difference four times in five with that number."""
    seeds = seeds_needed(0.3, 0.1, 0.25)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.25, 0.3, (20_000, seeds)), rng.normal(0, 0.1, (20_000, seeds))
    power = (stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert 0.79 <= power <= 0.86


def test_seeds_needed_at_its_ends() -> None:
    assert seeds_needed(0, 0, 0.1) == 2
    assert seeds_needed(0.001, 0.001, 0.2) == 2, "where scipy's noncentral t is nan"
    assert seeds_needed(0.2, 0.2, -0.2) == seeds_needed(0.2, 0.2, 0.2)
    normal = 2 * (1.959964 + 0.841621) ** 2 * (0.2 / 0.001) ** 2
    assert seeds_needed(0.2, 0.2, 0.001) == pytest.approx(normal, rel=1e-4)
    with pytest.raises(ValueError, match="difference of 0"):
        seeds_needed(0.1, 0.1, 0)


def test_kaplan_meier_by_hand() -> None:
    """Freireich et al. 1963 (Blood 21:699), weeks of remission in leukaemia under 6-MP: the textbook median is 23."""
    weeks = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    relapsed = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert kaplan_meier_median(weeks, [bool(r) for r in relapsed]) == 23


def test_kaplan_meier_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 4, 5, 20):
        for _ in range(20):
            times, reached = rng.integers(1, 12, n).astype(float), rng.random(n) < 0.6
            data = stats.CensoredData(uncensored=times[reached], right=times[~reached])
            theirs = stats.ecdf(data).sf
            below = [float(q) for q, p in zip(theirs.quantiles, theirs.probabilities, strict=True) if p <= 0.5 + 1e-12]
            assert kaplan_meier_median(times.tolist(), reached.tolist()) == (below[0] if below else None)
            ours = kaplan_meier(times.tolist(), reached.tolist())
            assert [time for time, _ in ours] == sorted(set(times[reached].tolist()))
            assert [float(share) for _, share in ours] == pytest.approx(theirs.evaluate([time for time, _ in ours]))


def test_kaplan_meier_at_its_ends() -> None:
    assert kaplan_meier_median([], []) is None
    assert kaplan_meier_median([5, 9, 9, 9], [True, False, False, False]) is None
    assert kaplan_meier_median([5, 7, 9, 9], [True, True, False, False]) == 7, "a half is enough"
    with pytest.raises(ValueError, match="shorter"):
        kaplan_meier_median([1.0, 2.0], [True])
