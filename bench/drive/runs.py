"""The runs of a sweep, carried out by an engine. Example: failures, placed = train_all(todo, plan, home, engine, …)

What a run is, as a task; what its answer means for the store. Whoever has a run already, here or in another process,
keeps it. Several at once on a device are for accuracy alone: what they measure of the device means nothing, and their
records say so.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.data.datasets import Dataset, DataSource
from bench.drive.board import ELSEWHERE, RETRIES, Board, Work
from bench.drive.forecast import Size
from bench.executors.child import Outcome, call
from bench.executors.protocol import Answer, Device, Engine, Task, reference
from bench.machine.identity import Identity
from bench.measure.run import child_costs, child_run, failure_record, known_seconds, save_traceback, training_images
from bench.plan.recipes import length
from bench.plan.spec import ALONE, Company, RunSpec
from bench.present.screen.progress import Display, Events
from bench.store.disk import Store, shared_device
from bench.store.records import Record

# Between two rebuilds of the CSV files: at least so long, and at least so many times the last one's duration.
REFRESH_SECONDS, REFRESH_PAUSE = 60.0, 100.0


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset


@dataclass(frozen=True)
class Manner:
    """How a sweep's runs are to be run: seconds for each, whether what is done is repeated.

    `target`: the validation accuracy whose time is asked for. `retries`: of a run whose machine was lost. `function`:
    what is called for a run, with the arguments of runner.child_run.
    """

    timeout: float | None = None
    again: bool = False
    target: float | None = None
    retries: int = RETRIES
    function: str = reference(child_run)


@dataclass(frozen=True)
class Home:
    """Where a sweep's results go, and what other machines must know of the driver's; `expected` is None for none."""

    store: Store
    expected: Identity | None = None
    mark: str = ""

    def task(self, name: str, function: str, args: tuple[Any, ...], **more: Any) -> Task:
        """A Task of this sweep."""
        return Task(
            name,
            function,
            args,
            root=self.store.root,
            mark=self.mark,
            home=platform.node(),
            folder=None if self.expected is None else Path.cwd(),
            expected=self.expected,
            **more,
        )


class Views:
    """Keeps the CSV files fresh during a sweep at a cost that grows with its length, not with its square.

    A rebuild takes longer the more runs there are; the pause after it is a hundred times as long.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._next = now() + REFRESH_SECONDS

    def rebuild(self) -> None:
        """Now."""
        start = self._now()
        self._store.rebuild_views()
        end = self._now()
        self._next = end + max(REFRESH_SECONDS, REFRESH_PAUSE * (end - start))

    def rebuild_if_due(self) -> None:
        """Where the pause is over."""
        if self._now() >= self._next:
            self.rebuild()


def train_all(
    plans: list[Plan], todo: set[str], home: Home, engine: Engine, display: Display, views: Views, manner: Manner
) -> tuple[int, dict[str, RunSpec]]:
    """Every run of the plans whose name is in `todo` once, here or in another process that has it already.

    Returns how many did not end well, and by the names that were asked for the runs that are now in the store: they are
    of the devices that took them.
    """
    store, board = home.store, Board(engine, display, manner.retries)
    every = [spec for plan in plans for spec in plan.specs]
    numbers = {spec.run_id: number for number, spec in enumerate(every, 1)}
    asked = {spec.run_id: (spec, plan) for plan in plans for spec in plan.specs if spec.run_id in todo}
    before = {name: store.record(spec) for name, (spec, _) in asked.items()}
    sizes = sizes_of(list(asked.values()), store) if seats(engine) > 1 else {}
    named = titles(every)
    placed: dict[str, RunSpec] = {}
    failures = 0

    def settle(work: Work, device: Device, answer: Answer, bar: Events) -> None:
        nonlocal failures
        asked_for = asked[work.name][0]
        store.adopt(answer.files, manner.again)
        spec = as_placed(asked_for, device, answer)
        well = settle_run(spec, before[work.name], work.started, answer, store, manner.again, bar)
        if well:
            placed[work.name] = spec
            if spec.run_id != work.name:
                store.forget_failure(asked_for)
        failures += not well

    def make(spec: RunSpec, plan: Plan) -> Work:
        return Work(
            name=spec.run_id,
            title=f"{named[spec.run_id]} ({numbers[spec.run_id]} of {len(every)})",
            short=named[spec.run_id],
            batch_size=spec.recipe.batch_size,
            task=lambda device, alone: task_of(spec, plan.source, device, alone, home, manner),
            before=lambda: taken_meanwhile(spec, before[spec.run_id], store),
            size=sizes.get(group_of(spec), Size(group_of(spec))),
        )

    for spec, plan in asked.values():
        board.add(make(spec, plan))
    board.run(settle, views.rebuild_if_due)
    return failures, placed


