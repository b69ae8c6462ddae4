"""A step compiled or graphed against the eager one; a capture that fails leaves no trace. CUDA's own: test_gpu.py."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.measure.step import arrange, has_attention_choice, make_inference, make_optimizer, make_step, set_lr
from bench.plan.recipes import shared
from bench.plan.settings import AUTO, SETTINGS, SUMMARIES, check, parse_settings, policy, space, words
from bench.plan.spec import Setting
from models.registry import build
from models.seresnet import BasicBlock, stem
from models.vit import _timm_vit
from tests.conftest import ROOT

CPU = torch.device("cpu")
RECIPE = replace(shared(), batch_size=8, precision="fp32")
COMPILED = SETTINGS["compiled"]
STEPS = 4


def small_se_resnet() -> nn.Module:
    torch.manual_seed(1)
    block = BasicBlock(16, 32, 2, se=True)
    return nn.Sequential(stem(16, 32), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def small_vit() -> nn.Module:
    torch.manual_seed(1)
    return _timm_vit(10, 32, embed_dim=48, depth=2, num_heads=3)


def with_dropout() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 900, 10))


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 3, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator))
        for _ in range(count)
    ]


def trained(
    model: nn.Module, setting: Setting, optimizer: str = "adamw", start: int = 0, **more: object
) -> tuple[list[float], dict[str, Tensor], str]:
    """Losses, weights and what ran, of STEPS steps; before `start` they are eager, as after a checkpoint."""
    torch.manual_seed(3)
    recipe = replace(RECIPE, optimizer=optimizer, weight_decay=0.05)
    model = arrange(model, setting).train()
    made = make_optimizer(model, recipe)
    first, step = make_step(model, made, recipe, Setting(), CPU), make_step(model, made, recipe, setting, CPU, **more)
    losses = []
    for number, (images, labels) in enumerate(batches()):
        set_lr(made, 1e-3 / (1 + number))
        losses.append((first if number < start else step)(images, labels).item())
    return losses, model.state_dict(), step.used


def warmed_up(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What a capture does, without a graph: some calls, then each replay is one more."""
    for _ in range(3):
        call()
    return call


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("factory", [small_se_resnet, small_vit, with_dropout])
def test_a_capture_leaves_no_trace(factory: Callable[[], nn.Module], start: int, optimizer: str) -> None:
    """Weights, BatchNorm's statistics, optimizer, dropout's stream begin where the eager step's would: bit for bit."""
    setting = Setting("graphed", graphed=True)
    losses, weights, used = trained(factory(), setting, optimizer, start, capture=warmed_up)
    expected, others, _ = trained(factory(), Setting(), optimizer)
    assert used == "graphed"
    assert losses == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)


