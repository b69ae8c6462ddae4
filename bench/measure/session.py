"""One speed session: models in turns, and what limits them. Example: time_models(spec, TrialResults(), store, report)

Everything here runs in child processes: `child_try_model` for each model alone, which may raise, hang or lose its CUDA
context, and measures memory; then `child_session` for all that passed. bench/drive/speed.py calls them.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from bench.core.events import (
    BlockDone,
    Explained,
    MemoryMeasured,
    ModelTurn,
    Report,
    Stage,
    TaskFailed,
    TaskStarted,
)
from bench.core.status import one_line, status_of
from bench.machine import energy, host
from bench.measure import limits
from bench.measure.build import arrange_as_far, build_plain
from bench.measure.cost import train_flops
from bench.measure.device import (
    describe,
    fix_numerics,
    gpu_uuid,
    peak_memory_bytes,
    reserved_memory_bytes,
    reset_peak_memory,
    synchroniser,
)
from bench.measure.step import Note
from bench.measure.supervise import noticing_pauses
from bench.measure.timing import (
    KINDS,
    Rule,
    Stopwatch,
    Task,
    TaskShape,
    Timed,
    make_tasks,
    stopwatch_of,
    time_blocks,
    warnings_of,
)
from bench.plan.keys import session_key
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import SessionSpec, content_id, slug
from bench.store.disk import Store, now
from bench.store.records import Bound, Ceilings, Energy, OperatorGroups, Session, TaskName, TrialResults
from models.drop_path import set_drop_path

SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.1}
TWICE_PAIRS = 2  # samples at the batch size and at twice that, in turns
NOT_ASKED = Energy(source="", why_not="not asked for")


def build(
    spec: SessionSpec, name: str, note: Note = lambda text: None, warn: Note = lambda text: None
) -> tuple[nn.Module, list[Task]]:
    """A model on the device with its tasks.

    `note` gets the reason where its setting is not available, `warn` what else its code did.
    """
    device, setting = torch.device(spec.device), spec.setting_of(name)
    if setting.compile_mode:
        keep_compiled_code()
    torch.manual_seed(0)
    model = build_plain(name, spec.num_classes, spec.image_size, warn)
    set_drop_path(model, spec.recipe_of(name).drop_path)  # a run's record says where the model does not support it
    model = arrange_as_far(model, name, setting, spec.image_size, note).to(device)
    shape = TaskShape(spec.recipe_of(name), setting, spec.num_classes, spec.image_size, spec.batch_sizes)
    return model, make_tasks(name, model, shape, device, note)


def training_task(tasks: list[Task]) -> Task:
    """The task that trains."""
    return next(task for task in tasks if task.kind == "train")


# --- one model alone ---------------------------------------------------------------------------------------------


def child_try_model(report: Report, spec: SessionSpec, name: str, skip: set[TaskName]) -> None:
    """Run every task of one model twice, except those in `skip`, and report its peak memory.

    Inference comes before training and small batches before large ones, so that a task that does not fit in memory
    affects no other.
    """
    device = torch.device(spec.device)
    fix_numerics(spec.deterministic)
    _, tasks = build(spec, name)
    for task in sorted(tasks, key=lambda t: (t.kind == "train", t.images)):
        task_name = (name, task.kind, task.images)
        if task_name in skip:
            continue
        report(TaskStarted(*task_name))
        reset_peak_memory(device)
        try:
            task.prepare()
            for _ in range(2):
                task.call()
            synchroniser(device)()
        except Exception as error:
            report(TaskFailed(*task_name, status_of(error), one_line(error)))
            continue
        report(MemoryMeasured(*task_name, peak_memory_bytes(device), reserved_memory_bytes(device)))


# --- all of them in turns ----------------------------------------------------------------------------------------


@dataclass
class Built:
    """The models of a session with their tasks."""

    models: dict[str, nn.Module]
    tasks: list[Task]
    seconds: dict[str, float]  # of building, by model
    not_as_set: dict[str, list[str]]  # why a model does not run under its setting
    warnings: list[str]


def time_models(spec: SessionSpec, trials: TrialResults, store: Store, report: Report) -> Session:
    """One session of the models that passed their trial; writes and returns its record. Raises whatever a model raises.

    Reports whose turn it is ("" for none), so that a crash is attributed to a model only while it runs.
    """
    started, device = now(), torch.device(spec.device)
    fix_numerics(spec.deterministic)
    gpu = gpu_uuid(device)
    load, before = host.cpu_load(), energy.gpu_state(gpu)
    built = build_all(spec, trials, report)
    facts = describe(device)  # as it is when the models are timed
    with noticing_pauses(built.warnings.append):
        timed = time_blocks(
            built.tasks,
            Rule(spec.reference, spec.half_width, spec.seconds, SAMPLE_SECONDS[spec.device]),
            stopwatch_of(device, time.perf_counter),
            time.perf_counter,
            seed=0,
            on_block=lambda block, blocks: report(BlockDone(block, blocks)),
            on_task=lambda task: report(ModelTurn(task.model)),
        )
    report(ModelTurn(""))
    thorough = find_limits(spec, built, timed, report) if spec.thorough else Limits()
    after = energy.gpu_state(gpu)
    names, key = tuple(built.models), session_key(spec, facts)
    not_as_set = [f"{name}: {text}" for name, texts in built.not_as_set.items() for text in texts]
    warnings = [*warnings_of(timed, load), *thorough.warnings, *built.warnings, *not_as_set]
    session = Session(
        id=f"{slug('-'.join(names))}-{content_id([names, asdict(key), started])}",
        started=started,
        models=names,
        sources={name: source for name, source in spec.models if name in built.models},
        settings={name: spec.setting_of(name) for name in names},
        not_as_set={name: tuple(texts) for name, texts in built.not_as_set.items()},
        reference=spec.reference,
        kinds=KINDS,
        key=key,
        recipe=spec.recipe,
        recipes={name: spec.recipe_of(name) for name in names} if spec.own_recipes else {},
        num_classes=spec.num_classes,
        stopped=cast(Literal["narrow", "limit", "blocks", "alone"], timed.stopped),
        blocks=timed.blocks,
        planned_blocks=timed.planned_blocks,
        half_width=spec.half_width,
        limit_seconds=spec.seconds,
        seconds=timed.seconds,
        samples=timed.samples,
        first_calls=timed.first_calls,
        build_seconds=built.seconds,
        failures=tuple(trials.failures),
        memory=tuple(trials.memory),
        warnings=(*warnings, *energy.warnings_of_state(before, after)),
        gpu_before=before,
        gpu_after=after,
        ceilings=thorough.ceilings,
        bounds=thorough.bounds,
        energy=thorough.energy,
        groups=thorough.groups,
        environment=facts,
    )
    store.write_session(session)
    return session


def build_all(spec: SessionSpec, trials: TrialResults, report: Report) -> Built:
    """Every model that did not fail, with its tasks that did not fail."""
    built = Built({}, [], {}, {}, [])
    for name, _ in spec.models:
        if name in trials.failed_models():
            continue
        report(ModelTurn(name))
        start, notes, warnings = time.perf_counter(), list[str](), list[str]()
        built.models[name], tasks = build(spec, name, notes.append, warnings.append)
        built.seconds[name] = time.perf_counter() - start
        built.not_as_set[name] = notes
        built.warnings += [f"{name}: {text}" for text in warnings]
        built.tasks += [t for t in tasks if (t.model, t.kind, t.images) not in trials.failed_tasks()]
    return built


def child_session(report: Report, spec: SessionSpec, trials: TrialResults, root: Path) -> None:
    """One speed session, under the store's exclusive lock for timing."""
    store = Store(root.absolute())  # a model may change the directory
    with store.claim_timing():
        time_models(spec, trials, store, report)


