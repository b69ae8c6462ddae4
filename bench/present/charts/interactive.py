"""A chart for the page, as plotly reads it. Example: traces = figure(chart)["data"]

Plain data, without plotly itself: the page brings plotly.js. Plotly interprets some markup in texts, and formulas
between dollars; every text from a store is escaped so that it shows as it was written. Colours of text and grid are the
page's, which has a light and a dark theme; a trace names its model in `meta`, by which the page highlights it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.present.charts.model import COLOURS, Axis, Chart, Look, Mark, Series

Plotly = dict[str, Any]  # a figure or a part of one as plotly reads it

SYMBOLS = {"circle": "circle", "square": "square", "triangle": "triangle-up", "diamond": "diamond"}
ROUNDS = ("", "-open", "-open-dot")  # of a symbol, as often as the colours were used before
GREY = "#808080"  # readable on white and on black
LARGEST_MARK = 26.0  # pixels, of the marker with area 1 where areas differ
PLAIN_MARK = 10.0
ROW_PIXELS = 34  # of an axis of names
HEIGHT = 390  # pixels
BARS_SHARE = 0.8  # of a row that bars take


def escape(text: str) -> str:
    """A text that plotly shows as it is: no tags, entities, formulas or templates."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;"), ("%", "&#37;")):
        text = text.replace(character, entity)
    return text


def figure(chart: Chart) -> Plotly:
    """Traces and layout; numbers are finite or None, so that strict JSON can hold them."""
    traces = [trace for series in chart.series for trace in _traces(series, chart)] + _explained(chart)
    return {"data": traces, "layout": _layout(chart)}


def _explained(chart: Chart) -> list[Plotly]:
    """Entries of the legend, without data, for hollow marks and the band."""
    samples = []
    if chart.hollow and any(mark.open for series in chart.series for mark in series.marks):
        cross = any(series.kind == "steps" for series in chart.series)
        samples.append((chart.hollow, "cross-thin-open" if cross else "circle-open", 1.0))
    if chart.band_name:
        samples.append((chart.band_name, "square", 0.2))
    common: Plotly = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "showlegend": True}
    return [
        {
            **common,
            "name": escape(name),
            "meta": {"model": "", "thin": True},
            "hoverinfo": "skip",
            "opacity": opacity,
            "marker": {"color": GREY, "symbol": symbol, "size": 9.0, "line": {"width": 1.5, "color": GREY}},
        }
        for name, symbol, opacity in samples
    ]


def _layout(chart: Chart) -> Plotly:
    rows = len(chart.y.names)
    layout: Plotly = {
        "height": max(HEIGHT, 130 + ROW_PIXELS * rows) if rows else HEIGHT,
        "xaxis": _axis(chart.x, _along(chart, "x")),
        "yaxis": _axis(chart.y, _along(chart, "y")) | ({"autorange": "reversed"} if rows else {}),
        "showlegend": bool(_explained(chart)) or any(series.name for series in chart.series),
        "barmode": "stack" if chart.stacked else "overlay",
    }
    if chart.band is not None:
        low, high = chart.band
        band = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}}
        layout["shapes"] = [{**band, "x0": low, "x1": high, "fillcolor": GREY, "opacity": 0.2, "layer": "below"}]
    return layout


def _along(chart: Chart, axis: str) -> list[float]:
    """Every figure along an axis."""
    return [getattr(mark, axis) for series in chart.series for mark in series.marks]


