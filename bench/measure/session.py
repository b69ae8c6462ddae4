"""One speed session: models in turns, and what limits them. Example: time_models(spec, TrialResults(), store, report)

Everything here runs in child processes: `child_try_model` for each model alone, which may raise, hang or lose its CUDA
context, and measures memory; then `child_session`, once for each process start, for all that passed.
bench/drive/speed.py calls them. The limit bounds all of it: bench/plan/session_plan.py says what fits.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Literal, cast

import torch
from msgspec.structs import replace
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
from bench.core.stats import PILOT
from bench.core.status import one_line, status_of
from bench.core.text import duration, plural
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
from bench.measure.switches import Switches
from bench.measure.timing import (
    KINDS,
    Ready,
    Rule,
    Stopwatch,
    Task,
    TaskShape,
    Timed,
    make_ready,
    make_tasks,
    stopwatch_of,
    time_blocks,
    warnings_of,
)
from bench.plan.keys import Facts, session_key
from bench.plan.session_plan import (
    EXTRAS,
    FEWEST_BLOCKS,
    Called,
    Costs,
    guess,
    plan_rest,
    starts_to_choose,
    task_seconds,
)
from bench.plan.settings import keep_compiled_code
from bench.plan.spec import SessionSpec, content_id, slug
from bench.store.disk import Store, now
from bench.store.records import (
    Bound,
    Ceilings,
    Energy,
    OperatorGroups,
    Sample,
    Session,
    TaskName,
    TimingFailure,
    TrialResults,
)
from models.drop_path import set_drop_path

SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.1}
# Rough seconds of what is planned before it was ever measured; bench/plan/session_plan.py decides by them what fits.
START_SECONDS = 2.0  # of a process with torch, until it builds the first model
CEILING_SECONDS = {"cpu": 6.0, "cuda": 4.0}
PROFILER_SECONDS = 1.0  # its own, a model; under it a step takes about twice its time
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
    shape = TaskShape(
        spec.recipe_of(name), setting, spec.num_classes, spec.image_size, spec.batch_sizes, spec.train_batch_sizes
    )
    return model, make_tasks(name, model, shape, device, note)


def training_task(tasks: list[Task]) -> Task:
    """The task that trains."""
    return next(task for task in tasks if task.kind == "train")


# --- one model alone ---------------------------------------------------------------------------------------------


def child_try_model(report: Report, spec: SessionSpec, name: str, skip: set[TaskName], seconds: float) -> None:
    """Run the tasks of one model, except those in `skip`, for about so many seconds, and report its peak memory.

    Inference comes before training and small batches before large ones, so that a task that does not fit in memory
    affects no other. A task that would probably end too late is not tried, nor are those after it; the first one is.
    """
    device = torch.device(spec.device)
    end = time.perf_counter() + seconds
    fix_numerics(spec.deterministic)
    _, tasks = build(spec, name)
    last: tuple[int, float] | None = None  # images of the task before, and the seconds that it took
    for task in sorted(tasks, key=lambda t: (t.kind == "train", t.images)):
        task_name = (name, task.kind, task.images)
        if task_name in skip:
            continue
        start = time.perf_counter()
        if last is not None and start + last[1] * _more_work(last[0], task) > end:
            return
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
        last = (task.images, time.perf_counter() - start)
        report(MemoryMeasured(*task_name, peak_memory_bytes(device), reserved_memory_bytes(device)))


def _more_work(images: int, task: Task) -> float:
    """How much longer a task may take than inference of `images`."""
    return max(1.0, task.images / images) * (3 if task.kind == "train" else 1)


# --- all of them in turns ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """One process start of a session: the seconds left to it and those after it, and the record of those before."""

    seconds: float
    so_far: Session | None = None

    @property
    def index(self) -> int:
        """Which one, from 0."""
        return self.so_far.starts if self.so_far else 0


@dataclass
class Built:
    """The models of a session with their tasks."""

    models: dict[str, nn.Module]
    tasks: list[Task]
    seconds: dict[str, float]  # of building, by model
    not_as_set: dict[str, list[str]]  # why a model does not run under its setting
    warnings: list[str]


@dataclass
class Pace:
    """The clock of a process start: how samples are timed, when it must end, and what had no room before that."""

    device: torch.device
    end: float
    report: Report
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: list[TimingFailure] = field(default_factory=list)
    switches: Switches | None = None  # under which each turn begins
    _model: str = ""  # whose turn it is

    def __post_init__(self) -> None:
        self.stopwatch = stopwatch_of(self.device, time.perf_counter)
        self.sample_seconds = SAMPLE_SECONDS[self.device.type]

    @property
    def left(self) -> float:
        """Seconds of the limit that are left."""
        return self.end - time.perf_counter()

    def turn(self, task: Task) -> None:
        """Report whose turn it is."""
        self._settle()
        self._model = task.model
        self.report(ModelTurn(task.model, task.kind, task.images, max(0.0, self.left)))

    def rest(self) -> None:
        """Report that it is nobody's turn."""
        self._settle()
        self.report(ModelTurn(""))

    def _settle(self) -> None:
        """Put back what the last model's code has changed in its turn: the next one must not run under it."""
        if self.switches and (changed := self.switches.put_back()):
            self.warnings.append(
                f"{self._model}: its code changes switches of the whole process as it runs; after its turns they were "
                f"put back: {', '.join(changed)}"
            )

    def stage(self, text: str) -> None:
        """Report what is done now."""
        self.report(Stage(f"{text}, {duration(max(0.0, self.left))} left"))

    def each(self, tasks: Sequence[Task], doing: str) -> Iterator[Task]:
        """The tasks, each reported while it has its turn; `doing` has a place for its model."""
        for task in tasks:
            self.turn(task)
            self.stage(doing.format(task.model))
            yield task
            self.rest()


