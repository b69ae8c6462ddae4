"""Scales, limits and ticks of a static figure. Example: set_limits(sheet, roomy=True)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axis import Axis as DrawnAxis
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.present.charts.labels import wrapped
from bench.present.charts.model import Axis, Chart
from bench.present.charts.sheet import NAMES_SHARE, Sheet, line_height, measure, number

Ticks = Sequence[float]


def set_scales(sheet: Sheet) -> None:
    """Linear or logarithmic, as the chart says."""
    for spec, set_scale in ((sheet.chart.x, sheet.axes.set_xscale), (sheet.chart.y, sheet.axes.set_yscale)):
        if spec.log:
            set_scale("log")


def set_limits(sheet: Sheet, roomy: bool) -> None:
    """Room around the marks; `roomy` where names stand among them."""
    axes, chart = sheet.axes, sheet.chart
    axes.margins(x=0.14 if roomy else 0.05, y=0.12 if roomy else 0.06)
    axes.autoscale(True)
    axes.autoscale_view()
    for spec, get, put in (
        (chart.x, axes.get_xlim, axes.set_xlim),
        (chart.y, axes.get_ylim, axes.set_ylim),
    ):
        if spec.from_zero and not spec.log:
            put(min(0.0, _lowest(chart, horizontal=spec is chart.x)), get()[1])
    if chart.x.names:
        axes.set_xlim(-0.5, len(chart.x.names) - 0.5)
        axes.grid(axis="x", visible=False)
    if chart.y.names:
        axes.set_ylim(len(chart.y.names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)


def _lowest(chart: Chart, horizontal: bool) -> float:
    values = [mark.x if horizontal else mark.y for series in chart.series for mark in series.marks]
    return min((value for value in values if math.isfinite(value)), default=0.0)


def set_ticks(sheet: Sheet) -> None:
    """Ticks and names whose labels have room, on both axes."""
    _set_ticks(sheet, sheet.axes.xaxis, sheet.chart.x, horizontal=True)
    _set_ticks(sheet, sheet.axes.yaxis, sheet.chart.y, horizontal=False)


def _set_ticks(sheet: Sheet, axis: DrawnAxis, spec: Axis, horizontal: bool) -> None:
    """All of a chart's own ticks, else as many as the axis has room for."""
    axis.set_minor_locator(NullLocator())
    if spec.names:
        _set_names(sheet, axis, spec, horizontal)
        return
    low, high = sorted(axis.get_view_interval())
    has_room = _room_on(sheet, axis, horizontal)
    if spec.ticks:
        shown = sorted(set(spec.ticks))
        labelled = _labelled(shown, has_room)
        axis.set_ticks(shown, [number(tick) if tick in labelled else "" for tick in shown])
        return
    offers = _log_ticks(low, high) if spec.log else _even_ticks(low, high, 6 if sheet.columns == 1 else 8)
    ticks = next((offer for offer in offers if all(has_room(offer))), [])
    axis.set_ticks(ticks, [number(tick) for tick in ticks])


def _room_on(sheet: Sheet, axis: DrawnAxis, horizontal: bool) -> Callable[[Ticks], list[bool]]:
    """A function that says which ticks' labels have room beside those before them."""
    width = measure(sheet, "xtick" if horizontal else "ytick")
    length = sheet.axes.bbox.width if horizontal else sheet.axes.bbox.height
    transform = axis.get_transform().transform
    first, last = transform(np.array(sorted(axis.get_view_interval())))

    def has_room(ticks: Ticks) -> list[bool]:
        shares = (transform(np.array(ticks)) - first) / (last - first)
        room, reached = [], -math.inf
        for tick, share in zip(ticks, shares, strict=True):
            half = (width(number(tick)) + 0.9 * width("0") if horizontal else 1.5 * line_height(sheet)) / 2
            room.append(bool(share * length - half >= reached))
            reached = share * length + half if room[-1] else reached
        return room

    return has_room


def _labelled(ticks: Ticks, has_room: Callable[[Ticks], list[bool]]) -> set[float]:
    """Which of the ticks keep their labels: each second or third …, unless that loses much more than is needed."""
    greedy = {tick for tick, room in zip(ticks, has_room(ticks), strict=True) if room}
    even = next(set(ticks[::step]) for step in range(1, len(ticks) + 1) if all(has_room(ticks[::step])))
    return even if len(even) >= 0.6 * len(greedy) else greedy


def _even_ticks(low: float, high: float, most: int) -> list[list[float]]:
    """From many to few."""
    offers = [MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) for n in range(most, 0, -1)]
    return [[float(tick) for tick in offer if low <= tick <= high] for offer in offers]


def _log_ticks(low: float, high: float) -> list[list[float]]:
    """1, 2, 5, 10 …, as people read numbers, then only powers of ten; within a factor of two or so, even steps."""
    decades = max(1, math.ceil(math.log10(high / low)))
    offers = [_log_steps(low, high, subs, 1) for subs in ((1.0, 2.0, 5.0), (1.0, 3.0))]
    offers += [_log_steps(low, high, (1.0,), step) for step in range(1, decades + 1)]
    enough = [offer for offer in offers if len(offer) >= 3]
    return enough or [*_even_ticks(low, high, 5), *offers]


def _log_steps(low: float, high: float, subs: tuple[float, ...], step: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [sub * 10.0**power for power in range(first, last + 1) if power % step == 0 for sub in subs]
    return [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]


def _set_names(sheet: Sheet, axis: DrawnAxis, spec: Axis, horizontal: bool) -> None:
    width = measure(sheet, "xtick" if horizontal else "ytick")
    if not horizontal:
        names = [wrapped(name, NAMES_SHARE * sheet.pixels, width) for name in spec.names]
        axis.set_ticks(range(len(names)), names)
        return
    room = 0.95 * sheet.axes.bbox.width / len(spec.names)
    flat = all(width(word) <= room for name in spec.names for word in name.split())
    names = [wrapped(name, room, width) if flat else name for name in spec.names]
    axis.set_ticks(range(len(names)), names, rotation=0 if flat else 90)