def test_a_capture_that_fails_half_way_is_noted_and_leaves_no_trace() -> None:
    def fails(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        call()
        raise RuntimeError("operation not permitted when stream is capturing")

    notes: list[str] = []
    setting = Setting("graphed", graphed=True)
    losses, weights, used = trained(small_se_resnet(), setting, capture=fails, note=notes.append)
    expected, others, _ = trained(small_se_resnet(), Setting())
    assert used == "eager"
    assert notes == [
        "graphed failed, falling back to eager: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert losses == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)


@pytest.mark.parametrize(("captures", "used"), [(True, "graphed"), (False, "eager")])
def test_a_fused_step_that_fails_is_graphed_else_eager(
    captures: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler fails, then perhaps the capture: each is noted, inference goes the same way, and nothing stays."""

    def cannot_compile(function: Callable[..., Tensor], setting: Setting) -> Callable[..., Tensor]:
        def fails(*args: Tensor) -> Tensor:
            function(*args)
            raise RuntimeError("no such instruction")

        return fails if setting.compile_mode else function

    def capture(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if not captures:
            call()
            raise RuntimeError("not permitted")
        return warmed_up(call)

    monkeypatch.setattr("bench.measure.step.compiled", cannot_compile)
    fused, notes = SETTINGS["fused"], list[str]()
    expected = ["fused failed, falling back to graphed: RuntimeError: no such instruction"]
    expected += [] if captures else ["graphed failed, falling back to eager: RuntimeError: not permitted"]
    losses, weights, ran = trained(small_se_resnet(), fused, capture=capture, note=notes.append)
    plain_losses, others, _ = trained(small_se_resnet(), Setting())
    assert (ran, notes, losses) == (used, expected, plain_losses)
    assert all(torch.equal(weights[name], others[name]) for name in others)
    notes.clear()
    model, images = small_vit().eval(), batches(1)[0][0]
    infer = make_inference(model, RECIPE, fused, CPU, notes.append, capture)
    assert torch.equal(infer(images), make_inference(model, RECIPE, Setting(), CPU)(images))
    assert notes == [f"inference of 8: {text}" for text in expected]


def test_a_model_that_draws_from_python_is_not_frozen_into_a_graph() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 32 * 32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)) * random.random()

    def losses(setting: Setting, **more: object) -> tuple[list[float], str]:
        random.seed(4)
        torch.manual_seed(1)
        losses, _, used = trained(Draws(), setting, **more)
        return losses, used

    notes: list[str] = []
    expected, _ = losses(Setting())
    assert losses(Setting("graphed", graphed=True), capture=warmed_up, note=notes.append) == (expected, "eager")
    assert "would repeat one draw" in notes[0]


def test_more_compilations_than_torch_counts_are_not_silently_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's limit of 8 for one function's code is raised; at the limit the step says that it is eager."""
    monkeypatch.setattr("bench.measure.step.COMPILATIONS", 1)
    torch._dynamo.reset()
    notes: list[str] = []
    for width in (3, 4):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width), nn.Linear(width, 10))
        step = make_step(model, make_optimizer(model, RECIPE), RECIPE, COMPILED, CPU, notes.append)
        step(*batches(1)[0])
    torch._dynamo.reset()
    assert len(notes) == 1
    assert "compiled failed, falling back to eager" in notes[0]
    assert step.used == "eager"


def test_a_step_out_of_memory_is_not_hidden_by_the_eager_one() -> None:
    def full(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise MemoryError

    with pytest.raises(MemoryError):
        trained(small_vit(), Setting("graphed", graphed=True), capture=full)


# Sums are taken in another order. SGD: AdamW turns a gradient that is zero but for rounding into a whole step.
LOSS, WEIGHT = {"rtol": 1e-4, "atol": 1e-5}, {"rtol": 1e-3, "atol": 1e-5}


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.name == "nt", reason="needs a C++ compiler")
@pytest.mark.parametrize("factory", [small_se_resnet, small_vit])
def test_a_compiled_run_agrees_with_the_eager_one_step_by_step(factory: Callable[[], nn.Module]) -> None:
    losses, weights, used = trained(factory(), COMPILED, "sgd")
    expected, others, _ = trained(factory(), Setting(), "sgd")
    assert used == "compiled"
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), **LOSS)
    for name in others:
        torch.testing.assert_close(weights[name], others[name], **WEIGHT, msg=lambda m, n=name: f"{n}: {m}")


