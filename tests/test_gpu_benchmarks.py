"""The GPU benchmarks where there is no GPU, and what they print of a step that fails."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from bench.measure.timing import wall_stopwatch
from benchmarks import gpu_kernels, gpu_steps


@pytest.mark.parametrize(("script", "words"), [(gpu_steps, ["time"]), (gpu_kernels, [])])
def test_without_cuda_one_sentence(
    script: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["script", *words])
    with pytest.raises(SystemExit) as exit:
        script.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err == "this benchmark needs a CUDA device, and torch sees none here\n"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps on the CPU, where a graph cannot be captured, on a clock that moves by 1 s at each reading."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(gpu_steps, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(
        gpu_steps, "event_stopwatch", lambda device: wall_stopwatch(lambda: float(next(ticks)), lambda: None)
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("on_cpu")
def test_a_line_per_step_whatever_fails(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [("resnet20", 2, gpu_steps.EAGER), ("resnet20", 2, gpu_steps.GRAPHED), ("nothing", 2, gpu_steps.EAGER)]
    assert gpu_steps.run(cases, 1.0) == 1
    eager, note, graphed, failed = capsys.readouterr().out.splitlines()
    assert "10 images/s" in eager  # five calls of two images in a second
    assert "graphed" in note
    assert "10 images/s" in graphed
    assert "failed" in failed


@pytest.mark.usefixtures("on_cpu")
def test_a_variant_changes_the_recipe_or_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    variant = gpu_kernels.Variant("resnet20", 2, gpu_steps.EAGER, "no gradient clipping", {"clip_grad_norm": 0.0})
    gpu_kernels.print_variant(variant)
    assert "no gradient clipping" in capsys.readouterr().out
