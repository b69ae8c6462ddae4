"""A sweep from arguments to a table. Example: run(arguments) after cli.parse(["--models", "seresnet,vit_tiny"])

Plan (everything checked before anything long begins), train what is missing, time the models in turns, write the views.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import Any

import torch

from bench import environment, presets, recipes, search, settings, tables, tune
from bench.budget import parse_budget
from bench.data import datasets
from bench.data.datasets import Dataset, DataSource
from bench.errors import EXIT_FAILED, UserError
from bench.executors.local import call
from bench.live import make_display
from bench.presets import PRESETS, Preset
from bench.progress import Display, Job, duration, make_console
from bench.provenance import content_words
from bench.runner import (
    child_estimate,
    child_probe,
    known_seconds,
    session_of,
)
from bench.runs import Manner, Plan, Views, train_all
from bench.schema import Record
from bench.session_table import render_settings
from bench.settings import SETTINGS
from bench.spec import Recipe, RunSpec, expand, to_dict
from bench.speed import time_together
from bench.store import VIEWS, Store, sessions_of
from bench.table_formats import render
from models import registry
from models.registry import ModelError

MOST_AT_ONCE = 64
PROBE_SECONDS = 300.0  # a model that has not answered two images by then hangs
SESSION_SECONDS_A_MODEL = 20.0  # long enough to be worth reading, short enough to follow every sweep


def run(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None) -> int:
    """Plan, search, train what is missing, time the models, show the table. Returns the exit code."""
    display = make_display(arguments.device) if arguments.live else Display(make_console())
    store = Store(arguments.results)
    plans = make_plans(arguments, names, seeds, display)
    tried: list[str] = []
    if arguments.setting == "tuned":
        plans, tried = with_best_settings(plans, arguments, store, display)
    untried = [name for name in names if name not in tried and _wanted(name, plans, store, arguments.rerun)]
    probe(untried, plans[0], arguments.run_timeout, display)
    if not arguments.dry_run:
        store.check_writable()
    searched = [with_best_lr(plan, arguments, store, display) for plan in plans]
    plans, failures = [plan for plan, _ in searched if plan.specs], sum(lost for _, lost in searched)
    if arguments.dry_run:
        return show_plans(plans, arguments.rerun, store, display)
    if not plans:
        return EXIT_FAILED
    views, timed = Views(store), True
    manner = Manner(arguments.run_timeout, arguments.rerun, arguments.runs_per_device, arguments.target)
    display.planned(*announcement(plans, store, manner))
    try:
        for plan in plans:
            todo = [spec for spec in plan.specs if arguments.rerun or not store.is_done(spec)]
            if done := len(plan.specs) - len(todo):
                display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
            if todo:
                display.line(describe(plan))
            if other := sum(_named(spec, store) not in (None, arguments.target) for spec in plan.specs):
                display.line(f"{other} of them were begun with another --target, which stays theirs")
            with display:
                failures += train_all(todo, plan, store, display, views, manner)
        for plan in plans:
            with display:
                timed &= time_if_needed(plan.specs, store, display, arguments.timing_limit, arguments.rerun)
    finally:
        views.rebuild()
    drawn = finish(plans, store, display)
    return EXIT_FAILED if failures or not (timed and drawn) else 0


def _named(spec: RunSpec, store: Store) -> float | None:
    """The target that a finished run was begun with."""
    record = store.record(spec)
    return record.get("target") if record is not None and record["status"] == "ok" else None


def _wanted(name: str, plans: list[Plan], store: Store, again: bool) -> bool:
    return any(again or not store.is_done(spec) for plan in plans for spec in plan.specs if spec.model == name)


# --- plan ----------------------------------------------------------------------------------------------------------


def make_plans(
    arguments: argparse.Namespace, names: list[str], seeds: list[int] | None, display: Display
) -> list[Plan]:
    """From arguments to specs, a plan for each share of the data and each track, each checked.

    What needs no data comes before data are fetched. Raises UserError and ModelError.
    """
    device = environment.choose_device(arguments.device)
    settings.check(arguments.setting, device.type)
    if not 1 <= arguments.runs_per_device <= MOST_AT_ONCE:
        raise UserError(f"--runs-per-device must lie in 1..{MOST_AT_ONCE}, not {arguments.runs_per_device}")
    preset = choose_preset(arguments, device, display)
    recipe = make_recipe(arguments, preset)
    if recipes.length(recipe).kind == "seconds" and arguments.runs_per_device > 1:
        raise UserError("a --budget in seconds needs the device to itself; leave --runs-per-device at 1")
    tracked = {
        track: [recipes.in_track(track, registry.family(name), recipe, name) for name in names]
        for track in arguments.track
    } or {"": [recipe] * len(names)}
    presets.check_image_size(arguments.image_size)
    data_dir = arguments.data_dir or datasets.default_data_dir()
    chosen_seeds = seeds or presets.parse_seeds(preset.seeds)
    named = [(name, registry.source_hash(name)) for name in names]
    where = (device.type, environment.device_name(device))
    plans = []
    for fraction in arguments.train_fraction:
        source = DataSource(arguments.dataset or preset.dataset, data_dir, arguments.image_size, fraction)
        with display:
            dataset = source.load(display.progress, display.line)
        for own in tracked.values():
            fitted = [fit_recipe(one, dataset, device) for one in own]
            setting = SETTINGS[arguments.setting]
            specs = expand(named, dataset.ref, fitted, setting, where, chosen_seeds, arguments.deterministic)
            plans.append(Plan(specs, source, dataset))
    environment.hide_other_gpus(device)
    return plans


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

    if names:  # starting a child and importing torch takes seconds, in which nothing would be seen
        display.line(f"trying {len(names)} model{'s' * (len(names) > 1)} before anything long begins")
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


def with_best_settings(
    plans: list[Plan], arguments: argparse.Namespace, store: Store, display: Display
) -> tuple[list[Plan], list[str]]:
    """The plans with each model's own setting, and the models that were tried on the way.

    What earlier searches found is taken; for the others, unless --dry-run, the search is made now.
    """
    tried: list[str] = []
    made = []
    for plan in plans:
        each = {spec.model: spec for spec in plan.specs}
        session = session_of(list(each.values()), arguments.tune_limit or tune.SECONDS)
        found = tune.known_settings(session, store)
        unknown = [name for name in each if name not in found]
        if unknown and arguments.dry_run:
            display.line(
                f"the best setting is looked for first: {', '.join(unknown)}, about {session.seconds:g} s each"
            )
        elif unknown:
            probe([name for name in unknown if name not in tried], plan, arguments.run_timeout, display)
            tried += unknown
            store.check_writable()
        with display:
            found |= tune.settings_for(session, store, display) if not arguments.dry_run else {}
        specs = [dataclasses.replace(spec, setting=found.get(spec.model, spec.setting)) for spec in plan.specs]
        made.append(dataclasses.replace(plan, specs=specs))
    return made, tried


def with_best_lr(plan: Plan, arguments: argparse.Namespace, store: Store, display: Display) -> tuple[Plan, int]:
    """In a track, the plan with each model's own learning rate; searched for unless it is known, or --dry-run.

    Models whose search failed are left out; returns how many, too.
    """
    each = {spec.model: spec for spec in plan.specs}
    if not plan.specs[0].recipe.track:
        return plan, 0
    chosen, lost = dict[str, float](), set[str]()
    for model, spec in each.items():
        budget = search.first_budget(spec, arguments.trial_budget)
        found = search.known(spec, budget, store)
        if found is None and arguments.dry_run:
            trials = search.trials_of(recipes.LRS[spec.recipe.optimizer])
            display.line(f"{model}: the lr of recipe {spec.recipe.name} is looked for first, in {trials} trials")
            continue
        if found is None:
            try:
                with display:
                    found = search.find(spec, budget, plan.source, store, display, arguments.run_timeout)
            except UserError as error:  # one model's failure is not the others'
                display.line(f"  {error}; {model} is left out")
                lost.add(model)
                continue
            display.line(f"  {search.describe(found)}")
        chosen[model] = found["chosen"]
    specs = [
        dataclasses.replace(s, recipe=dataclasses.replace(s.recipe, lr=chosen.get(s.model, s.recipe.lr)))
        for s in plan.specs
        if s.model not in lost
    ]
    return dataclasses.replace(plan, specs=specs), len(lost)


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
    if arguments.epochs is not None and arguments.budget:
        raise UserError("--epochs and --budget both say how long; give one")
    epochs = preset.epochs if arguments.epochs is None and arguments.recipe is None else arguments.epochs
    changes = {"epochs": epochs, "batch_size": arguments.batch_size, "validations": arguments.validations}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    if arguments.epochs is not None:
        recipe = dataclasses.replace(recipe, budget="", validations=arguments.validations or 0)
    if arguments.budget:
        recipe = recipes.under(recipe, parse_budget(arguments.budget), arguments.validations)
    recipes.check(recipe, "recipe")
    if recipes.length(recipe).kind == "samples" and recipes.length(recipe).amount < recipe.batch_size:
        raise UserError(f"a budget of {recipe.budget} is less than one batch of {recipe.batch_size}")
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
    """The conditions that all runs of a plan share, in two lines; in a track a line more for each recipe."""
    spec, dataset = plan.specs[0], plan.dataset
    recipe = spec.recipe
    how_long = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}" if not recipe.budget else f"budget {recipe.budget}"
    if recipe.track:
        how_long = f"track {recipe.track}, {how_long}"
    by_recipe: dict[Recipe, list[str]] = {}
    for one in plan.specs:
        models = by_recipe.setdefault(one.recipe, [])
        models += [] if one.model in models else [one.model]
    used = "".join(
        f"\nrecipe {r.name}{' (' + ', '.join(models) + ')' if recipe.track else ''}: {how_long}, batch {r.batch_size}, "
        f"{r.optimizer}, lr {r.lr:g}, {augmentation(r)}, {r.precision}, {spec.setting.name}, on {spec.device_name}"
        for r, models in by_recipe.items()
    )
    content = content_words(spec.data.name, dataclasses.asdict(dataset.provenance))
    return (
        f"{spec.data.name}{f' ({content})' if content else ''}: {len(dataset.train_index):,} training, "
        f"{len(dataset.val_index):,} validation, {len(dataset.arrays.test_y):,} test images of "
        f"{spec.data.image_size} px, {spec.data.num_classes} classes"
    ) + used


def announcement(plans: list[Plan], store: Store, manner: Manner) -> tuple[str, list[Job], int]:
    """What Display.planned is told: the conditions in a few words, the runs that are missing, how many at once."""
    every = [spec for plan in plans for spec in plan.specs]
    known = [] if manner.at_once > 1 else store.runs()  # what runs took alone says nothing of several at once
    seconds: dict[str, float | None] = {}
    jobs = []
    for plan in plans:
        for spec in plan.specs:
            group = dataclasses.replace(spec, seed=0).run_id  # seeds take equally long
            if group not in seconds:
                seconds[group] = known_seconds(spec, len(plan.dataset.train_index), known)[0]
            if manner.again or not store.is_done(spec):
                jobs.append(Job(spec.run_id, run_title(spec, every), group, seconds[group]))
    first = every[0]
    used = ", ".join(dict.fromkeys(spec.recipe.name for spec in every))
    about = f"{first.data.name} · recipe {used} · {first.setting.name} · {first.device_name}"
    return about, jobs, manner.at_once


def run_title(spec: RunSpec, every: list[RunSpec]) -> str:
    """A run among others: model and seed, and of recipe and share of the data what differs between them."""
    recipes_differ = len({other.recipe.name for other in every if other.model == spec.model}) > 1
    shares_differ = len({other.data.train_fraction for other in every}) > 1
    parts = [
        f"recipe {spec.recipe.name}" if recipes_differ else "",
        f"{100 * spec.data.train_fraction:g} % of the images" if shares_differ else "",
    ]
    return ", ".join(filter(None, (spec.model, *parts, f"seed {spec.seed}")))


def augmentation(recipe: Recipe) -> str:
    """What is done to the training images, and to the models' branches, in words."""
    parts = [
        (recipe.crop_padding, f"crop from {recipe.crop_padding} px padding"),
        (recipe.flip, "flip"),
        (recipe.policy, recipe.policy),
        (recipe.cutout, f"cutout of {recipe.cutout} px"),
        (recipe.random_erasing, f"random erasing {recipe.random_erasing:g}"),
        (recipe.mixup, f"mixup {recipe.mixup:g}"),
        (recipe.cutmix, f"cutmix {recipe.cutmix:g}"),
        (recipe.drop_path, f"drop path {recipe.drop_path:g}"),
    ]
    return " + ".join(words for used, words in parts if used) or "no augmentation"


