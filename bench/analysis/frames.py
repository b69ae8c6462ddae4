"""Runs and epochs as pandas frames. Example: frame([store]).groupby("model").accuracy.mean()

A module of its own: `table` and `compare` do without pandas, which takes half a second to import.
"""

from __future__ import annotations

import msgspec
import pandas as pd

from bench.analysis.tables import load
from bench.store.disk import Store
from bench.store.records import finished
from bench.store.views import NOT_SHARED, RESULT_COLUMNS, results


def frame(stores: list[Store]) -> pd.DataFrame:
    """Every run as a row with the columns of results.csv; from the records, as pandas would read a model NA as nan."""
    loaded = load(stores)
    return pd.DataFrame(results(loaded.runs, loaded.sessions), columns=list(RESULT_COLUMNS))


def history_frame(stores: list[Store]) -> pd.DataFrame:
    """One row per validation: run_id, model, dataset, seed and the columns of a run's history.csv."""
    rows = []
    for run in finished(load(stores).runs):
        names = {"run_id": run.run_id, "model": run.spec.model, "dataset": run.spec.data.name, "seed": run.spec.seed}
        hidden = NOT_SHARED if run.shared_device else ()
        for epoch in run.history:
            figures = msgspec.structs.asdict(epoch)
            rows.append({**names, **{k: None if k in hidden else v for k, v in figures.items()}})
    return pd.DataFrame(rows)
