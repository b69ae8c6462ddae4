"""Verdicts from stores whose truth is known: predictions, times and costs are made up, and so are the answers."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from bench.analysis.check import check
from bench.analysis.compare import across_tracks, pairs
from bench.analysis.tables import compare
from bench.analysis.verdicts_csv import COLUMNS, to_csv_bytes
from bench.core.errors import UserError
from bench.drive import lr_search
from bench.plan.budget import Budget
from bench.plan.recipes import cnn, in_track, shared
from bench.plan.spec import RunSpec
from bench.present.pair_table import render
from bench.store.disk import Store
from bench.store.records import LRSearch, Trial
from tests.synthetic import DATA, RECIPE, failure, record, session, spec, write_pair

Bench = Callable[..., CompletedProcess[str]]
IMAGES = 4000


def write_run(store: Store, of: RunSpec, accuracy: float, rng: np.random.Generator, **changes: Any) -> None:
    """A finished run whose predictions are right with probability `accuracy`, whatever the image."""
    label = np.arange(IMAGES) % 10
    right = rng.random(IMAGES) < accuracy
    arrays: dict[str, Any] = {
        "test_predicted": np.where(right, label, (label + 1) % 10).astype(np.int16),
        "test_label": label.astype(np.int16),
    }
    figures = {"test_images": IMAGES, "train_flops_2x": 753_638_592, **changes.pop("metrics", {})}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    store.run_dir(of).mkdir(parents=True)
    (store.run_dir(of) / "predictions.npz").write_bytes(buffer.getvalue())
    store.write_record(record(of, float(right.mean()), train_seconds=30.0, metrics=figures, **changes))


def made_store(root: Path, accuracies: dict[str, float], seeds: int = 3, **changes: Any) -> Store:
    """Each model with so many seeds; a session in which the i-th model takes i + 1 times as long as the first."""
    store, rng = Store(root), np.random.default_rng(0)
    for model, accuracy in accuracies.items():
        for seed in range(seeds):
            write_run(store, spec(model, seed, **changes), accuracy, rng)
    seconds = {model: [0.1 * (i + 1) * (1 + 0.001 * b) for b in range(10)] for i, model in enumerate(accuracies)}
    store.write_session(session(seconds))
    return store


def flat(text: str) -> str:
    """Without the line breaks of a wrapped text."""
    return " ".join(text.split())


def test_a_clear_difference_with_everything_around_it(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    (pair,) = pairs([store], ["seresnet", "vit_tiny"])
    assert (pair.verdict, pair.verdict_this_set, pair.claim) == ("better", "better", "holds")
    assert pair.like_these.low < 0.1 < pair.like_these.high
    assert (pair.like_these.seeds_a, pair.like_these.images) == (3, IMAGES)
    assert pair.speed.value == pytest.approx(2)
    assert pair.speed.low == pytest.approx(2 / math.exp(0.02)), "one process start"
    assert pair.flops.value == 1
    (other,) = pairs([store], ["vit_tiny", "seresnet"])
    assert (other.verdict, other.claim) == ("worse", "does not hold")
    assert other.like_these.value == -pair.like_these.value
    assert "no target was named" in render([pair])


def test_single_runs_give_no_verdict(tmp_path: Path) -> None:
    (pair,) = pairs([made_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, seeds=1)])
    assert pair.verdict == "no verdict"
    assert "One seed" in pair.what_would_change
    text = render([pair])
    assert "McNemar" in text
    assert "this test set" not in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_test_image_gives_no_verdict(seeds: int, here: Bench, tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_pair(store, {"seresnet": 1.0, "vit_tiny": 0.0}, seeds=seeds, images=1)
    (pair,) = pairs([store])
    assert (pair.verdict, pair.verdict_this_set, pair.claim) == ("no verdict", "no verdict", "open")
    assert (pair.like_these.value, pair.like_these.low, pair.like_these.high) == (1, -1, 1)
    assert pair.what_would_change.startswith("One test image says nothing about others")
    assert "no verdict: one test image" in render([pair])
    assert len(pd.read_csv(io.BytesIO(to_csv_bytes([pair])))) == 1
    for words in (["compare"], ["table"], ["report", "--out", tmp_path / "r.html"]):
        done = here(*words, "--results", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "no verdict: one test image" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_all_pairs_are_adjusted_for_one_another(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"a": 0.80, "b": 0.815, "c": 0.9})
    every, (alone,) = pairs([store]), pairs([store], ["a", "b"])
    assert [(p.a.model, p.b.model) for p in every] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert alone.p_like_these == alone.like_these.p
    assert every[0].p_like_these >= every[0].like_these.p
    assert every[0].tests == 3
    assert [(p.a.model, p.b.model) for p in pairs([store], ["c"])] == [("c", "a"), ("c", "b")]


def test_time_to_a_target(tmp_path: Path) -> None:
    """Accuracy on validation rises by thirds: 0.9 stands at 0.6 after two of three epochs, 0.7 never stands at 0.75."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for seed in range(2):
        for model, accuracy, seconds in (("a", 0.9, 30.0), ("b", 0.9, 60.0), ("c", 0.7, 30.0)):
            of = spec(model, seed)
            history = msgspec.to_builtins(record(of, accuracy, train_seconds=seconds).history)
            write_run(store, of, accuracy, rng, history=history, target=0.6)
    by_name = {(p.a.model, p.b.model): p for p in pairs([store])}
    pair = by_name["a", "b"]
    assert (pair.target, pair.named_before) == (0.6, True)
    assert pair.reached is not None
    assert pair.reached[0].seconds == (20.0, 20.0)
    assert pair.time_to_target.value == pytest.approx(0.5)
    assert pair.flops_to_target.value == pytest.approx(1)
    late = {(p.a.model, p.b.model): p for p in pairs([store], target=0.75)}["a", "c"]
    assert late.reached is not None
    assert late.reached[1].reached == (False, False)
    assert math.isnan(late.time_to_target.value)
    assert not late.named_before
    text = flat(render([late]))
    assert "reached by 2 of 2 and 0 of 2" in text
    assert "medians 30.0 s and none" in text


