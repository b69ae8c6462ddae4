"""A sweep from arguments to a table. Example: run(arguments) after cli.parse(["--models", "seresnet,vit_tiny"])

Plan (everything checked before anything long begins), train what is missing, time the models in turns, write the views.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from collections.abc import Callable
from typing import Any

import torch

from bench import environment, plots, presets, recipes, tables
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.errors import UserError
from bench.executors.local import Outcome, call
from bench.presets import PRESETS, Preset
from bench.progress import Display, duration, make_console
from bench.runner import (
    DataSource,
    child_estimate,
    child_probe,
    child_run,
    failure_record,
    known_seconds,
    save_traceback,
    session_of,
)
from bench.schema import Record
from bench.spec import Recipe, RunSpec, Setting, expand
from bench.speed import time_together
from bench.store import VIEWS, Store, now, sessions_of
from models import registry
from models.registry import ModelError

EXIT_FAILED = 1
BUSY = "being run by"
# Between two rebuilds of the CSV files: at least so long, and at least so many times the last one's duration.
REFRESH_SECONDS, REFRESH_PAUSE = 60.0, 100.0
PROBE_SECONDS = 300.0  # a model that has not answered two images by then hangs
SESSION_SECONDS_A_MODEL = 20.0  # long enough to be worth reading, short enough to follow every sweep
LOOK_SECONDS = 2.0  # between two looks at whether another process has finished a run


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset


def run(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None) -> int:
    """Plan, train what is missing, time the models, show the table. Returns the exit code."""
    display, store = Display(make_console()), Store(arguments.results)
    plan = make_plan(arguments, names, seeds, display)
    todo = [spec for spec in plan.specs if arguments.rerun or not store.is_done(spec)]
    probe(list(dict.fromkeys(spec.model for spec in todo)), plan, arguments.run_timeout, display)
    if arguments.dry_run:
        return show_plan(plan, todo, store, display)
    store.check_writable()
    if done := len(plan.specs) - len(todo):
        display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
    if todo:
        display.line(describe(plan))
    views = Views(store)
    try:
        with display:
            failures = train_all(todo, plan, store, display, views, arguments.run_timeout, arguments.rerun)
            timed = time_if_needed(plan.specs, store, display, arguments.timing_limit, arguments.rerun)
    finally:
        views.rebuild()
    drawn = finish(plan, store, display)
    return EXIT_FAILED if failures or not (timed and drawn) else 0


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


# --- plan ----------------------------------------------------------------------------------------------------------


def make_plan(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None, display: Display) -> Plan:
    """From arguments to specs: preset, recipe, data, models, each checked; what needs no data before data are fetched.

    Raises UserError and ModelError.
    """
    device = environment.choose_device(arguments.device)
    preset = choose_preset(arguments, device, display)
    recipe = make_recipe(arguments, preset)
    fraction = arguments.train_fraction
    if not 0 < fraction <= 1:
        raise UserError(f"--train-fraction must lie in (0, 1], not {fraction}")
    if arguments.image_size is not None and not 8 <= arguments.image_size <= 1024:
        raise UserError(f"--image-size must lie in 8..1024, not {arguments.image_size}")
    data_dir = arguments.data_dir or datasets.default_data_dir()
    source = DataSource(arguments.dataset or preset.dataset, data_dir, arguments.image_size, fraction)
    dataset = source.load()
    specs = expand(
        [(name, registry.source_hash(name)) for name in names],
        dataset.ref,
        fit_recipe(recipe, dataset, device),
        Setting(),
        (device.type, environment.device_name(device)),
        seeds or presets.parse_seeds(preset.seeds),
        arguments.deterministic,
    )
    environment.hide_other_gpus(device)
    return Plan(specs, source, dataset)


def probe(names: list[str], plan: Plan, timeout: float | None, display: Display) -> None:
    """Try every model in a child before anything long begins; prints warnings. Raises ModelError that names the unfit.

    A model that takes its process down, or hangs, is named like the others, and those after it get a fresh process.
    """
    unfit, left, current = [], list(names), [""]

    def hear(event: dict[str, Any]) -> None:
        current[0] = event["model"]
        if event["event"] == "unfit":
            unfit.append(event["why"])
        for warning in event.get("warnings", ()):
            display.line(f"warning: {warning}")
        if event["event"] != "probe":
            left.remove(event["model"])

    ref, limit = plan.dataset.ref, min(timeout or PROBE_SECONDS, PROBE_SECONDS)
    while left:
        current[0] = left[0]
        outcome = call(child_probe, (list(left), ref.num_classes, ref.image_size), hear, limit, grace=0)
        if left:
            why = "leaves the program" if outcome.status == "ok" else f"{outcome.status}: {outcome.message}"
            unfit.append(f"model '{current[0]}' cannot be tried: {why}")
            left.remove(current[0])
    if unfit:
        raise ModelError("; ".join(unfit))


def choose_preset(arguments: argparse.Namespace, device: torch.device, display: Display) -> Preset:
    """The preset asked for; else the device's default, or for another data set the recipe `shared` with one seed."""
    if arguments.preset:
        return PRESETS[arguments.preset]
    if arguments.dataset and arguments.dataset != "digits":
        return Preset(arguments.dataset, "shared", "0", "")
    name = "smoke" if arguments.dataset else presets.default_preset(device.type == "cuda")
    if not arguments.dataset and name == "smoke":
        display.line(
            "On a CPU: preset smoke, small digits, to see that all works. The full CIFAR-10 comparison: "
            f"python run_bench.py --preset full --models {shlex.quote(arguments.models)}"
        )
    return PRESETS[name]


