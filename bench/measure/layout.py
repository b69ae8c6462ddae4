"""A model's stem and its resolutions, observed in a forward pass. Example: layout(model, 32)"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure.switches import in_mode


def layout(model: nn.Module, image_size: int) -> tuple[str, str]:
    """(stem, resolutions): what the first convolution or linear layer does to the image, and the number of positions at
    which it and all later ones output features.

    Positions of an image's windows are added up; layers that work on one feature vector are left out. A layer that
    turns coordinates into weights, as MaxViT's position bias does, counts as a resolution too.
    """
    calls: list[tuple[nn.Module, int]] = []

    def on_call(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)  # (outputs, …) of either kind
        calls.append((module, output.numel() // module.weight.shape[0]))

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(on_call) for module in layers]
    try:
        with torch.no_grad(), in_mode(model, training=False):
            model(torch.zeros(1, 3, image_size, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        return "–", "–"
    return stem_of(*calls[0], image_size), resolutions(places for _, places in calls)


def stem_of(first: nn.Module, places: int, image_size: int) -> str:
    """`3x3, stride 2` for a convolution, `patch 8` for one without overlap and for a linear layer on patches.

    Channels are named where they are not the image's three, such as shifted copies of it.
    """
    if isinstance(first, nn.Conv2d):
        height, width = first.kernel_size
        if first.kernel_size == first.stride:
            return f"patch {height}"
        return f"{height}x{width}, stride {first.stride[0]}"
    assert isinstance(first, nn.Linear)
    patch = image_size // math.isqrt(places)
    channels = first.in_features // patch**2
    return f"patch {patch}" if channels == 3 else f"patch {patch}, {channels} channels"


def resolutions(places: Iterable[int]) -> str:
    """1024, 256, 1, 64 -> `32x32, 16x16, 8x8`; 64, 65 -> `8x8+1`, patches and a class token."""
    distinct = [n for n in dict.fromkeys(places) if n > 1]
    return ", ".join(_grid(n) for n in distinct if n + 1 not in distinct) or "1x1"


def _grid(places: int) -> str:
    for more, mark in ((0, ""), (1, "+1")):
        side = math.isqrt(places - more)
        if side**2 == places - more:
            return f"{side}x{side}{mark}"
    return str(places)
