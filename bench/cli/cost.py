"""Parameters, FLOPs and activations. Example: python run_bench.py cost seresnet vit_tiny"""

from __future__ import annotations

import sys
from itertools import product

from bench.cli.requests import CostRequest
from bench.core.events import Event, ModelCounted
from bench.executors.child import call
from bench.present.cost_table import head, line, module_table, notes_of
from models.errors import ModelError


def cost(request: CostRequest) -> int:
    """Count in a child process, which has torch; print each row as it comes. Raises ModelError."""
    headed, left = False, [*product(request.models, request.image_sizes)]  # in the order in which they are counted

    def on_event(event: Event) -> None:
        nonlocal headed
        if not isinstance(event, ModelCounted):
            return
        left.pop(0)
        if request.depth is not None:
            print(module_table(event), end="", flush=True)
            return
        if not headed:  # a refusal needs none
            print(head(request.format))
            headed = True
        print(line(event, request.format), flush=True)
        if request.format != "text":  # which has them beneath the row
            for note in notes_of(event):
                print(note, file=sys.stderr)

    args = (request.models, request.num_classes, request.image_sizes, request.depth)
    outcome = call("bench.measure.counting:child_models", args, on_event, grace=0)
    if outcome.status == "ok":
        return 0
    if outcome.message.startswith("ModelError: ") or not left:
        raise ModelError(outcome.message.removeprefix("ModelError: "))
    name, size = left[0]  # it ended its process, or raised what is none of Python's usual exceptions
    raise ModelError(f"model '{name}' cannot be counted on {size} px images: {outcome.message}")
