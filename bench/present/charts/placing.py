"""Where labels stand in a static figure: near, beside, or in a column at the right. Example: place_labels(sheet, rows)

A label takes the first of these places where it covers neither a mark nor another label.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.transforms import Bbox

from bench.present.charts.axes import set_limits
from bench.present.charts.labels import Label, in_order, lead, place_near, readable, wrapped
from bench.present.charts.layout import lay_out
from bench.present.charts.marks import BAR, BarRows, areas_of
from bench.present.charts.model import Chart, Mark
from bench.present.charts.sheet import DPI, HEIGHTS, NAMES_SHARE, Sheet, ink, line_height, look_of, measure

GAP = 0.08  # inches, between the axes and a column of labels
ROW = {1: 0.2, 2: 0.24}  # inches, the least height of a row of an axis of names
LEAST_TITLED = 0.9  # inches, of axes with a title at their left
COLUMN_SHARE = {1: 0.4, 2: 0.3}  # of the width, the most that a column of labels may take
LEAST_MARKS = 0.4  # of the axes' width, what texts beside marks leave to them


def place_labels(sheet: Sheet, rows: BarRows) -> None:
    """Set limits and sizes, and write every label of the chart."""
    labels = _labels(sheet, rows)
    set_limits(sheet, roomy=any(not (label.beside or label.at_end) for label in labels))
    _place(replace(sheet, height=_height(sheet, labels)), labels)


def _labels(sheet: Sheet, rows: BarRows) -> list[Label]:
    labels: list[Label] = []
    for series in sheet.chart.series:
        colour = readable(look_of(sheet.chart, series).colour, sheet.axes.get_facecolor())
        if series.kind == "bars":
            colour = ink("#000000")
        areas = areas_of(sheet, series) if series.kind == "points" else [9.0] * len(series.marks)
        for n, (mark, area) in enumerate(zip(series.marks, areas, strict=True)):
            if not mark.label.strip():
                continue
            placed = rows.at_end(mark) if series.kind == "bars" else mark
            at_end = series.kind in ("line", "steps") and n == len(series.marks) - 1
            beside = series.kind in ("bars", "ranges") or (bool(sheet.chart.y.names) and not at_end)
            x = _right_of_all(sheet.chart, placed, rows) if beside else placed.x
            labels.append(Label(mark.label, x, placed.y, colour, math.sqrt(area) / 2, beside, at_end))
    return _one_per_row(labels) if sheet.chart.stacked else labels


def _one_per_row(labels: Sequence[Label]) -> list[Label]:
    """The parts of a stack share the room at its end."""
    rows: dict[float, list[Label]] = {}
    for label in labels:
        rows.setdefault(label.y, []).append(label)
    return [
        replace(parts[-1], text=" + ".join(part.text for part in parts), x=max(part.x for part in parts))
        for parts in rows.values()
    ]


def _right_of_all(chart: Chart, mark: Mark, rows: BarRows) -> float:
    """The right end of all that is drawn at the mark's height."""
    every = [
        rows.at_end(other) if series.kind == "bars" else other for series in chart.series for other in series.marks
    ]
    ends = [end for m in every if abs(m.y - mark.y) < 1e-6 for end in (m.x, m.x_high) if math.isfinite(end)]
    return max(ends, default=mark.x)


def _height(sheet: Sheet, labels: Sequence[Label]) -> float:
    """Inches of the axes: usual, or as many as the rows of names need for their lines, bars and labels."""
    if not sheet.chart.y.names:
        return HEIGHTS[sheet.columns]
    line = line_height(sheet) / DPI
    width = measure(sheet, "ytick")
    lines = max(wrapped(name, NAMES_SHARE * sheet.pixels, width).count("\n") + 1 for name in sheet.chart.y.names)
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
    lay_out(sheet, width)
    if beside and not _make_room(sheet, beside, width):
        column, beside = column + beside, []
        sheet, width = _reserve(sheet, column)
        lay_out(sheet, width)
    if near and not place_near(sheet.axes, near, _occupied(sheet), sheet.renderer):
        column += near
        sheet, width = _reserve(sheet, column)
        set_limits(sheet, roomy=False)
        lay_out(sheet, width)
    for label in beside:
        _write_beside(sheet, label)
    if column:
        _write_column(sheet, column)


