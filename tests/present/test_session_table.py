"""A speed session on a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.present.session_table import render_session, render_settings, session_notes
from bench.store.records import Session
from tests.synthetic import session, thorough_session

SECONDS = {"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]}


def with_policy(seconds: dict[str, list[float]], policy: str, settings: dict[str, Any]) -> Session:
    base = session(seconds)
    return session(seconds, key=msgspec.to_builtins(base.key) | {"policy": policy}, settings=settings)


def test_all_figures_and_what_limits_them() -> None:
    made = thorough_session(SECONDS, warnings=["the clock fell: 12 % slower"])
    text = session_notes(made, 160) + render_session(made, 160)
    for part in ("bandwidth", "0.500×", "confirmed", "58.2", "12 % slower", "60.0 GFLOP/s", "n = 3", "inference at 32"):
        assert part in text, part
    assert "3 blocks, enough to know every ratio within ±2 %" in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_of_any_width_has_one_table_with_the_columns_that_fit(width: int) -> None:
    made = thorough_session(SECONDS, sizes=(1, 8, 32, 128, 512))
    lines = render_session(made, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("model ") for line in lines) == 2, "training and inference, neither continued beneath"
    shown = "\n".join(lines)
    assert "inference at 512" in shown, "the largest batch is left out last"
    assert ("limited by" in shown) == (width > 80)
    assert ("inference at 8 " in shown) == (width > 100)


@pytest.mark.parametrize("width", [80, 160])
def test_a_note_explains_no_column_that_has_no_room(width: int) -> None:
    made = thorough_session(SECONDS)
    assert ("limited by" in render_session(made, width)) == (width > 80)
    assert ("Limited by:" in session_notes(made, width)) == (width > 80)


def test_a_limit_that_left_no_room_for_inference_leaves_no_empty_table() -> None:
    made = session(SECONDS)
    training = msgspec.structs.replace(made, samples=tuple(s for s in made.samples if s.kind == "train"))
    assert sum(line.startswith("model") for line in render_session(training, 80).splitlines()) == 1


def test_missing_energy_is_mentioned_once_where_it_was_to_be_measured() -> None:
    assert session_notes(thorough_session(SECONDS), 80).count("energy") == 1
    assert "energy" not in session_notes(session(SECONDS), 80)


def test_settings_side_by_side() -> None:
    """A column each, and the setting that was found; a session of an older schema has no settings."""
    found = {"memory_format": "channels_last", "compile_mode": "default", "attention": "explicit", "name": "tuned"}
    plain = {"memory_format": "contiguous", "name": "eager"}
    eager = with_policy({"seresnet": [1.0, 1.0], "vit": [2.0, 2.0]}, "identical:eager", {"vit": plain})
    tuned = with_policy({"vit": [1.0, 1.0]}, "tuned", {"vit": found})
    lines = render_settings([eager, tuned]).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("vit"))
    assert row[:3] == ["vit", "64.0", "128"]
    assert " ".join(row[3:]) == "channels_last, compiled (default), explicit attention"
    (row,) = (line.split() for line in lines if line.startswith("seresnet"))
    assert row == ["seresnet", "128", "–", "–"]
    assert "tuned" not in render_settings([msgspec.structs.replace(eager, settings={})])
