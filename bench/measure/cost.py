"""FLOPs, parameters and activations of a model. Example: count(model, image_size=32).flops

FLOPs are multiply-adds, as fvcore and the papers count them, for one image in eval mode. Handles defined here count
exactly what fvcore omits or gets wrong: scaled_dot_product_attention, einsum, products of more than two dimensions. The
sum over all products is compared with torch's own counter, an independent implementation.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from bench.core.events import ModulePart
from bench.measure.switches import in_mode
from bench.store.records import Audit

# fvcore's names of the operators that both counters count: matrix products and convolutions.
PRODUCTS = ("conv", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum", "sdpa")
# Operators that multiply matrices and have no handle here or in fvcore; a model with one of them fails the audit.
UNCOUNTED = {
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::addbmm",
    "aten::addmv",
    "aten::addr",
    "aten::bilinear",
    "aten::dot",
    "aten::gru",
    "aten::lstm",
    "aten::mv",
}
# A few operations per element, which neither fvcore nor the papers count. Any other operator without a handle is
# reported by name.
POINTWISE = {
    f"aten::{name}"
    for names in (
        # arithmetic of one or two elements
        "abs add add_ addcmul clamp clamp_min cos div div_ exp log maximum mul mul_ neg pow reciprocal rsqrt rsub sin",
        "sqrt square sub sub_ where",
        # activations
        "elu gelu gelu_ hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ mish",
        "relu6 sigmoid sigmoid_ silu silu_ softmax softplus tanh",
        # sums, means and maxima over a window or a dimension
        "amax avg_pool2d cumsum linalg_vector_norm max max_pool2d mean std sum var var_mean",
        # creating and moving tensors
        "constant_pad_nd copy_ expand_as eye fill_ flip im2col index index_select linspace masked_fill meshgrid",
        "one_hot ones_like pad pixel_shuffle pixel_unshuffle repeat repeat_interleave roll tile zeros_like",
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Cost:
    """flops: multiply-adds for one image · activations: outputs of convolutions and matrix products · params: all.

    `train_flops_2x`: forward and backward for one image by torch's counter, two operations per multiply-add; None where
    that counter could not run. `modules`: by_module at depth 1.
    """

    flops: int
    params: int
    activations: int
    train_flops_2x: int | None
    audit: Audit
    modules: tuple[ModulePart, ...] = ()


# --- handles -------------------------------------------------------------------------------------------------------


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def sdpa_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """q (…, L, E), k (…, S, E), v (…, S, V): the two products take L * S * (E + V) multiply-adds per head."""
    query, key, value = (_shape(i) for i in inputs[:3])
    return Counter({"sdpa": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def matmul_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """(…, n, k) @ (…, k, m): one multiply-add per output and index of the sum, also where a shape is broadcast.

    fvcore counts 105 for (5, 7) @ (8, 7, 3), which takes 840.
    """
    return Counter({"matmul": math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]})


def padded_convolution_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution with padding="same", which fvcore omits: each output uses each weight of its filter once."""
    return Counter({"conv": math.prod(_shape(outputs[0])) * math.prod(_shape(inputs[1])[1:])})


def baddbmm_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """The product of (b, n, k) and (b, k, m); adding the first operand is not another multiply-add."""
    return Counter({"baddbmm": math.prod(_shape(inputs[1])) * _shape(inputs[2])[-1]})


def einsum_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A product of two operands takes one multiply-add per combination of all indices.

    fvcore parses its count from a text that numpy rounds to four digits. Raises ValueError for more than two operands,
    whose cost depends on the order of evaluation. `...` stands for the leading dimensions without a letter.
    """
    terms = inputs[0].toIValue().replace(" ", "").split("->")[0].split(",")
    operands = [_shape(i) for i in inputs[1].node().inputs()]
    if len(terms) > 2:
        raise ValueError(f"einsum over {len(terms)} operands is not counted")
    if len(terms) == 1:
        return Counter({"einsum": 0})  # a sum or a transposition
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        head, dots, tail = term.partition("...")
        spare = len(shape) - len(head) - len(tail)
        names = [*head, *(f".{spare - i}" for i in range(spare)), *tail] if dots else list(head)
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return Counter({"einsum": math.prod(sizes.values())})


def sdpa_activations(inputs: list[Any], outputs: list[Any]) -> int:
    """Outputs of the two products in the unfused form: the (…, L, S) scores and the (…, L, V) result."""
    query, key = _shape(inputs[0]), _shape(inputs[1])
    return math.prod(query[:-1]) * key[-2] + math.prod(_shape(outputs[0]))


# --- count ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """nn.TransformerEncoderLayer in eval mode runs as one operator, of which both counters count almost nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _analyses(model: nn.Module, image_size: int) -> tuple[FlopCountAnalysis, ActivationCountAnalysis]:
    images = torch.zeros(1, 3, image_size, image_size)
    flops = FlopCountAnalysis(model, images).set_op_handle(
        "aten::scaled_dot_product_attention",
        sdpa_flops,
        "aten::einsum",
        einsum_flops,
        "aten::matmul",
        matmul_flops,
        "aten::baddbmm",
        baddbmm_flops,
        "aten::_convolution_mode",
        padded_convolution_flops,
    )
    activations = ActivationCountAnalysis(model, images).set_op_handle(
        "aten::scaled_dot_product_attention", sdpa_activations
    )
    for analysis in (flops, activations):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return flops, activations


