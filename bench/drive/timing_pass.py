"""The speed session after a sweep. Example: time_if_needed(specs, context, TimingOptions(limit=60.0))"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bench.core.errors import NotIdle
from bench.core.events import Report
from bench.drive.board import call_alone
from bench.drive.context import SweepContext, surroundings
from bench.drive.speed import time_together
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.executors.protocol import Device
from bench.plan.settings import SETTINGS
from bench.plan.spec import RunSpec, session_of
from bench.store.disk import Store
from bench.store.records import FinishedRun, Session
from bench.store.views import sessions_of

# Long enough to be worth reading, short enough to follow every sweep.
SECONDS_PER_MODEL = {"cpu": 20.0, "cuda": 8.0}


@dataclass(frozen=True)
class TimingOptions:
    """`limit`: seconds of a session; `rerun`: time again what a session has already; `reference`: of the ratios."""

    limit: float | None = None
    rerun: bool = False
    reference: str | None = None


def time_if_needed(specs: Sequence[RunSpec], context: SweepContext, options: TimingOptions) -> bool:
    """Time the models that finished, in turns, unless one session has them all. False where one could not be timed.

    Once on each kind of device that did runs: no comparison of speeds spans two. Under `tuned` they are timed under
    `eager` too: both are reported.
    """
    display = context.display
    finished = [spec for spec in specs if context.store.is_done(spec)]
    names = ["tuned", "eager"] if specs[0].setting.name == "tuned" else [specs[0].setting.name]
    complete = True
    for kind in dict.fromkeys(spec.device_name for spec in finished):
        device = next((device for device in context.executor.devices() if device.kind == kind), None)
        if device is None:
            display.line(f"not timed on {kind}: no such device is here now")
            complete = False
            continue
        models = {spec.model: replace(spec, device_name=kind) for spec in finished}
        for name in names:
            try:
                complete &= _time_under(name, list(models.values()), device, context, options)
            except NotIdle as error:
                display.line(f"not timed on {kind}: {error}")
                complete = False
    return complete


def _time_under(
    setting: str, specs: list[RunSpec], device: Device, context: SweepContext, options: TimingOptions
) -> bool:
    """One session of these runs' models under a setting, unless there is one. False where one could not be timed.

    Raises NotIdle.
    """

    def fitting() -> Session | None:
        return timed_under(setting, specs, context.store)

    if not options.rerun and fitting():
        return True
    limit = options.limit or SECONDS_PER_MODEL[device.type] * len(specs)
    spec = session_of([_under(setting, spec) for spec in specs], limit, options.reference)
    call = functools.partial(call_there, context, device)
    session = time_together(spec, context.store, context.display, fitting, call)
    return session is not None and not session.failures


def call_there(
    context: SweepContext,
    device: Device,
    function: str,
    args: tuple[Any, ...],
    on_event: Report,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> Outcome:
    """As child.call, on a device whose machine does nothing else. Raises NotIdle."""
    _, variables = surroundings(device, True, False)
    task = context.task("session", function, args, timeout=timeout, grace=grace, environment=tuple(variables.items()))
    answer = call_alone(context.executor, device, task, on_event)
    context.store.adopt(answer.files)
    return answer.outcome


def timed_under(setting: str, specs: Sequence[RunSpec], store: Store) -> Session | None:
    """The newest session under a setting that timed all of these runs that finished, if there is one."""
    done = [
        msgspec.structs.replace(run, spec=_under(setting, spec))
        for spec in specs
        if isinstance(run := store.record(spec), FinishedRun)
    ]
    fitting = (s for s in reversed(store.sessions()) if done and all(sessions_of(run, [s]) for run in done))
    return next(fitting, None)


def _under(setting: str, spec: RunSpec) -> RunSpec:
    """The run under a setting for all, or as it is where that is the setting it was asked for."""
    return spec if setting == spec.setting.name else replace(spec, setting=SETTINGS[setting])