def time_models(
    spec: SessionSpec, trials: TrialResults, store: Store, report: Report, start: Start | None = None
) -> Session:
    """One process start of a session, by default its first, of the models that passed their trial.

    Writes and returns the session's record as far as it is; its `planned_starts` says how many there are to be. Raises
    whatever a model raises. Reports whose turn it is ("" for none), so that a crash is attributed to a model only while
    it runs.
    """
    start, device = start or Start(spec.seconds), torch.device(spec.device)
    pace = Pace(device, time.perf_counter() + start.seconds, report)
    fix_numerics(spec.deterministic)
    gpu = gpu_uuid(device)
    load, before = host.cpu_load(), energy.gpu_state(gpu)
    built = build_all(spec, trials, pace, start.index)
    pace.switches = Switches.now()
    session = start.so_far or _empty(spec, built, trials, describe(device))
    ready = make_all_ready(spec, built.tasks, session, pace)
    spent = start.seconds - pace.left + START_SECONDS
    extras = _extras(spec, ready) if spec.thorough else {}
    costs = Costs(spent, sum(one.seconds for one in ready), extras)
    choices = (max(1, session.planned_starts - start.index),) if start.index else starts_to_choose(_asked(spec, ready))
    plan = plan_rest(pace.left, costs, choices, math.ceil(PILOT / choices[0]))
    planned = start.index + plan.starts
    blocks = math.ceil((session.planned_blocks or 0) / planned) if start.index else None
    rule = Rule(spec.reference, spec.half_width, plan.block_seconds, pace.sample_seconds, planned, blocks)

    def on_block(block: int, blocks: int) -> None:
        report(BlockDone(block, blocks, start.index + 1, planned, max(0.0, pace.left)))

    with noticing_pauses(pace.warnings.append):
        timed = time_blocks(ready, rule, pace.stopwatch, time.perf_counter, start.index, on_block, pace.turn)
    pace.rest()
    if not start.index and planned < _asked(spec, ready):
        pace.left_out.append(f"{plural(_asked(spec, ready) - planned, 'further process start')}")
    session = _extended(session, timed, planned)
    if plan.starts == 1 and spec.thorough:
        session = with_limits(session, spec, ready, pace)
    after = energy.gpu_state(gpu)
    not_as_set = [f"{name}: {text}" for name, texts in built.not_as_set.items() for text in texts]
    warnings = [
        *warnings_of(timed, load),
        *pace.warnings,
        *built.warnings,
        *not_as_set,
        *energy.warnings_of_state(before, after),
    ]
    session = replace(
        session,
        left_out=(*session.left_out, *pace.left_out),
        failures=(*session.failures, *pace.failures),
        warnings=tuple(dict.fromkeys([*session.warnings, *warnings])),
        gpu_before=session.gpu_before or before,
        gpu_after=after,
    )
    store.write_session(session)
    return session


