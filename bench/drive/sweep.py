"""A sweep from arguments to a table. Example: run(arguments) after cli.parse(["--models", "seresnet,vit_tiny"])

Plan (everything checked before anything long begins), train what is missing, time the models in turns, write the views.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from bench.analysis import tables
from bench.core.errors import EXIT_FAILED, NotIdle, UserError
from bench.data.datasets import Dataset, DataSource
from bench.data.provenance import content_words
from bench.drive import lr_search as search
from bench.drive import setting_search as tune
from bench.drive.board import call_alone
from bench.drive.forecast import makespan
from bench.drive.runs import Home, Manner, Plan, Views, circumstances, group_of, mps, seats, titles, train_all
from bench.drive.speed import time_together
from bench.executors.child import GRACE_SECONDS, Outcome, call
from bench.executors.local import LocalEngine
from bench.executors.protocol import Device, Engine, reference
from bench.executors.worker import as_device
from bench.machine import devices, environment
from bench.machine.identity import Identity, identity
from bench.measure.run import child_estimate, child_probe, known_seconds, session_of
from bench.plan import presets, recipes, settings
from bench.plan.budget import parse_budget
from bench.plan.presets import PRESETS, Preset
from bench.plan.settings import SETTINGS
from bench.plan.spec import Recipe, RunSpec, expand, to_dict, work_id
from bench.present.screen.live import make_display
from bench.present.screen.progress import Display, Job, duration, make_console
from bench.present.session_table import render_settings
from bench.present.table_formats import render
from bench.store.disk import VIEWS, Store, sessions_of
from bench.store.records import Record
from models import registry
from models.registry import ModelError

MOST_RETRIES = 100
LOOK_SECONDS = 60.0  # at a cluster's nodes, before the sweep is planned
MOST_AT_ONCE = 64
PROBE_SECONDS = 300.0  # a model that has not answered two images by then hangs
SESSION_SECONDS_A_MODEL = 20.0  # long enough to be worth reading, short enough to follow every sweep


def run(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None) -> int:
    """Plan, search, train what is missing, time the models, show the table. Returns the exit code."""
    check_flags(arguments)
    store = Store(arguments.results)
    display = make_display(arguments.device) if arguments.live else Display(make_console())
    with opened(arguments, store, display) as (engine, home):
        return carry_out(arguments, names, seeds, engine, home, display)


def carry_out(
    arguments: argparse.Namespace,
    names: list[str],
    seeds: list[int] | None,
    engine: Engine,
    home: Home,
    display: Display,
) -> int:
    """The sweep on an engine."""
    store = home.store
    plans = make_plans(arguments, names, seeds, engine, display)
    tried: list[str] = []
    if arguments.setting == "tuned":
        plans, tried = with_best_settings(plans, arguments, store, display)
    plans = [on_whichever_device(plan, engine, store) for plan in plans]
    for plan in one_per_shape(plans):
        untried = [name for name in names if name not in tried and _wanted(name, plans, store, arguments.rerun)]
        probe(untried, plan, arguments.run_timeout, display)
    if not arguments.dry_run:
        store.check_writable()
    plans, failures = with_best_lr(plans, arguments, home, engine, display)
    plans = [on_whichever_device(plan, engine, store) for plan in plans]  # their learning rates are known now
    if arguments.dry_run:
        return show_plans(plans, arguments.rerun, store, engine, display)
    if not plans:
        return EXIT_FAILED
    views, timed = Views(store), True
    manner = Manner(arguments.run_timeout, arguments.rerun, arguments.target, arguments.retries)
    todo = announce(plans, arguments, store, engine, display)
    try:
        with display:
            lost, placed = train_all(plans, todo, home, engine, display, views, manner)
        failures += lost
        plans = [replace(plan, specs=[placed.get(spec.run_id, spec) for spec in plan.specs]) for plan in plans]
        for plan in plans:
            with display:
                timed &= time_if_needed(plan.specs, home, engine, display, arguments.timing_limit, arguments.rerun)
    finally:
        views.rebuild()
    drawn = finish(plans, store, display)
    return EXIT_FAILED if failures or not (timed and drawn) else 0


def announce(
    plans: list[Plan], arguments: argparse.Namespace, store: Store, engine: Engine, display: Display
) -> set[str]:
    """Say under which conditions what is to be done; returns the names of the runs that are missing."""
    todo: set[str] = set()
    for plan in plans:
        missing = {spec.run_id for spec in plan.specs if arguments.rerun or not store.is_done(spec)}
        if missing:
            display.line(describe(plan, engine))
        if done := len(plan.specs) - len(missing):
            display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
        if other := sum(_named(spec, store) not in (None, arguments.target) for spec in plan.specs):
            display.line(f"{other} of them were begun with another --target, which stays theirs")
        todo |= missing
    display.planned(*announcement(plans, todo, store, engine))
    return todo


def one_per_shape(plans: list[Plan]) -> list[Plan]:
    """A plan for each number of classes and image size: a model that fits one may not fit another."""
    return list({(plan.dataset.ref.num_classes, plan.dataset.ref.image_size): plan for plan in plans}.values())


# --- where -----------------------------------------------------------------------------------------------------------


def check_flags(arguments: argparse.Namespace) -> None:
    """What can be refused before any engine is asked. Raises UserError."""
    if not 1 <= arguments.runs_per_device <= MOST_AT_ONCE:
        raise UserError(f"--runs-per-device must lie in 1..{MOST_AT_ONCE}, not {arguments.runs_per_device}")
    if not 0 <= arguments.retries <= MOST_RETRIES:
        raise UserError(f"--retries must lie in 0..{MOST_RETRIES}, not {arguments.retries}")
    if arguments.slurm and arguments.executor[0] != "slurm":
        raise UserError("--slurm is about --executor slurm")
    if arguments.setting == "tuned" and arguments.executor[0] != "local":
        raise UserError("--setting tuned times every model on one device; it needs --executor local")


@contextlib.contextmanager
def opened(arguments: argparse.Namespace, store: Store, display: Display) -> Iterator[tuple[Engine, Home]]:
    """The engine that was asked for, as long as this lasts. Raises UserError where there is none, or nothing to use."""
    name, address = arguments.executor
    if name == "local":
        with mps() if arguments.runs_per_device > 1 and environment.has_cuda() else contextlib.nullcontext():
            engine: Engine = LocalEngine(local_devices(arguments.device, arguments.runs_per_device))
            try:
                yield engine, Home(store)
            finally:
                engine.close()
        return
    store.check_writable()
    store = Store(store.root.resolve())  # other machines, and processes in other folders, must find it
    expected = identity()
    with store.marked() as mark:
        engine = far_engine(name, address, arguments, store, expected, display)
        try:
            wait_for_devices(engine)
            display.line(f"on {devices_words(engine.devices())}, by {name}")
            yield engine, Home(store, expected, mark)
        finally:
            engine.close()


def wait_for_devices(engine: Engine) -> None:
    """Until some are there, and for a while until all have said what they are: one precision must suit them all.

    Raises UserError where none is fit.
    """
    deadline = time.monotonic() + LOOK_SECONDS
    while not engine.devices() or (engine.looking and time.monotonic() < deadline):
        engine.events(0.2)


def local_devices(asked: str | None, seats: int) -> list[Device]:
    """This machine's devices, with so many seats each. Raises UserError for a device that is not here."""
    found = [as_device(row, "here", "this machine") for row in devices.found(asked)]
    return [replace(device, seats=seats) for device in found]


