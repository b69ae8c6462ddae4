"""The learning rate of each model in a track, chosen on validation. Example: lr, edge = verdict(search.record.trials)

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): every rate of the recipe's short list is tried for a
short budget, the better half again for twice as long. Then every model gets one more trial: the next rate beyond the
list where the best is at its end; else the one between the best and the runner-up. So all models get the same number
of trials. A trial trains to its own small budget and never sees the test set. All trials are kept, and counted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import msgspec

from bench.core.display import RunDisplay, SeveralRuns
from bench.core.errors import Busy, UserError
from bench.core.events import Event, OfRun, StepDone, TrialDone
from bench.core.text import plural
from bench.data.datasets import DataSource
from bench.drive.board import Board, Member, Work
from bench.drive.context import SweepContext, surroundings
from bench.drive.estimates import group_of
from bench.drive.planning import Plan
from bench.drive.together import answer_of, how_many, why_again
from bench.executors.protocol import Answer, Device, Task
from bench.plan.budget import Budget
from bench.plan.recipes import LRS, length
from bench.plan.request import RunRequest
from bench.plan.spec import RunSpec, content_id, slug, spec_id, to_dict, work_id
from bench.store.disk import Store, now
from bench.store.lr_doubt import best_of, doubt, runner_up
from bench.store.records import FailedStatus, LRSearch, Trial

SHARE = 0.1  # of the run's budget that a first trial gets
SEED = 1_000_000_000  # of every trial: one that no run has
Wanted = tuple[RunSpec, DataSource]


# --- in a sweep ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """The plans with each model's own learning rate, how many searches failed, and those that a dry run left out."""

    plans: list[Plan]
    failures: int
    pending: list[PendingSearch]


@dataclass(frozen=True)
class PendingSearch:
    """A search to come: `first`, the spec of its first trial, and how many times as long all its trials take."""

    first: RunSpec
    train_images: int
    times_as_long: int


def with_best_lr(plans: list[Plan], request: RunRequest, context: SweepContext) -> Tuned:
    """Each model's own learning rate in a track: searched for unless it is known, or --dry-run.

    Models whose search failed are left out.
    """
    asked, chosen, unknown = request.training.trial_budget, dict[str, float](), list[Wanted]()
    pending: list[PendingSearch] = []
    for plan in plans:
        for spec in {spec.model: spec for spec in plan.specs if spec.recipe.track}.values():
            search = known(spec, first_budget(spec, asked), context.store, context.executor.remote)
            if search is not None and search.chosen is not None:
                chosen[group_of(spec)] = search.chosen
            elif request.output.dry_run:
                pending.append(_announce(spec, first_budget(spec, asked), plan, context))
            else:
                unknown.append((spec, plan.source))
    failed: set[str] = set()
    with context.display:
        together = how_many(request.execution.together, context.executor.devices())
        results = find_all(unknown, asked, context, request.output.run_timeout, together)
    for (spec, _), result in zip(unknown, results, strict=True):
        if isinstance(result, str):  # one model's failure is not the others'
            context.display.line(f"  {result}; {spec.model} is left out")
            failed.add(group_of(spec))
        else:
            assert result.chosen is not None
            context.display.line(f"  {describe(result)}")
            chosen[group_of(spec)] = result.chosen

    def with_rates(plan: Plan) -> Plan:
        kept = [spec for spec in plan.specs if group_of(spec) not in failed]
        return replace(plan, specs=[_at(spec, chosen.get(group_of(spec), spec.recipe.lr)) for spec in kept])

    return Tuned([plan for plan in map(with_rates, plans) if plan.specs], len(failed), pending)


def _at(spec: RunSpec, lr: float) -> RunSpec:
    return replace(spec, recipe=replace(spec.recipe, lr=lr))


def _announce(spec: RunSpec, budget: Budget, plan: Plan, context: SweepContext) -> PendingSearch:
    """Announce a search that a dry run does not make."""
    rates = LRS[spec.recipe.optimizer]
    trials = trials_of(rates)
    context.display.line(
        f"{spec.model}: the lr of recipe {spec.recipe.name} is searched for first, in {plural(trials, 'trial')}"
    )
    begun = context.store.lr_search(search_id(spec, budget))
    done = sum(2 if trial.rung else 1 for trial in begun.trials) if begun else 0
    first = for_as_long(spec, budget, spec.recipe.lr)
    times_as_long = len(rates) + 2 * (trials - len(rates)) - done  # after the list each trial is twice as long
    return PendingSearch(first, len(plan.dataset.train_index), times_as_long)