def test_runs_that_failed_are_told_and_never_reach_a_target(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for model in ("a", "b"):
        for seed in range(3):
            of = spec(model, seed)
            if (model, seed) == ("b", 2):
                store.write_record(failure(of, "diverged", "loss at step 5"))
            else:
                write_run(store, of, 0.9, rng, target=0.6)
    (pair,) = pairs([store])
    assert (pair.like_these.seeds_a, pair.like_these.seeds_b) == (3, 2)
    assert pair.b.left_out == ("seed 2: diverged",)
    assert pair.reached is not None
    assert [side.share for side in pair.reached] == ["3 of 3", "2 of 3"]
    assert math.isnan(pair.time_to_target.value)
    assert "left out          b: seed 2: diverged" in render([pair])


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "swapped"])
def test_predictions_that_are_not_the_records_are_left_out(tmp_path: Path, harm: str) -> None:
    store = made_store(tmp_path, {"a": 0.9, "b": 0.8})
    path = store.run_dir(spec("b", 1)) / "predictions.npz"
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "flip":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "cut":
        path.write_bytes(content[:middle])
    elif harm == "gone":
        path.unlink()
    else:
        path.write_bytes((store.run_dir(spec("b", 2)) / "predictions.npz").read_bytes())
    (pair,) = pairs([store])
    assert (pair.like_these.seeds_a, pair.like_these.seeds_b) == (3, 2)
    assert pair.b.left_out == ("seed 1: its predictions are missing or damaged",)


def test_a_new_search_makes_other_runs(tmp_path: Path) -> None:
    """In a track, runs of an earlier rate are not seeds of the same model."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for lr, started, seeds in ((1e-3, "2026-01-01", range(3)), (3e-3, "2026-01-02", range(2))):
        for model in ("a", "b"):
            recipe = replace(in_track("shared", "cnn", RECIPE, model), lr=lr)
            for seed in seeds:
                write_run(store, spec(model, seed, recipe=recipe), 0.9, rng, started=started)
    (pair,) = pairs([store])
    assert (pair.like_these.seeds_a, pair.a.lr) == (2, (3e-3,))
    (comparison,) = compare([store])
    assert [row.runs for row in comparison.rows] == [2, 2]
    assert any("6 runs left out" in note for note in comparison.notes)
    assert not [problem for problem in check(store, rebuild=True)[0] if "different recipes" in problem]


def test_the_tracks_are_held_against_each_other(tmp_path: Path) -> None:
    """Better under one recipe, worse under the other: it depends on the recipe. The searches' cost is told."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    base = replace(shared(), epochs=3, precision="fp32")
    for track, accuracies in (("shared", (0.9, 0.8)), ("family", (0.8, 0.9))):
        for model, family, accuracy in zip(("seresnet", "vit_tiny"), ("cnn", "vit"), accuracies, strict=True):
            recipe = replace(in_track(track, family, base, model), lr=0.01 if model == "seresnet" else 0.003)
            for seed in range(3):
                write_run(store, spec(model, seed, recipe=recipe), accuracy, rng)
            tried = lr_search.for_as_long(spec(model, recipe=recipe), Budget("epochs", 1), 1e-3)
            trial = Trial(
                lr=recipe.lr,
                rung=1,
                status="ok",
                message="",
                samples=500,
                train_seconds=1.0,
                val_accuracy=0.5,
                val_loss=1.0,
                val_images=100,
            )
            store.write_lr_search(
                LRSearch(
                    id=f"{model}-{track}",
                    started="2026",
                    budget="1epochs",
                    spec=tried,
                    trials=(trial, trial),
                    chosen=recipe.lr,
                )
            )
    made = pairs([store], ["seresnet", "vit_tiny"])
    assert [(p.track, p.verdict) for p in made] == [("shared", "better"), ("family", "worse")]
    assert [word for _, _, word in across_tracks(made)] == ["depends on the recipe"]
    assert made[0].a.search_samples == 1000
    text = flat(render(made))
    assert "both tracks: depends on the recipe (shared: better; family: worse)" in text
    assert "found on validation in 2 trials each, 1,000 and 1,000" in text
    assert "seresnet: 0.01 and the runner-up 0.01 cannot be told apart: 50.0 and 50.0 % of 100" in text
    assert "searched with one seed a trial: the intervals hold for these rates" in text
    assert cnn().optimizer == made[1].a.runs[0].spec.recipe.optimizer


