"""Runs in child processes, one after the other or several at once. Example: failures = train_all(todo, plan, store, …)

Every run is a process of its own (executors/local.py); whoever has a run already, here or in another process, keeps it.
Several at once are for accuracy alone: what they measure of the device means nothing, and their records say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.data.datasets import Dataset, DataSource
from bench.executors.local import GRACE_SECONDS, Outcome, call
from bench.progress import Display
from bench.runner import child_run, failure_record, save_traceback
from bench.schema import Record
from bench.spec import ALONE, Company, RunSpec
from bench.store import LOOK_SECONDS, Store, now, shared_device

BUSY = "being run by"
# Between two rebuilds of the CSV files: at least so long, and at least so many times the last one's duration.
REFRESH_SECONDS, REFRESH_PAUSE = 60.0, 100.0


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first training step."""

    specs: list[RunSpec]
    source: DataSource
    dataset: Dataset


@dataclass(frozen=True)
class Manner:
    """How a sweep's runs are to be run: seconds for each, whether what is done is repeated, how many at once.

    `target`: the validation accuracy whose time is asked for.
    """

    timeout: float | None = None
    again: bool = False
    at_once: int = 1
    target: float | None = None


class Views:
    """Keeps the CSV files fresh during a sweep at a cost that grows with its length, not with its square.

    A rebuild takes longer the more runs there are; the pause after it is a hundred times as long.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._next = now() + REFRESH_SECONDS

    def rebuild(self) -> None:
        """Now."""
        start = self._now()
        self._store.rebuild_views()
        end = self._now()
        self._next = end + max(REFRESH_SECONDS, REFRESH_PAUSE * (end - start))

    def rebuild_if_due(self) -> None:
        """Where the pause is over."""
        if self._now() >= self._next:
            self.rebuild()


def train_all(todo: list[RunSpec], plan: Plan, store: Store, display: Display, views: Views, manner: Manner) -> int:
    """Every run of `todo` once, here or in another process that has it already; returns how many did not end well."""
    before = {spec.run_id: store.record(spec) for spec in todo}
    failures, waiting = 0, list(todo)
    told: set[str] = set()

    def one(spec: RunSpec, company: Company, stop: threading.Event | None) -> str:
        return execute(spec, before[spec.run_id], plan, store, display, manner, company, stop)

    with sharing(manner.at_once, plan.specs[0]) as company:
        while waiting:
            elsewhere = []
            ended = each(waiting, manner.at_once, lambda spec, stop: one(spec, company, stop), views.rebuild_if_due)
            with contextlib.closing(ended):
                for spec, status in ended:
                    if status.startswith(BUSY):
                        elsewhere.append(spec)
                        if spec.run_id not in told:
                            told.add(spec.run_id)
                            who = f"{spec.model}, seed {spec.seed}: {status}"
                            display.line(f"{who}; going on with the others, then waiting")
                    else:
                        failures += status != "ok"
                    views.rebuild_if_due()
            if len(elsewhere) == len(waiting):
                time.sleep(LOOK_SECONDS)
            waiting = elsewhere
    return failures


def execute(
    spec: RunSpec,
    before: Record | None,
    plan: Plan,
    store: Store,
    display: Display,
    manner: Manner,
    company: Company = ALONE,
    stop: threading.Event | None = None,
) -> str:
    """One run in a child process; a failure becomes a record. Returns its status, or who is at work on it.

    `before`: the record when the sweep began; another one is another process's, and is not repeated.
    """
    if owner := store.owner(spec.run_id):
        return f"{BUSY} {owner}"
    title = f"{spec.model}, seed {spec.seed} ({plan.specs.index(spec) + 1} of {len(plan.specs)})"
    prefix = "  " if company.runs == 1 else f"  {spec.model}, seed {spec.seed}: "
    record = store.record(spec)
    if record is not None and record != before and record["status"] not in ("killed", "interrupted"):
        with display.run(title, spec.recipe.batch_size, prefix, spec.run_id) as bar:
            bar.ended(record["status"] == "ok", f"{record['status']}: done meanwhile by another process")
        return str(record["status"])
    started = now()
    with display.run(title, spec.recipe.batch_size, prefix, spec.run_id) as bar:
        words = (spec, plan.source, store.root, manner.again, company, manner.target)
        try:
            outcome = call(child_run, words, bar.event, manner.timeout, stop=stop)
        except KeyboardInterrupt:
            store.write_failure(spec, failure_record(spec, "interrupted", "stopped by the user", started))
            raise
        if outcome.status == "busy":
            return f"{BUSY} {outcome.message}"
        record = store.record(spec)
        if outcome.status == "ok" and (
            record is None or record["status"] != "ok" or (manner.again and record == before)
        ):
            outcome = Outcome("failed", "its process ended early and left no record")  # a model that calls sys.exit
        if outcome.status == "ok":
            assert record is not None
            (store.run_dir(spec) / "traceback.txt").unlink(missing_ok=True)  # of an earlier attempt
            bar.ended(True, result_line(record))
            return "ok"
        where = ""
        if outcome.traceback:
            where = f" (traceback: {save_traceback(store.run_dir(spec), outcome.traceback)})"
        store.write_failure(spec, failure_record(spec, outcome.status, outcome.message, started))
        bar.ended(False, f"{outcome.status}: {outcome.message}{where}")
    return outcome.status


def result_line(record: Record) -> str:
    """What a finished run found, for the screen."""
    metrics = record["metrics"]
    found = f"test accuracy {100 * metrics['accuracy']:.2f} %"
    if shared_device(record):
        return found
    return f"{found}, {metrics['train_seconds']:.1f} s of training, first step {metrics['first_step_seconds']:.1f} s"


# --- several at once -----------------------------------------------------------------------------------------------


def each(
    specs: list[RunSpec],
    at_once: int,
    one: Callable[[RunSpec, threading.Event | None], str],
    meanwhile: Callable[[], None],
) -> Generator[tuple[RunSpec, str], None, None]:
    """(spec, status) of each as it ends; `meanwhile` is called now and then in between.

    An interruption of this thread stops all that run, hears them out and goes on; what one of them raises does too.
    """
    if at_once == 1:
        for spec in specs:
            yield spec, one(spec, None)
        return
    queue, ended, stop = deque(specs), deque[tuple[RunSpec, str]](), threading.Event()
    raised: list[BaseException] = []
    # Not Thread.join: interrupted by Ctrl-C, Python 3.11's takes a thread at work for one that has ended.
    left = [threading.Event() for _ in range(min(at_once, len(specs)))]

    def work(gone: threading.Event) -> None:
        # Ctrl-C reaches every process of the terminal; blocked here, it is in the children too, who are asked to stop
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while queue and not stop.is_set():
                try:
                    spec = queue.popleft()
                except IndexError:  # another took the last one
                    break
                ended.append((spec, one(spec, stop)))
        except BaseException as error:
            raised.append(error)
            stop.set()
        finally:
            gone.set()

    for gone in left:
        threading.Thread(target=work, args=(gone,), daemon=True).start()
    try:
        while not all(gone.is_set() for gone in left) or ended:
            while ended:
                yield ended.popleft()
            for gone in left:
                gone.wait(LOOK_SECONDS / 10)
            meanwhile()
    finally:
        stop.set()
        for gone in left:
            gone.wait(2 * GRACE_SECONDS)  # daemons: a second interruption leaves them, and their children, behind
    if raised:
        raise raised[0]


@contextlib.contextmanager
def sharing(at_once: int, spec: RunSpec) -> Iterator[Company]:
    """The circumstances for several runs on one device; child processes inherit them. Put back at the end.

    CPU: each gets its share of the threads, but under --deterministic, where sums must be taken in the same order as
    alone; threads that wait sleep instead of spinning, which halved the speed here (LOG.md, 2026-11-22). CUDA:
    NVIDIA's MPS where it is installed, so that kernels of several processes run side by side.
    """
    if at_once == 1:
        yield ALONE
        return
    threads = torch.get_num_threads()
    if spec.device == "cuda":
        with mps():
            yield Company(at_once)
        return
    mine = threads if spec.deterministic else max(1, threads // at_once)
    wanted = {"OMP_NUM_THREADS": str(mine), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield Company(at_once, threads)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def mps() -> Iterator[None]:
    """NVIDIA's Multi-Process Service while this lasts, where it is installed and not running yet; else nothing."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        names = {f"CUDA_MPS_{kind}_DIRECTORY": str(Path(folder) / kind.lower()) for kind in ("PIPE", "LOG")}
        for path in names.values():
            Path(path).mkdir()
        # The daemon would number the one GPU that is visible anew, and its clients would look for the old number.
        own = {k: v for k, v in {**os.environ, **names}.items() if k != "CUDA_VISIBLE_DEVICES"}
        started = subprocess.run([control, "-d"], env=own, capture_output=True).returncode == 0
        if started:
            os.environ.update(names)
        try:
            yield
        finally:
            if started:
                with contextlib.suppress(subprocess.TimeoutExpired, OSError):  # what was trained is safe already
                    subprocess.run([control], input=b"quit\n", env=own, capture_output=True, timeout=60)
                for name in names:
                    del os.environ[name]