# --- which rate comes next -------------------------------------------------------------------------------------------


def first_budget(spec: RunSpec, asked: Budget | None) -> Budget:
    """What a first trial gets: what was asked for, or a share of the run's own. Raises UserError."""
    if asked is not None:
        if asked.kind == "samples" and asked.amount < spec.recipe.batch_size:
            raise UserError(f"--trial-budget {asked.text} is less than one batch of {spec.recipe.batch_size}")
        return asked
    whole = length(spec.recipe)
    amount = SHARE * whole.amount
    if whole.kind == "epochs":
        return Budget("epochs", max(1, round(amount)))
    if whole.kind == "samples":
        return Budget("samples", max(spec.recipe.batch_size, round(amount)))
    return Budget(whole.kind, amount)


def for_as_long(spec: RunSpec, budget: Budget, lr: float) -> RunSpec:
    """The spec of a trial: validated at its end only."""
    epochs = round(budget.amount) if budget.kind == "epochs" else 0
    recipe = replace(spec.recipe, lr=lr, epochs=epochs, budget=budget.text, validations=1)
    return replace(spec, recipe=recipe, seed=SEED)


def search_id(spec: RunSpec, budget: Budget) -> str:
    """The name of a search: the model and everything that decides its answer, but not the budget of the runs."""
    shown = to_dict(for_as_long(spec, budget, 1.0))  # its own lr is not among what decides
    return f"{slug(spec.model)}-{slug(spec.recipe.name)}-{content_id([spec_id(shown), LRS[spec.recipe.optimizer]])}"