# --- beside their marks, in rows -------------------------------------------------------------------------------------


def _make_room(sheet: Sheet, labels: Sequence[Label], column: float) -> bool:
    """Move the right end of the axis until labels in rows fit before it; False where they take most of it, or meet."""
    heights = sorted(float(y) for _, y in sheet.axes.transData.transform([(label.x, label.y) for label in labels]))
    if any(b - a < 0.98 * line_height(sheet) for a, b in itertools.pairwise(heights)):
        return False
    width = measure(sheet, "font")
    axes = sheet.axes
    transform = axes.xaxis.get_transform()
    low, high = (float(v) for v in transform.transform(np.array(axes.get_xlim())))
    needed = high
    for label in labels:
        share = 1 - (width(label.text) + (label.radius + 6) * DPI / 72) / axes.bbox.width
        if share < LEAST_MARKS:
            return False
        end = float(transform.transform(np.array([label.x]))[0])
        needed = max(needed, low + (end - low) / share)
    axes.set_xlim(right=float(transform.inverted().transform(np.array([needed]))[0]))
    lay_out(sheet, column)
    return True


def _write_beside(sheet: Sheet, label: Label) -> None:
    sheet.axes.annotate(
        label.text, (label.x, label.y), xytext=(label.radius + 2, 0), textcoords="offset points", va="center_baseline",
        color=label.colour, parse_math=False, annotation_clip=False,
    )  # fmt: skip


# --- near their marks ------------------------------------------------------------------------------------------------


def _occupied(sheet: Sheet) -> list[Bbox]:
    """Boxes of markers and intervals, in pixels: names keep clear of them."""
    point, boxes = DPI / 72, []
    transform = sheet.axes.transData.transform
    for series in sheet.chart.series:
        if series.kind != "points" or series.faint:
            continue
        for mark, area in zip(series.marks, areas_of(sheet, series), strict=True):
            x, y = transform((mark.x, mark.y))
            if math.isfinite(x + y):
                boxes.append(Bbox.from_extents(x, y, x, y).padded(math.sqrt(area) / 2 * point))
            for low, high in (
                ((mark.x, mark.y_low), (mark.x, mark.y_high)),
                ((mark.x_low, mark.y), (mark.x_high, mark.y)),
            ):
                if math.isfinite(low[0] + low[1] + high[0] + high[1]):
                    (x0, y0), (x1, y1) = transform([low, high])
                    boxes.append(Bbox.from_extents(x0, y0, x1, y1).padded(0.4 * point))
    return boxes


# --- in a column at the right ----------------------------------------------------------------------------------------


def _column_texts(sheet: Sheet, labels: Sequence[Label]) -> list[str]:
    width = measure(sheet, "font")
    return [wrapped(label.text, COLUMN_SHARE[sheet.columns] * sheet.pixels, width) for label in labels]


def _reserve(sheet: Sheet, labels: Sequence[Label]) -> tuple[Sheet, float]:
    """The sheet, high enough for a column of these labels, and the inches that the column takes at its right."""
    if not labels:
        return sheet, 0.0
    texts, width_of = _column_texts(sheet, labels), measure(sheet, "font")
    width = max(width_of(line) for text in texts for line in text.split("\n")) / DPI
    height = sum(_text_height(sheet, text) for text in texts) / DPI
    return replace(sheet, height=max(sheet.height, height)), width + GAP


def _text_height(sheet: Sheet, text: str) -> float:
    return line_height(sheet) * (text.count("\n") + 1)


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
