"""The `time` command, and the timing pass of a sweep. Example: run(arguments, ["seresnet", "vit_tiny"])

The parent's side of bench/measure/session.py: each model alone in a child first, then all of them in turns in another; whoever
takes that one down is named, left out, and the session begins again.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.errors import EXIT_FAILED, UserError
from bench.core.files import write_atomically
from bench.drive import setting_search as tune
from bench.executors.child import Outcome
from bench.executors.worker import call_alone
from bench.machine import environment
from bench.measure.session import Found, child_session, explain_model, try_model
from bench.plan import presets, recipes, settings
from bench.plan.spec import Recipe, SessionSpec
from bench.present.pair_table import VERDICTS, write_verdicts
from bench.present.screen.progress import Display, make_console
from bench.present.session_table import render_session, render_settings
from bench.store.disk import REFERENCE, Store
from bench.store.records import Record
from models import registry
from models.registry import ModelError

TRIAL_SECONDS = 1800.0  # for one model alone, every task twice; each may be compiled
SECONDS_A_MODEL = 60.0  # of timing, where no --time-limit is given
# Over the time limit, with this much for each model: building, compiling, limits, energy; then the session hangs.
SLACK_SECONDS, SLACK_A_MODEL = 900.0, 300.0
Call = Callable[..., Outcome]  # local.call, or its like for another machine
BATCH_SIZES = {"cpu": (1, 8, 32, 128), "cuda": (1, 32, 128, 512, 2048)}


def run(arguments: argparse.Namespace, names: list[str], batch_sizes: tuple[int, ...] | None) -> int:
    """Time models under each setting asked for, write sessions and views, print tables. Returns the exit code."""
    display, store = Display(make_console()), Store(arguments.results)
    specs = [make_spec(arguments, names, batch_sizes, setting) for setting in arguments.setting]
    store.check_writable()
    sessions = []
    for spec in specs:
        display.line(
            f"{spec.image_size} px, {spec.num_classes} classes, training batch {spec.recipe.batch_size}, "
            f"{spec.recipe.precision}, {spec.setting.name}, on {spec.device_name}"
        )
        with display:
            session = time_together(as_found(spec, arguments.tune_limit, store, display), store, display)
        store.rebuild_views()
        if session is None:
            display.line("nothing was timed")
            continue
        sessions.append(session)
        display.line("\n" + render_session(session, display.console.width).rstrip() + "\n")
    if len(sessions) > 1:
        display.line(render_settings(sessions, display.console.width).rstrip() + "\n")
    if (store.root / VERDICTS).exists():  # its speeds may be this session's now
        write_verdicts(store)
    for path in [store.root / "speed.csv", *draw(sessions, store)] if sessions else []:
        display.line(f"wrote {path}")
    fine = len(sessions) == len(specs) and not any(session["failures"] for session in sessions)
    return 0 if fine else EXIT_FAILED


def draw(sessions: list[Record], store: Store) -> list[Path]:
    """The charts of these sessions as PNG files in the store."""
    from bench.analysis.tables import load
    from bench.present.charts import build, static  # seconds of matplotlib, which no refusal needs

    found, mine = load([store]), {session["id"] for session in sessions}
    made = [session for session in found.sessions if session["id"] in mine]
    charts = build.of_sessions(made, build.common_of(found, [store]))
    written = static.save_all(charts, store.root / "plots", formats=("png",), columns=(2,))
    return [path for path in written if path.suffix == ".png"]


def as_found(spec: SessionSpec, limit: float | None, store: Store, display: Display) -> SessionSpec:
    """The session with each model's best setting, searched for where it must be, if that is what was asked for."""
    if spec.setting.name != "tuned":
        return spec
    found = tune.settings_for(replace(spec, seconds=limit or tune.SECONDS), store, display)
    return replace(spec, own_settings=tuple(found.items()))


