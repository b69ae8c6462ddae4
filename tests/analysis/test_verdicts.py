"""Words: every case written out."""

from __future__ import annotations

import itertools
import math

import pytest

from bench.analysis.crossed import Difference
from bench.analysis.verdicts import ACROSS_TRACKS, VERDICTS, claim, fails, parse_condition, verdict, what_would_help
from bench.core.errors import UserError
from bench.core.stats import Interval


def between(low: float, high: float, seeds: int = 5, of_runs: bool = False) -> Difference:
    middle = (low + high) / 2
    return Difference(middle, low, high, 0.5, 8.0, (high - low) / 4, seeds, seeds, 10_000, of_runs)


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.006, 0.02, 0.01, "better"),
        (-0.02, -0.006, 0.01, "worse"),
        (-0.004, 0.004, 0.9, "equivalent"),
        (0.001, 0.004, 0.001, "equivalent"),  # certain, and too small to matter
        (0.001, 0.02, 0.03, "better"),
        (0.001, 0.02, 0.08, "no verdict"),  # not after Holm
        (-0.02, 0.02, 0.01, "no verdict"),  # an interval on both sides
        (-0.005, 0.004, 0.9, "no verdict"),  # touches the margin
        (-0.004, 0.02, 0.3, "no verdict"),
        (0.006, 0.02, math.nan, "no verdict"),
        (math.nan, math.nan, 0.01, "no verdict"),
    ],
)
def test_verdict(low: float, high: float, p: float, word: str) -> None:
    assert verdict(between(low, high), p, 0.005) == word


def test_single_runs_give_no_verdict_on_models() -> None:
    assert verdict(between(0.02, 0.03, seeds=1, of_runs=True), 1e-9, 0.005) == "no verdict"
    assert verdict(between(-0.001, 0.001, seeds=1, of_runs=True), 0.9, 0.005) == "no verdict"


def test_all_sixteen_pairs_follow_the_rule() -> None:
    assert set(ACROSS_TRACKS) == set(itertools.product(VERDICTS, repeat=2))
    assert len(ACROSS_TRACKS) == 16
    for (shared, family), word in ACROSS_TRACKS.items():
        silent = "no verdict" in (shared, family)
        assert word == (shared if shared == family else "no verdict" if silent else "depends on the recipe")
        assert word == ACROSS_TRACKS[family, shared]


@pytest.mark.parametrize(
    ("difference", "ratio", "word"),
    [
        ((-0.004, 0.01), (1.1, 1.3), "holds"),
        ((0.01, 0.02), (1.1, 1.3), "holds"),
        ((-0.004, 0.01), (0.7, 0.9), "does not hold"),
        ((-0.02, -0.006), (1.1, 1.3), "does not hold"),
        ((math.nan, math.nan), (0.7, 0.9), "does not hold"),
        ((-0.02, -0.006), (math.nan, math.nan), "does not hold"),
        ((-0.006, 0.01), (1.1, 1.3), "open"),
        ((-0.004, 0.01), (0.9, 1.3), "open"),
        ((-0.004, 0.01), (math.nan, math.nan), "open"),
        ((math.nan, math.nan), (1.1, 1.3), "open"),
    ],
)
def test_claim(difference: tuple[float, float], ratio: tuple[float, float], word: str) -> None:
    assert claim(between(*difference), Interval(1.0, *ratio, 10), 0.005) == word


def test_single_runs_do_not_decide_a_claim() -> None:
    for ends in ((-0.004, 0.01), (-0.03, -0.02)):
        assert claim(between(*ends, seeds=1, of_runs=True), Interval(1.2, 1.1, 1.3, 10), 0.005) == "open"
    assert claim(between(0, 1, seeds=1, of_runs=True), Interval(0.8, 0.7, 0.9, 10), 0.005) == "does not hold"


@pytest.mark.parametrize(
    ("have", "seeds", "images", "start"),
    [
        (1, None, None, "One seed says nothing"),
        (5, 17, None, "More seeds: about 17 per model detect a difference of 0.5 points"),
        (5, 4, None, "Only many more seeds: 5 per model already"),
        (5, None, 45_000, "More test images: about 45,000 like these detect a difference of 0.5 points"),
        (5, 900, 45_000, "More test images"),
        (5, None, 10**7, "Nothing realistic"),
        (5, 900, None, "Nothing realistic"),
        (5, None, None, "Nothing realistic"),
    ],
)
def test_what_would_help(have: int, seeds: int | None, images: int | None, start: str) -> None:
    advice = what_would_help(between(-0.01, 0.01, seeds=have), 0.005, seeds, images)
    assert advice.startswith(start)
    assert advice.endswith(".")
    assert advice.count(". ") == 0, "one sentence"


def test_one_point_is_no_points() -> None:
    assert "of 1 point with" in what_would_help(between(-0.01, 0.02), 0.01, 7, None)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("accuracy < -0.5", ("accuracy", "<", -0.5)),
        ("accuracy>+1", ("accuracy", ">", 1.0)),
        ("  speed<1.05 ", ("speed", "<", 1.05)),
        ("time_to_target > 1.1", ("time_to_target", ">", 1.1)),
        ("flops > .5", ("flops", ">", 0.5)),
    ],
)
def test_conditions(text: str, parsed: tuple[str, str, float]) -> None:
    assert parse_condition(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "", "accuracy", "accuracy < ", "< 1", "accuracy = 1", "accuracy <= 1", "accuracy < nan", "accuracy < inf",
        "accuracy < 1.2.3", "accuracy < 1%", "accuracy < 1 < 2", "acuracy < 1", "accuracy < １", "accuracy < 1\n; rm",
    ],
)  # fmt: skip
def test_what_is_no_condition_names_the_choices(text: str) -> None:
    with pytest.raises(UserError, match="accuracy, speed, time_to_target, flops") as refused:
        parse_condition(text)
    assert "\n" not in str(refused.value)


def test_a_ratio_is_never_below_zero() -> None:
    with pytest.raises(UserError, match="speed is a ratio"):
        parse_condition("speed < -0.5")


def test_the_whole_interval_must_fail() -> None:
    below, above = parse_condition("accuracy < -0.5"), parse_condition("flops > 2")
    assert fails(below, Interval(-0.8, -1.0, -0.6, 5))
    assert not fails(below, Interval(-0.8, -1.2, -0.4, 5))
    assert not fails(below, Interval(-0.8, math.nan, math.nan, 1))
    assert fails(above, Interval(2.5, 2.5, 2.5, 1))
    assert not fails(above, Interval(2.0, 2.0, 2.0, 1))
    assert not fails(above, Interval(2.5, math.nan, math.nan, 1))
