"""Intervals over seeds and images: synthetic models of known truth, tables by hand, independent computations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from bench.analysis.crossed import (
    Difference,
    Right,
    images_needed,
    interaction,
    mcnemar,
    on_images_like_these,
    on_this_test_set,
    parts_of,
    seeds_needed_for_images,
    student,
)
from bench.analysis.stats import satterthwaite
from bench.analysis.verdicts import verdict


class World(NamedTuple):
    """Two models of which everything is known, on a probit scale where an answer is right above 0.

    An image's difficulty is shared by the models (deviation 1.7 around a margin of 3, so about 94 % right); `taste` is
    what a model finds hard alone, `own` what a seed does to all of a model's images, 0.012 being 0.1 points of
    accuracy. What a run does to a single image has deviation 0.8: two runs of a model then disagree on 5 % of images.
    """

    margins: tuple[float, float] = (3.0, 3.0)
    taste: float = 0.5
    own: tuple[float, float] = (0.0, 0.0)

    def accuracies(self) -> list[float]:
        """Expected accuracy over all images and seeds, exact: a sum of independent normals is normal."""
        return [
            float(ndtr(margin / math.sqrt(1.7**2 + self.taste**2 + 0.8**2 + own**2)))
            for margin, own in zip(self.margins, self.own, strict=True)
        ]

    def draw(self, rng: np.random.Generator, seeds: tuple[int, int], images: int) -> tuple[Right, Right, float]:
        """Two models' answers, and the difference of their expected accuracies on the images drawn, exact too."""
        difficulty, answers, expected = 1.7 * rng.standard_normal(images), [], []
        for number, margin, own in zip(seeds, self.margins, self.own, strict=True):
            ease = margin + difficulty + self.taste * rng.standard_normal(images)
            chance = ndtr((ease + own * rng.standard_normal((number, 1))) / 0.8) if own else ndtr(ease / 0.8)
            answers.append(rng.random((number, images), dtype=np.float32) < chance)
            expected.append(float(ndtr(ease / math.hypot(0.8, own)).mean()))
        return answers[0], answers[1], expected[0] - expected[1]


SEED = 1  # of the simulations
NO_SEED_EFFECT = World()
UNEQUAL = World(margins=(3.0, 2.8), own=(0.036, 0.012))
TWINS = World(taste=0.0)  # one model against itself


def truncated(a: Right, b: Right) -> Difference:
    """`on_images_like_these`, had the seeds' own part been cut at 0."""
    images, parts = a.shape[1], parts_of(a, b)
    spread = float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1)) / images
    variances = [(spread, images - 1)]
    for right, of_seeds, error in ((a, parts.seeds_a, parts.interaction_a), (b, parts.seeds_b, parts.interaction_b)):
        if (own := of_seeds - error / images) > 0:
            variances.append((own / len(right), len(right) - 1))
    return student(a, b, sum(variance for variance, _ in variances), satterthwaite(variances))


# --- coverage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "sessions"), [(3, 2000), (5, 1000), (10, 500)])
@pytest.mark.parametrize("world", [NO_SEED_EFFECT, UNEQUAL, TWINS], ids=["no seed effect", "unequal", "twins"])
def test_both_intervals_cover_what_they_say(world: World, seeds: int, sessions: int) -> None:
    """Welch's own coverage with three seeds of equal spread on a side is 96.5 % (normal samples): near the edge."""
    rng, held = np.random.default_rng([SEED, seeds]), np.zeros(2)
    better, worse = world.accuracies()
    for _ in range(sessions):
        a, b, here = world.draw(rng, (seeds, seeds), 2000)
        fixed, drawn = on_this_test_set(a, b), on_images_like_these(a, b)
        held += [fixed.low <= here <= fixed.high, drawn.low <= better - worse <= drawn.high]
    fixed_share, drawn_share = held / sessions
    assert 0.93 <= fixed_share <= 0.97
    assert 0.93 <= drawn_share <= 0.97


def test_a_seeds_part_cut_at_zero_covers_too_much() -> None:
    """The reason why it is not: one model against itself, three seeds a side."""
    rng, held = np.random.default_rng(SEED), np.zeros(2)
    for _ in range(2000):
        a, b, _ = TWINS.draw(rng, (3, 3), 2000)
        held += [found.low <= 0 <= found.high for found in (truncated(a, b), on_images_like_these(a, b))]
    assert held[0] > 0.97 * 2000
    assert held[1] < held[0] - 0.01 * 2000


def test_different_numbers_of_seeds_cover() -> None:
    rng, held = np.random.default_rng(2), np.zeros(2)
    better, worse = UNEQUAL.accuracies()
    for _ in range(500):
        a, b, here = UNEQUAL.draw(rng, (8, 4), 2000)
        fixed, drawn = on_this_test_set(a, b), on_images_like_these(a, b)
        held += [fixed.low <= here <= fixed.high, drawn.low <= better - worse <= drawn.high]
    assert (held >= 0.93 * 500).all()
    assert (held <= 0.97 * 500).all()