# --- what limits them --------------------------------------------------------------------------------------------


@dataclass
class Limits:
    """What a thorough session adds to the timings."""

    ceilings: Ceilings | None = None
    bounds: dict[str, Bound] = field(default_factory=dict)
    energy: Energy = NOT_ASKED
    groups: dict[str, OperatorGroups] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def find_limits(spec: SessionSpec, built: Built, timed: Timed, report: Report) -> Limits:
    """Ceilings of the device; for each training step its bound, energy and groups of operators."""
    device, recipe = torch.device(spec.device), spec.recipe
    stopwatch = stopwatch_of(device, time.perf_counter)
    report(Stage("measuring what this device can do"))
    batches = limits.random_batches(recipe, spec.num_classes, spec.image_size, device)
    ceilings = limits.measure_ceilings(device, recipe.precision, batches, stopwatch)
    result = Limits(ceilings)
    training = [task for task in built.tasks if task.kind == "train"]
    for task in training:
        report(ModelTurn(task.model))
        report(Stage(f"what limits {task.model}"))
        result.bounds[task.model] = _bound(spec, task, timed, ceilings)
        report(ModelTurn(""))
    result.energy = _energy(device, training, report)
    # last: a profiler may leave hooks that slow a GPU's launches down
    for task in training:
        report(ModelTurn(task.model))
        report(Stage(f"where a step of {task.model} spends its time"))
        task.prepare()
        try:
            groups = limits.explain(task.call, device)
            seconds = result.bounds[task.model].step_seconds
            result.groups[task.model] = OperatorGroups(step_seconds=seconds, groups=groups)
        except Exception as error:  # a failing profiler must not lose the measurements
            result.warnings.append(
                f"{task.model}: the profiler did not say where a step spends its time: {one_line(error)}"
            )
        report(ModelTurn(""))
    return result


