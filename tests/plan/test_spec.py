"""A run's identity: equal specs, equal ids; anything that matters changed, another id."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.plan.spec import RunSpec, expand, slug
from tests.synthetic import DATA, RECIPE, Setting, spec


def variants(value: Any) -> list[Any]:
    """The same frozen data with one leaf changed, for every leaf."""
    made = []
    for f in fields(value):
        old = getattr(value, f.name)
        if is_dataclass(old):
            made += [replace(value, **{f.name: changed}) for changed in variants(old)]
        else:
            new = not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else old + "x"
            made.append(replace(value, **{f.name: new}))
    return made


def test_every_field_is_part_of_the_identity() -> None:
    base = spec("seresnet")
    changed = variants(base)
    assert len(changed) > 25
    ids = {base.run_id, *(c.run_id for c in changed)}
    assert len(ids) == len(changed) + 1


@given(st.text())
def test_a_slug_is_a_harmless_folder_name(text: str) -> None:
    made = slug(text)
    assert 0 < len(made) <= 40
    assert made[0] not in "._-"
    assert all(c.isascii() and (c.isalnum() or c in "_.") for c in made)


def test_expand_goes_seed_by_seed() -> None:
    specs = expand([("a", ""), ("b", "f00")], DATA, RECIPE, Setting(), ("cpu", "X"), [0, 1])
    assert [(s.model, s.seed) for s in specs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert all(isinstance(s, RunSpec) and s.device_name == "X" for s in specs)
    assert specs[1].model_source == "f00"
