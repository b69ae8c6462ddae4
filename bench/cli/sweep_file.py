"""A whole sweep as one TOML file. Example: python run_bench.py --models seresnet --save-config sweep.toml --dry-run

A key is the long name of a flag of `run`, its value what stands behind the flag; flags that take several values also
take a list: `seeds = [0, 1, 2]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli import hints
from bench.cli.parser import Parser, actions_of, decimal, positive, whole
from bench.core.errors import UserError
from bench.core.files import read_toml, write_atomically
from bench.core.text import writable
from models.errors import suggest

NOT_KEYS = ("help", "config", "save-config")
ONCE = ("dry-run", "rerun", "live")  # how a sweep is run this time: a file may say them, none that is saved does
LISTS = ("NAMES", "LIST")  # the metavars of flags that take several values
RIVALS = {"epochs": "budget", "budget": "epochs"}  # one on the command line replaces the other in the file


def words_of(path: Path, parser: Parser, given: Sequence[str]) -> list[str]:
    """The flags that a file stands for, but for those that the words `given` beside it replace.

    Raises UserError with the file, the key and the choices.
    """
    flags = {
        action.option_strings[-1].removeprefix("--"): action
        for action in actions_of(parser, "run")
        if action.option_strings
    }
    flags = {key: action for key, action in flags.items() if key not in NOT_KEYS}
    on_the_line = {word.partition("=")[0] for word in given}
    words: list[str] = []
    for key, value in read_toml(path, "sweep file").items():
        if key not in flags:
            hint = hints.flag_hint(key)
            more = f"; {hint}" if hint else f"{suggest(key, flags)} Choices: {', '.join(flags)}"
            raise UserError(f"{path}: unknown key '{key}'{more}")
        own = [f"--{key}={_text(value, flags[key], f'{path}: {key}')}"]
        if flags[key].nargs == 0:
            own = [f"--{key}"] if value else []
        try:
            parser.parse_args(["run", *own])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if f"--{RIVALS.get(key, key)}" not in on_the_line:
            words += own
    return words


def _text(value: Any, action: argparse.Action, where: str) -> str:
    """A value as it is written behind its flag. Raises UserError, which names `where`, for one of another type."""
    several = action.metavar in LISTS
    kinds: dict[object, tuple[tuple[type, ...], str]] = {
        whole: ((int,), "a whole number"),
        positive: ((int,), "a whole number"),
        decimal: ((int, float), "a number"),
        None: ((str, int, float), "text or a number"),
    }
    types, words = ((bool,), "true or false") if action.nargs == 0 else kinds.get(action.type, ((str,), "text"))
    parts = value if several and isinstance(value, list) else [value]
    if not parts or any(type(part) not in types for part in parts):
        raise UserError(f"{where} must be {words}{', or a list of them' if several else ''}, not {value!r}")
    return ",".join(map(str, parts))


def text_of(arguments: argparse.Namespace, models: Sequence[str]) -> str:
    """The sweep that was asked for as a file's content: `models`, and every flag that has a value, defaults too."""
    import tomli_w

    values = {name.replace("_", "-"): value for name, value in vars(arguments).items()} | {"models": list(models)}
    given = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in values.items()
        if key not in ("command", *NOT_KEYS, *ONCE) and value is not None and value is not False and value != ""
    }
    return writable(tomli_w.dumps(given))


def save(path: Path, text: str) -> None:
    """Write a sweep's file. Raises UserError where that cannot be done."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"the sweep cannot be written to '{path}': {error.strerror}; choose another file") from None