def log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10 … around these values; of more than three decades the powers of ten alone."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return []
    low, high = (math.floor(math.log10(end)) for end in (min(positive), max(positive)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    return [float(f"{step}e{power}") for power in range(low - 1, high + 2) for step in steps]


def _axis(axis: Axis, values: Sequence[float]) -> Plotly:
    layout: Plotly = {"title": {"text": escape(axis.title)}, "automargin": True}
    if axis.log:
        ticks = log_ticks(values)
        layout |= {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
    else:
        layout |= {"separatethousands": True, "exponentformat": "none"}
    if axis.from_zero and not axis.log:
        layout["rangemode"] = "tozero"
    if axis.ticks:
        layout |= {"tickmode": "array", "tickvals": list(axis.ticks), "ticktext": [f"{t:,g}" for t in axis.ticks]}
    if axis.names:
        names = [escape(name) for name in axis.names]
        layout |= {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names, "zeroline": False}
    return layout


def _traces(series: Series, chart: Chart) -> list[Plotly]:
    look = chart.looks.get(series.model, Look(GREY, "circle", 0))
    shade = COLOURS[series.shade % len(COLOURS)] if series.shade is not None else look.colour
    shade = GREY if series.thin else shade
    same = _same_lines([mark.hover for mark in series.marks])  # once for all: a page may hold thousands of marks
    common: Plotly = {
        "name": escape(series.name),
        "showlegend": bool(series.name),
        "meta": {"model": series.model, "thin": series.thin},
        "x": [_number(mark.x) for mark in series.marks],
        "y": [_number(mark.y) for mark in series.marks],
        "customdata": ["<br>".join(map(escape, mark.hover[len(same) :])) for mark in series.marks],
        "hovertemplate": "<br>".join([*map(escape, same), "%{customdata}<extra></extra>"]),
        "opacity": 0.35 if series.faint else 1.0,
    }
    if not any(mark.hover for mark in series.marks):
        common |= {"hoverinfo": "skip", "hovertemplate": None}
    if series.kind == "bars":
        if not series.model:  # bars of several models, one per row: the page highlights them one by one
            common["meta"] |= {"models": [chart.y.names[round(mark.y)] for mark in series.marks]}
        return _bars(series, common, shade, chart)
    if series.kind == "ranges":
        return [_ranges(series, common, shade)]
    sized = any(mark.area != 1.0 for other in chart.series for mark in other.marks)
    return [_scatter(series, common, shade, look, sized)]


def _same_lines(texts: Sequence[Sequence[str]]) -> list[str]:
    """The first lines that all of these share; each keeps its last line."""
    same = []
    for lines in zip(*(text[:-1] for text in texts), strict=False):
        if len(set(lines)) > 1:
            break
        same.append(lines[0])
    return same


def _scatter(series: Series, common: Plotly, shade: str, look: Look, sized: bool) -> Plotly:
    joined = series.kind != "points"
    # steps are marked only where a run ended without reaching the target, lines of no model nowhere
    marked = any(mark.open for mark in series.marks) if series.kind == "steps" else not series.thin
    mode = "+".join(part for part, used in (("lines", joined), ("markers", marked)) if used)
    trace = {**common, "type": "scatter", "mode": mode}
    if joined:
        style: Plotly = {"color": shade, "width": 1.5}
        style |= {"dash": "dash"} if series.thin else {}
        style |= {"shape": "hv"} if series.kind == "steps" else {}
        trace["line"] = style
    if marked:
        trace["marker"] = {
            "color": shade,
            "symbol": _once([_symbol(mark, look, series) for mark in series.marks]),
            "size": _once([_size(mark, series, sized) for mark in series.marks]),
            "line": {"width": 1.5, "color": shade},
        }
    for axis in "xy":
        if bars := _interval(series.marks, axis):
            trace[f"error_{axis}"] = {**bars, "color": shade, "thickness": 1.2, "width": 0}
    if any(mark.label for mark in series.marks):
        # the page puts them where there is room, or leaves them out: hovering over a mark names it
        trace["meta"] = {**trace["meta"], "labels": [escape(mark.label) for mark in series.marks]}
    return trace


def _once(values: list[Any]) -> Any:
    """One value where all are equal, else the list of them."""
    return values[0] if values and len(set(values)) == 1 else values


def _symbol(mark: Mark, look: Look, series: Series) -> str:
    if series.kind == "steps":
        return "cross-thin-open" if mark.open else "line-ns"
    ending = "-open" if mark.open else ROUNDS[min(look.round, len(ROUNDS) - 1)]
    return SYMBOLS[look.marker] + ending


def _size(mark: Mark, series: Series, sized: bool) -> float:
    if series.kind == "steps":
        return 9.0 if mark.open else 0.0
    if series.kind == "line":
        return 5.0
    if series.faint:
        return 5.0
    return max(5.0, LARGEST_MARK * math.sqrt(mark.area)) if sized else PLAIN_MARK


def _interval(marks: Sequence[Mark], axis: str) -> Plotly | None:
    """Lengths above and below, where a mark has an interval along this axis."""
    ends = [(getattr(m, axis), getattr(m, f"{axis}_low"), getattr(m, f"{axis}_high")) for m in marks]
    if not any(math.isfinite(low) and math.isfinite(high) for _, low, high in ends):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [_number(high - value) for value, _, high in ends],
        "arrayminus": [_number(value - low) for value, low, _ in ends],
    }


def _bars(series: Series, common: Plotly, shade: str, chart: Chart) -> list[Plotly]:
    """Bars, each with its label beyond its interval; offset by hand, so that the labels' heights are known."""
    trace = {**common, "type": "bar", "orientation": "h", "marker": {"color": shade}}
    if bars := _interval(series.marks, "x"):
        trace["error_x"] = {**bars, "color": GREY, "thickness": 1.2, "width": 3}
    middle = 0.0
    if not chart.stacked:
        beside = [one for one in chart.series if one.kind == "bars"]
        width = BARS_SHARE / len(beside)
        trace |= {"width": width, "offset": beside.index(series) * width - BARS_SHARE / 2}
        middle = trace["offset"] + width / 2
    labelled = [mark for mark in series.marks if mark.label]
    if not labelled:
        return [trace]
    ends = [mark.x_high if math.isfinite(mark.x_high) else mark.x for mark in labelled]
    labels = {
        "type": "scatter",
        "mode": "text",
        "x": [_number(end) for end in ends],
        "y": [mark.y + middle for mark in labelled],
        "text": [f"\u2009{escape(mark.label)}" for mark in labelled],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"model": series.model, "thin": True},
    }
    return [trace, labels]


def _ranges(series: Series, common: Plotly, shade: str) -> Plotly:
    """Wide pale lines, cut by gaps between one mark and the next."""
    x: list[float | None] = []
    y: list[float | None] = []
    for mark in series.marks:
        x += [_number(mark.x_low), _number(mark.x_high), None]
        y += [_number(mark.y), _number(mark.y), None]
    hover = [line for line in common["customdata"] for _ in range(3)]
    style = {"color": shade, "width": 11}
    return {
        **common,
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": style,
        "opacity": 0.3,
        "customdata": hover,
    }


def _number(value: float) -> float | None:
    """Seven digits, which is more than a screen shows."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
