"""Models that do what they should not. Example: python run_bench.py --models tests/misbehaving.py:raises

A sweep first tries each model on two images: what must happen in training itself waits for more of them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

Factory = Callable[[int, int], nn.Module]


class Linear(nn.Module):
    """One layer that does `what` with its output `when` this holds of the module and its input."""

    def __init__(self, classes: int, size: int, what: Callable[..., Any], when: Callable[..., bool]) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * size * size, classes))
        self.what, self.when, self.calls = what, when, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        out = self.head(x)
        return self.what(out) if self.when(self, x) else out


def in_training(model: Linear, x: torch.Tensor) -> bool:
    return model.training and len(x) > 2


def always(model: Linear, x: torch.Tensor) -> bool:
    return True


def above_16(model: Linear, x: torch.Tensor) -> bool:
    return len(x) > 16


def after_20_calls(model: Linear, x: torch.Tensor) -> bool:
    return model.calls > 20


def alone(model: Linear, x: torch.Tensor) -> bool:
    return len(x) == 1


def linear(what: Callable[..., Any], when: Callable[..., bool]) -> Factory:
    """A factory of such layers."""
    return lambda classes, size: Linear(classes, size, what, when)


# --- what they do ----------------------------------------------------------------------------------------------------


def fail(out: torch.Tensor) -> None:
    raise ValueError("broken in training")


def leave(out: torch.Tensor) -> None:
    raise SystemExit(0)


def die(out: torch.Tensor) -> None:
    os._exit(7)


def die_of_memory(out: torch.Tensor) -> None:
    raise MemoryError


def hang(out: torch.Tensor) -> None:
    print("now it hangs", flush=True)
    time.sleep(1e6)


def wait(out: torch.Tensor) -> torch.Tensor:
    if not Path(__file__).with_name("go").exists():
        time.sleep(0.2)
    return out


def kill(out: torch.Tensor) -> None:
    os.kill(os.getpid(), 9)


def eat(out: torch.Tensor) -> None:
    kept = []
    while True:
        kept.append(torch.empty(2**26))


def need_two(out: torch.Tensor) -> None:
    raise ValueError("needs two")


# --- in training ----------------------------------------------------------------------------------------------------

fine = linear(lambda out: out, always)
fine_too = linear(lambda out: out, always)
gated = linear(wait, in_training)  # slow until there is a file `go` beside this one
raises = linear(fail, in_training)
leaves = linear(leave, in_training)
dies = linear(die, in_training)
hangs = linear(hang, in_training)
segfaults = linear(lambda out: ctypes.string_at(0), in_training)
is_killed = linear(kill, in_training)
eats = linear(eat, in_training)
diverges = linear(lambda out: out * float("nan"), in_training)
dies_at_once = linear(die, always)
dies_above_16 = linear(die, above_16)
dies_later = linear(die, after_20_calls)
no_memory_above_16 = linear(die_of_memory, above_16)

# --- refused when they are tried -------------------------------------------------------------------------------------

cut = linear(torch.Tensor.detach, always)
infinite = linear(lambda out: out / 0, always)
random_ = linear(lambda out: out + torch.rand(()), always)
pair = linear(lambda out: (out, out), always)
integers = linear(torch.Tensor.long, always)
one_by_one = linear(need_two, alone)


def frozen(classes: int, size: int) -> nn.Module:
    return Linear(classes, size, lambda out: out, always).requires_grad_(False)


# --- refused when they are built -------------------------------------------------------------------------------------


def never_built(classes: int, size: int) -> nn.Module:
    time.sleep(1e6)
    raise AssertionError


def exits(classes: int, size: int) -> nn.Module:
    sys.exit(0)


def dies_built(classes: int, size: int) -> nn.Module:
    os._exit(9)


def wide(classes: int, size: int) -> nn.Module:
    """As many outputs as ImageNet has classes, whatever is asked for."""
    return fine(1000, size)


def breaks(classes: int, size: int) -> nn.Module:
    raise ZeroDivisionError("my own\nmistake")


def text(classes: int, size: int) -> str:
    return "no module"