def _asked(spec: SessionSpec, ready: Sequence[Ready]) -> int:
    """The process starts that a session would have without a limit: one model has no ratio to be sure of."""
    return spec.starts if len({one.task.model for one in ready}) > 1 else 1


def _empty(spec: SessionSpec, built: Built, trials: TrialResults, facts: Facts) -> Session:
    """The record of a session before its first block."""
    names, key, started = (
        tuple(name for name, _ in spec.models if name in built.models),
        session_key(spec, facts),
        now(),
    )
    return Session(
        id=f"{slug('-'.join(names))}-{content_id([names, asdict(key), started])}",
        started=started,
        models=names,
        sources={name: source for name, source in spec.models if name in built.models},
        settings={name: spec.setting_of(name) for name in names},
        not_as_set={name: tuple(built.not_as_set[name]) for name in names},
        reference=spec.reference,
        kinds=KINDS,
        key=key,
        recipe=spec.recipe,
        recipes={name: spec.recipe_of(name) for name in names} if spec.own_recipes else {},
        num_classes=spec.num_classes,
        stopped="limit",
        blocks=0,
        starts=0,
        half_width=spec.half_width,
        limit_seconds=spec.seconds,
        seconds=0.0,
        samples=(),
        first_calls=(),
        build_seconds=built.seconds,
        failures=tuple(trials.failures),
        memory=tuple(trials.memory),
        warnings=(),
        ceilings=None,
        bounds={},
        energy=NOT_ASKED,
        environment=dict(facts),
    )


def _extended(session: Session, timed: Timed, planned: int) -> Session:
    """The record with one more process start, of so many planned."""
    first, index = session.starts == 0, session.starts
    cut = timed.stopped == "limit" or (session.stopped == "limit" and not first)
    return replace(
        session,
        stopped="limit" if cut else cast(Literal["narrow", "blocks", "alone"], timed.stopped),
        starts=index + 1,
        planned_starts=planned,
        planned_blocks=timed.planned_blocks * planned if first else session.planned_blocks,
        samples=(*session.samples, *(replace(s, start=index, block=s.block + session.blocks) for s in timed.samples)),
        blocks=session.blocks + timed.blocks,
        seconds=(session.seconds or 0.0) + timed.seconds,
        first_calls=(*session.first_calls, *(replace(s, start=index) for s in timed.first_calls)),
    )


def build_all(spec: SessionSpec, trials: TrialResults, pace: Pace, index: int) -> Built:
    """Every model that did not fail, with its tasks that did not fail, each process start beginning with another."""
    built = Built({}, [], {}, {}, [])
    names = [name for name, _ in spec.models if name not in trials.failed_models()]
    first = index % len(names)
    for name in names[first:] + names[:first]:
        pace.report(ModelTurn(name, seconds_left=max(0.0, pace.left)))
        start, notes, warnings = time.perf_counter(), list[str](), list[str]()
        built.models[name], tasks = build(spec, name, notes.append, warnings.append)
        built.seconds[name] = time.perf_counter() - start
        built.not_as_set[name] = notes
        built.warnings += [f"{name}: {text}" for text in warnings]
        built.tasks += [t for t in tasks if (t.model, t.kind, t.images) not in trials.failed_tasks()]
    return built


