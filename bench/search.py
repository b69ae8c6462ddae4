"""The learning rate of each model in a track, chosen on validation. Example: find(spec, budget, …)["chosen"]

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): every rate of the recipe's short list is tried for a
little, the better half again for twice as long. Then every model gets one trial more: where the best stands at the end
of the list, the next rate beyond it; else the one between the best and the runner-up. So all models get the same number
of trials. A trial trains to its own small budget and never sees the test set. What it took is kept, and counted.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from bench.budget import Budget, parse_budget
from bench.data.datasets import DataSource
from bench.errors import UserError
from bench.executors.local import call
from bench.progress import Display
from bench.recipes import LRS, length
from bench.runner import child_trial
from bench.schema import SCHEMA, Record
from bench.spec import RunSpec, content_id, slug, spec_id, to_dict
from bench.store import Store, now, search_samples

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


def known(spec: RunSpec, budget: Budget, store: Store) -> Record | None:
    """A finished search for this spec's learning rate, if there is one."""
    found = store.search(search_id(spec, budget))
    return found if found is not None and found["chosen"] is not None else None


def find(
    spec: RunSpec, budget: Budget, source: DataSource, store: Store, display: Display, timeout: float | None
) -> Record:
    """Search, or go on with a search; every trial is kept as soon as it is done.

    Raises KeyboardInterrupt, and UserError where a trial failed otherwise than by diverging, or all of them diverged.
    """
    name = search_id(spec, budget)
    if owner := store.owner(f"search-{name}"):
        display.line(f"{spec.model}, recipe {spec.recipe.name}: {owner} is at this search; waiting")
    with store.claim(f"search-{name}", wait_seconds=math.inf):
        started = store.search(name)
        search = started or {
            "schema": SCHEMA,
            "id": name,
            "started": now(),
            "budget": budget.text or f"{budget.amount:g}epochs",
            "spec": to_dict(for_as_long(spec, budget, spec.recipe.lr)),
            "trials": [],
            "chosen": None,
            "edge": False,
        }
        rates = LRS[spec.recipe.optimizer]
        while coming := next_trials(search["trials"], rates):
            rung, lr = coming[0]
            longer = Budget(budget.kind, budget.amount * (2 if rung else 1))
            number = len(search["trials"]) + 1
            title = f"{spec.model}, recipe {spec.recipe.name}: trial {number} of {trials_of(rates)}, lr {lr:g}"
            found = _try(for_as_long(spec, longer, lr), source, display, title, timeout)
            if found["status"] not in ("ok", "diverged"):  # which says nothing of the rate
                raise UserError(f"{title}: {found['status']}: {found['message']}; the same command tries it again")
            search["trials"].append({"lr": lr, "rung": rung, **found})
            store.write_search(search)
        if search["chosen"] is None:
            if not any(t["status"] == "ok" for t in search["trials"] if t["rung"] > 0):
                raise UserError(f"{spec.model}, recipe {spec.recipe.name}: every rate that was tried longest diverged")
            search["chosen"], search["edge"] = verdict(search["trials"])
            store.write_search(search)
    return search


def trials_of(rates: tuple[float, ...]) -> int:
    """How many trials every model gets."""
    return len(rates) + max(2, len(rates) // 2) + 1


def _try(spec: RunSpec, source: DataSource, display: Display, title: str, timeout: float | None) -> Trial:
    """One trial in a child process: what it found, or how it failed; what it had seen till then is counted."""
    found: list[dict[str, Any]] = []
    steps = [0]
    with display.run(title, spec.recipe.batch_size) as bar:

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                steps[0] = event["step"]
            found.append(event) if event["event"] == "trial" else bar.event(event)

        outcome = call(child_trial, (spec, source), hear, timeout)
        if outcome.status == "ok" and found:
            row = {k: v for k, v in found[0].items() if k != "event"}
            bar.line(f"validation {100 * row['val_accuracy']:.1f} % after {row['samples']:,} samples")
            return {**row, "status": "ok", "message": ""}
        status = outcome.status if outcome.status != "ok" else "failed"
        bar.line(f"{status}: {outcome.message}")
    cost = {"samples": steps[0] * spec.recipe.batch_size, "train_seconds": 0.0}
    return {**cost, "val_accuracy": None, "val_loss": None, "status": status, "message": outcome.message}
