"""Stochastic depth for models that have a place for it. Example: set_drop_path(model, 0.1)

Models are built without it; it belongs to the recipe. In training each image skips a residual branch with the branch's
probability, drawn on the device from torch's own stream; in eval mode nothing changes.
"""

from __future__ import annotations

import torch
from torch import nn

from models.torchvision_import import ensure_torchvision

# Children of a block that take a branch's output: timm's (ViT, Swin and others), vit-pytorch's CCT's for both branches.
PLACES = ("drop_path", "drop_path1", "drop_path2")


def set_drop_path(model: nn.Module, rate: float) -> int:
    """Give the blocks rates that rise evenly from 0 to `rate` (Huang et al. 2016, arXiv:1603.09382), in place.

    Returns how many blocks skip branches now: all but the first, or 0 where there is no place for it. At rate 0 nothing
    is touched.
    """
    blocks = [found for module in model.modules() if (found := _places(module))] if rate else []
    for (block, names), own in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        for name in names:
            setattr(block, name, _drop_path(getattr(block, name), own))
    return max(len(blocks) - 1, 0)


def _places(module: nn.Module) -> tuple[nn.Module, list[str]] | None:
    """A block and those of its children that are places for stochastic depth, or None for any other module."""
    children = dict(module.named_children())
    names = [n for n in PLACES if isinstance(children.get(n), nn.Identity) or hasattr(children.get(n), "drop_prob")]
    return (module, names) if names else None


def _drop_path(place: nn.Module, rate: float) -> nn.Module:
    """What stands there, at this rate; where nothing does, timm's."""
    if hasattr(place, "drop_prob"):
        place.drop_prob = rate  # type: ignore[assignment]
        return place
    ensure_torchvision()  # timm imports it
    from timm.layers.drop import DropPath

    return DropPath(rate).train(place.training)
