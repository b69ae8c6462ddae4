"""Draws points, lines, steps, bars and ranges. Example: draw_series(sheet, series, BarRows(sheet.chart))"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from bench.present.charts.model import Chart, Look, Mark, Series
from bench.present.charts.sheet import DASHES, NO_MODEL, SHAPES, THIN, Sheet, hatch_of, look_of

AREAS = {1: (20.0, 150.0), 2: (34.0, 330.0)}  # points², of a marker, and of the largest where areas mean something
BAR = 0.8  # of a row's height, what its bars take together
MOST_MARKERS = {1: 11, 2: 18}  # on a line; with more marks, only some are drawn


class BarRows:
    """Where the bars of each row are: side by side, or end to end in a stacked chart."""

    def __init__(self, chart: Chart) -> None:
        self.stacked = chart.stacked
        bars = [mark for series in chart.series if series.kind == "bars" for mark in series.marks]
        counts: dict[float, int] = {}
        for mark in bars:
            counts[mark.y] = counts.get(mark.y, 0) + 1
        self.thickness = BAR if chart.stacked else BAR / max(counts.values(), default=1)
        self._places: dict[int, tuple[float, float]] = {}
        placed: dict[float, int] = {}
        ends: dict[float, float] = {}
        for mark in bars:
            nth = placed.get(mark.y, 0)
            placed[mark.y] = nth + 1
            start = ends.get(mark.y, 0.0) if chart.stacked else 0.0
            ends[mark.y] = start + mark.x
            shift = 0.0 if chart.stacked else (nth - (counts[mark.y] - 1) / 2) * self.thickness
            self._places[id(mark)] = mark.y + shift, start

    def of(self, mark: Mark) -> tuple[float, float]:
        """Its height, and where it starts."""
        return self._places[id(mark)]

    def at_end(self, mark: Mark) -> Mark:
        """The mark where its bar ends."""
        y, start = self.of(mark)
        return replace(mark, x=mark.x + start, x_low=mark.x_low + start, x_high=mark.x_high + start, y=y)


def draw_series(sheet: Sheet, series: Series, rows: BarRows) -> None:
    """The marks of a series and their intervals."""
    if not series.marks:
        return
    look = look_of(sheet.chart, series)
    if series.kind == "points":
        _draw_points(sheet, series, look)
    elif series.kind == "bars":
        _draw_bars(sheet, series, look, rows)
    elif series.kind == "ranges":
        _draw_ranges(sheet, series, look)
    else:
        _draw_line(sheet, series, look)
    if series.kind == "bars":
        _draw_intervals(sheet, [rows.at_end(mark) for mark in series.marks], NO_MODEL, series.faint)
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


def areas_of(sheet: Sheet, series: Series) -> list[float]:
    """The areas of the series' markers, in points²; where any area of the chart means something, all do."""
    usual, largest = AREAS[sheet.columns]
    meant = any(m.area != 1.0 for s in sheet.chart.series if s.kind == "points" for m in s.marks)
    if series.faint:  # single runs, whose areas mean nothing
        return [0.3 * usual] * len(series.marks)
    return [max((largest if meant else usual) * mark.area, 2.0) for mark in series.marks]


def _draw_points(sheet: Sheet, series: Series, look: Look) -> None:
    shape, ground = SHAPES[look.marker], sheet.axes.get_facecolor()
    x, y = [mark.x for mark in series.marks], [mark.y for mark in series.marks]
    areas = areas_of(sheet, series)
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


def _draw_bars(sheet: Sheet, series: Series, look: Look, rows: BarRows) -> None:
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
        hatch=hatch_of(look),
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


def draw_band(sheet: Sheet) -> None:
    """The band of differences treated as equivalent, with a line where there is no difference."""
    if sheet.chart.band is None:
        return
    low, high = sheet.chart.band
    sheet.axes.axvspan(low, high, color=NO_MODEL, alpha=0.17, zorder=0.5, linewidth=0)
    for neutral in (0.0, 1.0):
        if low < neutral < high:
            sheet.axes.axvline(neutral, color=THIN, linewidth=0.8, zorder=1)
            break
