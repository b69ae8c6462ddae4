"""Figures as words. Example: plural(1, "epoch") == "1 epoch" """

from __future__ import annotations

import io
import math
import re
import sys

SURROGATES = re.compile("[\ud800-\udfff]")


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`: as coarse as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 epoch`, `3,840 samples`; `nouns` where the plural is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def writable(name: str) -> str:
    """A name that can be written down: what is no UTF-8 in a file's name, or half a character, becomes U+FFFD."""
    return SURROGATES.sub("\ufffd", name)


def print_any_character() -> None:
    """Print `?` for what a terminal's encoding lacks (cp1252, ASCII): Python would raise in the middle of a table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
