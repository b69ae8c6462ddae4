"""Texts in a figure that do not meet: wrapped, moved apart, or in a column. Example: spread([3, 3.1], [1, 1], 0, 9)

Lengths are pixels of the figure's canvas unless a name says otherwise.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from adjustText import adjust_text
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

ADJUST_STEPS = 100  # of placing names; by default they end after a second, so elsewhere on a slower machine
EXPANSIONS = ((1.06, 1.25), (1.02, 1.1))  # of names, to keep their distance: generous, then closer
MOST_ADJUSTED, MOST_CLOSER = 40, 12  # labels; more never find room among the points, be it generous or closer
BREAKS_AFTER = "_-/:.,]…"  # where a name may go on in the next line
CONTRAST = 4.5  # of small text on its background (WCAG 2.2, 1.4.3)
CONNECTED = 7.0  # points from a name to its mark; nearer ones need no line


@dataclass(frozen=True)
class Label:
    """A text that belongs to the place (x, y) of the data, where a mark of that radius (points) is drawn."""

    text: str
    x: float
    y: float
    colour: str
    radius: float
    beside: bool = False  # in its row, right of all that is drawn there
    at_end: bool = False  # of a line: in the column at the right


def wrapped(text: str, most: float, width: Callable[[str], float]) -> str:
    """The text in as few lines no wider than `most` as `width` measures them, all about as long."""
    lines = _lines(text, most, width)
    narrow = max(most / 2, max((width(word) for word in text.split()), default=0.0))
    if len(lines) < 2 or narrow >= most:
        return "\n".join(lines)
    tries = (_lines(text, narrow + (most - narrow) * step / 8, width) for step in range(8))
    return "\n".join(next((found for found in tries if len(found) == len(lines)), lines))


def _lines(text: str, most: float, width: Callable[[str], float]) -> list[str]:
    """Broken at spaces, words only where they must be."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= most:
            lines[-1] += f" {word}"
            continue
        while width(word) > most and len(word) > 1:
            head = _head(word, most, width)
            lines.append(word[:head])
            word = word[head:]
        lines.append(word)
    return lines


