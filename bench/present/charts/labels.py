"""Keeps texts in a figure apart: wraps them, moves them, stacks them. Example: spread([3, 3.1], [1, 1], 0, 9)

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

ADJUST_STEPS = 100  # a time limit, adjustText's default, would give other places on a slower machine
EXPANSIONS = ((1.06, 1.25), (1.02, 1.1))  # of the boxes of names, to keep them apart: generous, then closer
MOST_ADJUSTED, MOST_CLOSER = 40, 12  # labels; more never find room among the points at that expansion
BREAKS_AFTER = "_-/:.,]…"  # a name may be broken after these
CONTRAST = 4.5  # of small text on its background (WCAG 2.2, 1.4.3)
CONNECTED = 7.0  # points from a name to its mark; nearer ones need no line


@dataclass(frozen=True)
class Label:
    """A text for the place (x, y) of the data, where a mark of that radius (points) is drawn."""

    text: str
    x: float
    y: float
    colour: str
    radius: float
    beside: bool = False  # in its row, right of all that is drawn there
    at_end: bool = False  # of a line: in the column at the right


def wrapped(text: str, most: float, width: Callable[[str], float]) -> str:
    """The text in as few lines as possible, none wider than `most` by `width`, all about equally long."""
    lines = _lines(text, most, width)
    narrow = max(most / 2, max((width(word) for word in text.split()), default=0.0))
    if len(lines) < 2 or narrow >= most:
        return "\n".join(lines)
    tries = (_lines(text, narrow + (most - narrow) * step / 8, width) for step in range(8))
    return "\n".join(next((attempt for attempt in tries if len(attempt) == len(lines)), lines))


def _lines(text: str, most: float, width: Callable[[str], float]) -> list[str]:
    """Broken at spaces; within a word only where it is too wide for a line."""
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
    """How many characters of the word make a line; up to a hyphen or the like, where one is late enough."""
    fits = max(1, bisect.bisect_right(range(len(word)), most, key=lambda n: width(word[:n])) - 1)
    breaks = [n for n in range(fits // 3 + 1, fits + 1) if word[n - 1] in BREAKS_AFTER]
    return breaks[-1] if breaks else fits


def spread(targets: Sequence[float], heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """Centres of boxes stacked in this order from bottom to top without overlap, by least squares near `targets`.

    Isotonic regression by pooling adjacent violators (Barlow et al. 1972), then kept between bottom and top, which
    must have room for all of them.
    """
    offsets = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    pools: list[tuple[float, int]] = []  # mean target of its boxes, number of boxes
    for target, offset in zip(targets, offsets, strict=True):
        mean, count = target - offset, 1
        while pools and pools[-1][0] > mean:
            below, more = pools.pop()
            mean, count = (mean * count + below * more) / (count + more), count + more
        pools.append((mean, count))
    starts = [mean for mean, count in pools for _ in range(count)]
    highest = top - sum(heights)
    return [min(max(start, bottom), highest) + offset for start, offset in zip(starts, offsets, strict=True)]


def in_order(places: Sequence[tuple[float, float]], heights: Sequence[float], box: Bbox) -> list[tuple[int, float]]:
    """The order and height of labels in a column right of `box`: (index, centre) from the bottom up.

    Ordered by the heights of their places; neighbours whose lines to them would cross are swapped.
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
    """Write the labels near their marks, clear of each other and of `static`; False, and none written, if that fails.

    The axes must be final: adjustText places names in pixels. Those that it moves away get a thin line to their marks.
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
        return False  # adjustText would print a warning
    adjust_text(
        texts,
        ax=axes,
        target_x=[label.x for label in labels],
        target_y=[label.y for label in labels],
        # adjustText takes the boxes of texts in pixels, but other boxes in data units
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
    # A pale ground, so that no front or grid line strikes the name through.
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
    """Draw a thin line from a name that was moved away to its mark; an arrow would be clipped anew at every drawing."""
    near = min(max(place[0], box.x0), box.x1), min(max(place[1], box.y0), box.y1)
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72
    if math.dist(near, place) > (label.radius + CONNECTED) * point:
        lead(axes, near, place, label, label.radius * point)


def lead(axes: Axes, start: Place, place: Place, label: Label, radius: float) -> None:
    """Draw a thin line from a label to the edge of its mark, in shares of the figure: the same at every resolution."""
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
    """The colour, darkened (on a dark ground: lightened) until small text in it is readable."""
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