def far_engine(
    name: str, address: str, arguments: argparse.Namespace, store: Store, expected: Identity, display: Display
) -> Engine:
    """Ray or SLURM. Raises UserError where its package is missing, or it cannot be reached."""
    asked, seats = arguments.device, arguments.runs_per_device
    if name == "ray":
        from bench.executors.ray import RayEngine

        return RayEngine(address, asked, seats, expected, display.line)
    from bench.executors.slurm import SlurmEngine, parse_options

    options, folder = parse_options(arguments.slurm), store.root / "slurm"
    return SlurmEngine(address or "slurm", options, folder, asked, seats, expected, arguments.retries, display.line)


def on_whichever_device(plan: Plan, engine: Engine, store: Store) -> Plan:
    """The plan with what is done already as it was done: a run counts whichever of the sweep's devices took it.

    On a cluster that is any device: who takes part changes from day to day.
    """
    kinds = {device.kind for device in engine.devices()}
    if not engine.far and len(kinds) < 2:
        return plan
    done = {
        work_id(record["spec"]): record["spec"]["device_name"]
        for record in store.runs()
        if record["status"] == "ok" and (engine.far or record["spec"]["device_name"] in kinds)
    }
    specs = [replace(spec, device_name=done.get(work_id(to_dict(spec)), spec.device_name)) for spec in plan.specs]
    return replace(plan, specs=specs)


