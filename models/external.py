"""Models from elsewhere. Example: build_external("timm:resnet18[in_chans=3]", num_classes=10, image_size=32)

Four forms: timm:NAME[key=value,…] · torchvision:NAME · package.module:factory · path/to/file.py:factory.
The last two run the named code: the user must trust it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from models.errors import ModelError, suggest
from models.files import mistaken, model_file, neighbours
from models.torchvision_import import ensure_torchvision

TRAINED = ("pretrained", "checkpoint_path")  # starts of timm's options that load weights
# Without the outputs for auxiliary losses, which a plain training loop has no use for; the weights as by default.
ONE_OUTPUT = {"aux_logits": False, "init_weights": True}
TORCHVISION_OPTIONS = {"googlenet": ONE_OUTPUT, "inception_v3": ONE_OUTPUT}


def build_external(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build the model that `name` points to. Raises ModelError where it does not exist or is not a module."""
    with contextlib.suppress(ImportError):  # whoever builds on it without having it says so
        ensure_torchvision()  # a user's file or package may import it, as timm does
    source, _, rest = name.partition(":")
    if source == "timm":
        return _from_timm(rest, num_classes, image_size)
    if source == "torchvision":
        return _from_torchvision(rest, num_classes, image_size)
    with neighbours(name.rpartition(":")[0]):
        model = load_factory(name)(num_classes, image_size)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def parse_options(text: str, name: str) -> dict[str, Any]:
    """`depths=(2, 2),act=gelu` -> {"depths": (2, 2), "act": "gelu"}; values are Python literals or plain words.

    Raises ModelError for what is no such list, and for options that ask for trained weights.
    """
    parts: list[str] = []
    for piece in text.split(","):
        if parts and not _closed(parts[-1]):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    if not _closed(parts[-1]):
        raise ModelError(f"'{parts[-1]}' in {name} opens a bracket or a quote that is not closed")
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (equals and key.strip().isidentifier()):
            raise ModelError(f"'{part}' in {name} is not key=value")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value.strip()
        if options[key.strip()] and key.strip().startswith(TRAINED):
            raise ModelError(f"'{part}' in {name} asks for trained weights; every model here starts from its seed")
    return options


def _closed(text: str) -> bool:
    """Whether every bracket and quote in it is closed."""
    brackets = all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]", "{}"))
    return brackets and not any(text.count(quote) % 2 for quote in "'\"")


def _from_timm(rest: str, num_classes: int, image_size: int) -> nn.Module:
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
    from torchvision import models as zoo

    choices = zoo.list_models(module=zoo)
    if name not in choices:
        raise ModelError(f"torchvision has no classifier '{name}'{suggest(name, choices)}")
    options: dict[str, Any] = dict(TORCHVISION_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = image_size  # decides the number of positions
    model: nn.Module = zoo.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def load_factory(name: str) -> Callable[[int, int], Any]:
    """The function behind `package.module:factory` or `path/to/file.py:factory`; imports, and so runs, its module."""
    source, _, function = name.rpartition(":")
    if (own := mistaken(source)) is not None:
        package = source.partition(".")[0]
        raise ModelError(f"'{name}': `{package}` is this tool's own package; name your file: {own}:{function}")
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
    # as a package of its folder, so that relative imports find what lies beside it
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.resolve().parent)])
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
