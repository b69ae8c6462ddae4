"""Records on disk. Example: Store(Path("results/local")).runs()

    runs/<run_id>/spec.json record.json history.csv predictions.npz    one folder per run; checkpoints/ until it is done
                  weights.safetensors                                  on request
    speed/<id>.json                                                    one file per speed session
    tuning/<id>.json                                                   one file per search for a model's best setting
    search/<id>.json                                                   one file per search for a learning rate
    sweeps/<id>.toml                                                   one file per sweep, as run --config takes it
    results.csv speed.csv history.csv timings.csv environment.csv      views, rebuilt from the records
    locks/                                                             which process works on what

A record is written to a temporary name, flushed and renamed: that is the moment a run counts as done. Many processes
may use one store: each works on a run under the run's lock, which is released when its owner dies.

A store may come from a stranger: `Store.read` and `Store.write` are the only doors to its files, and neither goes
through a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.core.errors import Busy, UserError
from bench.core.files import (
    MOST_BYTES,
    holder,
    link_within,
    lock,
    read_file,
    remove_leftovers,
    sha256,
    to_json,
    write_together,
)
from bench.plan.spec import RunSpec, content_id, to_dict
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
WEIGHTS = "weights.safetensors"  # one more, of a run with --keep-weights
MOST_WEIGHTS_BYTES = 1 << 36  # of weights that are read
VIEWS = ("results.csv", "speed.csv", "history.csv", "timings.csv", "environment.csv")
FOLDERS = ("runs", "speed", "tuning", "search", "sweeps", "locks", "plots", "slurm")
VIEWS_WAIT_SECONDS = 60.0
# Files that another machine may send: none outside the store, no checkpoints, no views.
ADOPTED = re.compile(
    r"runs/\w[\w.-]*/(spec\.json|record\.json|history\.csv|predictions\.npz|weights\.safetensors)|"
    r"speed/\w[\w.-]*\.json",
    re.ASCII,
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

    def check_writable(self, keep: bool = True) -> None:
        """Raise UserError where the store cannot be written, or has links; called before any work starts.

        Unless `keep`, for a dry run, the folders that this takes are removed again.
        """
        missing = [path for path in (self.root, *self.root.parents) if not os.path.lexists(path)]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe."):
                pass
        except OSError as error:
            raise UserError(
                f"the store '{self.root}' cannot be written ({error.strerror}); choose another with --results DIR"
            ) from None
        finally:
            for path in () if keep else missing:
                with contextlib.suppress(OSError):
                    path.rmdir()
        for folder in (*FOLDERS, *(f"runs/{path.name}" for path in self.root.glob("runs/*"))):
            self.place(folder)

    def run_dir(self, spec: RunSpec) -> Path:
        """The folder of a run."""
        return self.root / "runs" / spec.run_id

    # --- doors ---------------------------------------------------------------------------------------------------

    def place(self, name: str) -> Path:
        """A folder or file of the store, to write to. Raises UserError where a link is on the way to it."""
        path = self.root / name
        if link := link_within(path, self.root):
            raise UserError(
                f"'{link}' is a link, and nothing in a store is written or removed through links; put what it leads to "
                "in its place"
            )
        return path

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """The content of a file of the store.

        Raises OSError as opening does, and ValueError where there is a link on the way, no regular file, or more than
        `most` bytes.
        """
        path = self.root / name
        if (link := link_within(path.parent, self.root)) is not None:
            raise ValueError(f"its folder '{link.name}' is a link, and nothing in a store is read through links")
        return read_file(path, most)

    def read_beside(self, run_id: str, name: str) -> bytes:
        """The content of a file beside a run's record. Raises as `read` does."""
        return self.read(f"runs/{run_id}/{name}", MOST_WEIGHTS_BYTES if name == WEIGHTS else MOST_BYTES)

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files of one folder as one (bench.core.files.write_together). Raises UserError and OSError."""
        paths = {name: self.place(str(Path(name).parent)) / Path(name).name for name in contents}
        try:
            write_together({paths[name]: content for name, content in contents.items()})
        except IsADirectoryError as error:
            raise UserError(
                f"'{error.filename2 or error.filename}' is a folder in the place of a file; remove it"
            ) from None

    # --- locks ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, run_id: str, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold a run's exclusive lock. Raises Busy where another process still has it after wait_seconds."""
        with lock(self._lock(run_id), wait_seconds):
            for folder in (f"runs/{run_id}", f"runs/{run_id}/checkpoints"):
                remove_leftovers(self.place(folder))
            yield

    def owner(self, run_id: str) -> str | None:
        """The process that is working on a run now, or None."""
        return holder(self._lock(run_id))

    @contextlib.contextmanager
    def claim_timing(self) -> Iterator[None]:
        """Hold this store's exclusive lock for timing. Raises Busy."""
        with lock(self._lock("timing")):
            for folder in ("speed", "tuning"):
                remove_leftovers(self.place(folder))
            yield

    def timing_owner(self) -> str | None:
        """The process that is timing now, or None."""
        return holder(self._lock("timing"))

    def wait_for_timing(self) -> None:
        """Wait until no process is timing in this store: two at once would spoil both."""
        while self.timing_owner():
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def claim_views(self) -> Iterator[None]:
        """Hold the lock of what is derived from the records, from reading them to writing it.

        So an older view never replaces a newer one. Raises Busy after a minute.
        """
        with lock(self._lock("views"), VIEWS_WAIT_SECONDS):
            yield

    def _lock(self, name: str) -> Path:
        return self.place("locks") / f"{name}.lock"

    # --- write ---------------------------------------------------------------------------------------------------

    def write_spec(self, spec: RunSpec) -> None:
        """Written first, so that the folder of an interrupted run says which run it is."""
        self.write({f"runs/{spec.run_id}/spec.json": to_json(to_dict(spec))})

    def write_record(self, record: RunRecord, files: Mapping[str, bytes] | None = None) -> None:
        """Written last, under the run's lock: the run is done.

        `files`: those beside it by name, written with it as one; None: as they are there. Adds their checksums.
        """
        beside = self._beside(record.run_id) if files is None else files
        if isinstance(record, FinishedRun):
            record = msgspec.structs.replace(record, files={name: sha256(file) for name, file in beside.items()})
        folder, spec = f"runs/{record.run_id}", to_json(to_dict(record.spec))
        contents = {"spec.json": spec, **(files or {}), "record.json": encode(record)}
        with contextlib.suppress(OSError, ValueError):  # whoever removed the folder meanwhile removed the spec, too
            if self.read(f"{folder}/spec.json", most=len(spec)) == spec:
                del contents["spec.json"]
        self.write({f"{folder}/{name}": content for name, content in contents.items()})
        if files is not None:
            self._forget_weights(record.run_id, contents)

    def _beside(self, run_id: str) -> dict[str, bytes]:
        files = {}
        for name in (*RUN_FILES, WEIGHTS):
            with contextlib.suppress(OSError):
                files[name] = self.read_beside(run_id, name)
        return files

    def _forget_weights(self, run_id: str, contents: Mapping[str, bytes]) -> None:
        """Remove the weights of an earlier training of a run, where the new one has kept none."""
        if WEIGHTS not in contents:
            (self.place(f"runs/{run_id}") / WEIGHTS).unlink(missing_ok=True)

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
                self.write({name: content})
        for run_id, contents in runs.items():
            with self.claim(run_id, RELEASE_SECONDS):
                if isinstance(self._run(run_id), FinishedRun) and not again:
                    continue
                if "record.json" not in contents:  # without it nothing but the spec means anything
                    contents = {
                        name: content for name, content in contents.items() if name not in (*RUN_FILES, WEIGHTS)
                    }
                last = sorted(contents, key=lambda name: name == "record.json")  # it says that the run is done
                self.write({f"runs/{run_id}/{name}": contents[name] for name in last})
                if "record.json" in contents:
                    self._forget_weights(run_id, contents)

    @contextlib.contextmanager
    def marked(self) -> Iterator[str]:
        """The name of a file that exists in the store meanwhile: a machine that finds it sees the same disk.

        The name is new each time, so that a copy of this store on another machine does not look like this one.
        """
        name = f"locks/driver-{uuid.uuid4().hex}"
        self.write({name: b""})
        try:
            yield name
        finally:
            (self.root / name).unlink(missing_ok=True)

    def write_session(self, session: Session) -> None:
        """A finished speed session."""
        self.write({f"speed/{session.id}.json": encode(session)})

    def write_setting_search(self, search: SettingSearch) -> None:
        """A finished search for a model's best setting; it replaces an earlier one with its id."""
        self.write({f"tuning/{search.id}.json": encode(search)})

    def write_lr_search(self, search: LRSearch) -> None:
        """A search for a learning rate as far as it is; it replaces an earlier one with its id."""
        self.write({f"search/{search.id}.json": encode(search)})

    def keep_sweep(self, toml: str) -> None:
        """What was asked for; the same sweep again, or resumed, is the same file."""
        self.write({f"sweeps/{content_id(toml)}.toml": toml.encode()})

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
        return self._one("tuning", name, SettingSearch)

    def lr_search(self, name: str) -> LRSearch | None:
        """A search for a learning rate, by its id, finished or not."""
        return self._one("search", name, LRSearch)

    def runs(self, damaged: list[str] | None = None) -> list[RunRecord]:
        """Every finished or failed run's record."""
        records: list[RunRecord] = []
        for path in sorted(self.root.glob("runs/*/record.json")):
            with _naming(path, damaged):
                records += [record] if (record := self._read_run(path.parent.name)) is not None else []
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
                records += [record] if (record := self._read_one(folder, path.stem, kind)) is not None else []
        return sorted(records, key=lambda r: (r.started, r.id))

    def _run(self, run_id: str) -> RunRecord | None:
        with contextlib.suppress(Damaged):
            return self._read_run(run_id)
        return None

    def _one(self, folder: str, name: str, kind: type[S]) -> S | None:
        with contextlib.suppress(Damaged):
            return self._read_one(folder, name, kind)
        return None

    def _read_run(self, run_id: str) -> RunRecord | None:
        content = self.record_bytes(f"runs/{run_id}/record.json")
        return None if content is None else decode(content, run_id)

    def _read_one(self, folder: str, name: str, kind: type[S]) -> S | None:
        content = self.record_bytes(f"{folder}/{name}.json")
        return None if content is None else decode(content, name, kind)

    def record_bytes(self, name: str) -> bytes | None:
        """A record's file, or None where there is none.

        Raises Damaged for what is no file, and UserError for one that this user cannot read.
        """
        try:
            return self.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise Damaged(str(error)) from None
        except OSError as error:
            raise UserError(f"'{self.root / name}' cannot be read ({error.strerror})") from None

    # --- views ---------------------------------------------------------------------------------------------------

    def rebuild_views(self) -> list[Path]:
        """Write the CSV files anew from the records; returns their paths."""
        with contextlib.suppress(Busy), self.claim_views():  # the other process writes them from the same records
            remove_leftovers(self.root)  # half a view, from a process that was killed
            for name, content in views_of(self.runs(), self.sessions()).items():
                self.write({name: content})
        return [self.root / name for name in VIEWS]


@contextlib.contextmanager
def _naming(path: Path, damaged: list[str] | None) -> Iterator[None]:
    """Turn Damaged into a line in `damaged`."""
    try:
        yield
    except Damaged as error:
        if damaged is not None:
            damaged.append(f"{path}: {error}")
