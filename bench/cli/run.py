"""The command `run`: a sweep, then its charts, tables and verdicts. Example: python run_bench.py --preset smoke"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import sweep_file
from bench.core.display import Display
from bench.core.errors import EXIT_FAILED, UserError
from bench.core.text import plural
from bench.executors.processes import warm_up
from bench.machine.sensors import sensors_of
from bench.plan.request import RunRequest

if TYPE_CHECKING:
    from bench.analysis.tables import Comparison
    from bench.drive.sweep import SweepResult
    from bench.store.disk import Store

MOST_VERDICTS = 3  # with a table of four models, 24 lines


def run(request: RunRequest) -> int:
    """Train and time what is missing, then show it. Returns the exit code."""
    if (path := request.output.save_config) is not None:
        sweep_file.save(path, request.toml)
    if request.placement.executor == "local" and request.execution.runs_per_device == 1:
        warm_up()  # several runs on a device need a server of another environment, which the driver knows
    from rich.console import Console

    from bench.drive import sweep
    from bench.present.screen.live import make_display
    from bench.present.screen.progress import ScreenDisplay, make_console

    console, output = make_console(), request.output
    screen: Display = make_display(sensors_of(request.placement.device)) if output.live else ScreenDisplay(console)
    display = ScreenDisplay(Console(quiet=True)) if output.quiet and not output.dry_run else screen
    result = sweep.run(request, display)
    if not result.specs:  # a dry run, or nothing finished
        if output.quiet and not output.dry_run:
            print("no run finished; the same command without --quiet shows why", file=sys.stderr)
        return result.exit_code
    shown = show(result, output.reference, screen, console.width, output.quiet)
    return result.exit_code or (0 if shown else EXIT_FAILED)


def show(result: SweepResult, reference: str | None, display: Display, width: int, quiet: bool = False) -> bool:
    """Warnings, what was written, then the tables of this sweep's comparisons and a line per verdict.

    False where a chart or the verdicts are missing: the measurements are safe already, so that is reported, not raised.
    `quiet`: only the tables.
    """
    from bench.analysis import tables
    from bench.present.grid import notes_text
    from bench.present.session_table import render_settings
    from bench.present.table_formats import NOTHING, render_short

    store = result.store
    problems, written = write_views(store, reference)
    own = {spec.run_id for spec in result.specs}
    comparisons = [
        comparison
        for comparison in tables.compare([store], reference)
        if own & {*comparison.run_ids, *(failure.run_id for failure in comparison.failures)}
    ]
    for problem in problems:
        print(problem, file=sys.stderr) if quiet else display.line(problem)
    if not quiet:
        if result.sessions:
            display.line(render_settings(list(result.sessions), width))
        display.line("\n" + notes_text(warnings_of(comparisons), width) + f"wrote {summary(store.root, written)}")
        display.line(f"more: run_bench.py compare, table or report, with --results {shlex.quote(str(store.root))}\n")
    display.line("\n".join(render_short(comparison, width) for comparison in comparisons).rstrip() or NOTHING)
    if not quiet and (lines := verdict_lines(store, reference, own, width)):
        display.line("\n" + "\n".join(lines))
    return not problems


def write_views(store: Store, reference: str | None) -> tuple[list[str], list[Path]]:
    """Draw the charts and write verdicts.csv: what could not be done, and every file that is there now."""
    from bench.analysis.verdicts_csv import write_verdicts
    from bench.store.disk import VIEWS

    problems, written = attempt(lambda: draw(store, reference), lambda: write_verdicts(store))
    return problems, [*(store.root / name for name in VIEWS), *written]


def attempt(plots: Callable[[], Sequence[Path]], verdicts: Callable[[], Path | None]) -> tuple[list[str], list[Path]]:
    """A sentence for each of the two that fails, and what was written."""
    problems, written = list[str](), list[Path]()
    try:
        written += plots()
    except Exception as error:
        problems.append(f"the plots could not be drawn: {type(error).__name__}: {error}")
    try:
        path = verdicts()
        written += [path] if path else []
    except Exception as error:
        problems.append(f"the verdicts could not be written: {type(error).__name__}: {error}")
    return problems, written


def warnings_of(comparisons: Sequence[Comparison]) -> list[str]:
    """What was wrong while these speeds were measured; what explains the figures is for `table`."""
    sessions = [comparison.session for comparison in comparisons if comparison.session is not None]
    return list(dict.fromkeys(f"Warning: {warning}." for session in sessions for warning in session.warnings))


def verdict_lines(store: Store, reference: str | None, run_ids: set[str], width: int) -> list[str]:
    """One line for each pair of models with one of these runs; the first few, and how many more there are."""
    from bench.analysis.compare import pairs
    from bench.present.pair_table import verdict_line

    try:
        made = pairs([store], reference=reference)
    except UserError:  # a single model, or nothing that can be compared
        return []
    own = [p for p in made if run_ids & {run.run_id for side in (p.a, p.b) for run in side.runs}]
    lines = [verdict_line(pair, width) for pair in own]
    more = len(lines) - MOST_VERDICTS
    return lines[:MOST_VERDICTS] + ([f"and {plural(more, 'more pair')}: run_bench.py compare"] if more > 0 else [])


def summary(root: Path, written: Sequence[Path]) -> str:
    """`results/local: 5 CSV files, 4 plots`."""
    kinds = Counter(path.suffix for path in written)
    parts = [plural(kinds[".csv"], "CSV file"), *([plural(kinds[".png"], "plot")] if kinds[".png"] else [])]
    return f"{root}: {', '.join(parts)}"


def draw(store: Store, reference: str | None) -> list[Path]:
    """The main charts of a store as PNG files."""
    from bench.present.charts import build, static  # a second of matplotlib, which no refusal needs

    charts = build.at_a_glance(build.charts_of([store], reference=reference)[0])
    return [path for path in static.save_all(charts, store.place("plots")) if path.suffix == ".png"]