def _named(spec: RunSpec, store: Store) -> float | None:
    """The target that a finished run was begun with."""
    record = store.record(spec)
    return record.get("target") if record is not None and record["status"] == "ok" else None


def _wanted(name: str, plans: list[Plan], store: Store, again: bool) -> bool:
    return any(again or not store.is_done(spec) for plan in plans for spec in plan.specs if spec.model == name)


# --- plan ----------------------------------------------------------------------------------------------------------


def make_plans(
    arguments: argparse.Namespace, names: list[str], seeds: list[int] | None, engine: Engine, display: Display
) -> list[Plan]:
    """From arguments to specs, a plan for each data set, share of it and track, each checked.

    What needs no data comes before data are fetched. Raises UserError and ModelError.
    """
    every = engine.devices()
    device = every[0]
    settings.check(arguments.setting, device.type)
    preset = choose_preset(arguments, device.type, display)
    recipe = make_recipe(arguments, preset)
    if recipes.length(recipe).kind == "seconds" and arguments.runs_per_device > 1:
        raise UserError("a --budget in seconds needs the device to itself; leave --runs-per-device at 1")
    tracked = {
        track: [recipes.in_track(track, registry.family(name), recipe, name) for name in names]
        for track in arguments.track
    } or {"": [recipe] * len(names)}
    presets.check_image_size(arguments.image_size)
    data_dir = arguments.data_dir.resolve() if arguments.data_dir else None
    chosen_seeds = seeds or presets.parse_seeds(preset.seeds)
    named = [(name, registry.source_hash(name)) for name in names]
    where = (device.type, device.kind)
    plans = []
    for name, fraction in itertools.product(arguments.datasets or [preset.dataset], arguments.train_fraction):
        source = DataSource(name, data_dir, arguments.image_size, fraction)
        with display:
            dataset = source.load(display.progress, display.line)
        for own in tracked.values():
            fitted = [fit_recipe(one, dataset, every) for one in own]
            setting = SETTINGS[arguments.setting]
            specs = expand(named, dataset.ref, fitted, setting, where, chosen_seeds, arguments.deterministic)
            plans.append(Plan(specs, source, dataset))
    if not engine.far and device.type == "cuda" and arguments.device:
        environment.hide_other_gpus(torch.device(arguments.device))
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
        specs = [replace(spec, setting=found.get(spec.model, spec.setting)) for spec in plan.specs]
        made.append(replace(plan, specs=specs))
    return made, tried


