"""Pairs as text and as rows. Example: print(render(pairs([Store(Path("results/local"))], ["seresnet", "vit_tiny"])))"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.analysis.compare import Pair, Reached, Side, across_tracks, median_seconds, pairs
from bench.analysis.crossed import Difference, mcnemar
from bench.analysis.verdicts import points
from bench.core.errors import UserError
from bench.core.files import to_csv, write_atomically
from bench.core.stats import Interval
from bench.data.provenance import overlap
from bench.plan.recipes import TRACKS
from bench.present.session_table import significant
from bench.store.disk import Store

VERDICTS = "verdicts.csv"
# fmt: off
COLUMNS = (
    "dataset", "content", "image_size", "train_images", "test_images", "budget", "track", "recipe",
    "model_a", "model_b", "seeds_a", "seeds_b",
    "verdict", "verdict_this_set", "verdict_both_tracks", "claim", "margin_points",
    "difference_points", "low_points", "high_points", "p", "p_holm", "pairs_tested",
    "low_points_this_set", "high_points_this_set", "p_this_set", "p_holm_this_set", "mcnemar_p",
    "speed_ratio", "speed_ratio_low", "speed_ratio_high", "speed_blocks",
    "inference_ratio", "inference_ratio_low", "inference_ratio_high", "flops_ratio",
    "target", "target_named_before", "reached_a", "reached_b", "median_seconds_a", "median_seconds_b",
    "mean_seconds_a", "mean_seconds_a_low", "mean_seconds_a_high",
    "mean_seconds_b", "mean_seconds_b_low", "mean_seconds_b_high",
    "mean_train_flops_a", "mean_train_flops_a_low", "mean_train_flops_a_high",
    "mean_train_flops_b", "mean_train_flops_b_low", "mean_train_flops_b_high",
    "seconds_ratio", "seconds_ratio_low", "seconds_ratio_high",
    "target_flops_ratio", "target_flops_ratio_low", "target_flops_ratio_high",
    "lr_a", "lr_b", "lr_a_at_edge", "lr_b_at_edge", "search_trials", "search_samples_a", "search_samples_b",
    "left_out_a", "left_out_b",
    "validations", "batch_size", "precision", "setting", "deterministic", "device_name", "threads", "torch",
    "what_would_change",
)
# fmt: on


def to_rows(made: list[Pair]) -> list[dict[str, Any]]:
    """One row a pair, with COLUMNS as keys; accuracies in points, None where there is no figure."""
    both = {id(pair): word for one, other, word in across_tracks(made) for pair in (one, other)}
    rows = []
    for pair in made:
        a, b, like, this = pair.a, pair.b, pair.like_these, pair.this_set
        row: dict[str, Any] = {
            **pair.about,
            "model_a": a.model,
            "model_b": b.model,
            "seeds_a": like.seeds_a,
            "seeds_b": like.seeds_b,
            **{k: pair.words[k] for k in ("verdict", "verdict_this_set", "claim")},
            "verdict_both_tracks": both.get(id(pair)),
            "margin_points": 100 * pair.margin,
            "difference_points": 100 * like.value,
            "low_points": 100 * like.low,
            "high_points": 100 * like.high,
            "p": like.p,
            "p_holm": pair.p_like_these,
            "pairs_tested": pair.tests,
            "low_points_this_set": 100 * this.low,
            "high_points_this_set": 100 * this.high,
            "p_this_set": this.p,
            "p_holm_this_set": pair.p_this_set,
            "mcnemar_p": mcnemar(a.right[0], b.right[0]).p if like.of_runs else None,
            **_ratio_cells("speed_ratio", pair.speed),
            "speed_blocks": pair.speed.n or None,
            **_ratio_cells("inference_ratio", pair.inference),
            "flops_ratio": pair.flops.value,
            "target": pair.target,
            "target_named_before": pair.named_before if pair.target is not None else None,
            **_ratio_cells("seconds_ratio", pair.time_to_target),
            **_ratio_cells("target_flops_ratio", pair.flops_to_target),
            "lr_a": " ".join(f"{lr:g}" for lr in a.lr),
            "lr_b": " ".join(f"{lr:g}" for lr in b.lr),
            "lr_a_at_edge": a.search_edge if a.search_trials else None,
            "lr_b_at_edge": b.search_edge if b.search_trials else None,
            "search_trials": a.search_trials or None,
            "search_samples_a": a.search_samples or None,
            "search_samples_b": b.search_samples or None,
            "left_out_a": "; ".join(a.left_out) or None,
            "left_out_b": "; ".join(b.left_out) or None,
            "what_would_change": pair.words["help"],
        }
        for name, (reached, side) in zip("ab", _sides(pair), strict=False):
            row |= {f"reached_{name}": reached.share, f"median_seconds_{name}": median_seconds(reached)}
            row |= _ratio_cells(f"mean_seconds_{name}", reached.mean("seconds"))
            flops = _scaled(reached.mean("samples"), side.train_flops or math.nan)
            row |= _ratio_cells(f"mean_train_flops_{name}", flops)
        rows.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return rows


def to_csv_bytes(made: list[Pair]) -> bytes:
    """One row a pair, as `compare --out` and verdicts.csv have them."""
    return to_csv(COLUMNS, to_rows(made))


def verdicts_csv(store: Store) -> bytes | None:
    """A store's verdicts.csv: every pair that has one. None where no two models have runs under equal conditions."""
    try:
        return to_csv_bytes(pairs([store]))
    except UserError:
        return None


