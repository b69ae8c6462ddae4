"""Errors and suggestions for names. Example: suggest("vit_tinny", ["vit_tiny"]) == "; did you mean 'vit_tiny'?" """

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """A model's name or factory cannot be used; the message is one sentence for the user."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' where a name is close, else a full stop."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.8)
    close = close or [choice for choice in choices if sorted(choice) == sorted(name)]  # two letters swapped
    return f"; did you mean '{close[0]}'?" if close else "."
