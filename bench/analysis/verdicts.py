"""From figures to words. Example: verdict(difference, p_adjusted, margin=0.005) in VERDICTS

A word is about A against B, and about the models, not about single runs. Margins are shares in 0..1; sentences give
points.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from bench.analysis.crossed import Difference
from bench.core.errors import UserError
from bench.core.stats import Interval

BETTER, WORSE, EQUIVALENT, NO_VERDICT = "better", "worse", "equivalent", "no verdict"
VERDICTS = (BETTER, WORSE, EQUIVALENT, NO_VERDICT)
DEPENDS = "depends on the recipe"
SIGNIFICANT = 0.05
MOST_SEEDS, MOST_IMAGES = 100, 1_000_000  # more than this is not realistic advice

# of a search for a learning rate
ONE_SEED = "one seed a trial: the intervals hold for these rates, and leave out what another search might choose"


def verdict(difference: Difference, p_adjusted: float, margin: float) -> str:
    """One of VERDICTS. `margin` is the difference treated as equivalent; `p_adjusted` covers all tests of the family.

    Equivalent comes first: the whole 95 % interval lies within ± margin. These are two one-sided tests at 2.5 % each
    (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657), stricter than the usual 5 %. A
    difference may be certain and still too small to matter. Both tests must pass, so p needs no adjustment. Better and
    worse need p below 0.05 and the interval on their side of 0.

    A difference between single runs (`of_runs`, one seed on a side) gives no verdict on models.
    """
    if difference.of_runs:
        return NO_VERDICT
    if -margin < difference.low and difference.high < margin:
        return EQUIVALENT
    if p_adjusted < SIGNIFICANT and difference.low > 0:
        return BETTER
    if p_adjusted < SIGNIFICANT and difference.high < 0:
        return WORSE
    return NO_VERDICT


# The verdict on A against B under two recipes: one shared by all models, and the usual one of each family.
#
# The same verdict twice stands. Two different claims mean that the answer depends on the recipe; so do "equivalent" and
# "better", because an advantage that matters under one recipe is shown to be none under the other. "No verdict" beside
# a claim is no disagreement: the unknown verdict may be the same or the opposite, so nothing is shown under both.
ACROSS_TRACKS = {
    # (shared, family)
    (BETTER, BETTER): BETTER,
    (BETTER, WORSE): DEPENDS,
    (BETTER, EQUIVALENT): DEPENDS,
    (BETTER, NO_VERDICT): NO_VERDICT,
    (WORSE, BETTER): DEPENDS,
    (WORSE, WORSE): WORSE,
    (WORSE, EQUIVALENT): DEPENDS,
    (WORSE, NO_VERDICT): NO_VERDICT,
    (EQUIVALENT, BETTER): DEPENDS,
    (EQUIVALENT, WORSE): DEPENDS,
    (EQUIVALENT, EQUIVALENT): EQUIVALENT,
    (EQUIVALENT, NO_VERDICT): NO_VERDICT,
    (NO_VERDICT, BETTER): NO_VERDICT,
    (NO_VERDICT, WORSE): NO_VERDICT,
    (NO_VERDICT, EQUIVALENT): NO_VERDICT,
    (NO_VERDICT, NO_VERDICT): NO_VERDICT,
}


def claim(difference: Difference, speed_ratio: Interval, margin: float) -> str:
    """ "A is faster than B, and less accurate by the margin at most": holds, does not hold, or open.

    `speed_ratio` is A's speed over B's, above 1 where A is faster; `margin` is a share. The claim holds where the whole
    95 % intervals of both parts agree with it, and does not hold where one of them contradicts it. An interval of nan
    shows nothing, and neither does the accuracy of single runs (`of_runs`). Ends are judged as they are shown, with two
    decimals: a word that turned on the third would contradict the figures beside it.
    """
    ends = (math.nan, math.nan) if difference.of_runs else (difference.low, difference.high)
    low, high = (round(100 * end, 2) for end in ends)
    slowest, fastest, least = round(speed_ratio.low, 2), round(speed_ratio.high, 2), round(-100 * margin, 9)
    if slowest > 1 and low > least:
        return "holds"
    if fastest < 1 or high < least:
        return "does not hold"
    return "open"


def points(share: float) -> str:
    """0.005 -> "0.5 points"."""
    return f"{100 * share:.3g} point{'' if math.isclose(share, 0.01) else 's'}"


def what_would_help(
    difference: Difference, margin: float, seen: int | None, sought: int | None, images: int | None = None
) -> str:
    """One sentence on what would end a "no verdict": how many seeds, or test images, or nothing realistic.

    `seen` and `sought` are the seeds per model that detect, with a power of 80 %, the difference seen and one of the
    margin (`crossed.seeds_needed_for_images`); None where no number is enough. `images`: test images for the margin
    (`crossed.images_needed`), asked where seeds alone are not enough.
    """
    have = min(difference.seeds_a, difference.seeds_b)
    if difference.images < 2:
        return "One test image says nothing about others: test on some hundred at least."
    if have < 2:
        return "One seed says nothing about others: train each model with at least two seeds, better five."
    parts = [f"{_seeds(sought, have)} for the margin, {points(margin)}"]
    if difference.value:
        parts.insert(0, f"{_seeds(seen, have)} for the difference seen, {points(abs(difference.value))}")
    return (
        f"Seeds per model for 80 % power: {', '.join(parts)}{_help_for_the_margin(difference, have, sought, images)}."
    )


def _seeds(needed: int | None, have: int) -> str:
    if needed is None:
        return "no number"
    return f"the {have} here" if needed <= have else f"about {needed}" if needed <= MOST_SEEDS else f"over {MOST_SEEDS}"


def _help_for_the_margin(difference: Difference, have: int, sought: int | None, images: int | None) -> str:
    if sought is not None and sought <= have:
        return "; the difference lies too close to the margin"
    if sought is not None and sought <= MOST_SEEDS:
        return ""
    if images is not None and difference.images < images <= MOST_IMAGES:
        return f"; about {images:,} test images like these would do for the margin"
    return f"; for the margin not even {MOST_IMAGES:,} test images would do"


# --- conditions on an exit code --------------------------------------------------------------------------------------

METRICS = ("accuracy", "speed", "time_to_target", "flops")
CONDITION = re.compile(r"\s*(\w+)\s*([<>])\s*([-+]?[0-9][0-9.]*|[-+]?\.[0-9]+)\s*", re.ASCII)


class Condition(NamedTuple):
    """accuracy is A minus B in points; the other metrics are A's figure over B's. `operator` is < or >."""

    metric: str
    operator: str
    number: float


def parse_condition(text: str) -> Condition:
    """ "accuracy < -0.5" as data. Raises UserError with the choices for anything else."""
    found = CONDITION.fullmatch(text)
    try:
        condition = Condition(found[1], found[2], float(found[3])) if found else None
    except ValueError:  # 1.2.3
        condition = None
    if condition is None or condition.metric not in METRICS:
        raise UserError(
            f"not a condition: {text!r}; write METRIC < NUMBER or METRIC > NUMBER, with one of {', '.join(METRICS)}, "
            "such as 'accuracy < -0.5' (points) or 'speed < 1' (a ratio)"
        )
    if condition.metric != "accuracy" and condition.number <= 0:
        # a condition that is always or never met is a mistake that nobody would notice
        raise UserError(
            f"{text!r}: {condition.metric} is a ratio of A to B, always above 0; write for example "
            f"'{condition.metric} < 1'"
        )
    return condition


class Outcome(NamedTuple):
    """What became of a condition: passed, failed or undecided, why, and whether the command fails for it."""

    word: str
    why: str
    closes: bool


def outcome(condition: Condition, interval: Interval, required: bool) -> Outcome:
    """A condition of --fail-if, or with `required` of --require, on an interval in the metric's unit.

    The first fails where the whole interval meets the condition, the second unless it does. Without an interval both
    fail: a gate that nothing can close would stay open for ever, unnoticed.
    """
    if math.isnan(interval.low):
        return Outcome("failed", "there is no interval, so it cannot be tested", True)
    below = condition.operator == "<"
    if interval.high < condition.number if below else interval.low > condition.number:
        return Outcome("passed" if required else "failed", "the whole interval lies there", not required)
    if interval.low >= condition.number if below else interval.high <= condition.number:
        return Outcome("failed" if required else "passed", "the whole interval lies on the other side", required)
    return Outcome("undecided", "the interval lies on both sides", required)