def show_plans(plans: list[Plan], again: bool, store: Store, display: Display) -> int:
    """What would be run, and about how long it would take: from earlier runs, else from a step timed now in a child."""
    known, total = store.runs(), 0.0
    estimates: dict[RunSpec, tuple[float | None, str]] = {}  # seeds take equally long
    for plan in plans:
        display.line(describe(plan))
        for spec in plan.specs:
            what = f"  {spec.model}, seed {spec.seed}: "
            if store.is_done(spec) and not again:
                display.line(f"{what}done already")
                continue
            of_any_seed = dataclasses.replace(spec, seed=0)
            if of_any_seed not in estimates:
                estimates[of_any_seed] = estimate(spec, len(plan.dataset.train_index), known)
            seconds, origin = estimates[of_any_seed]
            if seconds is None:
                display.line(f"{what}{origin}")
                continue
            total += seconds
            display.line(f"{what}about {duration(seconds)} of training (from {origin})")
    display.line(
        f"about {duration(total)} in all, evaluation, searches and the timing pass not counted; nothing was run"
    )
    return 0


def estimate(spec: RunSpec, train_images: int, known: list[Record]) -> tuple[float | None, str]:
    """(training seconds, their origin), or (None, why there are none)."""
    seconds, origin = known_seconds(spec, train_images, known)
    if seconds is not None:
        return seconds, origin
    events: list[dict[str, float]] = []
    outcome = call(child_estimate, (spec, train_images), events.append, grace=0)
    return (events[0]["seconds"], "a step timed now") if events else (None, f"{outcome.status}: {outcome.message}")


