"""Records of speed sessions: their rows of speed.csv, and what counts as damage."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.store.records import Damaged, Session, decode, encode
from bench.store.views import speed_rows
from tests.synthetic import sealed, session, split_starts, thorough_session


def stored(of: Session, **changes: Any) -> bytes:
    """As a file holds it, with other content and a checksum that holds."""
    plain: dict[str, Any] = msgspec.json.decode(encode(of))
    return sealed({**plain, **changes})


def test_rows_of_speed_csv_by_hand() -> None:
    """A step of 1.0, 1.1, 1.2 s against one of 2.0, 2.2, 2.4 s at batch 128: half the speed, exactly."""
    timed = thorough_session({"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]})
    rows = {(r["model"], r["kind"], r["batch_size"]): r for r in speed_rows(timed)}
    train = rows["vit_tiny", "train", 128]
    assert train["images_per_second"] == pytest.approx(128 / 2.2)
    assert (train["q1_ms"], train["median_ms"], train["q3_ms"]) == pytest.approx((2100, 2200, 2300))
    assert (train["ratio"], train["ratio_low"], train["ratio_high"]) == pytest.approx(
        (0.5, 0.5 / math.exp(0.02), 0.5 * math.exp(0.02))
    )
    assert "ratio" not in rows["seresnet", "train", 128]
    assert rows["vit_tiny", "inference", 32]["median_ms"] == pytest.approx(2.2 * 52)
    assert train["joules_per_1000_images"] is None
    assert "RAPL" in train["joules_missing"]


def test_incomplete_blocks_are_damage() -> None:
    timed = session({"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.1]})
    assert decode(stored(timed), timed.id, Session) == timed
    samples = msgspec.to_builtins(timed.samples[:-1])
    with pytest.raises(Damaged, match="not complete"):
        decode(stored(timed, samples=samples), timed.id, Session)


def test_blocks_of_two_starts_belong_to_one_each() -> None:
    """A session as written before there were starts has one; starts that are missing, or share a block, are damage."""
    timed = split_starts(session({"seresnet": [1.0] * 6, "vit_tiny": [2.0] * 6}), 3)
    read = decode(stored(timed), timed.id, Session)
    assert read == timed
    assert read.by_start("vit_tiny", "train") == [[2.0, 2.0]] * 3
    plain = msgspec.to_builtins(session({"seresnet": [1.0]}))
    assert "start" not in msgspec.json.encode(plain["samples"]).decode() or plain["samples"][0]["start"] == 0
    for changes in ({"starts": 2}, {"starts": 4}):
        with pytest.raises(Damaged, match="process start"):
            decode(stored(timed, **changes), timed.id, Session)
    shared = msgspec.to_builtins(timed.samples)
    shared[0]["start"] = 2
    with pytest.raises(Damaged, match="process start"):
        decode(stored(timed, samples=shared), timed.id, Session)


@pytest.mark.parametrize("field", ["half_width", "planned_blocks", "seconds"])
@pytest.mark.parametrize("value", ["", [], -1])
def test_figures_of_the_rule_are_numbers_where_given(field: str, value: Any) -> None:
    """The table's note formats them."""
    timed = session({"seresnet": [1.0, 1.1]})
    with pytest.raises(Damaged):
        decode(stored(timed, **{field: value}), timed.id, Session)


@pytest.mark.parametrize("groups", [1, {"seresnet": {"groups": {}}}, {"seresnet": {"step_seconds": 1, "groups": []}}])
def test_groups_are_seconds_where_given(groups: Any) -> None:
    timed = session({"seresnet": [1.0] * 3})
    plain = {"seresnet": {"step_seconds": 1.0, "groups": {"convolution": 0.7}}}
    assert decode(stored(timed, groups=plain), timed.id, Session).groups["seresnet"].groups == {"convolution": 0.7}
    with pytest.raises(Damaged):
        decode(stored(timed, groups=groups), timed.id, Session)
