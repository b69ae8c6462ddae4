"""Which setting of a search wins, and the search's name. Example: best = choose(search.candidates)

Pure functions without torch: the worker that searches and the driver that looks up earlier searches share them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from bench.core.stats import ratio_interval
from bench.plan.keys import Facts, session_key
from bench.plan.settings import space
from bench.plan.spec import SessionSpec, content_id, slug
from bench.store.records import Candidate

NO_DIFFERENCE = 0.01  # two copies of one network differ by as much on a CPU (docs/measurement.md)


def choose(candidates: Sequence[Candidate]) -> int:
    """The index of the fastest candidate, or of the first that is not significantly slower; 0 where none was timed."""
    timed = {i: row.seconds for i, row in enumerate(candidates) if row.status == "ok" and row.seconds}
    if not timed:
        return 0
    best = min(timed, key=lambda i: statistics.median(timed[i]))
    for index, seconds in timed.items():
        ahead = ratio_interval(seconds, timed[best])
        if index == best or ahead.low <= 1 or ahead.value < 1 + NO_DIFFERENCE:
            return index
    raise AssertionError("the best is among those timed")


def setting_search_id(spec: SessionSpec, environment: Facts) -> str:
    """The id of a search: from the model, the conditions that affect the result, and the space searched."""
    ((name, source),) = spec.models
    work = [spec.recipe.optimizer, bool(spec.recipe.clip_grad_norm), spec.num_classes]  # the rest is in the key
    everything = [asdict(s) for s in space(spec.device, attention_choice=True)]
    key = asdict(session_key(spec, environment))
    del key["shared"]  # it may change between two looks at the GPU, and a search goes on
    conditions = [name, source, key, work, everything]
    return f"{slug(name)}-{content_id(conditions)}"
