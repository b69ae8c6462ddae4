"""What a session says about itself: where the order of two models turns, its process starts, its limit."""

from __future__ import annotations

import math

import msgspec
import pytest

from bench.analysis.sessions import about_limit, about_starts, order_by_batch, turns
from bench.core.stats import Interval
from tests.synthetic import by_batch, session, split_starts

FASTER, SLOWER, OPEN = (1.1, 1.05, 1.15), (0.9, 0.85, 0.95), (1.01, 0.97, 1.05)


@pytest.mark.parametrize(
    ("ratios", "says"),
    [
        ({64: SLOWER, 128: SLOWER, 256: SLOWER, 512: FASTER, 1024: FASTER}, "b is faster up to 256, a from 512 on"),
        ({64: FASTER, 128: OPEN, 256: SLOWER}, "a is faster up to 64, b from 256 on"),
        ({512: FASTER, 64: SLOWER}, "b is faster up to 64, a from 512 on"),
        ({64: FASTER, 128: SLOWER, 256: FASTER, 512: FASTER}, "a is faster at 64; b is faster at 128; "
         "a is faster at 256 to 512"),
        ({64: FASTER, 128: OPEN}, ""),
        ({64: OPEN, 128: OPEN}, ""),
        ({64: (1.1, math.nan, math.nan), 128: SLOWER}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_where_the_order_turns(ratios: dict[int, tuple[float, float, float]], says: str) -> None:
    assert order_by_batch("a", "b", {size: Interval(*ends, 10) for size, ends in ratios.items()}) == says


def test_where_the_order_turns_in_a_session() -> None:
    """seresnet takes 1 ms an image whatever the batch, vit_tiny 90 ms and 0.5 ms an image: they meet at 180."""
    made = by_batch({"seresnet": (0.0, 0.001), "vit_tiny": (0.09, 0.0005)}, (64, 128, 256, 512))
    assert turns("seresnet", "vit_tiny", made) == "seresnet is faster up to 128, vit_tiny from 256 on"
    assert turns("seresnet", "seresnet", made) == ""


def test_starts_are_named() -> None:
    once = session({"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]})
    assert "differences under 2 % give no verdict" in about_starts(once)
    assert "In 3 process starts" in about_starts(split_starts(once, 3))
    assert about_starts(msgspec.structs.replace(once, stopped="alone")) == ""


def test_what_the_limit_left_out_is_a_sentence() -> None:
    once = session(
        {"seresnet": [1.0]}, limit_seconds=20.0, left_out=["inference at batch 128", "twice the batch", "energy"]
    )
    assert about_limit(once) == (
        "Left out, as the limit of 20 s had no room: inference at batch 128, twice the batch and energy."
    )
    assert about_limit(session({"seresnet": [1.0]})) == ""
