"""Which rows and columns a table shows, in which order. Example: choose(comparisons, "runs > 1", "-accuracy")"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.analysis.tables import ABOUT, COLUMNS, Column, Comparison, Row
from bench.core.errors import UserError
from bench.core.files import inert
from bench.present.table_formats import to_frame
from models.registry import suggest

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, which only --where needs


def parse_columns(text: str) -> tuple[Column, ...]:
    """The columns of comma-separated keys. Raises UserError for an unknown one, naming the choices."""
    by_key = {column.key: column for column in COLUMNS}
    keys = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for key in keys:
        _check_key(key, list(by_key), "column")
    return tuple(by_key[key] for key in keys)


def parse_sort(text: str) -> tuple[str, bool]:
    """(key, whether descending) of `KEY` or `-KEY`. Raises UserError for an unknown one, naming the choices."""
    key = text.strip().removeprefix("-")
    _check_key(key, ["model", "family", *(column.key for column in COLUMNS)], "key to sort by")
    return key, text.strip().startswith("-")


def _check_key(key: str, choices: list[str], what: str) -> None:
    if key not in choices:
        raise UserError(f"unknown {what} '{key}'{suggest(key, choices)} Choices: {', '.join(choices)}")


def choose(comparisons: list[Comparison], where: str = "", sort: str = "") -> list[Comparison]:
    """The comparisons with the rows and failures that meet `where`, sorted by `sort`, by default by accuracy and name.

    `where`: a condition on `to_frame`'s columns, in pandas' syntax. A note says how many rows were left out; a
    comparison without any left is dropped. Raises UserError for an invalid condition or key, and where no row meets
    the condition.
    """
    if where.strip():
        comparisons = _where(comparisons, where.strip())
    if not sort:
        return comparisons
    key, descending = parse_sort(sort)
    return [replace(c, rows=_sorted(c.rows, key, descending)) for c in comparisons]


def _sorted(rows: Sequence[Row], key: str, descending: bool) -> tuple[Row, ...]:
    """Equal rows keep their order; rows without the figure come last either way."""
    if key in ("model", "family"):
        return tuple(sorted(rows, key=lambda row: str(getattr(row, key)), reverse=descending))
    having = sorted((r for r in rows if key in r.values), key=lambda r: r.values[key].value, reverse=descending)
    return (*having, *(row for row in rows if key not in row.values))


def _where(comparisons: list[Comparison], condition: str) -> list[Comparison]:
    kept = iter(_meeting(to_frame(comparisons), condition))
    chosen = []
    for comparison in comparisons:
        rows = tuple(row for row in comparison.rows if next(kept))  # the order of to_frame's rows
        failures = tuple(failure for failure in comparison.failures if next(kept))
        if len(rows) < len(comparison.rows):
            note = f"Rows shown: {len(rows)} of {len(comparison.rows)}, by --where {inert(condition)}"
            comparison = replace(comparison, notes=(*comparison.notes, note))
        if rows or failures:
            chosen.append(replace(comparison, rows=rows, failures=failures))
    if not chosen:
        shares = "; accuracies are shares in 0..1 there" if "accuracy" in condition else ""
        raise UserError(f"no row meets --where {condition} (figures are as in --format csv{shares})")
    # the notes on damaged records have neither rows nor failures; no condition may hide them
    return chosen + [c for c in comparisons if not c.rows and not c.failures]


def _meeting(frame: pd.DataFrame, condition: str) -> list[bool]:
    """For each row whether it meets the condition. Raises UserError, naming the columns."""
    import pandas as pd

    try:
        _check_condition(condition, list(frame.columns))
        met = frame.eval(condition, engine="python")
    except UserError:
        raise
    except Exception as error:  # pandas raises whatever Python does: a syntax error, types that do not compare
        reason = str(error.msg if isinstance(error, SyntaxError) else error).split("\n")[0]
        raise UserError(f"--where {condition}: {reason or type(error).__name__}; {_columns_list()}") from None
    if not isinstance(met, pd.Series) or not pd.api.types.is_bool_dtype(met) or len(met) != len(frame):
        raise UserError(
            f"--where {condition}: not a condition; write one such as \"dataset == 'cifar10'\"; {_columns_list()}"
        )
    return [bool(value) for value in met.fillna(False)]


# pandas would call any method of a column; some of them write files.
METHODS = ("str", "contains", "startswith", "endswith", "lower", "upper", "len", "isin", "isna", "notna", "between")
NAMED = (ast.Name, ast.Attribute)


def _check_condition(condition: str, columns: list[str]) -> None:
    """Raise UserError for anything that a condition does not need, and SyntaxError for what is not an expression."""
    nodes = list(ast.walk(ast.parse(condition, mode="eval")))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    named = [(node, node.id if isinstance(node, ast.Name) else node.attr) for node in nodes if isinstance(node, NAMED)]
    # 9**9**9 never ends
    if any(isinstance(node, ast.MatMult | ast.Pow) for node in nodes) or any("__" in name for _, name in named):
        raise UserError("--where takes a condition on the columns, without @, without ** and without __")
    for node, name in named:
        if isinstance(node, ast.Attribute) and name not in METHODS:
            raise UserError(f"--where knows no method '{name}'{suggest(name, METHODS)} It knows {', '.join(METHODS)}")
        if isinstance(node, ast.Name) and name not in columns and name not in called:
            raise UserError(f"--where knows no column '{name}'{suggest(name, columns)} There, {_columns_list()}")


def _columns_list() -> str:
    keys = ", ".join(("model", "family", "runs", "status", "message", *ABOUT, *(column.key for column in COLUMNS)))
    return f"the columns are {keys}, with their intervals and ratios as in the CSV format"