def _bound(spec: SessionSpec, task: Task, timed: Timed, ceilings: Ceilings) -> Bound:
    """What limits a training step, confirmed or refuted by an experiment with twice the batch."""
    one = train_flops(build_plain(task.model, spec.num_classes, spec.image_size), spec.image_size)
    setting, twin = spec.setting_of(task.model), task
    if setting.compile_mode or setting.graphed:  # their operators cannot be counted: count an eager copy's
        eager = replace(setting, compile_mode="", graphed=False)
        _, twins = build(replace(spec, setting=eager, own_settings=(), batch_sizes=(1,)), task.model)
        twin = training_task(twins)
    twin.prepare()
    work = limits.count_work(twin.call, None if one is None else one * task.images)
    seconds = statistics.median(
        s.seconds_per_call for s in timed.samples if s.model == task.model and s.kind == "train"
    )
    limit = limits.bound(work, ceilings, task.images, seconds)
    twice = _twice_the_batch(spec, task)
    return Bound(
        name=cast(Literal["launch", "bandwidth", "compute", "loader"], limit.name),
        share=limit.share,
        shares=limit.shares,
        flops_per_second=limit.flops_per_second,
        operators=work.operators,
        bytes=work.bytes,
        flops_2x=work.flops_2x,
        step_seconds=seconds,
        twice_the_batch=twice,
        experiment=limits.confirmed(limit.name, twice),
    )


def _twice_the_batch(spec: SessionSpec, task: Task) -> float | None:
    """Ratio of images/s at twice the batch to the original, timed in turns; None where twice does not fit."""
    stopwatch = stopwatch_of(torch.device(spec.device), time.perf_counter)
    recipe = replace(spec.recipe_of(task.model), batch_size=2 * task.images)
    double = replace(spec, recipe=recipe, own_recipes=(), batch_sizes=(1,))
    not_as_set: list[str] = []
    try:
        _, tasks = build(double, task.model, not_as_set.append)
        ratios = _ratios(task, training_task(tasks), stopwatch)
        return None if not_as_set else statistics.median(ratios)
    except (RuntimeError, MemoryError):  # out of memory, however it is reported: no experiment
        return None


def _ratios(once: Task, twice: Task, stopwatch: Stopwatch) -> list[float]:
    for task in (once, twice):
        task.prepare()
        stopwatch(task.call, 1)
    ratios = []
    for _ in range(TWICE_PAIRS):
        once.prepare()
        seconds = stopwatch(once.call, 1)
        twice.prepare()
        ratios.append(2 * seconds / stopwatch(twice.call, 1))
    return ratios


def _energy(device: torch.device, training: list[Task], report: Report) -> Energy:
    """Joules per 1,000 training images of each model, or the reason why there are none."""
    meter = energy.find_meter(gpu_uuid(device))
    if meter.joules is None:
        return Energy(source=meter.source, why_not=meter.why_not)
    joules = {}
    for task in training:
        report(ModelTurn(task.model))
        report(Stage(f"energy of {task.model}"))
        task.prepare()
        sync = synchroniser(device)
        joules[task.model] = 1000 * energy.joules_per_image(meter, task.call, task.images, sync, time.perf_counter)
        report(ModelTurn(""))
    return Energy(source=meter.source, why_not="", joules_per_1000_images=joules)


def child_explain(report: Report, spec: SessionSpec, name: str) -> None:
    """Report the seconds of a training step by group of operators, for `time --explain`."""
    device = torch.device(spec.device)
    fix_numerics(spec.deterministic)
    _, tasks = build(spec, name)
    task = training_task(tasks)
    task.prepare()
    task.call()
    stopwatch = stopwatch_of(device, time.perf_counter)
    step = min(stopwatch(task.call, 1) for _ in range(3))
    report(Explained(step, limits.explain(task.call, device)))