def with_best_lr(
    plans: list[Plan], arguments: argparse.Namespace, home: Home, engine: Engine, display: Display
) -> tuple[list[Plan], int]:
    """In a track, the plans with each model's own learning rate; searched for unless it is known, or --dry-run.

    Models whose search failed are left out; returns how many, too.
    """
    chosen, unknown = dict[str, float](), list[tuple[RunSpec, DataSource]]()
    for plan in plans:
        for spec in {spec.model: spec for spec in plan.specs if spec.recipe.track}.values():
            found = search.known(spec, search.first_budget(spec, arguments.trial_budget), home.store, engine.far)
            if found is not None:
                chosen[group_of(spec)] = found["chosen"]
            elif arguments.dry_run:
                trials = search.trials_of(recipes.LRS[spec.recipe.optimizer])
                display.line(
                    f"{spec.model}: the lr of recipe {spec.recipe.name} is looked for first, in {trials} trials"
                )
            else:
                unknown.append((spec, plan.source))
    lost: set[str] = set()
    with display:
        made = search.find_all(unknown, arguments.trial_budget, home, engine, display, arguments.run_timeout)
    for (spec, _), record in zip(unknown, made, strict=True):
        if isinstance(record, str):  # one model's failure is not the others'
            display.line(f"  {record}; {spec.model} is left out")
            lost.add(group_of(spec))
        else:
            display.line(f"  {search.describe(record)}")
            chosen[group_of(spec)] = record["chosen"]

    def as_found(plan: Plan) -> Plan:
        kept = [spec for spec in plan.specs if group_of(spec) not in lost]
        return replace(plan, specs=[_at(spec, chosen.get(group_of(spec), spec.recipe.lr)) for spec in kept])

    return [plan for plan in map(as_found, plans) if plan.specs], len(lost)


def _at(spec: RunSpec, lr: float) -> RunSpec:
    return replace(spec, recipe=replace(spec.recipe, lr=lr))


def choose_preset(arguments: argparse.Namespace, device_type: str, display: Display) -> Preset:
    """The preset asked for; else the device's default, or for another data set the recipe `shared` with one seed."""
    if arguments.preset:
        return PRESETS[arguments.preset]
    if arguments.dataset and arguments.dataset != "digits":
        return Preset(arguments.dataset, "shared", "0", "")
    name = "smoke" if arguments.dataset else presets.default_preset(device_type == "cuda")
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
    recipe = replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    if arguments.epochs is not None:
        recipe = replace(recipe, budget="", validations=arguments.validations or 0)
    if arguments.budget:
        recipe = recipes.under(recipe, parse_budget(arguments.budget), arguments.validations)
    recipes.check(recipe, "recipe")
    if recipes.length(recipe).kind == "samples" and recipes.length(recipe).amount < recipe.batch_size:
        raise UserError(f"a budget of {recipe.budget} is less than one batch of {recipe.batch_size}")
    return recipe


def fit_recipe(recipe: Recipe, dataset: Dataset, every: list[Device]) -> Recipe:
    """The recipe as it will be used: no augmentation that changes labels here, one precision for all devices.

    bf16 only where each of them computes in it natively: precision is part of what is learned. Raises
    UserError for a batch larger than the training part.
    """
    images = len(dataset.train_index)
    if recipe.batch_size > images:
        raise UserError(f"batch size {recipe.batch_size} is more than the {images} training images; use --batch-size")
    return replace(
        recipe,
        flip=recipe.flip and dataset.flip_keeps_labels,
        precision=("bf16" if all(device.native_bf16 for device in every) else "fp32")
        if recipe.precision == "auto"
        else recipe.precision,
    )


