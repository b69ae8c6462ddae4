"""Records on disk. Example: Store(Path("results/local")).runs()

    runs/<run_id>/spec.json record.json history.csv predictions.npz    one folder per run; checkpoints/ until it is done
    speed/<id>.json                                                    one file per speed session
    tuning/<id>.json                                                   one file per search for a model's best setting
    search/<id>.json                                                   one file per search for a learning rate
    results.csv speed.csv history.csv timings.csv environment.csv      views, rebuilt from the records
    locks/                                                             which process works on what

A record is written to a temporary name, flushed and renamed: that is the moment a run counts as done. Many processes
may use one store: each works on a run under the run's lock, which is released when its owner dies.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.core.errors import Busy, UserError
from bench.core.files import TEMPORARY, holder, lock, remove_leftovers, sha256, to_json, write_atomically
from bench.plan.spec import RunSpec, to_dict
from bench.store.records import (
    Damaged,
    FailedRun,
    FinishedRun,
    LRSearch,
    RunRecord,
    Session,
    SettingSearch,
    decode,
    encode,
)
from bench.store.views import views_of

RUN_FILES = ("history.csv", "predictions.npz")  # beside the record, which holds their checksums
VIEWS = ("results.csv", "speed.csv", "history.csv", "timings.csv", "environment.csv")
VIEWS_WAIT_SECONDS = 60.0
# Files that another machine may send: none outside the store, no checkpoints, no views.
ADOPTED = re.compile(
    r"runs/\w[\w.-]*/(spec\.json|record\.json|history\.csv|predictions\.npz)|speed/\w[\w.-]*\.json", re.ASCII
)
POLL_SECONDS = 2.0  # between two checks whether another process has finished
RELEASE_SECONDS = 5.0  # for the kernel to release the locks of a process that was killed
S = TypeVar("S", Session, SettingSearch, LRSearch)


def now() -> str:
    """The time in UTC, for a record's `started`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Store:
    """A directory of records. Reading never writes; several processes may read while one writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        """Raise UserError where the store cannot be written; called before any work starts."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe."):
                pass
        except OSError as error:
            raise UserError(
                f"the store '{self.root}' cannot be written ({error.strerror}); choose another with --results DIR"
            ) from None

    def run_dir(self, spec: RunSpec) -> Path:
        """The folder of a run."""
        return self.root / "runs" / spec.run_id

    # --- locks ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, run_id: str, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold a run's exclusive lock. Raises Busy where another process still has it after wait_seconds."""
        with lock(self._lock(run_id), wait_seconds):
            remove_leftovers(self.root / "runs" / run_id)
            yield

    def owner(self, run_id: str) -> str | None:
        """The process that is working on a run now, or None."""
        return holder(self._lock(run_id))

    @contextlib.contextmanager
    def claim_timing(self) -> Iterator[None]:
        """Hold this store's exclusive lock for timing. Raises Busy."""
        with lock(self.root / "locks" / "timing.lock"):
            for folder in ("speed", "tuning"):
                remove_leftovers(self.root / folder)
            yield

    def timing_owner(self) -> str | None:
        """The process that is timing now, or None."""
        return holder(self.root / "locks" / "timing.lock")

    def wait_for_timing(self) -> None:
        """Wait until no process is timing in this store: two at once would spoil both."""
        while self.timing_owner():
            time.sleep(POLL_SECONDS)

    def _lock(self, run_id: str) -> Path:
        return self.root / "locks" / f"{run_id}.lock"

    # --- write ---------------------------------------------------------------------------------------------------

    def write_spec(self, spec: RunSpec) -> None:
        """Written first, so that the folder of an interrupted run says which run it is."""
        write_atomically(self.run_dir(spec) / "spec.json", to_json(to_dict(spec)))

    def write_record(self, record: RunRecord) -> None:
        """Written last, under the run's lock: the run is done. Adds the checksums of the files beside it."""
        folder = self.run_dir(record.spec)
        if isinstance(record, FinishedRun):
            files = {name: sha256((folder / name).read_bytes()) for name in RUN_FILES if (folder / name).is_file()}
            record = msgspec.structs.replace(record, files=files)
        write_atomically(folder / "record.json", encode(record))

    def write_failure(self, record: FailedRun) -> None:
        """Record a failed run, unless the run has finished or another process is working on it."""
        with contextlib.suppress(Busy), self.claim(record.spec.run_id, RELEASE_SECONDS):
            if not self.is_done(record.spec):
                self.write_record(record)

    def forget_failure(self, spec: RunSpec) -> None:
        """Remove the record of a failed run: another device has done the same work since."""
        with contextlib.suppress(Busy), self.claim(spec.run_id, RELEASE_SECONDS):
            if self.record(spec) is not None and not self.is_done(spec):
                (self.run_dir(spec) / "record.json").unlink(missing_ok=True)

    def adopt(self, files: Iterable[tuple[str, bytes]], again: bool = False) -> None:
        """Store files of runs and sessions, by name, from a machine that does not see this disk.

        A run that is done already stays as it is, unless `again`. Raises ValueError for a name that no worker sends,
        and Busy.
        """
        runs: dict[str, dict[str, bytes]] = {}
        for name, content in files:
            if not ADOPTED.fullmatch(name):
                raise ValueError(f"a worker sent '{name}', which is not a file of a store")
            folder, _, rest = name.partition("/")
            if folder == "runs":
                run_id, _, file = rest.partition("/")
                runs.setdefault(run_id, {})[file] = content
            else:
                write_atomically(self.root / name, content)
        for run_id, contents in runs.items():
            with self.claim(run_id, RELEASE_SECONDS):
                if isinstance(self._run(run_id), FinishedRun) and not again:
                    continue
                # the record last: it says that the run is done
                for file in sorted(contents, key=lambda file: file == "record.json"):
                    write_atomically(self.root / "runs" / run_id / file, contents[file])

    @contextlib.contextmanager
    def marked(self) -> Iterator[str]:
        """The name of a file that exists in the store meanwhile: a machine that finds it sees the same disk.

        The name is new each time, so that a copy of this store on another machine does not look like this one.
        """
        name = f"locks/driver-{uuid.uuid4().hex}"
        write_atomically(self.root / name, b"")
        try:
            yield name
        finally:
            (self.root / name).unlink(missing_ok=True)

    def write_session(self, session: Session) -> None:
        """A finished speed session."""
        write_atomically(self.root / "speed" / f"{session.id}.json", encode(session))

    def write_setting_search(self, search: SettingSearch) -> None:
        """A finished search for a model's best setting; it replaces an earlier one with its id."""
        write_atomically(self.root / "tuning" / f"{search.id}.json", encode(search))

    def write_lr_search(self, search: LRSearch) -> None:
        """A search for a learning rate as far as it is; it replaces an earlier one with its id."""
        write_atomically(self.root / "search" / f"{search.id}.json", encode(search))

    # --- read ----------------------------------------------------------------------------------------------------

    # One record: None where it is missing or damaged. All records: in the order in which they were started; damaged
    # ones are left out and named in `damaged`, so that tables can say so.

    def record(self, spec: RunSpec) -> RunRecord | None:
        """The record of a run."""
        return self._run(spec.run_id)

    def is_done(self, spec: RunSpec) -> bool:
        """Whether the run finished. One that failed, or whose record is damaged, is retried."""
        return isinstance(self.record(spec), FinishedRun)

    def setting_search(self, name: str) -> SettingSearch | None:
        """A search for a model's best setting, by its id."""
        with contextlib.suppress(Damaged):
            return _read(self.root / "tuning" / f"{name}.json", name, SettingSearch)
        return None

    def lr_search(self, name: str) -> LRSearch | None:
        """A search for a learning rate, by its id, finished or not."""
        with contextlib.suppress(Damaged):
            return _read(self.root / "search" / f"{name}.json", name, LRSearch)
        return None

    def runs(self, damaged: list[str] | None = None) -> list[RunRecord]:
        """Every finished or failed run's record."""
        paths = {path.parent.name: path for path in self.root.glob("runs/*/record.json")}
        records: list[RunRecord] = []
        for name, path in sorted(paths.items()):
            with _naming(path, damaged):
                records += [record] if (record := _read_run(path, name)) is not None else []
        return sorted(records, key=lambda r: (r.started, r.run_id))

    def sessions(self, damaged: list[str] | None = None) -> list[Session]:
        """Every speed session."""
        return self._every("speed", Session, damaged)

    def setting_searches(self, damaged: list[str] | None = None) -> list[SettingSearch]:
        """Every search for a model's best setting."""
        return self._every("tuning", SettingSearch, damaged)

    def lr_searches(self, damaged: list[str] | None = None) -> list[LRSearch]:
        """Every search for a learning rate."""
        return self._every("search", LRSearch, damaged)

    def _every(self, folder: str, kind: type[S], damaged: list[str] | None) -> list[S]:
        records: list[S] = []
        for path in sorted(self.root.glob(f"{folder}/*.json")):
            with _naming(path, damaged):
                records += [record] if (record := _read(path, path.stem, kind)) is not None else []
        return sorted(records, key=lambda r: (r.started, r.id))

    def _run(self, run_id: str) -> RunRecord | None:
        with contextlib.suppress(Damaged):
            return _read_run(self.root / "runs" / run_id / "record.json", run_id)
        return None

    # --- views ---------------------------------------------------------------------------------------------------

    def rebuild_views(self) -> list[Path]:
        """Write the CSV files anew from the records; returns their paths.

        Under an exclusive lock, so that an older view never replaces a newer one.
        """
        paths = [self.root / name for name in VIEWS]
        try:
            with lock(self.root / "locks" / "views.lock", VIEWS_WAIT_SECONDS):
                for leftover in self.root.glob(f"{TEMPORARY}*"):  # half a view, from a process that was killed
                    leftover.unlink(missing_ok=True)
                for path, content in zip(paths, views_of(self.runs(), self.sessions()).values(), strict=True):
                    write_atomically(path, content)
        except Busy:  # for a minute: the other process writes them from the same records
            pass
        return paths


def _read_run(path: Path, name: str) -> RunRecord | None:
    content = _content(path)
    return None if content is None else decode(content, name)


def _read(path: Path, name: str, kind: type[S]) -> S | None:
    content = _content(path)
    return None if content is None else decode(content, name, kind)


def _content(path: Path) -> bytes | None:
    """A file's bytes, or None where there is no file. Raises UserError for one that cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _naming(path: Path, damaged: list[str] | None) -> Iterator[None]:
    """Turn Damaged into a line in `damaged`."""
    try:
        yield
    except Damaged as error:
        if damaged is not None:
            damaged.append(f"{path}: {error}")
