"""Budgets as text, courses by plain sums, and trainings that end exactly where their budget does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.plan.budget import Budget, Course, parse_budget, parse_fraction, samples_for
from bench.store.disk import Store
from bench.store.records import FinishedRun, finished

Bench = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("text", "kind", "amount", "stored"),
    [
        ("50epochs", "epochs", 50, ""),
        ("1epoch", "epochs", 1, ""),
        ("10min", "seconds", 600, "600s"),
        ("90 s", "seconds", 90, "90s"),
        ("2h", "seconds", 7200, "7200s"),
        ("2PFLOP", "flops", 2e15, "2000000GFLOP"),
        ("1.5TFLOPs", "flops", 1.5e12, "1500GFLOP"),
        ("1Msamples", "samples", 1e6, "1000000samples"),
        ("2.5ksamples", "samples", 2500, "2500samples"),
        ("1e6samples", "samples", 1e6, "1000000samples"),
        ("4.1Msamples", "samples", 4.1e6, "4100000samples"),
    ],
)
def test_a_budget_is_read_from_text(text: str, kind: str, amount: float, stored: str) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.amount, budget.text) == (kind, pytest.approx(amount), stored)
    assert not stored or parse_budget(stored) == budget


@pytest.mark.parametrize(
    "text", ["", "10", "min", "0s", "-1s", "1.5epochs", "0.5samples", "1e99PFLOP", "5 apples", "1e15s"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_shares_of_the_data() -> None:
    assert parse_fraction("1,0.01,0.1,1") == (0.01, 0.1, 1.0)
    for text in ("", "0", "1.1", "a,1", "nan"):
        with pytest.raises(UserError, match="--train-fraction"):
            parse_fraction(text)


@given(samples=st.integers(1, 3000), batch=st.integers(1, 64), epoch=st.integers(1, 50), validations=st.integers(0, 20))
def test_a_course_sees_exactly_its_samples(samples: int, batch: int, epoch: int, validations: int) -> None:
    """Summed batch by batch; no batch is empty, too large, or of one image if larger ones are possible."""
    if samples < batch:
        with pytest.raises(ValueError, match="at least one batch"):
            Course(samples, batch, epoch, validations)
        return
    course = Course(samples, batch, epoch, validations)
    images = [course.images(step) for step in range(course.steps)]
    assert sum(images) == samples
    assert all(1 <= n <= batch for n in images)
    assert batch <= 2 or min(images) > 1 or samples == 1
    assert [course.seen(n) for n in range(course.steps + 1)] == [sum(images[:n]) for n in range(course.steps + 1)]
    assert course.marks[-1] == course.steps
    assert list(course.marks) == sorted(set(course.marks))
    if validations:
        assert len(course.marks) <= validations
    else:
        assert course.marks[:-1] == tuple(n for n in range(1, course.steps) if n % epoch == 0)


def test_what_a_budget_buys() -> None:
    assert samples_for(Budget("samples", 1000), 128) == 1000
    assert samples_for(Budget("seconds", 60), 128, images_per_second=100) == 47 * 128
    flops = 753_638_592  # of seresnet, forward and backward, two a multiply-add
    samples = samples_for(Budget("flops", 2e15), 128, flops_per_image=flops)
    assert abs(samples * flops - 2e15) <= flops / 2
    for kind in ("flops", "seconds", "epochs"):
        with pytest.raises(ValueError, match=r"budget|epochs"):
            samples_for(Budget(kind, 1e15), 128)


Sweep = Callable[..., list[FinishedRun]]


@pytest.fixture
def sweep(here: Bench, untimed: None, tiny_npz: Path, tmp_path: Path) -> Sweep:
    """Runs a sweep of a tiny model; returns the records."""

    def run(*words: str) -> list[FinishedRun]:
        conditions = ["--dataset", f"npz:{tiny_npz}", "--recipe=smoke", "--batch-size=16", "--device=cpu"]
        done = here("--models=resnet20", *conditions, *words, "--results", tmp_path)
        assert done.returncode == 0, done.stderr + done.stdout
        assert here("check", "--results", tmp_path).returncode == 0
        return finished(Store(tmp_path).runs())

    return run


def test_achieved_samples_and_flops(sweep: Sweep) -> None:
    """Samples to the image, the last batch a short one; FLOPs within a step."""
    (run,) = sweep("--budget=145samples", "--validations=4")
    assert run.metrics.samples_seen == 145
    assert [row.samples_seen for row in run.history] == [48, 80, 128, 145]
    (other,) = [run for run in sweep("--budget=40GFLOP") if run.spec.recipe.budget == "40GFLOP"]
    flops = other.metrics.train_flops_2x
    assert flops is not None
    assert abs(other.metrics.samples_seen * flops - 40e9) <= 16 * flops


def test_seconds_are_converted_once(sweep: Sweep) -> None:
    (run,) = sweep("--budget=1s", "--target=0.5")
    assert run.metrics.pace_images_per_second is not None
    assert abs(run.metrics.samples_seen - run.metrics.pace_images_per_second) <= 16
    assert run.target == 0.5
