"""A chart as data. Example: Series("seresnet", "points", (Mark(127e6, 0.92, label="seresnet"),))

Without matplotlib or plotly: static.py draws it for papers, interactive.py for the page, so that both show the same
figures, intervals and captions. Texts are those of the records, made inert; they are never formulas or markup.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from models.registry import CATALOGUE

# Okabe & Ito 2008, "Color Universal Design", without the yellow that white paper swallows; black first.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# models of the catalogue that have these colours, filled; the rest have them hollow
FIRST = ("seresnet", "vit_flops", "vit_tiny", "resnet56", "vit_params", "cct_2", "swin")
MARKERS = {"cnn": "circle", "vit": "square", "hybrid": "triangle", "external": "diamond"}
LONGEST_NAME = 26  # characters of a model's name in a chart; the caption has the full name

Kind = Literal["points", "line", "steps", "bars", "ranges"]


@dataclass(frozen=True)
class Look:
    """How a model looks in every chart: a colour, its family's marker, and how often the colours were used before it.

    Static charts draw markers of the first round filled, of the second open, of the third with a cross inside.
    """

    colour: str
    marker: str
    round: int


@dataclass(frozen=True)
class Axis:
    """One axis: its title with the unit, and how it is divided."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()  # the only places with a label, such as batch sizes
    names: tuple[str, ...] = ()  # of positions 0, 1, …, on an axis of models or pairs
    from_zero: bool = False


@dataclass(frozen=True)
class Mark:
    """One figure of a series, with the ends of its interval (nan: none) and the text shown on hovering over it."""

    x: float
    y: float
    x_low: float = math.nan
    x_high: float = math.nan
    y_low: float = math.nan
    y_high: float = math.nan
    label: str = ""  # stands beside it
    hover: tuple[str, ...] = ()  # lines: the run, its seed, its interval
    area: float = 1.0  # of the marker, as a share of the largest
    open: bool = False  # drawn hollow, or on steps as a cross: what Chart.hollow says


@dataclass(frozen=True)
class Series:
    """Marks that belong together.

    points: one marker each, intervals as thin lines · line, steps: joined in their order, cut where x is nan ·
    bars: horizontal, from 0 to x at position y, stacked where the chart is · ranges: from x_low to x_high at y, wide
    and pale.
    """

    model: str  # gives colour and marker, and highlights it; "" for ceilings, fronts, thresholds
    kind: Kind
    marks: tuple[Mark, ...]
    name: str = ""  # in the legend; "" for none
    shade: int | None = None  # of COLOURS, where the colour is not the model's
    faint: bool = False  # behind others: single runs under their mean
    thin: bool = False  # a dashed grey line of no model: a Pareto front, a ceiling


@dataclass(frozen=True)
class Chart:
    """One figure. Those with the same `subject` and `switch` are positions of one switch on the page."""

    key: str  # the kind, such as accuracy_vs_throughput
    stem: str  # of its files, unique among all charts of a call
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    caption: str  # n, intervals, conditions, device
    looks: Mapping[str, Look]  # of every model in it
    subject: str  # its comparison or session, in one line
    facets: Mapping[str, str] = field(default_factory=dict)  # dataset, device, recipe, track, where it has them
    command: str = ""  # reproduces it from the store
    switch: str = ""
    position: str = ""  # of the switch, such as "seconds"
    stacked: bool = False
    band: tuple[float, float] | None = None  # of x: differences treated as equivalent
    band_name: str = ""  # in the legend
    hollow: str = ""  # what a hollow mark means, in the legend


@dataclass(frozen=True)
class Missing:
    """A kind of chart that these stores have no data for, and how to get them."""

    key: str
    title: str
    how: str


def looks_of(families: Mapping[str, str]) -> dict[str, Look]:
    """A look for each model, by its family.

    A model of the catalogue has the same colour in every chart of every store; each of the others has the one that its
    name's checksum gives it, or the next that is free in these charts.
    """
    order = [*FIRST, *(model for model in CATALOGUE if model not in FIRST)]
    places = {model: place for place, model in enumerate(order) if model in families}
    for model in sorted(families.keys() - places.keys()):
        start = zlib.crc32(model.encode(errors="replace")) % len(COLOURS)
        places[model] = next(place for place in count(start) if place not in places.values())
    return {
        model: Look(COLOURS[place % len(COLOURS)], MARKERS.get(families[model], "diamond"), place // len(COLOURS))
        for model, place in sorted(places.items())
    }


def short(name: str, most: int = LONGEST_NAME) -> str:
    """The name, its middle left out where it is longer than `most` characters."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
