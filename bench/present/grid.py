"""Tables and notes for a terminal of any width. Example: print(grid(["model", "ms"], [["seresnet", "17.9"]], 80))"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

NAMES, GAP = 16, 3  # characters for a model's name, and between two columns


def wrap(text: str, width: int, indent: str = "") -> str:
    """The text broken at words; `indent` begins all lines but the first. Words longer than a line stay whole."""
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def notes_text(notes: Sequence[str], width: int) -> str:
    """Notes beneath a table, each with a dot before it; ends in a newline unless there is none."""
    return "".join(f"{wrap(f'· {note}', width, '  ')}\n" for note in notes)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, continued: bool = True) -> str:
    """A table of cells, which may have several lines; the first column holds names and is folded where it must be.

    Columns that have no room beside the others are continued in another table beneath, with the names again, or left
    out where not `continued`.
    """
    groups = _side_by_side(heads, rows, width)
    return "\n".join(_table(heads, rows, columns, width) for columns in (groups if continued else groups[:1]))


def heads_shown(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The heads of the columns for which `grid` has room beside the names."""
    return [heads[index] for index in _side_by_side(heads, rows, width)[0]]


def _side_by_side(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns' numbers, without that of the names, in groups that fit."""
    groups: list[list[int]] = []
    room = 0
    for index in range(1, len(heads)):
        needed = GAP + _width(heads, rows, index)
        if not groups or needed > room:
            groups.append([])
            room = width - NAMES
        groups[-1].append(index)
        room -= needed
    return groups or [[]]


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]], index: int) -> int:
    return max(len(line) for cells in (heads, *rows) for line in cells[index].split("\n"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: list[int], width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    needed = NAMES + sum(GAP + _width(heads, rows, index) for index in columns)
    console = Console(width=max(width, needed), file=io.StringIO(), record=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(heads[0]), overflow="fold")
    for index in columns:
        table.add_column(Text(heads[index]), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in (0, *columns)))
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in console.export_text(styles=False).splitlines())