def write_verdicts(store: Store) -> Path | None:
    """Write verdicts.csv and return its path; None where there is nothing to write."""
    if (content := verdicts_csv(store)) is None:
        return None
    path = store.root / VERDICTS
    write_atomically(path, content)
    return path


def _ratio_cells(name: str, ratio: Interval) -> dict[str, float]:
    return {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}


def render(made: list[Pair]) -> str:
    """All pairs as text, those of equal conditions under one title; ends in a newline."""
    parts, title = [], ""
    both = {id(pair): word for one, other, word in across_tracks(made) for pair in (one, other)}
    groups: dict[str, list[Pair]] = {}
    for pair in made:
        groups.setdefault(pair.asks, []).append(pair)
    for group in groups.values():
        pair = group[0]
        new = title_of(pair)
        if new != title:
            parts.append(new)
            title = new
        lines = [f"{pair.a.model} against {pair.b.model}"]
        for one in group:
            lines += ["", *(f"  {line}" for line in _lines(one))]
        if word := both.get(id(pair)):
            shared, family = (next(p.words["verdict"] for p in group if p.track == track) for track in TRACKS)
            lines += ["", f"  both tracks: {verdict_words(pair, word)} (shared: {shared}; family: {family})"]
        parts.append("\n".join(lines))
    names = [f"{pair.about['dataset']} {pair.about['content']}" for pair in made]
    parts += dict.fromkeys(warning for name in names for warning in overlap(name, names))
    return "\n\n".join(parts) + "\n"


def title_of(pair: Pair) -> str:
    """The conditions in one line."""
    about = pair.about
    threads = f", {about['threads']} threads" if about["threads"] else ""
    setting = f"{about['setting']}{', deterministic' * about['deterministic']}"
    content = f"{about['content']}; " if about["content"] else ""
    return (
        f"{about['dataset']} ({content}{about['train_images']:,} training and {about['test_images']:,} test images of "
        f"{about['image_size']} px) · budget {about['budget']}, {about['validations']} validations, batch "
        f"{about['batch_size']}, {about['precision']}, {setting} · "
        f"{about['device_name']}{threads}, torch {about['torch']}"
    )


def verdict_words(pair: Pair, word: str) -> str:
    """The verdict, with its margin where it says that two are equivalent."""
    if word == "equivalent":
        return f"equivalent within ±{points(pair.margin)}"
    return word


def _told(pair: Pair) -> str:
    """The verdict with its models."""
    word, a, b = pair.words["verdict"], pair.a.model, pair.b.model
    if word == "equivalent":
        return f"{a} and {b} are {verdict_words(pair, word)}"
    return word if word == "no verdict" else f"{a} is {word} than {b}"


