"""A static figure in the making, and how wide its texts are. Example: measure(sheet, "legend")("seresnet")"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from bench.present.charts.model import COLOURS, Chart, Look, Series

WIDTHS = {1: 3.35, 2: 6.9}  # inches, of one column and of two
HEIGHTS = {1: 2.2, 2: 3.5}  # inches, of the axes, where nothing needs more
POINTS = {1: 7.0, 2: 8.0}  # of texts
DPI = 300
PAD = 0.05  # inches, around everything
LINE = 1.25  # height of a line of text, in sizes of the font
NAMES_SHARE = 0.42  # of the width, the most that names at the left may take

SHAPES = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
DASHES: Any = ("-", (0, (4, 1.3)), (0, (1, 1)), (0, (5, 1, 1, 1)))  # of lines, by how often the colours were used
HATCHES = ("", "////", "xxxx")  # of bars, likewise
NO_MODEL, THIN = "#555555", "#7a7a7a"


@dataclass(frozen=True)
class Sheet:
    """One chart being drawn on one figure."""

    chart: Chart
    columns: int
    figure: Figure
    axes: Axes
    renderer: RendererAgg
    height: float  # inches, of the axes
    widths: dict[tuple[str, float], float] = field(default_factory=dict)  # of texts by font size: measured once

    @property
    def pixels(self) -> float:
        """The figure's width."""
        return WIDTHS[self.columns] * DPI


def ink(colour: str) -> str:
    """Black becomes the style's text colour, so that it shows on a dark ground."""
    return str(matplotlib.rcParams["text.color"]) if colour.lower() == "#000000" else colour


def look_of(chart: Chart, series: Series) -> Look:
    """The colour and marker that a series is drawn with."""
    look = chart.looks.get(series.model, Look(NO_MODEL, "circle", 0))
    if series.thin:
        return Look(THIN, look.marker, 0)
    if series.shade is not None:
        return Look(ink(COLOURS[series.shade % len(COLOURS)]), look.marker, series.shade // len(COLOURS))
    return replace(look, colour=ink(look.colour))


def hatch_of(look: Look) -> str:
    """The hatch of a bar."""
    return HATCHES[min(look.round, len(HATCHES) - 1)]


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:,.10g}".replace("-", "−")


def measure(sheet: Sheet, role: str) -> Callable[[str], float]:
    """Measures the width of a text in its role: xtick, ytick, axes (titles), legend, or font (labels)."""
    sizes: Any = matplotlib.rcParams
    key = {"legend": "legend.fontsize", "font": "font.size"}.get(role, f"{role}.labelsize")
    font = FontProperties(size=sizes[key])

    def width(text: str) -> float:
        if (text, font.get_size()) not in sheet.widths:
            measured = sheet.renderer.get_text_width_height_descent(text, font, False)[0]
            sheet.widths[text, font.get_size()] = float(measured)
        return sheet.widths[text, font.get_size()]

    return width


def line_height(sheet: Sheet) -> float:
    """Pixels of one line of text."""
    return float(matplotlib.rcParams["font.size"] * LINE * DPI / 72)
