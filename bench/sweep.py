"""A sweep from arguments to a table. Example: run(arguments) after cli.parse(["--models", "seresnet,vit_tiny"])

Plan (everything checked before anything long begins), train what is missing, time the models in turns, write the views.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from pathlib import Path

import torch

from bench import environment, plots, presets, recipes, tables
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.errors import UserError
from bench.executors.local import Outcome, call
from bench.presets import PRESETS, Preset
from bench.progress import Display, duration, make_console
from bench.runner import (
    BLOCKS,
    DataSource,
    check_model,
    child_estimate,
    child_run,
    child_session,
    failure_record,
    known_seconds,
    save_traceback,
)
from bench.spec import Recipe, RunSpec, Setting, expand
from bench.store import Store, now, sessions_of
from models import registry

EXIT_FAILED = 1
# Between two rebuilds of the CSV files, so that their cost does not grow with the square of the sweep.
REFRESH_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset
    warnings: list[str]


def run(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None) -> int:
    """Plan, train what is missing, time the models, show the table. Returns the exit code."""
    display, store = Display(make_console()), Store(arguments.results)
    plan = make_plan(arguments, names, seeds, display)
    for warning in plan.warnings:
        display.line(f"warning: {warning}")
    todo = [spec for spec in plan.specs if arguments.rerun or not store.is_done(spec)]
    if arguments.dry_run:
        return show_plan(plan, todo, store, display)
    store.check_writable()
    if done := len(plan.specs) - len(todo):
        display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
    if todo:
        display.line(describe(plan))
    failures, refreshed = 0, time.monotonic()
    try:
        with display:
            for spec in todo:
                failures += not execute(spec, plan, store, display)
                if time.monotonic() - refreshed > REFRESH_SECONDS:
                    store.rebuild_views()
                    refreshed = time.monotonic()
            failures += not time_if_needed(plan.specs, store, display, again=arguments.rerun)
    finally:
        written = store.rebuild_views()
    failures += not finish(plan, store, display, written)
    return EXIT_FAILED if failures else 0


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
    warnings: list[str] = []
    for name in names:
        warnings += check_model(name, dataset.ref.num_classes, dataset.ref.image_size)
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
    return Plan(specs, source, dataset, warnings)


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
    augmentation = [f"crop from {recipe.crop_padding} px padding"] * bool(recipe.crop_padding) + ["flip"] * recipe.flip
    return (
        f"{spec.data.name}: {len(dataset.train_index):,} training, {len(dataset.val_index):,} validation, "
        f"{len(dataset.arrays.test_y):,} test images of {spec.data.image_size} px, {spec.data.num_classes} classes\n"
        f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.optimizer}, "
        f"lr {recipe.lr:g}, {' and '.join(augmentation) or 'no augmentation'}, {recipe.precision}, "
        f"on {spec.device_name}"
    )


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
            outcome = call(child_estimate, (spec, images), events.append)
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


def execute(spec: RunSpec, plan: Plan, store: Store, display: Display) -> bool:
    """One run in a child process; a failure becomes a record. True where it went well."""
    recipe, started = spec.recipe, now()
    title = f"{spec.model}, seed {spec.seed} ({plan.specs.index(spec) + 1} of {len(plan.specs)})"
    display.run_started(title, steps_of(spec, plan.dataset), recipe.epochs, recipe.batch_size)
    before = store.record(spec)
    try:
        outcome = call(child_run, (spec, plan.source, store.root), display.run_event)
    except KeyboardInterrupt:
        if not store.is_done(spec):
            store.write_record(spec, failure_record(spec, "interrupted", "stopped by the user", started))
        raise
    record = store.record(spec)
    if outcome.status == "ok" and (record is None or record == before):
        outcome = Outcome("failed", "its process ended early and left no record")  # a model that calls sys.exit
    if outcome.status == "ok":
        assert record is not None
        metrics = record["metrics"]
        (store.run_dir(spec) / "traceback.txt").unlink(missing_ok=True)  # of an earlier attempt
        display.line(
            f"  test accuracy {100 * metrics['accuracy']:.2f} %, {metrics['train_seconds']:.1f} s of training, "
            f"first step {metrics['first_step_seconds']:.1f} s"
        )
        return True
    where = ""
    if outcome.traceback:
        where = f" (traceback: {save_traceback(store.run_dir(spec), outcome.traceback)})"
    if not store.is_done(spec):  # a failed repetition never replaces a finished run
        store.write_record(spec, failure_record(spec, outcome.status, outcome.message, started))
    display.line(f"  {outcome.status}: {outcome.message}{where}")
    return False


def time_if_needed(specs: list[RunSpec], store: Store, display: Display, again: bool) -> bool:
    """Time the models that finished, in turns, unless one session has them all. False where the session failed."""
    finished = {spec.model: spec for spec in specs if store.is_done(spec)}
    if not finished:
        return True
    records = [r for spec in finished.values() if (r := store.record(spec)) is not None]
    fitting = [{s["id"] for s in sessions_of(record, store.sessions())} for record in records]
    if not again and set.intersection(*fitting):
        return True
    display.session_started(f"timing {', '.join(finished)} in turns", BLOCKS)
    outcome = call(child_session, (list(finished.values()), store.root), display.session_event)
    if outcome.status != "ok":
        where = f" (traceback: {save_traceback(store.root / 'speed', outcome.traceback)})" if outcome.traceback else ""
        display.line(f"  the timing pass failed: {outcome.message}{where}")
    return outcome.status == "ok"


def finish(plan: Plan, store: Store, display: Display, written: list[Path]) -> bool:
    """Plots, the table of this plan's comparison, and where everything is. False where the plots failed."""
    drawn = False
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
