"""A larger image changes a model's stem and nothing else; docs/sizes.md says what the code says."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.cli.main import main
from bench.cli.requests import CostRequest, parse
from bench.core.events import Event, ModelCounted
from bench.measure.cost import by_module
from bench.measure.counting import child_models
from bench.measure.layout import layout, resolutions
from bench.present.cost_table import head, line
from models.registry import CATALOGUE, build
from tests.conftest import ROOT
from tests.measure.test_cost import GOLDEN, vit_flops

PAGE = (ROOT / "docs/sizes.md").read_text(encoding="utf-8")
LINES = [text for text in PAGE.splitlines() if text.startswith("| `")]
CLASSES = 200  # Tiny-ImageNet's

Figures = tuple[int, int, int, int]  # multiply-adds, parameters, activations, forward + backward by torch's counter


def convolution(filters: int) -> tuple[int, int, int, Callable[[int], int], bool]:
    """A first convolution that leaves 32x32 places: its kernel reaches from one stride into the next."""
    return 32**2, filters, 3, lambda size: max(3, 2 * (size // 32) - 1), False


def patches(dim: int, side: int = 8, channels: int = 3, normalised: bool = False) -> Any:
    """An embedding of side x side patches."""
    return side**2, dim, channels, lambda size: size // side, normalised


# (places, filters or dimension, channels, a kernel's or patch's side at a size, whether LayerNorm stands before it)
STEMS = {
    **{name: convolution(16) for name in CATALOGUE if "resnet" in name},
    "cct_2": convolution(64),
    "cct_7": convolution(256),
    "vit_tiny": patches(192),
    "vit_params": patches(144),
    "vit_flops": patches(128),
    "simple_vit": patches(192, normalised=True),
    "vit_lite": patches(256, normalised=True),
    "vit_small_data": patches(192, channels=15, normalised=True),  # the image and four shifted copies
    "swin": patches(96, side=16),
}


def counted(name: str, size: int, classes: int = CLASSES) -> ModelCounted:
    """A model at one size, as the `cost` command counts it."""
    events: list[Event] = []
    child_models(events.append, (name,), classes, (size,))
    (row,) = events
    assert isinstance(row, ModelCounted)
    return row


def figures(row: ModelCounted) -> tuple[int | None, ...]:
    return row.flops, row.params, row.activations, row.train_flops_2x


def at_32_px(name: str) -> Figures:
    """GOLDEN, which is for 10 classes, with 200: a head of dimension d takes d multiply-adds per class, three times as
    many in training, and has a bias.
    """
    flops, params, activations, train = GOLDEN[name]
    (d,) = {m.in_features for m in build(name, 77, 32).modules() if isinstance(m, nn.Linear) and m.out_features == 77}
    more = CLASSES - 10
    return flops + more * d, params + more * (d + 1), activations + more, train + 2 * 3 * more * d


def grown(name: str, size: int) -> Figures:
    """From 32 px to another size by closed form: each place reads so many more values.

    LayerNorm: 5 per element, two weights. Training repeats the products for the weights' gradient, and once more for
    the input's where LayerNorm's weights stand before, as the image needs none.
    """
    flops, params, activations, train = at_32_px(name)
    places, filters, channels, side, normalised = STEMS[name]
    values = channels * (side(size) ** 2 - side(32) ** 2)
    flops += places * values * (filters + 5 * normalised)
    return (
        flops,
        params + values * (filters + 2 * normalised),
        activations,
        train + (2 * (2 + normalised) * places * values * filters),
    )


def test_the_page_has_every_model_at_both_sizes() -> None:
    (command,) = re.findall(r"^python run_bench.py (.*)$", PAGE, flags=re.MULTILINE)
    request = parse(shlex.split(command))
    assert isinstance(request, CostRequest)
    assert (request.image_sizes, request.num_classes) == ((32, 64), CLASSES)
    assert head(request.format) in PAGE
    rows = [(f"| `{name}`", str(size)) for name in request.models for size in request.image_sizes]
    assert [tuple(text.split(" | ")[:2]) for text in LINES] == rows
    assert set(request.models) == set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_page_says_what_the_code_makes(name: str) -> None:
    """Stems and resolutions of the built model; figures from GOLDEN, which test_cost.py counts, by closed form.

    That form is counted below for each kind of stem, and holds for the others as nothing behind the stem changes.
    """
    seen = {size: layout(build(name, CLASSES, size), size) for size in (32, 64)}
    assert seen[32][1] == seen[64][1]
    for size, (stem, places) in seen.items():
        flops, params, activations, train = grown(name, size)
        row = ModelCounted(
            model=name,
            image_size=size,
            stem=stem,
            resolutions=places,
            params=params,
            flops=flops,
            activations=activations,
            train_flops_2x=train,
            audit="equal",
        )
        assert line(row, "markdown") in LINES


@pytest.mark.parametrize("name", ["seresnet20", "vit_flops", "simple_vit", "vit_small_data", "cct_7", "swin"])
def test_counted_at_64_px(name: str) -> None:
    row = counted(name, 64)
    assert figures(row) == grown(name, 64)
    assert line(row, "markdown") in LINES


@pytest.mark.parametrize(("name", "size"), [("resnet20", 128), ("cct_2", 96), ("vit_params", 96), ("vit_lite", 128)])
def test_counted_beyond(name: str, size: int) -> None:
    assert figures(counted(name, size)) == grown(name, size)


@pytest.mark.parametrize("name", CATALOGUE)
def test_only_the_stem_sees_the_size(name: str) -> None:
    """Behind the first convolution or product, weights and inputs have the same shapes at every size."""
    before, stem, behind, weights = census(name, 32)
    assert behind
    for size in (64, 96, 128):
        ahead, first, others, parameters = census(name, size)
        assert (ahead, first) == (before, stem)
        assert others == behind
        changed = {n.rpartition(".")[0] for n, shape in parameters.items() if shape != weights[n]}
        assert parameters.keys() == weights.keys()
        assert changed <= {*before, stem}


def census(name: str, size: int) -> tuple[list[str], str, list[tuple[str, torch.Size]], dict[str, torch.Size]]:
    """A forward pass of one image: modules before the stem, the stem, (module, its input's shape) behind it; and
    (parameter, its shape).
    """
    model = build(name, CLASSES, size).eval()
    calls: list[tuple[str, torch.Size]] = []
    names = {module: n for n, module in model.named_modules() if not any(module.children())}

    def on_call(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append((names[module], inputs[0].shape))

    for module in names:
        module.register_forward_pre_hook(on_call)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, CLASSES)
    stem = next(i for i, (n, _) in enumerate(calls) if isinstance(model.get_submodule(n), nn.Conv2d | nn.Linear))
    shapes = {n: p.shape for n, p in model.named_parameters()}
    return [n for n, _ in calls[:stem]], calls[stem][0], calls[stem + 1 :], shapes


def test_what_a_size_would_cost_if_nothing_followed_it() -> None:
    from vit_pytorch import cct

    tokens = vit_flops(192, 12, 4, 256, 4, CLASSES) / at_32_px("vit_tiny")[0]
    assert f"256 tokens instead of 64 and take {tokens:.1f} times" in " ".join(PAGE.split())
    head_flops = 64 * CLASSES
    stride_1 = by_module(build("resnet20", CLASSES, 32), 64, depth=0)[0].flops - head_flops
    assert stride_1 == 4 * (at_32_px("resnet20")[0] - head_flops)
    large = cct.cct_7(
        img_size=64, num_classes=CLASSES, n_conv_layers=1, kernel_size=3, positional_embedding="learnable"
    )
    flops = by_module(large, 64, depth=0)[0].flops
    assert f"CCT-7 {flops / at_32_px('cct_7')[0]:.1f} times ({flops / 1e9:.2f}G)" in " ".join(PAGE.split())


def test_how_much_the_stems_add() -> None:
    shares = [100 * (grown(name, 64)[0] / at_32_px(name)[0] - 1) for name in CATALOGUE]
    some = [share for share in shares if share]
    assert f"nothing for ResNets and CCT, {min(some):.1f} to {max(some):.1f} % for the others" in " ".join(PAGE.split())
    assert len(shares) - len(some) == len([name for name in CATALOGUE if "resnet" in name or "cct" in name])


def test_between_the_sizes_as_the_page_says() -> None:
    """Multiples of 32 are what the rule is for; the page names what happens elsewhere."""
    assert layout(build("resnet20", CLASSES, 48), 48) == ("3x3, stride 1", "48x48, 24x24, 12x12")
    assert layout(build("vit_params", CLASSES, 48), 48) == ("patch 6", "8x8+1")
    assert layout(build("swin", CLASSES, 40), 40)[1].startswith("20x20")


class Windows(nn.Module):
    """Four windows of an image's 4x4 patches, then one feature vector."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.cut(x).flatten(2).transpose(1, 2).reshape(4, 4, 8)
        return self.head(self.mix(windows).flatten(0, 1).mean(0, keepdim=True))


def test_layout_of_other_models() -> None:
    assert layout(Windows(), 8) == ("patch 2", "4x4")
    assert layout(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), 8) == ("patch 8", "1x1")
    assert layout(nn.Sequential(nn.Conv2d(3, 4, (3, 5), 2), nn.Flatten()), 9) == ("3x5, stride 2", "12")
    assert layout(nn.Flatten(), 8) == ("–", "–")
    assert resolutions([64, 66, 1]) == "8x8, 66"  # two tokens beside the patches


def test_the_command_makes_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "cct_2", "--image-size", "32, 64,32", "--num-classes", str(CLASSES), "--format", "markdown"]
    assert main(words) == 0
    assert capsys.readouterr().out == "\n".join([head("markdown"), *(t for t in LINES if "`cct_2`" in t), ""])


def test_the_other_formats(capsys: pytest.CaptureFixture[str]) -> None:
    row = counted("cct_2", 64, classes=10)
    (cells,) = csv.DictReader([head("csv"), line(row, "csv")])
    assert (cells["px"], cells["stem"], cells["multiply-adds"]) == ("64", "3x3, stride 2", str(GOLDEN["cct_2"][0]))
    assert main(["cost", "cct_2", "--image-size", "64,32"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{head('text')}\n{line(row, 'text')}\n")
    assert "3x3, stride 1" in printed
    assert {len(text) for text in printed.splitlines()[1::2]} == {len(printed.splitlines()[1])}
