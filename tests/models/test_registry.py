"""Names: globs, exclusions, brackets, suggestions."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from models import registry
from models.errors import ModelError
from models.registry import expand_names, split_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("seresnet", ["seresnet"]),
        ("seresnet, vit_tiny", ["seresnet", "vit_tiny"]),
        ("timm:vit_base[depth=2,num_heads=3],seresnet", ["timm:vit_base[depth=2,num_heads=3]", "seresnet"]),
    ],
)
def test_split_keeps_brackets_together(text: str, names: list[str]) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize("text", ["", ",", "seresnet,,vit_tiny", "seresnet,", "timm:a[b=1", "timm:a]b["])
def test_split_refuses(text: str) -> None:
    with pytest.raises(ModelError):
        split_names(text)


def test_a_comma_or_a_bracket_in_the_name_of_a_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.py", "c[1,2.py", "d], e.py"):
        Path(name).touch()
    assert split_names("seresnet,a,b.py:f,vit_tiny") == ["seresnet", "a,b.py:f", "vit_tiny"]
    assert split_names(f"{tmp_path}/c[1,2.py:f,d], e.py:g") == [f"{tmp_path}/c[1,2.py:f", "d], e.py:g"]
    assert expand_names("seresnet,a,b.py:f,-a,b.py:f") == ["seresnet"]
    assert split_names("a,b.py") == ["a", "b.py"], "no function is named"


def test_globs_and_exclusions() -> None:
    every_vit = [name for name in registry.CATALOGUE if name.startswith("vit_")]
    assert expand_names("vit_*") == every_vit
    assert expand_names("vit_*,-vit_lite") == [name for name in every_vit if name != "vit_lite"]
    assert expand_names("-vit_lite,vit_*,vit_tiny") == [name for name in every_vit if name != "vit_lite"]
    assert expand_names("seresnet,*resnet") == ["seresnet"]  # resnet56 ends otherwise; no name comes twice


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vit_tinny", "did you mean 'vit_tiny'"),
        ("seresnet56", "did you mean 'seresnet'"),
        ("efficient_*", "no model matches"),
        ("vit_tiny,-vit_*", "leaves no model"),
    ],
)
def test_refusals_say_what_to_do(text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says.replace("*", r"\*")):
        expand_names(text)


def test_every_entry_points_to_a_function() -> None:
    for name, entry in registry.CATALOGUE.items():
        module, _, function = entry.builder.partition(":")
        builder = getattr(importlib.import_module(module), function)
        assert builder.__doc__, f"{name} does not say what it is"
        assert entry.family in ("cnn", "vit", "hybrid")


def test_source_hash_follows_the_file(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(c, s): ...")
    before = registry.source_hash(f"{path}:f")
    path.write_text("def f(c, s): return None")
    assert len(before) == 64
    assert registry.source_hash(f"{path}:f") != before
    assert registry.source_hash("seresnet") == registry.source_hash("timm:resnet18") == ""
