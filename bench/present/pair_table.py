"""Verdicts on pairs of models as text. Example: print(render(pairs, width=80))"""

from __future__ import annotations

import math
import statistics

from bench.analysis.compare import Pair, Reached, Side, across_tracks, median_seconds, timed_budget
from bench.analysis.crossed import Difference, mcnemar
from bench.analysis.equal_accuracy import clock_of, ratio_text, sentence, took_text
from bench.analysis.verdicts import ONE_SEED, points
from bench.core.stats import Interval
from bench.core.text import plural, significant
from bench.data.provenance import overlap
from bench.plan.recipes import TRACKS
from bench.present.grid import wrap

LABEL = 18  # characters before a figure
Line = tuple[str, str]  # a label and its figure; an empty label continues the one above


def render(pairs: list[Pair], width: int = 140) -> str:
    """All pairs as text, those of equal conditions under one title; ends in a newline."""
    parts, title = [], ""
    both = {id(pair): word for one, other, word in across_tracks(pairs) for pair in (one, other)}
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.question, []).append(pair)
    for group in groups.values():
        if (new := title_of(group[0])) != title:
            parts.append(wrap(new, width))
            title = new
        parts.append(_group_text(group, both.get(id(group[0]), ""), width))
    names = [pair.conditions.data_title for pair in pairs]
    warnings = dict.fromkeys(warning for name in names for warning in overlap(name, names))
    return "\n\n".join([*parts, *(wrap(warning, width) for warning in warnings)]) + "\n"


def verdict_line(pair: Pair, width: int) -> str:
    """`seresnet is better than vit_tiny: +14.53 points (+13.12 to +15.94)`; without a verdict, why.

    Where that is too long for one line, the figures stand together on the next.
    """
    a, b, like = pair.a.model, pair.b.model, pair.like_these
    sentence = f"{a} against {b}: no verdict" if pair.verdict == "no verdict" else _sentence(pair)
    scope = ", one seed each" if like.of_runs else ""
    line = f"{sentence}{scope}: {_points(like)}"
    return line if len(line) <= width else f"{wrap(f'{sentence}{scope}:', width, '  ')}\n  {_points(like)}"


def title_of(pair: Pair) -> str:
    """The conditions in one line."""
    c = pair.conditions
    threads = f", {plural(c.threads, 'thread')}" if c.threads else ""
    setting = f"{c.setting}{', deterministic' * c.deterministic}"
    content = f"{c.content}; " if c.content else ""
    return (
        f"{c.dataset} ({content}{c.train_images:,} training and {c.test_images:,} test images of {c.image_size} px) · "
        f"budget {c.budget_words}, {plural(c.validations, 'validation')}, batch {c.batch_size}, {c.precision}, "
        f"{setting} · {c.device_name}{threads}, torch {c.torch}{f' · {c.apart}' if c.apart else ''}"
    )


def verdict_text(pair: Pair, verdict: str) -> str:
    """The verdict, with its margin where it says that two are equivalent."""
    return f"equivalent within ±{points(pair.margin)}" if verdict == "equivalent" else verdict


def _group_text(group: list[Pair], both_tracks: str, width: int) -> str:
    """Two models under one set of conditions, track by track; `both_tracks`: the verdict across the tracks, if any."""
    a, b = group[0].a.model, group[0].b.model
    lines = [wrap(f"{a} against {b} (speed, seconds, FLOPs: {a} over {b})", width)]
    for pair in group:
        lines += ["", wrap(f"  {_where(pair)}: {_sentence(pair)}", width, "    ")]
        lines += [_aligned(label, figure, width) for label, figure in _lines(pair)]
        lines.append(wrap(f"    what would change this: {pair.what_would_change}", width, "      "))
    if both_tracks:
        shared, family = (next(pair.verdict for pair in group if pair.track == track) for track in TRACKS)
        text = f"  both tracks: {verdict_text(group[0], both_tracks)} (shared: {shared}; family: {family})"
        lines += ["", wrap(text, width, "    ")]
    return "\n".join(lines)


def _aligned(label: str, figure: str, width: int) -> str:
    indent = " " * (4 + LABEL)
    return indent[:4] + f"{label:{LABEL}}" + wrap(figure, max(width - len(indent), 20)).replace("\n", f"\n{indent}")


