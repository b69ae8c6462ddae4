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
    "time": "time models in turns, say what limits them and what they take",
    "compare": "say which of two models is better, and how sure that is",
    "table": "print the comparisons of a store",
    "plot": "draw the comparisons of a store",
    "report": "write one HTML page about a store, to read and to send",
    "data": "fetch, verify, list and look at data sets",
    "check": "check that a store is what it claims to be",
    "cost": "count parameters, FLOPs and activations of models",
    "list": "list what there is to choose from",
    "help": "show the help of a command",
}
STORE_READERS = ("compare", "table", "plot", "report", "check")
USAGE = {
    "compare": "[MODEL ...] [options]",
    "data": "{list,fetch,verify,show} [NAME ...] [options]",
    "cost": "MODEL [MODEL ...] [options]",
    "list": "{models,datasets,recipes,presets,settings}",
    "help": "[COMMAND]",
}
DEFAULT_MODELS = "seresnet,vit_tiny"
NAME_LISTS = ("--models", "--explain")


def path(text: str) -> Path:
    """A path with `~` expanded."""
    return Path(os.path.expanduser(text))


# Flags that several commands have. A command may replace parts, such as a default of its own.
SHARED: dict[str, dict[str, Any]] = {
    "--models": {
        "default": DEFAULT_MODELS,
        "metavar": "NAMES",
        "help": "models by commas or spaces: names, globs (vit_*), -exclusions; see `list models`; "
        f"default {DEFAULT_MODELS}",
    },
    "--recipe": {"metavar": "NAME", "help": "use this recipe: see `list recipes`; also a .toml file"},
    "--batch-size": {"type": int, "metavar": "N", "help": "train with this batch size instead of the recipe's"},
    "--image-size": {"type": int, "metavar": "PX", "help": "resize images to this; default: the data set's own size"},
    "--num-classes": {"type": int, "default": 10, "metavar": "N", "help": "build models for N classes; default 10"},
    "--data-dir": {
        "type": path,
        "metavar": "DIR",
        "help": "keep downloads here; default SEVIT_DATA or a cache directory",
    },
    "--tune-limit": {
        "metavar": "TIME",
        "help": "time limit for the search of --setting tuned; default 3 min per model",
    },
    "--deterministic": {"action": "store_true", "help": "use deterministic kernels only"},
    "--device": {"metavar": "NAME", "help": "use cpu, cuda or cuda:N; default: cuda where there is one"},
    "--results": {
        "type": path,
        "default": DEFAULT_STORE,
        "metavar": "DIR",
        "help": f"write to this store; default {DEFAULT_STORE}",
    },
    "--reference": {
        "metavar": "MODEL",
        "help": "state ratios relative to this model; default: seresnet where it takes part, else the first",
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
    "report": ["run_bench.py report", "run_bench.py report --results results/local --out report.html"],
    "data": [
        "run_bench.py data list",
        "run_bench.py data fetch cifar10 cifar100",
        "run_bench.py data show npz:mine.npz --out sheet.png",
    ],
    "check": ["run_bench.py check --results results/reference/cpu-2core", "run_bench.py check --rebuild"],
    "cost": [
        "run_bench.py cost seresnet vit_tiny",
        "run_bench.py cost '*' --image-size 32,64 --format markdown",
        "run_bench.py cost seresnet --by-module --depth 2",
    ],
    "list": ["run_bench.py list models", "run_bench.py list presets"],
    "help": ["run_bench.py help", "run_bench.py help run"],
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are exceptions of one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} ({self.prog} --help)")


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
        "Without a command, `run` is meant.",
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
        "data": _data_flags,
        "check": _check_flags,
        "cost": _cost_flags,
        "list": _list_flags,
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
    what = run.add_argument_group("what to train")
    _shared(what, "--models")
    what.add_argument("--preset", metavar="NAME", help="set data set, recipe, seeds and length: see `list presets`")
    _shared(what, "--recipe")
    what.add_argument("--seeds", metavar="LIST", help="train with these seeds, such as 0 or 0,1,2 or 0-4")
    what.add_argument("--epochs", type=int, metavar="N", help="train for N epochs instead of the recipe's")
    what.add_argument("--budget", metavar="AMOUNT", help="train each run for 50epochs, 10min, 2PFLOP or 1Msamples")
    _shared(what, "--batch-size")
    what.add_argument("--validations", type=int, metavar="N", help="validate N times a run; default: each epoch, or 10")
    what.add_argument("--target", type=float, metavar="SHARE", help="time to this validation accuracy, such as 0.9")
    what.add_argument(
        "--track",
        default="",
        metavar="NAME",
        help="search the learning rate per model: under one recipe (shared), each family's own (family), or both",
    )
    what.add_argument("--trial-budget", metavar="AMOUNT", help="budget of a first trial; default: a tenth of a run")
    data = run.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAMES",
        help="train on these data sets, by commas: see `list datasets`; also npz:FILE and folder:DIR",
    )
    data.add_argument("--train-fraction", default="1", metavar="LIST", help="train on stratified shares, such as 0.1,1")
    data.add_argument(
        "--cinic-train", choices=("train", "train+valid"), help="train on these parts of CINIC-10; default train"
    )
    _shared(data, "--image-size")
    _shared(data, "--data-dir")
    execution = run.add_argument_group("how it is executed")
    execution.add_argument(
        "--setting", default="eager", metavar="NAME", help="execute all models like this: see `list settings`"
    )
    _shared(execution, "--tune-limit")
    execution.add_argument(
        "--runs-per-device", type=int, default=1, metavar="N", help="train N runs at once, for accuracy only; default 1"
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
        "--retries", type=int, default=3, metavar="N", help="retry a run whose machine was lost N times; default 3"
    )
    output = run.add_argument_group("output")
    _shared(output, "--results")
    _shared(output, "--reference")
    output.add_argument(
        "--run-timeout", metavar="TIME", help="time limit for each run: 90 (seconds), 30min or 2h; default: none"
    )
    output.add_argument(
        "--timing-limit", metavar="TIME", help="time limit for the timing pass; default: 20 s per model"
    )
    output.add_argument("--rerun", action="store_true", help="repeat runs that are done")
    output.add_argument(
        "--live", action="store_true", help="show the sweep on one screen: what runs, what is next, time left"
    )
    output.add_argument("--dry-run", action="store_true", help="print the plan and its estimated time; run nothing")


