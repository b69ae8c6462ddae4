"""The best setting for each model, found by the same search. Example: best = settings_for(spec, store, display)

Every candidate of settings.space is built and tried, the simplest first; those that are not clearly slower than the
best take turns, in rounds, in one process. The fastest wins, and of those that cannot be told from it the simplest. The
search is kept in the store under the conditions that decide it, and is not repeated under the same ones.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from bench.core.stats import Interval, ratio_interval
from bench.core.status import one_line, status_of
from bench.executors.worker import call_alone
from bench.machine import environment
from bench.measure.session import Report, build
from bench.measure.step import has_attention_choice
from bench.measure.timing import Task, calls_for, stopwatch_of
from bench.plan.settings import space, words
from bench.plan.spec import SessionSpec, Setting, content_id, slug
from bench.present.screen.progress import Display
from bench.store.disk import Store, now, session_key
from bench.store.records import SCHEMA, Record
from models import registry

SECONDS = 180.0  # a model; a compilation that has begun is not interrupted
TRIAL_SHARE = 0.6  # of them, after which no further candidate is begun
SLACK_SECONDS = 900.0  # over them, for the compilation under way; then the search hangs
CLEARLY_SLOWER = 1.5  # times the best in its first trial: out
FEWEST_ROUNDS, MOST_ROUNDS = 5, 15
SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.05}
NO_FINDING = 0.01  # copies of one network differ by as much on a CPU (docs/measurement.md)

# --- in the child --------------------------------------------------------------------------------------------------


def child_tune(report: Report, spec: SessionSpec, skip: dict[int, dict[str, str]], store: Store) -> None:
    """Search for one model and write the record. `skip`: candidates that took an earlier process down, by index."""
    ((name, _),) = spec.models
    with store.claim_timing():
        started = now()
        environment.fix_numerics(spec.deterministic)
        facts = environment.describe(torch.device(spec.device))
        rows = search(spec, name, skip, report)
        best = choose(rows)
        record: Record = {
            "schema": SCHEMA,
            "id": tuning_id(spec, facts),
            "started": started,
            "model": name,
            "source": dict(spec.models)[name],
            "key": session_key(spec, facts),
            "recipe": asdict(spec.recipe),
            "num_classes": spec.num_classes,
            "limit_seconds": spec.seconds,
            "candidates": rows,
            "chosen": rows[best]["setting"],
            "environment": facts,
        }
        report({"event": "candidate", "index": -1, "text": "writing"})  # from here on no candidate is to blame
        store.write_tuning(record)


def search(spec: SessionSpec, name: str, skip: dict[int, dict[str, str]], report: Report) -> list[dict[str, Any]]:
    """A row for each candidate: its setting, status, first call, and the seconds of a call in each round."""
    device, begin = torch.device(spec.device), time.perf_counter()
    stopwatch = stopwatch_of(device, time.perf_counter)
    choice = has_attention_choice(registry.build(name, spec.num_classes, spec.image_size))
    candidates = space(spec.device, choice)
    rows: list[dict[str, Any]] = [
        {"setting": asdict(s), "status": "untried", "message": "", "seconds": []} for s in candidates
    ]
    tasks: dict[int, tuple[Task, int]] = {}
    best = float("inf")
    for index, setting in enumerate(candidates):
        row = rows[index]
        if index in skip:
            row |= skip[index]
            continue
        if index and time.perf_counter() - begin > TRIAL_SHARE * spec.seconds:
            row["message"] = "no time left"
            continue
        about = f"candidate {index + 1} of {len(candidates)}: {words(setting)}"
        report({"event": "candidate", "index": index, "text": about})
        try:
            task, row["first_seconds"], once = _try_out(replace(spec, setting=setting), name, stopwatch)
        except Exception as error:  # the model has passed its probe: what fails is this way to run it
            row |= {"status": status_of(error), "message": one_line(error)}
            continue
        best = min(best, once)
        row |= {"status": "slower", "trial_seconds": once}
        tasks[index] = (task, calls_for(once, SAMPLE_SECONDS[spec.device]))
        # What is out gives its memory back before the next one is tried.
        tasks = {i: t for i, t in tasks.items() if i == 0 or rows[i]["trial_seconds"] <= CLEARLY_SLOWER * best}
        del task
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    kept = list(tasks)
    rng = random.Random(0)
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begin > spec.seconds:
            break
        about = f"{len(kept)} candidates in turns, round {number + 1}"
        for index in rng.sample(kept, len(kept)):
            report({"event": "turn", "index": index, "text": about})  # so that a crash has a culprit
            task, calls = tasks[index]
            task.prepare()
            rows[index]["seconds"].append(stopwatch(task.call, calls) / calls)
            rows[index]["status"] = "ok"
    return rows


def _try_out(
    spec: SessionSpec, name: str, stopwatch: Callable[[Callable[[], object], int], float]
) -> tuple[Task, float, float]:
    """The training step, the seconds of its first call and of a later one. Raises RuntimeError where not as set."""
    not_as_set: list[str] = []
    _, tasks = build(replace(spec, own_settings=(), batch_sizes=(1,)), name, not_as_set.append)
    task = next(t for t in tasks if t.kind == "train")
    task.prepare()
    first = stopwatch(task.call, 1)
    if not_as_set:
        raise RuntimeError(not_as_set[0])
    return task, first, min(stopwatch(task.call, 1) for _ in range(2))


# --- the verdict ---------------------------------------------------------------------------------------------------


def choose(rows: list[dict[str, Any]]) -> int:
    """The index of the fastest candidate, or of the first that cannot be told from it; 0 where none could be timed."""
    timed = {i: row["seconds"] for i, row in enumerate(rows) if row["status"] == "ok" and row["seconds"]}
    if not timed:
        return 0
    best = min(timed, key=lambda i: statistics.median(timed[i]))
    for index, seconds in timed.items():
        ahead = ratio_interval(seconds, timed[best])
        if index == best or ahead.low <= 1 or ahead.value < 1 + NO_FINDING:
            return index
    raise AssertionError("the best is among those timed")


def gain(record: Record) -> Interval | None:
    """The speed of the chosen setting over the default's, or None where the default could not be timed."""
    rows = record["candidates"]
    default, chosen = rows[0], next(row for row in rows if row["setting"] == record["chosen"])
    if not default["seconds"] or not chosen["seconds"]:
        return None
    return ratio_interval(default["seconds"], chosen["seconds"])


