"""Time to equal accuracy: cases worked out by hand, the committed H100 store, and coverage by simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from bench.analysis.equal_accuracy import Passage, Point, equal_accuracy, gain, passage, sentence
from bench.analysis.tables import load
from bench.store.disk import Store
from bench.store.records import FinishedRun, finished
from benchmarks.equal_accuracy import World, coverage
from tests.conftest import ROOT
from tests.synthetic import record, spec


def curve(*accuracies: float) -> list[Point]:
    """Validated at 10, 20, 30 …"""
    return [Point(10.0 * i, accuracy) for i, accuracy in enumerate(accuracies, 1)]


@pytest.mark.parametrize(
    ("accuracies", "between"),
    [
        ((0.5, 0.7, 0.9), (20, 30)),
        ((0.8, 0.9, 0.9), (0, 10)),
        ((0.5, 0.75, 0.6), (10, 20)),  # at the target, though not at the end
        ((0.5, 0.6, 0.7), (30, math.inf)),
    ],
)
def test_a_passage_lies_between_two_validations(accuracies: Sequence[float], between: tuple[float, float]) -> None:
    assert passage(curve(*accuracies), 0.75) == Passage(*between)


def test_one_seed_is_a_point() -> None:
    """There at 20 of 40 at the latest, after 10; the other took 30 to its end at 0.6."""
    one = gain([curve(0.5, 0.7, 0.8, 0.9)], [curve(0.4, 0.5, 0.6)])
    assert one.ratio.value == pytest.approx(30 / 20)
    assert one.at_last_below == pytest.approx(30 / 10)
    assert math.isnan(one.ratio.low)
    assert math.isnan(one.ratio.high)
    assert one.ratio.n == 1


def test_two_seeds_by_hand() -> None:
    """The target is 0.6, the mean of 0.55 and 0.65; the leader passes at 20 and at 40, from 10 and from 30.

    Own part: logs of 20 and 40 have variance ln(2)²/2; the gaps' floor, (ln(2)² + ln(4/3)²)/24, is less. Without the
    seed of 0.55 the target is 0.65, passed at 20 and 50; without the other it is 0.55, passed at 20 and 40: mean logs
    differ by half of ln(5/4), and the jackknife's variance of two is their difference squared over 4.
    """
    one = gain(
        [curve(0.5, 0.7, 0.8, 0.8, 0.9), curve(0.2, 0.3, 0.5, 0.62, 0.7)],
        [curve(0.3, 0.4, 0.5, 0.5, 0.55), curve(0.3, 0.4, 0.5, 0.5, 0.65)],
    )
    assert one.ratio.value == pytest.approx(50 / math.sqrt(20 * 40))
    own, other = math.log(2) ** 2 / 2 / 2, (math.log(5 / 4) / 2) ** 2 / 4
    df = (own + other) ** 2 / (own**2 + other**2)
    from scipy import stats

    half = stats.t.ppf(0.975, df) * math.sqrt(own + other)
    assert one.ratio.low == pytest.approx(one.ratio.value * math.exp(-half))
    assert one.ratio.high == pytest.approx(50 / math.sqrt(10 * 30) * math.exp(half))


def test_never_is_never_dropped() -> None:
    """The target is 0.7: of the leader's seeds (finals 0.9 and 0.6, mean 0.75) one reaches it."""

    def run(model: str, seed: int, accuracy: float) -> FinishedRun:
        return record(spec(model, seed), accuracy, metrics={"train_flops_2x": 2_000_000})

    own = [run("a", 0, 0.9), run("a", 1, 0.6)]
    equal = equal_accuracy({"a": own, "b": [run("b", 0, 0.7)]})
    assert (equal.leader, equal.target, equal.reached, equal.seeds) == ("a", pytest.approx(0.7), 1, 2)
    assert equal.seconds is not None
    assert equal.seconds.ratio.n == 0
    assert math.isnan(equal.seconds.ratio.value)
    assert sentence(equal) == (
        "a reached b's final 70.00 % on validation after 30.0 s, never with 1 of 2 seeds, where b took 30.0 s: no ratio"
    )
    lost = equal_accuracy({"a": own[:1], "b": [run("b", 0, 0.7)]}, {"a": 1})
    assert (lost.reached, lost.seeds, lost.samples.ratio.n) == (1, 2, 0)


def test_equal_models_have_the_first_as_leader_and_shared_devices_no_seconds() -> None:
    runs = {m: [record(spec(m), 0.9, metrics={"runs_at_once": 2})] for m in ("a", "b")}
    equal = equal_accuracy(runs)
    assert (equal.leader, equal.follower, equal.seconds, equal.flops) == ("a", "b", None, None)
    assert equal.samples.ratio.value == pytest.approx(1)
    assert "after 3,000 samples, where b took 3,000 samples: 1.00× (1.00–1.50 between validations" in sentence(equal)
    with pytest.raises(ValueError, match="two models"):
        equal_accuracy({"a": runs["a"]})


@pytest.mark.parametrize(
    ("follower", "target", "seconds", "ratio", "most"),
    # history.csv of the store: seresnet is above 74.28 % at 13.51 s, there at 75.66 %, and above 75.72 % at 16.21 s
    [("vit_flops", 0.7572, (16.21, 29.28), 1.81, 2.17), ("vit_tiny", 0.7428, (13.51, 44.72), 3.31, 4.14)],
)
def test_the_h100_store(follower: str, target: float, seconds: tuple[float, float], ratio: float, most: float) -> None:
    runs = {r.spec.model: [r] for r in finished(load([Store(ROOT / "results/reference/h100")]).runs)}
    equal = equal_accuracy({model: runs[model] for model in (follower, "seresnet")})
    assert (equal.leader, equal.target) == ("seresnet", pytest.approx(target))
    assert equal.seconds is not None
    assert (equal.seconds.leader, equal.seconds.follower) == pytest.approx(seconds, abs=0.01)
    assert equal.seconds.ratio.value == pytest.approx(ratio, abs=0.005)
    assert equal.seconds.at_last_below == pytest.approx(most, abs=0.005)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth(seeds: int) -> None:
    """With many validations about 95 %, with few more: what lies between two of them is added to it."""
    fine = World("", seed_top=0.01, seed_pace=0.15, validations=300)
    held, given = coverage(fine, seeds, sessions=200)
    assert held >= 0.92
    assert given == 1
    coarse, _ = coverage(World("", follower_top=0.7742, seed_top=0.0005, seed_pace=0.005), seeds, sessions=100)
    assert coarse >= 0.97
