"""What a model costs, counted, not timed. Example: count(model, image_size=32).flops

FLOPs are multiply-adds, as fvcore and the papers count them, for one image in eval mode. fvcore has no handle for
scaled_dot_product_attention and rounds einsum; both are counted here, exactly.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import nn

# Operators that multiply matrices and have no handle here or in fvcore.
PRODUCTS = {
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::addbmm",
    "aten::addmv",
    "aten::addr",
    "aten::baddbmm",
    "aten::bilinear",
    "aten::dot",
    "aten::gru",
    "aten::lstm",
    "aten::mv",
}


@dataclass(frozen=True)
class Cost:
    """flops: multiply-adds for one image · activations: outputs of convolutions and matrix products · params: all.

    `uncounted` names operators with matrix products inside that no handle counts: with any, `flops` is too low.
    """

    flops: int
    params: int
    activations: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModuleCost:
    """One row of the per-module table; `depth` is the number of dots in its name plus one, 0 for the model."""

    name: str
    kind: str
    depth: int
    params: int
    flops: int
    activations: int


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def sdpa_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """q (…, L, E), k (…, S, E), v (…, S, V): the two products take L * S * (E + V) multiply-adds a head."""
    query, key, value = (_shape(i) for i in inputs[:3])
    return Counter({"sdpa": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def einsum_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A product of two operands takes one multiply-add for each combination of all its indices.

    fvcore reads its count off a text that numpy rounded to four digits. Raises ValueError for more than two operands
    and for '...', which no model here uses.
    """
    terms = inputs[0].toIValue().replace(" ", "").split("->")[0].split(",")
    operands = [_shape(i) for i in inputs[1].node().inputs()]
    if len(terms) > 2 or any("." in term for term in terms):
        raise ValueError(f"einsum over {len(terms)} operands or with '...' is not counted")
    if len(terms) == 1:
        return Counter({"einsum": 0})  # a sum or a transposition
    sizes = {
        index: size
        for term, shape in zip(terms, operands, strict=True)
        for index, size in zip(term, shape, strict=True)
    }
    return Counter({"einsum": math.prod(sizes.values())})


def sdpa_activations(inputs: list[Any], outputs: list[Any]) -> int:
    """What the two products of the unfused form put out: the (…, L, S) scores and the (…, L, V) result."""
    query, key = _shape(inputs[0]), _shape(inputs[1])
    return math.prod(query[:-1]) * key[-2] + math.prod(_shape(outputs[0]))


def _analyses(model: nn.Module, image_size: int) -> tuple[FlopCountAnalysis, ActivationCountAnalysis]:
    # A copy: tracing must not touch the state of a model that is about to train.
    model = copy.deepcopy(model).cpu().float().eval()
    images = torch.zeros(1, 3, image_size, image_size)
    flops = FlopCountAnalysis(model, images).set_op_handle(
        "aten::scaled_dot_product_attention", sdpa_flops, "aten::einsum", einsum_flops
    )
    activations = ActivationCountAnalysis(model, images).set_op_handle(
        "aten::scaled_dot_product_attention", sdpa_activations
    )
    for analysis in (flops, activations):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return flops, activations


def count(model: nn.Module, image_size: int) -> Cost:
    """Count one forward pass over one (3, image_size, image_size) image. Raises what the model's forward raises."""
    flops, activations = _analyses(model, image_size)
    params = sum(p.numel() for p in model.parameters())
    total = int(flops.total())
    uncounted = tuple(sorted(PRODUCTS & flops.unsupported_ops().keys()))
    return Cost(flops=total, params=params, activations=int(activations.total()), uncounted=uncounted)


def by_module(model: nn.Module, image_size: int, depth: int = 1) -> list[ModuleCost]:
    """The per-module table, the model itself first, down to `depth` dots."""
    flops, activations = _analyses(model, image_size)
    flops_of, activations_of = flops.by_module(), activations.by_module()
    rows = []
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        if level <= depth:
            params = sum(p.numel() for p in module.parameters())
            kind = type(module).__name__
            rows.append(ModuleCost(name, kind, level, params, int(flops_of[name]), int(activations_of[name])))
    return rows
