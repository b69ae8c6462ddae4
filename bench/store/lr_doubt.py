"""What a search for a learning rate leaves to luck. Example: doubt(search, val_images=1110)

A trial has one seed and a few hundred validation images. What is said here is about other images like these; what
another seed would do was not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.core.stats import difference_of_shares, share_interval
from bench.store.records import LRSearch, RunnerUp, Trial


def best_of(trials: Sequence[Trial]) -> list[Trial]:
    """Trials from the best on: by validation accuracy, among equals by loss; failed ones come last."""
    return sorted(trials, key=lambda t: (-(t.val_accuracy or 0.0), math.inf if t.val_loss is None else t.val_loss))


def finalists(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """(lr, validation accuracy) of the trials that ran longest and ended well, from the best on."""
    return [(t.lr, t.val_accuracy) for t in best_of(trials) if t.rung > 0 and t.val_accuracy is not None]


def runner_up(trials: Sequence[Trial], val_images: int) -> RunnerUp | None:
    """The second best finalist and how far it is behind; None where there is none, or no image was counted."""
    if not val_images or len(finals := finalists(trials)) < 2:
        return None
    (_, best), (lr, second) = finals[:2]
    behind = difference_of_shares(share_interval(best, val_images), share_interval(second, val_images))
    return RunnerUp(lr=lr, val_accuracy=second, val_images=val_images, low=behind.low, high=behind.high)


def doubt(search: LRSearch, val_images: int = 0) -> str:
    """Why the choice may be luck, in one clause; "" where nothing speaks for that, or nothing can be said.

    No finalist is above chance where Wilson's interval of the best contains one in `num_classes`. The best and the
    runner-up cannot be told apart where the interval of their difference contains 0. `val_images`: for a search of an
    older version, which does not say how many there were.
    """
    finals = finalists(search.trials)
    images = max((t.val_images for t in search.trials), default=0) or val_images
    if not finals or not images:
        return ""
    (best_lr, best), chance = finals[0], 1 / search.spec.data.num_classes
    interval, second = share_interval(best, images), runner_up(search.trials, images)
    if interval.low <= chance:
        return (
            f"no trial is above chance ({100 * chance:.3g} %): the best has {100 * best:.1f} % "
            f"({100 * interval.low:.1f}–{100 * interval.high:.1f} %) of {images:,} validation images"
        )
    if second is None or second.low > 0:
        return ""
    return (
        f"{best_lr:g} and the runner-up {second.lr:g} cannot be told apart: {100 * best:.1f} and "
        f"{100 * second.val_accuracy:.1f} % of {images:,} validation images, {100 * (best - second.val_accuracy):+.2f} "
        f"points ({100 * second.low:+.2f} to {100 * second.high:+.2f})"
    )
