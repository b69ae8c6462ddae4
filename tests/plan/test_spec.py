"""A run's identity: equal specs have equal ids; a change to any field changes the id."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.settings import SETTINGS
from bench.plan.spec import RunSpec, expand, reference_among, session_of, slug
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


def test_ratios_refer_to_seresnet_unless_another_model_is_named() -> None:
    assert reference_among(["vit_tiny", "seresnet"]) == "seresnet"
    assert reference_among(["vit_tiny", "seresnet"], "vit_tiny") == "vit_tiny"
    assert reference_among(["vit_tiny", "resnet20"]) == "vit_tiny"
    assert reference_among(["resnet20", "seresnet"], "vit_tiny") == "seresnet", "one that failed is no reference"


def test_a_session_takes_its_conditions_from_the_runs() -> None:
    recipe, own = replace(RECIPE, track="shared"), replace(RECIPE, track="shared", lr=0.5)
    runs = [spec("seresnet", recipe=recipe), spec("vit_tiny", recipe=own, model_source="f00")]
    session = session_of(runs, 30.0, "vit_tiny")
    assert session.models == (("seresnet", ""), ("vit_tiny", "f00"))
    assert (session.reference, session.seconds, session.image_size) == ("vit_tiny", 30.0, DATA.image_size)
    assert session.recipe_of("vit_tiny") == own
    assert session_of([spec("seresnet")], 1.0).own_recipes == ()
    with pytest.raises(AssertionError, match="one session"):
        session_of([*runs, spec("resnet20", recipe=recipe, setting=SETTINGS["compiled"])], 1.0)
