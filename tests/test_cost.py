"""FLOPs against closed forms worked out from shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cost import by_module, count
from models.registry import build


class Attention(nn.Module):
    """One attention over a (1, 4, 6, 5)-shaped view of the image, through the kernel or spelt out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        q = x.flatten()[: 4 * 6 * 5].view(1, 4, 6, 5)
        k, v = q[:, :, :3], q[:, :, :3, :2]
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            weights = torch.einsum("b h i d, b h j d -> b h i j", q, k).softmax(-1)
            return torch.einsum("b h i j, b h j d -> b h i d", weights, v)
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v


@pytest.mark.parametrize("how", ["sdpa", "einsum", "matmul"])
def test_attention_costs_the_same_however_it_is_written(how: str) -> None:
    """4 heads, 6 queries, 3 keys, dim 5 and values of dim 2: 4 * 6 * 3 * (5 + 2)."""
    cost = count(Attention(how), 8)
    assert cost.flops == 4 * 6 * 3 * (5 + 2)


def test_activations_of_attention_do_not_hang_on_the_kernel() -> None:
    assert count(Attention("sdpa"), 8).activations == count(Attention("matmul"), 8).activations


def test_einsum_is_exact() -> None:
    """fvcore's own handler gives 798,500 here, from a text that numpy rounded."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ij,jk->ik", x[0, 0, :15, :1].expand(15, 123), torch.ones(123, 433))

    assert count(Product(), 32).flops == 15 * 123 * 433


def test_products_that_nobody_counts_are_named() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.baddbmm(x[0], x[0], x[0])

    assert count(Product(), 8).uncounted == ("aten::baddbmm",)
    assert count(build("vit_tiny", 10, 32), 32).uncounted == ()


def vit_flops(dim: int, depth: int, ratio: float, tokens: int, patch: int, classes: int) -> int:
    """timm's ViT with a class token, as fvcore counts: LayerNorm is 5 an element (batch norm's statistics included)."""
    n = tokens + 1
    embedding = tokens * dim * 3 * patch**2
    block = n * dim * 3 * dim + 2 * n * n * dim + n * dim * dim + 2 * n * dim * int(dim * ratio) + 2 * 5 * n * dim
    return embedding + depth * block + 5 * n * dim + dim * classes


@pytest.mark.parametrize(
    ("name", "shape"),
    [("vit_tiny", (192, 12, 4)), ("vit_params", (144, 5, 2)), ("vit_flops", (128, 9, 4))],
)
def test_vit_by_closed_form(name: str, shape: tuple[int, int, float]) -> None:
    assert count(build(name, 10, 32), 32).flops == vit_flops(*shape, tokens=64, patch=4, classes=10)


def test_basic_block_by_closed_form() -> None:
    """Two 3x3 convolutions, two BatchNorms at 2 an element, SE: pooling 1 an element and two small matrices."""
    rows = {r.name: r.flops for r in by_module(build("seresnet", 10, 32), 32, depth=2)}
    c, pixels = 16, 32 * 32
    se = c * pixels + 2 * c * (c // 16)
    assert rows["layer1.1"] == 2 * (9 * c * c * pixels) + 2 * (2 * c * pixels) + se


def test_children_add_up_to_the_model() -> None:
    rows = by_module(build("seresnet", 10, 32), 32)
    assert rows[0].flops == sum(r.flops for r in rows[1:])
    assert rows[0].params == sum(r.params for r in rows[1:])


def test_counting_leaves_the_model_alone() -> None:
    model = build("resnet20", 10, 32).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count(model, 32)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
