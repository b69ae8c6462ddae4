"""The two sentences of a verdict: accuracy, then speed and the claim. Example: accuracy_sentence([pair])

Each takes one pair, or the same pair in both tracks, shared first; words and figures are those of `compare`.
"""

from __future__ import annotations

import math

from bench.analysis.compare import Pair
from bench.analysis.crossed import Difference
from bench.analysis.equal_accuracy import sentence
from bench.analysis.verdicts import ACROSS_TRACKS, BETTER, DEPENDS, EQUIVALENT, NO_VERDICT, WORSE, points
from bench.core.stats import Interval
from bench.core.text import plural
from bench.present.report.wording import data_text, training_text

UNDER = {"shared": "under one shared recipe", "family": "under each family's own", "": ""}  # by track
CLAIMS = {"holds": "holds", "does not hold": "does not hold", "open": "stays open"}

# --- accuracy --------------------------------------------------------------------------------------------------------


def accuracy_sentence(tracks: list[Pair]) -> str:
    """Which model was more accurate, by how much, how surely."""
    pair = tracks[0]
    start = f"On {data_text(pair.conditions)}, after {training_text(pair.conditions)}, "
    if len(tracks) == 1:
        return f"{start}{_one_track(pair)}{_under(pair)} {_brackets(pair)}{_afterthought(pair)}{_equal(tracks)}."
    return f"{start}{_both_tracks(tracks)}: {_by_track(tracks)}{_equal(tracks)}."


def _equal(tracks: list[Pair]) -> str:
    """How long the more accurate model took to the other's accuracy, by track."""
    parts = [f"{_under(pair)} {sentence(pair.equal_accuracy)}" for pair in tracks if pair.equal_accuracy]
    return f";{','.join(parts)}" if parts else ""


def _under(pair: Pair) -> str:
    return f" {UNDER[pair.track]}{' recipe' * (pair.track == 'family')}" if pair.track else ""


def _one_track(pair: Pair) -> str:
    """What one track says, without its interval."""
    a, b, d, verdict = pair.a.model, pair.b.model, pair.like_these, pair.verdict
    if d.of_runs:
        was, that = ("were" if d.seeds_a > 1 else "was"), ("those" if d.seeds_b > 1 else "that")
        runs = "the one run" if d.seeds_a == 1 else f"the {d.seeds_a} runs"
        return f"{runs} of {a} {was} {_than(d)} {that} of {b}"
    comparison = f"{a} was {_than(d)} {b}"
    if verdict == EQUIVALENT:
        return f"{a} and {b} were equally accurate within ±{points(pair.margin)}: {comparison}"
    if verdict in (BETTER, WORSE) or excludes_zero(d):
        return comparison
    return f"{a} and {b} could not be told apart: {comparison}"


def _afterthought(pair: Pair) -> str:
    """Why a difference is no verdict, where the interval alone would look like one."""
    d = pair.like_these
    if d.images == 1:
        return ", no verdict: one test image"
    if d.of_runs:
        return f", which holds for these {'two ' * (d.seeds_a + d.seeds_b == 2)}runs only"
    if pair.verdict == NO_VERDICT and excludes_zero(d):
        return f", which may be chance among {pair.tests} pairs tested together: no verdict"
    return ""


def _both_tracks(tracks: list[Pair]) -> str:
    """What both tracks say together."""
    shared, family = (pair.verdict for pair in tracks)
    a, b, margin = tracks[0].a.model, tracks[0].b.model, tracks[0].margin
    if all(pair.verdict == NO_VERDICT and not excludes_zero(pair.like_these) for pair in tracks):
        return f"{a} and {b} could not be told apart"
    return {
        BETTER: f"{a} was more accurate than {b} under both kinds of recipe",
        WORSE: f"{a} was less accurate than {b} under both kinds of recipe",
        EQUIVALENT: f"{a} and {b} were equally accurate within ±{points(margin)} under both kinds of recipe",
        DEPENDS: f"whether {a} or {b} was more accurate depends on the recipe",
        NO_VERDICT: f"there is no verdict on {a} and {b} that holds under both kinds of recipe",
    }[ACROSS_TRACKS[shared, family]]


def _by_track(tracks: list[Pair]) -> str:
    """A's advantage in each track, with intervals; seeds and images once where they are equal."""
    numbers = [_numbers(pair.like_these) for pair in tracks]
    parts = []
    for index, pair in enumerate(tracks):
        repeated_later = numbers[index] in numbers[index + 1 :]
        who = f"{pair.a.model} was " if index == 0 else ""
        brackets = _brackets(pair, not repeated_later, index == 0)
        parts.append(f"{UNDER[pair.track]} {who}{_advantage(pair.like_these)} {brackets}")
    return ", ".join(parts)