def make_spec(
    arguments: argparse.Namespace, names: list[str], batch_sizes: tuple[int, ...] | None, setting: str
) -> SessionSpec:
    """From arguments to a session. Raises UserError."""
    device = environment.choose_device(arguments.device)
    settings.check(setting, device.type)
    presets.check_image_size(arguments.image_size)
    if not 1 <= arguments.num_classes <= 100_000:
        raise UserError(f"--num-classes must lie in 1..100000, not {arguments.num_classes}")
    if not 0.1 <= arguments.within <= 50:
        raise UserError(f"--within must lie in 0.1..50 (per cent), not {arguments.within:g}")
    environment.hide_other_gpus(device)
    return SessionSpec(
        models=tuple((name, registry.source_hash(name)) for name in names),
        recipe=(recipe := make_recipe(arguments, device)),
        setting=settings.SETTINGS[setting],
        device=device.type,
        device_name=environment.device_name(device),
        image_size=arguments.image_size,
        num_classes=arguments.num_classes,
        reference=REFERENCE if REFERENCE in names else names[0],
        deterministic=arguments.deterministic,
        batch_sizes=batch_sizes or tuple(sorted({*BATCH_SIZES[device.type], recipe.batch_size})),
        half_width=arguments.within / 100,
        seconds=arguments.time_limit or SECONDS_A_MODEL * len(names),
        thorough=True,
    )


def make_recipe(arguments: argparse.Namespace, device: Any) -> Recipe:
    """The recipe whose training step is timed, its precision resolved. Raises UserError."""
    recipe = recipes.load(arguments.recipe)
    if arguments.batch_size is not None:
        recipe = replace(recipe, batch_size=arguments.batch_size)
    recipes.check(recipe, "recipe")
    return replace(recipe, precision=environment.resolve_precision(recipe.precision, device))


def time_together(
    spec: SessionSpec,
    store: Store,
    display: Display,
    made_meanwhile: Callable[[], Record | None] = lambda: None,
    call: Call = call_alone,
) -> Record | None:
    """The session's record, or None where no model was left, or where it failed and no model was to blame.

    Waits for another session of the same store, and takes what that one `made_meanwhile` if it will do. `call` carries
    out its parts where the device is, with nothing beside. Raises NotIdle.
    """
    found = try_each(spec, display, call) if spec.thorough else Found()
    while left := [name for name, _ in spec.models if name not in found.out_models()]:
        before = {session["id"] for session in store.sessions()}
        culprit = [""]  # whose turn it is; "": nobody's

        def hear(event: dict[str, Any], culprit: list[str] = culprit) -> None:
            if event["event"] == "task":
                culprit[0] = event["model"]
            display.session_event(event)

        display.session_started(f"timing {', '.join(left)} in turns")
        if spec.reference not in left:
            display.line(f"  without {spec.reference} there are no ratios")
        timeout = spec.seconds + SLACK_SECONDS + SLACK_A_MODEL * len(left)
        outcome = call(child_session, (spec, found, store.root), hear, timeout, grace=0)
        if outcome.status == "busy":
            display.line(f"  {outcome.message} is timing in this store; waiting")
            store.wait_for_timing()
            if theirs := made_meanwhile():
                return theirs
            continue
        new = [session for session in store.sessions() if session["id"] not in before]
        if outcome.status == "ok" and new:
            return new[-1]
        if outcome.status == "ok":
            outcome = Outcome("failed", "its process ended early")
        where = save_trace(store, outcome)
        if not culprit[0]:
            display.line(f"  {outcome.status}: {outcome.message}{where}; no model was at work, so none is left out")
            return None
        display.line(f"  {culprit[0]}: {outcome.status}: {outcome.message}{where}; again without it")
        found.failures.append(failed(culprit[0], "", None, outcome.status, outcome.message))
    return None


