"""What a report says about each model. Example: sections(stores, loaded, comparisons, images="digits")[0].architecture

Its architecture, cost by module, runs, confusion matrices and most confident mistakes. Reads stores and, for the
images, what is on this machine already; nothing is ever downloaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.analysis.tables import Comparison, Loaded, like_the_newest
from bench.core.events import ModulePart
from bench.data import datasets
from bench.plan.keys import REFERENCE
from bench.present.report.confusion import Confusion, answers_of, confusion
from bench.present.report.gallery import Gallery
from bench.present.report.mistakes import Mistakes, mistakes
from bench.store.disk import Store
from bench.store.records import FinishedRun, RunRecord, finished
from models.registry import CATALOGUE, is_external


@dataclass(frozen=True)
class ModelSection:
    """Everything that a report says about one model."""

    name: str
    architecture: str
    modules: tuple[ModulePart, ...]
    modules_how: str  # how to get them, where there are none
    runs: tuple[RunRecord, ...]  # failed ones too
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistakes, ...]


@dataclass(frozen=True)
class Source:
    """What sections are made from: comparisons with their runs, predictions, images."""

    groups: list[tuple[Comparison, list[FinishedRun]]]
    stores: list[Store]
    gallery: Gallery
    reference: str


def sections(
    stores: list[Store],
    loaded: Loaded,
    comparisons: Sequence[Comparison],
    images: str = "all",
    data_dir: Path | None = None,
    reference: str = REFERENCE,
) -> list[ModelSection]:
    """One section per model, the reference first, then by name. `images` is one of gallery.IMAGES.

    `data_dir`: where downloads and decoded copies are; by default as everywhere.
    """
    gallery = Gallery(images, data_dir or datasets.default_data_dir())
    by_id = {run.run_id: run for run in finished(loaded.runs)}
    groups = [(c, [by_id[name] for name in c.run_ids if name in by_id]) for c in comparisons if c.rows]
    source = Source(groups, stores, gallery, reference)
    names = sorted({run.spec.model for run in loaded.runs}, key=lambda name: (name != reference, name))
    return [_section([run for run in loaded.runs if run.spec.model == name], source) for name in names]


def _section(runs: list[RunRecord], source: Source) -> ModelSection:
    name = runs[0].spec.model
    modules = modules_of(runs)
    matrices, sheets = [], []
    for comparison, group in source.groups:
        if own := newest_of(name, group):
            matrices.append(confusion(comparison.title, own, source.stores))
            rivals = rivals_of(name, comparison, group, source.reference)
            first = next((run for run in own if answers_of(run, source.stores) is not None), own[0])
            sheets.append(mistakes(comparison.title, first, rivals, source.stores, source.gallery))
    how = "" if modules else f"To count its cost by module: python run_bench.py cost {shlex.quote(name)} --by-module"
    return ModelSection(
        name=name,
        architecture=architecture(runs[-1]),
        modules=modules,
        modules_how=how,
        runs=tuple(runs),
        confusions=tuple(matrices),
        mistakes=tuple(sheets),
    )


def architecture(run: RunRecord) -> str:
    """What a run's model is, in a sentence: from the catalogue, else from its name and its record."""
    name = run.spec.model
    if name in CATALOGUE:
        summary = CATALOGUE[name].summary
        return f"{name} is {'a ' if summary[0].islower() else ''}{summary}."  # a package's own begin with its name
    source, _, what = name.partition(":")
    params = run.metrics.params if isinstance(run, FinishedRun) else None
    size = f", with {params:,} parameters" if params else ""
    if source in ("timm", "torchvision") and what:
        return f"{name} is {what} as built by the package {source}{size}."
    if is_external(name):
        where, _, function = name.rpartition(":")
        version = f", SHA-256 {run.spec.model_source[:12]}…" if run.spec.model_source else ""
        return f"{name} is built by the function {function} of {where}{version}{size}."
    return f"{name} is a model that this version of the program does not know{size}."


def modules_of(runs: Sequence[RunRecord]) -> tuple[ModulePart, ...]:
    """The cost by module from the newest run that has it."""
    return next((run.modules for run in reversed(runs) if isinstance(run, FinishedRun) and run.modules), ())


def newest_of(model: str, group: Sequence[FinishedRun]) -> list[FinishedRun]:
    """A comparison's runs of a model, with its newest code and recipe, by seed."""
    runs = [run for run in group if run.spec.model == model]
    return sorted(like_the_newest(runs), key=lambda run: run.spec.seed) if runs else []


def rivals_of(model: str, comparison: Comparison, group: Sequence[FinishedRun], reference: str) -> list[FinishedRun]:
    """The runs of the model to show beside it: the reference, else the most accurate of the others."""
    others = [row.model for row in comparison.rows if row.model != model]
    if not others:
        return []
    return newest_of(reference if reference in others else others[0], group)