def _where(pair: Pair) -> str:
    recipe = pair.conditions.recipe if pair.track == "family" else f"recipe {pair.conditions.recipe}"
    return f"track {pair.track} ({recipe})" if pair.track else recipe


def _sentence(pair: Pair) -> str:
    """The verdict with its models."""
    verdict, a, b = pair.verdict, pair.a.model, pair.b.model
    if verdict == "equivalent":
        return f"{a} and {b} are {verdict_text(pair, verdict)}"
    if verdict == "no verdict":
        return "no verdict: one test image" if pair.like_these.images == 1 else verdict
    return f"{a} is {verdict} than {b}"


def _lines(pair: Pair) -> list[Line]:
    claim = f"{pair.a.model} is faster and at most {points(pair.margin)} less accurate: {pair.claim}"
    together = f"not timed together: run_bench.py time --models {pair.a.model},{pair.b.model}"
    claims = [("original claim" if pair.original_claim else "claim", claim)] if pair.claimed else []
    return [
        *_accuracy_lines(pair),
        ("training speed", _ratio(pair.speed, "interleaved block", together)),
        *([("training speed by batch", pair.by_batch)] if pair.by_batch else []),
        ("inference speed", _ratio(pair.inference, "interleaved block", "not timed together")),
        ("training seconds", _training_seconds(pair)),
        ("FLOPs per image", f"{_number(pair.flops.value)}×" if pair.flops.n else "not counted"),
        *(("left out", f"{side.model}: {', '.join(side.left_out)}") for side in (pair.a, pair.b) if side.left_out),
        *_equal_accuracy_lines(pair),
        *_target_lines(pair),
        *_search_lines(pair.a, pair.b),
        *claims,
    ]


def _accuracy_lines(pair: Pair) -> list[Line]:
    a, b, like, this = pair.a, pair.b, pair.like_these, pair.this_set
    accuracy = [f"{100 * float(side.right.mean()):.2f} %" for side in (a, b)]
    adjusted = f", {pair.p_like_these:.2g} among {plural(pair.tests, 'pair')} (Holm)" if pair.tests > 1 else ""
    if like.of_runs:
        scope = f"these two runs, other images; McNemar p = {mcnemar(a.right[0], b.right[0]).p:.2g}"
    else:
        seeds = f"{like.seeds_a} and {plural(like.seeds_b, 'seed')}"
        scope = f"images like these: {seeds}, {plural(like.images, 'image')}, p = {like.p:.2g}{adjusted}"
    lines = [("accuracy", " and ".join(accuracy)), ("difference", f"{_points(like)}, {scope}")]
    if pair.verdict == "no verdict" and pair.tests > 1 and not like.of_runs and (like.low > 0 or like.high < 0):
        word = "better" if like.low > 0 else "worse"
        lines.append(("", f"alone this pair would read {word}; such an interval is no rarity among {pair.tests} pairs"))
    if not math.isnan(this.low):
        lines.append(("", f"{_points(this)}, this test set: {pair.verdict_this_set}"))
    return lines


def _search_lines(a: Side, b: Side) -> list[Line]:
    if not (a.search_trials and b.search_trials):
        return []
    rates = " and ".join("/".join(f"{lr:g}" for lr in side.lr) for side in (a, b))
    samples = f"{a.search_samples:,.0f} and {b.search_samples:,.0f} additional samples"
    trials = plural(a.search_trials, "trial")
    lines = [("learning rates", f"{rates}, found on validation in {trials} each, {samples}")]
    if edge := [side.model for side in (a, b) if side.search_edge]:
        lines.append(("", f"{' and '.join(edge)}: the highest or lowest rate tried; a better one may lie beyond"))
    lines += [("", f"{side.model}: {side.search_doubt}") for side in (a, b) if side.search_doubt]
    return [*lines, ("", f"searched with {ONE_SEED}")]


