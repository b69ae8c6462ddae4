"""FLOPs against closed forms worked out from shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.measure.cost import by_module, count
from models.registry import CATALOGUE, build


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


class Bmm(nn.Module):
    """Three operators that fvcore counts wrongly or not at all, on (7, 5, 6) and broadcast operands."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten()[: 8 * 7 * 3].view(8, 7, 3)
        if self.how == "unbatched left":
            return self.weight @ y
        if self.how == "baddbmm":
            return torch.baddbmm(torch.zeros(8, 7, 7), y, y.transpose(1, 2))
        return torch.bilinear(x[0, :, :5, 0], x[0, :, :7, 0], self.weight[None])


@pytest.mark.parametrize(("how", "flops"), [("unbatched left", 8 * 5 * 7 * 3), ("baddbmm", 8 * 7 * 3 * 7)])
def test_products_are_exact_and_audited(how: str, flops: int) -> None:
    """fvcore alone reads 105 for the first, whose true count is 840."""
    cost = count(Bmm(how), 8)
    assert cost.flops == flops
    assert (cost.audit.verdict, cost.audit.torch) == ("equal", flops)


def test_a_product_that_nobody_counts_fails_the_audit_by_name() -> None:
    cost = count(Bmm("bilinear"), 8)
    assert cost.audit.verdict == "mismatch"
    assert "aten::bilinear" in cost.audit.unsupported


class Torchs(nn.Module):
    """torch's own attention modules, 6 tokens of dim 8 in 2 heads, cut from the image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten()[:48].view(1, 6, 8)
        if self.how == "layer":
            return self.layer(y)
        return self.attention(y, y, y, need_weights=self.how == "weights")[0]


ATTENTION = 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8  # q, k, v; two products; the output's projection


@pytest.mark.parametrize(
    ("how", "products"), [("fused", ATTENTION), ("weights", ATTENTION), ("layer", ATTENTION + 2 * 6 * 8 * 32)]
)
def test_torchs_attention_on_every_path(how: str, products: int) -> None:
    """In eval mode nn.TransformerEncoderLayer would run as one operator that both counters read as next to nothing."""
    cost = count(Torchs(how), 8)
    assert cost.audit.products == cost.audit.torch == products
    assert cost.audit.verdict == "equal"
    assert torch.backends.mha.get_fastpath_enabled(), "put back"


def test_a_convolution_padded_to_the_same_size() -> None:
    """An even kernel: 4x4, 3 to 6 channels in 3 groups, 8x8 outputs. fvcore alone leaves it out (convmixer in timm)."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, padding="same", groups=3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    cost = count(Padded(), 8)
    assert cost.flops == 6 * 8 * 8 * 4 * 4
    assert cost.audit.verdict == "equal"


def test_einsum_with_dots() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("...ij,jk->...ik", x, torch.ones(8, 5))

    cost = count(Product(), 8)
    assert cost.flops == 3 * 8 * 8 * 5
    assert cost.audit.verdict == "equal"


def test_what_the_meta_device_cannot_run_is_said() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if float(x.sum()) == 0 else x

    cost = count(Looks(), 8)
    assert cost.audit.verdict == "failed"
    assert cost.audit.why
    assert cost.train_flops_2x is None


def test_modules_that_are_never_called_are_named() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare, self.drop = nn.Flatten(), nn.Linear(3, 3), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    audit = count(Spare(), 8).audit
    assert audit.uncalled == ("drop", "spare")
    assert audit.unused == ("spare",)


# At 32 px and 10 classes: (flops, parameters, activations, forward + backward by torch's counter). The first two of
# seresnet are the seed's; its last and vit_tiny's first and last are the field notes' (753.6M; 366.67M, 2,189.5M).
GOLDEN = {
    "seresnet": (127_105_568, 861_818, 545_849, 753_638_592),
    "seresnet20": (41_306_720, 274_490, 201_071, 244_006_464),
    "seresnet110": (255_803_840, 1_742_810, 1_063_016, 1_518_086_784),
    "resnet20": (41_218_688, 272_474, 200_714, 243_994_368),
    "resnet56": (126_841_472, 855_770, 544_778, 753_602_304),
    "resnet110": (255_275_648, 1_730_714, 1_060_874, 1_518_014_208),
    "vit_tiny": (366_667_584, 5_362_762, 1_661_998, 2_189_465_856),
    "vit_params": (60_956_208, 855_658, 447_001, 361_763_712),
    "vit_flops": (125_934_976, 1_800_714, 909_102, 750_081_024),
    "simple_vit": (360_817_536, 5_341_354, 1_634_314, 2_155_228_416),
    "vit_lite": (255_827_712, 3_717_482, 1_066_534, 1_526_894_592),
    "vit_small_data": (191_277_120, 2_729_779, 1_367_158, 1_140_456_960),
    "cct_2": (35_546_368, 283_723, 229_578, 208_510_464),
    "cct_7": (1_186_531_840, 3_760_139, 5_767_690, 7_075_544_064),
    "swin": (242_759_424, 7_048_612, 1_296_394, 1_445_091_840),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_passes_the_audit_and_keeps_its_figures(name: str) -> None:
    cost = count(build(name, 10, 32), 32)
    assert (cost.flops, cost.params, cost.activations, cost.train_flops_2x) == GOLDEN[name]
    assert cost.audit.verdict == "equal"
    assert cost.audit.products == cost.audit.torch
    assert cost.audit.unsupported == ()
    assert cost.audit.unused == ()


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


def test_vit_block_by_closed_form() -> None:
    """65 tokens of dim 192: q, k, v; scores and their use; projection; MLP of ratio 4; two LayerNorms, 5 an element."""
    rows = {r.name: r.flops for r in by_module(build("vit_tiny", 10, 32), 32, depth=2)}
    n, d = 65, 192
    products = n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * 4 * d
    assert rows["blocks.0"] == products + 2 * 5 * n * d
