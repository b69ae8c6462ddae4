"""A sweep from request to records. Example: result = run(RunRequest(models=("seresnet", "vit_tiny")), display)

Plan and check everything before anything long begins, search learning rates and settings, train what is missing, time
the models in turns, write the CSV files. Whoever calls it shows the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.core.display import Display, Job
from bench.core.errors import EXIT_FAILED
from bench.core.text import plural
from bench.drive import auto_setting, lr_search, setting_search
from bench.drive.compile_ahead import compile_ahead
from bench.drive.context import SweepContext
from bench.drive.describe import describe, devices_words, titles
from bench.drive.dry_run import Searches, show_plans
from bench.drive.estimates import group_of, known_seconds
from bench.drive.opening import opened
from bench.drive.planning import Plan, as_done, make_plans, one_per_kind
from bench.drive.probing import probe
from bench.drive.runs import RunPolicy, Views, train_all
from bench.drive.timing_pass import TimingOptions, time_if_needed, timed_under
from bench.plan.request import RunRequest
from bench.plan.settings import AUTO
from bench.plan.spec import RunSpec
from bench.store.disk import WEIGHTS, Store
from bench.store.records import FinishedRun, Session


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves to be shown. `specs` is empty after a dry run, or where no run is left."""

    exit_code: int
    specs: tuple[RunSpec, ...]
    store: Store
    sessions: tuple[Session, ...] = ()  # under `tuned`: with the settings that were compared


def run(request: RunRequest, display: Display) -> SweepResult:
    """Plan, search, train what is missing, time the models. Raises UserError and ModelError."""
    with opened(request, Store(request.output.store), display) as context:
        return carry_out(request, context)


def carry_out(request: RunRequest, context: SweepContext) -> SweepResult:
    """The sweep on an executor."""
    store, output, rerun = context.store, request.output, request.output.rerun
    plans = make_plans(request, context)
    if request.execution.setting == AUTO:
        plans = auto_setting.with_setting(plans, context)
    tried: list[str] = []
    setting_seconds = 0.0
    if request.execution.setting == "tuned":
        plans, tried, setting_seconds = setting_search.with_best_settings(plans, request, context)
    plans = [as_done(plan, context) for plan in plans]
    if output.keep_weights:
        tried = []  # once more, for their sizes
    sizes: dict[str, int] = {}
    for plan in one_per_kind(plans):
        untried = [name for name in request.models if name not in tried and _is_missing(name, plans, store, rerun)]
        sizes |= probe(untried, plan, output.run_timeout, context.display)
    if output.keep_weights:
        say_weights(plans, sizes, rerun, context)
    store.check_writable(keep=not output.dry_run)
    if not output.dry_run:
        missing = [spec for plan in plans for spec in plan.specs if rerun or not store.is_done(spec)]
        compile_ahead(missing, context)
        if request.toml:
            store.keep_sweep(request.toml)
    tuned = lr_search.with_best_lr(plans, request, context)
    plans = [as_done(plan, context) for plan in tuned.plans]  # their learning rates are known now
    if output.dry_run:
        show_plans(plans, rerun, request.execution.together, Searches(setting_seconds, tuned.pending), context)
        return SweepResult(0, (), store)
    if not plans:
        return SweepResult(EXIT_FAILED, (), store)
    plans, lost, complete = train_and_time(plans, request, context)
    specs = tuple(spec for plan in plans for spec in plan.specs)
    sessions: tuple[Session, ...] = ()
    if specs[0].setting.name == "tuned":
        timed = (timed_under(name, plans[0].specs, store) for name in ("eager", "tuned"))
        sessions = tuple(session for session in timed if session is not None)
    return SweepResult(EXIT_FAILED if tuned.failures + lost or not complete else 0, specs, store, sessions)


def say_weights(plans: Sequence[Plan], sizes: dict[str, int], rerun: bool, context: SweepContext) -> None:
    """What --keep-weights will write, by the bytes of each model, and which finished runs have kept none."""
    specs = [spec for plan in plans for spec in plan.specs]
    records = {spec.run_id: context.store.record(spec) for spec in specs}
    done = [record for record in records.values() if isinstance(record, FinishedRun) and not rerun]
    missing = [spec for spec in specs if rerun or not isinstance(records[spec.run_id], FinishedRun)]
    if missing:
        total = sum(sizes.get(spec.model, 0) for spec in missing) / 1e6
        each = ", ".join(f"{model} {size / 1e6:.1f} MB" for model, size in sizes.items())
        context.display.line(f"weights to keep: about {total:,.1f} MB for {plural(len(missing), 'run')} (each: {each})")
    if without := sum(WEIGHTS not in record.files for record in done):
        context.display.line(f"{plural(without, 'finished run')} kept no weights; --rerun trains again and keeps them")