def _time_flags(time: Parser) -> None:
    what = time.add_argument_group("what to time")
    _shared(what, "--models")
    what.add_argument("--explain", metavar="NAMES", help="show where a training step of these models spends its time")
    _shared(what, "--recipe", default="shared", help="time this recipe's training step; default shared")
    _shared(what, "--batch-size", help="use this batch size in the training step instead of the recipe's")
    what.add_argument(
        "--batch-sizes",
        metavar="LIST",
        help="batch sizes of inference; default 1,8,32,128, on CUDA up to 2048, and the training step's",
    )
    data = time.add_argument_group("data")
    _shared(data, "--image-size", default=32, help="use random images of this size; default 32")
    _shared(data, "--num-classes")
    execution = time.add_argument_group("how it is executed")
    execution.add_argument(
        "--setting", default="eager", metavar="NAMES", help="run a session under each, by commas: see `list settings`"
    )
    _shared(execution, "--tune-limit")
    _shared(execution, "--deterministic")
    _shared(time.add_argument_group("where"), "--device")
    output = time.add_argument_group("output")
    output.add_argument(
        "--within", type=float, default=2.0, metavar="PERCENT", help="stop once ratios are this exact; default 2"
    )
    output.add_argument("--time-limit", metavar="TIME", help="stop at this time even so; default: one minute per model")
    _shared(output, "--results")
    _shared(output, "--reference")


