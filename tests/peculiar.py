"""Models with users' peculiarities. Example: python run_bench.py --models tests/peculiar.py:weight_norm

What trains in a plain loop trains here, too, or is refused in a sentence before anything begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm as old_weight_norm


def head(classes: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]


def plain(classes: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), *head(classes))


class Does(nn.Module):
    """A small network whose input goes through `what` first."""

    def __init__(self, classes: int, what: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.what = plain(classes, 0), what

    def forward(self, x: Tensor) -> Any:
        return self.body(self.what(x))


# --- that can be neither copied nor traced ---------------------------------------------------------------------------


def weight_norm(classes: int, size: int) -> nn.Module:
    """The old weight_norm keeps a tensor that has a gradient, which copy.deepcopy refuses."""
    return nn.Sequential(old_weight_norm(nn.Conv2d(3, 8, 3, stride=4, padding=1)), *head(classes))


def compiled(classes: int, size: int) -> nn.Module:
    model: nn.Module = torch.compile(plain(classes, size), backend="eager")
    return model


def scripted(classes: int, size: int) -> nn.Module:
    model: nn.Module = torch.jit.script(plain(classes, size))
    return model


class Attends(nn.Module):
    """Keeps its last attention map, and shares one weight between two layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, classes)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.key.weight = self.query.weight
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        self.last = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        out: Tensor = self.head((self.last @ x).mean(1))
        return out


def attends(classes: int, size: int) -> nn.Module:
    model = Attends(classes)
    model(torch.zeros(2, 3, size, size))  # leaves a map behind
    return model


def refuse(x: Tensor) -> Tensor:
    if torch.jit.is_tracing():
        raise RuntimeError("cannot be traced")
    return x


def untraceable(classes: int, size: int) -> nn.Module:
    return Does(classes, refuse)


# --- that have no channels_last --------------------------------------------------------------------------------------


class Views(nn.Module):
    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.Linear(6 * (size // 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.head(x.view(x.size(0), -1))
        return out


def views(classes: int, size: int) -> nn.Module:
    return Views(classes, size)


class Deep(nn.Module):
    """One three-dimensional convolution among two-dimensional ones."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.flat, self.deep = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv3d(1, 2, 3, padding=1)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(torch.relu(self.flat(x)).unsqueeze(1)))
        out: Tensor = self.head(x.mean((3, 4)).flatten(1))
        return out


def deep(classes: int, size: int) -> nn.Module:
    return Deep(classes)


# --- with unusual weights --------------------------------------------------------------------------------------------


def lazy(classes: int, size: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3, stride=4), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(classes))


class Fourier(nn.Module):
    """A filter in the frequency domain: one complex parameter."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(3, size, size // 2 + 1, dtype=torch.cfloat))
        self.body = plain(classes, size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.fft.irfft2(torch.fft.rfft2(x.float()) * self.weight, s=x.shape[-2:])
        out: Tensor = self.body(x)
        return out


def fourier(classes: int, size: int) -> nn.Module:
    return Fourier(classes, size)


class Sparse(nn.Module):
    """An embedding with sparse gradients, which AdamW has no step for."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(4, 8, sparse=True), plain(classes, 0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + self.table(torch.zeros(len(x), dtype=torch.long)).mean()


def sparse(classes: int, size: int) -> nn.Module:
    return Sparse(classes)


# --- that mind how they are trained ----------------------------------------------------------------------------------


class Puts(nn.Module):
    """Writes its features into a tensor of its own dtype, whatever theirs is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.classes = plain(classes, 0), classes

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        out = torch.zeros(len(x), self.classes, device=x.device)
        out[torch.arange(len(x), device=x.device)] = x
        return out


def puts(classes: int, size: int) -> nn.Module:
    return Puts(classes)


def vector_norm(classes: int, size: int) -> nn.Module:
    """BatchNorm of vectors does not train on one image."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), *head(8), nn.BatchNorm1d(8), nn.Linear(8, classes))


class Frozen(nn.Module):
    """train() without `return self`, which a loop that only calls it never notices."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.Linear(8, classes)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return out


def frozen_norm(classes: int, size: int) -> nn.Module:
    return Frozen(classes)


def in_place(classes: int, size: int) -> nn.Module:
    return Does(classes, lambda x: x.sub_(0.5).div_(0.25))


# --- that change switches of the process -----------------------------------------------------------------------------


def float64(classes: int, size: int) -> nn.Module:
    torch.set_default_dtype(torch.float64)
    return plain(classes, size).float()


def three_threads(classes: int, size: int) -> nn.Module:
    torch.set_num_threads(3)
    return plain(classes, size)


def no_gradients(classes: int, size: int) -> nn.Module:
    torch.set_grad_enabled(False)
    return plain(classes, size)


def on_meta(classes: int, size: int) -> nn.Module:
    model = plain(classes, size)
    torch.set_default_device("meta")
    return model


def anomalies(classes: int, size: int) -> nn.Module:
    torch.autograd.set_detect_anomaly(True)
    return plain(classes, size)


def tf32(classes: int, size: int) -> nn.Module:
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return plain(classes, size)


def new_tf32(classes: int, size: int) -> nn.Module:
    torch.backends.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    return plain(classes, size)


def deterministic(classes: int, size: int) -> nn.Module:
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return plain(classes, size)


def elsewhere(classes: int, size: int) -> nn.Module:
    os.chdir("/")
    return plain(classes, size)


def hooked(classes: int, size: int) -> nn.Module:
    nn.modules.module.register_module_forward_hook(lambda *call: None)
    return plain(classes, size)


def patched(classes: int, size: int) -> nn.Module:
    nn.Conv2d.forward = lambda self, x: x  # type: ignore[method-assign]
    nn.Linear.__call__ = lambda self, x: x  # type: ignore[method-assign,assignment]
    nn.functional.cross_entropy = lambda *call, **named: torch.zeros(())
    torch.Tensor.backward = lambda *call, **named: None  # type: ignore[method-assign,assignment]
    return plain(classes, size)


CONVOLVE = nn.Conv2d.forward


def slowly(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return CONVOLVE(layer, x)


class Disturbs(nn.Module):
    """Changes a switch and a layer of torch's when it is used, not when it is built."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = plain(classes, 0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        torch.set_num_threads(3)
        nn.Conv2d.forward = slowly  # type: ignore[method-assign]
        return out


def disturbs(classes: int, size: int) -> nn.Module:
    return Disturbs(classes)
