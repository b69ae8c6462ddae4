"""The legend of a static figure, above its axes. Example: add_legend(sheet)"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.present.charts.labels import wrapped
from bench.present.charts.model import Look, Series
from bench.present.charts.sheet import DASHES, DPI, NO_MODEL, PAD, SHAPES, Sheet, hatch_of, look_of, measure


def add_legend(sheet: Sheet) -> Legend | None:
    """A legend in as many columns as the width allows; None where no series has a name."""
    handles = _handles(sheet)
    if not handles:
        return None
    size = FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points() * DPI / 72
    room = sheet.pixels - 2 * PAD * DPI
    names = [wrapped(name, room - 3 * size, measure(sheet, "legend")) for name in handles]
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
    handles = {name: _handle(sheet, group) for name, group in named.items()}
    chart = sheet.chart
    if chart.hollow and any(mark.open for series in chart.series for mark in series.marks):
        cross = any(series.kind == "steps" for series in chart.series)
        handles[chart.hollow] = Line2D(
            [], [], color=NO_MODEL, linestyle="none", marker="+" if cross else "o", markersize=4, markerfacecolor="none"
        )
    if chart.band_name:
        handles[chart.band_name] = Patch(facecolor=NO_MODEL, alpha=0.17, edgecolor="none")
    return handles


def _handle(sheet: Sheet, group: Sequence[Series]) -> Line2D | Patch:
    first, looks = group[0], [look_of(sheet.chart, series) for series in group]
    look = looks[0] if len(set(looks)) == 1 else Look(NO_MODEL, looks[0].marker, 0)
    alpha = 0.4 if first.faint else 1.0
    ground = sheet.axes.get_facecolor()
    if first.kind == "bars":
        return Patch(facecolor=look.colour, edgecolor=ground, hatch=hatch_of(look), alpha=alpha, linewidth=0.6)
    if first.kind == "ranges":
        return Line2D([], [], color=look.colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
    hollow = bool(look.round) or all(mark.open for series in group for mark in series.marks)
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
        markerfacecolor=ground if hollow else look.colour,
    )
