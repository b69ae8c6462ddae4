"""The command line. Example: python run_bench.py --models seresnet,vit_tiny

Everything heavy is imported inside the function that needs it: --help, list and a misspelt model answer at once,
and table and plot never import torch.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER, Terminated, UserError
from bench.core.files import inert, inert_line
from bench.plan import recipes
from bench.plan.budget import parse_budget, parse_fraction
from bench.plan.presets import PRESETS, parse_batch_sizes, parse_duration, parse_image_sizes, parse_seeds
from bench.plan.settings import SUMMARIES, parse_settings
from models import registry
from models.registry import ModelError, suggest

if TYPE_CHECKING:
    from bench.store.disk import Store

COMMANDS = ("run", "time", "compare", "table", "plot", "report", "data", "check", "cost", "list")
DEFAULT_MODELS = "seresnet,vit_tiny"
DEFAULT_STORE = "results/local"
EXECUTORS = {"local": "local", "ray": "ray or ray:ADDRESS", "slurm": "slurm, slurm:local or slurm:debug"}
SLURM_FLAVOURS = ("local", "debug")  # submitit's stand-ins for a cluster, on this machine


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors that suggest what was meant."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (run_bench.py --help)")


def make_parser() -> Parser:
    """All commands; `run` is what is meant when none is named."""
    parser = Parser(
        prog="run_bench.py",
        description="Train, time and compare SE-ResNets and small Vision Transformers under identical conditions.",
        epilog="Without a command, `run` is meant; `run_bench.py run --help` lists its flags.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser("run", help="train, time and compare models (the default)", allow_abbrev=False)
    run.add_argument(
        "--models", default=DEFAULT_MODELS, metavar="NAMES", help="by commas: names, globs (vit_*), -exclusions"
    )
    run.add_argument("--preset", choices=PRESETS, help="data set, recipe, seeds and budget in one word")
    run.add_argument("--dataset", metavar="NAMES", help="by commas: see `list datasets`; also npz:FILE and folder:DIR")
    run.add_argument("--recipe", metavar="NAME", help="see `list recipes`; also a .toml file")
    run.add_argument("--seeds", metavar="LIST", help="such as 0 or 0,1,2 or 0-4")
    run.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    run.add_argument("--budget", metavar="AMOUNT", help="such as 50epochs, 10min, 2PFLOP or 1Msamples a run")
    run.add_argument("--track", default="", metavar="NAME", help="shared, family or both: tuned models, see the README")
    run.add_argument("--trial-budget", default="", metavar="AMOUNT", help="of a first trial; default: a tenth of a run")
    run.add_argument("--target", type=float, metavar="SHARE", help="validation accuracy such as 0.9 to be timed")
    run.add_argument("--validations", type=int, metavar="N", help="in a run; default: after each epoch, or 10")
    run.add_argument("--batch-size", type=int, metavar="N", help="instead of the recipe's")
    run.add_argument("--train-fraction", default="1", metavar="F", help="stratified shares of the images, by commas")
    run.add_argument(
        "--cinic-train", choices=("train", "train+valid"), help="CINIC-10's parts to train on; default train"
    )
    run.add_argument("--image-size", type=int, metavar="PX", help="resize to this; default: the data set's own")
    run.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    run.add_argument(
        "--setting", default="eager", metavar="NAME", help="how all models are executed: see `list settings`"
    )
    run.add_argument("--tune-limit", metavar="TIME", help="of the search under --setting tuned; default 3 min a model")
    run.add_argument(
        "--runs-per-device", type=int, default=1, metavar="N", help="train N at once, for accuracy alone; default 1"
    )
    run.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="local, ray[:ADDRESS] or slurm: see docs/cluster.md; default local",
    )
    run.add_argument(
        "--slurm", default="", metavar="LIST", help="of its jobs, such as partition=gpu,gres=gpu:1,time=240"
    )
    run.add_argument("--retries", type=int, default=3, metavar="N", help="of a run whose machine was lost; default 3")
    run.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="downloads; default SEVIT_DATA or a cache directory")
    run.add_argument("--results", type=Path, default=Path(DEFAULT_STORE), metavar="DIR", help="the store to write")
    run.add_argument("--run-timeout", metavar="TIME", help="end a run after 90 (seconds), 30min or 2h; default: never")
    run.add_argument("--timing-limit", metavar="TIME", help="end the timing pass after this; default: 20 s a model")
    run.add_argument("--rerun", action="store_true", help="repeat what is already done")
    run.add_argument("--live", action="store_true", help="one screen for the sweep: what runs, what is next, time left")
    run.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of its time")

    timer = commands.add_parser(
        "time", help="time models in turns; what limits them, what they take", allow_abbrev=False
    )
    timer.add_argument("--models", default=DEFAULT_MODELS, metavar="NAMES", help="as for run")
    timer.add_argument("--explain", metavar="MODEL", help="where a training step of one model spends its time")
    timer.add_argument("--recipe", default="shared", metavar="NAME", help="whose training step; default shared")
    timer.add_argument("--batch-size", type=int, metavar="N", help="of the training step, instead of the recipe's")
    timer.add_argument(
        "--batch-sizes", metavar="LIST", help="of inference; default 1,8,32,128, on CUDA to 2048, and the step's"
    )
    timer.add_argument("--image-size", type=int, default=32, metavar="PX")
    timer.add_argument("--num-classes", type=int, default=10, metavar="N")
    timer.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    timer.add_argument(
        "--setting", default="eager", metavar="NAMES", help="by commas, a session each: see `list settings`"
    )
    timer.add_argument("--tune-limit", metavar="TIME", help="of the search for `tuned`; default 3 min a model")
    timer.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    timer.add_argument(
        "--within", type=float, default=2.0, metavar="PERCENT", help="stop at ratios this exact; default 2"
    )
    timer.add_argument("--time-limit", metavar="TIME", help="stop then all the same; default: one minute a model")
    timer.add_argument("--results", type=Path, default=Path(DEFAULT_STORE), metavar="DIR", help="the store to write")

    for name, text in (("table", "print the comparisons of a store"), ("plot", "draw the comparisons of a store")):
        reader = commands.add_parser(name, help=text, allow_abbrev=False)
        reader.add_argument(
            "--results", type=Path, action="append", metavar="DIR", help=f"repeatable; default {DEFAULT_STORE}"
        )
        reader.add_argument("--by-device", action="store_true", help="one comparison for each device and key")
        if name == "table":
            reader.add_argument(
                "--format", choices=("text", "markdown", "latex", "csv", "html", "json"), default="text"
            )
            reader.add_argument(
                "--columns", default="", metavar="KEYS", help="by commas, such as accuracy,flops,params"
            )
            reader.add_argument(
                "--where", default="", metavar="CONDITION", help="on the CSV format's columns: \"dataset == 'cifar10'\""
            )
            reader.add_argument(
                "--sort", default="", metavar="KEY", help="such as flops, or -flops from the most; also model, family"
            )
            reader.add_argument("--out", type=Path, metavar="FILE", help="write it there instead of printing it")
        else:
            reader.add_argument("--out", type=Path, metavar="DIR", help="default: plots/ in the first store")
            reader.add_argument("--formats", default="png,svg,pdf", metavar="LIST", help="default png,svg,pdf")
            reader.add_argument("--widths", default="1,2", metavar="LIST", help="columns of a paper; default 1,2")
            reader.add_argument(
                "--style", default="", metavar="STYLE", help="of matplotlib, an .mplstyle file, or FILE.py:FUNCTION"
            )

    report = commands.add_parser("report", help="one HTML page of a store, to read and to send", allow_abbrev=False)
    report.add_argument(
        "--results", type=Path, action="append", metavar="DIR", help=f"repeatable; default {DEFAULT_STORE}"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the first store")
    report.add_argument(
        "--images", choices=("all", "digits", "none"), default="all", help="wrongly classified ones; default all"
    )

    compare = commands.add_parser("compare", help="which of two models is better, and how sure", allow_abbrev=False)
    compare.add_argument("models", nargs="*", metavar="NAME", help="two or more; one: against all others; none: all")
    compare.add_argument(
        "--results", type=Path, action="append", metavar="DIR", help=f"repeatable; default {DEFAULT_STORE}"
    )
    compare.add_argument(
        "--margin", type=float, default=0.5, metavar="POINTS", help="of accuracy that make no difference"
    )
    compare.add_argument("--target", type=float, metavar="SHARE", help="validation accuracy; default: the runs' own")
    compare.add_argument("--format", choices=("text", "csv"), default="text")
    compare.add_argument("--out", type=Path, metavar="FILE", help="write the verdicts there too, as CSV")
    compare.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit 1 where a whole interval of A against B lies there: 'accuracy < -0.5', 'speed < 1'; repeatable",
    )

    data = commands.add_parser("data", help="fetch, verify, list and look at data sets", allow_abbrev=False)
    data.add_argument("action", choices=("list", "fetch", "verify", "show"))
    data.add_argument("names", nargs="*", metavar="NAME", help="of `data list`; show takes npz:FILE and folder:DIR too")
    data.add_argument("--data-dir", type=Path, metavar="DIR", help="default SEVIT_DATA or a cache directory")
    data.add_argument("--image-size", type=int, metavar="PX", help="resized to this (fetch, show); default: its own")
    data.add_argument("--out", type=Path, metavar="FILE", help="show: the contact sheet; default in results/local/data")
    data.add_argument("--format", choices=("text", "markdown"), default="text", help="of list")
    data.add_argument("--seed", type=int, default=0, metavar="N", help="show: of the random choice of images")

    check = commands.add_parser("check", help="is a store what it claims to be", allow_abbrev=False)
    check.add_argument(
        "--results", type=Path, action="append", metavar="DIR", help=f"repeatable; default {DEFAULT_STORE}"
    )
    check.add_argument("--rebuild", action="store_true", help="write the CSV files anew from the records first")

    cost = commands.add_parser("cost", help="parameters, FLOPs and activations of models", allow_abbrev=False)
    cost.add_argument("models", metavar="NAMES")
    cost.add_argument("--by-module", action="store_true", help="a table for each model")
    cost.add_argument("--depth", type=int, default=1, metavar="N", help="levels of modules; default 1")
    cost.add_argument("--num-classes", type=int, default=10, metavar="N")
    cost.add_argument("--image-size", default="32", metavar="LIST", help="in pixels, by commas; default 32")
    cost.add_argument(
        "--format", choices=("text", "markdown", "csv"), help="a row a model and size, with what the model is there"
    )

    lister = commands.add_parser("list", help="what there is to choose from", allow_abbrev=False)
    lister.add_argument("what", choices=("models", "datasets", "recipes", "presets", "settings"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 · 1 a run failed, or a store has problems · 2 the user's mistake or the world's · 130 Ctrl-C · 143 SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(ValueError):  # only the main thread may set it; elsewhere signals are the caller's
        signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments = parse(words)
        return COMMAND_FUNCTIONS[arguments.command](arguments)
    except (UserError, ModelError) as error:
        return _say(str(error), EXIT_USER)
    except KeyboardInterrupt as interruption:
        print(file=sys.stderr)
        kept = "interrupted; what was finished is kept, and the same command goes on from there"
        return _say(kept, EXIT_TERMINATED if isinstance(interruption, Terminated) else EXIT_INTERRUPTED)
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 0
    except MemoryError as error:
        return _say(f"not enough memory ({error or 'of this machine'}); a smaller --image-size takes less", EXIT_USER)
    except OSError as error:  # a full disk, a vanished directory: what was finished is on the disk already
        where = f" '{error.filename}'" if error.filename else ""
        return _say(f"{error.strerror or error}{where}; mend it, and the same command goes on from there", EXIT_USER)


def _say(sentence: str, code: int) -> int:
    print(f"run_bench.py: {inert(sentence)}", file=sys.stderr)
    return code


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated  # `kill` ends a sweep as Ctrl-C does: the child first, then in order


def parse(words: list[str]) -> argparse.Namespace:
    """Parse, with `run` understood. Raises UserError that names what was close to an unknown word."""
    parser = make_parser()
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["run", *words]
    elif not words[0].startswith("-") and words[0] not in COMMANDS:
        raise UserError(f"unknown command '{words[0]}'{suggest(words[0], COMMANDS)} Choices: {', '.join(COMMANDS)}")
    arguments, unknown = parser.parse_known_args(_with_sort_joined(words))
    if unknown:
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        flags = [s for action in subparsers.choices[words[0]]._actions for s in action.option_strings]
        hint = suggest(unknown[0].partition("=")[0], flags)
        raise UserError(f"unknown argument '{unknown[0]}'{hint} (run_bench.py {words[0]} --help)")
    return arguments


def _with_sort_joined(words: list[str]) -> list[str]:
    """`--sort -flops` as `--sort=-flops`: argparse would take what begins with a hyphen for a flag of its own."""
    for at, (word, following) in enumerate(itertools.pairwise(words)):
        if word == "--sort" and re.match(r"-\w", following):
            return [*words[:at], f"--sort={following}", *words[at + 2 :]]
    return words


def run(arguments: argparse.Namespace) -> int:
    """A sweep. Typos in models, recipe and seeds answer here, before torch is loaded."""
    names = registry.expand_names(arguments.models)
    if arguments.recipe:
        recipes.load(arguments.recipe)
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    (arguments.setting, *others) = parse_settings(arguments.setting)
    if others:
        raise UserError("--setting of run is one for all; `time` takes several")
    arguments.track = recipes.parse_tracks(arguments.track)
    arguments.train_fraction = parse_fraction(arguments.train_fraction)
    for flag in ("budget", "trial_budget"):
        if text := getattr(arguments, flag):
            parse_budget(text, f"--{flag.replace('_', '-')}")
    check_target(arguments.target)
    arguments.datasets = parse_datasets(arguments.dataset) if arguments.dataset else []
    if arguments.cinic_train and "cinic10" not in arguments.datasets:
        raise UserError("--cinic-train is about --dataset cinic10")
    if arguments.cinic_train == "train+valid":
        arguments.datasets = [f"{name}:train+valid" if name == "cinic10" else name for name in arguments.datasets]
    if arguments.trial_budget and not arguments.track:
        raise UserError("--trial-budget is of the searches in a track; add --track shared, family or both")
    arguments.executor = parse_executor(arguments.executor)
    _read_durations(arguments, "run_timeout", "timing_limit", "tune_limit")
    from bench.drive import sweep

    return sweep.run(arguments, names, seeds)


def parse_datasets(text: str) -> list[str]:
    """Names by commas; those in the name of a file or folder stay. Raises UserError for one that is named twice."""
    own = ("npz:", "folder:")
    names = [name.strip() for name in text.split(",")]
    if names[0].startswith(own) and not all(name.startswith(own) for name in names):
        names = [text]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--dataset takes different names by commas, not '{text}'")
    return names


def parse_executor(text: str) -> tuple[str, str]:
    """(engine, what stands behind its colon). Raises UserError that names the choices."""
    name, colon, where = text.partition(":")
    if name not in EXECUTORS:
        raise UserError(f"unknown executor '{name}'{suggest(name, EXECUTORS)} Choices: {', '.join(EXECUTORS.values())}")
    if colon and (name == "local" or not where or (name == "slurm" and where not in SLURM_FLAVOURS)):
        raise UserError(f"--executor {name} is written {EXECUTORS[name]}, not '{text}'")
    return name, where


def _read_durations(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        if (text := getattr(arguments, flag)) is not None:
            setattr(arguments, flag, parse_duration(text, f"--{flag.replace('_', '-')}"))


def time_models(arguments: argparse.Namespace) -> int:
    """A speed session, or --explain. Typos answer here, before torch is loaded."""
    names = registry.expand_names(arguments.explain or arguments.models)
    recipes.load(arguments.recipe)
    arguments.setting = parse_settings(arguments.setting)
    _read_durations(arguments, "time_limit", "tune_limit")
    sizes = parse_batch_sizes(arguments.batch_sizes) if arguments.batch_sizes is not None else None
    from bench.drive import speed

    if arguments.explain:
        return max(speed.explain(arguments, name) for name in names)
    return speed.run(arguments, names, sizes)


def open_stores(paths: list[Path] | None, even_empty: bool = False) -> list[Store]:
    """Stores to read; `even_empty`: also one without runs. Raises UserError for what is not there, or is no store."""
    from bench.store.disk import Store

    stores = [Store(path) for path in paths or [Path(DEFAULT_STORE)]]
    for store in stores:
        if not store.root.is_dir():
            raise UserError(f"no store '{store.root}'; run_bench.py writes one, --results DIR names another")
        begun = even_empty and any((store.root / folder).is_dir() for folder in ("runs", "speed"))
        if not begun and not any(store.root.glob("runs/*/record.json")):
            raise UserError(f"the store '{store.root}' holds no runs yet")
    return stores


def table(arguments: argparse.Namespace) -> int:
    """Print the comparisons of one or more stores."""
    from bench.analysis import tables
    from bench.core.files import write_atomically
    from bench.present.screen.progress import make_console
    from bench.present.table_choice import choose, parse_columns, parse_sort
    from bench.present.table_formats import render

    columns = parse_columns(arguments.columns) if arguments.columns else ()
    if arguments.sort:
        parse_sort(arguments.sort)  # a typo answers before the stores are read
    comparisons = tables.compare(open_stores(arguments.results), by_device=arguments.by_device)
    comparisons = choose(comparisons, arguments.where, arguments.sort)
    if arguments.out is None:
        print(render(comparisons, arguments.format, make_console().width, columns), end="")
        return 0
    try:
        write_atomically(arguments.out, render(comparisons, arguments.format, columns=columns).encode())
    except OSError as error:
        raise UserError(
            f"the table cannot be written to '{arguments.out}': {error.strerror}; choose another with --out"
        ) from None
    print(f"wrote {arguments.out}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print verdicts on pairs of models; 1 where a condition of --fail-if is met."""
    from bench.analysis.verdicts import parse_condition

    conditions = [parse_condition(text) for text in arguments.fail_if]
    if not 0 < arguments.margin < 100:
        raise UserError(f"--margin must lie between 0 and 100 points, not {arguments.margin:g}")
    check_target(arguments.target)
    if len(set(arguments.models)) < len(arguments.models):
        raise UserError("a model is named twice; name different ones to compare")
    stores = open_stores(arguments.results)
    from bench.analysis.compare import failing, pairs, untested
    from bench.core.files import write_atomically
    from bench.present.pair_table import render, to_csv_bytes

    made = pairs(stores, arguments.models, arguments.margin / 100, arguments.target)
    content = to_csv_bytes(made)
    text = content.decode() if arguments.format == "csv" else render(made)
    print("\n".join(map(inert_line, text.split("\n"))), end="")
    if arguments.out is not None:
        write_atomically(arguments.out, content)
    met = [(c, pair) for c in conditions for pair in failing(made, c)]
    # a gate that nothing can close would stay open for ever, and nobody would notice
    open_for_ever = [(c, pair) for c in conditions for pair in untested(made, c)]
    for word, cases in (("failed", met), ("cannot be tested, there is no interval", open_for_ever)):
        for c, pair in cases:
            who = f"{pair.a.model} against {pair.b.model}{f', track {pair.track}' if pair.track else ''}"
            print(inert_line(f"{word}: {c.metric} {c.operator} {c.number:g}: {who}"))
    return EXIT_FAILED if met or open_for_ever else 0