# --- do ------------------------------------------------------------------------------------------------------------


def time_if_needed(specs: list[RunSpec], store: Store, display: Display, limit: float | None, again: bool) -> bool:
    """Time the models that finished, in turns, unless one session has them all. False where one could not be timed.

    Under `tuned` they are timed under `eager` too: both are reported.
    """
    finished = {spec.model: spec for spec in specs if store.is_done(spec)}
    if not finished:
        return True
    names = ["tuned", "eager"] if specs[0].setting.name == "tuned" else [specs[0].setting.name]
    timed = [time_under(name, list(finished.values()), store, display, limit, again) for name in names]
    return all(timed)


def time_under(
    setting: str, specs: list[RunSpec], store: Store, display: Display, limit: float | None, again: bool
) -> bool:
    """One session of these runs' models under a setting, unless there is one. False where one could not be timed."""

    def fitting() -> Record | None:
        return timed_under(setting, specs, store)

    if not again and fitting():
        return True
    as_set = [_under(setting, spec) for spec in specs]
    session = time_together(session_of(as_set, limit or SESSION_SECONDS_A_MODEL * len(specs)), store, display, fitting)
    return session is not None and not session["failures"]


def timed_under(setting: str, specs: list[RunSpec], store: Store) -> Record | None:
    """The newest session under a setting that timed all of these runs that finished, if there is one."""
    found = [(record, _under(setting, spec)) for spec in specs if (record := store.record(spec)) is not None]
    done = [{**record, "spec": to_dict(as_set)} for record, as_set in found if record["status"] == "ok"]
    fits = (s for s in reversed(store.sessions()) if done and all(sessions_of(record, [s]) for record in done))
    return next(fits, None)


