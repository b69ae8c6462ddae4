"""Any stores as one HTML file that needs no network. Example: build([Store(Path("results/local"))]).content

The tables, words and still images are in the file itself, so that it can be read without JavaScript and printed; the
script only sorts, filters and replaces the images by interactive charts. A browser may run nothing but the two scripts
whose hashes its Content-Security-Policy names, so that a hostile name in a record stays a name.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from bench.analysis.compare import Pair, pairs_loaded
from bench.analysis.tables import COLUMNS, Column, Comparison, Loaded, Row, compare_loaded, load
from bench.core.errors import UserError
from bench.core.files import inert, write_atomically
from bench.plan.spec import slug
from bench.present import table_formats
from bench.present.charts import interactive, static
from bench.present.charts.accuracy import facets_of, front_of
from bench.present.charts.build import build as build_charts
from bench.present.charts.model import Chart, Look
from bench.present.report import facts, models, story
from bench.present.session_table import significant
from bench.present.table_formats import lay_out, unit_of
from bench.store.disk import Store
from bench.store.records import Record

FOLDER = Path(__file__).parent
TITLE = "sevit-bench: SE-ResNets and small Vision Transformers on small images"
FIRST_COMMAND = "make bench"
STILL_PIXELS, STILL_COLOURS = 1100, 48  # of an image for readers without a script
FACTS_AT_MOST = 60  # marks of a chart that are also listed as text
FRONTS = ("train_images_per_second", "flops", "params")  # columns with a Pareto front against accuracy
SHAPES = {
    "circle": "M0-5a5 5 0 1 0 .01 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "triangle": "M0-5.5L5.5 4.5H-5.5z",
    "diamond": "M0-6L6 0 0 6-6 0z",
}
Progress = Callable[[str, int, int], None]  # what, how many are done, of how many


def unseen(what: str, done: int, of: int) -> None:
    """Shows nobody how far a page is."""


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


def build(stores: list[Store], images: str = "all", still: bool = True, progress: Progress = unseen) -> bytes:
    """The page's bytes. `images` is which wrongly classified ones are shown: all, digits or none.

    Without `still` the images for readers without a script are left out, which is quicker. The same stores give the
    same bytes.
    """
    found = load(stores)
    comparisons = compare_loaded(found)
    made = _pairs(found, stores)
    charts, missing = build_charts(found, comparisons, made, stores)
    rows = _table_rows(comparisons, {run["run_id"]: run for run in found.runs})
    labels = {comparison.title: _label(comparison) for comparison in comparisons}
    script, plotly = (FOLDER / "page.js").read_text(encoding="utf-8"), _plotly() if charts else ""
    page = _template().render(
        title=TITLE,
        policy=_policy([text for text in (plotly, script) if text]),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        headline=story.headline(made, comparisons),
        heads=_heads(comparisons),
        rows=rows,
        choices=_choices(rows),
        conditions=[(one.title, notes) for one in comparisons if (notes := lay_out(one, (), "Bold").notes)],
        first_command=FIRST_COMMAND,
        groups=_groups(charts, _stills(charts, progress) if still else [b""] * len(charts)),
        missing=missing,
        chips=_chips(charts),
        models=[_model(section, labels) for section in models.sections(stores, found, comparisons, images)],
        run_heads=RUN_HEADS,
        protocol=facts.PROTOCOL,
        commands=facts.reproduce(found, stores) if found.runs else [],
        environment=facts.environment(found),
        files=_files(stores),
        made=_made_from(found, stores),
        data=packed(_json([interactive.figure(chart) for chart in charts])),
        plotly=packed(plotly),
        script=Markup(script),
    )
    return page.encode()


def write(stores: list[Store], path: Path, images: str = "all", progress: Progress = unseen) -> int:
    """Write the page; returns its size in bytes. Raises UserError where it cannot be written."""
    content = build(stores, images, progress=progress)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to '{path}': {error.strerror}; name another --out") from None
    return len(content)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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
    return json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))


def packed(text: str) -> str:
    """Compressed, as letters and digits: the script unpacks it when the first chart is near.

    A third of the bytes; and the page can be used a second and more before plotly has been read.
    """
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _pairs(found: Loaded, stores: list[Store]) -> list[Pair]:
    try:
        return pairs_loaded(found, stores)
    except UserError:  # no two models under equal conditions
        return []


# --- the table -------------------------------------------------------------------------------------------------------


def _columns(comparisons: list[Comparison]) -> list[Column]:
    return [c for c in COLUMNS if any(c.key in row.values for one in comparisons for row in one.rows)]


def _heads(comparisons: list[Comparison]) -> list[Head]:
    first = [Head("model", "model", number=False), Head("data", "data and recipe", number=False)]
    return [*first, *(Head(c.key, c.title, unit_of(c)) for c in _columns(comparisons))]


def _facets(comparison: Comparison) -> dict[str, str]:
    """What the page filters by, but for the family; runs outside any track are of track none."""
    return {"track": "none", **facets_of(comparison.about)} if comparison.about else {}


def _table_rows(comparisons: list[Comparison], by_id: Mapping[str, Record]) -> list[TableRow]:
    columns = _columns(comparisons)
    rows = []
    for comparison in comparisons:
        facets = _facets(comparison)
        fronts = {key: front_of(comparison, key) for key in FRONTS}
        for row, laid in lay_out(comparison, columns, "Bold").rows:
            cells = [_cell(row, column, cell, fronts) for column, cell in zip(columns, laid, strict=True)]
            runs = f"{row.family}, {row.runs} run{'s' * (row.runs > 1)}"
            where = _conditions_cell(comparison)
            rows.append(TableRow(row.model, runs, {**facets, "family": row.family}, (where, *cells)))
        for failure in comparison.failures:
            run = by_id[failure.run_id]
            text = f"seed {failure.seed}: {failure.status}. {failure.message}".rstrip()
            cells = [_failed_under(run), Cell(text, number=False, span=max(1, len(columns)))]
            rows.append(TableRow(failure.model, failure.run_id, _failed_facets(run), tuple(cells), failed=True))
    return rows


def _failed_facets(run: Record) -> dict[str, str]:
    spec = run["spec"]
    about = {"dataset": spec["data"]["name"], "device": spec["device_name"], "recipe": spec["recipe"]["name"]}
    return {**about, "track": spec["recipe"]["track"] or "none", "family": str(run.get("family") or "unknown")}


def _failed_under(run: Record) -> Cell:
    spec = run["spec"]
    recipe = spec["recipe"]
    named = f"track {recipe['track']}" if recipe["track"] else f"recipe {recipe['name']}"
    under = f"{named}, {recipe['budget'] or str(recipe['epochs']) + ' epochs'}; {spec['device_name']}"
    return Cell(spec["data"]["name"], under, value=f"{spec['data']['name']} {under}", number=False)


def _conditions_cell(comparison: Comparison) -> Cell:
    about = comparison.about
    data = f"{about['dataset']} ({about['content']})" if about["content"] else str(about["dataset"])
    recipe = f"track {about['track']}" if about["track"] else f"recipe {about['recipe']}"
    setting = "" if about["setting"] == "eager" else f", {about['setting']}"
    under = f"{recipe}, {about['budget']}, {about['train_images']:,} images{setting}; {about['device_name']}"
    return Cell(data, under, value=f"{data} {under}", number=False)


def _cell(row: Row, column: Column, made: table_formats.Cell, fronts: dict[str, frozenset[str]]) -> Cell:
    if made.missing:
        return Cell(missing=made.missing)
    front = row.model in fronts.get(column.key, ())
    return Cell(made.figure, made.beside.strip("()"), repr(row.values[column.key].value), best=made.best, front=front)


def _choices(rows: list[TableRow]) -> dict[str, list[str]]:
    names = ("dataset", "device", "recipe", "track", "family")
    return {name: list(dict.fromkeys(row.facets[name] for row in rows if name in row.facets)) for name in names}


# --- charts ----------------------------------------------------------------------------------------------------------


def _stills(charts: list[Chart], progress: Progress) -> list[bytes]:
    """Each chart as a PNG file, which takes most of the time of a page."""
    images = []
    for done, chart in enumerate(charts, 1):
        images.append(_small(static.to_png(static.draw(chart))))
        progress("drawing charts", done, len(charts))
    return images


def _groups(charts: list[Chart], stills: list[bytes]) -> list[Group]:
    """Charts of one subject together, those of one switch as one figure, in the order in which they came."""
    groups: dict[str, dict[str, list[tuple[int, Chart]]]] = {}
    for index, chart in enumerate(charts):
        groups.setdefault(chart.subject, {}).setdefault(chart.switch or chart.stem, []).append((index, chart))
    made = []
    for subject, figures in groups.items():
        first = next(iter(figures.values()))[0][1]
        made.append(Group(subject, dict(first.facets), tuple(_figure(found, stills) for found in figures.values())))
    return made


def _figure(found: list[tuple[int, Chart]], stills: list[bytes]) -> Figure:
    chart = found[0][1]
    positions = []
    for index, one in found:
        image = base64.b64encode(stills[index]).decode()
        positions.append(Position(one.position, one.title, index, image, _caption(one), facts_of(one)))
    return Figure(f"chart-{found[0][0]}", chart.switch or chart.key, chart.title, tuple(positions))


def _small(png: bytes) -> bytes:
    """A figure made for paper as one for a page: fewer pixels and colours, a tenth of the bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    size = (STILL_PIXELS, round(image.height * STILL_PIXELS / image.width))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).quantize(STILL_COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _caption(chart: Chart) -> str:
    """Without the conditions, which stand above all charts of one subject."""
    return " ".join(chart.caption.replace(chart.subject, "").split()).removesuffix(" .").strip()


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


# --- models ----------------------------------------------------------------------------------------------------------

RUN_HEADS = ("run", "data", "recipe", "seed", "status", "test accuracy", "training", "started", "commit")


def _label(comparison: Comparison) -> str:
    """A comparison in a few words."""
    about = comparison.about
    if not about:
        return comparison.title
    recipe = f"track {about['track']}" if about["track"] else f"recipe {about['recipe']}"
    images = f" on {about['train_images']:,} images"
    return f"{about['dataset']}{images}, {recipe}, {about['budget']}, {about['device_name']}"


def _model(section: models.ModelSection, labels: dict[str, str]) -> dict[str, Any]:
    """A model's section as the template takes it."""
    return {
        "name": section.name,
        "architecture": section.architecture,
        "modules": section.modules,
        "no_modules": section.modules_how,
        "matrices": [_matrix(found, labels) for found in section.confusions],
        "wrong": [_sheet(found, labels) for found in section.wrong if found.images],
        "no_images": dict.fromkeys(found.why_not for found in section.wrong if not found.images),
        "runs": [_run(row) for row in section.runs],
    }


def _matrix(found: models.Confusion, labels: dict[str, str]) -> dict[str, Any]:
    largest = [n for i, line in enumerate(found.counts) for j, n in enumerate(line) if i != j]
    most = max(largest, default=1)
    heat = [
        [_level(n, sum(line)) if i == j else _level(n, most) for j, n in enumerate(line)]
        for i, line in enumerate(found.counts)
    ]
    words = found.why_not or f"{found.runs} run{'s' * (found.runs > 1)} added up."
    if not found.counts and not found.why_not:
        words = f"{len(found.classes)} classes are too many for a matrix; these are confused most often. {words}"
    pairs = [f"{c.true} taken for {c.predicted}: {c.count:,} of {c.of:,}" for c in found.confused]
    about = {"title": labels[found.subject], "classes": found.classes, "words": words, "pairs": pairs}
    return {**about, "counts": found.counts, "heat": heat}


def _level(count: int, most: int) -> int:
    """0 to 9: how strongly a cell is coloured."""
    return min(9, -(-9 * count // most)) if most else 0


def _sheet(found: models.WrongImages, labels: dict[str, str]) -> dict[str, Any]:
    images = [
        {
            "png": base64.b64encode(image.png).decode(),
            "truth": image.true,
            "said": image.predicted,
            "other": found.other_model,
            "other_said": image.other,
        }
        for image in found.images
    ]
    which = "all of them here" if found.wrong == len(images) else f"these {len(images)} with the greatest loss"
    words = f"{found.wrong:,} of {found.of:,} test images are wrong in the run of seed {found.seed}; {which}."
    return {"title": labels[found.subject], "words": words, "images": images}


def _run(row: models.RunRow) -> dict[str, Any]:
    accuracy = row.accuracy
    shown = f"{100 * accuracy.value:.2f} % ({100 * accuracy.low:.2f}–{100 * accuracy.high:.2f})" if accuracy else "none"
    recipe = f"{f'track {row.track}, ' if row.track else ''}{row.recipe}, {row.budget}"
    seconds = f"{significant(row.train_seconds)} s" if row.train_seconds is not None else "not measured"
    status = f"{row.status}. {row.message}".rstrip() if row.status != "ok" else "ok"
    cells = (row.dataset, recipe, row.seed, status, shown, seconds, row.started[:16].replace("T", " "))
    return {"id": row.run_id, "cells": (*cells, row.commit[:7] or "unknown"), "failed": row.status != "ok"}


# --- files -----------------------------------------------------------------------------------------------------------

FILE_WORDS = {
    "results.csv": "one row a run",
    "speed.csv": "one row a model, kind and batch size of each speed session",
    "history.csv": "every validation of every run",
    "timings.csv": "every raw timing",
    "environment.csv": "every fact about the machine",
    "verdicts.csv": "one row a pair of models",
}


def _files(stores: Sequence[Store]) -> list[dict[str, str]]:
    """The stores' CSV files as links that hold them; of several stores each with the store's name."""
    made = []
    for file in facts.raw_files(stores):
        name = file.name if len(stores) == 1 else f"{slug(file.store)}-{file.name}"
        content = base64.b64encode(file.content).decode()
        words = FILE_WORDS.get(file.name, "")
        made.append({"name": name, "content": content, "size": size_words(len(file.content)), "words": words})
    return made


def size_words(count: int) -> str:
    """A number of bytes: `1.2 kB`, `3.4 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _made_from(found: Loaded, stores: Sequence[Store]) -> str:
    """Which stores the page is of; no date of its own, so that the same stores make the same page."""
    records: list[Record] = [*found.runs, *found.sessions]
    newest = max((str(record["started"])[:10] for record in records), default="")
    where = ", ".join(inert(str(store.root)) for store in stores)
    until = f", the newest of {newest}" if newest else ""
    return (
        f"Made by run_bench.py report from {where}: {len(found.runs)} runs and {len(found.sessions)} speed sessions"
        f"{until}. Damaged and left out: {len(found.damaged)}."
    )
