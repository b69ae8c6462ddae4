"""A verdict at a glance: one figure, its interval and one word for each question. Example: tiles_of([pair])[0].word

Each takes one pair, or the same pair in both tracks, shared first; figures and words are those of the sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.analysis.compare import Pair
from bench.analysis.equal_accuracy import clock_of, ratio_parts
from bench.analysis.verdicts import ACROSS_TRACKS, DEPENDS, NO_VERDICT, points
from bench.core.stats import Interval
from bench.present.report.sentences import CLAIMS, ratio_figure, signed

CLOCKS = {"seconds": "time", "samples": "samples", "flops": "operations"}  # of equal accuracy
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Figure:
    """A figure, and beneath it how sure it is."""

    value: str
    interval: str


@dataclass(frozen=True)
class Tile:
    """The answer to one question: a figure per track, and one word for all of them, if the figure is none."""

    question: str
    figures: tuple[Figure, ...]
    word: str

    @property
    def decided(self) -> bool:
        """Whether the word says more than that nothing is known."""
        return self.word not in (NO_VERDICT, UNKNOWN)


def tiles_of(tracks: Sequence[Pair]) -> tuple[Tile, ...]:
    """Accuracy, speed and equal accuracy of one pair, and the claim where it is about these models."""
    made = (_accuracy(tracks), _speed(tracks), _equal_accuracy(tracks))
    return (*made, _claim(tracks)) if tracks[0].claimed else made


def _accuracy(tracks: Sequence[Pair]) -> Tile:
    def figure(pair: Pair) -> Figure:
        d = pair.like_these
        value = f"{signed(d.value, d)} points"
        if math.isnan(d.low):
            return Figure(value, "no interval")
        scope = (
            "; only of these runs, one seed each" if d.seeds_a == d.seeds_b == 1 else "; only of these runs" * d.of_runs
        )
        return Figure(value, f"95 % interval {signed(d.low, d)} to {signed(d.high, d)}{scope}")

    words = [pair.verdict for pair in tracks]
    return Tile(
        "Accuracy", _figures(tracks, figure), words[0] if len(words) == 1 else ACROSS_TRACKS[words[0], words[1]]
    )


def _speed(tracks: Sequence[Pair]) -> Tile:
    def figure(pair: Pair) -> Figure:
        ratio = pair.speed
        if math.isnan(ratio.low):
            return Figure(f"{ratio_figure(ratio.value)}×", "one block, so no interval")
        return Figure(
            f"{ratio_figure(ratio.value)}×", f"95 % interval {ratio_figure(ratio.low)} to {ratio_figure(ratio.high)}"
        )

    timed = [pair for pair in tracks if pair.speed.n]
    if not timed:
        return Tile("Training speed", (Figure("–", "never timed together"),), UNKNOWN)
    words = [_beyond_one(pair.speed, "faster", "slower") for pair in timed]
    return Tile("Training speed", _figures(timed, figure), _together(words))


def _equal_accuracy(tracks: Sequence[Pair]) -> Tile:
    """How many times as long the less accurate model took to its own final accuracy as the other to the same."""

    def figure(pair: Pair) -> Figure:
        assert pair.equal_accuracy is not None
        value, ends = ratio_parts(pair.equal_accuracy, clock_of(pair.equal_accuracy))
        return Figure(
            value, f"{pair.equal_accuracy.leader} is there first; {ends}" if ends else "not reached by every seed"
        )

    known = [pair for pair in tracks if pair.equal_accuracy]
    if not known:
        return Tile("Time to equal accuracy", (Figure("–", "no common accuracy"),), UNKNOWN)
    clocks = {clock_of(pair.equal_accuracy) for pair in known if pair.equal_accuracy}
    words = [_sooner(pair) for pair in known]
    question = f"{CLOCKS[clocks.pop()].capitalize() if len(clocks) == 1 else 'Expense'} to equal accuracy"
    return Tile(question, _figures(known, figure), _together(words))


def _sooner(pair: Pair) -> str:
    """What the interval says of A, whichever of the two is the leader."""
    equal = pair.equal_accuracy
    assert equal is not None
    ahead = ("sooner", "later") if equal.leader == pair.a.model else ("later", "sooner")
    return _beyond_one(getattr(equal, clock_of(equal)).ratio, *ahead)


def _claim(tracks: Sequence[Pair]) -> Tile:
    """Its answer stands where the others have their figure."""
    answer = _together([CLAIMS[pair.claim] for pair in tracks])
    return Tile("The claim", (Figure(answer, f"“faster and at most {points(tracks[0].margin)} less accurate”"),), "")


def _figures(tracks: Sequence[Pair], figure: Callable[[Pair], Figure]) -> tuple[Figure, ...]:
    """One per track, which it names where there are two."""
    made = [(figure(pair), f"{pair.track} recipe: " if len(tracks) > 1 else "") for pair in tracks]
    return tuple(Figure(one.value, f"{track}{one.interval}") for one, track in made)


def _beyond_one(ratio: Interval, above: str, below: str) -> str:
    """What an interval of a ratio that leaves out 1 says."""
    return above if ratio.low > 1 else below if ratio.high < 1 else NO_VERDICT


def _together(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else DEPENDS
