"""What child processes do in the tests of engines. Example: Task("a", "tests.far_work:says", ("hello",))"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.errors import Interrupted
from bench.plan.spec import RunSpec
from bench.store.disk import Store
from tests import synthetic

Report = Callable[[dict[str, Any]], None]


def says(report: Report, words: str) -> None:
    """Two events, and the variables of its process that engines set."""
    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    report({"event": "began", "words": words, **variables})
    report({"event": "step", "step": 1})


def raises(report: Report) -> None:
    raise ValueError("a fault of the run")


def dies(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def works_until_stopped(report: Report, saved: Path) -> None:
    """Reports its pid, then steps, until the parent asks it to stop; then it writes its pid into `saved`."""
    report({"event": "began", "pid": os.getpid()})
    try:
        while True:
            time.sleep(0.01)
            report({"event": "step", "step": 1})
    except Interrupted:
        saved.write_text(str(os.getpid()))
        raise


def stores(report: Report, root: Path) -> None:
    """A run's folder, as a store has it, with what stays where it is, too."""
    folder = root / "runs" / "a-1"
    (folder / "checkpoints").mkdir(parents=True)
    for name, content in (("record.json", "{}"), ("history.csv", "epoch"), ("checkpoints/last.pt", "weights")):
        (folder / name).write_text(content)
    report({"event": "root", "root": str(root)})


def short_run(
    report: Report, spec: RunSpec, source: object, root: Path, again: bool, company: object, target: float | None
) -> None:
    """A run as runner.child_run, that trains nothing: notes that it began, and from seed 12 on waits to be let go."""
    store = Store(root)
    report({"event": "placed", "run_id": spec.run_id, "device_name": spec.device_name})
    with store.claim(spec.run_id):
        if store.is_done(spec):
            return
        with (root / "starts").open("a") as starts:
            starts.write(f"{spec.run_id}\n")
        while spec.seed >= 12 and not (root / "go").exists():
            time.sleep(0.01)
            report({"event": "step", "step": 1})
        store.write_spec(spec)
        store.write_record(spec, synthetic.record(spec, 0.5))