def make_all_ready(spec: SessionSpec, tasks: Sequence[Task], session: Session, pace: Pace) -> list[Ready]:
    """Call every task first; in a session's first process start, leave out those that the limit has no room for.

    Training at the recipe's batch size always has its turn; the others follow from small to large batches, each for all
    models or for none. A task that runs out of memory beside the other models is a row.
    """
    if session.starts:
        samples = {(s.model, s.kind, s.batch_size): s for s in session.samples}
        known = [(task, samples.get((task.model, task.kind, task.images))) for task in tasks]
        return [one for task, sample in known if sample and (one := _ready(task, pace, sample))]
    ready: list[Ready] = []
    batch = spec.recipe.batch_size
    ranks = {(t.kind, t.images): (t.kind == "train", t.images != batch, t.images) for t in tasks}
    for kind, images in sorted(ranks, key=lambda k: (k != ("train", batch), *ranks[k])):
        group = [task for task in tasks if (task.kind, task.images) == (kind, images)]
        if (kind, images) != ("train", batch):
            guesses = [guess(_called(ready, task.model) or _called(ready), kind, images) for task in group]
            needed = sum(task_seconds(one, pace.sample_seconds) for one in guesses)
            if needed > pace.left - FEWEST_BLOCKS * sum(one.seconds for one in ready):
                pace.left_out.append(f"{kind} at batch {images}")
                continue
        ready += [one for task in group if (one := _ready(task, pace))]
    return ready


def _called(ready: Sequence[Ready], model: str = "") -> list[Called]:
    """What is known of a model's tasks, or of all."""
    mine = (one for one in ready if model in ("", one.task.model))
    return [Called(one.task.kind, one.task.images, one.first.seconds, one.seconds / one.calls) for one in mine]


def _ready(task: Task, pace: Pace, like: Sample | None = None) -> Ready | None:
    """None where there is no memory for the task beside the other models, which is a row."""
    pace.turn(task)
    try:
        return make_ready(task, pace.sample_seconds, pace.stopwatch, like)
    except Exception as error:
        if status_of(error) != "oom":
            raise
        pace.failures.append(
            TimingFailure(
                model=task.model, kind=task.kind, batch_size=task.images, status="oom", message=one_line(error)
            )
        )
        return None


def child_session(
    report: Report, spec: SessionSpec, trials: TrialResults, root: Path, seconds: float, so_far: Session | None
) -> None:
    """One process start of a speed session, under the store's exclusive lock for timing.

    `seconds`: left when it was called, before this process began.
    """
    store = Store(root.absolute())  # a model may change the directory
    with store.claim_timing():
        time_models(spec, trials, store, report, Start(seconds - START_SECONDS, so_far))


# --- what limits them --------------------------------------------------------------------------------------------


def _extras(spec: SessionSpec, ready: Sequence[Ready]) -> dict[str, float]:
    """About how many seconds each of EXTRAS takes, from what the first calls took."""
    steps = [one.seconds / one.calls for one in ready if _is_step(spec, one.task)]
    total, models = sum(steps), len(steps)
    metered = energy.find_meter(gpu_uuid(torch.device(spec.device))).joules is not None
    return {
        "limits": CEILING_SECONDS[spec.device] + 3 * total,
        "twice": (3 + 3 * (TWICE_PAIRS + 1)) * total,
        **({"energy": models * energy.WINDOW_SECONDS + total} if metered else {}),
        "groups": models * PROFILER_SECONDS + 8 * total,
    }


def _is_step(spec: SessionSpec, task: Task) -> bool:
    """Whether it trains at the recipe's batch size."""
    return task.kind == "train" and task.images == spec.recipe.batch_size


def with_limits(session: Session, spec: SessionSpec, ready: Sequence[Ready], pace: Pace) -> Session:
    """Ceilings of the device; for each training step its bound, energy and groups of operators, as far as they fit.

    In the order of EXTRAS. Each is begun where there is time for it and for all before it; the profiler is last, as it
    may leave hooks that slow a GPU's launches down.
    """
    training = [one.task for one in ready if _is_step(spec, one.task)]
    parts: dict[str, Callable[[Session], Session]] = {
        "limits": lambda so_far: _with_bounds(so_far, spec, training, pace),
        "twice": lambda so_far: _with_twice(so_far, spec, training, pace),
        "energy": lambda so_far: _with_energy(so_far, training, pace),
        "groups": lambda so_far: _with_groups(so_far, training, pace),
    }
    needed = _extras(spec, ready)
    for index, name in enumerate(EXTRAS):
        if needed.get(name, 0.0) > pace.left:
            pace.left_out += list(EXTRAS.values())[index:]
            break
        session = parts[name](session)
    return session


