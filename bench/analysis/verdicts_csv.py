"""Verdicts as rows. Example: write_verdicts(store)

`verdicts.csv` of a store has one row per pair of models; `compare --out` writes the same columns.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.analysis.compare import Pair, Reached, Side, across_tracks, median_seconds, pairs
from bench.analysis.crossed import mcnemar
from bench.analysis.equal_accuracy import EqualAccuracy, Gain
from bench.core.errors import Busy, UserError
from bench.core.files import to_csv
from bench.core.stats import Interval
from bench.store.disk import Store

Row = dict[str, Any]  # a row by column

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
    "training_seconds_ratio", "training_seconds_ratio_low", "training_seconds_ratio_high",
    "equal_accuracy", "equal_accuracy_leader", "equal_accuracy_reached",
    "equal_seconds_ratio", "equal_seconds_ratio_low", "equal_seconds_ratio_high", "equal_seconds_ratio_last_below",
    "equal_samples_ratio", "equal_samples_ratio_low", "equal_samples_ratio_high", "equal_samples_ratio_last_below",
    "equal_flops_ratio", "equal_flops_ratio_low", "equal_flops_ratio_high", "equal_flops_ratio_last_below",
    "target", "target_named_before", "reached_a", "reached_b", "median_seconds_a", "median_seconds_b",
    "mean_seconds_a", "mean_seconds_a_low", "mean_seconds_a_high",
    "mean_seconds_b", "mean_seconds_b_low", "mean_seconds_b_high",
    "mean_train_flops_a", "mean_train_flops_a_low", "mean_train_flops_a_high",
    "mean_train_flops_b", "mean_train_flops_b_low", "mean_train_flops_b_high",
    "seconds_ratio", "seconds_ratio_low", "seconds_ratio_high",
    "target_flops_ratio", "target_flops_ratio_low", "target_flops_ratio_high",
    "lr_a", "lr_b", "lr_a_at_edge", "lr_b_at_edge", "search_trials", "search_samples_a", "search_samples_b",
    "left_out_a", "left_out_b",
    "validations", "batch_size", "precision", "setting", "deterministic", "device_name", "threads", "torch", "apart",
    "what_would_change",
)
# fmt: on


def to_rows(made: list[Pair]) -> list[Row]:
    """One row per pair, with COLUMNS as keys; accuracies in points, None where there is no figure."""
    both = {id(pair): word for one, other, word in across_tracks(made) for pair in (one, other)}
    rows = [{**_row(pair), "verdict_both_tracks": both.get(id(pair))} for pair in made]
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]


def _row(pair: Pair) -> Row:
    a, b, like, this, conditions = pair.a, pair.b, pair.like_these, pair.this_set, asdict(pair.conditions)
    epochs = conditions.pop("epochs")
    row: Row = {
        **conditions,
        # "1 epochs" too: verdicts.csv of older versions must not look edited
        "budget": f"{epochs} epochs" if epochs else conditions["budget"],
        "model_a": a.model,
        "model_b": b.model,
        "seeds_a": like.seeds_a,
        "seeds_b": like.seeds_b,
        "verdict": pair.verdict,
        "verdict_this_set": pair.verdict_this_set,
        "claim": pair.claim,
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
        **_interval_cells("speed_ratio", pair.speed),
        "speed_blocks": pair.speed.n or None,
        **_interval_cells("inference_ratio", pair.inference),
        "flops_ratio": pair.flops.value,
        **_interval_cells("training_seconds_ratio", pair.training_seconds),
        **_equal_cells(pair.equal_accuracy),
        "target": pair.target,
        "target_named_before": pair.named_before if pair.target is not None else None,
        **_interval_cells("seconds_ratio", pair.time_to_target),
        **_interval_cells("target_flops_ratio", pair.flops_to_target),
        "search_trials": a.search_trials or None,
        "what_would_change": pair.what_would_change,
    }
    for name, side in (("a", a), ("b", b)):
        row |= _side_cells(name, side)
    for name, side, reached in zip("ab", (a, b), pair.reached or (), strict=False):
        row |= _target_cells(name, side, reached)
    return row


def _equal_cells(equal: EqualAccuracy | None) -> Row:
    """The follower's expense over the leader's; a ratio is empty where a seed never reached the target."""
    if equal is None:
        return {}
    row: Row = {
        "equal_accuracy": equal.target,
        "equal_accuracy_leader": equal.leader,
        "equal_accuracy_reached": f"{equal.reached} of {equal.seeds}",
    }
    for clock in ("seconds", "samples", "flops"):
        gain: Gain | None = getattr(equal, clock)
        if gain is not None:
            row |= _interval_cells(f"equal_{clock}_ratio", gain.ratio)
            row[f"equal_{clock}_ratio_last_below"] = gain.at_last_below
    return row


def _side_cells(name: str, side: Side) -> Row:
    return {
        f"lr_{name}": " ".join(f"{lr:g}" for lr in side.lr),
        f"lr_{name}_at_edge": side.search_edge if side.search_trials else None,
        f"search_samples_{name}": side.search_samples or None,
        f"left_out_{name}": "; ".join(side.left_out) or None,
    }


def _target_cells(name: str, side: Side, reached: Reached) -> Row:
    samples, flops = reached.mean("samples"), side.train_flops or math.nan
    flops_mean = Interval(samples.value * flops, samples.low * flops, samples.high * flops, samples.n)
    return {
        f"reached_{name}": reached.share,
        f"median_seconds_{name}": median_seconds(reached),
        **_interval_cells(f"mean_seconds_{name}", reached.mean("seconds")),
        **_interval_cells(f"mean_train_flops_{name}", flops_mean),
    }


def _interval_cells(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def to_csv_bytes(made: list[Pair]) -> bytes:
    """One row per pair, for `compare --out` and verdicts.csv."""
    return to_csv(COLUMNS, to_rows(made))


def verdicts_csv(store: Store) -> bytes | None:
    """The content of a store's verdicts.csv; None where no two models have runs under equal conditions."""
    try:
        return to_csv_bytes(pairs([store]))
    except UserError:
        return None


def write_verdicts(store: Store) -> Path | None:
    """Write verdicts.csv and return its path; None where there is nothing to write.

    Reads and writes under one lock: of two sweeps that end at once, the later one has all runs.
    """
    with contextlib.suppress(Busy), store.claim_views():
        if (content := verdicts_csv(store)) is not None:
            store.write({VERDICTS: content})
            return store.root / VERDICTS
    return None