def _advantage(d: Difference) -> str:
    """ "2.1 points more accurate"."""
    if d.value == 0:
        return "exactly as accurate"
    return f"{_figure(abs(d.value), d)} points {'more' if d.value > 0 else 'less'} accurate"


def _than(d: Difference) -> str:
    return f"{_advantage(d)} {'than' if d.value else 'as'}"


def _figure(share: float, d: Difference) -> str:
    """In points with one decimal, or two where the interval is narrow or a figure would read 0.0."""
    small = any(0 < abs(share) < 0.0005 for share in (d.value, d.low, d.high))
    return f"{100 * share:.{2 if small or math.isnan(d.low) or d.high - d.low < 0.02 else 1}f}"


def signed(share: float, d: Difference) -> str:
    """`−1.0`, in points."""
    return ("−" if share < 0 else "+") + _figure(abs(share), d)


def _brackets(pair: Pair, with_numbers: bool = True, with_word: bool = True) -> str:
    """`(95 % interval −1.0 to +5.2; 3 seeds each, 10,000 test images)`; without signs where A's side is plain."""
    d = pair.like_these
    if math.isnan(d.low):
        interval = "no interval"
    elif excludes_zero(d):
        interval = " to ".join(_figure(end, d) for end in sorted((abs(d.low), abs(d.high))))
    else:
        interval = f"{signed(d.low, d)} to {signed(d.high, d)}"
    if with_word and not math.isnan(d.low):
        interval = f"95 % interval {interval}" + " for other test images" * d.of_runs
    return f"({interval}; {_numbers(d)})" if with_numbers else f"({interval})"


def _numbers(d: Difference) -> str:
    return f"{seeds_text(d)}, {d.images:,} test images"


def seeds_text(d: Difference) -> str:
    """`3 seeds each`."""
    if d.seeds_a == d.seeds_b:
        return "one seed each" if d.seeds_a == 1 else f"{d.seeds_a} seeds each"
    return f"{d.seeds_a} and {d.seeds_b} seeds"


def excludes_zero(d: Difference) -> bool:
    """Whether the interval lies on one side of 0."""
    return d.low > 0 or d.high < 0


# --- speed -----------------------------------------------------------------------------------------------------------


def speed_sentence(tracks: list[Pair]) -> str:
    """The ratio of training speeds, and whether the original project's claim holds where it is about these models."""
    a, b = tracks[0].a.model, tracks[0].b.model
    claim = ""
    if tracks[0].claimed:
        claim = f"the claim “faster and at most {points(tracks[0].margin)} less accurate” {_claim(tracks)}"
    timed = [pair for pair in tracks if pair.speed.n]
    if not timed:
        unknown = f"{a} and {b} were never timed together, so their relative speed is unknown"
        return f"{unknown}, and {claim}." if claim else f"{unknown}."
    parts = []
    for index, pair in enumerate(timed):
        start = f"ran at {times(pair.speed)} the speed of {b}" if index == 0 else f"at {times(pair.speed)}"
        parts.append(f"{start}{_under(pair)} {_speed_brackets(pair.speed, index == 0)}")
    return f"One training step of {a} {' and '.join(parts)}{f', so {claim}' if claim else ''}."


def times(ratio: Interval) -> str:
    """`2.00 times`."""
    return f"{ratio_figure(ratio.value)} times"


def ratio_figure(value: float) -> str:
    """Two decimals, with which the claim is judged."""
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _speed_brackets(ratio: Interval, first: bool) -> str:
    blocks = plural(ratio.n, "interleaved block" if first else "block")
    if math.isnan(ratio.low):
        return f"({blocks})"
    return f"({'95 % interval ' * first}{ratio_figure(ratio.low)} to {ratio_figure(ratio.high)}; {blocks})"


def _claim(tracks: list[Pair]) -> str:
    words = [CLAIMS[pair.claim] for pair in tracks]
    if len(words) == 1:
        # the claim is a question of its own, while better and worse are asked of all pairs at once
        alone = tracks[0].tests > 1 and words[0] == "holds" and tracks[0].verdict == NO_VERDICT
        return f"{words[0]} here{' by its own intervals, not corrected for the other pairs' * alone}"
    if len(set(words)) == 1:
        return f"{words[0]} under {'either' if 'not' in words[0] else 'both'}"
    by_track = {pair.track: word for pair, word in zip(tracks, words, strict=True)}
    return f"{by_track['shared']} under the shared recipe and {by_track['family']} under the families' own"
