"""The learning rate of each model in a track, chosen on validation. Example: found = find_all([(spec, source)], …)

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): every rate of the recipe's short list is tried for a
little, the better half again for twice as long. Then every model gets one trial more: where the best stands at the end
of the list, the next rate beyond it; else the one between the best and the runner-up. So all models get the same number
of trials. A trial trains to its own small budget and never sees the test set. What it took is kept, and counted.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

from bench.core.errors import Busy, UserError
from bench.data.datasets import DataSource
from bench.drive.board import Board, Work
from bench.drive.runs import Home, circumstances
from bench.executors.protocol import Answer, Device, Engine, Task, reference
from bench.measure.run import child_trial
from bench.plan.budget import Budget, parse_budget
from bench.plan.recipes import LRS, length
from bench.plan.spec import RunSpec, content_id, slug, spec_id, to_dict, work_id
from bench.present.screen.progress import Display, Events
from bench.store.disk import Store, now, search_samples
from bench.store.records import SCHEMA, Record

SHARE = 0.1  # of the run's budget that a first trial gets
SEED = 1_000_000_000  # of every trial: one that no run has
Trial = dict[str, Any]


def first_budget(spec: RunSpec, asked: str) -> Budget:
    """What a first trial gets: what was asked for, or a share of the run's own. Raises UserError."""
    if asked:
        budget = parse_budget(asked, "--trial-budget")
        if budget.kind == "samples" and budget.amount < spec.recipe.batch_size:
            raise UserError(f"--trial-budget {asked} is less than one batch of {spec.recipe.batch_size}")
        return budget
    whole = length(spec.recipe)
    amount = SHARE * whole.amount
    if whole.kind == "epochs":
        return Budget("epochs", max(1, round(amount)))
    if whole.kind == "samples":
        return Budget("samples", max(spec.recipe.batch_size, round(amount)))
    return Budget(whole.kind, amount)


def for_as_long(spec: RunSpec, budget: Budget, lr: float) -> RunSpec:
    """The spec of a trial: validated at its end alone."""
    epochs = round(budget.amount) if budget.kind == "epochs" else 0
    recipe = replace(spec.recipe, lr=lr, epochs=epochs, budget=budget.text, validations=1)
    return replace(spec, recipe=recipe, seed=SEED)


def search_id(spec: RunSpec, budget: Budget) -> str:
    """The name of a search: the model and everything that decides its answer, but not the budget of the runs."""
    shown = to_dict(for_as_long(spec, budget, 1.0))  # its own lr is not among what decides
    return f"{slug(spec.model)}-{slug(spec.recipe.name)}-{content_id([spec_id(shown), LRS[spec.recipe.optimizer]])}"


def best_of(trials: list[Trial]) -> list[Trial]:
    """Trials from the best on: by validation accuracy, among equals by loss; what failed comes last."""
    return sorted(
        trials, key=lambda t: (-(t["val_accuracy"] or 0.0), math.inf if t["val_loss"] is None else t["val_loss"])
    )