def _compare_flags(compare: Parser) -> None:
    compare.add_argument("models", nargs="*", metavar="MODEL", help="two or more; one: against all others; none: all")
    _shared(compare, "--reference", help="compare this model with the others first; default: seresnet")
    compare.add_argument(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="accuracy difference treated as equivalent; default 0.5",
    )
    compare.add_argument(
        "--target",
        type=float,
        metavar="SHARE",
        help="time to this validation accuracy; default: the runs' own",
    )
    compare.add_argument("--format", choices=("text", "csv"), default="text", help="print text (default) or CSV")
    compare.add_argument("--out", type=path, metavar="FILE", help="write the verdicts to this file too, as CSV")
    compare.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit 1 where the whole interval of A against B meets this: 'accuracy < -0.5', 'speed < 1'; repeatable",
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
    reader.add_argument("--by-device", action="store_true", help="keep devices and comparability keys apart")


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
        "--columns", default="", metavar="KEYS", help="show these columns, by commas, such as accuracy,flops,params"
    )
    table.add_argument(
        "--where", default="", metavar="CONDITION", help="show rows that meet this, such as \"dataset == 'cifar10'\""
    )
    table.add_argument(
        "--sort", default="", metavar="KEY", help="sort by model, family or a column; -flops: the largest first"
    )
    table.add_argument("--out", type=path, metavar="FILE", help="write to this file instead of printing")


def _plot_flags(plot: Parser) -> None:
    _drawn_flags(plot)
    plot.add_argument("--out", type=path, metavar="DIR", help="write to this folder; default plots/ in the first store")
    plot.add_argument("--formats", default="png", metavar="LIST", help="write png, svg and pdf, by commas; default png")
    plot.add_argument("--widths", default="2", metavar="LIST", help="draw 1 or 2 columns wide, or 1,2; default 2")
    plot.add_argument(
        "--style", default="", metavar="STYLE", help="draw in a style of matplotlib, or that of an .mplstyle file"
    )


def _report_flags(report: Parser) -> None:
    _shared(report, "--reference")
    report.add_argument(
        "--out", type=path, metavar="FILE", help="write to this file; default: report.html in the first store"
    )
    report.add_argument(
        "--images", choices=("all", "digits", "none"), default="all", help="show misclassified images; default all"
    )


def _check_flags(check: Parser) -> None:
    check.add_argument("--rebuild", action="store_true", help="write the CSV files anew from the records first")


def _data_flags(data: Parser) -> None:
    data.add_argument("action", choices=("list", "fetch", "verify", "show"), help="what to do")
    data.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets of `data list`; show takes npz:FILE and folder:DIR too"
    )
    _shared(data, "--data-dir")
    _shared(data, "--image-size", help="resize images to this (fetch, show); default: the data set's own size")
    data.add_argument(
        "--out", type=path, metavar="FILE", help="write the contact sheet here (show); default in results/local/data"
    )
    data.add_argument("--format", choices=("text", "markdown"), default="text", help="print the list as this")
    data.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the images drawn (show); default 0")


def _cost_flags(cost: Parser) -> None:
    cost.add_argument("models", nargs="+", metavar="MODEL", help="names, globs (vit_*), -exclusions; see `list models`")
    cost.add_argument("--by-module", action="store_true", help="print a table of modules for each model")
    cost.add_argument(
        "--depth", type=int, default=1, metavar="N", help="show N levels of modules (--by-module); default 1"
    )
    _shared(cost, "--num-classes")
    cost.add_argument(
        "--image-size", default="32", metavar="LIST", help="count at these sizes in pixels, by commas; default 32"
    )
    cost.add_argument("--format", choices=("text", "markdown", "csv"), help="print one row per model and size as this")


def _list_flags(lists: Parser) -> None:
    lists.add_argument("what", choices=("models", "datasets", "recipes", "presets", "settings"), help="what to list")


def _help_flags(help_: Parser) -> None:
    help_.add_argument("topic", nargs="?", metavar="COMMAND", help="the command; default: all of them in short")


def flags_of(parser: Parser, command: str) -> list[str]:
    """The flags of a command."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [flag for action in commands.choices[command]._actions for flag in action.option_strings]


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
