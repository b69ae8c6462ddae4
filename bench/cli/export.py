"""Runs for another program's dashboard. Example: python run_bench.py export --to tensorboard results/local"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.readers import open_stores
from bench.cli.requests import ExportRequest
from bench.core.errors import UserError
from bench.core.files import inert_line
from bench.core.text import plural
from bench.plan.request import DEFAULT_STORE

if TYPE_CHECKING:
    from bench.present.export.runs import ExportedRun

SHOW = "to see them: "


def export(request: ExportRequest) -> int:
    """Write the finished runs of stores where a dashboard finds them; returns the exit code."""
    stores = open_stores(request.stores)
    folder = request.out or DEFAULT_STORE.with_name(request.to)
    check_outside(folder, request.stores)
    from bench.analysis.tables import load
    from bench.present.export.runs import exported
    from bench.store.records import finished

    loaded = load(stores)
    runs, count = exported(loaded), len(finished(loaded.runs))
    try:
        lines = to_tensorboard(runs, folder) if request.to == "tensorboard" else to_mlflow(runs, folder, request.out)
    except ModuleNotFoundError as error:
        raise UserError(f'--to {request.to} needs its package ({error}): pip install -e ".[{request.to}]"') from None
    if failed := len(loaded.runs) - count:
        lines.append(f"left out: {plural(failed, 'failed run')}; `table` says why")
    if loaded.damaged:
        lines.append(f"left out: {plural(len(loaded.damaged), 'damaged record')}; `check` says why")
    print("".join(f"{inert_line(line)}\n" for line in lines), end="")
    return 0


def check_outside(folder: Path, stores: Sequence[Path]) -> None:
    """Raise UserError for a file in the folder's place, and for a folder in a store, which an export only reads."""
    if folder.is_file():
        raise UserError(f"'{folder}' is a file; --out of export names a folder")
    for store in stores:
        if folder.resolve().is_relative_to(store.resolve()):
            raise UserError(f"'{folder}' is in the store '{store}', which export only reads; choose another with --out")


def to_tensorboard(runs: Iterable[ExportedRun], folder: Path) -> list[str]:
    """Write event files; lines that say so."""
    from bench.present.export import tensorboard

    count = tensorboard.write(runs, folder)
    return [f"wrote {plural(count, 'run')} to {folder}", f"{SHOW}tensorboard --logdir {shlex.quote(str(folder))}"]


def to_mlflow(runs: Iterable[ExportedRun], folder: Path, out: Path | None) -> list[str]:
    """Write to the server of MLFLOW_TRACKING_URI, or without it or with --out to a file; lines that say so."""
    from bench.present.export import mlflow

    server = "" if out else os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = server or f"{mlflow.FILE}{folder / 'mlflow.db'}"
    written, there = mlflow.write(runs, uri)
    before = f" ({there} {'was' if there == 1 else 'were'} there already)" if there else ""
    wrote = f"wrote {plural(written, 'run')} to {uri}{before}"
    return [wrote] if server else [wrote, f"{SHOW}mlflow ui --backend-store-uri {shlex.quote(uri)}"]