def make_recipe(arguments: argparse.Namespace, preset: Preset) -> Recipe:
    """The recipe with what the command line overrides. Raises UserError."""
    recipe = recipes.load(arguments.recipe or preset.recipe)
    epochs = preset.epochs if arguments.epochs is None and arguments.recipe is None else arguments.epochs
    changes = {"epochs": epochs, "batch_size": arguments.batch_size}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    recipes.check(recipe, "recipe")
    return recipe


def fit_recipe(recipe: Recipe, dataset: Dataset, device: torch.device) -> Recipe:
    """The recipe as it will be used: no augmentation that changes labels here, the precision resolved for the device.

    Raises UserError for a batch larger than the training part.
    """
    images = len(dataset.train_index)
    if recipe.batch_size > images:
        raise UserError(f"batch size {recipe.batch_size} is more than the {images} training images; use --batch-size")
    return dataclasses.replace(
        recipe,
        flip=recipe.flip and dataset.flip_keeps_labels,
        precision=environment.resolve_precision(recipe.precision, device),
    )


def describe(plan: Plan) -> str:
    """The conditions that all runs of a plan share, in two lines."""
    spec, dataset = plan.specs[0], plan.dataset
    recipe = spec.recipe
    return (
        f"{spec.data.name}: {len(dataset.train_index):,} training, {len(dataset.val_index):,} validation, "
        f"{len(dataset.arrays.test_y):,} test images of {spec.data.image_size} px, {spec.data.num_classes} classes\n"
        f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.optimizer}, "
        f"lr {recipe.lr:g}, {augmentation(recipe)}, {recipe.precision}, on {spec.device_name}"
    )


def augmentation(recipe: Recipe) -> str:
    """What is done to the training images, in words."""
    parts = [
        (recipe.crop_padding, f"crop from {recipe.crop_padding} px padding"),
        (recipe.flip, "flip"),
        (recipe.policy, recipe.policy),
        (recipe.cutout, f"cutout of {recipe.cutout} px"),
        (recipe.mixup, f"mixup {recipe.mixup:g}"),
        (recipe.cutmix, f"cutmix {recipe.cutmix:g}"),
    ]
    return " + ".join(words for used, words in parts if used) or "no augmentation"


def show_plan(plan: Plan, todo: list[RunSpec], store: Store, display: Display) -> int:
    """What would be run, and about how long it would take: from earlier runs, else from a step timed now in a child."""
    known, total, images = store.runs(), 0.0, len(plan.dataset.train_index)
    display.line(describe(plan))
    for spec in plan.specs:
        what = f"  {spec.model}, seed {spec.seed}: "
        if spec not in todo:
            display.line(f"{what}done already")
            continue
        seconds, origin = known_seconds(spec, images, known), "an earlier run"
        if seconds is None:
            events: list[dict[str, float]] = []
            outcome = call(child_estimate, (spec, images), events.append, grace=0)
            if not events:
                display.line(f"{what}{outcome.status}: {outcome.message}")
                continue
            seconds, origin = events[0]["seconds"], "a step timed now"
        total += seconds
        display.line(f"{what}about {duration(seconds)} of training (from {origin})")
    display.line(f"about {duration(total)} in all, evaluation and the timing pass not counted; nothing was run")
    return 0