def _training_seconds(pair: Pair) -> str:
    """The ratio of whole trainings."""
    if not pair.training_seconds.n:
        why = "the budget is a time" if timed_budget(pair.conditions) else "runs shared their device"
        return f"no ratio: {why}"
    ratio = _ratio(pair.training_seconds, "seed", "")
    alone = ", so no interval" if pair.training_seconds.n == 1 else ""
    sides = (pair.a.runs, pair.b.runs)
    means = [statistics.fmean(run.metrics.train_seconds or 0.0 for run in runs if run.timed_alone) for runs in sides]
    words = f"{ratio}{alone}; whole trainings, {' and '.join(f'{significant(mean)} s' for mean in means)}"
    if not any(run.seconds_from for runs in sides for run in runs):
        return words
    seeds = " and ".join(f"{s.model} seed {s.seed}" for runs in sides for s in [r.spec for r in runs if r.timed_alone])
    return f"{words}. All seconds are from {seeds}, alone: the others trained together"


def _equal_accuracy_lines(pair: Pair) -> list[Line]:
    """The time to the lower of the two final validation accuracies; then FLOPs and samples."""
    equal = pair.equal_accuracy
    if equal is None:
        return []
    lines = [("equal accuracy", sentence(equal))]
    others = [clock for clock in ("flops", "samples") if clock != clock_of(equal) and getattr(equal, clock) is not None]
    for clock in others:
        lines.append(("", f"{' against '.join(took_text(equal, clock))}: {ratio_text(equal, clock)}"))
    return lines


def _target_lines(pair: Pair) -> list[Line]:
    if pair.target is None or pair.reached is None:
        return [("time to target", "no target was named before the runs (--target)")]
    own, other = pair.reached
    when = "" if pair.named_before else ", a target chosen after the runs"
    goal = f"to {100 * pair.target:g} % on validation{when}; reached by {own.share} and {other.share}"
    if pair.time_to_target.n:
        means = " and ".join(_with_ends(side.mean("seconds"), "s") for side in pair.reached)
        lines = [("seconds", f"{_ratio(pair.time_to_target, 'seed', '')} {goal}"), ("", f"means {means}")]
    elif not (own.timed and other.timed):
        lines = [("seconds", f"none: runs shared their device; {goal}")]
    else:
        medians = [median_seconds(side) for side in pair.reached]
        ends = " and ".join("none" if median is None else f"{significant(median)} s" for median in medians)
        shown = f", medians {ends}" if any(median is not None for median in medians) else ""
        lines = [("seconds", f"no ratio: not all runs reached it; {goal}{shown}")]
    return [*lines, ("training FLOPs", _target_flops(pair, own, other))]


def _target_flops(pair: Pair, own: Reached, other: Reached) -> str:
    if not pair.flops_to_target.n:
        return "not counted" if own.all and other.all else "no ratio: not all runs reached it"
    flops = [
        _scaled(reached.mean("samples"), (side.train_flops or math.nan) / 1e12)
        for reached, side in ((own, pair.a), (other, pair.b))
    ]
    means = " and ".join(_with_ends(interval, "TFLOP") for interval in flops)
    return f"{_ratio(pair.flops_to_target, 'seed', '')} to the same; means {means}"


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor, interval.n)


def _with_ends(interval: Interval, unit: str) -> str:
    """`23.1 s (20.1–26.3)`."""
    ends = f" ({significant(interval.low)}–{significant(interval.high)})" if not math.isnan(interval.low) else ""
    return f"{significant(interval.value)} {unit}{ends}"


def _points(difference: Difference) -> str:
    """`+3.10 points (+1.20 to +5.00)`."""
    ends = f" ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})" if not math.isnan(difference.low) else ""
    return f"{100 * difference.value:+.2f} points{ends}"


def _ratio(ratio: Interval, counted: str, without: str) -> str:
    """`1.06× (0.99–1.12), 26 interleaved blocks`."""
    if not ratio.n:
        return without
    ends = f" ({_number(ratio.low)}–{_number(ratio.high)})" if not math.isnan(ratio.low) else ""
    return f"{_number(ratio.value)}×{ends}, {plural(ratio.n, counted)}"


def ends_text(metric: str, interval: Interval) -> str:
    """The ends of an interval that a condition is tested on: `+1.20 to +5.00 points`, `0.99× to 1.12×`."""
    if metric == "accuracy":
        return f"{interval.low:+.2f} to {interval.high:+.2f} points"
    return f"{_number(interval.low)}× to {_number(interval.high)}×"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else significant(value)
