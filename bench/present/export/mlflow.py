"""Runs in MLflow's tracking store. Example: write(runs, "sqlite:///mlflow.db")

A run of the same name and start is there already; one that an interrupted export left unfinished is written again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.present.export.runs import ExportedRun

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "sevit-bench"
FILE = "sqlite:///"  # in front of a path
MOST_METRICS = 1000  # of one request, MLflow's own limit; of parameters it takes 100, and a run has forty


def write(runs: Iterable[ExportedRun], uri: str) -> tuple[int, int]:
    """Write runs into the tracking store or server at `uri`: how many were written, how many were there already.

    Raises ImportError without mlflow, and UserError where the store or server cannot be used.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # an export is nobody else's business
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's seven take minutes
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    if uri.startswith(FILE):
        import sqlalchemy  # noqa: F401  # mlflow-skinny comes without it, and would not name it

        Path(uri.removeprefix(FILE)).parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new file is no news
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        new = [_add(client, experiment, run) for run in runs]
    except MlflowException as error:
        why = next(iter(str(error).splitlines()), "no reason given")
        remedy = "check MLFLOW_TRACKING_URI, or name another folder with --out"
        raise UserError(f"MLflow cannot use '{uri}': {why}; {remedy}") from None
    return sum(new), len(new) - sum(new)


def _add(client: MlflowClient, experiment: str, run: ExportedRun) -> bool:
    """Write a run unless it is there already: whether it was written."""
    from mlflow.entities import Metric, Param

    started, ended = int(1000 * run.started), int(1000 * run.ended)
    earlier = client.search_runs([experiment], f"attributes.run_name = '{run.run_id}'")
    same = [old for old in earlier if old.info.start_time == started]  # others of this name may be somebody else's
    if any(old.info.status == "FINISHED" for old in same):
        return False
    for old in same:
        client.delete_run(old.info.run_id)
    new = client.create_run(experiment, start_time=started, run_name=run.run_id).info.run_id
    curves = [
        Metric(name, point.value, int(1000 * point.time), point.step)
        for name, points in run.curves.items()
        for point in points
    ]
    metrics = curves + [Metric(name, value, ended, run.last) for name, value in run.figures.items()]
    client.log_batch(new, params=[Param(key, str(value)) for key, value in run.parameters.items()])
    for first in range(0, len(metrics), MOST_METRICS):
        client.log_batch(new, metrics=metrics[first : first + MOST_METRICS])
    client.set_terminated(new, "FINISHED", end_time=ended)
    return True
