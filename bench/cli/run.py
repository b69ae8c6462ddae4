"""The command `run`: a sweep, then its charts, tables and verdicts. Example: python run_bench.py --preset smoke"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import sweep_file
from bench.core.display import Display
from bench.core.errors import EXIT_FAILED
from bench.executors.processes import warm_up
from bench.machine.sensors import sensors_of
from bench.plan.request import RunRequest

if TYPE_CHECKING:
    from bench.drive.sweep import SweepResult
    from bench.store.disk import Store


def run(request: RunRequest) -> int:
    """Train and time what is missing, then show it. Returns the exit code."""
    if (path := request.output.save_config) is not None:
        sweep_file.save(path, request.toml)
    if request.placement.executor == "local" and request.execution.runs_per_device == 1:
        warm_up()  # several runs on a device need a server of another environment, which the driver knows
    from bench.drive import sweep
    from bench.present.screen.live import make_display
    from bench.present.screen.progress import ScreenDisplay, make_console

    console = make_console()
    display = make_display(sensors_of(request.placement.device)) if request.output.live else ScreenDisplay(console)
    result = sweep.run(request, display)
    if not result.specs:  # a dry run, or nothing finished
        return result.exit_code
    shown = show(result, request.output.reference, display, console.width)
    return result.exit_code or (0 if shown else EXIT_FAILED)


def show(result: SweepResult, reference: str | None, display: Display, width: int) -> bool:
    """Charts, the tables of this sweep's comparisons, verdicts, and where all files are. False where one is missing.

    The measurements are safe already: a chart that cannot be drawn is reported, not raised.
    """
    from bench.analysis import tables
    from bench.present.session_table import render_settings
    from bench.present.table_formats import render
    from bench.store.disk import VIEWS

    store, complete = result.store, True
    written = [store.root / name for name in VIEWS]
    try:
        written += draw(store, reference)
    except Exception as error:
        display.line(f"the plots could not be drawn: {type(error).__name__}: {error}")
        complete = False
    own = {spec.run_id for spec in result.specs}
    comparisons = [
        comparison
        for comparison in tables.compare([store], reference)
        if own & {*comparison.run_ids, *(failure.run_id for failure in comparison.failures)}
    ]
    display.line("\n" + render(comparisons, "text", width).rstrip() + "\n")
    if result.sessions:
        display.line(render_settings(list(result.sessions), width))
    try:
        written += write_verdicts(store, display)
    except Exception as error:
        display.line(f"the verdicts could not be written: {type(error).__name__}: {error}")
        complete = False
    for path in written:
        display.line(f"wrote {path}")
    return complete


def draw(store: Store, reference: str | None) -> list[Path]:
    """The main charts of a store as PNG files."""
    from bench.present.charts import build, static  # a second of matplotlib, which no refusal needs

    charts = build.at_a_glance(build.charts_of([store], reference=reference)[0])
    return [path for path in static.save_all(charts, store.place("plots")) if path.suffix == ".png"]


def write_verdicts(store: Store, display: Display) -> list[Path]:
    """Write verdicts.csv, and name the commands that say more; returns its path, if there is anything to write."""
    from bench.analysis import verdicts_csv

    where = f"--results {shlex.quote(str(store.root))}"
    path = verdicts_csv.write_verdicts(store)
    if path:
        display.line(f"which is better, and how sure: run_bench.py compare {where}")
    display.line(f"everything as one page, with every chart: run_bench.py report {where}")
    return [path] if path else []
