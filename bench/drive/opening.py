"""The executor that a request asks for. Example: with opened(request, store, display) as context: context.seats"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.core.display import Display
from bench.core.errors import UserError
from bench.core.events import DeviceFound, Event
from bench.drive.context import SHARED_CPU, SweepContext
from bench.drive.describe import devices_words
from bench.executors.child import call
from bench.executors.local import LocalExecutor
from bench.executors.processes import warm_up
from bench.executors.protocol import Device, Executor
from bench.executors.worker import as_device
from bench.machine.environment import nvidia_driver
from bench.machine.identity import Identity, identity
from bench.plan.request import RunRequest
from bench.store.disk import Store

LOOK_SECONDS = 60.0  # for a cluster's nodes to report, before the sweep is planned


@contextlib.contextmanager
def opened(request: RunRequest, store: Store, display: Display) -> Iterator[SweepContext]:
    """The executor asked for, while this lasts. Raises UserError where there is none, or no device."""
    if request.placement.executor == "local":
        with _local(request, store, display) as context:
            yield context
        return
    store.check_writable()
    store = Store(store.root.resolve())  # other machines, and processes in other folders, must find it
    expected = identity()
    with store.marked() as marker:
        executor = remote_executor(request, store, expected, display)
        try:
            wait_for_devices(executor)
            show_notes(executor.devices(), display)
            display.line(f"on {devices_words(executor.devices())}, by {request.placement.executor}")
            yield SweepContext(store, executor, display, expected, marker)
        finally:
            executor.close()


@contextlib.contextmanager
def _local(request: RunRequest, store: Store, display: Display) -> Iterator[SweepContext]:
    seats, asked = request.execution.runs_per_device, request.placement.device
    on_cpu = asked == "cpu" or (asked is None and nvidia_driver() is None)
    if seats > 1 and on_cpu:  # the server must start with the variables that the runs will have
        warm_up(SHARED_CPU)
    devices = [replace(device, seats=seats) for device in local_devices(asked)]
    show_notes(devices, display)
    executor = LocalExecutor(devices)
    try:
        yield SweepContext(store, executor, display)
    finally:
        executor.close()


def local_devices(asked: str | None) -> list[Device]:
    """This machine's devices, as a child process sees them. Raises UserError for a device that is not here."""
    events: list[Event] = []
    outcome = call("bench.measure.device:child_devices", (asked,), events.append)
    devices = [as_device(event, "here", "this machine") for event in events if isinstance(event, DeviceFound)]
    if outcome.status != "ok" or not devices:
        raise UserError(outcome.message.removeprefix("UserError: ") or "no device was found")
    return devices


def show_notes(devices: Sequence[Device], display: Display) -> None:
    """What is to be known of the devices before anything begins: why one is a CPU although there is a GPU."""
    for note in filter(None, dict.fromkeys(device.note for device in devices)):
        display.line(note)


def wait_for_devices(executor: Executor) -> None:
    """Wait until some are there, and for a while until all have reported: one precision must suit them all.

    Raises UserError where none is fit.
    """
    deadline = time.monotonic() + LOOK_SECONDS
    while not executor.devices() or (executor.looking and time.monotonic() < deadline):
        executor.events(0.2)


def remote_executor(request: RunRequest, store: Store, expected: Identity, display: Display) -> Executor:
    """Ray or SLURM. Raises UserError where its package is missing, or it cannot be reached."""
    placement, seats = request.placement, request.execution.runs_per_device
    if placement.executor == "ray":
        from bench.executors.ray import RayExecutor

        return RayExecutor(placement.address, placement.device, seats, expected, display.line)
    assert placement.executor == "slurm", placement.executor
    from bench.executors.slurm import SlurmExecutor
    from bench.executors.slurm_queue import parse_options

    options, folder = parse_options(placement.slurm), store.place("slurm")
    address = placement.address or "slurm"
    asked = (placement.device, seats, expected, placement.retries, display.line)
    return SlurmExecutor(address, options, folder, *asked)