def next_trials(trials: Sequence[Trial], rates: tuple[float, ...]) -> list[tuple[int, float]]:
    """(rung, lr) of the trials that come next; none where the search is over.

    Rung 0: all rates; rung 1: the better half, for twice as long; rung 2: one more, as long as those of rung 1.
    """
    rungs = [[t for t in trials if t.rung == number] for number in range(3)]
    if len(rungs[0]) < len(rates):
        done = {t.lr for t in rungs[0]}
        return [(0, lr) for lr in rates if lr not in done]
    again = [t.lr for t in best_of(rungs[0])[: max(2, len(rates) // 2)]]
    if len(rungs[1]) < len(again):
        done = {t.lr for t in rungs[1]}
        return [(1, lr) for lr in again if lr not in done]
    if not rungs[2]:
        return [(2, one_more(rungs[1], rates))]
    return []


def one_more(finalists: Sequence[Trial], rates: tuple[float, ...]) -> float:
    """The next rate beyond the list where the best is at its end, else the middle between it and the runner-up."""
    best, other = (t.lr for t in best_of(finalists)[:2])
    if best == max(rates):
        return float(f"{best * rates[-1] / rates[-2]:.2g}")
    if best == min(rates):
        return float(f"{best * rates[0] / rates[1]:.2g}")
    return float(f"{math.sqrt(best * other):.2g}")


def verdict(trials: Sequence[Trial]) -> tuple[float, bool]:
    """(the best rate of those tried longest, whether it is the highest or the lowest of all that were tried)."""
    best = best_of([t for t in trials if t.rung > 0])[0].lr
    rates = [t.lr for t in trials]
    return best, best in (min(rates), max(rates))


def trials_of(rates: tuple[float, ...]) -> int:
    """How many trials every model gets."""
    return len(rates) + max(2, len(rates) // 2) + 1


def describe(search: LRSearch) -> str:
    """One line on a search: what was chosen among what."""
    tried = ", ".join(
        f"{t.lr:g}: " + ("–" if t.val_accuracy is None else f"{100 * t.val_accuracy:.1f} %")
        for t in sorted((t for t in search.trials if t.rung > 0), key=lambda t: t.lr)
    )
    edge = "; it is the last rate tried on its side, a better one may lie beyond" if search.edge else ""
    luck = f"; {why}: this rate may be luck" if (why := doubt(search)) else ""
    count = plural(len(search.trials), "trial")
    title = f"{search.spec.model}, recipe {search.spec.recipe.name}: lr {search.chosen:g} of {count}"
    return f"{title} ({tried}), {search.samples:,.0f} samples{edge}{luck}"


# --- searches on a board ---------------------------------------------------------------------------------------------


def known(spec: RunSpec, budget: Budget, store: Store, anywhere: bool = False) -> LRSearch | None:
    """A finished search for this spec's learning rate, if there is one; `anywhere`: on whatever device it was made."""
    search = store.lr_search(search_id(spec, budget))
    if search is not None and search.chosen is not None:
        return search
    same = work_id(to_dict(for_as_long(spec, budget, spec.recipe.lr)))
    others = store.lr_searches() if anywhere else []
    return next((one for one in others if one.chosen is not None and work_id(to_dict(one.spec)) == same), None)


@dataclass
class Search:
    """One model's search as far as it is."""

    spec: RunSpec
    source: DataSource
    budget: Budget
    record: LRSearch

    @property
    def title(self) -> str:
        """For the screen."""
        return f"{self.spec.model}, recipe {self.spec.recipe.name}"

    @property
    def rates(self) -> tuple[float, ...]:
        """The short list."""
        return LRS[self.spec.recipe.optimizer]


def search_of(spec: RunSpec, source: DataSource, budget: Budget) -> Search:
    """A search that has not begun."""
    record = LRSearch(
        id=search_id(spec, budget),
        started=now(),
        budget=budget.text or f"{budget.amount:g}epochs",
        spec=for_as_long(spec, budget, spec.recipe.lr),
        trials=(),
    )
    return Search(spec, source, budget, record)


def find_all(
    wanted: list[Wanted], asked: Budget | None, context: SweepContext, timeout: float | None, together: int = 1
) -> list[LRSearch | str]:
    """Search, or resume searches: for each the record, or why there is none.

    A model's trials come one after the other, several models' at once where there are several devices; every trial is
    kept as soon as it is done; or `together` of one length in one process. A search that another process works on comes
    last. Raises KeyboardInterrupt.
    """
    store = context.store
    waiting = [search_of(spec, source, first_budget(spec, asked)) for spec, source in wanted]
    order = [search.record.id for search in waiting]
    ended: dict[str, LRSearch | str] = {}
    while waiting:
        with contextlib.ExitStack() as claims:
            claimed = []
            for search in waiting:
                with contextlib.suppress(Busy):
                    claims.enter_context(store.claim(f"search-{search.record.id}"))
                    claimed.append(search)
            if not claimed:
                claimed = waiting[:1]
                context.display.line(f"{claimed[0].title}: another process is running this search; waiting")
                claims.enter_context(store.claim(f"search-{claimed[0].record.id}", wait_seconds=math.inf))
            for search in claimed:
                search.record = store.lr_search(search.record.id) or search.record
            ended |= _Searches(claimed, context, timeout, together).carry_out()
        waiting = [search for search in waiting if search not in claimed]
    return [ended[name] for name in order]


@dataclass
class _Coming:
    """A trial on the board: whose, and how many steps it has taken."""

    search: Search
    number: int  # from 1
    rung: int
    lr: float
    steps: int = 0

    @property
    def name(self) -> str:
        return f"{self.search.record.id} {self.number}"

    @property
    def title(self) -> str:
        search = self.search
        return f"{search.title}: trial {self.number} of {trials_of(search.rates)}, lr {self.lr:g}"

    @property
    def spec(self) -> RunSpec:
        budget = self.search.budget
        return for_as_long(self.search.spec, Budget(budget.kind, budget.amount * (2 if self.rung else 1)), self.lr)

    def on_event(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.steps = event.step


class _Searches:
    """Searches that share a board: the trials of each one after the other."""

    def __init__(self, searches: list[Search], context: SweepContext, timeout: float | None, together: int) -> None:
        self._searches, self._context, self._timeout, self._together = searches, context, timeout, together
        self._board = Board(context.executor, context.display)
        self._coming: dict[str, _Coming] = {}  # by name
        self._ended: dict[str, LRSearch | str] = {}

    def carry_out(self) -> dict[str, LRSearch | str]:
        """The finished record of each search, or why it was given up, by name."""
        for search in self._searches:
            self._advance(search)
        self._board.run(self._settle)
        return self._ended

    def _advance(self, search: Search) -> None:
        """Start a search's next trial, or end it."""
        record = search.record
        if following := next_trials(record.trials, search.rates):
            # one alone gives the pace for a budget in seconds, and so must each
            most = 1 if search.budget.kind == "seconds" else self._together
            done = len(record.trials)
            coming = [_Coming(search, done + i, *trial) for i, trial in enumerate(following[:most], 1)]
            self._coming |= {trial.name: trial for trial in coming}
            self._board.add(self._work(coming[0]) if len(coming) == 1 else self._group_work(coming))
            return
        if record.chosen is None and not any(t.status == "ok" for t in record.trials if t.rung > 0):
            self._ended[record.id] = f"{search.title}: every rate that was tried longest diverged"
            return
        if record.chosen is None:
            chosen, edge = verdict(record.trials)
            second = runner_up(record.trials, max(trial.val_images for trial in record.trials))
            search.record = msgspec.structs.replace(record, chosen=chosen, edge=edge, runner_up=second)
            self._context.store.write_lr_search(search.record)
        self._ended[record.id] = search.record

    def _work(self, coming: _Coming) -> Work:
        title, batch = coming.title, coming.spec.recipe.batch_size

        def task(device: Device, alone: bool) -> Task:
            here = replace(coming.spec, device_name=device.kind or coming.spec.device_name)
            share = 1.0 if alone else 1.0 / device.runs_at_once
            return self._task("run:child_trial", (here, coming.search.source), here, device, alone, share=share)

        return Work(coming.name, title, title, batch, task, turn=self._turn(coming), on_event=coming.on_event)

    def _group_work(self, trials: list[_Coming]) -> Work:
        first = trials[0]
        name = f"{first.name} and {len(trials) - 1} more"

        def task(device: Device, alone: bool) -> Task:
            here = [replace(trial.spec, device_name=device.kind or trial.spec.device_name) for trial in trials]
            named = list(zip([trial.name for trial in trials], here, strict=True))
            args = (named, first.search.source, len(trials))
            return self._task("together:child_trials", args, here[0], device, True, times=len(trials))

        def on_event(event: Event) -> None:
            if isinstance(event, OfRun) and event.name in self._coming:
                self._coming[event.name].on_event(event.said)

        members = tuple(Member(trial.name, trial.title, trial.title) for trial in trials)
        batch = first.spec.recipe.batch_size
        return Work(name, name, name, batch, task, turn=self._turn(first), on_event=on_event, members=members)

    def _turn(self, coming: _Coming) -> int:
        return self._searches.index(coming.search)  # where there is one device, one search after the other

    def _task(
        self,
        function: str,
        args: tuple[Any, ...],
        spec: RunSpec,
        device: Device,
        alone: bool,
        share: float = 1.0,
        times: int = 1,
    ) -> Task:
        """`times`: how many trials it is, each with its own time."""
        _, variables = surroundings(device, alone, spec.deterministic)
        return self._context.task(
            spec.run_id,
            f"bench.measure.{function}",
            args,
            timeout=self._timeout and self._timeout * times,
            share=share,
            environment=tuple(variables.items()),
        )

    def _settle(self, work: Work, device: Device, answer: Answer, display: RunDisplay) -> None:
        if not work.members:
            search = self._settle_one(work.name, work, answer, display)
        else:
            assert isinstance(display, SeveralRuns)
            for name in [member.name for member in work.members]:
                shown, own = display.of[name], answer_of(answer, name)
                search = self._coming[name].search
                if own is None:
                    shown.line(why_again(answer, name))
                    self._board.again(self._work(self._coming[name]))
                else:
                    self._board.ended(own.outcome.status == "ok")
                    self._settle_one(name, work, own, shown)
        if search.record.id not in self._ended and not any(one.search is search for one in self._coming.values()):
            self._advance(search)

    def _settle_one(self, name: str, work: Work, answer: Answer, display: RunDisplay) -> Search:
        coming = self._coming.pop(name)
        search = coming.search
        trial = as_trial(answer, coming, work.batch_size, display)
        if trial.status not in ("ok", "diverged"):  # which says nothing about the rate
            why = f"{trial.status}: {trial.message}; rerun the same command to try it again"
            self._ended[search.record.id] = f"{coming.title}: {why}"
        else:
            search.record = msgspec.structs.replace(search.record, trials=(*search.record.trials, trial))
            self._context.store.write_lr_search(search.record)
        return search


def as_trial(answer: Answer, coming: _Coming, batch_size: int, display: RunDisplay) -> Trial:
    """What a trial found, or how it failed; the samples that it had seen by then are counted."""
    done, outcome = answer.event(TrialDone), answer.outcome
    if outcome.status == "ok" and done is not None:
        display.line(f"validation {100 * done.val_accuracy:.1f} % after {done.samples:,} samples")
        return Trial(
            lr=coming.lr,
            rung=coming.rung,
            status="ok",
            message="",
            samples=done.samples,
            train_seconds=done.train_seconds,
            val_accuracy=done.val_accuracy,
            val_loss=done.val_loss,
            val_images=done.val_images,
        )
    status = outcome.status if outcome.status in get_args(FailedStatus) else "failed"
    display.line(f"{status}: {outcome.message}")
    return Trial(
        lr=coming.lr,
        rung=coming.rung,
        status=status,
        message=outcome.message,
        samples=coming.steps * batch_size,
        train_seconds=0.0,
        val_accuracy=None,
        val_loss=None,
    )
