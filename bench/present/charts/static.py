"""Charts for papers, by matplotlib. Example: save_all(charts, Path("results/local/plots"), formats=("pdf",))

A figure is one or two columns wide and as high as it needs; what it was measured under stands in the caption file
beside it. No text covers another or leaves the canvas, whatever the names are.
"""

from __future__ import annotations

import io
import itertools
import math
import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as DrawnAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from bench.core.files import write_atomically
from bench.present.charts.labels import Label, in_order, lead, place_near, readable, wrapped
from bench.present.charts.model import COLOURS, Axis, Chart, Look, Mark, Series, short
from bench.present.charts.styles import FIXED, STYLE, apply_hook, check_style, settings

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")

WIDTHS = {1: 3.35, 2: 6.9}  # inches, of one column and of two
HEIGHTS = {1: 2.2, 2: 3.5}  # inches, of the axes, where nothing needs more
POINTS = {1: 7.0, 2: 8.0}  # of texts
AREAS = {1: (20.0, 150.0), 2: (34.0, 330.0)}  # points², of a marker, and of the largest where areas mean something
DPI = 300
PAD = 0.05  # inches, around everything
GAP = 0.08  # inches, between the axes and a column of labels
ROW = {1: 0.2, 2: 0.24}  # inches, the least of a row of an axis of names
LEAST_TITLED = 0.9  # inches, of axes with a title at their left
LINE = 1.25  # height of a line of text, in sizes of the font
NAMES_SHARE = 0.42  # of the width, the most that names at the left may take
COLUMN_SHARE = {1: 0.4, 2: 0.3}  # of the width, the most that a column of labels may take
LEAST_MARKS = 0.4  # of the axes' width, what texts beside marks leave to them
BAR = 0.8  # of a row's height, what its bars take together
LAYOUTS = 3  # titles wrap by the room that ticks leave, and the other way round: it settles at once

SHAPES = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
DASHES: Any = ("-", (0, (4, 1.3)), (0, (1, 1)), (0, (5, 1, 1, 1)))  # of lines, by how often the colours were used
NO_MODEL, THIN = "#555555", "#7a7a7a"
MOST_MARKERS = {1: 11, 2: 18}  # on a line; with more marks, only some are drawn


@dataclass(frozen=True)
class Sheet:
    """A figure in the making."""

    chart: Chart
    columns: int
    figure: Figure
    axes: Axes
    renderer: RendererAgg
    height: float  # inches, of the axes
    widths: dict[tuple[str, float], float] = field(default_factory=dict)  # of texts by size, for they are asked often

    @property
    def pixels(self) -> float:
        """The figure's width."""
        return WIDTHS[self.columns] * DPI


def draw(chart: Chart, columns: int = 2, style: str = "") -> Figure:
    """The chart as a figure of one or two columns. Raises UserError where the style cannot be used."""
    with settings(style, POINTS[columns]):
        figure = Figure(figsize=(WIDTHS[columns], HEIGHTS[columns]), dpi=DPI)
        renderer = FigureCanvasAgg(figure).get_renderer()
        sheet = Sheet(chart, columns, figure, figure.add_subplot(), renderer, HEIGHTS[columns])
        rows = _Rows(chart)
        _scales(sheet)
        _ground(sheet)
        for series in chart.series:
            _draw_series(sheet, series, rows)
        _legend(sheet)
        labels = _labels(sheet, rows)
        _limits(sheet, roomy=any(not (label.beside or label.at_end) for label in labels))
        sheet = replace(sheet, height=_height(sheet, labels))
        _place(sheet, labels)
        apply_hook(style, figure, chart)
    return figure


# --- where bars are --------------------------------------------------------------------------------------------------


