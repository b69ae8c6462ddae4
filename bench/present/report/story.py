"""The verdict in two sentences and its most important caveat. Example: headline(pairs, comparisons).sentences

Of all pairs it picks the one that answers the project's question: what an SE-ResNet gives up or gains against a small
transformer under equal conditions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis.compare import TRANSFORMERS, Pair, Side, turned
from bench.analysis.conditions import Conditions
from bench.analysis.tables import Comparison, Row
from bench.analysis.verdicts import EQUIVALENT, points
from bench.core.errors import UserError
from bench.core.text import plural, significant
from bench.plan.keys import REFERENCE
from bench.plan.recipes import TRACKS
from bench.present.report.caveats import caveats
from bench.present.report.sentences import (
    accuracy_sentence,
    ratio_figure,
    seeds_text,
    signed,
    speed_sentence,
    times,
)
from bench.present.report.tiles import Tile, tiles_of
from bench.present.report.wording import data_text, listed, training_text

STATUS_WORDS = {
    "oom": "ran out of memory",
    "diverged": "diverged",
    "failed": "failed",
    "timeout": "took longer than allowed",
    "killed": "were killed",
    "interrupted": "were interrupted",
    "lost": "were lost with a machine",
}


@dataclass(frozen=True)
class Headline:
    """Two sentences and a caveat; what they are about; and one line for each other pair, track and data set.

    `tiles`: the same in figures; none where nothing could be compared.
    """

    sentences: tuple[str, str]
    caveat: str
    models: tuple[str, ...] = ()  # A and B, or the only one; none where nothing could be compared
    dataset: str = ""  # as records name it
    others: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()


def headline(
    pairs: Sequence[Pair],
    comparisons: Sequence[Comparison],
    reference: str = REFERENCE,
    claim: tuple[str, str] | None = None,
) -> Headline:
    """The verdict of these stores. `pairs` is what `compare.pairs` gives, empty where there are none.

    `claim`: (A, B), the pair that it is to be about. Raises UserError where these two cannot be compared.
    """
    pairs = [_named(pair, claim) or _oriented(pair, reference) for pair in pairs]
    named = [pair for pair in pairs if pair.named]
    if claim and not named:
        a, b = claim
        raise UserError(f"--claim: '{a}' and '{b}' cannot be compared; `run_bench.py compare {a} {b}` says why")
    if not pairs:
        return _without_pairs(comparisons, reference)
    tracks = chosen(named or pairs, reference)
    rest = [pair for pair in pairs if not any(pair is one for one in tracks)]
    rest.sort(key=lambda pair: reference not in (pair.a.model, pair.b.model))
    compared = {run.run_id for pair in pairs for side in (pair.a, pair.b) for run in side.runs}
    alone = [c for c in comparisons if c.rows and not compared & {*c.run_ids}]
    return Headline(
        sentences=(accuracy_sentence(tracks), speed_sentence(tracks)),
        caveat=caveats(tracks, comparisons)[0],
        models=(tracks[0].a.model, tracks[0].b.model),
        dataset=tracks[0].conditions.dataset,
        others=(*map(_pair_line, rest), *map(_lone_line, alone)),
        tiles=tiles_of(tracks),
    )


# --- which pair ------------------------------------------------------------------------------------------------------


def chosen(pairs: Sequence[Pair], reference: str = REFERENCE) -> list[Pair]:
    """The pair that answers the project's question, once for each track it was compared in. `pairs` is not empty.

    An SE-ResNet against a transformer or hybrid, if there is one; then the reference, both tracks, the most test
    images, the most seeds, the closest match in FLOPs, the newest.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.question, []).append(pair)
    # of groups that rank equal the newest; of equally new ones the first
    group = max(groups.values(), key=lambda group: (_rank(group, reference), max(map(_newest, group))))
    # two recipes of one's own may both have been tuned in track shared
    by_track = [[pair for pair in group if pair.track == track] for track in ("", *TRACKS)]
    return [max(of_track, key=_newest) for of_track in by_track if of_track]


def _rank(group: list[Pair], reference: str) -> tuple[float, ...]:
    pair = group[0]
    squeeze, against = _is_seresnet(pair.a, reference), _family(pair.b) in TRANSFORMERS
    return (
        2 * against + squeeze,
        against and _family(pair.a) == "cnn",
        pair.a.model == reference,
        len({one.track for one in group}),
        pair.like_these.images,
        min(pair.like_these.seeds_a, pair.like_these.seeds_b),
        -abs(math.log(pair.flops.value)) if pair.flops.n else -math.inf,
    )


def _newest(pair: Pair) -> str:
    return max(run.started for side in (pair.a, pair.b) for run in side.runs)


def _oriented(pair: Pair, reference: str) -> Pair:
    """The pair with the SE-ResNet as A, or else the one that is no transformer."""
    order = [(_is_seresnet(s, reference), s.model == reference, _family(s) == "cnn") for s in (pair.a, pair.b)]
    return turned(pair) if order[1] > order[0] else pair


