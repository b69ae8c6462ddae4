"""From a request to plans. Example: plans = make_plans(request, context)

Everything is decided and checked before the first training step; what needs no data is checked before data are fetched.
"""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, replace

from bench.core.display import Display
from bench.core.errors import UserError
from bench.data.datasets import Dataset, DataSource
from bench.drive.context import SweepContext
from bench.executors.protocol import Device
from bench.machine.environment import hide_other_gpus
from bench.plan import presets, recipes, settings
from bench.plan.presets import PRESETS, Preset
from bench.plan.request import DataOptions, RunRequest
from bench.plan.settings import AUTO, SETTINGS
from bench.plan.spec import Recipe, RunSpec, expand, to_dict, work_id
from bench.store.records import FinishedRun
from models import registry


@dataclass(frozen=True)
class Plan:
    """Runs on one data set, share of it and track: everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset


def make_plans(request: RunRequest, context: SweepContext) -> list[Plan]:
    """One plan per data set, share of it and track; under `eager` where auto_setting decides. Raises UserError and
    ModelError.
    """
    devices, display = context.executor.devices(), context.display
    device, data = devices[0], request.data
    asked = request.execution.setting
    if asked != AUTO:
        settings.check(asked, device.type)
    if any(one.type == "cuda" and one.runs_at_once > 1 for one in devices):
        raise UserError(
            "--runs-per-device is for CPUs; on a GPU, --together N trains N seeds of a model in one process"
        )
    preset = choose_preset(request, device.type, display)
    recipe = make_recipe(request, preset)
    if recipes.length(recipe).kind == "seconds" and request.execution.runs_per_device > 1:
        raise UserError("a --budget in seconds needs the device to itself; leave --runs-per-device at 1")
    presets.check_image_size(data.image_size)
    seeds = request.training.seeds or tuple(presets.parse_seeds(preset.seeds))
    models = [(name, registry.source_hash(name)) for name in request.models]
    by_track = recipes_by_track(request, recipe)
    plans = []
    for source in sources(data, preset):
        with display:
            dataset = source.load(display.progress, display.line)
        for own in by_track:
            fitted = [fit_recipe(one, dataset, devices) for one in own]
            setting, where = SETTINGS["eager" if asked == AUTO else asked], (device.type, device.kind)
            specs = expand(models, dataset.ref, fitted, setting, where, seeds, request.execution.deterministic)
            plans.append(Plan(specs, source, dataset))
    index = (request.placement.device or "").partition(":")[2]
    if not context.executor.remote and device.type == "cuda" and index:
        hide_other_gpus(int(index))
    return plans


def sources(data: DataOptions, preset: Preset) -> list[DataSource]:
    """Each data set at each share of its training images."""
    folder = data.data_dir.resolve() if data.data_dir else None
    return [
        DataSource(name, folder, data.image_size, fraction)
        for name, fraction in itertools.product(data.datasets or (preset.dataset,), data.train_fractions)
    ]


def recipes_by_track(request: RunRequest, recipe: Recipe) -> list[list[Recipe]]:
    """For each track the recipe of each model; without a track one recipe for all."""
    if not request.training.tracks:
        return [[recipe] * len(request.models)]
    return [
        [recipes.in_track(track, registry.family(name), recipe, name) for name in request.models]
        for track in request.training.tracks
    ]


def choose_preset(request: RunRequest, device_type: str, display: Display) -> Preset:
    """The preset asked for; else the device's default, or for another data set the recipe `shared` with one seed."""
    datasets = request.data.datasets
    if request.training.preset:
        return PRESETS[request.training.preset]
    if datasets and datasets != ("digits",):
        return Preset(datasets[0], "shared", "0")
    name = "smoke" if datasets else presets.default_preset(device_type == "cuda")
    if not datasets and name == "smoke":
        models = shlex.quote(",".join(request.models))
        display.line(
            f"On a CPU: preset smoke, small digits, to see that everything works: {PRESETS['smoke'].cost}.\n"
            f"The full CIFAR-10 comparison takes {PRESETS['full'].cost}:\n"
            f"python run_bench.py --preset full --models {models}"
        )
    return PRESETS[name]


def make_recipe(request: RunRequest, preset: Preset) -> Recipe:
    """The recipe with what the command line overrides. Raises UserError."""
    training = request.training
    recipe = recipes.load(training.recipe or preset.recipe)
    epochs = preset.epochs if training.epochs is None and training.recipe is None else training.epochs
    recipe = replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        batch_size=recipe.batch_size if training.batch_size is None else training.batch_size,
        validations=recipe.validations if training.validations is None else training.validations,
    )
    if training.epochs is not None:
        recipe = replace(recipe, budget="", validations=training.validations or 0)
    if training.budget:
        recipe = recipes.under(recipe, training.budget, training.validations)
    recipes.check(recipe, "recipe")
    length = recipes.length(recipe)
    if length.kind == "samples" and length.amount < recipe.batch_size:
        raise UserError(f"a budget of {recipe.budget} is less than one batch of {recipe.batch_size}")
    return recipe


def fit_recipe(recipe: Recipe, dataset: Dataset, devices: list[Device]) -> Recipe:
    """The recipe as it will be used: no augmentation that changes labels here, one precision for all devices.

    bf16 only where each of them computes in it natively: precision is part of what is learned. Raises
    UserError for a batch larger than the training part.
    """
    images = len(dataset.train_index)
    if recipe.batch_size > images:
        raise UserError(f"batch size {recipe.batch_size} is more than the {images} training images; use --batch-size")
    native = "bf16" if all(device.native_bf16 for device in devices) else "fp32"
    return replace(
        recipe,
        flip=recipe.flip and dataset.flip_keeps_labels,
        precision=native if recipe.precision == "auto" else recipe.precision,
    )


def as_done(plan: Plan, context: SweepContext) -> Plan:
    """The plan with finished runs as they were done: a run counts whichever of the sweep's devices did it.

    On a cluster that is any device: who takes part changes from day to day.
    """
    executor = context.executor
    kinds = {device.kind for device in executor.devices()}
    if not executor.remote and len(kinds) < 2:
        return plan
    done = {
        work_id(to_dict(run.spec)): run.spec.device_name
        for run in context.store.runs()
        if isinstance(run, FinishedRun) and (executor.remote or run.spec.device_name in kinds)
    }
    specs = [replace(spec, device_name=done.get(work_id(to_dict(spec)), spec.device_name)) for spec in plan.specs]
    return replace(plan, specs=specs)


def one_per_kind(plans: list[Plan]) -> list[Plan]:
    """One plan for each way in which models train: a model that fits one shape or optimizer may not fit another."""

    def kind(plan: Plan) -> object:
        ref, recipes_used = plan.dataset.ref, [spec.recipe for spec in plan.specs]
        how = frozenset((recipe.optimizer, recipe.precision, recipe.batch_size > 1) for recipe in recipes_used)
        return ref.num_classes, ref.image_size, how

    return list({kind(plan): plan for plan in plans}.values())
