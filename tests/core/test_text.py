"""Figures as words."""

from __future__ import annotations

import pytest

from bench.core.text import duration, plural, significant


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (1.005, "1.00"), (98.76, "98.8"), (12345.6, "12,346")]
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 epochs"), (1, "1 epoch"), (3840, "3,840 epochs")])
def test_plural(count: int, text: str) -> None:
    assert plural(count, "epoch") == text
