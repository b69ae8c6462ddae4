"""The driver of speed sessions. Example: run(TimeRequest(models=("seresnet",)), display, on_session)

Each model runs alone in a child first, then all of them in turns in another, and again in fresh ones (process starts);
a model that takes the first down is named, left out, and the session starts again. The limit bounds all of it.
bench/measure/session.py is the child's side.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from bench.core.display import Display
from bench.core.errors import EXIT_FAILED, UserError
from bench.core.events import Event, Explained, MemoryMeasured, ModelTurn, TaskFailed, TaskStarted
from bench.core.text import duration
from bench.drive import auto_setting, setting_search
from bench.drive.opening import local_devices, show_notes
from bench.executors.child import Outcome
from bench.executors.protocol import Device
from bench.executors.worker import call_alone
from bench.machine.environment import hide_other_gpus
from bench.plan import presets, recipes, session_plan, settings
from bench.plan.request import TimeRequest
from bench.plan.spec import SessionSpec, reference_among
from bench.store.disk import Store
from bench.store.records import MemoryUse, Session, TimingFailure, TrialResults
from models import registry
from models.errors import ModelError

TRIAL_SECONDS = 1800.0  # for one model alone, every task twice; each may be compiled
SECONDS_PER_MODEL = {"cpu": 90.0, "cuda": 45.0}  # of a session, where no --time-limit is given
# Over the time limit, with this much for each model: a first call may compile; then the session hangs.
SLACK_SECONDS, SLACK_PER_MODEL = 900.0, 300.0
BATCH_SIZES = {"cpu": (1, 8, 32, 128), "cuda": (1, 32, 128, 512, 2048)}
TRAIN_BATCH_SIZES = {"cpu": (), "cuda": (64, 128, 256, 512, 1024, 2048)}
Call = Callable[..., Outcome]  # worker.call_alone, or its like for another machine


@dataclass(frozen=True)
class SpeedResult:
    """What the `time` command measured."""

    exit_code: int
    sessions: tuple[Session, ...]
    store: Store


@dataclass(frozen=True)
class Explanation:
    """Seconds of one training step, and of its groups of operators under the profiler."""

    spec: SessionSpec
    step_seconds: float
    groups: dict[str, float]


def run(request: TimeRequest, display: Display, on_session: Callable[[Session], None]) -> SpeedResult:
    """Time models under each setting asked for; writes sessions and CSV files. Raises UserError."""
    store = Store(request.store)
    device = the_device(request, display)
    names = settings_of(request, device, store, display)
    specs = [make_spec(request, setting, device) for setting in names]
    store.check_writable()
    sessions = []
    for spec in specs:
        display.line(
            f"{spec.image_size} px, {spec.num_classes} classes, training batch {spec.recipe.batch_size}, "
            f"{spec.recipe.precision}, {spec.setting.name}, on {spec.device_name}"
        )
        with display:
            session = time_together(as_tuned(spec, request.tune_limit, store, display), store, display)
        store.rebuild_views()
        if session is None:
            display.line("nothing was timed")
            continue
        sessions.append(session)
        on_session(session)
    complete = len(sessions) == len(specs) and not any(session.failures for session in sessions)
    return SpeedResult(0 if complete else EXIT_FAILED, tuple(sessions), store)


def explain(request: TimeRequest, model: str, display: Display) -> Explanation:
    """Where a training step of one model spends its time. Raises ModelError where it cannot be run."""
    (setting, *others) = request.settings
    if others:
        raise UserError("--explain takes one --setting")
    device = the_device(request, display)
    setting = "eager" if setting == settings.AUTO else setting  # operators in a graph are not called one by one
    request = replace(request, models=(model,), batch_sizes=(1,), train_batch_sizes=())
    spec = make_spec(request, setting, device)
    if setting == "tuned":
        with display:
            spec = as_tuned(spec, request.tune_limit, Store(request.store), display)
    events: list[Event] = []
    function = "bench.measure.session:child_explain"
    while (outcome := call_alone(function, (spec, model), events.append, TRIAL_SECONDS, grace=0)).status == "busy":
        pass  # it has waited for another session already
    explained = next((event for event in events if isinstance(event, Explained)), None)
    if explained is None:
        raise ModelError(f"'{model}' cannot be explained: {outcome.status}: {outcome.message}")
    return Explanation(spec, explained.step_seconds, explained.groups)


# --- from a request to a session -------------------------------------------------------------------------------------


def the_device(request: TimeRequest, display: Display) -> Device:
    """The one device that times; a line says why it is no GPU although there is one.

    Raises UserError for one that is not here, or a setting that it cannot have.
    """
    device = local_devices(request.device)[0]
    show_notes([device], display)
    for setting in request.settings:
        if setting != settings.AUTO:
            settings.check(setting, device.type)
    index = (request.device or "").partition(":")[2]
    if device.type == "cuda" and index:
        hide_other_gpus(int(index))
    return device


def settings_of(request: TimeRequest, device: Device, store: Store, display: Display) -> list[str]:
    """The settings asked for, with one in place of `auto`; on CUDA a line says which, and why."""
    if settings.AUTO not in request.settings:
        return list(request.settings)
    name, why = auto_setting.of_session(request.models, seconds_of(request, device), device.type, store)
    if why:
        display.line(f"setting {name}, {why}; --setting chooses another")
    return list(dict.fromkeys(name if setting == settings.AUTO else setting for setting in request.settings))


def seconds_of(request: TimeRequest, device: Device) -> float:
    """The limit of each session."""
    return request.time_limit or SECONDS_PER_MODEL[device.type] * len(request.models)


def make_spec(request: TimeRequest, setting: str, device: Device) -> SessionSpec:
    """A session under one setting. Raises UserError."""
    presets.check_image_size(request.image_size)
    recipe = recipes.load(request.recipe)
    if request.batch_size is not None:
        recipe = replace(recipe, batch_size=request.batch_size)
    recipes.check(recipe, "recipe")
    if recipe.precision == "auto":
        recipe = replace(recipe, precision="bf16" if device.native_bf16 else "fp32")
    sizes = request.train_batch_sizes
    return SessionSpec(
        models=tuple((name, registry.source_hash(name)) for name in request.models),
        recipe=recipe,
        setting=settings.SETTINGS[setting],
        device=device.type,
        device_name=device.kind,
        image_size=request.image_size,
        num_classes=request.num_classes,
        reference=reference_among(request.models, request.reference),
        deterministic=request.deterministic,
        batch_sizes=request.batch_sizes or tuple(sorted({*BATCH_SIZES[device.type], recipe.batch_size})),
        train_batch_sizes=TRAIN_BATCH_SIZES[device.type] if sizes is None else sizes,
        half_width=request.half_width,
        seconds=seconds_of(request, device),
        starts=request.starts,
        thorough=True,
    )


def as_tuned(spec: SessionSpec, limit: float | None, store: Store, display: Display) -> SessionSpec:
    """Under `tuned`, the session with each model's best setting, searched for where it is not known."""
    if spec.setting.name != "tuned":
        return spec
    search = replace(spec, seconds=limit or setting_search.SECONDS)
    return replace(spec, own_settings=tuple(setting_search.settings_for(search, store, display).items()))


