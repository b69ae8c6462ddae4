"""The best setting for each model, searched for in child processes. Example: settings_for(spec, store, display)

bench/measure/setting_trial.py is the child's side. A search is kept in the store under the conditions that decide it,
and is not repeated under the same ones.
"""

from __future__ import annotations

from dataclasses import replace

from bench.core.display import Display
from bench.core.errors import UserError
from bench.core.events import CandidateStarted, CandidateTurn, Described, Event
from bench.core.stats import Interval, ratio_interval
from bench.core.text import duration
from bench.drive.context import SweepContext
from bench.drive.planning import Plan
from bench.drive.probing import probe
from bench.executors.child import call
from bench.executors.worker import call_alone
from bench.measure.setting_choice import setting_search_id
from bench.plan.keys import Facts
from bench.plan.request import RunRequest
from bench.plan.settings import words
from bench.plan.spec import SessionSpec, Setting, session_of
from bench.store.disk import Store
from bench.store.records import SettingSearch

SECONDS = 180.0  # per model; a compilation that has begun is not interrupted
SLACK_SECONDS = 900.0  # over them, for the compilation under way; then the search hangs


def with_best_settings(
    plans: list[Plan], request: RunRequest, context: SweepContext
) -> tuple[list[Plan], list[str], float]:
    """(the plans with each model's own setting, the models probed on the way, seconds of searches not made).

    Earlier searches are reused; for the other models, unless --dry-run, the search is made now.
    """
    store, display, dry = context.store, context.display, request.output.dry_run
    probed: list[str] = []
    tuned, limit, pending = [], request.execution.tune_limit or SECONDS, set[str]()
    facts = environment_here(plans[0].specs[0].device)
    for plan in plans:
        session = session_of(list({spec.model: spec for spec in plan.specs}.values()), limit)
        ids, best = search_ids(session, facts), known_settings(session, facts, store)
        unknown = [name for name in ids if name not in best]
        if unknown and dry:
            display.line(f"the best setting is searched for first: {', '.join(unknown)}, about {duration(limit)} each")
            pending |= {ids[name] for name in unknown}  # one search serves every plan of the same shape
        elif unknown:
            new = [name for name in unknown if name not in probed]
            probe(new, plan, request.output.run_timeout, display)
            probed += unknown
            store.check_writable()
        with display:
            best |= settings_for(session, store, display) if not dry else {}
        specs = [replace(spec, setting=best.get(spec.model, spec.setting)) for spec in plan.specs]
        tuned.append(replace(plan, specs=specs))
    return tuned, probed, limit * len(pending)


def each_alone(spec: SessionSpec) -> list[SessionSpec]:
    """One spec per model, under which it is searched: with its own recipe."""
    alone = replace(spec, own_settings=(), own_recipes=())
    return [
        replace(alone, models=(model,), recipe=spec.recipe_of(model[0]), reference=model[0]) for model in spec.models
    ]


def environment_here(device_type: str) -> Facts:
    """The facts about this machine, as a record made here would hold them. Raises UserError."""
    events: list[Event] = []
    outcome = call("bench.measure.device:child_describe", (device_type,), events.append)
    described = next((event for event in events if isinstance(event, Described)), None)
    if described is None:
        raise UserError(f"this machine could not be described: {outcome.message}")
    return described.environment


def search_ids(spec: SessionSpec, facts: Facts) -> dict[str, str]:
    """The name of each model's search on a machine with these facts."""
    return {one.models[0][0]: setting_search_id(one, facts) for one in each_alone(spec)}


def known_settings(spec: SessionSpec, facts: Facts, store: Store) -> dict[str, Setting]:
    """The settings that earlier searches under these conditions chose, by model."""
    searches = {name: store.setting_search(search) for name, search in search_ids(spec, facts).items()}
    return {name: search.chosen for name, search in searches.items() if search is not None}


def settings_for(spec: SessionSpec, store: Store, display: Display) -> dict[str, Setting]:
    """The best setting of each model of `spec`, searched for where it is not known; prints the results.

    Raises NotIdle where other processes are working on this machine.
    """
    facts = environment_here(spec.device)
    best = {}
    for one in each_alone(spec):
        search = store.setting_search(setting_search_id(one, facts)) or _search(one, facts, store, display)
        if search is not None:
            display.line(f"  {describe(search)}")
        best[one.models[0][0]] = search.chosen if search else spec.setting
    return best


def _search(spec: SessionSpec, facts: Facts, store: Store, display: Display) -> SettingSearch | None:
    """Search in a child; a candidate that takes it down is left out, and the search starts again. None: given up."""
    name, skip = spec.models[0][0], dict[int, tuple[str, str]]()
    while True:
        at = -1

        def on_event(event: Event) -> None:
            nonlocal at
            if isinstance(event, CandidateStarted | CandidateTurn):
                at = event.index
            display.session_event(event)

        display.session_started(f"searching for the best setting of {name}")
        function, args = "bench.measure.setting_trial:child_setting_search", (spec, skip, store.root)
        outcome = call_alone(function, args, on_event, spec.seconds + SLACK_SECONDS, grace=0)
        if outcome.status == "ok" and (search := store.setting_search(setting_search_id(spec, facts))):
            return search
        if outcome.status == "busy":
            display.line(f"  {outcome.message} is timing in this store; waiting")
            store.wait_for_timing()
            continue
        why = f"{outcome.status}: {outcome.message}"
        if at < 0:
            display.line(f"  {name}: the search failed: {why}; using the default setting")
            return None
        display.line(f"  {name}: candidate {at + 1}: {why}; again without it")
        skip[at] = (outcome.status, outcome.message)


def gain(search: SettingSearch) -> Interval | None:
    """The speed of the chosen setting over the default's, or None where the default could not be timed."""
    default, chosen = search.candidates[0], next(row for row in search.candidates if row.setting == search.chosen)
    if not default.seconds or not chosen.seconds:
        return None
    return ratio_interval(default.seconds, chosen.seconds)


def describe(search: SettingSearch) -> str:
    """One line on a search: what was chosen, what it gains, how many candidates were tried."""
    rows = search.candidates
    counts = {status: sum(row.status == status for row in rows) for status in ("ok", "slower", "untried")}
    others = [
        f"{counts['slower']} clearly slower" if counts["slower"] else "",
        f"{counts['untried']} not tried for lack of time" if counts["untried"] else "",
        f"{failed} failed" if (failed := len(rows) - sum(counts.values())) else "",
    ]
    ratio = gain(search)
    speed = (
        f", {ratio.value:.2f}× the default's speed ({ratio.low:.2f}–{ratio.high:.2f})"
        if ratio and search.chosen != rows[0].setting
        else ""
    )
    tried = ", ".join([f"{counts['ok']} of {len(rows)} candidates timed in turns", *filter(None, others)])
    return f"{search.model}: {words(search.chosen)}{speed}; {tried}"
