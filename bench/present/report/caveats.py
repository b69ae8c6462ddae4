"""What weakens a verdict, the most important first. Example: caveats([pair], comparisons)[0]"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bench.analysis import references
from bench.analysis.compare import Pair, Side
from bench.analysis.tables import Comparison
from bench.analysis.verdicts import ONE_SEED
from bench.present.report.wording import display_name, listed
from bench.store.records import FinishedRun

RISING = 0.02  # of accuracy in the last quarter: more than seeds differ by, so training was not near its end
UNDER_TRAINED = 0.5  # of the fewest samples behind a figure of references.csv: below it, it is another question


def caveats(tracks: Sequence[Pair], comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must keep in mind about one pair (in one track or both); never empty."""
    sides = [side for pair in tracks for side in (pair.a, pair.b)]
    runs = [run for side in sides for run in side.runs]
    lines = []
    if any(pair.like_these.of_runs for pair in tracks):
        lines.append("One seed says nothing about the next: with another seed the result may differ.")
    lines += _under_trained(tracks[0], sides)
    if content := tracks[0].conditions.content:
        lines.append(f"The images are {content}, so these figures cannot be compared with published ones.")
    if any(run.environment.get("dirty") for run in runs):
        lines.append("The code had uncommitted changes, so these runs cannot be reproduced exactly.")
    lines += _still_rising(sides)
    lines += _timing(runs, comparisons)
    if all(run.spec.device == "cpu" for run in runs):
        lines.append("Everything ran on a CPU: on a GPU speed ratios differ, and training is usually longer.")
    if edge := list(dict.fromkeys(side.model for side in sides if side.search_edge)):
        lines.append(
            f"The learning rate of {listed(edge)} lies at the edge of the range tried: a better one may lie beyond it."
        )
    if searched := [side for side in sides if side.search_trials]:
        lucky = [side for side in searched if side.search_doubt]
        lines += [f"The learning rate of {side.model} may be luck: {side.search_doubt}." for side in lucky]
        lines.append(f"Learning rates were searched with {ONE_SEED}.")
    for side in sides:
        lines += [f"Runs of {side.model} are left out: {'; '.join(side.left_out)}."] * bool(side.left_out)
    if len(tracks) == 1:
        lines.append("A single recipe may favour one model: under another one the result may differ.")
    lines.append("Another data set or longer training may reverse the result.")
    return list(dict.fromkeys(lines))


def _under_trained(pair: Pair, sides: Iterable[Side]) -> list[str]:
    """Runs that fall short of published figures, or stop long before any publication would."""
    dataset = str(pair.conditions.dataset)
    sides = list(sides)
    for side in sides:
        run = side.runs[0]
        held = references.held_against(
            side.model, dataset, run.metrics.samples_seen, float(side.right.mean()), run.spec.data.train_fraction
        )
        if any(one.verdict == "under-trained" for one in held):
            return [f"Below the published accuracy: {references.sentence(held)}"]
    base = _published_name(dataset)
    published = [row.samples_seen for row in references.load() if row.dataset == base and row.samples_seen]
    most = max(run.metrics.samples_seen for side in sides for run in side.runs)
    if not published or most >= UNDER_TRAINED * min(published):
        return []
    share = 100 * most / min(published)
    percent = f"{share:.1g}" if share < 10 else f"{share:.0f}"
    return [
        f"No run saw more than {most:,} samples: {percent} % of the {min(published) / 1e6:.3g} million behind the "
        f"shortest published training for {display_name(base)} (results/references.csv). This is the start of a "
        "training and does not show what either model can reach."
    ]


def _published_name(dataset: str) -> str:
    """The published data set that this one is, or by its name is a part of; else ""."""
    known = {row.dataset for row in references.load()}
    words = re.split(r"[^a-z0-9]+", dataset.lower())
    return next((name for name in sorted(known) if dataset == name or name in words), "")


def _still_rising(sides: Iterable[Side]) -> list[str]:
    """Models whose validation accuracy rose by more than RISING over the last quarter of their training."""
    rises: dict[str, float] = {}
    for side in sides:
        gains = []
        for run in side.runs:
            end = run.history[-1]
            before = [epoch for epoch in run.history if epoch.samples_seen <= 0.75 * end.samples_seen]
            if before:
                gains.append(end.val_accuracy - before[-1].val_accuracy)
        if gains and (rise := sum(gains) / len(gains)) > RISING:
            rises[side.model] = max(rise, rises.get(side.model, 0.0))
    if not rises:
        return []
    models = listed([f"{model} by {100 * rise:.1f} points" for model, rise in rises.items()])
    return [
        f"Validation accuracy was still rising over the last quarter of training ({models}): a longer budget may "
        "reverse the verdict."
    ]


def _timing(runs: Sequence[FinishedRun], comparisons: Sequence[Comparison]) -> list[str]:
    """What the speed sessions of these runs' comparisons warn of."""
    ids = {run.run_id for run in runs}
    lines = []
    for comparison in comparisons:
        session = comparison.session
        if session is None or not ids & {*comparison.run_ids}:
            continue
        if session.stopped == "limit":
            lines.append("Timing stopped at its time limit, before the speed ratio was as precise as planned.")
        lines += [f"Timing warning: {warning}." for warning in session.warnings]
    return lines
