"""What limits a step: counted work against closed forms, the bound against its arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.measure.limits import (
    Work,
    bound,
    confirmed,
    count_work,
    explain,
    group_of,
    measure_ceilings,
    random_batches,
)
from bench.measure.timing import wall_stopwatch
from bench.plan.recipes import shared
from bench.store.records import Ceilings

CEILINGS = Ceilings(flops_per_second=1e12, bytes_per_second=1e11, launch_seconds=1e-5, loader_images_per_second=1e5)


@pytest.mark.parametrize(
    ("work", "batch", "name", "share"),
    [
        (Work(operators=1000, bytes=10**8, flops_2x=10**9), 10, "launch", 0.5),  # 10 ms of 20
        (Work(operators=100, bytes=10**9, flops_2x=10**9), 10, "bandwidth", 0.5),
        (Work(operators=100, bytes=10**8, flops_2x=10**10), 10, "compute", 0.5),
        (Work(operators=100, bytes=10**8, flops_2x=10**9), 1000, "loader", 0.5),
        (Work(operators=1000, bytes=10**8, flops_2x=None), 10, "launch", 0.5),
    ],
)
def test_the_longest_of_four_times_is_the_bound(work: Work, batch: int, name: str, share: float) -> None:
    limit = bound(work, CEILINGS, batch, seconds=0.02)
    assert limit.name == name
    assert limit.share == pytest.approx(share)
    assert limit.shares["launch"] == pytest.approx(work.operators * 1e-5 / 0.02)
    assert limit.flops_per_second == (None if work.flops_2x is None else pytest.approx(work.flops_2x / 0.02))


@pytest.mark.parametrize(
    ("name", "twice", "verdict"),
    [
        ("launch", 1.9, "confirmed"),
        ("launch", 1.0, "refuted"),
        ("compute", 1.02, "confirmed"),
        ("bandwidth", 1.8, "refuted"),
        ("compute", 1.25, "unclear"),
        ("compute", None, "not tried"),
        ("loader", 1.0, "not tried"),
    ],
)
def test_twice_the_batch(name: str, twice: float | None, verdict: str) -> None:
    assert confirmed(name, twice) == verdict


def test_bytes_and_operators_of_a_known_step() -> None:
    """y = relu(x W^T + b), float32: one addmm, one relu, each reads its inputs, writes its output; views are free."""
    layer, x = nn.Linear(32, 16), torch.randn(8, 32)
    with torch.no_grad():
        work = count_work(lambda: torch.relu(layer(x)).view(-1).unsqueeze(0), flops_2x=7)
    product = 4 * (16 + 8 * 32 + 32 * 16 + 8 * 16)
    assert work == Work(operators=2, bytes=product + 4 * 2 * 8 * 16, flops_2x=7)


def test_a_backward_pass_is_counted() -> None:
    layer, x = nn.Linear(32, 16), torch.randn(8, 32)
    forward = count_work(lambda: layer(x).sum(), None)
    whole = count_work(lambda: layer(x).sum().backward(), None)
    assert whole.operators > forward.operators + 2


def test_ceilings_are_measured_and_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves by one second at each reading, every ceiling is its work over the calls of one sample."""
    from bench.measure import limits

    monkeypatch.setitem(limits.MATMUL_SIZE, "cpu", 8)
    monkeypatch.setitem(limits.COPY_BYTES, "cpu", 64)
    ticks = iter(range(10**6))
    stopwatch = wall_stopwatch(lambda: float(next(ticks)), lambda: None)
    batches = random_batches(replace(shared(), batch_size=16), 10, 8, torch.device("cpu"))
    ceilings = measure_ceilings(torch.device("cpu"), "fp32", batches, stopwatch)
    assert ceilings.flops_per_second == 2 * 8**3 * 2
    assert ceilings.bytes_per_second == 2 * 64 * 2
    assert ceilings.launch_seconds == 1 / 2000
    assert ceilings.loader_images_per_second == batches.steps * 16 == 4096


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::addmm", "matrix product"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::_log_softmax", "softmax and loss"),
        ("aten::copy_", "copies and layout"),
        ("aten::gelu_backward", "elementwise"),
        ("aten::add_", "elementwise"),
        ("aten::max_pool2d_with_indices", "pooling and sums"),
    ],
)
def test_groups_of_operators(operator: str, group: str) -> None:
    assert group_of(operator) == group


def test_explaining_a_step_names_its_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    x = torch.randn(4, 3, 8, 8)
    groups = explain(lambda: model(x).sum().backward(), torch.device("cpu"), steps=1)
    assert {"convolution", "normalisation", "matrix product", "elementwise"} <= set(groups)
    assert all(seconds > 0 for seconds in groups.values())
    assert list(groups.values()) == sorted(groups.values(), reverse=True)