def train_and_time(plans: list[Plan], request: RunRequest, context: SweepContext) -> tuple[list[Plan], int, bool]:
    """(the plans with finished runs as they were done, how many failed or are gone, whether all models were timed)."""
    output, display, views, complete = request.output, context.display, Views(context.store), True
    target, retries = request.training.target, request.placement.retries
    policy = RunPolicy(
        output.run_timeout, output.rerun, target, retries, request.execution.together, output.keep_weights
    )
    todo = announce(plans, policy, context)
    timing = TimingOptions(output.timing_limit, output.rerun, output.reference)
    try:
        with display:
            trained = train_all(plans, todo, context, views, policy)
        done = {spec.run_id: spec for plan in plans for spec in plan.specs if spec.run_id not in todo}
        done |= trained.finished
        plans = [replace(plan, specs=[done.get(spec.run_id, spec) for spec in plan.specs]) for plan in plans]
        for plan in plans:
            with display:
                complete &= time_if_needed(plan.specs, context, timing)
    finally:
        views.rebuild()
    gone = missing(list(done.values()), context)
    return plans, trained.failures + gone, complete


def missing(finished: Sequence[RunSpec], context: SweepContext) -> int:
    """How many finished runs the store no longer has, which is said: it was moved or deleted meanwhile."""
    store = context.store
    if gone := sum(not store.is_done(spec) for spec in finished):
        context.display.line(
            f"{plural(gone, 'finished run')} of {len(finished):,} {'is' if gone == 1 else 'are'} no longer in "
            f"'{store.root}', which was moved or deleted during the sweep; move the folders back into "
            f"'{store.root / 'runs'}', or rerun the same command to repeat them"
        )
    return gone


def announce(plans: list[Plan], policy: RunPolicy, context: SweepContext) -> set[str]:
    """Show the conditions and what is to be done; returns the names of the missing runs."""
    store, display = context.store, context.display
    todo: set[str] = set()
    for plan in plans:
        missing = {spec.run_id for spec in plan.specs if policy.rerun or not store.is_done(spec)}
        if missing:
            display.line(describe(plan, context.executor.devices()))
        if done := len(plan.specs) - len(missing):
            display.line(f"{done} of {len(plan.specs)} runs are done already (--rerun repeats them)")
        if other := sum(_target_of(spec, store) not in (None, policy.target) for spec in plan.specs):
            display.line(f"{other} of them started with another --target, which they keep")
        todo |= missing
    jobs = jobs_of(plans, todo, context)
    specs = [spec for plan in plans for spec in plan.specs]
    data = ", ".join(dict.fromkeys(spec.data.name for spec in specs))
    recipes = ", ".join(dict.fromkeys(spec.recipe.name for spec in specs))
    devices = devices_words(context.executor.devices())
    title = f"{data} · recipe {recipes} · {specs[0].setting.name} · {devices}"
    display.planned(title, jobs, min(context.seats, max(1, len(todo))))
    return todo


def jobs_of(plans: Sequence[Plan], todo: set[str], context: SweepContext) -> list[Job]:
    """The missing runs, with their training seconds where earlier runs tell."""
    names = titles([spec for plan in plans for spec in plan.specs])
    shared = any(device.runs_at_once > 1 for device in context.executor.devices())
    known = [] if shared else context.store.runs()  # the pace of a run alone says nothing about several at once
    seconds: dict[str, float | None] = {}
    jobs = []
    for plan in plans:
        for spec in plan.specs:
            group = group_of(spec)
            if group not in seconds:
                seconds[group] = known_seconds(spec, len(plan.dataset.train_index), known)[0]
            if spec.run_id in todo:
                jobs.append(Job(spec.run_id, names[spec.run_id], group, seconds[group]))
    return jobs


def _target_of(spec: RunSpec, store: Store) -> float | None:
    """The target that a finished run was started with."""
    record = store.record(spec)
    return record.target if isinstance(record, FinishedRun) else None


def _is_missing(name: str, plans: list[Plan], store: Store, rerun: bool) -> bool:
    return any(rerun or not store.is_done(spec) for plan in plans for spec in plan.specs if spec.model == name)
