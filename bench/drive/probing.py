"""Every model is tried before anything long begins. Example: probe(["vit_tiny"], plan, None, display)"""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.display import Display
from bench.core.events import Event, Probed, ProbeFailed, ProbeStarted
from bench.core.text import plural
from bench.drive.planning import Plan
from bench.executors.child import call
from models.errors import ModelError

SECONDS = 300.0  # a model that has not answered two images by then hangs


def probe(names: Sequence[str], plan: Plan, timeout: float | None, display: Display) -> dict[str, int]:
    """Try every model in a child; prints warnings. Returns the bytes of each one's weights.

    Raises ModelError that names the unfit.

    A model that takes its process down, or hangs, is named like the others, and those after it get a fresh process.
    """
    unfit, left, current, sizes = [], list(names), "", dict[str, int]()

    def on_event(event: Event) -> None:
        nonlocal current
        if isinstance(event, ProbeStarted):
            current = event.model
        elif isinstance(event, Probed):
            left.remove(event.model)
            sizes[event.model] = event.weights_bytes
            for warning in event.warnings:
                display.line(f"warning: {warning}")
        elif isinstance(event, ProbeFailed):
            left.remove(event.model)
            unfit.append(event.why)

    if names:  # starting the first child takes seconds, in which nothing would be shown
        display.line(f"trying {plural(len(names), 'model')} before anything long begins")
    specs, limit = {spec.model: spec for spec in plan.specs}, min(timeout or SECONDS, SECONDS)
    while left:
        current = left[0]
        args = ([specs[name] for name in left],)
        outcome = call("bench.measure.probe:child_probe", args, on_event, limit, grace=0)
        if left:
            why = "called sys.exit()" if outcome.status == "ok" else f"{outcome.status}: {outcome.message}"
            unfit.append(f"model '{current}' cannot be tried: {why}")
            left.remove(current)
    if unfit:
        raise ModelError("; ".join(unfit))
    return sizes
