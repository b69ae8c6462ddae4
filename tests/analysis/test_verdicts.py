"""Words: every case written out."""

from __future__ import annotations

import itertools
import math

import pytest

from bench.analysis.crossed import Difference
from bench.analysis.verdicts import ACROSS_TRACKS, VERDICTS, claim, outcome, parse_condition, verdict, what_would_help
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
        # as shown: 0.88 to 1.00, 1.00 to 1.20, −0.50 to 0.20, −2.00 to −0.50
        ((-0.004, 0.01), (0.88, 0.998), "open"),
        ((-0.004, 0.01), (1.004, 1.2), "open"),
        ((-0.00496, 0.002), (1.1, 1.3), "open"),
        ((-0.02, -0.00504), (1.1, 1.3), "open"),
        ((-0.004, 0.01), (0.88, 0.994), "does not hold"),
        ((-0.00494, 0.002), (1.006, 1.3), "holds"),
    ],
)
def test_claim(difference: tuple[float, float], ratio: tuple[float, float], word: str) -> None:
    assert claim(between(*difference), Interval(1.0, *ratio, 10), 0.005) == word


def test_single_runs_do_not_decide_a_claim() -> None:
    for ends in ((-0.004, 0.01), (-0.03, -0.02)):
        assert claim(between(*ends, seeds=1, of_runs=True), Interval(1.2, 1.1, 1.3, 10), 0.005) == "open"
    assert claim(between(0, 1, seeds=1, of_runs=True), Interval(0.8, 0.7, 0.9, 10), 0.005) == "does not hold"


SEEN = "for the difference seen, 3.7 points, "


@pytest.mark.parametrize(
    ("have", "seen", "margin", "images", "advice"),
    [
        (
            1,
            None,
            None,
            None,
            "One seed says nothing about others: train each model with at least two seeds, better five.",
        ),
        (3, 4, 17, None, f"Seeds per model for 80 % power: about 4 {SEEN}about 17 for the margin, 0.5 points."),
        (
            *(5, 3, 4, None),
            f"Seeds per model for 80 % power: the 5 here {SEEN}the 5 here for the margin, 0.5 points; the difference "
            "lies too close to the margin.",
        ),
        (
            *(5, 6, None, 45_000),
            f"Seeds per model for 80 % power: about 6 {SEEN}no number for the margin, 0.5 points; about 45,000 test "
            "images like these would do for the margin.",
        ),
        (
            *(5, None, 900, 10**7),
            f"Seeds per model for 80 % power: no number {SEEN}over 100 for the margin, 0.5 points; for the margin not "
            "even 1,000,000 test images would do.",
        ),
    ],
)
def test_what_would_help(have: int, seen: int | None, margin: int | None, images: int | None, advice: str) -> None:
    d = between(-0.01, 0.084, seeds=have)
    assert what_would_help(d, 0.005, seen, margin, images) == advice


def test_no_difference_needs_no_seeds_and_one_point_is_no_points() -> None:
    found = what_would_help(between(-0.01, 0.01), 0.01, None, 7)
    assert found == "Seeds per model for 80 % power: about 7 for the margin, 1 point."


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


NAN = math.nan


@pytest.mark.parametrize(
    ("text", "ends", "fail_if", "require"),
    [  # (word, whether the command fails)
        ("accuracy < -0.5", (-1.0, -0.6), ("failed", True), ("passed", False)),
        ("accuracy < -0.5", (-7.35, 4.95), ("undecided", False), ("undecided", True)),
        ("accuracy < -0.5", (-0.5, 0.4), ("passed", False), ("failed", True)),
        ("accuracy < -0.5", (NAN, NAN), ("failed", True), ("failed", True)),
        ("accuracy > -0.5", (-0.4, 0.4), ("failed", True), ("passed", False)),
        ("accuracy > -0.5", (-0.5, 0.4), ("undecided", False), ("undecided", True)),
        ("flops > 2", (2.0, 2.0), ("passed", False), ("failed", True)),
        ("flops > 2", (2.5, 2.5), ("failed", True), ("passed", False)),
    ],
)
def test_a_condition_passes_fails_or_is_undecided(
    text: str, ends: tuple[float, float], fail_if: tuple[str, bool], require: tuple[str, bool]
) -> None:
    for required, wanted in ((False, fail_if), (True, require)):
        found = outcome(parse_condition(text), Interval(0.0, *ends, 5), required)
        assert (found.word, found.closes) == wanted
        assert found.why
