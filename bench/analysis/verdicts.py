"""Figures to words. Example: verdict(on_images_like_these(a, b), p_adjusted, margin=0.005) -> "no verdict"

A word is of A against B, and of the models, not of single runs. Margins are shares in 0..1; sentences speak of points.
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
MOST_SEEDS, MOST_IMAGES = 100, 1_000_000  # beyond these a remedy is none


def verdict(difference: Difference, p_adjusted: float, margin: float) -> str:
    """One of VERDICTS. `margin` is the share that makes no difference; `p_adjusted` of the family it was tested in.

    Equivalent comes first, where the whole 95 % interval lies within ± margin: two one-sided tests at 2.5 % each
    (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657), stricter than the usual 5 %. A
    difference may be certain and too small to matter. It needs no adjustment upwards: A must pass both tests at once.
    Better and worse need p below 0.05 and the interval on their side of 0.

    What is known of these runs alone (`of_runs`, one seed on a side) gives no verdict on models.
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


# Of A against B under two recipes: one shared by all models, and the one its family is usually trained with.
#
# The same word twice stands. Two different words that each claim something cannot both be told of the models alone:
# which holds depends on the recipe. Equivalent beside better is such a pair too: an advantage that matters under one
# recipe is shown to be none under the other. No verdict beside a claim is a silence, not a disagreement: it may hide
# the same word or its opposite, so that neither the claim nor a dependence has been shown under both.
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
    """ "A is faster than B, and not less accurate than the margin allows": holds, does not hold, or open.

    `speed_ratio` is A's speed over B's, above 1 where A is faster; `margin` a share. It holds where both halves do with
    their whole 95 % intervals, and does not where one of them is refuted by its own; nan shows nothing. The accuracy
    of single runs (`of_runs`) shows nothing of models either.
    """
    low, high = (math.nan, math.nan) if difference.of_runs else (difference.low, difference.high)
    if speed_ratio.low > 1 and low > -margin:
        return "holds"
    if speed_ratio.high < 1 or high < -margin:
        return "does not hold"
    return "open"


def points(share: float) -> str:
    """0.005 -> "0.5 points"."""
    return f"{100 * share:.3g} point{'' if math.isclose(share, 0.01) else 's'}"


def what_would_help(
    difference: Difference, sought: float, seeds: int | None, images: int | None, most_seeds: int = MOST_SEEDS
) -> str:
    """One sentence on what would end a "no verdict": more seeds, more test images, or nothing realistic.

    `sought` is the share that is to be seen four times in five, usually the margin; `seeds` (each model) and `images`
    are what that takes by `crossed.seeds_needed_for_images` and `images_needed`, None where no number does. Both are
    estimates from the runs there are.
    """
    have = min(difference.seeds_a, difference.seeds_b)
    if have < 2:
        return "One seed tells nothing of the next: train each model with at least two seeds, better with five."
    if seeds is not None and seeds <= have:
        return (
            f"Only many more seeds: {have} each model already see a difference of {points(sought)} four times in five, "
            "and this one lies too near the edge of what matters."
        )
    if seeds is not None and seeds <= most_seeds:
        return f"More seeds: with about {seeds} each model a difference of {points(sought)} is seen four times in five."
    if images is not None and difference.images < images <= MOST_IMAGES:
        return (
            f"More test images: about {images:,} like these show a difference of {points(sought)} four times in five, "
            f"while on {difference.images:,} not even {most_seeds} seeds each model do."
        )
    return (
        f"Nothing realistic: neither {most_seeds} seeds each model nor {MOST_IMAGES:,} test images show a difference "
        f"of {points(sought)} four times in five."
    )


# --- conditions on an exit code --------------------------------------------------------------------------------------

METRICS = ("accuracy", "speed", "time_to_target", "flops")
CONDITION = re.compile(r"\s*(\w+)\s*([<>])\s*([-+]?[0-9][0-9.]*|[-+]?\.[0-9]+)\s*", re.ASCII)


class Condition(NamedTuple):
    """accuracy: A minus B in points; the others: A's figure over B's. `operator` is < or >."""

    metric: str
    operator: str
    number: float


def parse_condition(text: str) -> Condition:
    """ "accuracy < -0.5" as data; UserError with the choices where it is not such a condition."""
    found = CONDITION.fullmatch(text)
    try:
        condition = Condition(found[1], found[2], float(found[3])) if found else None
    except ValueError:  # 1.2.3
        condition = None
    if condition is None or condition.metric not in METRICS:
        raise UserError(
            f"no condition: {text!r}; write METRIC < NUMBER or METRIC > NUMBER, with one of {', '.join(METRICS)}, such "
            "as 'accuracy < -0.5' (points) or 'speed < 1' (a ratio)"
        )
    if condition.metric != "accuracy" and condition.number <= 0:
        # a gate that can never close, or never open, is a mistake that nobody would notice
        raise UserError(
            f"{text!r}: {condition.metric} is a ratio of A to B and always above 0, such as '{condition.metric} < 1'"
        )
    return condition


def fails(condition: Condition, interval: Interval) -> bool:
    """Is the condition met by the whole interval? In the metric's unit: points or a ratio. An interval of nan: no."""
    if condition.operator == "<":
        return interval.high < condition.number
    return interval.low > condition.number
