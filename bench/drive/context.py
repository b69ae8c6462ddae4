"""What all parts of a sweep share. Example: task = context.task("probe", "bench.measure.probe:child_probe", args)"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.display import Display
from bench.executors.protocol import Device, Executor, Task
from bench.machine.identity import Identity
from bench.plan.spec import ALONE, Colocation
from bench.store.disk import Store

# Of processes that share a CPU's cores: threads that wait sleep instead of spinning, which halved the speed here
# (LOG.md, 2026-11-22).
SHARED_CPU = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class SweepContext:
    """Where results go, who executes, who shows; and what other machines must know of the driver's."""

    store: Store
    executor: Executor
    display: Display
    expected: Identity | None = None  # what a machine must run; None: only this one takes part
    marker: str = ""  # a file of the store: a machine that sees it shares the driver's disk

    def task(self, name: str, function: str, args: tuple[Any, ...], **options: Any) -> Task:
        """A Task of this sweep; `options` are further fields."""
        return Task(
            name,
            function,
            args,
            root=self.store.root,
            marker=self.marker,
            driver_host=platform.node(),
            folder=None if self.expected is None else Path.cwd(),
            expected=self.expected,
            **options,
        )

    @property
    def seats(self) -> int:
        """How many runs may train at once."""
        return sum(device.seats for device in self.executor.devices())


def surroundings(device: Device, alone: bool, deterministic: bool) -> tuple[Colocation, dict[str, str]]:
    """Beside how many others a run trains on a device, and the environment variables of its process.

    Several on a CPU: each gets its share of the threads, except under --deterministic, where sums must be taken in the
    same order as alone.
    """
    several = device.runs_at_once > 1 and not alone
    if device.type == "cuda":
        return (Colocation(device.runs_at_once) if several else ALONE), {}
    if not several:
        return ALONE, {"OMP_NUM_THREADS": str(device.threads)}
    threads = device.threads if deterministic else max(1, device.threads // device.runs_at_once)
    colocation = Colocation(device.runs_at_once, device.threads)
    return colocation, {"OMP_NUM_THREADS": str(threads), **SHARED_CPU}
