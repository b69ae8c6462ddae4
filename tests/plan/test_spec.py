"""A run's identity: equal specs have equal ids; a change to any field changes the id."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.plan.spec import RunSpec, expand, slug
from tests.synthetic import DATA, RECIPE, Setting, spec


def variants(value: Any) -> list[Any]:
    """The same frozen data with one leaf changed, for every leaf."""
    changed = []
    for f in fields(value):
        old = getattr(value, f.name)
        if is_dataclass(old):
            changed += [replace(value, **{f.name: variant}) for variant in variants(old)]
        else:
            new = not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else old + "x"
            changed.append(replace(value, **{f.name: new}))
    return changed


def test_every_field_is_part_of_the_identity() -> None:
    base = spec("seresnet")
    changed = variants(base)
    assert len(changed) > 25
    ids = {base.run_id, *(c.run_id for c in changed)}
    assert len(ids) == len(changed) + 1


@given(st.text())
def test_a_slug_is_a_harmless_folder_name(text: str) -> None:
    name = slug(text)
    assert 0 < len(name) <= 40
    assert name[0] not in "._-"
    assert all(c.isascii() and (c.isalnum() or c in "_.") for c in name)


def test_expand_goes_seed_by_seed() -> None:
    specs = expand([("a", ""), ("b", "f00")], DATA, RECIPE, Setting(), ("cpu", "X"), [0, 1])
    assert [(s.model, s.seed) for s in specs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert all(isinstance(s, RunSpec) and s.device_name == "X" for s in specs)
    assert specs[1].model_source == "f00"