def test_the_csv_has_every_column(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"=seresnet": 0.9, "NA": 0.8})
    content = to_csv_bytes(pairs([store]))
    frame = pd.read_csv(io.BytesIO(content), keep_default_na=False)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["model_a"]) == ["'=seresnet"]  # no spreadsheet computes it
    assert list(frame["verdict"]) == ["better"]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    with pytest.raises(UserError, match="no finished runs of 'vit'"):
        pairs([store], ["seresnet", "vit"])
    for path in tmp_path.glob("runs/vit_tiny*/predictions.npz"):
        path.unlink()
    with pytest.raises(UserError, match="predictions of these runs are missing"):
        pairs([store])
    other = made_store(tmp_path / "other", {"resnet20": 0.9}, recipe=replace(RECIPE, epochs=4))
    with pytest.raises(UserError, match="equal conditions"):
        pairs([store, other], ["seresnet", "resnet20"])


def test_the_command(here: Bench, tmp_path: Path) -> None:
    made_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    words = ["compare", "seresnet", "vit_tiny", "--results", tmp_path]
    done = here(*words, "--fail-if", "accuracy < -0.5", "--out", tmp_path / "v.csv")
    assert done.returncode == 0, done.stderr
    assert "seresnet is better" in done.stdout
    assert (tmp_path / "v.csv").read_bytes() == to_csv_bytes(pairs([Store(tmp_path)]))
    done = here("compare", "vit_tiny", "seresnet", "--results", tmp_path, "--fail-if", "accuracy < -0.5")
    assert done.returncode == 1
    assert "failed: --fail-if 'accuracy < -0.5': vit_tiny against seresnet, -1" in done.stdout
    done = here(*words, "--fail-if", "time_to_target > 2")
    assert done.returncode == 1, "a gate that cannot close is no gate"
    assert "cannot be tested" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fail-if", "accuracy is bad"], "not a condition"),
        (["--margin", "0"], "--margin"),
        (["--margin", "nan"], "--margin"),
        (["--target", "90"], "--target"),
        (["seresnet", "seresnet"], "twice"),
        (["--results", "nowhere"], "no store"),
    ],
)
def test_bad_words(here: Bench, words: list[str], sentence: str) -> None:
    done = here("compare", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_files_of_one_name_and_two_recipes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Case 17: npz:lab_a/data.npz and npz:lab_b/data.npz; a recipe's file that was edited."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    other = replace(DATA, content_hash="d" * 64, split_hash="e" * 64)
    for model, accuracy in (("seresnet", 0.9), ("vit_tiny", 0.8)):
        for seed in range(2):
            write_run(store, spec(model, seed), accuracy, rng)
            write_run(store, spec(model, seed, data=other), 1.7 - accuracy, rng)
            write_run(store, spec(model, seed, recipe=replace(RECIPE, weight_decay=0.5)), accuracy, rng)
    made = pairs([store])
    assert {pair.conditions.apart for pair in made} == {
        f"data cccccccc, weight_decay {RECIPE.weight_decay}",
        f"data dddddddd, weight_decay {RECIPE.weight_decay}",
        "data cccccccc, weight_decay 0.5",
    }
    titles = [comparison.title for comparison in compare([store])]
    assert len(set(titles)) == 3
    assert sum(title.endswith(" · data cccccccc, weight_decay 0.5") for title in titles) == 1
    text = flat(render(made))
    assert text.count("seresnet is better than vit_tiny") == 2
    assert text.count("seresnet is worse than vit_tiny") == 1
    for pair in made:
        assert text.count(f"· {pair.conditions.apart} seresnet against vit_tiny") == 1
    rows = pd.read_csv(io.BytesIO(to_csv_bytes(made)))
    assert rows["apart"].nunique() == 3


def test_seconds_of_whole_trainings(tmp_path: Path) -> None:
    """20 and 45 s against 10 and 40 s: the ratio of geometric means is 1.5."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for model, both in (("a", (20.0, 45.0)), ("b", (10.0, 40.0))):
        for seed, seconds in enumerate(both):
            write_run(store, spec(model, seed), 0.8, rng, metrics={"train_seconds": seconds})
    (pair,) = pairs([store])
    assert pair.training_seconds.value == pytest.approx(1.5)
    assert pair.training_seconds.n == 2
    assert pair.training_seconds.low < 1 < pair.training_seconds.high
    assert "training seconds 1.50× (" in flat(render([pair]))
    assert "2 seeds; whole trainings, 32.5 s and 25.0 s" in flat(render([pair]))