@pytest.mark.parametrize(
    ("own", "images", "seeds", "sessions"),
    [(0.0, 10_000, 3, 250), (0.0, 10_000, 5, 250), (0.024, 10_000, 5, 250), (0.06, 2000, 3, 1000)],
)
def test_a_model_against_itself_gets_no_verdict(own: float, images: int, seeds: int, sessions: int) -> None:
    """At least 95 % of the time; more, where the margin lets "equivalent" take what chance called a difference."""
    rng, silent = np.random.default_rng([SEED, seeds]), np.zeros(2)
    world = World(taste=0.0, own=(own, own))
    for _ in range(sessions):
        a, b, _ = world.draw(rng, (seeds, seeds), images)
        found = [on_this_test_set(a, b), on_images_like_these(a, b)]
        silent += [verdict(one, one.p, 0.005) in ("no verdict", "equivalent") for one in found]
    assert (silent >= 0.95 * sessions).all()


def test_a_point_is_found_with_five_seeds() -> None:
    """One point on 10,000 images, at least 80 % of the time, on both questions; and never the wrong way round."""
    world = World(margins=(3.0, 2.849), own=(0.012, 0.012))
    better, worse = world.accuracies()
    assert better - worse == pytest.approx(0.01, abs=1e-4)
    rng, words = np.random.default_rng(6), []
    for _ in range(100):
        a, b, _ = world.draw(rng, (5, 5), 10_000)
        words.append([verdict(one, one.p, 0.005) for one in (on_this_test_set(a, b), on_images_like_these(a, b))])
    for verdicts in zip(*words, strict=True):
        assert verdicts.count("better") >= 80
        assert "worse" not in verdicts


# --- against independent computations --------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(5, 5), (2, 7), (10, 3)])
def test_on_this_test_set_is_welch(seeds: tuple[int, int]) -> None:
    a, b, _ = UNEQUAL.draw(np.random.default_rng(0), seeds, 500)
    found, theirs = on_this_test_set(a, b), stats.ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    ends = theirs.confidence_interval(0.95)
    assert found.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert (found.low, found.high, found.p, found.df) == pytest.approx((ends.low, ends.high, theirs.pvalue, theirs.df))
    assert (found.seeds_a, found.seeds_b, found.images, found.of_runs) == (*seeds, 500, False)


def table_by_hand(right: Right) -> tuple[float, float]:
    """Mean squares of seeds and of seed × image, one cell after the other."""
    seeds, images = right.shape
    grand = sum(int(cell) for row in right for cell in row) / (seeds * images)
    of_seed = [sum(map(int, row)) / images for row in right]
    of_image = [sum(int(row[i]) for row in right) / seeds for i in range(images)]
    ms_seeds = images * sum((mean - grand) ** 2 for mean in of_seed) / (seeds - 1)
    rest = 0.0
    for s in range(seeds):
        for i in range(images):
            rest += (int(right[s, i]) - of_seed[s] - of_image[i] + grand) ** 2
    return ms_seeds, rest / ((seeds - 1) * (images - 1))


def test_images_like_these_against_a_table_by_hand() -> None:
    """Mean squares by loops; the error from expected mean squares: the images' part, and each model's seeds' part."""
    world = World(margins=(3.0, 0.5), taste=1.0, own=(0.3, 0.1))
    a, b, _ = world.draw(np.random.default_rng(3), (4, 3), 60)
    images, parts = 60, []
    differences = [sum(map(int, a[:, i])) / 4 - sum(map(int, b[:, i])) / 3 for i in range(images)]
    parts.append((np.var(differences, ddof=1) / images, images - 1))
    for right in (a, b):
        seeds = len(right)
        ms_seeds, ms_rest = table_by_hand(right)
        assert interaction(right) == pytest.approx(ms_rest)
        parts += [(ms_seeds / (seeds * images), seeds - 1), (-ms_rest / (seeds * images), (seeds - 1) * (images - 1))]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / free for part, free in parts)
    found = on_images_like_these(a, b)
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    assert found.df == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    value = float(np.mean(differences))
    assert (found.low, found.high) == pytest.approx((value - half, value + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / math.sqrt(variance), df))


@pytest.mark.parametrize("images", [1, 9, 80])
def test_mcnemar_against_counting(images: int) -> None:
    rng = np.random.default_rng(images)
    for _ in range(20):
        a, b = rng.random(images) < 0.7, rng.random(images) < 0.5
        found = mcnemar(a, b)
        one, other = (
            sum(x and not y for x, y in zip(a, b, strict=True)),
            sum(y and not x for x, y in zip(a, b, strict=True)),
        )
        tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1))
        assert found.p == pytest.approx(min(1.0, 2 * tail / 2 ** (one + other)))
        assert (found.only_a, found.only_b) == (one, other)