def _lines(pair: Pair) -> list[str]:
    a, b, like, this = pair.a, pair.b, pair.like_these, pair.this_set
    family = pair.track == "family"
    recipe = pair.about["recipe"] if family else f"recipe {pair.about['recipe']}"
    where = f"track {pair.track} ({recipe})" if pair.track else recipe
    seeds = f"{like.seeds_a} and {like.seeds_b} seeds"
    accuracy = [f"{100 * float(side.right.mean()):.2f} %" for side in (a, b)]
    adjusted = f", {pair.p_like_these:.2g} among {pair.tests} pairs (Holm)" if pair.tests > 1 else ""
    if like.of_runs:
        test = mcnemar(a.right[0], b.right[0])
        which = f"these two runs, other images; McNemar p = {test.p:.2g}"
    else:
        which = f"images like these: {seeds}, {like.images:,} images, p = {like.p:.2g}{adjusted}"
    lines = [
        f"{where}: {_told(pair)}",
        f"  accuracy          {accuracy[0]} and {accuracy[1]}",
        f"  difference        {_points(like)}  {which}",
    ]
    if not math.isnan(this.low):
        lines.append(f"                    {_points(this)}  this test set: {pair.words['verdict_this_set']}")
    lines.append(
        f"  training speed    {_ratio(pair.speed, 'blocks in turns', 'not timed together: name both in one run')}"
    )
    lines.append(f"  inference speed   {_ratio(pair.inference, 'blocks in turns', 'not timed together')}")
    lines.append(
        f"  FLOPs an image    {_number(pair.flops.value)}×" if pair.flops.n else "  FLOPs an image    not counted"
    )
    lines += [f"  left out          {side.model}: {', '.join(side.left_out)}" for side in (a, b) if side.left_out]
    lines += _target_lines(pair)
    if a.search_trials and b.search_trials:
        rates = " and ".join("/".join(f"{lr:g}" for lr in side.lr) for side in (a, b))
        cost = f"{a.search_trials} trials each, {a.search_samples:,} and {b.search_samples:,} samples on top"
        lines.append(f"  learning rates    {rates}, found on validation in {cost}")
        if edge := [side.model for side in (a, b) if side.search_edge]:
            lines.append(
                f"                    {' and '.join(edge)}: the last rate tried on its side; a better may lie beyond"
            )
    claim = f"{a.model} is faster and at most {points(pair.margin)} less accurate: {pair.words['claim']}"
    lines.append(f"  the claim         {claim}")
    lines.append(f"  what would change this: {pair.words['help']}")
    return lines


def _target_lines(pair: Pair) -> list[str]:
    if pair.target is None or pair.reached is None:
        return ["  time to target    no target was named before the runs (--target)"]
    mine, theirs = pair.reached
    when = "" if pair.named_before else ", a target chosen after the runs"
    goal = f"to {100 * pair.target:g} % on validation{when}; reached by {mine.share} and {theirs.share}"
    medians = [median_seconds(side) for side in (mine, theirs)]
    lines = []
    if pair.time_to_target.n:
        means = " and ".join(_with_ends(side.mean("seconds"), "s") for side in (mine, theirs))
        lines += [
            f"  seconds           {_ratio(pair.time_to_target, 'seeds', '')} {goal}",
            f"                    means {means}",
        ]
    elif any(map(math.isnan, (*mine.seconds, *theirs.seconds))):
        lines.append(f"  seconds           none: runs shared their device; {goal}")
    else:
        ends = " and ".join("none" if m is None else f"{significant(m)} s" for m in medians)
        shown = f", medians {ends} (Kaplan–Meier)" if any(m is not None for m in medians) else ""
        lines.append(f"  seconds           no ratio: not all runs reached it; {goal}{shown}")
    missing = "not counted" if mine.all and theirs.all else "no ratio: not all runs reached it"
    flops = [_scaled(reached.mean("samples"), (s.train_flops or math.nan) / 1e12) for reached, s in _sides(pair)]
    means = "; means " + " and ".join(_with_ends(f, "TFLOP") for f in flops) if pair.flops_to_target.n else ""
    ratio = _ratio(pair.flops_to_target, "seeds", missing)
    lines.append(f"  training FLOPs    {f'{ratio} to the same{means}' if pair.flops_to_target.n else ratio}")
    return lines


def _sides(pair: Pair) -> list[tuple[Reached, Side]]:
    return list(zip(pair.reached or (), (pair.a, pair.b), strict=False))


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


def _ratio(ratio: Interval, unit: str, without: str) -> str:
    if not ratio.n:
        return without
    ends = f" ({_number(ratio.low)}–{_number(ratio.high)})" if not math.isnan(ratio.low) else ""
    return f"{_number(ratio.value)}×{ends}  n = {ratio.n} {unit}"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else significant(value)
