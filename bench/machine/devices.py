"""The devices of this machine. Example: [device["kind"] for device in found(None)]"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from bench.machine import environment


def child_look(report: Callable[[dict[str, Any]], None], asked: str | None) -> None:
    """What a child process does to say what this machine has: an event for each device."""
    for device in found(asked):
        report({"event": "device", **device})


def found(asked: str | None) -> list[dict[str, Any]]:
    """What can be trained on: every GPU, the one GPU that was asked for, or all cores of the CPU as one device.

    `asked`: as --device. `visible` is what CUDA_VISIBLE_DEVICES must be for a process that is to see that GPU alone.
    Raises UserError for a device that is not here.
    """
    chosen = environment.choose_device(asked)
    if chosen.type == "cpu":
        return [_device(chosen, None)]
    every = range(torch.cuda.device_count()) if chosen.index is None else [chosen.index]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [_device(torch.device("cuda", index), names[index]) for index in every]


def _device(device: torch.device, visible: str | None) -> dict[str, Any]:
    return {
        "type": device.type,
        "index": device.index,
        "kind": environment.device_name(device),
        "native_bf16": environment.resolve_precision("auto", device) == "bf16",
        "threads": torch.get_num_threads(),
        "visible": visible,
    }
