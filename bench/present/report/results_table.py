"""The page's table of results. Example: sections(comparisons, {run.run_id: run for run in loaded.runs})"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.analysis.conditions import Conditions, titled
from bench.analysis.tables import COLUMNS, Column, Comparison, Row
from bench.core.text import plural
from bench.present import table_formats
from bench.present.charts.accuracy import front_of
from bench.present.charts.parts import facets_of
from bench.present.table_formats import lay_out, unit_of
from bench.store.records import RunRecord

SEPARATOR = " · "  # between the parts of a comparison's title
FRONTS = ("train_images_per_second", "flops", "params")  # columns with a Pareto front against accuracy


@dataclass(frozen=True)
class Head:
    """The heading of a column."""

    key: str
    title: str
    unit: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """One cell; `value` is what it is sorted by, "" where there is none."""

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


def heads(comparisons: Sequence[Comparison]) -> list[Head]:
    """The headings; columns without any figure are left out."""
    return [Head("model", "model", number=False), *(Head(c.key, c.title, unit_of(c)) for c in _columns(comparisons))]


@dataclass(frozen=True)
class Section:
    """The rows of one comparison under its title: figures of different conditions share no ranking.

    `apart`: what of its title no other section shares; "" for the only one.
    """

    title: str
    rows: tuple[TableRow, ...]
    apart: str = ""


def sections(comparisons: Sequence[Comparison], by_id: Mapping[str, RunRecord]) -> list[Section]:
    """One section per comparison, with a row per model and one per failed run."""
    columns, made = _columns(comparisons), []
    for comparison in comparisons:
        lines = []
        if comparison.conditions is not None:
            lines += _finished_rows(comparison, comparison.conditions, columns)
        for failure in comparison.failures:
            run = by_id[failure.run_id]
            text = f"seed {failure.seed}: {failure.status}. {failure.message}".rstrip()
            message = Cell(text, _failed_conditions(run), number=False, span=max(1, len(columns)))
            lines.append(TableRow(failure.model, failure.run_id, _failed_facets(run), (message,), failed=True))
        if lines:
            made.append(Section(comparison.title, tuple(lines)))
    common = in_common(made)
    return [replace(one, apart=SEPARATOR.join(p for p in _parts(one) if p not in common)) for one in made]


def in_common(tables: Sequence[Section]) -> list[str]:
    """The parts of their titles that all sections share, to be said once above the table."""
    return [part for part in _parts(tables[0]) if all(part in _parts(one) for one in tables)] if tables else []


def _parts(section: Section) -> list[str]:
    return section.title.split(SEPARATOR)


def _finished_rows(comparison: Comparison, conditions: Conditions, columns: Sequence[Column]) -> list[TableRow]:
    fronts = {key: front_of(comparison, key) for key in FRONTS}
    lines = []
    for row, laid_out in lay_out(comparison, columns, "Bold").rows:
        cells = [_cell(row, column, cell, fronts) for column, cell in zip(columns, laid_out, strict=True)]
        facets = {**_facets(conditions), "family": row.family}
        under = f"{row.family}, {plural(row.runs, 'run')}"
        lines.append(TableRow(row.model, under, facets, tuple(cells)))
    return lines


def choices(tables: Sequence[Section]) -> dict[str, list[str]]:
    """What each filter offers."""
    lines = [row for section in tables for row in section.rows]
    names = ("dataset", "device", "recipe", "track", "family")
    return {name: list(dict.fromkeys(line.facets[name] for line in lines if name in line.facets)) for name in names}


def label(comparison: Comparison) -> str:
    """A comparison in a few words."""
    c = comparison.conditions
    if c is None:
        return comparison.title
    words = f"{c.dataset} on {c.train_images:,} images, {_recipe(c.track, c.recipe)}, {c.budget_words}, {c.precision}"
    return titled(f"{words}, {c.setting}, {c.device_name}{f', {c.apart}' if c.apart else ''}", comparison.differs)


def _columns(comparisons: Sequence[Comparison]) -> list[Column]:
    return [c for c in COLUMNS if any(c.key in row.values for one in comparisons for row in one.rows)]


def _facets(conditions: Conditions) -> dict[str, str]:
    """What the page filters by, apart from the family; runs outside any track are of track none."""
    return {"track": "none", **facets_of(conditions)}


def _failed_facets(run: RunRecord) -> dict[str, str]:
    spec = run.spec
    facets = {"dataset": spec.data.name, "device": spec.device_name, "recipe": spec.recipe.name}
    return {**facets, "track": spec.recipe.track or "none", "family": run.family or "unknown"}


def _cell(row: Row, column: Column, cell: table_formats.Cell, fronts: Mapping[str, frozenset[str]]) -> Cell:
    if cell.missing:
        return Cell(missing=cell.missing)
    front = row.model in fronts.get(column.key, ())
    return Cell(cell.figure, cell.beside.strip("()"), repr(row.values[column.key].value), best=cell.best, front=front)


def _failed_conditions(run: RunRecord) -> str:
    """What a failed run, which may be of no comparison, was to do."""
    recipe = run.spec.recipe
    budget = recipe.budget or plural(recipe.epochs, "epoch")
    return f"{run.spec.data.name}, {_recipe(recipe.track, recipe.name)}, {budget}; {run.spec.device_name}"


def _recipe(track: str, name: str) -> str:
    return f"track {track}" if track else f"recipe {name}"
