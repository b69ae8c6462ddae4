"""What child processes do in the tests of executors. Example: Task("a", "tests.far_work:says", ("hello",))"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bench.core.errors import Interrupted
from bench.core.events import Described, Placed, Report, StepDone
from bench.plan.spec import RunOptions, RunSpec
from bench.store.disk import Store
from tests import synthetic


def says(report: Report, words: str) -> None:
    """Two events, and the variables of its process that executors set."""
    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    report(Described({"words": words, **variables}))
    report(StepDone(1))


def raises(report: Report) -> None:
    raise ValueError("a bug in the run")


def dies(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def works_until_stopped(report: Report, saved: Path) -> None:
    """Reports its pid, then steps, until the parent asks it to stop; then it writes its pid into `saved`."""
    report(Described({"pid": os.getpid()}))
    try:
        while True:
            time.sleep(0.01)
            report(StepDone(1))
    except Interrupted:
        saved.write_text(str(os.getpid()))
        raise


def stores(report: Report, root: Path) -> None:
    """A run's folder, as a store has it, and what stays where it is."""
    folder = root / "runs" / "a-1"
    (folder / "checkpoints").mkdir(parents=True)
    for name, content in (("record.json", "{}"), ("history.csv", "epoch"), ("checkpoints/last.pt", "weights")):
        (folder / name).write_text(content)
    report(Described({"root": str(root)}))


def short_run(report: Report, spec: RunSpec, source: object, root: Path, options: RunOptions) -> None:
    """In place of bench.measure.run:child_run: trains nothing, notes its start, and from seed 4 on waits for `go`."""
    store = Store(root)
    report(Placed(spec.run_id, spec.device_name))
    with store.claim(spec.run_id):
        if store.is_done(spec):
            return
        with (root / "starts").open("a") as starts:
            starts.write(f"{spec.run_id}\n")
        while spec.seed >= 4 and not (root / "go").exists():
            time.sleep(0.01)
            report(StepDone(1))
        store.write_spec(spec)
        store.write_record(synthetic.record(spec, 0.5))
