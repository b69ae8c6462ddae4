"""Order and end of a sweep, against closed forms, Graham's bound and every possible schedule."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.drive.forecast import Forecast, Size, makespan

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


def best(lengths: list[int], seats: int) -> int:
    """The shortest possible makespan, by trying every assignment of runs to seats."""
    deals = itertools.product(range(seats), repeat=len(lengths))
    return min(
        max(sum(n for n, s in zip(lengths, ways, strict=True) if s == seat) for seat in range(seats)) for ways in deals
    )


@pytest.mark.parametrize(
    ("seconds", "free", "end"),
    [
        ([], [], 0.0),
        ([], [3.0, 8.0], 8.0),  # only what runs already
        ([5.0], [], math.inf),
        ([5.0, 4.0, 3.0], [0.0], 12.0),
        (
            [7.0, 7.0, 6.0, 6.0, 5.0, 5.0, 5.0],
            [0.0, 0.0, 0.0],
            17.0,
        ),  # 7 5 | 7 5 | 6 6 5; the best is 15: 7 7 | 6 6 | 5 5 5
        ([2.0, 2.0], [10.0, 1.0], 10.0),
        ([2.0, 2.0, 7.0], [10.0, 1.0], 12.0),
    ],
)
def test_by_hand(seconds: list[float], free: list[float], end: float) -> None:
    assert makespan(seconds, free) == end


@given(LENGTHS, st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_longest_first_is_within_grahams_bound_of_the_best(lengths: list[int], seats: int) -> None:
    """4/3 - 1/(3 m) for longest first, 2 - 1/m for any order (Graham 1969)."""
    optimum = best(lengths, seats)
    longest_first = makespan(sorted(lengths, reverse=True), [0.0] * seats)
    assert optimum <= longest_first <= (4 / 3 - 1 / (3 * seats)) * optimum + 1e-9
    assert optimum <= makespan(lengths, [0.0] * seats) <= (2 - 1 / seats) * optimum + 1e-9


@pytest.mark.parametrize("seats", [2, 3, 5, 8])
def test_grahams_own_worst_case_is_reached(seats: int) -> None:
    """Two each of 2m - 1 .. m + 1 and three of m: 4m - 1 where 3m is possible."""
    lengths = [float(n) for n in range(2 * seats - 1, seats, -1) for _ in range(2)] + [float(seats)] * 3
    assert makespan(lengths, [0.0] * seats) == 4 * seats - 1
    assert sum(lengths) == 3 * seats * seats


@given(st.lists(st.floats(0.1, 1e5), max_size=40), st.lists(st.floats(0, 1e5), min_size=1, max_size=9))
def test_bounds_for_any_order_and_any_start(lengths: list[float], free: list[float]) -> None:
    end = makespan(lengths, free)
    assert end >= max(free)
    assert end >= (sum(lengths) + sum(free)) / len(free) * (1 - 1e-12)
    assert end <= max(free) + sum(lengths) / len(free) + max(lengths, default=0.0) + 1e-6
    if len(free) == 1:
        assert end == pytest.approx(free[0] + sum(lengths))


def test_the_longest_has_the_highest_rank() -> None:
    sizes = [Size("a", 1e9), Size("b", 2e9), Size("c", 1e9, 50.0), Size("d"), Size("e", None, 10.0)]
    assert [size.group for size in sorted(sizes, key=lambda size: size.rank, reverse=True)] == ["b", "c", "a", "e", "d"]


def test_seconds_of_equals_then_known_ones_then_by_flops() -> None:
    forecast = Forecast()
    size, other = Size("a", 1e12), Size("b", 4e12)
    assert forecast.seconds(size, "H100") is None
    assert forecast.seconds(Size("a", 1e12, 7.0), "H100") == 7.0
    forecast.learn(size, "H100", 10.0)
    forecast.learn(size, "H100", 14.0)
    assert forecast.seconds(size, "H100") == pytest.approx(12.0)  # the mean of its equals
    assert forecast.seconds(other, "H100") == pytest.approx(48.0)  # 2e12 FLOPs took 24 s
    assert forecast.seconds(other, "A100") == pytest.approx(48.0)  # as elsewhere, until this kind is known
    assert forecast.seconds(Size("c"), "H100") is None
    forecast.learn(other, "A100", 100.0)
    assert forecast.seconds(size, "A100") == pytest.approx(25.0)
    assert forecast.seconds(size, "H100") == pytest.approx(12.0)
    assert forecast.seconds(Size("b", 4e12, 7.0), "H100") == 7.0  # known from earlier runs, so not from FLOPs
    assert forecast.seconds(Size("d", 3e12), "L4") == pytest.approx(3e12 / (6e12 / 124))


def test_a_run_without_flops_teaches_only_its_equals() -> None:
    forecast = Forecast()
    forecast.learn(Size("a"), "cpu", 10.0)
    assert forecast.seconds(Size("a"), "cpu") == 10.0
    assert forecast.seconds(Size("b", 1e9), "cpu") is None
