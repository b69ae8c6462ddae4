"""The command `time`: speed sessions, their tables and charts. Example: python run_bench.py time --models seresnet"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.requests import ExplainRequest
from bench.cli.run import attempt, summary
from bench.core.errors import EXIT_FAILED
from bench.executors.processes import warm_up
from bench.plan.request import TimeRequest
from bench.plan.settings import words
from bench.store.disk import Store
from bench.store.records import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.drive.speed import Explanation

BAR_WIDTH = 40
SELF_TIME = (
    "Self time of operators under torch's profiler, which itself takes time; Python between them is not counted."
)


def time(request: TimeRequest) -> int:
    """Time the models under each setting; each session's charts are drawn, then its tables printed.

    Returns the exit code, which says so where something could not be drawn: what was measured is safe by then.
    """
    warm_up()
    from rich.console import Console

    from bench.drive import speed
    from bench.present.screen.progress import ScreenDisplay, make_console
    from bench.present.session_table import render_session, render_settings, session_notes

    console, quiet = make_console(), request.quiet
    screen, store = ScreenDisplay(console), Store(request.store)
    display = ScreenDisplay(Console(quiet=True)) if quiet else screen
    done, problems = list[Session](), list[str]()

    def on_session(session: Session) -> None:
        done.append(session)
        found, written = write_views(done, store)
        problems.extend(found)
        for problem in found:
            print(problem, file=sys.stderr) if quiet else display.line(problem)
        notes = session_notes(session, console.width)
        display.line(f"\n{notes}wrote {summary(store.root, written)}; speed.csv has more columns\n")
        screen.line(render_session(session, console.width).rstrip())

    result = speed.run(request, display, on_session)
    if len(done) > 1:
        screen.line("\n" + render_settings(done, console.width).rstrip())
    if quiet and not done:
        print("nothing was timed; the same command without --quiet shows why", file=sys.stderr)
    return result.exit_code or (EXIT_FAILED if problems else 0)


def write_views(sessions: Sequence[Session], store: Store) -> tuple[list[str], list[Path]]:
    """Draw these sessions and bring verdicts.csv up to date: what could not be done, and the files there are now."""
    from bench.analysis.verdicts_csv import VERDICTS, write_verdicts

    judged = (store.root / VERDICTS).exists()  # its speeds may be these sessions' now
    problems, written = attempt(lambda: draw(sessions, store), lambda: write_verdicts(store) if judged else None)
    return problems, [store.root / "speed.csv", *written]


def draw(sessions: Sequence[Session], store: Store) -> list[Path]:
    """The charts of these sessions as PNG files in the store."""
    from bench.analysis.tables import load
    from bench.present.charts import build, static  # a second of matplotlib, which no refusal needs

    loaded, ids = load([store]), {session.id for session in sessions}
    own = [session for session in loaded.sessions if session.id in ids]
    charts = build.of_sessions(own, build.common_of(loaded, [store]))
    return [path for path in static.save_all(charts, store.place("plots")) if path.suffix == ".png"]


def explain(request: ExplainRequest) -> int:
    """Print where a training step of each model spends its time. Raises ModelError where one cannot be run."""
    warm_up()
    from rich.console import Console

    from bench.drive import speed
    from bench.present.screen.progress import ScreenDisplay, make_console

    screen = ScreenDisplay(make_console())
    display = ScreenDisplay(Console(quiet=True)) if request.time.quiet else screen
    for model in request.time.models:
        screen.line("\n".join(explanation_lines(model, speed.explain(request.time, model, display))))
    display.line(SELF_TIME)
    return 0


def explanation_lines(model: str, explanation: Explanation) -> list[str]:
    """The groups of operators with their seconds and shares."""
    spec, groups = explanation.spec, explanation.groups
    total = sum(groups.values())
    conditions = f"{spec.image_size} px, {spec.recipe.precision}, {words(spec.setting_of(model))}"
    return [
        f"{model}: a training step of {spec.recipe.batch_size} images ({conditions}) on {spec.device_name}: "
        f"{1000 * explanation.step_seconds:.1f} ms",
        *(
            f"  {group:<20}{1000 * seconds:>10.1f} ms{100 * seconds / total:>7.1f} %  "
            f"{'█' * round(BAR_WIDTH * seconds / total)}"
            for group, seconds in groups.items()
        ),
    ]
