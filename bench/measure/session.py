"""One speed session: models in turns, and what limits them. Example: time_models(spec, Found(), store, report)

Everything here runs in child processes: `try_model` alone for each model (it may raise, hang or kill its CUDA context;
it measures memory on the way), then `time_models` for all that are left. sweep.py and speed.py call them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.core.status import one_line, status_of
from bench.machine import energy, environment, host
from bench.measure import limits
from bench.measure.cost import train_flops
from bench.measure.step import Note, arrange
from bench.measure.timing import KINDS, Rule, Task, Timed, make_tasks, stopwatch_of, time_blocks, warnings_of
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import SessionSpec, content_id, slug
from bench.store.disk import Store, now, session_key
from bench.store.records import SCHEMA, Record
from models import registry
from models.drop_path import set_drop_path

Report = Callable[[dict[str, Any]], None]
TaskName = tuple[str, str, int]  # model, kind, batch size

SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.1}
TWICE_PAIRS = 2  # samples at once and twice the batch, in turns


@dataclass
class Found:
    """What the trials found: models or tasks that cannot be timed, and the memory that the others take."""

    failures: list[dict[str, Any]] = field(default_factory=list)  # model, kind, batch_size, status, message
    memory: list[dict[str, Any]] = field(default_factory=list)  # model, kind, batch_size, bytes, reserved_bytes

    def tried(self) -> set[TaskName]:
        """Tasks of which it is known whether they run."""
        return {(f["model"], f["kind"], f["batch_size"]) for f in self.memory + self.failures}

    def out(self) -> set[TaskName]:
        """Tasks that failed alone."""
        return {(f["model"], f["kind"], f["batch_size"]) for f in self.failures if f["kind"]}

    def out_models(self) -> set[str]:
        """Models that failed as a whole."""
        return {f["model"] for f in self.failures if not f["kind"]}


def build(spec: SessionSpec, name: str, note: Note = lambda text: None) -> tuple[nn.Module, list[Task]]:
    """A model on the device with its tasks. `note` hears why not as set. Raises what building does."""
    device, setting = torch.device(spec.device), spec.setting_of(name)
    if setting.compile_mode:
        keep_compiled_code()
    torch.manual_seed(0)
    model = registry.build(name, spec.num_classes, spec.image_size)
    set_drop_path(model, spec.recipe_of(name).drop_path)  # where it reaches nothing, a run's record says so
    model = arrange(model, setting).to(device)
    about = (spec.recipe_of(name), spec.num_classes, spec.image_size, device, setting, spec.batch_sizes)
    return model, make_tasks(name, model, *about, note=note)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits until the device has finished; nothing to wait for on a CPU."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


# --- one model alone -----------------------------------------------------------------------------------------------


def try_model(report: Report, spec: SessionSpec, name: str, skip: set[TaskName]) -> None:
    """What a child process does with one model: every task twice but those to skip, with its peak memory.

    Inference before training and small batches before large ones, so that one that does not fit takes no other with it.
    """
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    _, tasks = build(spec, name)
    for task in sorted(tasks, key=lambda t: (t.kind == "train", t.images)):
        if (name, task.kind, task.images) in skip:
            continue
        about = {"model": name, "kind": task.kind, "batch_size": task.images}
        report({"event": "trial", **about})
        environment.reset_peak_memory(device)
        try:
            task.prepare()
            for _ in range(2):
                task.call()
            synchroniser(device)()
        except Exception as error:
            report({"event": "untimed", **about, "status": status_of(error), "message": one_line(error)})
            continue
        peak, reserved = environment.peak_memory_bytes(device), environment.reserved_memory_bytes(device)
        report({"event": "memory", **about, "bytes": peak, "reserved_bytes": reserved})


# --- all of them in turns ------------------------------------------------------------------------------------------


def time_models(spec: SessionSpec, found: Found, store: Store, report: Report) -> Record:
    """One session of the models that are left; writes and returns its record. Raises what a model raises.

    Reports whose turn it is, "" where it is nobody's, so that a crash is blamed on a model only where one is at work.
    """
    started, device = now(), torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    facts = environment.describe(device)
    load, before = host.cpu_load(), energy.gpu_state(device)
    models: dict[str, nn.Module] = {}
    tasks: list[Task] = []
    build_seconds = {}
    not_as_set: dict[str, list[str]] = {}
    for name, _ in spec.models:
        if name in found.out_models():
            continue
        report({"event": "task", "model": name})
        begin = time.perf_counter()
        not_as_set[name] = []
        models[name], made = build(spec, name, not_as_set[name].append)
        build_seconds[name] = time.perf_counter() - begin
        tasks += [t for t in made if (t.model, t.kind, t.images) not in found.out()]
    rule = Rule(spec.reference, spec.half_width, spec.seconds, SAMPLE_SECONDS[spec.device])
    stopwatch = stopwatch_of(device, time.perf_counter)
    timed = time_blocks(
        tasks,
        rule,
        stopwatch,
        time.perf_counter,
        seed=0,
        on_block=lambda block, of: report({"event": "block", "block": block, "blocks": of}),
        on_task=lambda task: report({"event": "task", "model": task.model}),
    )
    report({"event": "task", "model": ""})
    warnings = warnings_of(timed, load)
    extra: dict[str, Any] = {"ceilings": None, "bounds": {}, "energy": {"source": "", "why_not": "not asked for"}}
    if spec.thorough:
        extra = _limits(spec, models, tasks, timed, report) | {"energy": _energy(spec, tasks, report)}
        # last: a profiler may leave hooks behind that slow a GPU's launches down
        extra["groups"], not_explained = _groups(extra["bounds"], tasks, device, report)
        warnings += not_explained
    after = energy.gpu_state(device)
    notes = [f"{name}: {text}" for name, texts in not_as_set.items() for text in texts]
    names = list(models)
    key = session_key(spec, facts)
    session: Record = {
        "schema": SCHEMA,
        "id": f"{slug('-'.join(names))}-{content_id([names, key, started])}",
        "started": started,
        "models": names,
        "sources": {name: source for name, source in spec.models if name in models},
        "settings": {name: asdict(spec.setting_of(name)) for name in names},
        "not_as_set": not_as_set,
        "reference": spec.reference,
        "kinds": list(KINDS),
        "key": key,
        "recipe": asdict(spec.recipe),
        **({"recipes": {name: asdict(spec.recipe_of(name)) for name in names}} if spec.own_recipes else {}),
        "num_classes": spec.num_classes,
        "stopped": timed.stopped,
        "blocks": timed.blocks,
        "planned_blocks": timed.planned_blocks,
        "half_width": spec.half_width,
        "limit_seconds": spec.seconds,
        "seconds": timed.seconds,
        "samples": [asdict(sample) for sample in timed.samples],
        "first_calls": [asdict(sample) for sample in timed.first_calls],
        "build_seconds": build_seconds,
        "failures": found.failures,
        "memory": found.memory,
        "warnings": [*warnings, *notes, *energy.warnings_of_state(before, after)],
        "gpu_before": before,
        "gpu_after": after,
        **extra,
        "environment": facts,
    }
    store.write_session(session["id"], session)
    return session


def child_session(report: Report, spec: SessionSpec, found: Found, root: Path) -> None:
    """What a child process does for one speed session, as the only one in its store."""
    store = Store(root)
    with store.claim_timing():
        time_models(spec, found, store, report)


def _limits(
    spec: SessionSpec, models: dict[str, nn.Module], tasks: list[Task], timed: Timed, report: Report
) -> dict[str, Any]:
    """The ceilings, and for each model's training step its bound and the experiment with twice the batch."""
    device, recipe = torch.device(spec.device), spec.recipe
    stopwatch = stopwatch_of(device, time.perf_counter)
    report({"event": "stage", "text": "measuring what this device can do"})
    batches = limits.random_batches(recipe, spec.num_classes, spec.image_size, device)
    ceilings = limits.measure_ceilings(device, recipe.precision, batches, stopwatch)
    bounds = {}
    for task in (t for t in tasks if t.kind == "train"):
        report({"event": "task", "model": task.model})
        report({"event": "stage", "text": f"what limits {task.model}"})
        one = train_flops(models[task.model], spec.image_size)
        setting, twin = spec.setting_of(task.model), task
        if setting.compile_mode or setting.graphed:  # which do not show their operators: an eager twin does
            eager = replace(setting, compile_mode="", graphed=False)
            _, twins = build(replace(spec, setting=eager, own_settings=(), batch_sizes=(1,)), task.model)
            twin = next(t for t in twins if t.kind == "train")
        twin.prepare()
        work = limits.count_work(twin.call, None if one is None else one * task.images)
        seconds = statistics.median(
            s.seconds_per_call for s in timed.samples if s.model == task.model and s.kind == "train"
        )
        found = limits.bound(work, ceilings, task.images, seconds)
        twice = _twice_the_batch(spec, task)
        bounds[task.model] = {
            **asdict(found),
            "operators": work.operators,
            "bytes": work.bytes,
            "flops_2x": work.flops_2x,
            "step_seconds": seconds,
            "twice_the_batch": twice,
            "experiment": limits.confirmed(found.name, twice),
        }
        report({"event": "task", "model": ""})
    return {"ceilings": asdict(ceilings), "bounds": bounds}


