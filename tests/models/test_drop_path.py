"""Stochastic depth: the networks that timm and vit-pytorch build with it; outside of training nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.measure import session
from bench.measure.build import build_model
from bench.measure.cost import count
from bench.plan.recipes import shared
from bench.plan.spec import DataRef, RunSpec, Setting, session_of
from models import registry
from models.drop_path import set_drop_path
from models.torchvision_import import ensure_torchvision

ensure_torchvision()

RATE = 0.3
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timm_vit(rate: float) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    shape = {"embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 10}
    return VisionTransformer(img_size=32, patch_size=8, drop_path_rate=rate, **shape)  # type: ignore[arg-type]


def timm_swin(rate: float) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    shape = {"embed_dim": 16, "depths": (2, 3), "num_heads": (2, 2), "window_size": 4, "num_classes": 10}
    return SwinTransformer(img_size=32, patch_size=2, drop_path_rate=rate, **shape)  # type: ignore[arg-type]


def cct(rate: float) -> nn.Module:
    from vit_pytorch.cct import cct_4

    none = {"dropout_rate": 0.0, "attention_dropout": 0.0}
    return cct_4(img_size=32, num_classes=10, positional_embedding="learnable", stochastic_depth_rate=rate, **none)


def answers(model: nn.Module) -> torch.Tensor:
    """On the same images with the same random numbers."""
    torch.manual_seed(1)
    out: torch.Tensor = model(IMAGES)
    return out


@pytest.mark.parametrize(("make", "blocks"), [(timm_vit, 4), (timm_swin, 4), (cct, 3)])
def test_as_built_with_it(make: Callable[[float], nn.Module], blocks: int) -> None:
    """In training the same answers, to the last bit, as the network that its library built with this rate."""
    theirs, ours = make(RATE).train(), make(0.0).train()
    ours.load_state_dict(theirs.state_dict())
    without = answers(ours)
    assert set_drop_path(ours, RATE) == blocks
    assert torch.equal(answers(ours), answers(theirs))
    assert not torch.equal(answers(ours), without)
    other = make(0.9).train()
    other.load_state_dict(theirs.state_dict())
    assert set_drop_path(ours, 0.9) == blocks, "what has a rate gets another"
    assert torch.equal(answers(ours), answers(other))


BLOCKS = {"vit_tiny": 11, "vit_params": 4, "cct_2": 1, "swin": 11}


@pytest.mark.parametrize(("name", "blocks"), BLOCKS.items(), ids=BLOCKS)
def test_nothing_but_training_changes(name: str, blocks: int) -> None:
    """Names and values of the weights, answers in eval mode, and what is counted there."""
    torch.manual_seed(0)
    model = registry.build(name, 10, 32).eval()
    before, out = {k: v.clone() for k, v in model.state_dict().items()}, answers(model)
    names = [n for n, _ in model.named_parameters()]
    cost = count(model, 32) if name in ("vit_params", "cct_2") else None
    state = torch.get_rng_state()
    assert set_drop_path(model, RATE) == blocks
    assert torch.equal(torch.get_rng_state(), state), "nothing was drawn"
    assert [n for n, _ in model.named_parameters()] == names
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert torch.equal(answers(model), out)
    if cost:
        assert count(model, 32) == cost
    assert not torch.equal(answers(model.train()), out)


@pytest.mark.parametrize("name", ["resnet20", "seresnet20", "simple_vit", "vit_lite", "vit_small_data"])
def test_models_without_drop_path_say_so(name: str) -> None:
    model = registry.build(name, 10, 32)
    kinds = [type(m) for m in model.modules()]
    assert set_drop_path(model, RATE) == 0
    assert [type(m) for m in model.modules()] == kinds


def test_at_rate_0_nothing_is_touched() -> None:
    model = timm_vit(RATE)
    rates = [m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")]
    assert set_drop_path(model, 0.0) == 0
    assert [m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")] == rates


def spec(model: str, rate: float) -> RunSpec:
    recipe = replace(shared(), drop_path=rate, batch_size=4, precision="fp32")
    return RunSpec(model, DataRef("x", "", "", 10, 32), recipe, Setting(), "cpu", "here", 0)


def rates(model: nn.Module) -> list[float]:
    return [float(m.drop_prob) for m in model.modules() if hasattr(m, "drop_prob")]  # type: ignore[arg-type]


def test_a_run_and_its_speed_session_are_built_with_it() -> None:
    notes: list[str] = []
    with_it, without = (build_model(spec("vit_params", rate), notes.append) for rate in (0.4, 0.0))
    timed, _ = session.build(session_of([spec("vit_params", 0.4)], 0.0), "vit_params")
    expected = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert rates(with_it) == pytest.approx(expected)
    assert rates(timed) == pytest.approx(expected)
    assert rates(without) == []
    assert all(torch.equal(a, b) for a, b in zip(with_it.parameters(), without.parameters(), strict=True))
    assert not notes


def test_a_run_of_a_model_without_drop_path_notes_that() -> None:
    notes: list[str] = []
    build_model(spec("resnet20", 0.4), notes.append)
    assert len(notes) == 1
    assert "drop_path of 0.4 applies to no block" in notes[0]
    build_model(spec("resnet20", 0.0), notes.append)
    assert len(notes) == 1
    refused: list[str] = []
    session.build(session_of([spec("resnet20", 0.4)], 0.0), "resnet20", refused.append)
    assert not refused, "its setting is as set: a search for settings looks at these"
