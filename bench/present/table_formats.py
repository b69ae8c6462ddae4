"""Comparisons as text, Markdown, LaTeX, CSV, HTML and JSON. Example: text = render(comparisons, "markdown")

All formats show the same figures and say why a cell is empty. Names come from records that anybody may have written:
each format escapes them in its own way.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.analysis.tables import ABOUT, COLUMNS, FACTS, Column, Comparison, Row, best_row, why_missing
from bench.core.files import to_csv, to_json
from bench.core.stats import Interval
from bench.core.text import significant
from bench.present.grid import grid, notes_text, wrap
from bench.store.views import finite

Cells = dict[str, Any]  # a row by column

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, which only CSV and --where need

FORMATS = ("text", "markdown", "latex", "csv", "html", "json")
NOTHING = "no finished runs in the store"
MISSING = Interval(math.nan, math.nan, math.nan, 0)


def render(comparisons: list[Comparison], style: str, width: int = 140, columns: Sequence[Column] = ()) -> str:
    """The comparisons in one of FORMATS, ending in a newline.

    `columns`: these in this order, even if empty; by default all that have a figure. `width`: of the terminal.
    """
    if style == "csv":
        frame = to_frame(comparisons, columns)
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return to_csv([*map(str, frame)], [{str(k): v for k, v in row.items()} for row in rows]).decode()
    if style == "json":
        return to_json([_as_json(comparison, columns or COLUMNS) for comparison in comparisons]).decode()
    if not comparisons:
        return f"<p>{NOTHING}</p>\n" if style == "html" else f"% {NOTHING}\n" if style == "latex" else f"{NOTHING}\n"
    if style == "text":
        return "\n".join(_text(c, columns, width) for c in comparisons)
    draw = {"markdown": _markdown, "latex": _latex, "html": _html}[style]
    return "\n".join(draw(c, columns) for c in comparisons)


# --- one row per model: CSV and JSON ---------------------------------------------------------------------------------


def to_frame(comparisons: list[Comparison], columns: Sequence[Column] = ()) -> pd.DataFrame:
    """One row per model and comparison, failures too; for each column its value, spread and ratio, in base units.

    The columns are the same whatever the rows are.
    """
    import pandas as pd

    chosen = columns or COLUMNS
    facts = FACTS if any(column.key == "flops" for column in chosen) else ()
    rows: list[Cells] = []
    for comparison in comparisons:
        for row in comparison.rows:
            flat: Cells = {"model": row.model, "family": row.family, "runs": row.runs, "status": "ok"}
            flat |= _conditions(comparison)
            for column in chosen:
                flat |= dict(zip(_frame_columns(column), _frame_cells(row, column), strict=True))
            rows.append(flat | {fact: row.facts.get(fact) for fact in facts})
        for failure in comparison.failures:
            flat = {"model": failure.model, "runs": 0, "status": failure.status, "message": failure.message}
            rows.append({**flat, "dataset": failure.dataset, **_conditions(comparison)})
    names = [name for column in chosen for name in _frame_columns(column)]
    return pd.DataFrame(rows, columns=["model", "family", "runs", "status", *ABOUT, *names, *facts, "message"])


def _conditions(comparison: Comparison) -> Cells:
    """What all rows of a comparison share; nothing where no run finished."""
    return {name: getattr(comparison.conditions, name) for name in ABOUT} if comparison.conditions else {}


def _frame_columns(column: Column) -> list[str]:
    endings = ["", *(f"_{end}" for end in column.spread), *(["_ratio"] if column.ratio else [])]
    return [f"{column.key}{ending}" for ending in [*endings, *(["_ratio_low", "_ratio_high"] if column.timed else [])]]


def _frame_cells(row: Row, column: Column) -> list[float]:
    value, ratio = row.values.get(column.key, MISSING), row.ratios.get(column.key, MISSING)
    cells = [value.value, value.low, value.high, *([ratio.value] if column.ratio else [])]
    return [*cells, *([ratio.low, ratio.high] if column.timed else [])]


def _as_json(comparison: Comparison, columns: Sequence[Column]) -> Cells:
    best = {column.key: best_row(column, comparison.rows) for column in columns}
    return {
        "title": comparison.title,
        "about": _conditions(comparison),
        "rows": [
            {
                **{"model": row.model, "family": row.family, "runs": row.runs},
                "figures": {c.key: _figure(row, c, comparison, best[c.key] == row.model) for c in columns},
                "facts": {k: v for k, v in row.facts.items() if any(c.key == "flops" for c in columns)},
            }
            for row in comparison.rows
        ],
        "failures": [
            {**{k: getattr(f, k) for k in ("run_id", "model", "dataset", "seed", "status", "message")}}
            for f in comparison.failures
        ],
        "notes": [*comparison.notes, *([_best_note('"best": true')] if any(best.values()) else [])],
    }


def _figure(row: Row, column: Column, comparison: Comparison, best: bool) -> Cells:
    """One cell in base units; `missing` says why there is none."""
    figure: Cells = {"title": column.title, "unit": column.base}
    if column.key not in row.values:
        return {**figure, "value": None, "missing": why_missing(row, column, comparison)}
    value, ratio = row.values[column.key], row.ratios.get(column.key)
    low, high = finite(value.low), finite(value.high)
    figure |= {"value": value.value, "low": low, "high": high, "ends": column.ends if low is not None else None}
    figure |= {"n": value.n, "best": best, "audited": column.key not in row.marked, "ratio": None}
    if ratio is not None:
        low, high = finite(ratio.low), finite(ratio.high)
        ends = "95 % interval" if low is not None else None
        figure["ratio"] = {"value": ratio.value, "low": low, "high": high, "ends": ends}
    return figure


# --- text, Markdown, LaTeX, HTML -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A figure as shown, and the text beside it: half an interval, or a ratio in brackets."""

    figure: str
    beside: str = ""
    best: bool = False
    missing: str = ""  # why there is no figure