def _twice_the_batch(spec: SessionSpec, task: Task) -> float | None:
    """Images/s at twice the batch over those at once, in turns; None where twice does not fit."""
    device = torch.device(spec.device)
    stopwatch = stopwatch_of(device, time.perf_counter)
    recipe = replace(spec.recipe_of(task.model), batch_size=2 * task.images)
    double = replace(spec, recipe=recipe, own_recipes=(), batch_sizes=(1,))
    not_as_set: list[str] = []
    try:
        _, made = build(double, task.model, not_as_set.append)
        twice = next(t for t in made if t.kind == "train")
        ratios = []
        for t in (task, twice):
            t.prepare()
            stopwatch(t.call, 1)
        for _ in range(TWICE_PAIRS):
            task.prepare()
            once = stopwatch(task.call, 1)
            twice.prepare()
            ratios.append(2 * once / stopwatch(twice.call, 1))
        return None if not_as_set else statistics.median(ratios)
    except (RuntimeError, MemoryError):  # out of memory, in any of its disguises: there is no such experiment then
        return None


def _energy(spec: SessionSpec, tasks: list[Task], report: Report) -> dict[str, Any]:
    """Joules for 1,000 training images of each model, or why there are none."""
    device = torch.device(spec.device)
    meter = energy.find_meter(device)
    if meter.joules is None:
        return {"source": meter.source, "why_not": meter.why_not}
    joules = {}
    for task in (t for t in tasks if t.kind == "train"):
        report({"event": "task", "model": task.model})
        report({"event": "stage", "text": f"energy of {task.model}"})
        task.prepare()
        sync = synchroniser(device)
        joules[task.model] = 1000 * energy.joules_per_image(meter, task.call, task.images, sync, time.perf_counter)
        report({"event": "task", "model": ""})
    return {"source": meter.source, "why_not": "", "joules_per_1000_images": joules}