class _Rows:
    """Where the bars of each row are: side by side, or end to end in a stacked chart."""

    def __init__(self, chart: Chart) -> None:
        self.stacked = chart.stacked
        bars = [mark for series in chart.series if series.kind == "bars" for mark in series.marks]
        counts: dict[float, int] = {}
        for mark in bars:
            counts[mark.y] = counts.get(mark.y, 0) + 1
        self.thickness = BAR if chart.stacked else BAR / max(counts.values(), default=1)
        self._places: dict[int, tuple[float, float]] = {}
        seen: dict[float, int] = {}
        ends: dict[float, float] = {}
        for mark in bars:
            nth = seen.get(mark.y, 0)
            seen[mark.y] = nth + 1
            start = ends.get(mark.y, 0.0) if chart.stacked else 0.0
            ends[mark.y] = start + mark.x
            aside = 0.0 if chart.stacked else (nth - (counts[mark.y] - 1) / 2) * self.thickness
            self._places[id(mark)] = mark.y + aside, start

    def of(self, mark: Mark) -> tuple[float, float]:
        """Its height, and where it starts."""
        return self._places[id(mark)]

    def placed(self, mark: Mark) -> Mark:
        """The mark where its bar ends."""
        y, start = self.of(mark)
        return replace(mark, x=mark.x + start, x_low=mark.x_low + start, x_high=mark.x_high + start, y=y)


# --- marks -----------------------------------------------------------------------------------------------------------


def _ink(colour: str) -> str:
    """Black becomes the colour of texts, so that it is seen in a dark style."""
    return str(matplotlib.rcParams["text.color"]) if colour.lower() == "#000000" else colour


