"""Figures as words."""

from __future__ import annotations

import pytest

from bench.core.text import duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
