"""What is luck in a search for a learning rate, with cases worked out by hand."""

from __future__ import annotations

import msgspec
import pytest

from bench.store.lr_doubt import doubt, runner_up
from bench.store.records import LRSearch, Trial
from tests.store.test_records import lr_search


def searched(best: float, second: float, images: int = 100) -> LRSearch:
    """Two finalists of ten classes."""
    trials = tuple(
        Trial(
            lr=lr,
            rung=1,
            status="ok",
            message="",
            samples=64,
            train_seconds=1.0,
            val_accuracy=accuracy,
            val_loss=1.0,
            val_images=images,
        )
        for lr, accuracy in ((0.001, second), (0.01, best))
    )
    return msgspec.structs.replace(lr_search(), trials=trials)


def test_finalists_that_cannot_be_told_apart() -> None:
    """Wilson: 30 of 100 is 0.2189 to 0.3958, 20 of 100 is 0.1334 to 0.2888. So 0.1 - √(0.0811² + 0.0888²) = -0.0202."""
    found = runner_up(searched(0.3, 0.2).trials, 100)
    assert found is not None
    assert (found.lr, found.val_accuracy, found.val_images) == (0.001, 0.2, 100)
    assert (found.low, found.high) == (pytest.approx(-0.02025, abs=1e-5), pytest.approx(0.21673, abs=1e-5))
    assert doubt(searched(0.3, 0.2)) == (
        "0.01 and the runner-up 0.001 cannot be told apart: 30.0 and 20.0 % of 100 validation images, "
        "+10.00 points (-2.02 to +21.67)"
    )
    assert not doubt(searched(0.4, 0.2)), "0.2 - √(0.0908² + 0.0888²) = 0.073, above 0"


def test_no_trial_above_chance() -> None:
    """16 of 100 is 0.1010 to 0.2442: above one in ten. 15 of 100 is 0.0931 to 0.2328: not."""
    assert doubt(searched(0.15, 0.1)) == (
        "no trial is above chance (10 %): the best has 15.0 % (9.3–23.3 %) of 100 validation images"
    )
    assert "chance" not in doubt(searched(0.16, 0.1))


def test_what_is_not_known_is_no_doubt() -> None:
    """Older searches do not say how many images there were; the runs do."""
    old = searched(0.3, 0.2, images=0)
    assert (doubt(old), runner_up(old.trials, 0)) == ("", None)
    assert "cannot be told apart" in doubt(old, val_images=100)
    assert not doubt(lr_search(), val_images=100), "no trial ran longest"
