"""Intervals against published figures and an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.stats import mean_interval, ratio_interval, share_interval


def test_wilson_against_newcombe() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
    found = share_interval(81 / 263, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


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
