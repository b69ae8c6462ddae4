"""State that a model's code may change, put back. Example: with kept(note): model = registry.build(name, 10, 32)

A model's file may set threads, the default dtype or TF32 for the whole process. Everything measured in that process
afterwards, models beside it included, would run under those, while records name others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks

Note = Callable[[str], None]
Functions = dict[str, Any]  # of a module or a class, by name


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _set_anomaly(value: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(value[0], check_nan=value[1])


def _set_device(value: torch.device) -> None:
    # None where it was the CPU: a default device that is set slows every call down.
    torch.set_default_device(None if value == torch.device("cpu") else value)


def _flag(holder: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return lambda: getattr(holder, name), lambda value: setattr(holder, name, value)


_backends: Any = torch.backends
# In the order in which they are put back: torch refuses to read a legacy TF32 switch while a new one contradicts it.
SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "working directory": (os.getcwd, os.chdir),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _set_device),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()), _set_anomaly),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    "autocast on CUDA": (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
    "precision of fp32": _flag(_backends, "fp32_precision"),
    "precision of fp32 products on CUDA": _flag(_backends.cuda.matmul, "fp32_precision"),
    "precision of fp32 in cuDNN": _flag(_backends.cudnn, "fp32_precision"),
    "precision of fp32 convolutions": _flag(_backends.cudnn.conv, "fp32_precision"),
    "precision of fp32 recurrences": _flag(_backends.cudnn.rnn, "fp32_precision"),
    "precision of fp32 products on the CPU": _flag(_backends.mkldnn.matmul, "fp32_precision"),
    "TF32 products": _flag(_backends.cuda.matmul, "allow_tf32"),
    "TF32 convolutions": _flag(_backends.cudnn, "allow_tf32"),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn.benchmark": _flag(_backends.cudnn, "benchmark"),
    "cudnn.deterministic": _flag(_backends.cudnn, "deterministic"),
    "cudnn.enabled": _flag(_backends.cudnn, "enabled"),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "flash attention": (_backends.cuda.flash_sdp_enabled, _backends.cuda.enable_flash_sdp),
    "memory-efficient attention": (_backends.cuda.mem_efficient_sdp_enabled, _backends.cuda.enable_mem_efficient_sdp),
    "math attention": (_backends.cuda.math_sdp_enabled, _backends.cuda.enable_math_sdp),
}
GLOBAL_HOOKS = [name for name in vars(hooks) if name.startswith("_global_") and isinstance(getattr(hooks, name), dict)]

# Where other models would meet functions that were replaced. Not in `torch` itself, where its compiler replaces some,
# as it does two of all modules.
PATCHED: list[Any] = [F, torch.Tensor, *(layer for layer in vars(nn).values() if isinstance(layer, type))]
COMPILERS = {nn.Module: ("__init__", "__setstate__")}


@dataclass(frozen=True)
class Switches:
    """SWITCHES, torch's hooks for all modules, and its own functions, layers and tensors, as they stand."""

    values: dict[str, Any]
    hooks: dict[str, dict[Any, Any]]
    functions: dict[Any, Functions]

    @classmethod
    def now(cls) -> Switches:
        """Those of this moment; takes 1 ms, as putting them back does."""
        values = {name: _read(get) for name, (get, _) in SWITCHES.items()}
        every = {name: dict(getattr(hooks, name)) for name in GLOBAL_HOOKS}
        return cls(values, every, {owner: _functions(owner) for owner in PATCHED})

    def put_back(self) -> list[str]:
        """Set what has changed since to what it was; returns it in words."""
        changed = [_words(name, old, new) for name, old in self.values.items() if (new := _put_back(name, old)) != old]
        for name, old in self.hooks.items():
            now = getattr(hooks, name)
            if now != old:
                now.clear()
                now.update(old)
                changed.append(name.removeprefix("_global_").replace("_", " ") + " of all modules")
        for owner, functions in self.functions.items():
            changed += _unpatch(owner, functions)
        return changed


@contextlib.contextmanager
def kept(note: Note = lambda text: None) -> Iterator[None]:
    """Put back, at the end, what the code within has changed of Switches; `note` gets one sentence that names it."""
    before = Switches.now()
    try:
        yield
    finally:
        if changed := before.put_back():
            note(f"the model's code changed switches of the whole process, which were put back: {', '.join(changed)}")


def _functions(owner: Any) -> Functions:
    """By name, what is called in a module or a class."""
    ours = {name: value for name, value in vars(owner).items() if name not in COMPILERS.get(owner, ())}
    return {name: value for name, value in ours.items() if callable(value) or isinstance(value, staticmethod)}


def _unpatch(owner: Any, functions: Functions) -> list[str]:
    """Give a module or a class its functions back; returns the names of those that had been replaced."""
    now, place = _functions(owner), owner.__name__
    if isinstance(owner, type):
        place = "torch.Tensor" if owner is torch.Tensor else f"torch.nn.{owner.__name__}"
    replaced = [name for name, function in functions.items() if now.get(name) is not function]
    for name in replaced:
        setattr(owner, name, functions[name])
    added = [name for name in now.keys() - functions.keys() if isinstance(now[name], FunctionType)]
    if not isinstance(owner, type):
        added = []  # a module's new names are its imports, and change nothing for others
    for name in added:  # in a class it hides the function of the class above
        delattr(owner, name)
    return [f"{place}.{name}" for name in sorted(replaced + added)]


def _words(name: str, old: Any, new: Any) -> str:
    return name if isinstance(old, tuple) or new is None else f"{name} ({old} to {new})"


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except (OSError, RuntimeError):  # a directory that is gone; TF32 set by torch's old and new names at once
        return None


def _put_back(name: str, old: Any) -> Any:
    """Set a switch to its old value where it has another; returns the other."""
    get, put = SWITCHES[name]
    new = _read(get)
    if new != old:
        put(old)
    return new


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in training or in eval mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