def describe(record: Record) -> str:
    """One line on a search: what was chosen, what it gains, how many were tried."""
    rows = record["candidates"]
    counts = {s: sum(row["status"] == s for row in rows) for s in ("ok", "slower", "untried")}
    others = [
        f"{counts['slower']} clearly slower" if counts["slower"] else "",
        f"{counts['untried']} not for want of time" if counts["untried"] else "",
        f"{failed} failed" if (failed := len(rows) - sum(counts.values())) else "",
    ]
    found = gain(record)
    speed = (
        f", {found.value:.2f}× the default's speed ({found.low:.2f}–{found.high:.2f})"
        if found and record["chosen"] != rows[0]["setting"]
        else ""
    )
    tried = ", ".join([f"{counts['ok']} of {len(rows)} candidates timed in turns", *filter(None, others)])
    return f"{record['model']}: {words(Setting(**record['chosen']))}{speed}; {tried}"


# --- in the parent -------------------------------------------------------------------------------------------------


def tuning_id(spec: SessionSpec, facts: dict[str, Any]) -> str:
    """The name of a search: the model, the conditions that decide its answer, and the space that was searched."""
    ((name, source),) = spec.models
    work = [spec.recipe.optimizer, bool(spec.recipe.clip_grad_norm), spec.num_classes]  # the rest is in the key
    everything = [asdict(s) for s in space(spec.device, attention_choice=True)]
    about = [name, source, session_key(spec, facts), work, everything]
    return f"{slug(name)}-{content_id(about)}"


def each_alone(spec: SessionSpec) -> list[SessionSpec]:
    """One spec a model, under which it is searched: with its own recipe."""
    alone = replace(spec, own_settings=(), own_recipes=())
    return [
        replace(alone, models=(model,), recipe=spec.recipe_of(model[0]), reference=model[0]) for model in spec.models
    ]


def known_settings(spec: SessionSpec, store: Store) -> dict[str, Setting]:
    """The settings that earlier searches under these conditions have found, by model."""
    facts = environment.describe(torch.device(spec.device))
    found = {one.models[0][0]: store.tuning(tuning_id(one, facts)) for one in each_alone(spec)}
    return {name: Setting(**record["chosen"]) for name, record in found.items() if record is not None}


def settings_for(spec: SessionSpec, store: Store, display: Display) -> dict[str, Setting]:
    """The best setting of each model of `spec`, searched for where it is not known; tells what was found.

    Raises NotIdle where others are at work on this machine.
    """
    facts = environment.describe(torch.device(spec.device))
    found = {}
    for one in each_alone(spec):
        record = store.tuning(tuning_id(one, facts)) or _search_in_a_child(one, facts, store, display)
        if record is not None:
            display.line(f"  {describe(record)}")
        found[one.models[0][0]] = Setting(**record["chosen"]) if record else spec.setting
    return found


def _search_in_a_child(spec: SessionSpec, facts: dict[str, Any], store: Store, display: Display) -> Record | None:
    """Search; a candidate that takes its process down is left out, and the search begins again. None: given up."""
    name, skip = spec.models[0][0], dict[int, dict[str, str]]()
    while True:
        at = [-1]

        def hear(event: dict[str, Any], at: list[int] = at) -> None:
            if event["event"] in ("candidate", "turn"):
                at[0] = event["index"]
            display.session_event(event)

        display.session_started(f"looking for the best setting of {name}")
        outcome = call_alone(child_tune, (spec, skip, store), hear, spec.seconds + SLACK_SECONDS, grace=0)
        if outcome.status == "ok" and (record := store.tuning(tuning_id(spec, facts))):
            return record
        if outcome.status == "busy":
            display.line(f"  {outcome.message} is timing in this store; waiting")
            store.wait_for_timing()
            continue
        if at[0] < 0:
            display.line(
                f"  {name}: the search failed: {outcome.status}: {outcome.message}; its setting is the default"
            )
            return None
        display.line(f"  {name}: candidate {at[0] + 1}: {outcome.status}: {outcome.message}; again without it")
        skip[at[0]] = {"status": outcome.status, "message": outcome.message}
