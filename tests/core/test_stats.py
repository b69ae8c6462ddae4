"""Intervals of paired samples against an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.core.stats import (
    ONE_START,
    PILOT,
    Interval,
    blocks_needed,
    difference_of_shares,
    log_ratios,
    mean_interval,
    ratio_interval,
    ratio_over_starts,
    share_interval,
)


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
    """The share of sessions of equal models whose interval contains 1; noise of 4 % per block, half-width 2 %."""
    logs = rng.normal(0, 0.04, (trials, 200))
    if rule == "stein":
        numbers = [blocks_needed([pilot], 0.02, 200) for pilot in logs[:, :PILOT].tolist()]
    else:  # check after every block from the third on, and stop as soon as the interval is narrow
        looks = np.arange(3, 200)
        sums, squares = (values.cumsum(axis=1)[:, 2:199] for values in (logs, logs**2))
        halves = stats.t.ppf(0.975, looks - 1) * np.sqrt((squares - sums**2 / looks) / (looks - 1) / looks)
        numbers = [int(looks[narrow][0]) if narrow.any() else 200 for narrow in halves <= 0.02]
    found = [ratio_interval(np.exp(row[:n]).tolist(), [1.0] * n) for row, n in zip(logs, numbers, strict=True)]
    return sum(interval.low <= 1 <= interval.high for interval in found) / trials


def test_the_stopping_rule_keeps_its_coverage() -> None:
    """With 4,000 sessions, a true 95 % gives more than 0.943 with a probability of 98 %. Stopping at the first narrow
    interval loses coverage: this is why the rule does not do that."""
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


# --- over process starts ---------------------------------------------------------------------------------------------


def test_over_starts_by_hand() -> None:
    """Logarithms 0.01, 0.03, 0.05 in three quiet starts: mean 0.03, standard error 0.02/sqrt(3), t(2) = 4.3027."""
    starts = [[math.exp(x)] * 4 for x in (0.01, 0.03, 0.05)]
    found = ratio_over_starts(starts, [[1.0] * 4] * 3)
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert found == pytest.approx((math.exp(0.03), math.exp(0.03 - half), math.exp(0.03 + half), 12))


def test_starts_that_agree_by_luck_are_no_surer_than_their_blocks() -> None:
    """Blocks of +-0.03 in four blocks: variance 0.0012, of the mean of 12 blocks 0.0001."""
    starts = [[math.exp(x) for x in (0.03, -0.03, 0.03, -0.03)]] * 3
    found = ratio_over_starts(starts, [[1.0] * 4] * 3)
    assert math.log(found.high) == pytest.approx(4.302653 * 0.01)


@pytest.mark.parametrize(("log", "verdict"), [(0.019, False), (-0.019, False), (0.021, True), (-0.021, True)])
def test_one_start_gives_no_verdict_on_two_percent(log: float, verdict: bool) -> None:
    """However quiet its blocks; a wider interval stays as it is, and one block still has none."""
    quiet = ratio_over_starts([[math.exp(log)] * 20], [[1.0] * 20])
    assert (not quiet.low <= 1 <= quiet.high) == verdict
    assert math.log(quiet.high) == pytest.approx(log + ONE_START)
    noisy = [1.0, 1.3, 0.9, 1.4, 1.1]
    assert ratio_over_starts([noisy], [[1.0] * 5]) == ratio_interval(noisy, [1.0] * 5)
    assert math.isnan(ratio_over_starts([[2.0]], [[1.0]]).low)


def sessions(rng: np.random.Generator, number: int, log: float, starts: int, blocks: int) -> list[Interval]:
    """Intervals of simulated sessions: a start shifts the ratio by 1 % (sd), each block by 2 %."""
    logs = log + 0.01 * rng.standard_normal((number, starts, 1)) + 0.02 * rng.standard_normal((number, starts, blocks))
    ones = [[1.0] * blocks] * starts
    return [ratio_over_starts(np.exp(one).tolist(), ones) for one in logs]


def test_simulated_sessions_are_honest_and_still_see_five_percent() -> None:
    """As benchmarks/trust.py asks: A/A holds 1 in at least 93 % of 200 sessions, 5 % is seen in 18 of 20.

    With the components measured (LOG.md) and as many blocks as a session of three starts takes.
    """
    rng = np.random.default_rng(0)
    same = sessions(rng, 200, 0.0, 3, 10)
    assert sum(one.low <= 1 <= one.high for one in same) >= 186
    slower = sessions(rng, 200, -0.05, 3, 10)
    assert sum(one.high < 1 for one in slower) >= 180
    alone = [ratio_interval(np.exp(row).tolist(), [1.0] * 30) for row in
             0.01 * rng.standard_normal((200, 1)) + 0.02 * rng.standard_normal((200, 30))]  # fmt: skip
    assert sum(one.low <= 1 <= one.high for one in alone) < 160, "blocks of one start alone are far too sure"


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


def test_a_difference_of_shares_against_newcombe() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10: 56 of 70 and 48 of 80."""
    found = difference_of_shares(share_interval(56 / 70, 70), share_interval(48 / 80, 80))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