def steps_of(spec: RunSpec, dataset: Dataset) -> int:
    """Training steps of a run."""
    return spec.recipe.epochs * (len(dataset.train_index) // spec.recipe.batch_size)


# --- do ------------------------------------------------------------------------------------------------------------


def train_all(
    todo: list[RunSpec], plan: Plan, store: Store, display: Display, views: Views, timeout: float | None, again: bool
) -> int:
    """Every run of `todo` once, here or in another process that has it already; returns how many did not end well."""
    before = {spec.run_id: store.record(spec) for spec in todo}
    failures, waiting = 0, list(todo)
    told: set[str] = set()
    while waiting:
        elsewhere = []
        for spec in waiting:
            status = execute(spec, before[spec.run_id], plan, store, display, timeout, again)
            if status.startswith(BUSY):
                elsewhere.append(spec)
                if spec.run_id not in told:
                    display.line(f"{spec.model}, seed {spec.seed}: {status}; going on with the others, then waiting")
                    told.add(spec.run_id)
            else:
                failures += status != "ok"
            views.rebuild_if_due()
        if elsewhere == waiting:
            time.sleep(LOOK_SECONDS)
        waiting = elsewhere
    return failures


def execute(
    spec: RunSpec,
    before: Record | None,
    plan: Plan,
    store: Store,
    display: Display,
    timeout: float | None,
    again: bool,
) -> str:
    """One run in a child process; a failure becomes a record. Returns its status, or who is at work on it.

    `before`: the record when the sweep began; another one is another process's, and is not repeated.
    """
    if owner := store.owner(spec.run_id):
        return f"{BUSY} {owner}"
    title = f"{spec.model}, seed {spec.seed} ({plan.specs.index(spec) + 1} of {len(plan.specs)})"
    record = store.record(spec)
    if record is not None and record != before and record["status"] not in ("killed", "interrupted"):
        display.line(f"{title}\n  {record['status']}: done meanwhile by another process")
        return str(record["status"])
    recipe, started = spec.recipe, now()
    display.run_started(title, steps_of(spec, plan.dataset), recipe.epochs, recipe.batch_size)
    try:
        outcome = call(child_run, (spec, plan.source, store.root, again), display.run_event, timeout)
    except KeyboardInterrupt:
        store.write_failure(spec, failure_record(spec, "interrupted", "stopped by the user", started))
        raise
    if outcome.status == "busy":
        return f"{BUSY} {outcome.message}"
    record = store.record(spec)
    if outcome.status == "ok" and (record is None or record["status"] != "ok" or (again and record == before)):
        outcome = Outcome("failed", "its process ended early and left no record")  # a model that calls sys.exit
    if outcome.status == "ok":
        assert record is not None
        metrics = record["metrics"]
        (store.run_dir(spec) / "traceback.txt").unlink(missing_ok=True)  # of an earlier attempt
        display.line(
            f"  test accuracy {100 * metrics['accuracy']:.2f} %, {metrics['train_seconds']:.1f} s of training, "
            f"first step {metrics['first_step_seconds']:.1f} s"
        )
        return "ok"
    where = ""
    if outcome.traceback:
        where = f" (traceback: {save_traceback(store.run_dir(spec), outcome.traceback)})"
    store.write_failure(spec, failure_record(spec, outcome.status, outcome.message, started))
    display.line(f"  {outcome.status}: {outcome.message}{where}")
    return outcome.status


def time_if_needed(specs: list[RunSpec], store: Store, display: Display, limit: float | None, again: bool) -> bool:
    """Time the models that finished, in turns, unless one session has them all. False where one could not be timed."""
    finished = {spec.model: spec for spec in specs if store.is_done(spec)}
    if not finished:
        return True

    def fitting() -> Record | None:
        """The newest session that has all of them, if there is one."""
        records = [r for spec in finished.values() if (r := store.record(spec)) is not None]
        sessions = store.sessions()
        common = set.intersection(*({s["id"] for s in sessions_of(record, sessions)} for record in records))
        return next((s for s in reversed(sessions) if s["id"] in common), None)

    if not again and fitting():
        return True
    spec = session_of(list(finished.values()), limit or SESSION_SECONDS_A_MODEL * len(finished))
    session = time_together(spec, store, display, fitting)
    return session is not None and not session["failures"]


def finish(plan: Plan, store: Store, display: Display) -> bool:
    """Plots, the table of this plan's comparison, and where everything is. False where the plots failed."""
    drawn, written = False, [store.root / name for name in VIEWS]
    # A sidecar: the measurements are already safe, and whatever goes wrong in a plot is told, not raised.
    try:
        written = [*written, *(p for p in plots.save_all([store], store.root / "plots") if p.suffix == ".png")]
        drawn = True
    except Exception as error:
        display.line(f"the plots could not be drawn: {type(error).__name__}: {error}")
    wanted = {spec.run_id for spec in plan.specs}
    comparisons = [
        c for c in tables.compare([store]) if wanted & {*c.run_ids, *(failure.run_id for failure in c.failures)}
    ]
    display.line("\n" + tables.render(comparisons, "text", display.console.width).rstrip() + "\n")
    for path in written:
        display.line(f"wrote {path}")
    return drawn