def _with_bounds(session: Session, spec: SessionSpec, training: Sequence[Task], pace: Pace) -> Session:
    recipe = spec.recipe
    pace.stage("measuring what this device can do")
    batches = limits.random_batches(recipe, spec.num_classes, spec.image_size, pace.device)
    ceilings = limits.measure_ceilings(pace.device, recipe.precision, batches, pace.stopwatch)
    bounds = {}
    for task in pace.each(training, "what limits {}"):
        bounds[task.model] = _bound(spec, task, session, ceilings)
    return replace(session, ceilings=ceilings, bounds=bounds)


def _with_twice(session: Session, spec: SessionSpec, training: Sequence[Task], pace: Pace) -> Session:
    """Each bound confirmed or refuted by an experiment with twice the batch."""
    bounds = dict(session.bounds)
    for task in pace.each(training, "{} at twice the batch"):
        twice, bound = _twice_the_batch(spec, task), bounds[task.model]
        bounds[task.model] = replace(bound, twice_the_batch=twice, experiment=limits.confirmed(bound.name, twice))
    return replace(session, bounds=bounds)


def _with_energy(session: Session, training: Sequence[Task], pace: Pace) -> Session:
    """Joules per 1,000 training images of each model, or the reason why there are none."""
    meter = energy.find_meter(gpu_uuid(pace.device))
    if meter.joules is None:
        return replace(session, energy=Energy(source=meter.source, why_not=meter.why_not))
    joules, sync = {}, synchroniser(pace.device)
    for task in pace.each(training, "energy of {}"):
        task.prepare()
        joules[task.model] = 1000 * energy.joules_per_image(meter, task.call, task.images, sync, time.perf_counter)
    return replace(session, energy=Energy(source=meter.source, why_not="", joules_per_1000_images=joules))


def _with_groups(session: Session, training: Sequence[Task], pace: Pace) -> Session:
    """Where each step spends its time; a failing profiler must not lose the measurements."""
    found = {}
    for task in pace.each(training, "where a step of {} spends its time"):
        task.prepare()
        try:
            groups = limits.explain(task.call, pace.device)
            seconds = session.bounds[task.model].step_seconds
            found[task.model] = OperatorGroups(step_seconds=seconds, groups=groups)
        except Exception as error:
            pace.warnings.append(
                f"{task.model}: the profiler did not say where a step spends its time: {one_line(error)}"
            )
    return replace(session, groups=found)


def _bound(spec: SessionSpec, task: Task, session: Session, ceilings: Ceilings) -> Bound:
    """What limits a training step."""
    one = train_flops(build_plain(task.model, spec.num_classes, spec.image_size), spec.image_size)
    setting, twin = spec.setting_of(task.model), task
    if setting.compile_mode or setting.graphed:  # their operators cannot be counted: count an eager copy's
        eager = replaced(setting, compile_mode="", graphed=False)
        plain = replaced(spec, setting=eager, own_settings=(), batch_sizes=(1,), train_batch_sizes=())
        _, twins = build(plain, task.model)
        twin = training_task(twins)
    twin.prepare()
    work = limits.count_work(twin.call, None if one is None else one * task.images)
    seconds = statistics.median(session.seconds_per_call(task.model, "train"))
    limit = limits.bound(work, ceilings, task.images, seconds)
    return Bound(
        name=cast(Literal["launch", "bandwidth", "compute", "loader"], limit.name),
        share=limit.share,
        shares=limit.shares,
        flops_per_second=limit.flops_per_second,
        operators=work.operators,
        bytes=work.bytes,
        flops_2x=work.flops_2x,
        step_seconds=seconds,
        twice_the_batch=None,
        experiment=limits.confirmed(limit.name, None),
    )


def _twice_the_batch(spec: SessionSpec, task: Task) -> float | None:
    """Ratio of images/s at twice the batch to the original, timed in turns; None where twice does not fit."""
    stopwatch = stopwatch_of(torch.device(spec.device), time.perf_counter)
    recipe = replaced(spec.recipe_of(task.model), batch_size=2 * task.images)
    double = replaced(spec, recipe=recipe, own_recipes=(), batch_sizes=(1,), train_batch_sizes=())
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