def _named(pair: Pair, claim: tuple[str, str] | None) -> Pair | None:
    """The pair with A and B as in the claim; None where it is about others."""
    names = (pair.a.model, pair.b.model)
    if claim is None or {*names} != {*claim}:
        return None
    return replace(pair if names == claim else turned(pair), named=True)


def _is_seresnet(side: Side, reference: str) -> bool:
    return side.model == reference or (_family(side) == "cnn" and side.model.startswith("seresnet"))


def _family(side: Side) -> str:
    return side.runs[0].family


# --- one line each ---------------------------------------------------------------------------------------------------


def _pair_line(pair: Pair) -> str:
    """A pair that is not the headline's."""
    d, verdict = pair.like_these, pair.verdict
    interval = "" if math.isnan(d.low) else f" ({signed(d.low, d)} to {signed(d.high, d)})"
    speed = "not timed together"
    if pair.speed.n:
        ends = f"{ratio_figure(pair.speed.low)} to {ratio_figure(pair.speed.high)}"
        speed = f"{times(pair.speed)} the speed" + ("" if math.isnan(pair.speed.low) else f" ({ends})")
    verdict = f"equivalent within ±{points(pair.margin)}" if verdict == EQUIVALENT else verdict
    return (
        f"{_conditions(pair.conditions)}: {pair.a.model} against {pair.b.model}: {verdict}; "
        f"{signed(d.value, d)} points{interval}, {seeds_text(d)}; {speed}"
    )


def _lone_line(comparison: Comparison) -> str:
    """A comparison without a pair."""
    assert comparison.conditions is not None
    return f"{_conditions(comparison.conditions)}: {listed(list(map(_accuracy, comparison.rows)))}; not compared"


def _conditions(c: Conditions) -> str:
    """Everything that decides which figures may be read together."""
    track = f", track {c.track}" if c.track else f", recipe {c.recipe}"
    threads = f", {plural(c.threads, 'thread')}" if c.threads else ""
    return (
        f"{data_text(c)}, {c.train_images:,} training images, {c.budget_words}{track}, {c.precision}, {c.setting}"
        f"{threads}{f', {c.apart}' if c.apart else ''}"
    )


# --- without a pair --------------------------------------------------------------------------------------------------


def _without_pairs(comparisons: Sequence[Comparison], reference: str) -> Headline:
    """One model, nothing comparable, failures only, or nothing at all."""
    finished = [c for c in comparisons if c.rows]
    if not finished:
        return _nothing_finished(comparisons)
    first = max(finished, key=lambda c: (any(r.model == reference for r in c.rows), len(c.rows)))
    row = next((row for row in first.rows if row.model == reference), first.rows[0])
    if len({row.model for c in finished for row in c.rows}) == 1:
        why = "There is nothing to compare it with yet: a comparison needs a second model under the same conditions."
    elif len(first.rows) > 1:
        why = "These figures cannot be compared: the runs' predictions are missing or damaged."
    else:
        why = "No two models were trained under equal conditions, so nothing can be compared."
    assert first.conditions is not None
    start = f"On {data_text(first.conditions)}, after {training_text(first.conditions)}, "
    return Headline(
        sentences=(f"{start}{listed(list(map(_accuracy, first.rows)))}.", _own_speed(row)),
        caveat=why,
        models=(row.model,),
        dataset=first.conditions.dataset,
        others=tuple(_lone_line(c) for c in finished if c is not first),
    )


def _accuracy(row: Row) -> str:
    """`seresnet reached 56.79 % test accuracy (95 % interval 55.82 to 57.76; one seed)`."""
    value = row.values["accuracy"]
    interval = "" if math.isnan(value.low) else f"95 % interval {100 * value.low:.2f} to {100 * value.high:.2f}; "
    seeds = "one seed" if row.runs == 1 else f"{row.runs} seeds"
    return f"{row.model} reached {100 * value.value:.2f} % test accuracy ({interval}{seeds})"


def _own_speed(row: Row) -> str:
    speed = row.values.get("train_images_per_second")
    if speed is None:
        return f"The speed of {row.model} was not measured."
    return (
        f"{row.model} trains at {significant(speed.value)} images per second (median of {plural(speed.n, 'block')}; "
        f"quartiles {significant(speed.low)} and {significant(speed.high)})."
    )


def _nothing_finished(comparisons: Sequence[Comparison]) -> Headline:
    failed = [failure for comparison in comparisons for failure in comparison.failures]
    if not failed:
        return Headline(
            ("There are no finished runs yet.", "Accuracy and speed are unknown."),
            "To compare two models: python run_bench.py --models seresnet,vit_flops",
        )
    counts = Counter(failure.status for failure in failed)
    how = listed([f"{count} {_status_text(status, count)}" for status, count in counts.most_common()])
    what = f"None of {len(failed)} runs finished: {how}."
    if len(failed) == 1:
        what = f"The only run did not finish: it {_status_text(failed[0].status, 1)}."
    return Headline(
        (what, "Accuracy and speed are unknown."),
        "The runs' messages say what happened; the same command retries them.",
    )


def _status_text(status: str, count: int) -> str:
    text = STATUS_WORDS.get(status, status)
    return text.replace("were ", "was ") if count == 1 else text
