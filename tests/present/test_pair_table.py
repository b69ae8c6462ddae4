"""Verdicts as text: the same figures at every width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.analysis.compare import pairs
from bench.present.pair_table import render, verdict_line
from bench.store.disk import Store
from tests.conftest import ROOT
from tests.synthetic import write_pair

VERDICT = ROOT / "results/reference/cpu-2core/verdict"


def flat(text: str) -> str:
    return " ".join(text.split())


def test_everything_about_a_pair_of_the_committed_store() -> None:
    text = flat(render(pairs([Store(VERDICT)], ["seresnet", "vit_flops"])))
    for part in (
        "npz:cifar10_part (10,000 training and 2,500 test images of 32 px) · budget 40 s, 4 validations",
        "seresnet against vit_flops",
        "track shared (recipe shared): no verdict",
        "accuracy 25.00 % and 24.47 %",
        "difference +0.53 points (-10.48 to +11.55), images like these: 3 and 3 seeds, 2,500 images, p = 0.87",
        "+0.53 points (-10.54 to +11.61), this test set: no verdict",
        "training speed 0.86× (0.81–0.91), 26 interleaved blocks",
        "FLOPs per image 1.01×",
        "reached by 2 of 3 and 0 of 3, medians 31.4 s and none",
        "learning rates 0.0055 and 0.001, found on validation in 7 trials each, 6,400 and 6,400 additional samples",
        "original claim seresnet is faster and at most 0.5 points less accurate: does not hold",
        "seconds none: runs shared their device;",
        "both tracks: no verdict (shared: no verdict; family: no verdict)",
    ):
        assert part in text, part


def test_the_time_to_equal_accuracy_of_one_seed() -> None:
    """The figures are those of the store's README."""
    text = flat(render(pairs([Store(ROOT / "results/reference/h100")], ["seresnet", "vit_flops"])))
    for part in (
        "training seconds 1.85×, 1 seed, so no interval; whole trainings, 54.1 s and 29.3 s",
        "equal accuracy seresnet reached vit_flops's final 75.72 % on validation after 16.2 s, where vit_flops took "
        "29.3 s: 1.81× (1.81–2.17 between validations; one seed, so no interval)",
        "203 training TFLOP against 674 training TFLOP: 3.32×",
    ):
        assert part in text, part


def test_two_named_models_are_a_claim(here: Callable[..., CompletedProcess[str]]) -> None:
    """Of other models than the original project's only where these two are named."""
    words = ("compare", "--results", ROOT / "results/reference/h100", "--reference", "resnet56")
    named, every = here(*words, "resnet56", "vit_flops"), here(*words, "resnet56")
    assert named.returncode == every.returncode == 0
    claim = "claim resnet56 is faster and at most 0.5 points less accurate: "
    assert (flat(named.stdout).count(claim), flat(every.stdout).count(claim)) == (1, 0)
    assert "original claim" not in named.stdout


def test_an_interval_that_the_other_pairs_weaken_is_explained() -> None:
    """-16.52 points (-27.69 to -5.35), and no verdict: Holm's p is 0.091 among six pairs, and 0.023 alone."""
    text = flat(render(pairs([Store(VERDICT)])))
    assert (
        "p = 0.023, 0.091 among 6 pairs (Holm) alone this pair would read worse; such an interval is no rarity" in text
    )
    alone = flat(render(pairs([Store(VERDICT)], ["seresnet", "cct_2"])))
    assert "seresnet is worse than cct_2" in alone
    assert "no rarity" not in alone


@pytest.mark.parametrize("width", [60, 80, 140])
def test_lines_wrap_at_words_and_lose_nothing(width: int) -> None:
    made = pairs([Store(VERDICT)])
    text = render(made, width)
    assert max(map(len, text.splitlines())) <= width
    assert flat(text) == flat(render(made, 10_000))


def test_a_verdict_that_is_too_long_breaks_before_its_figures() -> None:
    (pair,) = pairs([Store(ROOT / "results/reference/h100")], ["seresnet", "vit_flops"])
    words = "seresnet against vit_flops: no verdict, one seed each:"
    assert verdict_line(pair, 160) == f"{words} +13.05 points (+12.17 to +13.93)"
    assert verdict_line(pair, 80) == f"{words}\n  +13.05 points (+12.17 to +13.93)"


def test_without_a_session_and_a_target(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8}, images=2000)
    text = render(pairs([store]))
    assert "seresnet is better than vit_tiny" in text
    assert "not timed together: run_bench.py time --models" in text
    assert "no target was named before the runs (--target)" in text
