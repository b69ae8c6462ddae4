"""Is A more accurate than B? Example: on_images_like_these(a, b)

`a` and `b` are bools, one row per seed and one column per image. There are two questions. *On this test set*: other
seeds, the same images. *On images like these*: other seeds and other images. Every model sees the same images, so
images are paired. Seeds are not: seed 3 of one model has nothing in common with seed 3 of another. All figures are
shares in 0..1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.analysis.stats import least, power_of_t, satterthwaite, two_sided
from bench.core.stats import t_quantile

Right = npt.NDArray[np.bool_]  # whether an image was classified correctly: (seeds, images)


class Difference(NamedTuple):
    """Accuracy of A minus accuracy of B, as a share, with a 95 % interval; nan where there is none.

    `p` is two-sided, for no difference. `of_runs`: a side has one seed, so the interval is about these very runs on
    other images and not about the models.
    """

    value: float
    low: float
    high: float
    p: float
    df: float
    standard_error: float
    seeds_a: int
    seeds_b: int
    images: int
    of_runs: bool = False


class McNemar(NamedTuple):
    """Two runs on the same images: exact two-sided p, and how many images only one of them got right."""

    p: float
    only_a: int
    only_b: int


class Parts(NamedTuple):
    """The parts of the variance of (accuracy of A minus accuracy of B), as squared shares.

    `images`: how much the models' difference varies from image to image, without what seeds add.
    `interaction_a`: how one image's answer varies from seed to seed, beyond the seed's effect on all images.
    `seeds_a`: variance of A's accuracy from seed to seed on these images, including interaction_a / number of images.
    """

    images: float
    seeds_a: float
    seeds_b: float
    interaction_a: float
    interaction_b: float


def checked(a: Right, b: Right) -> tuple[int, int, int]:
    """Seeds of A, seeds of B, images. Raises ValueError unless these are two such arrays for the same images."""
    for right in (a, b):
        if right.dtype != np.bool_ or right.ndim != 2 or 0 in right.shape:
            raise ValueError(f"not bools of (seeds, images) but {right.dtype} of {right.shape}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"not the same images: {a.shape[1]} and {b.shape[1]}")
    return a.shape[0], b.shape[0], a.shape[1]


def interaction(right: Right) -> float:
    """Seed × image mean square of a two-way layout without replication; (seeds - 1)(images - 1) degrees of freedom.

    Scheffé 1959, The Analysis of Variance, section 4.2.
    """
    seeds, images = right.shape
    rest = right - right.mean(axis=1, keepdims=True) - right.mean(axis=0) + right.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (images - 1))


def between_seeds(right: Right) -> float:
    """Variance of one run's accuracy on these images, estimated from two seeds or more.

    Counts are whole, so runs may be equally accurate by chance. Then their disagreement on single images is taken, as
    if images were independent. Where they agree on every image, one more run is assumed to differ on one image: a few
    equal runs are no proof that all are equal.
    """
    seeds, images = right.shape
    counts = right.sum(axis=1)  # integers, so that equal ones have a variance of exactly 0
    if counts.min() != counts.max():
        return float(counts.var(ddof=1)) / images**2
    return max(interaction(right) / images, 1 / (images**2 * (seeds + 1)))


def image_spread(a: Right, b: Right) -> float:
    """Variance over images of (mean of A's seeds minus mean of B's).

    At least as if the two disagreed on one more image: no disagreement on a few images is no proof of none.
    """
    return max(float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1)), 1 / (a.shape[1] + 1))


def parts_of(a: Right, b: Right) -> Parts:
    """The parts of the variance, from two seeds or more on either side.

    `images` is truncated at 0; the seeds' parts must not be: see `on_images_like_these`.
    """
    error_a, error_b = interaction(a), interaction(b)
    images = image_spread(a, b) - error_a / a.shape[0] - error_b / b.shape[0]
    return Parts(max(0.0, images), between_seeds(a), between_seeds(b), error_a, error_b)


def student(a: Right, b: Right, variance: float, df: float, of_runs: bool = False) -> Difference:
    """The difference with a t-interval."""
    value, error = float(a.mean() - b.mean()), math.sqrt(variance)
    half, p = t_quantile(df) * error, two_sided(value / error, df)
    return Difference(value, value - half, value + half, p, df, error, *checked(a, b), of_runs)


def on_this_test_set(a: Right, b: Right) -> Difference:
    """A minus B with other seeds on these very images: Welch's t on one accuracy per seed.

    Welch 1947 (Biometrika 34:28). With one seed on a side, or one image, there is no interval.
    Raises ValueError where the numbers of images differ, or the arrays are not bools.
    """
    seeds_a, seeds_b, images = checked(a, b)
    if min(seeds_a, seeds_b, images) < 2:
        nan, value = math.nan, float(a.mean() - b.mean())
        return Difference(value, nan, nan, nan, nan, nan, seeds_a, seeds_b, images)
    parts = [(between_seeds(right) / len(right), len(right) - 1) for right in (a, b)]
    return student(a, b, sum(variance for variance, _ in parts), satterthwaite(parts))


def on_images_like_these(a: Right, b: Right) -> Difference:
    """A minus B with other seeds and other images: seeds within models, crossed with images that models share.

    Let MS be the mean square over I images of (A's mean minus B's), s² the variance of accuracies over n seeds, and MSE
    the interaction of seeds and images. The variance of the difference is estimated by
        MS/I + s²_A/n_A + s²_B/n_B - MSE_A/(I n_A) - MSE_B/(I n_B),
    because both MS and s²/n contain the seeds' effect on single images: expected mean squares of the mixed model,
    Scheffé 1959, The Analysis of Variance, chapter 8; degrees of freedom as in Satterthwaite 1946.

    What remains of MS after the subtraction is the images' part. It is truncated at 0, so that the standard error is
    never below that on this test set. The seeds' own part, s²/n less MSE/(I n), is not truncated: that would keep the
    upward errors of a variance of two degrees of freedom and drop the downward ones, and intervals of models without a
    seed effect would cover 97 to 98 % (tests/analysis/test_crossed.py). With three seeds the interval is often a little
    narrower than the one on this test set: images add variance, and degrees of freedom too.

    With one seed on a side nothing is known about other seeds: the interval is for these runs on other images
    (`of_runs`). One image says nothing about others: the interval is all that a difference of two accuracies can be.
    Raises ValueError where the numbers of images differ, or the arrays are not bools.
    """
    seeds_a, seeds_b, images = checked(a, b)
    if images < 2:
        nan, value, of_runs = math.nan, float(a.mean() - b.mean()), min(seeds_a, seeds_b) < 2
        return Difference(value, -1.0, 1.0, 1.0, nan, nan, seeds_a, seeds_b, images, of_runs)
    if min(seeds_a, seeds_b) < 2:
        return student(a, b, image_spread(a, b) / images, images - 1, of_runs=True)
    variance, df = expected(parts_of(a, b), seeds_a, seeds_b, images)
    return student(a, b, variance, df)


def expected(parts: Parts, seeds_a: int, seeds_b: int, images: int) -> tuple[float, float]:
    """Variance of the difference of means, and its degrees of freedom, for these parts and numbers."""
    seeds = [(parts.seeds_a / seeds_a, seeds_a - 1), (parts.seeds_b / seeds_b, seeds_b - 1)]
    variance = parts.images / images + sum(part for part, _ in seeds)
    if parts.images == 0:
        return variance, satterthwaite(seeds)
    twice = [
        (-parts.interaction_a / (images * seeds_a), (images - 1) * (seeds_a - 1)),
        (-parts.interaction_b / (images * seeds_b), (images - 1) * (seeds_b - 1)),
    ]
    spread = parts.images / images - sum(part for part, _ in twice)
    return variance, satterthwaite([(spread, images - 1), *seeds, *twice])


def mcnemar(a: Right, b: Right) -> McNemar:
    """Two runs, one bool per image: is it chance which of them is right where they differ?

    McNemar 1947 (Psychometrika 12:153), exact: a fair coin for every image on which they differ. It is about these two
    runs only. Raises ValueError where the numbers of images differ, or the arrays are not bools.
    """
    from scipy.special import bdtr

    if a.dtype != np.bool_ or b.dtype != np.bool_ or a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"not bools of the same images but {a.dtype} of {a.shape} and {b.dtype} of {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))), only_a, only_b)


# --- seeds and images needed -----------------------------------------------------------------------------------------


def seeds_needed_for_images(a: Right, b: Right, difference: float, power: float = 0.8) -> int | None:
    """Seeds per model with which `on_images_like_these` detects a true `difference` (a share) with this power.

    None where no number is enough, because of the test images alone. The parts of the variance are estimated from these
    runs (two or more per model), and are no more certain than those. Raises ValueError for a difference of 0, or arrays
    that are not for the same images.
    """
    _, _, images = checked(a, b)
    parts = parts_of(a, b)
    if difference == 0:
        raise ValueError("no number of seeds detects a difference of 0")
    if power_of_t(difference, math.sqrt(parts.images / images), images - 1) < power:
        return None

    def enough(seeds: int) -> bool:
        variance, df = expected(parts, seeds, seeds, images)
        return power_of_t(difference, math.sqrt(variance), df) >= power

    return least(enough)


def images_needed(a: Right, b: Right, difference: float, power: float = 0.8) -> int | None:
    """Test images with which these seeds detect a true `difference` (a share) on images like these.

    None where no number is enough, because seeds differ too much. Same parts, caution and errors as
    `seeds_needed_for_images`.
    """
    seeds_a, seeds_b, images = checked(a, b)
    parts = parts_of(a, b)
    if difference == 0:
        raise ValueError("no number of images detects a difference of 0")

    def with_images(number: float) -> Parts:
        own_a = max(0.0, parts.seeds_a - parts.interaction_a / images) + parts.interaction_a / number
        own_b = max(0.0, parts.seeds_b - parts.interaction_b / images) + parts.interaction_b / number
        return parts._replace(seeds_a=own_a, seeds_b=own_b)

    def enough(number: int) -> bool:
        variance, df = expected(with_images(number), seeds_a, seeds_b, number)
        return power_of_t(difference, math.sqrt(variance), df) >= power

    own = with_images(math.inf)
    seeds = [(own.seeds_a / seeds_a, seeds_a - 1), (own.seeds_b / seeds_b, seeds_b - 1)]
    error = math.sqrt(sum(part for part, _ in seeds))
    return least(enough) if power_of_t(difference, error, satterthwaite(seeds)) >= power else None
