"""Models from elsewhere. Example: build_external("timm:resnet18[in_chans=3]", num_classes=10, image_size=32)

Four forms: timm:NAME[key=value,…] · torchvision:NAME · package.module:factory · path/to/file.py:factory.
The last two run the named code: the user must trust it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from models.errors import ModelError, suggest
from models.files import model_file
from models.torchvision_import import ensure_torchvision


def build_external(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build the model that `name` points to. Raises ModelError where it does not exist or is not a module."""
    source, _, rest = name.partition(":")
    if source == "timm":
        return _from_timm(rest, num_classes, image_size)
    if source == "torchvision":
        return _from_torchvision(rest, num_classes, image_size)
    model = load_factory(name)(num_classes, image_size)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def parse_options(text: str, name: str) -> dict[str, Any]:
    """`depth=2,act=gelu` -> {"depth": 2, "act": "gelu"}; values are Python literals or plain words."""
    options: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not (equals and key.strip().isidentifier()):
            raise ModelError(f"'{part}' in {name} is not key=value")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value.strip()
    return options


def _from_timm(rest: str, num_classes: int, image_size: int) -> nn.Module:
    ensure_torchvision()
    import timm

    name, bracket, tail = rest.partition("[")
    options = parse_options(tail.removesuffix("]"), f"timm:{rest}") if bracket else {}
    if not timm.is_model(name):
        raise ModelError(f"timm has no model '{name}'{suggest(name, timm.list_models())}")
    try:
        # Transformers need the image's size when they are built; most CNNs refuse the argument.
        return timm.create_model(name, num_classes=num_classes, img_size=image_size, **options)
    except TypeError as first:
        if "img_size" not in str(first):
            raise ModelError(f"timm:{rest} could not be built: {first}") from first
    try:
        return timm.create_model(name, num_classes=num_classes, **options)
    except TypeError as error:
        raise ModelError(f"timm:{rest} could not be built: {error}") from error


def _from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    ensure_torchvision()
    from torchvision import models as zoo

    choices = zoo.list_models(module=zoo)
    if name not in choices:
        raise ModelError(f"torchvision has no classifier '{name}'{suggest(name, choices)}")
    options = {"image_size": image_size} if name.startswith("vit_") else {}  # decides the number of positions
    model: nn.Module = zoo.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def load_factory(name: str) -> Callable[[int, int], Any]:
    """The function behind `package.module:factory` or `path/to/file.py:factory`; imports, and so runs, its module."""
    source, _, function = name.rpartition(":")
    try:
        module = _import_file(source) if source.endswith(".py") else importlib.import_module(source)
    except ModelError:
        raise
    except Exception as error:  # any error of the user's own code becomes one sentence
        raise ModelError(f"importing {source} for '{name}' failed: {type(error).__name__}: {error}") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise ModelError(f"{source} has no function '{function}'{suggest(function, dir(module))}")
    return factory


def _import_file(source: str) -> Any:
    path = model_file(source)
    if not path.is_file():
        raise ModelError(f"no file '{source}' (looked in {Path.cwd()})")
    name = f"_sevit_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of that file look their module up here
    spec.loader.exec_module(module)
    return module


def tokens(model: nn.Module) -> int | None:
    """How many patches a timm-style ViT cuts this image into, or None where the model does not say."""
    count = getattr(getattr(model, "patch_embed", None), "num_patches", None)
    return count if isinstance(count, int) else None
