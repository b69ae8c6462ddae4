"""Every registered model: shapes, gradients, and parameter counts held against published ones."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch

from bench.measure.cost import by_module, count
from models import registry
from models.external import tokens
from tests.conftest import ROOT

cost_of = functools.cache(lambda name: count(registry.build(name, 10, 32), 32))  # a count takes a second
SHAPES = ((10, 32), (100, 32), (200, 64))

# Published or given counts at 32 px and 10 classes, with where they come from.
PARAMETERS = {
    "seresnet": (861_818, 0),  # the original project's own analysis
    "seresnet20": (275_000, 1_000),  # .275M, imgclsmob
    "seresnet110": (1_740_000, 5_000),  # 1.74M, imgclsmob
    "resnet20": (270_000, 5_000),  # .27M, He et al. 2016, table 6
    "resnet56": (850_000, 6_000),  # .85M there; 0.86M at chenyaofo: projection shortcuts where He has none
    "resnet110": (1_700_000, 32_000),  # 1.7M there; the same shortcuts
    "vit_lite": (3_717_482, 0),  # 3.72M, Hassani et al. 2021
    "cct_2": (283_723, 0),  # .284M, same
    "cct_7": (3_760_139, 0),  # 3.76M, same
    "swin": (7_100_000, 60_000),  # 7.1M, Lee et al. 2021
}


@pytest.mark.parametrize("name", registry.CATALOGUE)
def test_builds_and_learns_at_every_size(name: str) -> None:
    for num_classes, image_size in SHAPES:
        model = registry.build(name, num_classes, image_size).train()
        out = model(torch.randn(2, 3, image_size, image_size))
        assert out.shape == (2, num_classes)
        out.sum().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"no gradient reaches {without}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_as_published(name: str) -> None:
    published, tolerance = PARAMETERS[name]
    found = sum(p.numel() for p in registry.build(name, 10, 32).parameters())
    assert abs(found - published) <= tolerance


def test_small_data_vit_is_the_published_one_at_64_px() -> None:
    """Lee et al. 2021 give 2.9M parameters and 199.2M FLOPs: that is Tiny-ImageNet's shape; at 32 px it is 2.73M."""
    assert round(count(registry.build("vit_small_data", 200, 64), 64).params / 1e6, 1) == 2.9
    assert count(registry.build("vit_small_data", 10, 32), 32).params == 2_729_779


def test_the_original_projects_figures() -> None:
    model, cost = registry.build("seresnet", 10, 32), cost_of("seresnet")
    assert (cost.flops, cost.activations, cost.params) == (127_105_568, 545_849, 861_818)
    rows = {row.name: (row.params, row.flops) for row in by_module(model, 32)}
    assert rows["conv1"] == (432, 442_368)
    assert rows["bn1"] == (32, 32_768)
    assert rows["fc"] == (650, 640)
    assert rows["avgpool"] == (0, 4_096)
    # as the original project prints them: 42.336K / 43.205M, 0.164M / 41.805M, 0.654M / 41.616M
    assert [round(rows[f"layer{i}"][0] / 1e3) for i in (1, 2, 3)] == [42, 164, 654]
    assert [round(rows[f"layer{i}"][1] / 1e3) for i in (1, 2, 3)] == [43_205, 41_805, 41_616]


def test_without_se_only_se_is_missing() -> None:
    """Reduction 16: an SE block of C channels has 2 C^2/16 weights; 9 blocks per stage of 16, 32 and 64 channels."""
    with_se, without = (registry.build(name, 10, 32) for name in ("seresnet", "resnet56"))
    extra = sum(p.numel() for p in with_se.parameters()) - sum(p.numel() for p in without.parameters())
    assert extra == sum(9 * 2 * c * c // 16 for c in (16, 32, 64))
    kept = {n: p.shape for n, p in with_se.named_parameters() if ".se." not in n}
    assert kept == {n: p.shape for n, p in without.named_parameters()}


def test_matched_models_match() -> None:
    seresnet = cost_of("seresnet")
    assert abs(cost_of("vit_params").params / seresnet.params - 1) < 0.02
    assert abs(cost_of("vit_flops").flops / seresnet.flops - 1) < 0.02


def test_nothing_is_hidden_in_a_model() -> None:
    """Two passes in train mode agree: a model has no dropout or stochastic depth of its own."""
    for name in registry.CATALOGUE:
        torch.manual_seed(0)
        model = registry.build(name, 10, 32).train()
        images = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(model(images), model(images), msg=f"{name} is random in train mode")


def test_tokens_of_a_vit() -> None:
    assert tokens(registry.build("vit_tiny", 10, 32)) == 64
    assert tokens(registry.build("seresnet", 10, 32)) is None


BUILD_EACH = """
import os
import torch
from models.registry import build

for name in ("simple_vit", "cct_2", "vit_small_data", "vit_tiny", "swin"):
    if (child := os.fork()) == 0:
        build(name, 10, 32)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.mark.long
def test_each_library_imports_by_itself() -> None:
    """In processes that have imported torch only, and no other model's library."""
    done = subprocess.run([sys.executable, "-c", BUILD_EACH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