def describe(plan: Plan, engine: Engine) -> str:
    """The conditions that all runs of a plan share, in two lines; in a track a line more for each recipe."""
    spec, dataset = plan.specs[0], plan.dataset
    recipe = spec.recipe
    how_long = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}" if not recipe.budget else f"budget {recipe.budget}"
    if recipe.track:
        how_long = f"track {recipe.track}, {how_long}"
    where = devices_words(engine.devices())
    by_recipe: dict[Recipe, list[str]] = {}
    for one in plan.specs:
        models = by_recipe.setdefault(one.recipe, [])
        models += [] if one.model in models else [one.model]
    used = "".join(
        f"\nrecipe {r.name}{' (' + ', '.join(models) + ')' if recipe.track else ''}: {how_long}, batch {r.batch_size}, "
        f"{r.optimizer}, lr {r.lr:g}, {augmentation(r)}, {r.precision}, {spec.setting.name}, on {where}"
        for r, models in by_recipe.items()
    )
    content = content_words(spec.data.name, asdict(dataset.provenance))
    return (
        f"{spec.data.name}{f' ({content})' if content else ''}: {len(dataset.train_index):,} training, "
        f"{len(dataset.val_index):,} validation, {len(dataset.arrays.test_y):,} test images of "
        f"{spec.data.image_size} px, {spec.data.num_classes} classes"
    ) + used


def devices_words(every: list[Device]) -> str:
    """`H100`, or `3 x H100 and 1 x A100`."""
    counts = Counter(device.kind for device in every)
    if len(every) == 1:
        return every[0].kind
    return " and ".join(f"{count} x {kind}" for kind, count in counts.items())


def announcement(plans: list[Plan], todo: set[str], store: Store, engine: Engine) -> tuple[str, list[Job], int]:
    """What Display.planned is told: the conditions in a few words, the runs that are missing, how many at once."""
    every = [spec for plan in plans for spec in plan.specs]
    shared = any(device.beside > 1 for device in engine.devices())
    known = [] if shared else store.runs()  # what runs took alone says nothing of several at once
    seconds: dict[str, float | None] = {}
    jobs, named = [], titles(every)
    for plan in plans:
        for spec in plan.specs:
            group = group_of(spec)
            if group not in seconds:
                seconds[group] = known_seconds(spec, len(plan.dataset.train_index), known)[0]
            if spec.run_id in todo:
                jobs.append(Job(spec.run_id, named[spec.run_id], group, seconds[group]))
    data = ", ".join(dict.fromkeys(spec.data.name for spec in every))
    used = ", ".join(dict.fromkeys(spec.recipe.name for spec in every))
    about = f"{data} · recipe {used} · {every[0].setting.name} · {devices_words(engine.devices())}"
    return about, jobs, min(seats(engine), max(1, len(todo)))


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


def show_plans(plans: list[Plan], again: bool, store: Store, engine: Engine, display: Display) -> int:
    """What would be run, and about how long it would take: from earlier runs, else from a step timed now in a child."""
    known, lengths = store.runs(), list[float]()
    estimates: dict[RunSpec, tuple[float | None, str]] = {}  # seeds take equally long
    for plan in plans:
        display.line(describe(plan, engine))
        for spec in plan.specs:
            what = f"  {spec.model}, seed {spec.seed}: "
            if store.is_done(spec) and not again:
                display.line(f"{what}done already")
                continue
            of_any_seed = replace(spec, seed=0)
            if of_any_seed not in estimates:
                estimates[of_any_seed] = estimate(spec, len(plan.dataset.train_index), known, engine.far)
            seconds, origin = estimates[of_any_seed]
            if seconds is None:
                display.line(f"{what}{origin}")
                continue
            lengths.append(seconds)
            display.line(f"{what}about {duration(seconds)} of training (from {origin})")
    count = len(engine.devices())
    total = makespan(sorted(lengths, reverse=True), [0.0] * count)
    together = f"on {count} devices" if count > 1 else "in all"
    display.line(
        f"about {duration(total)} {together}, evaluation, searches and the timing pass not counted; nothing was run"
    )
    return 0


def estimate(spec: RunSpec, train_images: int, known: list[Record], far: bool) -> tuple[float | None, str]:
    """(training seconds, their origin), or (None, why there are none)."""
    seconds, origin = known_seconds(spec, train_images, known)
    if seconds is not None:
        return seconds, origin
    if far:
        return None, "as long as it takes: no run of this model has been measured on such a device"
    events: list[dict[str, float]] = []
    outcome = call(child_estimate, (spec, train_images), events.append, grace=0)
    return (events[0]["seconds"], "a step timed now") if events else (None, f"{outcome.status}: {outcome.message}")


