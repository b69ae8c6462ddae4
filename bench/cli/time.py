"""The command `time`: speed sessions, their tables and charts. Example: python run_bench.py time --models seresnet"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.requests import ExplainRequest
from bench.cli.run import summary
from bench.executors.processes import warm_up
from bench.plan.request import TimeRequest
from bench.plan.settings import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.drive.speed import Explanation
    from bench.store.disk import Store
    from bench.store.records import Session

BAR_WIDTH = 40


def time(request: TimeRequest) -> int:
    """Time the models under each setting; print each session, then write charts. Returns the exit code."""
    warm_up()
    from bench.analysis.verdicts_csv import VERDICTS, write_verdicts
    from bench.drive import speed
    from bench.present.screen.progress import ScreenDisplay, make_console
    from bench.present.session_table import render_session, render_settings

    console = make_console()
    display = ScreenDisplay(console)

    def on_session(session: Session) -> None:
        display.line("\n" + render_session(session, console.width).rstrip() + "\n")

    result = speed.run(request, display, on_session)
    store, sessions = result.store, result.sessions
    if len(sessions) > 1:
        display.line(render_settings(list(sessions), console.width).rstrip() + "\n")
    if (store.root / VERDICTS).exists():  # its speeds may be this session's now
        write_verdicts(store)
    if sessions:
        display.line(f"wrote {summary(store.root, [store.root / 'speed.csv', *draw(sessions, store)])}")
    return result.exit_code


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
    from bench.drive import speed
    from bench.present.screen.progress import ScreenDisplay, make_console

    display = ScreenDisplay(make_console())
    for model in request.time.models:
        print("\n".join(explanation_lines(model, speed.explain(request.time, model, display))))
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
        "Self time of operators under torch's profiler, which itself takes time; Python between them is not counted.",
    ]