def _head(word: str, most: float, width: Callable[[str], float]) -> int:
    """How many characters of the word make a line; after a hyphen or the like, where one is not too early."""
    fits = max(1, bisect.bisect_right(range(len(word)), most, key=lambda n: width(word[:n])) - 1)
    breaks = [n for n in range(fits // 3 + 1, fits + 1) if word[n - 1] in BREAKS_AFTER]
    return breaks[-1] if breaks else fits


def spread(wanted: Sequence[float], heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """Centres of boxes stacked in this order from bottom to top, none on another, by least squares near `wanted`.

    Isotonic regression by pooling adjacent violators (Barlow et al. 1972), then kept within bottom and top, where all
    of them must fit.
    """
    offsets = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    pools: list[tuple[float, int]] = []  # mean of what its boxes want, number of boxes
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (mean * count + before * many) / (count + many), count + many
        pools.append((mean, count))
    starts = [mean for mean, count in pools for _ in range(count)]
    highest = top - sum(heights)
    return [min(max(start, bottom), highest) + offset for start, offset in zip(starts, offsets, strict=True)]


def in_order(places: Sequence[tuple[float, float]], heights: Sequence[float], box: Bbox) -> list[tuple[int, float]]:
    """Which label stands how high in a column left of which `box` is: (index, centre) from the bottom up.

    By the heights of their places; neighbours whose lines to them would cross change seats.
    """
    order = sorted(range(len(places)), key=lambda i: (places[i][1], -places[i][0]))
    for _ in range(len(places)):
        centres = spread([places[i][1] for i in order], [heights[i] for i in order], box.y0, box.y1)
        crossed = [
            n
            for n in range(len(order) - 1)
            if _cross(places[order[n]], (box.x1, centres[n]), places[order[n + 1]], (box.x1, centres[n + 1]))
        ]
        if not crossed:
            break
        for n in crossed:
            order[n], order[n + 1] = order[n + 1], order[n]
    centres = spread([places[i][1] for i in order], [heights[i] for i in order], box.y0, box.y1)
    return list(zip(order, centres, strict=True))


Place = tuple[float, float]


def _cross(a: Place, b: Place, c: Place, d: Place) -> bool:
    """Whether the line from a to b crosses the one from c to d."""

    def side(p: Place, q: Place, r: Place) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def place_near(axes: Axes, labels: Sequence[Label], static: Sequence[Bbox], renderer: RendererAgg) -> bool:
    """Write the labels beside their marks, clear of each other and of `static`; False, and none written, if they can't.

    The axes must be final: names are placed by adjustText, in pixels, with a thin line where they moved away.
    """
    if len(labels) > MOST_ADJUSTED:
        return False
    expansions = EXPANSIONS if len(labels) <= MOST_CLOSER else EXPANSIONS[:1]
    return any(_try_near(axes, labels, static, renderer, expand) for expand in expansions)


def _try_near(
    axes: Axes, labels: Sequence[Label], static: Sequence[Bbox], renderer: RendererAgg, expand: tuple[float, float]
) -> bool:
    places = [(float(x), float(y)) for x, y in axes.transData.transform([(label.x, label.y) for label in labels])]
    texts = [_beside(axes, label, place, renderer) for label, place in zip(labels, places, strict=True)]
    inverted = axes.transData.inverted()
    if any(text.get_window_extent(renderer).width > axes.bbox.width for text in texts):
        for text in texts:
            text.remove()
        return False  # adjustText would say so on the terminal
    adjust_text(
        texts,
        ax=axes,
        target_x=[label.x for label in labels],
        target_y=[label.y for label in labels],
        # adjustText takes boxes of texts in pixels, but other boxes in the units of the data
        objects=[Bbox(inverted.transform(box.get_points())) for box in static],
        expand=expand,
        force_text=(0.4, 0.6),
        force_static=(0.3, 0.5),
        iter_lim=ADJUST_STEPS,
    )
    boxes = [text.get_window_extent(renderer) for text in texts]
    if any(_hidden(box, axes.bbox, static) for box in boxes) or meeting(boxes):
        for text in texts:
            text.remove()
        return False
    for label, place, box in zip(labels, places, boxes, strict=True):
        _connect(axes, label, place, box)
    return True


def _beside(axes: Axes, label: Label, place: Place, renderer: RendererAgg) -> Text:
    """The label right of its mark, or left of it where the axes end there."""
    # The pale ground keeps a front or a grid line from striking the name through.
    ground = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "alpha": 0.7, "pad": 0.4}
    text = axes.text(
        label.x, label.y, label.text, color=label.colour, va="center", zorder=2.6, parse_math=False, bbox=ground
    )
    width, gap = text.get_window_extent(renderer).width, renderer.points_to_pixels(label.radius + 3)
    x = place[0] + gap if place[0] + gap + width <= axes.bbox.x1 else place[0] - gap - width
    text.set_position(tuple(axes.transData.inverted().transform((x, place[1]))))
    return text


def _hidden(box: Bbox, inside: Bbox, static: Sequence[Bbox]) -> bool:
    if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
        return True
    smaller = box.padded(-0.15 * box.height)  # a text's box has room above and below its letters
    return any(smaller.overlaps(other) for other in static)


def _connect(axes: Axes, label: Label, place: Place, box: Bbox) -> None:
    """A thin line from a name that was moved away to its mark; an arrow would be clipped anew at every drawing."""
    near = min(max(place[0], box.x0), box.x1), min(max(place[1], box.y0), box.y1)
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72
    if math.dist(near, place) > (label.radius + CONNECTED) * point:
        lead(axes, near, place, label, label.radius * point)


def lead(axes: Axes, start: Place, place: Place, label: Label, radius: float) -> None:
    """A thin line from a label to the edge of its mark, in shares of the figure: the same at every resolution."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    length = math.dist(start, place)
    share = max(0.0, 1 - radius / length) if length else 0.0
    end = (start[0] + (place[0] - start[0]) * share, start[1] + (place[1] - start[1]) * share)
    (x0, y0), (x1, y1) = figure.transFigure.inverted().transform([start, end])
    line = Line2D([x0, x1], [y0, y1], color=label.colour, linewidth=0.5, alpha=0.55, zorder=1.6)
    line.set(transform=figure.transFigure, clip_on=False)
    axes.add_artist(line)


def meeting(boxes: Sequence[Bbox]) -> bool:
    """Whether any two boxes have more than an edge in common."""
    return any(a.padded(-0.5).overlaps(b.padded(-0.5)) for a, b in itertools.combinations(boxes, 2))


def readable(colour: str, ground: Any) -> str:
    """The colour, darker (on a dark ground: lighter) as far as small text in it needs to be read."""
    shade: Any = np.array(colors.to_rgb(colour))
    towards = 0.0 if _luminance(ground) > 0.2 else 1.0
    while _contrast(shade, ground) < CONTRAST and abs(shade - towards).max() > 0.02:
        shade = towards + 0.93 * (shade - towards)
    return str(colors.to_hex(shade))


def _contrast(one: Any, other: Any) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Any) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = np.asarray(colors.to_rgb(colour), dtype=float)
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
