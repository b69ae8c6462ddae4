"""Any stores as one HTML file that needs no network. Example: build([Store(Path("results/local"))]).content

The tables, words and still images are in the file itself, so that it can be read without JavaScript and printed; the
script only sorts, filters and replaces the images by interactive charts. A browser may run nothing but the two scripts
whose hashes its Content-Security-Policy names, so that a hostile name in a record stays a name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.charts import interactive, static
from bench.charts.accuracy import front_of
from bench.charts.build import build as build_charts
from bench.charts.model import Chart, Look
from bench.compare import Pair, pairs
from bench.errors import UserError
from bench.report import facts, models, story
from bench.store import Store
from bench.table_formats import BOLD_MEANS, best_of, parts_of
from bench.tables import COLUMNS, Column, Comparison, Loaded, Row, compare_loaded, load, why_missing

FOLDER = Path(__file__).parent
TITLE = "sevit-bench: SE-ResNets and small Vision Transformers on small images"
FIRST_COMMAND = "make bench"
FACTS_AT_MOST = 60  # marks of a chart that are also listed as text
FRONTS = ("train_images_per_second", "flops", "params")  # columns with a Pareto front against accuracy
SHAPES = {
    "circle": "M0-5a5 5 0 1 0 .01 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "triangle": "M0-5.5L5.5 4.5H-5.5z",
    "diamond": "M0-6L6 0 0 6-6 0z",
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Head:
    """A column of the results table."""

    key: str
    title: str
    unit: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """One figure as it stands in the table; `value` is what it is sorted by, "" where there is none."""

    text: str = ""
    beside: str = ""
    value: str = ""
    missing: str = ""  # why there is no figure
    best: bool = False
    front: bool = False
    number: bool = True
    span: int = 1


@dataclass(frozen=True)
class TableRow:
    """A model under one set of conditions, or a run that failed."""

    model: str
    under: str
    facets: dict[str, str]
    cells: tuple[Cell, ...]
    failed: bool = False


@dataclass(frozen=True)
class Position:
    """One chart of a figure; a figure with several has a switch between them."""

    word: str
    title: str
    index: int  # of the interactive chart
    image: str  # base64 of the PNG file
    caption: str
    command: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """What stands as one figure on the page."""

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


def build(stores: list[Store], images: str = "all", still: bool = True, say: Say = lambda text: None) -> bytes:
    """The page's bytes. `images` is which wrongly classified ones are shown: all, digits or none.

    Without `still` the images for readers without a script are left out, which is quicker. The same stores give the
    same bytes.
    """
    found = load(stores)
    comparisons = compare_loaded(found)
    made = _pairs(stores)
    charts, missing = build_charts(found, comparisons, made, stores)
    groups = _groups(charts, still, say)
    rows = [row for comparison in comparisons for row in _rows(comparison)]
    shown_heads = _heads(comparisons)
    data = _json([interactive.figure(chart) for chart in charts])
    script, plotly = (FOLDER / "page.js").read_text(encoding="utf-8"), _plotly() if groups else ""
    content = _template().render(
        title=TITLE,
        policy=_policy([text for text in (plotly, script) if text]),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        headline=story.headline(made, comparisons),
        heads=shown_heads,
        rows=[replace(row, cells=_fitted(row, comparisons)) for row in rows],
        choices=_choices(rows),
        table_words=_table_words(comparisons),
        conditions=[c for c in comparisons if c.notes],
        first_command=FIRST_COMMAND,
        groups=groups,
        missing=missing,
        chips=_chips(charts),
        models=models.sections(found, comparisons, stores, images),
        run_heads=models.RUN_HEADS,
        protocol=facts.PROTOCOL,
        commands=facts.commands(found, stores),
        environment=facts.environment(found),
        files=[_file(*one) for one in facts.files(stores)],
        made=facts.made_from(found, stores),
        data=Markup(data),
        plotly=Markup(plotly),
        script=Markup(script),
    )
    return content.encode()


def write(stores: list[Store], path: Path, images: str = "all", say: Say = lambda text: None) -> int:
    """Write the page; returns its size in bytes. Raises UserError where it cannot be written."""
    content = build(stores, images, say=say)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to '{path}': {error.strerror}; name another --out") from None
    return len(content)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _policy(scripts: Iterable[str]) -> str:
    """Scripts by their hash alone; styles may be inline, because plotly sets them; nothing is fetched from anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _json(value: Any) -> str:
    """Strict JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pairs(stores: list[Store]) -> list[Pair]:
    try:
        return pairs(stores)
    except UserError:  # no two models under equal conditions
        return []


# --- the table -------------------------------------------------------------------------------------------------------


def _columns(comparisons: list[Comparison]) -> list[Column]:
    return [c for c in COLUMNS if any(c.key in row.values for one in comparisons for row in one.rows)]


def _heads(comparisons: list[Comparison]) -> list[Head]:
    first = [Head("model", "model", number=False), Head("data", "data and recipe", number=False)]
    return [*first, *(Head(c.key, c.title, c.unit) for c in _columns(comparisons))]


def facets_of(comparison: Comparison) -> dict[str, str]:
    """What the page filters by, but for the family."""
    about = comparison.about
    return {
        "dataset": f"{about['dataset']} ({about['content']})" if about["content"] else str(about["dataset"]),
        "device": str(about["device_name"]),
        "recipe": str(about["recipe"]),
        "track": str(about["track"] or "none"),
    }


def _table_rows(comparisons: list[Comparison]) -> list[TableRow]:
    columns = _columns(comparisons)
    rows = []
    for comparison in comparisons:
        facets = facets_of(comparison) if comparison.about else {}
        fronts = {key: front_of(comparison, key) for key in FRONTS}
        best = best_of(comparison)
        for row in comparison.rows:
            cells = [_cell(row, column, comparison, best, fronts) for column in columns]
            runs = f"{row.family}, {row.runs} run{'s' * (row.runs > 1)}"
            where = _conditions_cell(comparison)
            rows.append(TableRow(row.model, runs, {**facets, "family": row.family}, (where, *cells)))
        for failure in comparison.failures:
            text = f"seed {failure.seed}: {failure.status}. {failure.message}".rstrip()
            cells = [_conditions_cell(comparison), Cell(text, number=False, span=max(1, len(columns)))]
            rows.append(TableRow(failure.model, failure.run_id, facets, tuple(cells), failed=True))
    return rows


def _conditions_cell(comparison: Comparison) -> Cell:
    about = comparison.about
    if not about:
        return Cell(missing="no run under these conditions finished", number=False)
    track = f"track {about['track']}, " if about["track"] else ""
    under = f"{track}{about['recipe']}, {about['budget']}; {about['device_name']}, {about['setting']}"
    data = facets_of(comparison)["dataset"]
    images = f"{about['train_images']:,} training images"
    return Cell(data, f"{images}; {under}", value=f"{data} {under}", number=False)


def _cell(
    row: Row, column: Column, comparison: Comparison, best: dict[str, str], fronts: dict[str, frozenset[str]]
) -> Cell:
    if column.key not in row.values:
        return Cell(missing=why_missing(row, column, comparison))
    text, beside = cell_parts(row, column)
    front = row.model in fronts.get(column.key, ())
    return Cell(text, beside, repr(row.values[column.key].value), best=best.get(column.key) == row.model, front=front)


def _choices(rows: list[TableRow]) -> dict[str, list[str]]:
    names = ("dataset", "device", "recipe", "track", "family")
    return {name: list(dict.fromkeys(row.facets[name] for row in rows if name in row.facets)) for name in names}


# --- charts ----------------------------------------------------------------------------------------------------------


def _groups(charts: list[Chart], still: bool, say: Say) -> list[Group]:
    """Charts of one subject together, those of one switch as one figure, in the order in which they came."""
    groups: dict[str, dict[str, list[tuple[int, Chart]]]] = {}
    for index, chart in enumerate(charts):
        groups.setdefault(chart.subject, {}).setdefault(chart.switch or chart.stem, []).append((index, chart))
    made = []
    for subject, figures in groups.items():
        first = next(iter(figures.values()))[0][1]
        made.append(Group(subject, dict(first.facets), tuple(_figure(found, still, say) for found in figures.values())))
    return made


def _figure(found: list[tuple[int, Chart]], still: bool, say: Say) -> Figure:
    chart = found[0][1]
    positions = []
    for index, one in found:
        image = ""
        if still:
            say(f"drawing {one.title}")
            image = base64.b64encode(static.to_png(static.draw(one))).decode()
        positions.append(
            Position(one.position, one.title, index, image, one.caption, one.command, facts_of(one))
        )
    return Figure(f"chart-{found[0][0]}", chart.switch or chart.key, chart.title, tuple(positions))


def facts_of(chart: Chart) -> tuple[str, ...]:
    """The marks of a chart as lines of text, for those who cannot point at them; none where they are too many."""
    marks = [mark for series in chart.series for mark in series.marks if mark.hover]
    return tuple("; ".join(mark.hover) for mark in marks) if len(marks) <= FACTS_AT_MOST else ()


def _chips(charts: list[Chart]) -> list[dict[str, Any]]:
    looks: dict[str, Look] = {}
    for chart in charts:
        looks |= chart.looks
    return [
        {"model": model, "colour": look.colour, "path": SHAPES[look.marker], "open": look.round > 0}
        for model, look in sorted(looks.items())
    ]


# --- files -----------------------------------------------------------------------------------------------------------


def size_words(count: int) -> str:
    """1,234 bytes as `1.2 kB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _file(name: str, content: bytes, words: str) -> dict[str, str]:
    encoded = base64.b64encode(content).decode()
    return {"name": name, "label": name, "content": encoded, "size": size_words(len(content)), "words": words}