def seats(engine: Engine) -> int:
    """How many runs may train at once."""
    return sum(device.seats for device in engine.devices())


def group_of(spec: RunSpec) -> str:
    """The same for runs that take equally long: they differ in the seed."""
    return replace(spec, seed=0).run_id


def titles(every: list[RunSpec]) -> dict[str, str]:
    """Each run among others: model and seed, and of data, recipe and share of the images what differs between them."""
    several_data = len({spec.data.name for spec in every}) > 1
    several_shares = len({spec.data.train_fraction for spec in every}) > 1
    recipes = defaultdict[str, set[str]](set)
    for spec in every:
        recipes[spec.model].add(spec.recipe.name)
    found = {}
    for spec in every:
        parts = [
            spec.model,
            f"on {spec.data.name}" if several_data else "",
            f"recipe {spec.recipe.name}" if len(recipes[spec.model]) > 1 else "",
            f"{100 * spec.data.train_fraction:g} % of the images" if several_shares else "",
            f"seed {spec.seed}",
        ]
        found[spec.run_id] = ", ".join(filter(None, parts))
    return found


def sizes_of(todo: list[tuple[RunSpec, Plan]], store: Store) -> dict[str, Size]:
    """How much the runs are, by group: FLOPs of a training step times images; seconds, where earlier runs tell.

    A model that cannot be counted has no FLOPs, and comes last.
    """
    groups = {group_of(spec): (spec, len(plan.dataset.train_index)) for spec, plan in todo}
    flops: dict[tuple[str, int, int], float] = {}

    def hear(event: dict[str, Any]) -> None:
        flops[event["model"], event["num_classes"], event["image_size"]] = event["train_flops"]

    one_each = {_shape(spec): spec for spec, _ in groups.values()}
    call(child_costs, (list(one_each.values()),), hear, grace=0)
    known, sizes = store.runs(), {}
    for group, (spec, train_images) in groups.items():
        images, budget = training_images(spec, train_images), length(spec.recipe)
        amount = flops[_shape(spec)] * images if images and _shape(spec) in flops else None
        amount = budget.amount if budget.kind == "flops" else amount
        sizes[group] = Size(group, amount, known_seconds(spec, train_images, known)[0])
    return sizes


def _shape(spec: RunSpec) -> tuple[str, int, int]:
    return spec.model, spec.data.num_classes, spec.data.image_size


# --- a run as a task -------------------------------------------------------------------------------------------------


def task_of(spec: RunSpec, source: DataSource, device: Device, alone: bool, home: Home, manner: Manner) -> Task:
    """A run for a device, in the company that it will have there."""
    company, surroundings = circumstances(device, alone, spec.deterministic)
    here = replace(spec, device_name=device.kind or spec.device_name)
    words = (here, source, home.store.root, manner.again, company, manner.target)
    return home.task(
        spec.run_id,
        manner.function,
        words,
        share=1.0 if alone else 1.0 / device.beside,
        timeout=manner.timeout,
        environment=tuple(surroundings.items()),
    )