@dataclass(frozen=True)
class Table:
    """A comparison laid out: the same cells and notes for every format."""

    columns: list[Column]
    rows: list[tuple[Row, list[Cell]]]
    notes: list[str]


def lay_out(comparison: Comparison, columns: Sequence[Column], mark: str) -> Table:
    """The cells of these columns, or of all with a figure; `mark` is how the format marks the best, for its note."""
    shown = list(columns) or [c for c in COLUMNS if any(c.key in row.values for row in comparison.rows)]
    best = {column.key: best_row(column, comparison.rows) for column in shown}
    rows = [(r, [cell_of(r, c, comparison, best[c.key] == r.model) for c in shown]) for r in comparison.rows]
    notes = [*comparison.notes, *([_best_note(mark)] if any(best.values()) else [])]
    return Table(shown, rows, notes)


def cell_of(row: Row, column: Column, comparison: Comparison, best: bool) -> Cell:
    """One model's figure of one column."""
    if column.key not in row.values:
        return Cell("–", missing=why_missing(row, column, comparison))
    value, ratio = row.values[column.key], row.ratios.get(column.key)
    beside = (
        plus_minus(value, column) if column.key == "accuracy" else f"({significant(ratio.value)}×)" if ratio else ""
    )
    return Cell(column.show(value.value) + "†" * (column.key in row.marked), beside, best)


def plus_minus(value: Interval, column: Column) -> str:
    """`± 0.97`, or `−0.90 +0.50` where the two halves of the interval differ as far as they are shown."""
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return ""
    below, above = column.show(value.value - value.low), column.show(value.high - value.value)
    return f"± {below}" if below == above else f"−{below} +{above}"


def unit_of(column: Column) -> str:
    """The second line of a column's head; the notes explain the ratio to the reference."""
    return f"{column.unit} ± {column.ends}" if column.key == "accuracy" else column.unit


def _best_note(mark: str) -> str:
    return (
        f"{mark}: the best of the rows shown, marked only where the interval allows it: an accuracy whose 95 % "
        "interval lies above all others, a speed or latency whose ratio's interval lies beyond all others, the lowest "
        "count. Seconds, samples and memory have no interval here, so no best."
    )


def _missing_notes(table: Table) -> list[str]:
    """Why cells are empty, one note per reason; none where another note says it of that model."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for row, cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            explained = any(cell.missing in note and row.model in note for note in table.notes)
            if cell.missing and not explained:
                reasons.setdefault(cell.missing, {}).setdefault(f"{column.title}, {column.unit}", []).append(row.model)
    return [
        f"–: {reason}: " + "; ".join(f"{title} of {', '.join(models)}" for title, models in of.items()) + "."
        for reason, of in reasons.items()
    ]


def _failure_lines(comparison: Comparison) -> list[str]:
    return [f"{f.model}, seed {f.seed}: {f.status}. {f.message}".rstrip() for f in comparison.failures]


def _text(comparison: Comparison, columns: Sequence[Column], width: int) -> str:
    """As many columns side by side as the terminal has room for, the rest beneath."""
    table = lay_out(comparison, columns, "*")
    failures = "".join(f"{wrap(line, width, '  ')}\n" for line in _failure_lines(comparison))
    notes = notes_text((*table.notes, *_missing_notes(table)), width)
    return f"{wrap(comparison.title, width)}\n\n{_text_table(table, width)}{failures}{notes}"


def render_short(comparison: Comparison, width: int) -> str:
    """Title and table without notes, with the columns that fit side by side: what a command's last screen shows."""
    table = lay_out(comparison, (), "*")
    failures = "".join(f"{wrap(line, width, '  ')}\n" for line in _failure_lines(comparison))
    return f"{wrap(comparison.title, width)}\n\n{_text_table(table, width, continued=False)}{failures}"


def _text_table(table: Table, width: int, continued: bool = True) -> str:
    if not table.rows:
        return ""
    heads = ["model\nfamily, runs", *(f"{column.title}\n{unit_of(column)}" for column in table.columns)]
    rows = [[f"{row.model}\n{row.family}, {row.runs}", *map(_text_cell, cells)] for row, cells in table.rows]
    return grid(heads, rows, width, continued)