def try_each(spec: SessionSpec, display: Display, call: Call = call_alone) -> Found:
    """Each model alone in a child: what fails there is a row, and never takes part in the session."""
    found = Found()
    for name, _ in spec.models:
        display.line(f"{name} alone: does it run, what memory does it take")
        while not try_alone(spec, name, found, display, call):
            display.line(f"  {name}: again without that task")
    return found


def try_alone(spec: SessionSpec, name: str, found: Found, display: Display, call: Call = call_alone) -> bool:
    """Try a model's untried tasks in a child; into `found`. False where one took the child down and some may be left.

    That one is a row. At the very first task it is the whole model that fails.
    """
    current: list[dict[str, Any]] = []  # the task that is being tried, or none

    def hear(event: dict[str, Any]) -> None:
        kind = event.pop("event")
        current[:] = [event] if kind == "trial" else []
        if kind == "memory":
            found.memory.append(event)
        elif kind == "untimed":
            add_failure(event)

    def add_failure(row: dict[str, Any]) -> None:
        found.failures.append(row)
        where = f"{name}, {row['kind']}, batch {row['batch_size']}" if row["kind"] else name
        display.line(f"  {where}: {row['status']}: {row['message']}")

    while (outcome := call(try_model, (spec, name, found.tried()), hear, TRIAL_SECONDS, grace=0)).status == "busy":
        pass  # it has waited for another session already
    first = all(model != name for model, _, _ in found.tried())
    if outcome.status == "ok" and not current and not first:
        return True
    if outcome.status == "ok":
        outcome = Outcome("failed", "its process ended early")
    whole = first or not current
    kind, batch_size = ("", None) if whole else (current[0]["kind"], current[0]["batch_size"])
    add_failure(failed(name, kind, batch_size, outcome.status, outcome.message))
    return whole


def failed(model: str, kind: str, batch_size: int | None, status: str, message: str) -> dict[str, Any]:
    """A row for what could not be timed; no kind where it is the whole model."""
    return {"model": model, "kind": kind, "batch_size": batch_size, "status": status, "message": message}


def save_trace(store: Store, outcome: Outcome) -> str:
    """Keep a traceback; returns where, for the line on the screen, or "" where there is none or no room for it."""
    path = store.root / "speed" / "traceback.txt"
    if outcome.traceback:
        with contextlib.suppress(OSError):  # a full disk may be the very failure
            write_atomically(path, outcome.traceback.encode())
            return f" (traceback: {path})"
    return ""


def explain(arguments: argparse.Namespace, name: str) -> int:
    """Print where a training step of one model spends its time. Raises ModelError where it cannot be run."""
    (setting, *others) = arguments.setting
    if others:
        raise UserError("--explain takes one --setting")
    spec = make_spec(arguments, [name], (1,), setting)
    if setting == "tuned":
        display = Display(make_console())
        with display:
            spec = as_found(spec, arguments.tune_limit, Store(arguments.results), display)
    events: list[dict[str, Any]] = []
    while (outcome := call_alone(explain_model, (spec, name), events.append, TRIAL_SECONDS, grace=0)).status == "busy":
        pass  # it has waited for another session already
    if not events:
        raise ModelError(f"'{name}' cannot be explained: {outcome.status}: {outcome.message}")
    step, groups = events[0]["step_seconds"], events[0]["groups"]
    total = sum(groups.values())
    print(
        f"{name}: a training step of {spec.recipe.batch_size} images ({spec.image_size} px, {spec.recipe.precision}, "
        f"{settings.words(spec.setting_of(name))}) on {spec.device_name}: {1000 * step:.1f} ms"
    )
    for group, seconds in groups.items():
        print(f"  {group:<20}{1000 * seconds:>10.1f} ms{100 * seconds / total:>7.1f} %  {_bar(seconds / total)}")
    print("self time of operators under torch's profiler, which itself takes time; Python between them is in none")
    return 0


def _bar(share: float) -> str:
    return "█" * round(40 * share)
