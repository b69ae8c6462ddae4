"""The page's charts: interactive data, still images, text. Example: groups(charts, stills(charts, progress))"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from bench.present.charts import static
from bench.present.charts.model import Chart, Look

STILL_PIXELS, STILL_COLOURS = 1100, 48  # of an image for readers without a script
FACTS_AT_MOST = 60  # marks of a chart that are also listed as text
SHAPES = {
    "circle": "M0-5a5 5 0 1 0 .01 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "triangle": "M0-5.5L5.5 4.5H-5.5z",
    "diamond": "M0-6L6 0 0 6-6 0z",
}
Progress = Callable[[str, int, int], None]  # what, how many are done, of how many


@dataclass(frozen=True)
class Position:
    """One chart of a figure; a figure with several has a switch between them."""

    word: str
    title: str
    index: int  # of the interactive chart
    image: bytes  # a PNG file
    caption: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One figure of the page."""

    id: str
    key: str
    title: str
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class Group:
    """The figures of one comparison or session."""

    subject: str
    facets: dict[str, str]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Chip:
    """A model's button above the charts."""

    model: str
    colour: str
    path: str  # of its marker, in SVG
    open: bool


def stills(charts: Sequence[Chart], progress: Progress) -> list[bytes]:
    """Each chart as a PNG file, which takes most of the time of a page."""
    images = []
    for done, chart in enumerate(charts, 1):
        images.append(_small(static.to_png(static.draw(chart))))
        progress("drawing charts", done, len(charts))
    return images


def _small(png: bytes) -> bytes:
    """A figure for paper as one for a page: fewer pixels and colours, a tenth of the bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    size = (STILL_PIXELS, round(image.height * STILL_PIXELS / image.width))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).quantize(STILL_COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def groups(charts: Sequence[Chart], images: Sequence[bytes]) -> list[Group]:
    """Charts of one subject together, those of one switch as one figure, in the order in which they came."""
    subjects: dict[str, dict[str, list[tuple[int, Chart]]]] = {}
    for index, chart in enumerate(charts):
        subjects.setdefault(chart.subject, {}).setdefault(chart.switch or chart.stem, []).append((index, chart))
    return [
        Group(
            subject,
            dict(next(iter(figures.values()))[0][1].facets),
            tuple(_figure(indexed, images) for indexed in figures.values()),
        )
        for subject, figures in subjects.items()
    ]


def _figure(indexed: Sequence[tuple[int, Chart]], images: Sequence[bytes]) -> Figure:
    first_index, first = indexed[0]
    positions = [
        Position(
            word=chart.position,
            title=chart.title,
            index=index,
            image=images[index],
            caption=_caption(chart),
            facts=facts_of(chart),
        )
        for index, chart in indexed
    ]
    return Figure(f"chart-{first_index}", first.switch or first.key, first.title, tuple(positions))


def _caption(chart: Chart) -> str:
    """Without the conditions, which stand above all charts of one subject."""
    return " ".join(chart.caption.replace(chart.subject, "").split()).removesuffix(" .").strip()


def facts_of(chart: Chart) -> tuple[str, ...]:
    """The marks of a chart as lines of text, for those who cannot point at them; none where there are too many."""
    marks = [mark for series in chart.series for mark in series.marks if mark.hover]
    return tuple("; ".join(mark.hover) for mark in marks) if len(marks) <= FACTS_AT_MOST else ()


def chips(charts: Sequence[Chart]) -> list[Chip]:
    """One button per model in these charts."""
    looks: dict[str, Look] = {}
    for chart in charts:
        looks |= chart.looks
    return [Chip(model, look.colour, SHAPES[look.marker], look.round > 0) for model, look in sorted(looks.items())]