def test_a_fused_step_is_compiled_and_then_captured() -> None:
    """With a stand-in for the capture, which is given the compiled step; nothing of it stays in the weights."""
    captured: list[int] = []

    def capture(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        warmed_up(call)
        captured.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
        return call

    eager, fused = trained(perceptron(), Setting()), trained(perceptron(), SETTINGS["fused"], capture=capture)
    assert captured == [1]
    assert fused[2] == "fused"
    assert fused[0] == pytest.approx(eager[0], rel=1e-4)


def perceptron() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def test_attention_kernels_agree() -> None:
    outputs = []
    images = batches(1)[0][0]
    for kernel in ("fused", "explicit", "math"):
        setting = Setting(attention=kernel)
        model = arrange(small_vit(), setting).eval()
        assert {m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")} == {kernel != "explicit"}
        outputs.append(make_inference(model, RECIPE, setting, CPU)(images))
        assert torch.allclose(outputs[-1].sum(1), torch.ones(8))
    for other in outputs[1:]:
        torch.testing.assert_close(outputs[0], other)


def test_math_attention_is_plain_operators() -> None:
    from torch.profiler import profile

    model = arrange(small_vit(), Setting(attention="math")).eval()
    infer = make_inference(model, RECIPE, Setting(attention="math"), CPU)
    with profile() as profiler:
        infer(batches(1)[0][0])
    names = {event.key for event in profiler.key_averages()}
    assert "aten::_scaled_dot_product_attention_math" in names
    assert not [name for name in names if "flash" in name]


def test_who_has_a_choice_of_attention() -> None:
    choice = {name: has_attention_choice(build(name, 10, 32)) for name in ("vit_params", "swin", "resnet20", "cct_2")}
    assert choice == {"vit_params": True, "swin": True, "resnet20": False, "cct_2": False}


def test_inference_falls_back_for_the_batch_that_fails() -> None:
    def some(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if len(call()) == 8:
            raise RuntimeError("no")
        return call

    notes: list[str] = []
    model = small_vit().eval()
    infer = make_inference(model, RECIPE, Setting("graphed", graphed=True), CPU, notes.append, some)
    plain = make_inference(model, RECIPE, Setting(), CPU)
    images = batches(1)[0][0]
    for n in (8, 3, 8, 3):
        assert torch.equal(infer(images[:n]), plain(images[:n]))
    assert notes == ["inference of 8: graphed failed, falling back to eager: RuntimeError: no"]


def test_names_and_choices() -> None:
    assert parse_settings("eager, tuned,eager") == ["eager", "tuned"]
    assert parse_settings("auto,eager") == ["auto", "eager"]
    with pytest.raises(UserError, match="unknown setting 'graph'; did you mean 'graphed'"):
        parse_settings("graph")
    with pytest.raises(UserError, match="needs a CUDA device"):
        check("graphed", "cpu")
    with pytest.raises(UserError, match="setting 'fused' needs a CUDA device"):
        check("fused", "cpu")
    check("graphed", "cuda")
    assert set(SUMMARIES) == {AUTO, *SETTINGS}
    assert policy("eager") == "identical:eager"
    assert policy("tuned") == "tuned"
    assert words(Setting("tuned", "contiguous", "default", "explicit", True)) == (
        "contiguous, compiled (default), explicit attention, graph"
    )


def test_without_a_compiler_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and none of c\+\+, g\+\+, clang\+\+ is on the PATH"):
        check("compiled", "cpu")
    with pytest.raises(UserError, match="setting 'fused' needs a C"):
        check("fused", "cuda")
    assert not [s for s in space("cpu", True) if s.compile_mode]


def test_the_space_is_every_combination_once_and_the_default_comes_first() -> None:
    sizes = {(device, choice): len(space(device, choice)) for device in ("cpu", "cuda") for choice in (False, True)}
    assert sizes == {("cpu", False): 4, ("cpu", True): 10, ("cuda", False): 8, ("cuda", True): 20}
    for device in ("cpu", "cuda"):
        everything = space(device, True)
        assert len(set(everything)) == len(everything)
        assert everything[0] == replace(SETTINGS["eager"], name="tuned")
        assert device == "cuda" or not any(s.graphed for s in everything)


COMPILES = """
import sys
from dataclasses import replace
from pathlib import Path
from bench.data.datasets import DataSource
from bench.measure.compile_ahead import child_compile
from bench.measure.run import run_one
from bench.plan.recipes import smoke
from bench.plan.settings import SETTINGS
from bench.plan.spec import RunSpec
from bench.store.disk import Store
from models.registry import source_hash
npz, model, folder, what = sys.argv[1:]
dataset = DataSource(f"npz:{npz}", Path(), None, 1.0).load()
recipe = replace(smoke(), epochs=1, batch_size=20, precision="fp32", cutmix=1.0)
spec = RunSpec(model, dataset.ref, recipe, SETTINGS["compiled"], "cpu", "here", 0)
spec = replace(spec, model_source=source_hash(model))
ignore = lambda event: None
if what == "ahead":
    child_compile(print, spec, 2)
else:
    record = run_one(replace(spec, seed=1), dataset, Store(Path(folder)), ignore)
    print(record.setting_used, record.first_step_from_cache, record.notes)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_compiles_nothing_that_was_compiled_ahead(tiny_npz: Path, tmp_path: Path) -> None:
    """In another process, with another seed: its first step finds the code in the cache, and the record says so."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHINDUCTOR", "TRITON"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef net(n, size): return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, n))\n"
    )

    def one(what: str) -> str:
        words = [sys.executable, "-c", COMPILES, str(tiny_npz), f"{tmp_path / 'm.py'}:net", str(tmp_path / "s"), what]
        return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert one("ahead").startswith("Compiled(from_cache=False)")
    assert any((tmp_path / "sevit-bench" / "compiled").iterdir())
    assert one("run").startswith("compiled True")


def test_graphed_loss_is_a_copy() -> None:
    """A replay overwrites its own output; the loss handed out stays."""
    model = copy.deepcopy(small_vit())
    optimizer = make_optimizer(model, RECIPE)
    buffer = torch.zeros(())

    def capture(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: buffer.copy_(call())

    step = make_step(model, optimizer, RECIPE, Setting("graphed", graphed=True), CPU, capture=capture)
    losses = [step(*batch) for batch in batches(2)]
    assert losses[0] != losses[1]