def _under(setting: str, spec: RunSpec) -> RunSpec:
    """The run under a setting for all, or as it is where that is the setting it was asked for."""
    return spec if setting == spec.setting.name else dataclasses.replace(spec, setting=SETTINGS[setting])


def finish(plans: list[Plan], store: Store, display: Display) -> bool:
    """Plots, the tables of these plans' comparisons, and where everything is. False where the plots failed."""
    drawn, written = False, [store.root / name for name in VIEWS]
    # A sidecar: the measurements are already safe, and whatever goes wrong in a plot is told, not raised.
    try:
        from bench.charts import build, static  # seconds of matplotlib, which no plan and no refusal needs

        charts = build.at_a_glance(build.charts_of([store])[0])
        figures = static.save_all(charts, store.root / "plots", formats=("png",), columns=(2,))
        written = [*written, *(path for path in figures if path.suffix == ".png")]
        drawn = True
    except Exception as error:
        display.line(f"the plots could not be drawn: {type(error).__name__}: {error}")
    specs = [spec for plan in plans for spec in plan.specs]
    wanted = {spec.run_id for spec in specs}
    comparisons = [
        c for c in tables.compare([store]) if wanted & {*c.run_ids, *(failure.run_id for failure in c.failures)}
    ]
    display.line("\n" + render(comparisons, "text", display.console.width).rstrip() + "\n")
    if specs[0].setting.name == "tuned":
        both = [s for name in ("eager", "tuned") if (s := timed_under(name, plans[0].specs, store)) is not None]
        display.line(render_settings(both, display.console.width))
    try:
        from bench.pair_table import write_verdicts

        if path := write_verdicts(store):
            written.append(path)
            display.line(
                f"which is better, and how sure: run_bench.py compare --results {shlex.quote(str(store.root))}"
            )
        display.line(
            f"all of it as a page, with every chart: run_bench.py report --results {shlex.quote(str(store.root))}"
        )
    except Exception as error:
        display.line(f"the verdicts could not be written: {type(error).__name__}: {error}")
        drawn = False
    for path in written:
        display.line(f"wrote {path}")
    return drawn
