"""The command line. Example: python run_bench.py --models seresnet,vit_tiny

Everything heavy is imported inside the function that needs it: --help, list and a misspelt model answer at once,
and table and plot never import torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench import presets, recipes
from bench.errors import UserError
from bench.presets import PRESETS, Preset
from bench.spec import Recipe, RunSpec, Setting
from models import registry
from models.registry import ModelError

if TYPE_CHECKING:
    import torch

    from bench.data.datasets import Dataset
    from bench.progress import Display
    from bench.runner import DataSource
    from bench.store import Store
    from bench.tables import Comparison

COMMANDS = ("run", "table", "plot", "cost", "list")
DEFAULT_MODELS = "seresnet,vit_tiny"
DEFAULT_STORE = "results/local"
EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors that suggest what was meant."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (run_bench.py --help)")


def make_parser() -> Parser:
    """All commands; `run` is what is meant when none is named."""
    parser = Parser(prog="run_bench.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser("run", help="train, time and compare models (the default)", allow_abbrev=False)
    run.add_argument("--models", default=DEFAULT_MODELS, metavar="NAMES", help="names, globs, !exclusions, by commas")
    run.add_argument("--preset", choices=PRESETS, help="data set, recipe, seeds and budget in one word")
    run.add_argument("--dataset", metavar="NAME", help="see `list datasets`; also npz:FILE and folder:DIR")
    run.add_argument("--recipe", metavar="NAME", help="see `list recipes`; also a .toml file")
    run.add_argument("--seeds", metavar="LIST", help="such as 0 or 0,1,2 or 0-4")
    run.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    run.add_argument("--batch-size", type=int, metavar="N", help="instead of the recipe's")
    run.add_argument("--train-fraction", type=float, metavar="F", help="a stratified share of the training images")
    run.add_argument("--image-size", type=int, metavar="PX", help="resize to this; default: the data set's own")
    run.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    run.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="downloads; default SEVIT_DATA or a cache directory")
    run.add_argument("--results", type=Path, default=Path(DEFAULT_STORE), metavar="DIR", help="the store to write")
    run.add_argument("--rerun", action="store_true", help="repeat what is already done")
    run.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of its time")

    for name, text in (("table", "print the comparisons of a store"), ("plot", "draw the comparisons of a store")):
        reader = commands.add_parser(name, help=text, allow_abbrev=False)
        reader.add_argument(
            "--results", type=Path, action="append", metavar="DIR", help=f"repeatable; default {DEFAULT_STORE}"
        )
        if name == "table":
            reader.add_argument("--format", choices=("text", "markdown", "csv", "latex"), default="text")
        else:
            reader.add_argument("--out", type=Path, metavar="DIR", help="default: plots/ in the first store")

    cost = commands.add_parser("cost", help="parameters, FLOPs and activations of models", allow_abbrev=False)
    cost.add_argument("models", metavar="NAMES")
    cost.add_argument("--by-module", action="store_true", help="a table for each model")
    cost.add_argument("--depth", type=int, default=1, metavar="N", help="levels of modules; default 1")
    cost.add_argument("--num-classes", type=int, default=10, metavar="N")
    cost.add_argument("--image-size", type=int, default=32, metavar="PX")

    lister = commands.add_parser("list", help="what there is to choose from", allow_abbrev=False)
    lister.add_argument("what", choices=("models", "datasets", "recipes", "presets"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (a run failed), 2 (the user's mistake), 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parse(words)
        return {"run": run, "table": table, "plot": plot, "cost": cost, "list": list_choices}[arguments.command](
            arguments
        )
    except (UserError, ModelError) as error:
        print(f"run_bench.py: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 0


def parse(words: list[str]) -> argparse.Namespace:
    """Parse, with `run` understood. Raises UserError that names what was close to an unknown word."""
    parser = make_parser()
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["run", *words]
    elif not words[0].startswith("-") and words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"unknown command '{words[0]}'{hint} Choices: {', '.join(COMMANDS)}")
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        flags = [s for action in subparsers.choices[words[0]]._actions for s in action.option_strings]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"unknown argument '{unknown[0]}'{hint} (run_bench.py {words[0]} --help)")
    return arguments


# --- run -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset
    warnings: list[str]


def run(arguments: argparse.Namespace) -> int:
    """Plan, train what is missing, time the models in turns, write the views, show the table."""
    names = registry.expand_names(arguments.models)
    if arguments.recipe:
        recipes.load(arguments.recipe)  # a typo answers before torch is loaded
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    from bench.progress import Display, make_console
    from bench.store import Store

    display = Display(make_console())
    store = Store(arguments.results)
    plan = make_plan(arguments, names, seeds, display)
    for warning in plan.warnings:
        display.line(f"warning: {warning}")
    if arguments.dry_run:
        return show_plan(plan, store, display)
    store.check_writable()
    todo = [spec for spec in plan.specs if arguments.rerun or not store.is_done(spec)]
    if done := len(plan.specs) - len(todo):
        display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
    with display:
        failures = sum(not execute(spec, plan, store, display) for spec in todo)
        failures += not time_if_needed(plan.specs, store, display, again=arguments.rerun)
    return finish(plan, store, display, failures)


def make_plan(arguments: argparse.Namespace, names: list[str], seeds: list[int] | None, display: Display) -> Plan:
    """From arguments to specs: preset, data, recipe, device, models, each checked. Raises UserError and ModelError."""
    from bench import environment
    from bench.data import datasets
    from bench.runner import DataSource, check_model
    from bench.spec import expand

    device = environment.choose_device(arguments.device)
    preset = choose_preset(arguments, device, display)
    fraction = preset.train_fraction if arguments.train_fraction is None else arguments.train_fraction
    if not 0 < fraction <= 1:
        raise UserError(f"--train-fraction must lie in (0, 1], not {fraction}")
    if arguments.image_size is not None and not 8 <= arguments.image_size <= 1024:
        raise UserError(f"--image-size must lie in 8..1024, not {arguments.image_size}")
    data_dir = arguments.data_dir or datasets.default_data_dir()
    source = DataSource(arguments.dataset or preset.dataset, data_dir, arguments.image_size, fraction)
    dataset = source.load()
    recipe = make_recipe(arguments, preset, dataset, device)
    warnings = []
    for name in names:
        warnings += check_model(name, dataset.ref.num_classes, dataset.ref.image_size)
    name = environment.device_name(device)
    environment.hide_other_gpus(device)
    specs = expand(
        [(name, registry.source_hash(name)) for name in names],
        dataset.ref,
        recipe,
        Setting(),
        (device.type, name),
        seeds or parse_seeds(preset.seeds),
        arguments.deterministic,
    )
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
            "No CUDA device: preset smoke, small digits, to see that all works. The full CIFAR-10 comparison: "
            f"python run_bench.py --preset full --models {arguments.models}"
        )
    return PRESETS[name]


def make_recipe(arguments: argparse.Namespace, preset: Preset, dataset: Dataset, device: torch.device) -> Recipe:
    """The recipe as it will be used: overridden, without augmentation that changes labels, its precision resolved."""
    from bench.environment import resolve_precision

    recipe = recipes.load(arguments.recipe or preset.recipe)
    epochs = preset.epochs if arguments.epochs is None and arguments.recipe is None else arguments.epochs
    changes = {"epochs": epochs, "batch_size": arguments.batch_size}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})
    recipes.check(recipe, "recipe")
    images = len(dataset.train_index)
    if recipe.batch_size > images:
        raise UserError(f"batch size {recipe.batch_size} is more than the {images} training images; use --batch-size")
    return dataclasses.replace(
        recipe,
        flip=recipe.flip and dataset.flip_keeps_labels,
        precision=resolve_precision(recipe.precision, device),
    )


def parse_seeds(text: str) -> list[int]:
    """`0,2` or `0-4` or both. Raises UserError."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first + last) > 9:
            raise UserError(f"--seeds '{text}': write whole numbers by commas, or a range such as 0-4")
        seeds.extend(range(int(first), int(last or first) + 1))
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds '{text}' is empty or names a seed twice")
    return seeds