def count(model: nn.Module, image_size: int) -> Cost:
    """Count one forward pass over one (3, image_size, image_size) image on the CPU. Raises whatever that pass raises.

    Weights and buffers stay as they are. What else a model keeps of its calls may change, so one that is about to train
    is not counted itself.
    """
    with _no_fast_path(), in_mode(model, training=False):
        flops, activations = _analyses(model, image_size)
        total, params = int(flops.total()), sum(p.numel() for p in model.parameters())
        checked, modules = audit(model, image_size, flops), tuple(_rows(model, flops, activations, depth=1))
        return Cost(total, params, int(activations.total()), train_flops(model, image_size), checked, modules)


def audit(model: nn.Module, image_size: int, flops: FlopCountAnalysis) -> Audit:
    """Compare fvcore's count with torch's; name the operators that neither can count."""
    by_fvcore = {k: int(v) for k, v in flops.by_operator().items() if k in PRODUCTS}
    unsupported = sorted(flops.unsupported_ops().keys() - POINTWISE)
    uncalled = tuple(sorted(flops.uncalled_modules()))
    unused = tuple(name for name in uncalled if any(True for _ in model.get_submodule(name).parameters()))
    products = sum(by_fvcore.values())
    common: dict[str, Any] = {"unsupported": tuple(unsupported), "uncalled": uncalled, "unused": unused}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _on_meta(model, images=1, image_size=image_size)
    except Exception as error:  # data-dependent control flow, tensors left on the CPU: a model may do anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return Audit(verdict="failed", products=products, torch=None, why=why, **common)
    by_torch = counter.get_total_flops() // 2  # two operations per multiply-add
    if by_torch == products and not UNCOUNTED & set(unsupported):
        return Audit(verdict="equal", products=products, torch=by_torch, **common)
    by_operator = {str(op).removeprefix("aten."): v // 2 for op, v in counter.get_flop_counts()["Global"].items()}
    differing = (
        "fvcore " + ", ".join(f"{k} {v:,}" for k, v in sorted(by_fvcore.items())),
        "torch " + ", ".join(f"{k} {v:,}" for k, v in sorted(by_operator.items())),
    )
    return Audit(verdict="mismatch", products=products, torch=by_torch, differing=differing, **common)


def train_flops(model: nn.Module, image_size: int) -> int | None:
    """Forward and backward for one image, two operations per multiply-add, by torch's counter on the meta device.

    Counted as half of a batch of two, since BatchNorm does not train on one value. None where the counter cannot run.
    """
    try:
        with FlopCounterMode(display=False) as counter, in_mode(model, training=True):
            out = _on_meta(model, images=2, image_size=image_size)
            F.cross_entropy(out, torch.zeros(2, dtype=torch.long, device="meta")).backward()
    except Exception:  # as in audit, which reports the reason
        return None
    return int(counter.get_total_flops()) // 2


def _on_meta(model: nn.Module, images: int, image_size: int) -> Tensor:
    """The model's output on the meta device, which computes shapes only; the model itself stays where it is."""
    tensors: dict[str, Tensor] = {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    for name, weight in model.named_parameters():
        tensors[name] = torch.empty_like(weight, device="meta").requires_grad_(weight.requires_grad)
    out: Tensor = functional_call(model, tensors, (torch.zeros(images, 3, image_size, image_size, device="meta"),))
    return out


def by_module(model: nn.Module, image_size: int, depth: int = 1) -> list[ModulePart]:
    """The per-module table, the model itself first, down to `depth` dots."""
    with _no_fast_path(), in_mode(model, training=False):
        return _rows(model, *_analyses(model, image_size), depth)


def _rows(
    model: nn.Module, flops: FlopCountAnalysis, activations: ActivationCountAnalysis, depth: int
) -> list[ModulePart]:
    flops_of, activations_of = flops.by_module(), activations.by_module()
    return [
        ModulePart(
            name=name,
            params=sum(p.numel() for p in module.parameters()),
            flops=int(flops_of[name]),
            activations=int(activations_of[name]),
        )
        for name, module in model.named_modules()
        if (name.count(".") + 1 if name else 0) <= depth
    ]
