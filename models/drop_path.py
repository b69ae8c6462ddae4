"""Stochastic depth for models that support it. Example: set_drop_path(model, 0.1)

Models are built without it; it belongs to the recipe. In training each image skips a residual branch with the branch's
probability, drawn on the device from torch's own stream; in eval mode nothing changes.
"""

from __future__ import annotations

import torch
from torch import nn

from models.torchvision_import import ensure_torchvision

# Names of a block's children that a branch's output passes through: in timm (ViT, Swin and others) and in vit-pytorch's
# CCT, which has one for both branches.
PLACES = ("drop_path", "drop_path1", "drop_path2")


def set_drop_path(model: nn.Module, rate: float) -> int:
    """Give the blocks rates that rise evenly from 0 to `rate` (Huang et al. 2016, arXiv:1603.09382), in place.

    Returns how many blocks now skip branches: all but the first, or 0 where the model does not support it. Rate 0
    changes nothing.
    """
    blocks = [places for module in model.modules() if (places := _places(module))] if rate else []
    for (block, names), block_rate in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        for name in names:
            setattr(block, name, _drop_path(getattr(block, name), block_rate))
    return max(len(blocks) - 1, 0)


def _places(module: nn.Module) -> tuple[nn.Module, list[str]] | None:
    """A block and the names of its children that can drop a branch; None for any other module."""
    children = dict(module.named_children())
    names = [n for n in PLACES if isinstance(children.get(n), nn.Identity) or hasattr(children.get(n), "drop_prob")]
    return (module, names) if names else None


def _drop_path(place: nn.Module, rate: float) -> nn.Module:
    """The module at this rate; timm's DropPath in place of an identity."""
    if hasattr(place, "drop_prob"):
        place.drop_prob = rate  # type: ignore[assignment]
        return place
    ensure_torchvision()  # timm imports it
    from timm.layers.drop import DropPath

    return DropPath(rate).train(place.training)
