"""Everything wrong with a store. Example: python run_bench.py check --results results/local

Changes nothing, except that --rebuild writes the views and verdicts.csv anew.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from bench.analysis.conditions import as_text
from bench.analysis.tables import Loaded, compare_loaded
from bench.analysis.verdicts_csv import VERDICTS, verdicts_csv, write_verdicts
from bench.core.text import plural
from bench.plan.keys import question
from bench.store.check import store_problems
from bench.store.disk import Store
from bench.store.records import RunRecord, Session, finished

ROUNDING = 1e-9
ADVICE = "what_would_change"  # a sentence, which a newer version may word differently


def check(store: Store, rebuild: bool) -> tuple[list[str], str]:
    """(problems, a closing line), after writing the views anew if asked to. Raises UserError where it cannot."""
    if rebuild:
        store.check_writable()
        store.rebuild_views()
        write_verdicts(store)
    every = list(problems(store))
    runs, sessions = store.runs(), store.sessions()
    done = len(finished(runs))
    counts = ((done, "finished run"), (len(runs) - done, "failed run"), (len(sessions), "speed session"))
    line = ", ".join(plural(*count) for count in (*counts, (len(every), "problem")))
    return every, f"{store.root}: {line}"


def problems(store: Store) -> Iterator[str]:
    """Everything wrong with a store, one sentence each. Raises UserError for a schema of the future."""
    yield from store_problems(store)
    yield from comparison_problems(store.runs(), store.sessions())
    yield from verdict_problems(store)


def comparison_problems(runs: list[RunRecord], sessions: list[Session]) -> Iterator[str]:
    """Comparisons whose runs were not all trained with the same recipe on the same data."""
    asked = {run.run_id: as_text(question(run.spec)) for run in runs}
    for comparison in compare_loaded(Loaded(runs, sessions, [])):
        if len({asked[run_id] for run_id in comparison.run_ids}) > 1:
            yield f"{comparison.title}: compares runs of different recipes or data"


def verdict_problems(store: Store) -> Iterator[str]:
    """Verdicts that differ from what the runs give. No file is no fault: it is written at the end of a sweep."""
    try:
        stored = store.read(VERDICTS)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        yield f"{VERDICTS} cannot be read ({error})"
        return
    content = verdicts_csv(store)
    if content is None:  # a rebuild leaves them: they may be all that is left of runs that were deleted
        yield f"{VERDICTS} is about runs that are not here"
    elif not same_figures(stored, content):
        yield f"{VERDICTS} differs from the records (check --rebuild writes it anew)"


def same_figures(one: bytes, other: bytes) -> bool:
    """Whether two verdicts.csv agree, up to rounding (another machine's exp and log) and the wording of advice."""
    if one == other:
        return True
    try:
        rows = [list(csv.DictReader(io.StringIO(content.decode()), strict=True)) for content in (one, other)]
        return all(_same_row(*pair) for pair in zip(*rows, strict=True))
    except (ValueError, csv.Error):  # no text, or not as many rows
        return False


def _same_row(one: dict[str, str], other: dict[str, str]) -> bool:
    return one.keys() == other.keys() and all(_same_cell(one[k], other[k]) for k in one if k != ADVICE)


def _same_cell(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=ROUNDING, abs_tol=ROUNDING)
    except (TypeError, ValueError):
        return False