# --- do ------------------------------------------------------------------------------------------------------------


def time_if_needed(
    specs: list[RunSpec], home: Home, engine: Engine, display: Display, limit: float | None, again: bool
) -> bool:
    """Time the models that finished, in turns, unless one session has them all. False where one could not be timed.

    Once on each kind of device that took runs: no comparison of speeds spans two. Under `tuned` they are timed under
    `eager` too: both are reported.
    """
    finished = [spec for spec in specs if home.store.is_done(spec)]
    names = ["tuned", "eager"] if specs[0].setting.name == "tuned" else [specs[0].setting.name]
    timed = True
    for kind in dict.fromkeys(spec.device_name for spec in finished):
        device = next((device for device in engine.devices() if device.kind == kind), None)
        if device is None:
            display.line(f"not timed on {kind}: none of the devices here is one")
            timed = False
            continue
        models = {spec.model: replace(spec, device_name=kind) for spec in finished}
        for name in names:
            try:
                timed &= time_under(name, list(models.values()), home, engine, device, display, limit, again)
            except NotIdle as error:
                display.line(f"not timed on {kind}: {error}")
                timed = False
    return timed


def time_under(
    setting: str,
    specs: list[RunSpec],
    home: Home,
    engine: Engine,
    device: Device,
    display: Display,
    limit: float | None,
    again: bool,
) -> bool:
    """One session of these runs' models under a setting, unless there is one. False where one could not be timed.

    Raises NotIdle.
    """

    def fitting() -> Record | None:
        return timed_under(setting, specs, home.store)

    if not again and fitting():
        return True
    session = session_of([_under(setting, spec) for spec in specs], limit or SESSION_SECONDS_A_MODEL * len(specs))
    made = time_together(session, home.store, display, fitting, partial(call_there, engine, device, home))
    return made is not None and not made["failures"]


def call_there(
    engine: Engine,
    device: Device,
    home: Home,
    function: Callable[..., None],
    args: tuple[Any, ...],
    on_event: Callable[[dict[str, Any]], None],
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> Outcome:
    """As local.call, on a device whose machine does nothing else. Raises NotIdle."""
    _, surroundings = circumstances(device, True, False)
    more = {"timeout": timeout, "grace": grace, "environment": tuple(surroundings.items())}
    answer = call_alone(engine, device, home.task("session", reference(function), args, **more), on_event)
    home.store.adopt(answer.files)
    return answer.outcome


def timed_under(setting: str, specs: list[RunSpec], store: Store) -> Record | None:
    """The newest session under a setting that timed all of these runs that finished, if there is one."""
    found = [(record, _under(setting, spec)) for spec in specs if (record := store.record(spec)) is not None]
    done = [{**record, "spec": to_dict(as_set)} for record, as_set in found if record["status"] == "ok"]
    fits = (s for s in reversed(store.sessions()) if done and all(sessions_of(record, [s]) for record in done))
    return next(fits, None)


def _under(setting: str, spec: RunSpec) -> RunSpec:
    """The run under a setting for all, or as it is where that is the setting it was asked for."""
    return spec if setting == spec.setting.name else replace(spec, setting=SETTINGS[setting])


def finish(plans: list[Plan], store: Store, display: Display) -> bool:
    """Plots, the tables of these plans' comparisons, and where everything is. False where the plots failed."""
    drawn, written = False, [store.root / name for name in VIEWS]
    # A sidecar: the measurements are already safe, and whatever goes wrong in a plot is told, not raised.
    try:
        from bench.present.charts import build, static  # seconds of matplotlib, which no plan and no refusal needs

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
        from bench.present.pair_table import write_verdicts

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