def next_trials(trials: list[Trial], rates: tuple[float, ...]) -> list[tuple[int, float]]:
    """(rung, lr) of the trials that come next; none where the search is over.

    Rung 0: all rates; rung 1: the better half, for twice as long; rung 2: one more, as long as those of rung 1.
    """
    rungs = [[t for t in trials if t["rung"] == number] for number in range(3)]
    if len(rungs[0]) < len(rates):
        done = {t["lr"] for t in rungs[0]}
        return [(0, lr) for lr in rates if lr not in done]
    again = [t["lr"] for t in best_of(rungs[0])[: max(2, len(rates) // 2)]]
    if len(rungs[1]) < len(again):
        done = {t["lr"] for t in rungs[1]}
        return [(1, lr) for lr in again if lr not in done]
    if not rungs[2]:
        return [(2, one_more(rungs[1], rates))]
    return []


def one_more(finalists: list[Trial], rates: tuple[float, ...]) -> float:
    """The next rate beyond the list where the best stands at its end, else the middle between it and the runner-up."""
    best, other = (t["lr"] for t in best_of(finalists)[:2])
    if best == max(rates):
        return float(f"{best * rates[-1] / rates[-2]:.2g}")
    if best == min(rates):
        return float(f"{best * rates[0] / rates[1]:.2g}")
    return float(f"{math.sqrt(best * other):.2g}")


def verdict(trials: list[Trial]) -> tuple[float, bool]:
    """(the best rate of those tried longest, whether it is the highest or the lowest of all that were tried)."""
    best = best_of([t for t in trials if t["rung"] > 0])[0]["lr"]
    every = [t["lr"] for t in trials]
    return best, best in (min(every), max(every))


def describe(search: Record) -> str:
    """One line on a search: what was chosen among what."""
    model, trials = search["spec"]["model"], search["trials"]
    tried = ", ".join(
        f"{t['lr']:g}: " + ("–" if t["val_accuracy"] is None else f"{100 * t['val_accuracy']:.1f} %")
        for t in sorted((t for t in trials if t["rung"] > 0), key=lambda t: t["lr"])
    )
    edge = "; it is the last one tried on its side, a better one may lie beyond" if search["edge"] else ""
    about = f"{model}, recipe {search['spec']['recipe']['name']}: lr {search['chosen']:g} of {len(trials)} trials"
    return f"{about} ({tried}), {search_samples(search):,} samples{edge}"


def known(spec: RunSpec, budget: Budget, store: Store, anywhere: bool = False) -> Record | None:
    """A finished search for this spec's learning rate, if there is one; `anywhere`: on whatever device it was made."""
    found = store.search(search_id(spec, budget))
    if found is not None and found["chosen"] is not None:
        return found
    same = work_id(to_dict(for_as_long(spec, budget, spec.recipe.lr)))
    others = store.searches() if anywhere else []
    return next((one for one in others if one["chosen"] is not None and work_id(one["spec"]) == same), None)


def find_all(
    wanted: list[tuple[RunSpec, DataSource]],
    first: str,
    home: Home,
    engine: Engine,
    display: Display,
    timeout: float | None,
) -> list[Record | str]:
    """Search, or go on with searches: for each what was found, or why nothing was.

    A model's trials come one after the other, several models' at once where there are several devices; every trial is
    kept as soon as it is done. A search that another process is at comes last. Raises KeyboardInterrupt.
    """
    waiting = [Search(spec, source, first_budget(spec, first)) for spec, source in wanted]
    ended: dict[str, Record | str] = {}
    order = [search.name for search in waiting]
    while waiting:
        with contextlib.ExitStack() as claims:
            mine = []
            for search in waiting:
                with contextlib.suppress(Busy):
                    claims.enter_context(home.store.claim(f"search-{search.name}"))
                    mine.append(search)
            if not mine:
                mine = waiting[:1]
                display.line(f"{mine[0].about}: another process is at this search; waiting")
                claims.enter_context(home.store.claim(f"search-{mine[0].name}", wait_seconds=math.inf))
            for search in mine:
                search.begin(home.store)
            ended |= _carry_out(mine, home, engine, display, timeout)
        waiting = [search for search in waiting if search not in mine]
    return [ended[name] for name in order]


@dataclass
class Search:
    """One model's search as far as it is, and what comes next."""

    spec: RunSpec
    source: DataSource
    budget: Budget
    record: Record = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In the store."""
        return search_id(self.spec, self.budget)

    @property
    def about(self) -> str:
        """For the screen."""
        return f"{self.spec.model}, recipe {self.spec.recipe.name}"

    @property
    def rates(self) -> tuple[float, ...]:
        """The short list."""
        return LRS[self.spec.recipe.optimizer]

    def begin(self, store: Store) -> None:
        """As the store has it, or anew."""
        self.record = store.search(self.name) or {
            "schema": SCHEMA,
            "id": self.name,
            "started": now(),
            "budget": self.budget.text or f"{self.budget.amount:g}epochs",
            "spec": to_dict(for_as_long(self.spec, self.budget, self.spec.recipe.lr)),
            "trials": [],
            "chosen": None,
            "edge": False,
        }


def _carry_out(
    searches: list[Search], home: Home, engine: Engine, display: Display, timeout: float | None
) -> dict[str, Record | str]:
    """All trials of these searches: the finished record of each, or why it was given up, by name."""
    board, ended = Board(engine, display), dict[str, Record | str]()

    def go_on(search: Search) -> None:
        record = search.record
        if following := next_trials(record["trials"], search.rates):
            board.add(work(search, *following[0]))
            return
        if record["chosen"] is None and not any(t["status"] == "ok" for t in record["trials"] if t["rung"] > 0):
            ended[search.name] = f"{search.about}: every rate that was tried longest diverged"
            return
        if record["chosen"] is None:
            record["chosen"], record["edge"] = verdict(record["trials"])
            home.store.write_search(record)
        ended[search.name] = record

    def work(search: Search, rung: int, lr: float) -> Work:
        spec = for_as_long(search.spec, _longer(search.budget, rung), lr)
        number = len(search.record["trials"]) + 1
        title = f"{search.about}: trial {number} of {trials_of(search.rates)}, lr {lr:g}"
        steps = [0]

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                steps[0] = event["step"]

        def task(device: Device, alone: bool) -> Task:
            surroundings = circumstances(device, alone, spec.deterministic)[1]
            shared = {"share": 1.0 if alone else 1.0 / device.beside, "environment": tuple(surroundings.items())}
            here = replace(spec, device_name=device.kind or spec.device_name)
            return home.task(spec.run_id, reference(child_trial), (here, search.source), timeout=timeout, **shared)

        name = f"{search.name} {number}"
        coming[name] = (search, rung, lr, steps)
        turn = searches.index(search)  # where there is one device, one search after the other
        return Work(name, title, title, spec.recipe.batch_size, task, turn=turn, hear=hear)

    def settle(work: Work, device: Device, answer: Answer, bar: Events) -> None:
        search, rung, lr, steps = coming.pop(work.name)
        trial = as_trial(answer, steps[0] * work.batch_size, bar)
        if trial["status"] not in ("ok", "diverged"):  # which says nothing of the rate
            why = f"{trial['status']}: {trial['message']}; the same command tries it again"
            ended[search.name] = f"{work.title}: {why}"
            return
        search.record["trials"].append({"lr": lr, "rung": rung, **trial})
        home.store.write_search(search.record)
        go_on(search)

    coming = dict[str, tuple[Search, int, float, list[int]]]()
    for search in searches:
        go_on(search)
    board.run(settle)
    return ended


def _longer(budget: Budget, rung: int) -> Budget:
    return Budget(budget.kind, budget.amount * (2 if rung else 1))


def as_trial(answer: Answer, samples: int, bar: Events) -> Trial:
    """What a trial found, or how it failed; `samples`: what it had seen till then, which is counted."""
    found, outcome = answer.event("trial"), answer.outcome
    if outcome.status == "ok" and found is not None:
        row = {k: v for k, v in found.items() if k not in ("event", "n")}
        bar.line(f"validation {100 * row['val_accuracy']:.1f} % after {row['samples']:,} samples")
        return {**row, "status": "ok", "message": ""}
    status = outcome.status if outcome.status != "ok" else "failed"
    bar.line(f"{status}: {outcome.message}")
    nothing = {"samples": samples, "train_seconds": 0.0, "val_accuracy": None, "val_loss": None}
    return {**nothing, "status": status, "message": outcome.message}


def trials_of(rates: tuple[float, ...]) -> int:
    """How many trials every model gets."""
    return len(rates) + max(2, len(rates) // 2) + 1
