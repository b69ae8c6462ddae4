"""Charts as image files, by matplotlib. Example: save_all(charts, Path("results/local/plots"), formats=("pdf",))

A figure is one or two columns of a paper wide and as high as it needs; the conditions stand in the caption file beside
it. No text covers another or leaves the canvas, whatever the names are.
"""

from __future__ import annotations

import io
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from bench.core.files import write_atomically
from bench.core.text import writable
from bench.present.charts.axes import set_scales
from bench.present.charts.legend import add_legend
from bench.present.charts.marks import BarRows, draw_band, draw_series
from bench.present.charts.model import Chart, short
from bench.present.charts.placing import place_labels
from bench.present.charts.sheet import DPI, HEIGHTS, POINTS, WIDTHS, Sheet
from bench.present.charts.styles import FIXED, STYLE, check_style, settings

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")


def draw(chart: Chart, columns: int = 2, style: str = "") -> Figure:
    """The chart as a figure of one or two columns. Raises UserError where the style cannot be used."""
    with settings(style, POINTS[columns]):
        figure = Figure(figsize=(WIDTHS[columns], HEIGHTS[columns]), dpi=DPI)
        renderer = FigureCanvasAgg(figure).get_renderer()
        sheet = Sheet(chart, columns, figure, figure.add_subplot(), renderer, HEIGHTS[columns])
        rows = BarRows(chart)
        set_scales(sheet)
        draw_band(sheet)
        for series in chart.series:
            draw_series(sheet, series, rows)
        add_legend(sheet)
        place_labels(sheet, rows)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, for a notebook."""
    return _to_bytes(figure, "png")


def _to_bytes(figure: Figure, kind: Format) -> bytes:
    """Without a date: the same chart gives the same bytes."""
    metadata: dict[Format, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    with matplotlib.rc_context(FIXED):
        figure.savefig(buffer, format=kind, metadata=metadata[kind])
    return buffer.getvalue()


def save(
    chart: Chart,
    folder: Path,
    formats: Sequence[Format] = ("png",),
    columns: Sequence[int] = (2,),
    style: str = "",
) -> list[Path]:
    """Write the chart's figures and its caption file; returns their paths. Raises UserError as check_style does."""
    contents: dict[str, bytes] = {}
    for count in columns:
        figure = draw(chart, count, style)
        with settings(style, POINTS[count]):
            for kind in formats:
                contents[f"{chart.stem}{'' if count == 2 else '-1col'}.{kind}"] = _to_bytes(figure, kind)
    contents[f"{chart.stem}.txt"] = writable(caption_of(chart, style)).encode()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def save_all(
    charts: Sequence[Chart],
    folder: Path,
    formats: Sequence[Format] = ("png",),
    columns: Sequence[int] = (2,),
    style: str = "",
) -> list[Path]:
    """Write every chart's files; returns their paths. Raises UserError as check_style does, before drawing anything."""
    check_style(style)
    return [path for chart in charts for path in save(chart, folder, formats, columns, style)]


def caption_of(chart: Chart, style: str = "") -> str:
    """The text beside the figure: what it shows, under which conditions, full names, and the command that draws it."""
    parts = [_fill(chart.title), _fill(chart.caption)]
    if chart.subject not in chart.caption:
        parts.append(_fill(f"Subject: {chart.subject}"))
    cut = [f"  {short(name)} = {name}" for name in sorted(chart.looks) if short(name) != name]
    if cut:
        parts.append("\n".join(["Names shortened in the figure:", *cut]))
    boxed = [f"  {name}" for name in sorted(chart.looks) if not drawable(name)]
    if boxed:
        parts.append("\n".join(["Names with characters that the figure's font lacks:", *boxed]))
    if chart.command:
        option = f" --style {shlex.quote(style)}" if style else ""
        parts.append(f"Drawn by:\n  {chart.command}{option}")  # in one line, to be copied
    return "\n\n".join(part for part in parts if part) + "\n"


def drawable(text: str) -> bool:
    """Whether the font of the figures has every character of the text."""
    known = get_font(findfont(FontProperties(family=STYLE["font.family"]))).get_charmap()
    return all(ord(character) in known for character in text)


def _fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
