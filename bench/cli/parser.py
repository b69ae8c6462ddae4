"""The commands and their flags. Example: make_parser().parse_args(["table", "--by-device"])

A flag that several commands have is described once, in SHARED or in the parent parser of the commands that read stores.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from bench.core.errors import UserError
from bench.plan.request import DEFAULT_STORE

COMMANDS = {
    "run": "train, time and compare models (the default)",
    "time": "time models in turns; report what limits them and what they cost",
    "compare": "say which of two models is better, and how certain that is",
    "table": "print the comparisons in a store",
    "plot": "plot the comparisons in a store",
    "report": "write a self-contained HTML report on a store",
    "export": "write runs for the dashboard of TensorBoard or MLflow",
    "data": "list, fetch, verify and view data sets",
    "weights": "print how to load the weights that a run kept",
    "check": "verify that a store's files are intact and agree",
    "cost": "count parameters, FLOPs and activations of models",
    "list": "list models, data sets, recipes, presets or settings",
    "completion": "print a script that makes a shell complete commands and names",
    "help": "show the help of a command",
}
STORE_READERS = ("compare", "table", "plot", "report", "export", "weights", "check")
USAGE = {
    "compare": "[MODEL ...] [options]",
    "export": "--to {tensorboard,mlflow} [STORE ...] [options]",
    "weights": "[RUN] [options]",
    "data": "{list,fetch,verify,show} [NAME ...] [options]",
    "cost": "MODEL [MODEL ...] [options]",
    "list": "{models,datasets,recipes,presets,settings}",
    "completion": "{bash,zsh}",
    "help": "[COMMAND]",
}
DEFAULT_MODELS = "seresnet,vit_tiny"
NAME_LISTS = ("--models", "--explain", "--claim")


def path(text: str) -> Path:
    """A path with `~` expanded. Raises argparse.ArgumentTypeError for "", which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(os.path.expanduser(text))


def output(text: str) -> Path:
    """A file or folder to write. Raises argparse.ArgumentTypeError for a device or a pipe.

    Files are replaced whole: /dev/null would be a plain file from then on, for all processes of the machine.
    """
    name = path(text)
    if (name.exists() and not (name.is_file() or name.is_dir())) or name.parent.resolve() == Path("/dev"):
        raise argparse.ArgumentTypeError(f"'{text}' is a device or a pipe; name a file")
    return name


def whole(text: str) -> int:
    """A whole number. Raises argparse.ArgumentTypeError."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None


def positive(text: str) -> int:
    """A whole number of at least 1. Raises argparse.ArgumentTypeError."""
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def decimal(text: str) -> float:
    """A number. Raises argparse.ArgumentTypeError."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not '{text}'") from None


# Flags that several commands have. A command may replace parts, such as a default of its own.
SHARED: dict[str, dict[str, Any]] = {
    "--models": {
        "default": DEFAULT_MODELS,
        "metavar": "NAMES",
        "help": "models, separated by commas or spaces: names, globs (vit_*), exclusions (-NAME); "
        f"default {DEFAULT_MODELS}",
    },
    "--recipe": {"metavar": "NAME", "help": "recipe: a name of `list recipes`, or a .toml file"},
    "--batch-size": {"type": positive, "metavar": "N", "help": "train with this batch size instead of the recipe's"},
    "--image-size": {
        "type": whole,
        "metavar": "PX",
        "help": "resize images to PX × PX; default: the data set's own size",
    },
    "--num-classes": {"type": whole, "default": 10, "metavar": "N", "help": "build models for N classes; default 10"},
    "--data-dir": {
        "type": path,
        "metavar": "DIR",
        "help": "keep downloads here; default SEVIT_DATA or a cache directory",
    },
    "--tune-limit": {
        "metavar": "TIME",
        "help": "time limit for the search under --setting tuned; default 3 min per model",
    },
    "--deterministic": {"action": "store_true", "help": "use deterministic kernels only"},
    "--device": {"metavar": "NAME", "help": "use cpu, cuda or cuda:N; default: cuda if available, else cpu"},
    "--results": {
        "type": path,
        "default": DEFAULT_STORE,
        "metavar": "DIR",
        "help": f"write to this store; default {DEFAULT_STORE}",
    },
    "--reference": {
        "metavar": "MODEL",
        "help": "state ratios relative to this model; default: seresnet if it is among them, else the first",
    },
}