# --- one session -----------------------------------------------------------------------------------------------------


def time_together(
    spec: SessionSpec,
    store: Store,
    display: Display,
    finished_meanwhile: Callable[[], Session | None] = lambda: None,
    call: Call = call_alone,
) -> Session | None:
    """The session's record, or None where no model was left, or where it failed and no model was to blame.

    Waits for another session of the same store, and takes `finished_meanwhile` if that one will do. `call` carries out
    its parts where the device is, with nothing beside. Raises NotIdle.
    """
    end = time.monotonic() + spec.seconds
    trials = try_each(spec, display, call) if spec.thorough else TrialResults()
    while left := [name for name, _ in spec.models if name not in trials.failed_models()]:
        part = _Part(spec, trials, store, display, call)
        display.session_started(f"timing {', '.join(left)} in turns")
        if spec.reference not in left:
            display.line(f"  without {spec.reference} there are no ratios")
        outcome = part.run(end - time.monotonic(), None)
        if outcome.status == "busy":
            display.line(f"  {outcome.message} is timing in this store; waiting")
            waiting = time.monotonic()
            store.wait_for_timing()
            end += time.monotonic() - waiting
            if theirs := finished_meanwhile():
                return theirs
            continue
        if part.session is not None:
            session = other_starts(part, part.session, end)
            took = spec.seconds + time.monotonic() - end
            display.line(f"  took {duration(took)} of a limit of {duration(spec.seconds)}")
            return session
        where = save_trace(store, outcome)
        if not part.culprit:
            display.line(f"  {outcome.status}: {outcome.message}{where}; no model was running, so none is left out")
            return None
        display.line(f"  {part.culprit}: {outcome.status}: {outcome.message}{where}; again without it")
        trials.failures.append(failure(part.culprit, "", None, outcome))
    return None