def _look(chart: Chart, series: Series) -> Look:
    look = chart.looks.get(series.model, Look(NO_MODEL, "circle", 0))
    if series.thin:
        return Look(THIN, look.marker, 0)
    if series.shade is not None:
        return Look(_ink(COLOURS[series.shade % len(COLOURS)]), look.marker, series.shade // len(COLOURS))
    return replace(look, colour=_ink(look.colour))


def _draw_series(sheet: Sheet, series: Series, rows: _Rows) -> None:
    if not series.marks:
        return
    look = _look(sheet.chart, series)
    if series.kind == "points":
        _draw_points(sheet, series, look)
    elif series.kind == "bars":
        _draw_bars(sheet, series, look, rows)
    elif series.kind == "ranges":
        _draw_ranges(sheet, series, look)
    else:
        _draw_line(sheet, series, look)
    if series.kind == "bars":
        _draw_intervals(sheet, [rows.placed(mark) for mark in series.marks], NO_MODEL, series.faint)
    elif series.kind != "ranges":
        _draw_intervals(sheet, series.marks, look.colour, series.faint)


def _draw_intervals(sheet: Sheet, marks: Iterable[Mark], colour: str, faint: bool) -> None:
    """One artist for all, cut by nan: a thousand artists take many times as long to draw."""
    cut = (math.nan, math.nan)
    ends = [(cut, (m.x, m.y_low), (m.x, m.y_high)) for m in marks if math.isfinite(m.y_low + m.y_high)]
    ends += [(cut, (m.x_low, m.y), (m.x_high, m.y)) for m in marks if math.isfinite(m.x_low + m.x_high)]
    if ends:
        x, y = np.array(ends).reshape(-1, 2).T
        alpha = 0.25 if faint else 0.7
        sheet.axes.plot(x, y, color=colour, linewidth=0.8, alpha=alpha, zorder=2.4, solid_capstyle="butt")


def _areas(sheet: Sheet, series: Series) -> list[float]:
    """Of the series' markers, in points²; where any area of the chart means something, all do."""
    usual, largest = AREAS[sheet.columns]
    meant = any(m.area != 1.0 for s in sheet.chart.series if s.kind == "points" for m in s.marks)
    if series.faint:  # single runs, whose areas mean nothing
        return [0.3 * usual] * len(series.marks)
    return [max((largest if meant else usual) * mark.area, 2.0) for mark in series.marks]


def _draw_points(sheet: Sheet, series: Series, look: Look) -> None:
    shape, ground = SHAPES[look.marker], sheet.axes.get_facecolor()
    x, y = [mark.x for mark in series.marks], [mark.y for mark in series.marks]
    areas = _areas(sheet, series)
    faces = [ground if mark.open or look.round else look.colour for mark in series.marks]
    sheet.axes.scatter(
        x, y, s=areas, marker=shape, c=faces, edgecolors=look.colour, linewidths=1.0, zorder=3,
        alpha=0.3 if series.faint else 0.85,
    )  # fmt: skip
    if look.round >= 2:
        inner = "x" if look.round == 2 else "."
        sheet.axes.scatter(
            x, y, s=[0.3 * area for area in areas], marker=inner, color=look.colour, linewidths=0.8, zorder=3.1
        )


def _draw_line(sheet: Sheet, series: Series, look: Look) -> None:
    steps, small = series.kind == "steps", 2.6 if sheet.columns == 1 else 3.4
    x, y = np.array([(mark.x, mark.y) for mark in series.marks], dtype=float).T
    plain = series.thin or series.faint or steps
    sheet.axes.plot(
        x,
        y,
        color=look.colour,
        drawstyle="steps-post" if steps else "default",
        linestyle=(0, (4, 3)) if series.thin else DASHES[look.round % len(DASHES)],
        linewidth=0.9 if series.thin else 0.6 if series.faint else 1.2,
        alpha=0.3 if series.faint else 1.0,
        marker="" if plain else SHAPES[look.marker],
        markersize=small,
        markerfacecolor=sheet.axes.get_facecolor() if look.round else look.colour,
        markevery=max(1, math.ceil(len(x) / MOST_MARKERS[sheet.columns])),
        zorder=1.5 if series.faint else 1.8 if series.thin else 2.5,
    )
    hollow = [mark for mark in series.marks if mark.open]
    if hollow:
        sheet.axes.plot(
            [mark.x for mark in hollow],
            [mark.y for mark in hollow],
            linestyle="none",
            marker="+" if steps else SHAPES[look.marker],
            markersize=small + 1.6 if steps else small,
            markeredgewidth=0.9,
            color=look.colour,
            markerfacecolor=sheet.axes.get_facecolor(),
            alpha=0.3 if series.faint else 1.0,
            zorder=2.6,
        )


def _draw_bars(sheet: Sheet, series: Series, look: Look, rows: _Rows) -> None:
    places = [rows.of(mark) for mark in series.marks]
    ground = sheet.axes.get_facecolor()
    sheet.axes.barh(
        [y for y, _ in places],
        [mark.x for mark in series.marks],
        left=[start for _, start in places],
        height=0.94 * rows.thickness,
        facecolor=[ground if mark.open else look.colour for mark in series.marks],
        edgecolor=look.colour if any(mark.open for mark in series.marks) else ground,
        linewidth=0.6,
        hatch="" if look.round == 0 else "////" if look.round == 1 else "xxxx",
        alpha=0.35 if series.faint else 1.0,
        zorder=2,
    )


def _draw_ranges(sheet: Sheet, series: Series, look: Look) -> None:
    for mark in series.marks:
        sheet.axes.plot(
            [mark.x_low, mark.x_high],
            [mark.y, mark.y],
            color=look.colour,
            linewidth=4 if sheet.columns == 1 else 6,
            alpha=0.3,
            solid_capstyle="butt",
            zorder=2,
        )


def _ground(sheet: Sheet) -> None:
    """The band of what makes no difference, with a line where there is none."""
    if sheet.chart.band is None:
        return
    low, high = sheet.chart.band
    sheet.axes.axvspan(low, high, color=NO_MODEL, alpha=0.17, zorder=0.5, linewidth=0)
    for none in (0.0, 1.0):
        if low < none < high:
            sheet.axes.axvline(none, color=THIN, linewidth=0.8, zorder=1)
            break


# --- axes ------------------------------------------------------------------------------------------------------------


def _scales(sheet: Sheet) -> None:
    for spec, scale in ((sheet.chart.x, sheet.axes.set_xscale), (sheet.chart.y, sheet.axes.set_yscale)):
        if spec.log:
            scale("log")


def _limits(sheet: Sheet, roomy: bool) -> None:
    """Room around the marks; where names stand among them, more of it."""
    axes, chart = sheet.axes, sheet.chart
    axes.margins(x=0.14 if roomy else 0.05, y=0.12 if roomy else 0.06)
    axes.autoscale(True)
    axes.autoscale_view()
    for spec, get, put in (
        (chart.x, axes.get_xlim, axes.set_xlim),
        (chart.y, axes.get_ylim, axes.set_ylim),
    ):
        if spec.from_zero and not spec.log:
            put(min(0.0, _lowest(spec is chart.x, chart)), get()[1])
    if chart.x.names:
        axes.set_xlim(-0.5, len(chart.x.names) - 0.5)
        axes.grid(axis="x", visible=False)
    if chart.y.names:
        axes.set_ylim(len(chart.y.names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)


def _lowest(across: bool, chart: Chart) -> float:
    values = [mark.x if across else mark.y for series in chart.series for mark in series.marks]
    return min((value for value in values if math.isfinite(value)), default=0.0)


def _number(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")


def _divide(sheet: Sheet, axis: DrawnAxis, spec: Axis, across: bool) -> None:
    """Ticks whose labels have room: all of a chart's own, else as many as the axis can hold."""
    axis.set_minor_locator(NullLocator())
    if spec.names:
        _name(sheet, axis, spec, across)
        return
    low, high = sorted(axis.get_view_interval())
    measure = _measure(sheet, "xtick" if across else "ytick")
    length = sheet.axes.bbox.width if across else sheet.axes.bbox.height
    ends = axis.get_transform().transform(np.array([low, high]))

    def free(ticks: Sequence[float]) -> list[bool]:
        """Which labels have room beside those before them."""
        shares = (axis.get_transform().transform(np.array(ticks)) - ends[0]) / (ends[1] - ends[0])
        found, reached = [], -math.inf
        for tick, share in zip(ticks, shares, strict=True):
            half = (measure(_number(tick)) + 0.9 * measure("0") if across else 1.5 * _line_height(sheet)) / 2
            found.append(bool(share * length - half >= reached))
            reached = share * length + half if found[-1] else reached
        return found

    if spec.ticks:
        shown = sorted(set(spec.ticks))
        labelled = _spared(shown, free)
        axis.set_ticks(shown, [_number(tick) if tick in labelled else "" for tick in shown])
        return
    offers = _log_ticks(low, high) if spec.log else _even_ticks(low, high, 6 if sheet.columns == 1 else 8)
    ticks = next((offer for offer in offers if all(free(offer))), [])
    axis.set_ticks(ticks, [_number(tick) for tick in ticks])


def _spared(ticks: Sequence[float], free: Callable[[Sequence[float]], list[bool]]) -> set[float]:
    """Which of the ticks keep their labels: each second or third …, unless that loses much more than is needed."""
    greedy = {tick for tick, room in zip(ticks, free(ticks), strict=True) if room}
    even = next(set(ticks[::step]) for step in range(1, len(ticks) + 1) if all(free(ticks[::step])))
    return even if len(even) >= 0.6 * len(greedy) else greedy


def _even_ticks(low: float, high: float, most: int) -> list[list[float]]:
    """From many to few."""
    offers = [MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) for n in range(most, 0, -1)]
    return [[float(tick) for tick in offer if low <= tick <= high] for offer in offers]


def _log_ticks(low: float, high: float) -> list[list[float]]:
    """1, 2, 5, 10 …, as people read numbers, then only powers of ten; within a factor of two or so, even steps."""
    decades = max(1, math.ceil(math.log10(high / low)))
    offers = [_logs(low, high, subs, 1) for subs in ((1.0, 2.0, 5.0), (1.0, 3.0))]
    offers += [_logs(low, high, (1.0,), step) for step in range(1, decades + 1)]
    enough = [offer for offer in offers if len(offer) >= 3]
    return enough or [*_even_ticks(low, high, 5), *offers]


def _logs(low: float, high: float, subs: tuple[float, ...], step: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [sub * 10.0**power for power in range(first, last + 1) if power % step == 0 for sub in subs]
    return [float(f"{tick:.6g}") for tick in found if low <= tick <= high]


def _name(sheet: Sheet, axis: DrawnAxis, spec: Axis, across: bool) -> None:
    measure = _measure(sheet, "xtick" if across else "ytick")
    if not across:
        names = [wrapped(name, NAMES_SHARE * sheet.pixels, measure) for name in spec.names]
        axis.set_ticks(range(len(names)), names)
        return
    room = 0.95 * sheet.axes.bbox.width / len(spec.names)
    flat = all(measure(word) <= room for name in spec.names for word in name.split())
    names = [wrapped(name, room, measure) if flat else name for name in spec.names]
    axis.set_ticks(range(len(names)), names, rotation=0 if flat else 90)


def _measure(sheet: Sheet, of: str) -> Callable[[str], float]:
    """The width of a text as `of` is written: xtick, ytick, axes (titles), legend, or font (labels)."""
    sizes: Any = matplotlib.rcParams
    key = {"legend": "legend.fontsize", "font": "font.size"}.get(of, f"{of}.labelsize")
    font = FontProperties(size=sizes[key])

    def width(text: str) -> float:
        if (text, font.get_size()) not in sheet.widths:
            measured = sheet.renderer.get_text_width_height_descent(text, font, False)[0]
            sheet.widths[text, font.get_size()] = float(measured)
        return sheet.widths[text, font.get_size()]

    return width


def _line_height(sheet: Sheet) -> float:
    return float(matplotlib.rcParams["font.size"] * LINE * DPI / 72)


# --- legend ----------------------------------------------------------------------------------------------------------


def _legend(sheet: Sheet) -> Legend | None:
    """Above the axes, in as many columns as the width allows."""
    handles = _handles(sheet)
    if not handles:
        return None
    size = FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points() * DPI / 72
    room = sheet.pixels - 2 * PAD * DPI
    names = [wrapped(name, room - 3 * size, _measure(sheet, "legend")) for name in handles]
    for columns in range(len(names), 0, -1):
        legend = sheet.figure.legend(
            list(handles.values()), names, ncols=columns, frameon=False, loc="upper left", borderpad=0,
            borderaxespad=0, columnspacing=1.4, handlelength=1.7, handletextpad=0.5, labelspacing=0.3,
        )  # fmt: skip
        if columns == 1 or legend.get_window_extent(sheet.renderer).width <= room:
            return legend
        legend.remove()
    return None


def _handles(sheet: Sheet) -> dict[str, Line2D | Patch]:
    """A sample of each named series; grey where series of one name have several colours."""
    named: dict[str, list[Series]] = {}
    for series in sheet.chart.series:
        if series.name:
            named.setdefault(series.name, []).append(series)
    return {name: _handle(sheet, found) for name, found in named.items()}


def _handle(sheet: Sheet, found: Sequence[Series]) -> Line2D | Patch:
    first, looks = found[0], [_look(sheet.chart, series) for series in found]
    look = looks[0] if len(set(looks)) == 1 else Look(NO_MODEL, looks[0].marker, 0)
    alpha = 0.4 if first.faint else 1.0
    if first.kind == "bars":
        hatch = "" if look.round == 0 else "////" if look.round == 1 else "xxxx"
        ground = sheet.axes.get_facecolor()
        return Patch(facecolor=look.colour, edgecolor=ground, hatch=hatch, alpha=alpha, linewidth=0.6)
    if first.kind == "ranges":
        return Line2D([], [], color=look.colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
    opened = bool(look.round) or all(mark.open for series in found for mark in series.marks)
    marked = first.kind in ("points", "line") and not first.thin and not first.faint
    return Line2D(
        [],
        [],
        color=look.colour,
        alpha=alpha,
        linestyle="none" if first.kind == "points" else (0, (4, 3)) if first.thin else DASHES[look.round % len(DASHES)],
        linewidth=0.9 if first.thin or first.faint else 1.2,
        marker=SHAPES[look.marker] if marked or first.kind == "points" else "",
        markersize=4 if first.kind == "points" else 3.4,
        markerfacecolor=sheet.axes.get_facecolor() if opened else look.colour,
    )


# --- labels ----------------------------------------------------------------------------------------------------------


def _labels(sheet: Sheet, rows: _Rows) -> list[Label]:
    found: list[Label] = []
    for series in sheet.chart.series:
        look = _look(sheet.chart, series)
        ink = readable(look.colour, sheet.axes.get_facecolor())
        if series.kind == "bars":
            ink = _ink("#000000")
        areas = _areas(sheet, series) if series.kind == "points" else [9.0] * len(series.marks)
        for n, (mark, area) in enumerate(zip(series.marks, areas, strict=True)):
            if not mark.label.strip():
                continue
            placed = rows.placed(mark) if series.kind == "bars" else mark
            at_end = series.kind in ("line", "steps") and n == len(series.marks) - 1
            beside = series.kind in ("bars", "ranges") or (bool(sheet.chart.y.names) and not at_end)
            x = _right_of_all(sheet.chart, placed, rows) if beside else placed.x
            found.append(Label(mark.label, x, placed.y, ink, math.sqrt(area) / 2, beside, at_end))
    return _joined(found) if sheet.chart.stacked else found


def _joined(labels: Sequence[Label]) -> list[Label]:
    """One label a row: the parts of a stack share the room at its end."""
    rows: dict[float, list[Label]] = {}
    for label in labels:
        rows.setdefault(label.y, []).append(label)
    return [
        replace(parts[-1], text=" + ".join(part.text for part in parts), x=max(part.x for part in parts))
        for parts in rows.values()
    ]


def _right_of_all(chart: Chart, mark: Mark, rows: _Rows) -> float:
    """The right end of all that is drawn at the mark's height."""
    every = [
        rows.placed(other) if series.kind == "bars" else other for series in chart.series for other in series.marks
    ]
    reach = [end for m in every if abs(m.y - mark.y) < 1e-6 for end in (m.x, m.x_high) if math.isfinite(end)]
    return max(reach, default=mark.x)


def _height(sheet: Sheet, labels: Sequence[Label]) -> float:
    """Inches of the axes: usual, or as many as the rows of names need for their lines, bars and labels."""
    if not sheet.chart.y.names:
        return HEIGHTS[sheet.columns]
    line = _line_height(sheet) / DPI
    measure = _measure(sheet, "ytick")
    lines = max(wrapped(name, NAMES_SHARE * sheet.pixels, measure).count("\n") + 1 for name in sheet.chart.y.names)
    row = max(ROW[sheet.columns], (lines + 0.5) * line if lines > 1 else 1.3 * line)
    heights = sorted({label.y for label in labels if label.beside})
    gaps = [b - a for a, b in itertools.pairwise(heights) if b - a > 0.05]
    if gaps:
        row = max(row, 1.05 * line / min(gaps))
    bars = [mark.y for series in sheet.chart.series if series.kind == "bars" for mark in series.marks]
    if bars and not sheet.chart.stacked:
        most = max(bars.count(y) for y in set(bars))
        row = max(row, most * 0.1 / BAR)
    return max(row * len(sheet.chart.y.names), LEAST_TITLED if sheet.chart.y.title else 0.0)


def _place(sheet: Sheet, labels: Sequence[Label]) -> None:
    """Labels where they are read best; those that find no room there, in a column with lines to their marks."""
    column = [label for label in labels if label.at_end]
    beside = [label for label in labels if label.beside]
    near = [label for label in labels if not label.at_end and not label.beside]
    sheet, width = _reserve(sheet, column)
    _lay_out(sheet, width)
    if beside and not _make_room(sheet, beside, width):
        column, beside = column + beside, []
        sheet, width = _reserve(sheet, column)
        _lay_out(sheet, width)
    if near and not place_near(sheet.axes, near, _occupied(sheet), sheet.renderer):
        column += near
        sheet, width = _reserve(sheet, column)
        _limits(sheet, roomy=False)
        _lay_out(sheet, width)
    for label in beside:
        _write_beside(sheet, label)
    if column:
        _write_column(sheet, column)


def _make_room(sheet: Sheet, labels: Sequence[Label], column: float) -> bool:
    """Move the right end of the axis until labels in rows fit before it; False where they take most of it, or meet."""
    heights = sorted(float(y) for _, y in sheet.axes.transData.transform([(label.x, label.y) for label in labels]))
    if any(b - a < 0.98 * _line_height(sheet) for a, b in itertools.pairwise(heights)):
        return False
    measure = _measure(sheet, "font")
    axes = sheet.axes
    transform = axes.xaxis.get_transform()
    low, high = (float(v) for v in transform.transform(np.array(axes.get_xlim())))
    needed = high
    for label in labels:
        share = 1 - (measure(label.text) + (label.radius + 6) * DPI / 72) / axes.bbox.width
        if share < LEAST_MARKS:
            return False
        end = float(transform.transform(np.array([label.x]))[0])
        needed = max(needed, low + (end - low) / share)
    axes.set_xlim(right=float(transform.inverted().transform(np.array([needed]))[0]))
    _lay_out(sheet, column)
    return True


def _write_beside(sheet: Sheet, label: Label) -> None:
    sheet.axes.annotate(
        label.text, (label.x, label.y), xytext=(label.radius + 2, 0), textcoords="offset points", va="center_baseline",
        color=label.colour, parse_math=False, annotation_clip=False,
    )  # fmt: skip


def _occupied(sheet: Sheet) -> list[Bbox]:
    """Boxes of markers and intervals, in pixels: names keep clear of them."""
    point, found = DPI / 72, []
    transform = sheet.axes.transData.transform
    for series in sheet.chart.series:
        if series.kind != "points" or series.faint:
            continue
        for mark, area in zip(series.marks, _areas(sheet, series), strict=True):
            x, y = transform((mark.x, mark.y))
            half = math.sqrt(area) / 2 * point
            if math.isfinite(x + y):
                found.append(Bbox.from_extents(x - half, y - half, x + half, y + half))
            for low, high in (
                ((mark.x, mark.y_low), (mark.x, mark.y_high)),
                ((mark.x_low, mark.y), (mark.x_high, mark.y)),
            ):
                if math.isfinite(low[0] + low[1] + high[0] + high[1]):
                    (x0, y0), (x1, y1) = transform([low, high])
                    found.append(
                        Bbox.from_extents(x0 - 0.4 * point, y0 - 0.4 * point, x1 + 0.4 * point, y1 + 0.4 * point)
                    )
    return found


def _column_texts(sheet: Sheet, labels: Sequence[Label]) -> list[str]:
    measure = _measure(sheet, "font")
    return [wrapped(label.text, COLUMN_SHARE[sheet.columns] * sheet.pixels, measure) for label in labels]


def _reserve(sheet: Sheet, labels: Sequence[Label]) -> tuple[Sheet, float]:
    """The sheet, high enough for a column of these labels, and the inches that the column takes at its right."""
    if not labels:
        return sheet, 0.0
    texts, measure = _column_texts(sheet, labels), _measure(sheet, "font")
    width = max(measure(line) for text in texts for line in text.split("\n")) / DPI
    height = sum(_text_height(sheet, text) for text in texts) / DPI
    return replace(sheet, height=max(sheet.height, height)), width + GAP


def _text_height(sheet: Sheet, text: str) -> float:
    return _line_height(sheet) * (text.count("\n") + 1)


def _write_column(sheet: Sheet, labels: Sequence[Label]) -> None:
    """Labels in a column right of the axes, each as near to its mark's height as the others allow."""
    axes, texts = sheet.axes, _column_texts(sheet, labels)
    places = [(float(x), float(y)) for x, y in axes.transData.transform([(label.x, label.y) for label in labels])]
    box = axes.bbox
    left = box.x1 + GAP * DPI
    column = Bbox.from_extents(box.x0, box.y0, left, box.y1)
    for index, centre in in_order(places, [_text_height(sheet, text) for text in texts], column):
        label, place = labels[index], places[index]
        x, y = sheet.figure.transFigure.inverted().transform((left, centre))
        sheet.figure.text(x, y, texts[index], color=label.colour, va="center", parse_math=False, linespacing=1.0)
        lead(axes, (left - 2, centre), place, label, label.radius * DPI / 72)


# --- layout ----------------------------------------------------------------------------------------------------------


def _lay_out(sheet: Sheet, column: float) -> None:
    """Give the axes their height and the width that texts around them leave; `column` inches at the right stay free."""
    for _ in range(LAYOUTS):
        _divide(sheet, sheet.axes.xaxis, sheet.chart.x, across=True)
        _divide(sheet, sheet.axes.yaxis, sheet.chart.y, across=False)
        _write_titles(sheet)
        _frame(sheet, column)


def _write_titles(sheet: Sheet) -> None:
    """Titles of the axes, in lines as long as the figure allows, moved where they would leave it."""
    axes, measure = sheet.axes, _measure(sheet, "axes")
    width, height = sheet.figure.bbox.width - 2 * PAD * DPI, sheet.figure.bbox.height - 2 * PAD * DPI
    for title, axis, most, low, high in (
        (sheet.chart.x.title, axes.xaxis, width, axes.bbox.x0, axes.bbox.x1),
        (sheet.chart.y.title, axes.yaxis, height, axes.bbox.y0, axes.bbox.y1),
    ):
        text = wrapped(title, max(min(most, 1.15 * (high - low)), most / 2), measure)
        axis.set_label_text(text, parse_math=False, linespacing=1.1)
        half = max((measure(line) for line in text.split("\n")), default=0.0) / 2 + PAD * DPI
        ends = sheet.figure.bbox.width if axis is axes.xaxis else sheet.figure.bbox.height
        middle = min(max((low + high) / 2, half), max(ends - half, half))
        share = (middle - low) / (high - low)
        if axis is axes.xaxis:
            axis.label.set_x(share)
        else:
            axis.label.set_y(share)


def _frame(sheet: Sheet, column: float) -> None:
    axes, figure = sheet.axes, sheet.figure
    around = Bbox.union([axes.bbox, *_boxes_around(sheet)])
    left, right = axes.bbox.x0 - around.x0, max(around.x1 - axes.bbox.x1, column * DPI)
    below, above = axes.bbox.y0 - around.y0, around.y1 - axes.bbox.y1
    for legend in figure.legends:
        above += legend.get_window_extent(sheet.renderer).height + 0.6 * _line_height(sheet)
    pad = PAD * DPI
    total = below + above + sheet.height * DPI + 2 * pad
    figure.set_size_inches(WIDTHS[sheet.columns], total / DPI)
    width = sheet.pixels
    axes.set_position(
        (
            (left + pad) / width,
            (below + pad) / total,
            (width - left - right - 2 * pad) / width,
            sheet.height * DPI / total,
        )
    )
    for legend in figure.legends:
        spare = width - pad - legend.get_window_extent(sheet.renderer).width
        legend.set_bbox_to_anchor((max(min(left + pad, spare), pad) / width, 1 - pad / total), figure.transFigure)


def _boxes_around(sheet: Sheet) -> list[Bbox]:
    """Of tick labels and titles; a title only across its axis, for along it, it is kept within the canvas."""
    axes, found = sheet.axes, []
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_tightbbox(sheet.renderer)  # moves the title clear of the labels
        found += [t.get_window_extent(sheet.renderer) for t in axis.get_ticklabels() if t.get_text()]
    if axes.xaxis.label.get_text():
        box = axes.xaxis.label.get_window_extent(sheet.renderer)
        found.append(Bbox.from_extents(axes.bbox.x0, box.y0, axes.bbox.x1, box.y1))
    if axes.yaxis.label.get_text():
        box = axes.yaxis.label.get_window_extent(sheet.renderer)
        found.append(Bbox.from_extents(box.x0, axes.bbox.y0, box.x1, axes.bbox.y1))
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, for a notebook."""
    return _to_bytes(figure, "png")


def to_svg(figure: Figure) -> bytes:
    """The figure as an SVG file's bytes, its letters as outlines."""
    return _to_bytes(figure, "svg")


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
    formats: Sequence[Format] = FORMATS,
    columns: Sequence[int] = (1, 2),
    style: str = "",
) -> list[Path]:
    """The chart's figures and its caption file; returns what was written. Raises UserError as check_style does."""
    contents: dict[str, bytes] = {}
    for count in columns:
        figure = draw(chart, count, style)
        with settings(style, POINTS[count]):
            for kind in formats:
                contents[f"{chart.stem}{'' if count == 2 else '-1col'}.{kind}"] = _to_bytes(figure, kind)
    contents[f"{chart.stem}.txt"] = caption_of(chart, style).encode()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def save_all(
    charts: Sequence[Chart],
    folder: Path,
    formats: Sequence[Format] = FORMATS,
    columns: Sequence[int] = (1, 2),
    style: str = "",
) -> list[Path]:
    """Every chart's files; returns what was written. Raises UserError as check_style does, before anything is drawn."""
    check_style(style)
    return [path for chart in charts for path in save(chart, folder, formats, columns, style)]


def caption_of(chart: Chart, style: str = "") -> str:
    """What stands beside the figure: what it shows, of what, whole names, and the command that draws it again."""
    parts = [_fill(chart.title), _fill(chart.caption)]
    if chart.subject not in chart.caption:
        parts.append(_fill(f"Of: {chart.subject}"))
    cut = [f"  {short(name)} = {name}" for name in sorted(chart.looks) if short(name) != name]
    if cut:
        parts.append("\n".join(["Names that are shortened in the figure:", *cut]))
    strange = [f"  {name}" for name in sorted(chart.looks) if not drawable(name)]
    if strange:
        parts.append("\n".join(["Names with letters that the figure's font lacks:", *strange]))
    if chart.command:
        styled = f" --style {shlex.quote(style)}" if style else ""
        parts.append(f"Drawn by:\n  {chart.command}{styled}")  # in one line, to be copied
    return "\n\n".join(part for part in parts if part) + "\n"


def drawable(text: str) -> bool:
    """Whether the font of the figures has every letter of the text."""
    known = get_font(findfont(FontProperties(family=STYLE["font.family"]))).get_charmap()
    return all(ord(letter) in known for letter in text)


def _fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
