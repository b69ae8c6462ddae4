"""The size of a static figure, its axes and their titles. Example: lay_out(sheet, column=0.0)"""

from __future__ import annotations

from matplotlib.transforms import Bbox

from bench.present.charts.axes import set_ticks
from bench.present.charts.labels import wrapped
from bench.present.charts.sheet import DPI, PAD, WIDTHS, Sheet, line_height, measure

PASSES = 3  # titles wrap by the room that ticks leave, and the other way round: it settles at once


def lay_out(sheet: Sheet, column: float) -> None:
    """Give the axes their height and the width that texts around them leave; `column` inches at the right stay free."""
    for _ in range(PASSES):
        set_ticks(sheet)
        _write_titles(sheet)
        _resize(sheet, column)


def _write_titles(sheet: Sheet) -> None:
    """Titles of the axes, in lines as long as the figure allows, moved where they would leave it."""
    axes, width_of = sheet.axes, measure(sheet, "axes")
    width, height = sheet.figure.bbox.width - 2 * PAD * DPI, sheet.figure.bbox.height - 2 * PAD * DPI
    for title, axis, most, low, high in (
        (sheet.chart.x.title, axes.xaxis, width, axes.bbox.x0, axes.bbox.x1),
        (sheet.chart.y.title, axes.yaxis, height, axes.bbox.y0, axes.bbox.y1),
    ):
        text = wrapped(title, max(min(most, 1.15 * (high - low)), most / 2), width_of)
        axis.set_label_text(text, parse_math=False, linespacing=1.1)
        half = max((width_of(line) for line in text.split("\n")), default=0.0) / 2 + PAD * DPI
        end = sheet.figure.bbox.width if axis is axes.xaxis else sheet.figure.bbox.height
        middle = min(max((low + high) / 2, half), max(end - half, half))
        share = (middle - low) / (high - low)
        if axis is axes.xaxis:
            axis.label.set_x(share)
        else:
            axis.label.set_y(share)


def _resize(sheet: Sheet, column: float) -> None:
    axes, figure = sheet.axes, sheet.figure
    around = Bbox.union([axes.bbox, *_boxes_around(sheet)])
    left, right = axes.bbox.x0 - around.x0, max(around.x1 - axes.bbox.x1, column * DPI)
    below, above = axes.bbox.y0 - around.y0, around.y1 - axes.bbox.y1
    for legend in figure.legends:
        above += legend.get_window_extent(sheet.renderer).height + 0.6 * line_height(sheet)
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
    """Boxes of tick labels and titles; a title counts only across its axis, along which it is kept on the canvas."""
    axes, boxes = sheet.axes, []
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_tightbbox(sheet.renderer)  # moves the title clear of the labels
        boxes += [t.get_window_extent(sheet.renderer) for t in axis.get_ticklabels() if t.get_text()]
    if axes.xaxis.label.get_text():
        box = axes.xaxis.label.get_window_extent(sheet.renderer)
        boxes.append(Bbox.from_extents(axes.bbox.x0, box.y0, axes.bbox.x1, box.y1))
    if axes.yaxis.label.get_text():
        box = axes.yaxis.label.get_window_extent(sheet.renderer)
        boxes.append(Bbox.from_extents(box.x0, axes.bbox.y0, box.x1, axes.bbox.y1))
    return boxes