EXAMPLES = {
    "": [
        "run_bench.py --models seresnet,vit_tiny",
        "run_bench.py compare seresnet vit_tiny",
        "run_bench.py time --models seresnet,vit_tiny",
        "run_bench.py help run",
    ],
    "run": [
        "run_bench.py --models seresnet,vit_tiny",
        "run_bench.py --preset quick --dry-run",
        "run_bench.py --models 'vit_*,-vit_lite' --dataset cifar10 --seeds 0-4",
        "run_bench.py --dataset digits --track both --budget 10min --target 0.9",
        "run_bench.py --models seresnet mymodel.py:make --dataset folder:photos",
        "run_bench.py --preset quick --save-config sweep.toml --dry-run",
        "run_bench.py --config sweep.toml --seeds 5-9",
    ],
    "time": [
        "run_bench.py time --models seresnet,vit_tiny",
        "run_bench.py time --setting eager,compiled --batch-sizes 1,32,128",
        "run_bench.py time --explain vit_tiny --batch-size 32",
    ],
    "compare": [
        "run_bench.py compare",
        "run_bench.py compare seresnet vit_tiny --margin 1",
        "run_bench.py compare seresnet,vit_tiny --fail-if 'accuracy < -0.5'",
        "run_bench.py compare seresnet,vit_tiny --require 'accuracy > -0.5'",
    ],
    "table": [
        "run_bench.py table",
        "run_bench.py table --columns accuracy,flops --sort -flops",
        "run_bench.py table --where \"dataset == 'cifar10'\" --format csv",
    ],
    "plot": ["run_bench.py plot", "run_bench.py plot --formats pdf,svg --widths 1,2 --out figures"],
    "report": [
        "run_bench.py report",
        "run_bench.py report --results results/local --out report.html",
        "run_bench.py report --claim resnet56,vit_flops",
    ],
    "export": [
        "run_bench.py export --to tensorboard results/local",
        "run_bench.py export --to mlflow results/local --out dashboard",
    ],
    "data": [
        "run_bench.py data list",
        "run_bench.py data fetch cifar10 cifar100",
        "run_bench.py data show npz:mine.npz --out sheet.png",
    ],
    "weights": ["run_bench.py weights", "run_bench.py weights seresnet-digits-smoke-s0"],
    "check": ["run_bench.py check --results results/reference/cpu-2core", "run_bench.py check --rebuild"],
    "cost": [
        "run_bench.py cost seresnet vit_tiny",
        "run_bench.py cost '*' --image-size 32,64 --format markdown",
        "run_bench.py cost seresnet --by-module --depth 2",
    ],
    "list": ["run_bench.py list models", "run_bench.py list presets"],
    "completion": ["run_bench.py completion bash", "run_bench.py completion zsh"],
    "help": ["run_bench.py help", "run_bench.py help run"],
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are exceptions of one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message.removeprefix('argument ')} ({self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("sevit-bench")
        except PackageNotFoundError:
            text = "(not installed)"
        print(f"sevit-bench {text}")
        parser.exit()


class _Group(Protocol):
    """A parser, or a group of its flags."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def _shared(group: _Group, flag: str, **changes: Any) -> None:
    group.add_argument(flag, **{**SHARED[flag], **changes})


def make_parser() -> Parser:
    """All commands, each with the parser for its flags."""
    parser = Parser(
        prog="run_bench.py",
        usage="%(prog)s [COMMAND] [options]",
        description="Train, time and compare SE-ResNets and small Vision Transformers under\nidentical conditions. "
        "The default command is `run`.",
        epilog=_examples(""),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", prog=parser.prog)
    stores = Parser(add_help=False)
    stores.add_argument(
        "--results",
        type=path,
        action="append",
        metavar="DIR",
        help=f"read this store; repeatable; default {DEFAULT_STORE}",
    )
    for name, add_flags in {
        "run": _run_flags,
        "time": _time_flags,
        "compare": _compare_flags,
        "table": _table_flags,
        "plot": _plot_flags,
        "report": _report_flags,
        "export": _export_flags,
        "data": _data_flags,
        "weights": _weights_flags,
        "check": _check_flags,
        "cost": _cost_flags,
        "list": _list_flags,
        "completion": _completion_flags,
        "help": _help_flags,
    }.items():
        command = commands.add_parser(
            name,
            usage=f"%(prog)s {USAGE.get(name, '[options]')}",
            help=COMMANDS[name],
            description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
            epilog=_examples(name),
            parents=[stores] if name in STORE_READERS else [],
        )
        add_flags(command)
    return parser


def _examples(command: str) -> str:
    return "\n".join(["examples:", *(f"  python {line}" for line in EXAMPLES[command])])


def _run_flags(run: Parser) -> None:
    sweep = run.add_argument_group("the whole sweep as a file")
    sweep.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help='take flags from this TOML file, as in models = ["seresnet"]; flags given here win',
    )
    sweep.add_argument("--save-config", type=path, metavar="FILE", help="write this sweep as such a file")
    what = run.add_argument_group("what to train")
    _shared(what, "--models")
    what.add_argument(
        "--preset", metavar="NAME", help="choose data set, recipe, seeds and length together: see `list presets`"
    )
    _shared(what, "--recipe")
    what.add_argument("--seeds", metavar="LIST", help="train with these seeds, such as 0 or 0,1,2 or 0-4")
    what.add_argument("--epochs", type=positive, metavar="N", help="train for N epochs instead of the recipe's")
    what.add_argument(
        "--budget", metavar="AMOUNT", help="length of each run, such as 50epochs, 10min, 2PFLOP or 1Msamples"
    )
    _shared(what, "--batch-size")
    what.add_argument(
        "--validations", type=whole, metavar="N", help="validate N times per run; default: every epoch, or 10 times"
    )
    what.add_argument(
        "--target", type=decimal, metavar="SHARE", help="report the time to this validation accuracy, such as 0.9"
    )
    what.add_argument(
        "--track",
        default="",
        metavar="NAME",
        help="search for each model's learning rate under one recipe (shared), its family's (family), or both",
    )
    what.add_argument("--trial-budget", metavar="AMOUNT", help="length of each first trial; default: a tenth of a run")
    data = run.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAMES",
        help="data sets, separated by commas: names of `list datasets`, npz:FILE, folder:DIR",
    )
    data.add_argument(
        "--train-fraction",
        default="1",
        metavar="LIST",
        help="train on stratified fractions of the images, such as 0.1,1",
    )
    data.add_argument(
        "--cinic-train", choices=("train", "train+valid"), help="train on these parts of CINIC-10; default train"
    )
    _shared(data, "--image-size")
    _shared(data, "--data-dir")
    execution = run.add_argument_group("how it is executed")
    execution.add_argument(
        "--setting", default="auto", metavar="NAME", help="execution setting for all models: see `list settings`"
    )
    _shared(execution, "--tune-limit")
    execution.add_argument(
        "--runs-per-device",
        type=whole,
        default=1,
        metavar="N",
        help="on a CPU: train N runs at once; their times are not compared; default 1",
    )
    execution.add_argument(
        "--together",
        type=whole,
        metavar="N",
        help="train N seeds of a model at once in one process, after one alone that gives the times; "
        "default: on a GPU as many as are worth it, on a CPU 1",
    )
    _shared(execution, "--deterministic")
    _where_and_output_flags(run)


def _where_and_output_flags(run: Parser) -> None:
    where = run.add_argument_group("where")
    _shared(where, "--device")
    where.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="use local, ray[:ADDRESS] or slurm: see docs/cluster.md; default local",
    )
    where.add_argument(
        "--slurm", default="", metavar="LIST", help="options for SLURM jobs, such as partition=gpu,gres=gpu:1,time=240"
    )
    where.add_argument(
        "--retries",
        type=whole,
        default=3,
        metavar="N",
        help="retry a run up to N times if its machine is lost; default 3",
    )
    output = run.add_argument_group("output")
    _shared(output, "--results")
    _shared(output, "--reference")
    output.add_argument(
        "--run-timeout", metavar="TIME", help="time limit for each run: 90 (seconds), 30min or 2h; default: none"
    )
    output.add_argument(
        "--timing-limit",
        metavar="TIME",
        help="time limit for the whole timing pass; default: 20 s per model, on CUDA 8 s",
    )
    output.add_argument(
        "--keep-weights", action="store_true", help="keep each run's final weights beside its record: see `weights`"
    )
    output.add_argument("--rerun", action="store_true", help="repeat finished runs")
    shown = output.add_mutually_exclusive_group()
    shown.add_argument(
        "--live", action="store_true", help="show progress on one live screen: current runs, next runs, time left"
    )
    shown.add_argument("--quiet", action="store_true", help="print only the final table")
    output.add_argument("--dry-run", action="store_true", help="print the plan and its estimated time; run nothing")


def _time_flags(time: Parser) -> None:
    what = time.add_argument_group("what to time")
    _shared(what, "--models")
    what.add_argument(
        "--explain", metavar="NAMES", help="show how the time of a training step is spent in these models"
    )
    _shared(what, "--recipe", default="shared", help="time this recipe's training step; default shared")
    _shared(what, "--batch-size", help="use this batch size in the training step instead of the recipe's")
    what.add_argument(
        "--batch-sizes",
        metavar="LIST",
        help="batch sizes for inference; default 1,8,32,128 (up to 2048 on CUDA) and the training step's",
    )
    what.add_argument(
        "--train-batch-sizes",
        metavar="LIST",
        help="time training steps at these batch sizes too; default: on CUDA 64 to 2048 by doubling",
    )
    data = time.add_argument_group("data")
    _shared(data, "--image-size", default=32, help="use random images of this size; default 32")
    _shared(data, "--num-classes")
    execution = time.add_argument_group("how it is executed")
    execution.add_argument(
        "--setting",
        default="auto",
        metavar="NAMES",
        help="one session per setting, separated by commas: see `list settings`; default auto",
    )
    _shared(execution, "--tune-limit")
    _shared(execution, "--deterministic")
    _shared(time.add_argument_group("where"), "--device")
    output = time.add_argument_group("output")
    output.add_argument(
        "--within",
        type=decimal,
        default=2.0,
        metavar="PERCENT",
        help="stop once ratios are known to within PERCENT; default 2",
    )
    output.add_argument(
        "--time-limit", metavar="TIME", help="time limit for the whole session; default: 90 s per model, on CUDA 45 s"
    )
    output.add_argument(
        "--starts", type=whole, default=3, metavar="N", help="time in N fresh processes if the limit allows; default 3"
    )
    output.add_argument("--quiet", action="store_true", help="print only the tables")
    _shared(output, "--results")
    _shared(output, "--reference")


def _compare_flags(compare: Parser) -> None:
    compare.add_argument(
        "models", nargs="*", metavar="MODEL", help="models to compare; one is compared with all others; default: all"
    )
    _shared(compare, "--reference", help="list this model's comparisons first; default: seresnet")
    compare.add_argument(
        "--margin",
        type=decimal,
        default=0.5,
        metavar="POINTS",
        help="accuracy difference treated as equivalent; default 0.5",
    )
    compare.add_argument(
        "--target",
        type=decimal,
        metavar="SHARE",
        help="compare times to this validation accuracy; default: the runs' target",
    )
    compare.add_argument("--format", choices=("text", "csv"), default="text", help="print text (default) or CSV")
    compare.add_argument("--out", type=output, metavar="FILE", help="write the verdicts to this file too, as CSV")
    compare.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit 1 if the whole interval of A against B meets this: 'accuracy < -0.5', 'speed < 1'; repeatable",
    )
    compare.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit 1 unless the whole interval of A against B meets this: 'accuracy > -0.5'; repeatable",
    )


def _drawn_flags(reader: Parser) -> None:
    _shared(reader, "--reference")
    reader.add_argument(
        "--by-device", action="store_true", help="make a separate table for each device and set of conditions"
    )


def _table_flags(table: Parser) -> None:
    _drawn_flags(table)
    table.add_argument(
        "--format",
        choices=("text", "markdown", "latex", "csv", "html", "json"),
        default="text",
        metavar="NAME",
        help="print text (default), markdown, latex, csv, html or json",
    )
    table.add_argument(
        "--columns",
        default="",
        metavar="KEYS",
        help="show these columns, separated by commas, such as accuracy,flops,params",
    )
    table.add_argument(
        "--where",
        default="",
        metavar="CONDITION",
        help="show only rows that satisfy this, such as \"dataset == 'cifar10'\"",
    )
    table.add_argument(
        "--sort", default="", metavar="KEY", help="sort by model, family or a column; -flops sorts in descending order"
    )
    table.add_argument("--out", type=output, metavar="FILE", help="write to this file instead of printing")


def _plot_flags(plot: Parser) -> None:
    _drawn_flags(plot)
    plot.add_argument(
        "--out", type=output, metavar="DIR", help="write to this folder; default plots/ in the first store"
    )
    plot.add_argument(
        "--formats", default="png", metavar="LIST", help="formats, separated by commas: png, svg, pdf; default png"
    )
    plot.add_argument("--widths", default="2", metavar="LIST", help="draw 1 or 2 columns wide, or 1,2; default 2")
    plot.add_argument(
        "--style", default="", metavar="STYLE", help="draw in a style of matplotlib, or that of an .mplstyle file"
    )


def _report_flags(report: Parser) -> None:
    _shared(report, "--reference")
    report.add_argument(
        "--claim",
        metavar="A,B",
        help="open with this pair, and say whether A is faster and at most the margin less accurate",
    )
    report.add_argument(
        "--out", type=output, metavar="FILE", help="write to this file; default: report.html in the first store"
    )
    report.add_argument(
        "--images", choices=("all", "digits", "none"), default="all", help="show misclassified images; default all"
    )


def _export_flags(export: Parser) -> None:
    export.add_argument("stores", nargs="*", type=path, metavar="STORE", help="read these stores, as --results does")
    export.add_argument("--to", required=True, choices=("tensorboard", "mlflow"), help="whose dashboard")
    export.add_argument(
        "--out",
        type=output,
        metavar="DIR",
        help="write to this folder; default results/tensorboard, or MLFLOW_TRACKING_URI or else results/mlflow",
    )


def _weights_flags(weights: Parser) -> None:
    weights.add_argument(
        "run", nargs="?", default="", metavar="RUN", help="the run, by its id or a part of it; default: the only one"
    )


def _check_flags(check: Parser) -> None:
    check.add_argument("--rebuild", action="store_true", help="first regenerate the CSV files from the records")


def _data_flags(data: Parser) -> None:
    data.add_argument("action", choices=("list", "fetch", "verify", "show"), help="what to do")
    data.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="data sets named by `data list`; show also accepts npz:FILE and folder:DIR",
    )
    _shared(data, "--data-dir")
    _shared(data, "--image-size", help="resize images to PX × PX (fetch, show); default: the data set's own size")
    data.add_argument(
        "--out", type=output, metavar="FILE", help="write the contact sheet here (show); default in results/local/data"
    )
    data.add_argument("--format", choices=("text", "markdown"), default="text", help="output format of the list")
    data.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="random seed for choosing the images (show); default 0"
    )


def _cost_flags(cost: Parser) -> None:
    cost.add_argument(
        "models", nargs="+", metavar="MODEL", help="names, globs (vit_*), exclusions (-NAME); see `list models`"
    )
    cost.add_argument("--by-module", action="store_true", help="print a table of modules for each model")
    cost.add_argument(
        "--depth", type=whole, default=1, metavar="N", help="show N levels of modules (--by-module); default 1"
    )
    _shared(cost, "--num-classes")
    cost.add_argument(
        "--image-size",
        default="32",
        metavar="LIST",
        help="count at these sizes in pixels, separated by commas; default 32",
    )
    cost.add_argument(
        "--format", choices=("text", "markdown", "csv"), help="output format of the table, one row per model and size"
    )


def _list_flags(lists: Parser) -> None:
    lists.add_argument("what", choices=("models", "datasets", "recipes", "presets", "settings"), help="what to list")


def _completion_flags(completion: Parser) -> None:
    completion.add_argument("shell", choices=("bash", "zsh"), help="the shell")


def _help_flags(help_: Parser) -> None:
    help_.add_argument("topic", nargs="?", metavar="COMMAND", help="the command; default: a summary of all")


def actions_of(parser: Parser, command: str) -> list[argparse.Action]:
    """What a command takes."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    actions: list[argparse.Action] = commands.choices[command]._actions
    return actions


def flags_of(parser: Parser, command: str) -> list[str]:
    """The flags of a command."""
    return [flag for action in actions_of(parser, command) for flag in action.option_strings]


def join_names(words: Sequence[str]) -> list[str]:
    """The words with lists of models joined by commas, and `--sort -flops` by an equals sign.

    argparse would take an exclusion (`-vit_lite`), or what follows --sort, for a flag.
    """
    joined: list[str] = []
    for word in words:
        last = joined[-1] if joined else ""
        flag = word.startswith("--") or word == "-h"
        hyphen = re.match(r"-\w\w|-[*?\[]", word) and not word[1].isdecimal()
        if (last == "--sort" and hyphen) or (last in NAME_LISTS and not flag):
            joined[-1] = f"{last}={word}"
        elif (last.partition("=")[0] in NAME_LISTS and "=" in last and not flag) or (
            words[0] == "cost" and hyphen and len(joined) > 1 and not last.startswith("--")
        ):
            joined[-1] = f"{last},{word}"
        else:
            joined.append(word)
    return joined
