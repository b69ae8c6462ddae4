"""Words of the command line that presets parse."""

from __future__ import annotations

import pytest

from bench.core.errors import UserError
from bench.plan.presets import parse_batch_sizes


def test_batch_sizes() -> None:
    assert parse_batch_sizes("128, 1,32,1") == (1, 32, 128)
    for text in ("", "1,,2", "-1", "9999999"):
        with pytest.raises(UserError):
            parse_batch_sizes(text)