def circumstances(device: Device, alone: bool, deterministic: bool) -> tuple[Company, dict[str, str]]:
    """In which company a run trains on a device, and the variables of its process.

    Several on a CPU: each gets its share of the threads, but under --deterministic, where sums must be taken in the
    same order as alone; threads that wait sleep instead of spinning, which halved the speed here (LOG.md, 2026-11-22).
    """
    several = device.beside > 1 and not alone
    if device.type == "cuda":
        return (Company(device.beside) if several else ALONE), {}
    if not several:
        return ALONE, {"OMP_NUM_THREADS": str(device.threads)}
    mine = device.threads if deterministic else max(1, device.threads // device.beside)
    return Company(device.beside, device.threads), {"OMP_NUM_THREADS": str(mine), "OMP_WAIT_POLICY": "PASSIVE"}


def taken_meanwhile(spec: RunSpec, before: Record | None, store: Store) -> Outcome | None:
    """Why a run need not be begun: somebody is at it, or has ended it since the sweep began; else None."""
    if owner := store.owner(spec.run_id):
        return Outcome("busy", owner)
    record = store.record(spec)
    if record is None or record == before or record["status"] in ("killed", "interrupted"):
        return None
    return Outcome(record["status"])


# --- an answer -------------------------------------------------------------------------------------------------------


def as_placed(spec: RunSpec, device: Device, answer: Answer) -> RunSpec:
    """The run as that of the device that took it: the run itself says which one that was."""
    said = answer.event("placed")
    return replace(spec, device_name=said["device_name"] if said else device.kind or spec.device_name)


def settle_run(
    spec: RunSpec, before: Record | None, started: str, answer: Answer, store: Store, again: bool, bar: Events
) -> bool:
    """Say how a run ended, and make a failure a record. Returns whether it ended well."""
    outcome, record = answer.outcome, store.record(spec)
    if outcome.status == "ok" and (record is None or record["status"] != "ok" or (again and record == before)):
        outcome = Outcome("failed", "its process ended early and left no record")  # a model that calls sys.exit
    if answer.where == ELSEWHERE:
        bar.ended(outcome.status == "ok", f"{outcome.status}: done meanwhile by {ELSEWHERE}")
        return outcome.status == "ok"
    if outcome.status == "ok":
        assert record is not None
        (store.run_dir(spec) / "traceback.txt").unlink(missing_ok=True)  # of an earlier attempt
        bar.ended(True, result_line(record))
        return True
    where = ""
    if outcome.traceback:
        where = f" (traceback: {save_traceback(store.run_dir(spec), outcome.traceback)})"
    store.write_failure(spec, failure_record(spec, outcome.status, outcome.message, started))
    bar.ended(False, f"{outcome.status}: {outcome.message}{where}")
    return False


def result_line(record: Record) -> str:
    """What a finished run found, for the screen."""
    metrics = record["metrics"]
    found = f"test accuracy {100 * metrics['accuracy']:.2f} %"
    if shared_device(record):
        return found
    return f"{found}, {metrics['train_seconds']:.1f} s of training, first step {metrics['first_step_seconds']:.1f} s"


@contextlib.contextmanager
def mps() -> Iterator[None]:
    """NVIDIA's Multi-Process Service while this lasts, where it is installed and not running yet; else nothing."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        names = {f"CUDA_MPS_{kind}_DIRECTORY": str(Path(folder) / kind.lower()) for kind in ("PIPE", "LOG")}
        for path in names.values():
            Path(path).mkdir()
        # The daemon would number the one GPU that is visible anew, and its clients would look for the old number.
        own = {k: v for k, v in {**os.environ, **names}.items() if k != "CUDA_VISIBLE_DEVICES"}
        started = subprocess.run([control, "-d"], env=own, capture_output=True).returncode == 0
        if started:
            os.environ.update(names)
        try:
            yield
        finally:
            if started:
                with contextlib.suppress(subprocess.TimeoutExpired, OSError):  # what was trained is safe already
                    subprocess.run([control], input=b"quit\n", env=own, capture_output=True, timeout=60)
                for name in names:
                    del os.environ[name]