def check_target(target: float | None) -> None:
    """Raise UserError for a target that is no share of images."""
    if target is not None and not 0 < target < 1:
        raise UserError(f"--target must lie between 0 and 1, such as 0.9, not {target:g}")


def plot(arguments: argparse.Namespace) -> int:
    """Draw the comparisons of one or more stores."""
    formats = _among(arguments.formats, ("png", "svg", "pdf"), "--formats")
    widths = _among(arguments.widths, ("1", "2"), "--widths")
    stores = open_stores(arguments.results)
    from bench.present.charts import static, styles
    from bench.present.charts.build import charts_of

    styles.check_style(arguments.style)
    folder, kinds = arguments.out or stores[0].root / "plots", [kind for kind in static.FORMATS if kind in formats]
    if folder.is_file():
        raise UserError(f"'{folder}' is a file; --out of plot names a folder")
    charts, missing = charts_of(stores, arguments.by_device)
    if not charts:
        raise UserError("no run here finished, so that there is nothing to draw; `table` says how they ended")
    try:
        written = static.save_all(charts, folder, kinds, tuple(map(int, widths)), arguments.style)
    except OSError as error:
        raise UserError(f"plots cannot be written to '{folder}': {error.strerror}; choose another with --out") from None
    print("".join(f"wrote {path}\n" for path in written), end="")
    print("".join(inert_line(f"not drawn: {chart.title}. {chart.how}") + "\n" for chart in missing), end="")
    return 0