def other_starts(part: _Part, session: Session, end: float) -> Session:
    """The session with its further process starts. One that fails is a row, and ends it: what there is stays."""
    while session.starts < session.planned_starts:
        outcome = part.run(end - time.monotonic(), session)
        if part.session is None or part.session.starts == session.starts:
            start, where = f"process start {session.starts + 1}", save_trace(part.store, outcome)
            part.display.line(
                f"  {start}: {outcome.status}: {outcome.message}{where}; the session ends with those before"
            )
            blamed = replace(outcome, message=f"{start}: {outcome.message}")
            rows = (*session.failures, failure(part.culprit, "", None, blamed)) if part.culprit else session.failures
            warnings = session.warnings if part.culprit else (*session.warnings, f"{start} failed: {outcome.message}")
            session = msgspec.structs.replace(session, failures=rows, warnings=warnings)
            part.store.write_session(session)
            return session
        session = part.session
    return session


@dataclass
class _Part:
    """Process starts of a session, one after the other. `culprit`: whose turn it is; "": nobody's."""

    spec: SessionSpec
    trials: TrialResults
    store: Store
    display: Display
    call: Call
    culprit: str = ""
    session: Session | None = None  # as far as it is

    def run(self, seconds: float, so_far: Session | None) -> Outcome:
        """One process start with so many seconds left; `ok` only where it wrote the session."""
        before = {session.id for session in self.store.sessions()}
        self.culprit = ""
        timeout = max(0.0, seconds) + SLACK_SECONDS + SLACK_PER_MODEL * len(self.spec.models)
        args = (self.spec, self.trials, self.store.root, seconds, so_far)
        outcome = self.call("bench.measure.session:child_session", args, self._on_event, timeout, grace=0)
        sessions = self.store.sessions()
        mine = [s for s in sessions if (s.id == so_far.id if so_far else s.id not in before)]
        self.session = mine[-1] if mine and outcome.status == "ok" else None
        written = self.session is not None and self.session.starts == (so_far.starts if so_far else 0) + 1
        return Outcome("failed", "its process ended early") if outcome.status == "ok" and not written else outcome

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ModelTurn):
            self.culprit = event.model
        self.display.session_event(event)


def try_each(spec: SessionSpec, display: Display, call: Call = call_alone) -> TrialResults:
    """Each model alone in a child: what fails there is a row, and never takes part in the session."""
    trials = TrialResults()
    for name, _ in spec.models:
        display.line(f"{name} alone: does it run, and how much memory does it use")
        while not try_alone(spec, name, trials, display, call):
            display.line(f"  {name}: again without that task")
    return trials


def try_alone(spec: SessionSpec, name: str, trials: TrialResults, display: Display, call: Call = call_alone) -> bool:
    """Try a model's untried tasks in a child. False where one took the child down and some may be left.

    It takes its share of the limit: what is left untried then has its first call in the session. One that dies is a
    row. At the very first task it is the whole model that fails.
    """
    current: TaskStarted | None = None  # the task that is being tried

    def on_event(event: Event) -> None:
        nonlocal current
        current = event if isinstance(event, TaskStarted) else None
        if isinstance(event, MemoryMeasured):
            trials.memory.append(
                MemoryUse(
                    model=event.model,
                    kind=event.kind,
                    batch_size=event.batch_size,
                    bytes=event.bytes,
                    reserved_bytes=event.reserved_bytes,
                )
            )
        elif isinstance(event, TaskFailed):
            add(failure(event.model, event.kind, event.batch_size, Outcome(event.status, event.message)))

    def add(row: TimingFailure) -> None:
        trials.failures.append(row)
        where = f"{name}, {row.kind}, batch {row.batch_size}" if row.kind else name
        display.line(f"  {where}: {row.status}: {row.message}")

    function = "bench.measure.session:child_try_model"
    args = (spec, name, trials.tried(), session_plan.TRIALS * spec.seconds / len(spec.models))
    while (outcome := call(function, args, on_event, TRIAL_SECONDS, grace=0)).status == "busy":
        pass  # it has waited for another session already
    first = all(model != name for model, _, _ in trials.tried())
    if outcome.status == "ok" and current is None and not first:
        return True
    if outcome.status == "ok":
        outcome = Outcome("failed", "its process ended early")
    if first or current is None:
        add(failure(name, "", None, outcome))
        return True
    add(failure(name, current.kind, current.batch_size, outcome))
    return False


def failure(model: str, kind: str, batch_size: int | None, outcome: Outcome) -> TimingFailure:
    """A row for what could not be timed; no kind where it is the whole model."""
    return TimingFailure(model=model, kind=kind, batch_size=batch_size, status=outcome.status, message=outcome.message)


def save_trace(store: Store, outcome: Outcome) -> str:
    """Keep a traceback; returns where, for the line on the screen, or "" where there is none or no room for it."""
    name = "speed/traceback.txt"
    if outcome.traceback:
        with contextlib.suppress(OSError):  # a full disk may be the very failure
            store.write({name: outcome.traceback.encode()})
            return f" (traceback: {store.root / name})"
    return ""
