"""Commands that read stores: table, plot, report, compare, check. Example: python run_bench.py compare seresnet"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.requests import CheckRequest, CompareRequest, PlotRequest, ReportRequest, TableRequest
from bench.core.errors import EXIT_FAILED, UserError
from bench.core.files import inert, inert_line, write_atomically
from bench.core.text import writable
from bench.plan.keys import REFERENCE
from bench.store.disk import Store

if TYPE_CHECKING:
    from bench.analysis.compare import Pair
    from bench.analysis.verdicts import Condition


def open_stores(paths: Sequence[Path], even_empty: bool = False) -> list[Store]:
    """Stores to read; `even_empty`: also one without finished runs. Raises UserError for what is not a store."""
    stores = [Store(path) for path in paths]
    for store in stores:
        if not store.root.is_dir():
            raise UserError(f"no store '{store.root}'; run_bench.py writes one, --results DIR names another")
        started = even_empty and any((store.root / folder).is_dir() for folder in ("runs", "speed"))
        if not started and not any(store.root.glob("runs/*/record.json")):
            raise UserError(f"the store '{store.root}' holds no runs yet")
    return stores


def check_reference(reference: str | None, stores: Sequence[Store]) -> None:
    """Raise UserError for a reference that no run or session has: ratios would silently refer to another model."""
    check_models("--reference", [] if reference is None else [reference], stores)


def check_models(flag: str, names: Sequence[str], stores: Sequence[Store]) -> None:
    """Raise UserError for a name that no run or session has."""
    if not names:
        return
    from bench.analysis.tables import load

    loaded = load(list(stores))
    models = {run.spec.model for run in loaded.runs}
    models |= {model for session in loaded.sessions for model in session.models}
    if unknown := [name for name in names if loaded.shown(name) not in models]:
        raise UserError(f"{flag}: no run of '{unknown[0]}' here; there are {', '.join(sorted(models))}")


def table(request: TableRequest) -> int:
    """Print the comparisons of one or more stores."""
    from bench.analysis import tables
    from bench.present.screen.progress import make_console
    from bench.present.table_choice import choose, parse_columns, parse_sort
    from bench.present.table_formats import render

    columns = parse_columns(request.columns) if request.columns else ()
    if request.sort:
        parse_sort(request.sort)  # a typo answers before the stores are read
    stores = open_stores(request.stores)
    check_reference(request.reference, stores)
    comparisons = tables.compare(stores, request.reference, request.by_device)
    comparisons = choose(comparisons, request.where, request.sort)
    if request.out is None:
        print(render(comparisons, request.format, make_console().width, columns), end="")
        return 0
    try:
        write_atomically(request.out, writable(render(comparisons, request.format, columns=columns)).encode())
    except OSError as error:
        raise UserError(
            f"the table cannot be written to '{request.out}': {error.strerror}; choose another with --out"
        ) from None
    print(f"wrote {request.out}")
    return 0


def compare(request: CompareRequest) -> int:
    """Print verdicts on pairs of models; 1 where a condition of --fail-if or --require fails."""
    stores = open_stores(request.stores)
    check_reference(request.reference, stores)
    from bench.analysis.compare import pairs
    from bench.analysis.verdicts_csv import to_csv_bytes
    from bench.present.pair_table import render
    from bench.present.screen.progress import make_console

    made = pairs(stores, request.models, request.margin, request.target, request.reference)
    made = [replace(pair, named=len(request.models) == 2) for pair in made]
    content = to_csv_bytes(made)
    text = content.decode() if request.format == "csv" else render(made, make_console().width)
    print("\n".join(map(inert_line, text.split("\n"))), end="")
    if request.out is not None:
        write_atomically(request.out, content)
    results = gates(made, request.fail_if, request.require)
    channel = sys.stderr if request.format == "csv" else sys.stdout  # rows stay rows
    print("".join(f"{inert_line(line)}\n" for line, _ in results), end="", file=channel)
    return EXIT_FAILED if any(closes for _, closes in results) else 0


def gates(pairs: list[Pair], fail_if: Sequence[Condition], require: Sequence[Condition] = ()) -> list[tuple[str, bool]]:
    """A line for each condition and pair, passed, failed or undecided, and whether the command fails for it."""
    from bench.analysis.compare import interval_of
    from bench.analysis.verdicts import outcome
    from bench.present.pair_table import ends_text

    lines = []
    for flag, conditions in (("--fail-if", fail_if), ("--require", require)):
        for c in conditions:
            for pair in pairs:
                interval = interval_of(pair, c.metric)
                result = outcome(c, interval, required=flag == "--require")
                track = f", track {pair.track}" if pair.track else ""
                ends = "" if math.isnan(interval.low) else f", {ends_text(c.metric, interval)}"
                lines.append(
                    (
                        f"{result.word}: {flag} '{c.metric} {c.operator} {c.number:g}': {pair.a.model} against "
                        f"{pair.b.model}{track}{ends}: {result.why}",
                        result.closes,
                    )
                )
    return lines


def plot(request: PlotRequest) -> int:
    """Draw the comparisons of one or more stores."""
    stores = open_stores(request.stores)
    check_reference(request.reference, stores)
    from bench.present.charts import static, styles
    from bench.present.charts.build import charts_of

    styles.check_style(request.style)
    folder, formats = request.out or stores[0].place("plots"), [f for f in static.FORMATS if f in request.formats]
    if folder.is_file():
        raise UserError(f"'{folder}' is a file; --out of plot names a folder")
    charts, missing = charts_of(stores, request.by_device, request.reference)
    if not charts:
        raise UserError("no run here has finished, so there is nothing to draw; `table` says how they ended")
    try:
        written = static.save_all(charts, folder, formats, tuple(map(int, request.widths)), request.style)
    except OSError as error:
        raise UserError(f"plots cannot be written to '{folder}': {error.strerror}; choose another with --out") from None
    print("".join(f"wrote {path}\n" for path in written), end="")
    print("".join(inert_line(f"not drawn: {chart.title}. {chart.how}") + "\n" for chart in missing), end="")
    return 0


def report(request: ReportRequest) -> int:
    """Write one or more stores as a page that needs no network."""
    stores = open_stores(request.stores, even_empty=True)
    check_reference(request.reference, stores)
    check_models("--claim", request.claim or (), stores)
    from bench.present.report.page import size_text, write
    from bench.present.screen.progress import ScreenDisplay, make_console

    path = request.out or stores[0].root / "report.html"
    with ScreenDisplay(make_console()) as display:
        reference = request.reference or REFERENCE
        size = write(stores, path, request.images, display.progress, reference, request.claim)
    print(f"wrote {inert_line(str(path))}, {size_text(size)}; it opens from the disk, without a network")
    return 0


def check(request: CheckRequest) -> int:
    """Print everything that is wrong with one or more stores; 1 where there is something."""
    from bench.analysis.check import check as check_store

    count = 0
    for store in open_stores(request.stores):
        problems, closing = check_store(store, request.rebuild)
        print("".join(f"{inert(problem)}\n" for problem in problems) + inert(closing))
        count += len(problems)
    return EXIT_FAILED if count else 0