def _text_cell(cell: Cell) -> str:
    return f"{cell.figure}{'*' * cell.best}\n{cell.beside.strip('()')}"


def _beside(cell: Cell, figure: str) -> str:
    return f"{figure} {cell.beside}".rstrip()


def _markdown(comparison: Comparison, columns: Sequence[Column]) -> str:
    table = lay_out(comparison, columns, "Bold")
    lines = [f"**{_escape_markdown(comparison.title)}**", ""]
    if table.rows:
        heads = ["model", *(f"{column.title}, {unit_of(column)}" for column in table.columns)]
        lines += [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(table.columns)]
    for row, cells in table.rows:
        shown = [_beside(cell, f"**{cell.figure}**" if cell.best else cell.figure) for cell in cells]
        lines.append(f"| {' | '.join((_escape_markdown(row.model), *shown))} |")
    beneath = (*_failure_lines(comparison), *table.notes, *_missing_notes(table))
    lines += ["", *(f"- {_escape_markdown(text)}" for text in beneath), ""]
    return "\n".join(lines)


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|<>*_`[]$~#&" else c for c in text)


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    # after the end of a row, \toprule or \midrule these would be read as arguments
    **{c: f"{{{c}}}" for c in "[]*"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _latex(comparison: Comparison, columns: Sequence[Column]) -> str:
    """A booktabs tabular; figures above their ratios would need another package, so they share a cell."""
    table = lay_out(comparison, columns, "Bold")
    lines = [comment(comparison.title)]
    if table.rows:
        heads = ["model", *(f"{column.title} ({unit_of(column)})" for column in table.columns)]
        lines += [r"\begin{tabular}{l" + "r" * len(table.columns) + "}", r"\toprule"]
        lines += [" & ".join(map(_escape_latex, heads)) + r" \\", r"\midrule"]
        lines += [
            " & ".join((_escape_latex(row.model), *(_latex_cell(cell) for cell in cells))) + r" \\"
            for row, cells in table.rows
        ]
        beneath = [comparison.title, *_failure_lines(comparison), *([_best_note("Bold")] if _any_best(table) else [])]
        small = " ".join(_escape_latex(" ".join(text.split()).rstrip(".")) + "." for text in beneath)
        lines += [
            r"\bottomrule",
            rf"\multicolumn{{{1 + len(table.columns)}}}{{p{{0.95\linewidth}}}}{{\footnotesize {small}}} \\",
        ]
        lines += [r"\end{tabular}"]
    lines += [comment(text) for text in (*_failure_lines(comparison), *table.notes, *_missing_notes(table))]
    return "\n".join(lines) + "\n"


def _any_best(table: Table) -> bool:
    return any(cell.best for _, cells in table.rows for cell in cells)


def _latex_cell(cell: Cell) -> str:
    figure = _escape_latex(cell.figure)
    return _beside(replace(cell, beside=_escape_latex(cell.beside)), rf"\textbf{{{figure}}}" if cell.best else figure)


def comment(text: str) -> str:
    """A LaTeX comment of one line, and without a command, whatever the text."""
    return f"% {' '.join(text.split())}".replace("\\", r"\textbackslash{}")


def _html(comparison: Comparison, columns: Sequence[Column]) -> str:
    """A table with its notes beneath, without style and script, so that it takes those of its page."""
    table = lay_out(comparison, columns, "Bold")
    failures = [f"<li>{html.escape(line)}</li>" for line in _failure_lines(comparison)]
    notes = [f"<li>{html.escape(note)}</li>" for note in table.notes]
    lines = ['<div class="comparison">']
    if table.rows:
        units = [f'<span class="unit">{html.escape(unit_of(column))}</span>' for column in table.columns]
        heads = [f"{html.escape(column.title)}, {unit}" for column, unit in zip(table.columns, units, strict=True)]
        head = "".join(f'<th scope="col">{text}</th>' for text in ("model", *heads))
        lines += ["<table>", f"<caption>{html.escape(comparison.title)}</caption>"]
        lines += ["<thead>", f"<tr>{head}</tr>", "</thead>", "<tbody>"]
        lines += [
            f'<tr><th scope="row">{html.escape(row.model)}</th>{"".join(map(_html_cell, cells))}</tr>'
            for row, cells in table.rows
        ]
        lines += ["</tbody>", "</table>"]
    else:
        lines.append(f"<p>{html.escape(comparison.title)}</p>")
    for name, items in (("failures", failures), ("notes", notes)):
        lines += [f'<ul class="{name}">', *items, "</ul>"] if items else []
    return "\n".join([*lines, "</div>", ""])


def _html_cell(cell: Cell) -> str:
    if cell.missing:
        return f'<td class="missing">– <small>{html.escape(cell.missing)}</small></td>'
    figure = html.escape(cell.figure)
    return f"<td>{_beside(cell, f'<strong>{figure}</strong>' if cell.best else figure)}</td>"
