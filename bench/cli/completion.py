"""Shell completion. Example: python run_bench.py completion bash

shtab writes the script from the parser. Added here: the names, `run` as the command that need not be named,
and `python run_bench.py`, which shells take for a command called python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from bench.cli.list import ROWS
from bench.cli.parser import COMMANDS, Parser, actions_of, make_parser
from bench.cli.requests import EXECUTORS, CompletionRequest
from bench.plan.recipes import TRACKS

# Which names an argument takes, by its flag or destination and, for positional ones, its command.
LISTS = {
    "--models": "models",
    "--explain": "models",
    "--reference": "models",
    "--claim": "models",
    "compare models": "models",
    "cost models": "models",
    "--dataset": "datasets",
    "data names": "datasets",
    "--preset": "presets",
    "--recipe": "recipes",
    "--setting": "settings",
    "--track": "tracks",
    "--executor": "executors",
}
BASH = """
_sevit_python() {
  COMPREPLY=()
  if [[ ${COMP_WORDS[1]##*/} == run_bench.py && $COMP_CWORD -gt 1 ]]; then
    COMP_WORDS=("${COMP_WORDS[@]:1}") COMP_CWORD=$((COMP_CWORD - 1))
    _shtab_run_bench_py
  fi
}
complete -o default -F _sevit_python python python3
"""
ZSH = """
_sevit_python() {
  if [[ ${words[2]:t} == run_bench.py ]] && (( CURRENT > 2 )); then
    shift words
    (( CURRENT -= 1 ))
    _shtab_run_bench_py
  elif (( $+functions[_python] )); then
    _python "$@"
  else
    _files
  fi
}
[[ $zsh_eval_context[-1] == eval ]] && compdef _sevit_python python python3
"""
END = {"bash": BASH, "zsh": ZSH}


def show(request: CompletionRequest) -> int:
    """Print the script; returns the exit code."""
    print(script(request.shell), end="")
    return 0


def script(shell: str) -> str:
    """What a shell must read (`eval "$(…)"`) to complete commands, flags and names."""
    import shtab  # here: no other command needs it

    parser = make_parser()
    for command in COMMANDS:
        for action in actions_of(parser, command):
            what = LISTS.get(action.option_strings[-1] if action.option_strings else f"{command} {action.dest}")
            if what:
                action.complete = _by_commas(what)  # type: ignore[attr-defined]
            elif action.metavar in ("FILE", "DIR", "STORE"):
                action.complete = shtab.FILE if action.metavar == "FILE" else shtab.DIRECTORY  # type: ignore[attr-defined]
    _take(parser, actions_of(parser, "run"))
    return shtab.complete(parser, shell) + END[shell]


def _take(parser: Parser, actions: Iterable[argparse.Action]) -> None:
    """The flags of `run` without it."""
    for action in actions:
        if "--help" not in action.option_strings:
            parser._add_action(action)


def _by_commas(what: str) -> dict[str, str | dict[str, str]]:
    """How each shell completes one of a list's names, also after others and a comma."""
    words = " ".join(names(what))
    function = f'_sevit_{what}() {{ compgen -P "${{1%"${{1##*,}}"}}" -W "{words}" -- "${{1##*,}}"; }}'
    return {"bash": f"_sevit_{what}", "zsh": f"_sequence compadd - {words}", "preamble": {"bash": function}}


def names(what: str) -> list[str]:
    """The names of a list, without the forms that stand for one's own, as in npz:FILE."""
    own = {"tracks": (*TRACKS, "both"), "executors": tuple(EXECUTORS)}
    every = own[what] if what in own else [row[0] for row in ROWS[what]()]
    return [name for name in every if name.replace("_", "").isalnum()]