def _groups(
    bounds: dict[str, Any], tasks: list[Task], device: torch.device, report: Report
) -> tuple[dict[str, Any], list[str]]:
    """For each training step its seconds, as they were timed, and those of its groups of operators; and warnings."""
    found, warnings = {}, []
    for task in (t for t in tasks if t.kind == "train"):
        report({"event": "task", "model": task.model})
        report({"event": "stage", "text": f"where a step of {task.model} spends its time"})
        task.prepare()
        try:
            groups = limits.explain(task.call, device)
            found[task.model] = {"step_seconds": bounds[task.model]["step_seconds"], "groups": groups}
        except Exception as error:  # a profiler that fails costs no measurement
            warnings.append(f"{task.model}: the profiler did not say where a step spends its time: {one_line(error)}")
        report({"event": "task", "model": ""})
    return found, warnings


def explain_model(report: Report, spec: SessionSpec, name: str) -> None:
    """What a child process does for `time --explain`: seconds of a training step by group of operators."""
    device = torch.device(spec.device)
    environment.fix_numerics(spec.deterministic)
    _, tasks = build(spec, name)
    task = next(t for t in tasks if t.kind == "train")
    task.prepare()
    task.call()
    stopwatch = stopwatch_of(device, time.perf_counter)
    step = min(stopwatch(task.call, 1) for _ in range(3))
    groups = limits.explain(task.call, device)
    report({"event": "explained", "step_seconds": step, "groups": groups})
