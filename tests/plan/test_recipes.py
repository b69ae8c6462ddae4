"""Recipes: named ones are valid, a TOML file derives from one, anything else is refused with its reason."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.plan import recipes
from bench.plan.presets import PRESETS, default_preset
from bench.plan.spec import Recipe


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_named_recipes_are_valid_and_explained() -> None:
    for name, make in recipes.RECIPES.items():
        recipe = recipes.load(name)
        assert recipe.name == name
        recipes.check(recipe, name)
        assert "Cost" in (make.__doc__ or "")
        assert "Expected" in (make.__doc__ or "")


def test_presets_name_what_exists() -> None:
    for preset in PRESETS.values():
        assert preset.recipe in recipes.RECIPES
    assert PRESETS[default_preset(False)].dataset == "digits"
    assert PRESETS[default_preset(True)].dataset == "cifar10"


def test_a_file_derives(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, 'base = "shared"\nepochs = 3\nlr = 1\noptimizer = "sgd"\nflip = false\n'))
    expected = recipes.shared()
    assert (recipe.name, recipe.epochs, recipe.lr, recipe.optimizer, recipe.flip) == ("mine", 3, 1.0, "sgd", False)
    assert recipe.label_smoothing == expected.label_smoothing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs = ", "cannot be read"),
        ('base = "sharde"', "choose from shared, smoke"),
        ("epocs = 3", "unknown field 'epocs'"),
        ("epochs = 0", "epochs must be at least 1"),
        ("epochs = 1000000000000", "epochs must be at most 1,000,000"),
        ("epochs = " + "1" * 5000, "cannot be read"),
        ("x = " + "[" * 5000, "cannot be read"),
        ("x = " + "{a = " * 5000, "cannot be read"),
        ("[" + "a." * 100_000 + "a]", "more than 65,536 bytes"),
        ("epochs = 2.5", "epochs must be int"),
        ("epochs = true", "epochs must be int"),
        ("lr = nan", "lr must be above 0"),
        ("lr = -1.0", "lr must be above 0"),
        ("lr = inf", "lr must be above 0"),
        ('optimizer = "adam"', "optimizer must be one of adamw, sgd"),
        ('precision = "fp16"', "precision must be one of"),
        ('policy = "autoaugment"', "policy must be empty or one of trivialaugment, randaugment"),
        ("random_erasing = 1.5", "random_erasing must be between 0 and 1"),
        ("random_erasing = -0.1", "random_erasing must be between 0 and 1"),
        ("random_erasing = nan", "random_erasing must be between 0 and 1"),
        ("drop_path = 1.0", "drop_path must be at least 0 and below 1"),
        ("drop_path = -0.1", "drop_path must be at least 0 and below 1"),
        ("label_smoothing = 1.0", "label_smoothing must be at least 0 and below 1"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipes.load(write(tmp_path, text))


def test_what_windows_editors_save(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 3\r\n", encoding="utf-8-sig")
    assert recipes.load(str(path)).epochs == 3
    path.write_text("epochs = 3", encoding="utf-16")
    with pytest.raises(UserError, match="is not UTF-8 text; save it as UTF-8"):
        recipes.load(str(path))


def test_a_file_whose_name_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.toml"
    path.write_text("epochs = 3")
    assert recipes.load(str(path)).name == "caf\ufffd"


def test_missing_and_misspelt(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe file"):
        recipes.load(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="did you mean 'shared'"):
        recipes.load("sharde")


values = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5))


@given(st.dictionaries(st.sampled_from([*Recipe.__dataclass_fields__, "nonsense"]), values, max_size=3))
def test_any_change_gives_a_valid_recipe_or_an_error(changes: dict[str, object]) -> None:
    with contextlib.suppress(UserError):
        recipe = recipes.derive(recipes.shared(), changes, "here")
        recipes.check(recipe, "here")
        assert type(recipe.lr) is float


def test_a_budget_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text('base = "shared"\nbudget = "2Msamples"\n')
    recipe = recipes.load(str(path))
    assert (recipe.epochs, recipe.budget, recipe.validations) == (0, "2000000samples", 10)
    for text, sentence in (
        ('budget = "2Msamples"\nepochs = 3', "give only one"),
        ('budget = "soon"', "budget"),
        ('track = "shared"', "--track"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            recipes.load(str(path))