def test_mcnemar_of_a_run_with_itself() -> None:
    a = np.array([True, False, True])
    assert mcnemar(a, a) == (1.0, 0, 0)


# --- ends ------------------------------------------------------------------------------------------------------------


def test_one_seed_tells_of_runs_alone() -> None:
    a, b, _ = UNEQUAL.draw(np.random.default_rng(0), (1, 3), 400)
    fixed, drawn = on_this_test_set(a, b), on_images_like_these(a, b)
    assert all(map(math.isnan, (fixed.low, fixed.high, fixed.p)))
    assert fixed.value == drawn.value
    assert drawn.of_runs
    theirs = stats.ttest_1samp(a[0] - b.mean(axis=0), 0)
    ends = theirs.confidence_interval(0.95)
    assert (drawn.low, drawn.high, drawn.p) == pytest.approx((ends.low, ends.high, theirs.pvalue))


def test_equally_accurate_seeds_are_not_equal_seeds() -> None:
    """Three runs with the same count of right answers to different images: what they disagree by is their spread."""
    a = np.ones((3, 100), bool)
    for seed in range(3):
        a[seed, 10 * seed : 10 * seed + 10] = False
    b = np.roll(a, 1, axis=1)
    found = on_this_test_set(a, b)
    assert found.standard_error == pytest.approx(math.sqrt(2 * interaction(a) / 100 / 3))
    assert found.p == 1.0


def test_no_mistakes_at_all() -> None:
    """360 images, all right by all: equivalent on this test set, and a little less certain on others."""
    a = np.ones((3, 360), bool)
    fixed, drawn = on_this_test_set(a, a), on_images_like_these(a, a)
    assert fixed.value == drawn.value == 0
    assert 0 < fixed.high < 0.005 < drawn.high < 3 / 360, "the rule of three is an upper bound of 3/n"
    assert fixed.p == drawn.p == 1.0
    assert verdict(fixed, fixed.p, 0.005) == "equivalent"


def test_what_cannot_be_compared_is_refused() -> None:
    a = np.ones((3, 10), bool)
    for compare in (on_this_test_set, on_images_like_these):
        for b in (a[:, :9], a[0], a.astype(int), a[:0], a[:, :1]):
            with pytest.raises(ValueError, match="not"):
                compare(a, b)
    with pytest.raises(ValueError, match="same images"):
        mcnemar(a[0], a[0, :9])


# --- what would be needed --------------------------------------------------------------------------------------------


def test_seeds_for_images_like_these() -> None:
    """More than the seeds' part alone would need, by the normal approximation; and no number may be enough."""
    rng = np.random.default_rng(1)
    a, b, _ = UNEQUAL.draw(rng, (10, 10), 10_000)
    parts = parts_of(a, b)
    fixed = (1.96 + 0.84) ** 2 * (parts.seeds_a + parts.seeds_b) / 0.005**2
    drawn = seeds_needed_for_images(a, b, 0.005)
    assert drawn is not None
    assert drawn > fixed
    assert seeds_needed_for_images(a, b, 0.0005) is None, "images alone: an error of 0.1 points"
    with pytest.raises(ValueError, match="0"):
        seeds_needed_for_images(a, b, 0)


def test_seeds_for_images_keep_their_promise() -> None:
    """With the number that the variance of a large study asks for, the difference is found four times in five."""
    world = World(margins=(3.0, 2.83), own=(0.024, 0.024))
    better, worse = world.accuracies()
    rng = np.random.default_rng(8)
    a, b, _ = world.draw(rng, (80, 80), 4000)
    seeds = seeds_needed_for_images(a, b, better - worse)
    assert seeds is not None
    found = 0
    for _ in range(300):
        a, b, _ = world.draw(rng, (seeds, seeds), 4000)
        found += on_images_like_these(a, b).p < 0.05
    assert 0.74 <= found / 300 <= 0.9


def test_images_needed() -> None:
    rng = np.random.default_rng(1)
    a, b, _ = NO_SEED_EFFECT.draw(rng, (40, 40), 2000)
    images = images_needed(a, b, 0.005)
    assert images is not None
    more = images_needed(a, b, 0.0025)
    assert more is not None
    assert more / images == pytest.approx(4, rel=0.6), "about, since the seeds' own part is not exactly 0"
    a, b, _ = World(own=(0.06, 0.06)).draw(rng, (5, 5), 2000)
    assert images_needed(a, b, 0.002) is None, "seeds differ by half a point, whatever the images"
    with pytest.raises(ValueError, match="0"):
        images_needed(a, b, 0)