def steps_of(spec: RunSpec, dataset: Dataset) -> int:
    """Training steps of a run."""
    return spec.recipe.epochs * (len(dataset.train_index) // spec.recipe.batch_size)


def show_plan(plan: Plan, store: Store, display: Display) -> int:
    """What would be run, and about how long it would take."""
    from bench.progress import duration
    from bench.runner import estimate_seconds

    known, total = store.runs(), 0.0
    display.line(describe(plan))
    for spec in plan.specs:
        if store.is_done(spec):
            display.line(f"  {spec.model}, seed {spec.seed}: done already")
            continue
        seconds, origin = estimate_seconds(spec, len(plan.dataset.train_index), known)
        total += seconds
        display.line(f"  {spec.model}, seed {spec.seed}: about {duration(seconds)} of training (from {origin})")
    display.line(f"about {duration(total)} in all, evaluation and the timing pass not counted; nothing was run")
    return 0


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


def execute(spec: RunSpec, plan: Plan, store: Store, display: Display) -> bool:
    """One run in a child process; a failure becomes a record. True where it went well."""
    from bench.executors.local import call
    from bench.runner import child_run, failure_record, save_traceback
    from bench.store import now

    if spec is plan.specs[0] or not display.described:
        display.line(describe(plan))
        display.described = True
    recipe, started = spec.recipe, now()
    title = f"{spec.model}, seed {spec.seed} ({plan.specs.index(spec) + 1} of {len(plan.specs)})"
    display.run_started(title, steps_of(spec, plan.dataset), recipe.epochs, recipe.batch_size)
    try:
        outcome = call(child_run, (spec, plan.source, store.root), display.run_event)
    except KeyboardInterrupt:
        if not store.is_done(spec):
            store.write_record(spec, failure_record(spec, "interrupted", "stopped by the user", started))
            store.rebuild_views()
        raise
    if outcome.status == "ok":
        metrics = (store.record(spec) or {})["metrics"]
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
    """Time the models that finished, in turns, unless one session already has them all. True unless it failed."""
    from bench.executors.local import call
    from bench.runner import BLOCKS, child_session
    from bench.store import session_of

    finished = {spec.model: spec for spec in specs if store.is_done(spec)}
    if not finished:
        return True
    sessions = store.sessions()
    records = [store.record(spec) for spec in finished.values()]
    found = [session_of(r, sessions) for r in records if r is not None]
    if not again and all(s is not None and set(finished) <= set(s["models"]) for s in found):
        return True
    display.session_started(f"timing {', '.join(finished)} in turns", BLOCKS)
    outcome = call(child_session, (list(finished.values()), store.root), display.session_event)
    if outcome.status != "ok":
        display.line(f"  the timing pass failed: {outcome.message}")
    return outcome.status == "ok"


def finish(plan: Plan, store: Store, display: Display, failures: int) -> int:
    """Views, plots, the table of this plan's comparison, and where everything is."""
    from bench import plots, tables

    written = store.rebuild_views()
    comparisons = [c for c in tables.compare([store]) if mine(c, plan.specs)]
    try:
        written += plots.save_all([store], store.root / "plots")
    except Exception as error:  # a sidecar: the measurements are already safe
        display.line(f"the plots could not be drawn: {type(error).__name__}: {error}")
        failures += 1
    display.line("\n" + tables.render(comparisons, "text", display.console.width).rstrip() + "\n")
    for path in written:
        if path.suffix != ".svg":
            display.line(f"wrote {path}")
    return EXIT_FAILED if failures else 0


def mine(comparison: Comparison, specs: list[RunSpec]) -> bool:
    """Whether a comparison holds runs of this plan."""
    wanted = {spec.run_id for spec in specs}
    return bool(wanted & {*comparison.run_ids, *(f.run_id for f in comparison.failures)})


# --- table, plot, cost, list ---------------------------------------------------------------------------------------


def open_stores(paths: list[Path] | None) -> list[Store]:
    """Stores to read. Raises UserError for a directory that is not there or has no records."""
    from bench.store import Store

    stores = [Store(path) for path in paths or [Path(DEFAULT_STORE)]]
    for store in stores:
        if not store.root.is_dir():
            raise UserError(f"no store '{store.root}'; run_bench.py writes one, --results DIR names another")
        if not any(store.root.glob("runs/*/record.json")):
            raise UserError(f"the store '{store.root}' holds no runs yet")
    return stores


def table(arguments: argparse.Namespace) -> int:
    """Print the comparisons of one or more stores."""
    from bench import tables
    from bench.progress import make_console

    comparisons = tables.compare(open_stores(arguments.results))
    print(tables.render(comparisons, arguments.format, make_console().width), end="")
    return 0


def plot(arguments: argparse.Namespace) -> int:
    """Draw the comparisons of one or more stores."""
    from bench import plots

    stores = open_stores(arguments.results)
    folder = arguments.out or stores[0].root / "plots"
    try:
        written = plots.save_all(stores, folder)
    except OSError as error:
        raise UserError(f"plots cannot be written to '{folder}': {error.strerror}; choose another with --out") from None
    print("".join(f"wrote {path}\n" for path in written) or "no finished runs to draw\n", end="")
    return 0


def cost(arguments: argparse.Namespace) -> int:
    """Count parameters, FLOPs and activations; with --by-module for every part of a model."""
    names = registry.expand_names(arguments.models)
    for flag, value in (("--num-classes", arguments.num_classes), ("--image-size", arguments.image_size)):
        if value < 1:
            raise UserError(f"{flag} must be at least 1, not {value}")
    from bench.cost import by_module
    from bench.runner import check_model

    for name in names:
        check_model(name, arguments.num_classes, arguments.image_size)
        model = registry.build(name, arguments.num_classes, arguments.image_size)
        rows = by_module(model, arguments.image_size, arguments.depth if arguments.by_module else 0)
        width = max(len(row.name) for row in rows) + 2
        if arguments.by_module or name == names[0]:
            print(f"{'':{max(width, 24)}}{'parameters':>14}{'multiply-adds':>18}{'activations':>16}")
        for row in rows:
            label = row.name or name
            print(f"{label:{max(width, 24)}}{row.params:>14,}{row.flops:>18,}{row.activations:>16,}")
    return 0


def list_choices(arguments: argparse.Namespace) -> int:
    """What there is to choose from, without importing torch."""
    rows: list[tuple[str, ...]]
    if arguments.what == "models":
        rows = [(name, entry.family, entry.summary) for name, entry in registry.CATALOGUE.items()]
        rows += [
            ("timm:NAME[k=v,…]", "external", "any classifier of timm"),
            ("torchvision:NAME", "external", "any classifier of torchvision"),
            ("FILE.py:FUNCTION", "external", "your function (num_classes, image_size) -> nn.Module; runs the file"),
            ("MODULE:FUNCTION", "external", "the same, from an importable module"),
        ]
    elif arguments.what == "datasets":
        from bench.data.datasets import SOURCES

        rows = [(name, source.summary) for name, source in SOURCES.items()]
        rows += [
            ("npz:FILE", "train_x, train_y, test_x, test_y[, classes]: uint8 images, integer labels"),
            ("folder:DIR", "train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files"),
        ]
    elif arguments.what == "recipes":
        rows = [(name, " ".join((recipe.__doc__ or "").split())) for name, recipe in recipes.RECIPES.items()]
        rows += [("FILE.toml", 'yours: base = "shared", then what differs')]
    else:
        rows = [
            (
                name,
                f"{p.dataset}, recipe {p.recipe}, seeds {p.seeds}" + (f", {p.epochs} epochs" if p.epochs else ""),
                p.cost,
            )
            for name, p in PRESETS.items()
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]))
    return 0
