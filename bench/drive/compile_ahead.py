"""Compile a sweep's models side by side before they train. Example: compile_ahead(specs, context)

Runs train one after another, and each model's first run would compile it while the other cores idle. Here a child per
model does so beside the others, into the cache that the runs read. bench/measure/compile_ahead.py is the child's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.core.events import Compiled
from bench.core.text import duration, plural
from bench.drive.board import TICKETS, WAIT_SECONDS
from bench.drive.context import SweepContext, surroundings
from bench.executors.child import GRACE_SECONDS
from bench.executors.protocol import Answer, Device, Executor, Task
from bench.machine.environment import cores_given, package_version
from bench.machine.identity import training_code
from bench.plan.settings import compiled_dir
from bench.plan.spec import RunSpec, content_id

CORES_EACH = 2  # torch compiles one model in several processes: beside it, another needs further cores (LOG.md)
TIMEOUT = 900.0  # for one model; one that takes longer is left to its run
Job = tuple[Task, Device]


def compile_ahead(specs: Sequence[RunSpec], context: SweepContext, cores: int | None = None) -> None:
    """Compile what these runs will compile, as far as this machine has not done so before; a line for each model.

    Only where that saves time: on this machine, and where several steps can be compiled at once, or several runs of one
    model would compile it at once. What fails is left to the run, which says so and goes on without. `cores`: given to
    this process.
    """
    devices = context.executor.devices()
    each = {step_id(spec, devices[0]): spec for spec in specs if spec.setting.compile_mode}
    todo = {name: spec for name, spec in each.items() if not _marker(name).exists()}
    cores = cores or cores_given()
    at_once = max(1, min(len(todo), cores // CORES_EACH))
    if context.executor.remote or not todo or (at_once < 2 and context.seats < 2):
        return
    what, begin = plural(len(todo), "model"), time.monotonic()
    context.display.line(f"compiling {what}, {at_once} at once, before the first run")

    def ended(task: Task, answer: Answer, seconds: float) -> None:
        outcome, compiled = answer.outcome, answer.event(Compiled)
        model = todo[task.name].model
        if outcome.status == "ok" and compiled is not None:
            _marker(task.name).touch()
            known = " from the cache" if compiled.from_cache else ""
            context.display.line(f"  {model}: compiled{known} in {duration(seconds)}")
        else:
            context.display.line(f"  {model}: {outcome.status}: {outcome.message}; left to its run")

    threads = max(1, cores // at_once)
    jobs = [
        (task_of(name, spec, devices[n % len(devices)], threads, context), devices[n % len(devices)])
        for n, (name, spec) in enumerate(todo.items())
    ]
    with context.display:
        side_by_side(jobs, at_once, context.executor, ended)
    context.display.line(f"compiled in {duration(time.monotonic() - begin)}; the runs take it from the cache")


def step_id(spec: RunSpec, device: Device) -> str:
    """The same for runs whose training steps share their compiled code: seed, length and optimizer are not compiled."""
    recipe = spec.recipe
    shape = (spec.data.num_classes, spec.data.image_size, recipe.batch_size, recipe.precision)
    loss = (recipe.label_smoothing, recipe.drop_path, bool(recipe.mixup or recipe.cutmix))
    setting = replace(spec.setting, name="", graphed=False)  # captured or not, the code is the same
    where = (device.kind, device.threads, device.runs_at_once, package_version("torch"), training_code())
    parts = (spec.model, spec.model_source, str(setting), spec.deterministic, *shape, *loss, *where)
    return content_id([str(part) for part in parts])


def task_of(name: str, spec: RunSpec, device: Device, threads: int, context: SweepContext) -> Task:
    """The compilation in the surroundings that the run will have: code for a CPU is made for its number of threads."""
    _, variables = surroundings(device, False, spec.deterministic)
    function, args = "bench.measure.compile_ahead:child_compile", (spec, threads)
    return context.task(name, function, args, timeout=TIMEOUT, grace=0.0, environment=tuple(variables.items()))


def side_by_side(
    jobs: Sequence[Job], at_once: int, executor: Executor, ended: Callable[[Task, Answer, float], None]
) -> None:
    """Carry out all, so many at once; `ended` gets each task with its answer and seconds.

    An interruption stops them and is raised again.
    """
    waiting, running = list(jobs), dict[int, tuple[Task, float]]()

    def listen() -> None:
        for ticket, message in executor.events(WAIT_SECONDS):
            if isinstance(message, Answer) and ticket in running:
                task, start = running.pop(ticket)
                ended(task, message, time.monotonic() - start)

    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                (task, device), ticket = waiting.pop(0), next(TICKETS)
                running[ticket] = task, time.monotonic()
                executor.start([(ticket, task, device)])
            listen()
    except BaseException:
        executor.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while running and time.monotonic() < deadline:
            listen()
        raise


def _marker(name: str) -> Path:
    """Of a step whose code is in the cache: it lies there, and goes with it."""
    folder = compiled_dir() / "steps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