def _among(text: str, choices: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Words by commas, each one of the choices. Raises UserError."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if unknown := [word for word in words if word not in choices]:
        raise UserError(f"{flag} takes {', '.join(choices)} by commas, not '{unknown[0]}'")
    return words


def report(arguments: argparse.Namespace) -> int:
    """Write one or more stores as a page that needs no network."""
    stores = open_stores(arguments.results, even_empty=True)
    from bench.present.report.page import size_words, write
    from bench.present.screen.progress import Display, make_console

    path = arguments.out or stores[0].root / "report.html"
    with Display(make_console()) as display:
        size = write(stores, path, arguments.images, display.progress)
    print(f"wrote {inert_line(str(path))}, {size_words(size)}; it opens from the disk, without a network")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Say everything that is wrong with one or more stores; 1 where there is something."""
    from bench.store.check import check as check_store

    count = 0
    for store in open_stores(arguments.results):
        found, closing = check_store(store, arguments.rebuild)
        print("".join(f"{inert(problem)}\n" for problem in found) + inert(closing))
        count += len(found)
    return EXIT_FAILED if count else 0


def cost(arguments: argparse.Namespace) -> int:
    """Count parameters, FLOPs and activations; by module, or at several image sizes in one table."""
    names = registry.expand_names(arguments.models)
    (image_size, *more) = sizes = parse_image_sizes(arguments.image_size)
    for flag, value in (("--num-classes", arguments.num_classes), ("--depth", arguments.depth)):
        if not 1 <= value <= 100_000:
            raise UserError(f"{flag} must be at least 1, not {value}")
    if more or arguments.format:
        if arguments.by_module:
            raise UserError("--by-module is at one --image-size and has no --format")
        from bench.present.cost_table import write_table

        write_table(names, arguments.num_classes, sizes, arguments.format or "text")
        return 0
    from bench.measure.cost import ModuleCost, by_module, count
    from bench.measure.run import audit_notes, check_model

    if not arguments.by_module:
        heads = ("parameters", "multiply-adds", "flops_2x", "activations", "train_flops_2x", "audit")
        print(f"{'':24}" + "".join(f"{head:>16}" for head in heads))
    for name in names:
        check_model(name, arguments.num_classes, image_size)
        model = registry.build(name, arguments.num_classes, image_size)
        rows: list[ModuleCost] = []
        try:
            found = count(model, image_size)
            if arguments.by_module:
                rows = by_module(model, image_size, arguments.depth)
        except Exception as error:  # fvcore traces a stranger's model, and tracing may raise anything
            raise ModelError(f"the FLOPs of '{name}' cannot be counted: {type(error).__name__}: {error}") from error
        if rows:
            width = max(24, max(len(row.name) for row in rows) + 2)
            print(f"{'':{width}}{'parameters':>14}{'multiply-adds':>18}{'activations':>16}")
            for row in rows:
                print(f"{row.name or name:{width}}{row.params:>14,}{row.flops:>18,}{row.activations:>16,}")
        else:
            train = f"{found.train_flops_2x:,}" if found.train_flops_2x else "–"
            figures = f"{found.params:>16,}{found.flops:>16,}{2 * found.flops:>16,}{found.activations:>16,}{train:>16}"
            print(f"{name:24}{figures}{found.audit.verdict:>16}")
        print("".join(f"  {note}\n" for note in audit_notes(found.audit)), end="")
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
        from bench.data.catalogue import CATALOGUE
        from bench.data.datasets import DIGITS_SUMMARY

        rows = [("digits", DIGITS_SUMMARY), *((name, known.summary) for name, known in CATALOGUE.items())]
        rows += [
            ("npz:FILE", "train_x, train_y, test_x, test_y[, classes]: uint8 images, integer labels"),
            ("folder:DIR", "train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files"),
        ]
    elif arguments.what == "settings":
        rows = list(SUMMARIES.items())
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


def data(arguments: argparse.Namespace) -> int:
    """Fetch, verify, list or show data sets; no torch is needed."""
    from bench.cli import data as data_command
    from bench.plan import presets

    presets.check_image_size(arguments.image_size)
    return data_command.run(arguments)


COMMAND_FUNCTIONS = {
    "data": data,
    "run": run,
    "time": time_models,
    "compare": compare,
    "table": table,
    "plot": plot,
    "report": report,
    "check": check,
    "cost": cost,
    "list": list_choices,
}
