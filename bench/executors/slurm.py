"""SLURM as an engine, through submitit: a job a task. Example: SlurmEngine("slurm", {"gres": "gpu:1"}, folder, …)

SLURM queues and places the tasks; those that are begun together are one job array. Answers come through files on the
disk that the nodes and the driver share. A driver that dies leaves its jobs in the queue, and a ledger of them: the
next one joins those that still live. submitit's stand-ins run the same jobs on this machine ("local"), or within this
very process ("debug").
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import from_json, inert, to_json, write_atomically
from bench.executors import slurm_queue
from bench.executors.child import Outcome, no_interrupt, surrounded
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Heard, Task, variables
from bench.executors.slurm_job import Files, Job, look_here, read_answer, read_events, read_look
from bench.executors.slurm_queue import parse_options
from bench.executors.worker import Look
from bench.machine.identity import ROOT, Identity
from bench.plan.spec import content_id

__all__ = ["FLAVOURS", "SlurmEngine", "parse_options"]

FLAVOURS = ("slurm", "local", "debug")
SEATS = 1_000_000  # of a queue: everything may wait in it
ARRAY_MOST = 1000  # tasks in an array: SLURM's own MaxArraySize is 1001
YEAR_MINUTES = 365 * 24 * 60  # submitit's local stand-in would end a job after two
# Between two looks at the folder, between two questions of who lives, from the first word of a death to its certainty
# (the answer may be on its way through a slow disk); in seconds.
PACE = {"slurm": (1.0, 15.0, 10.0), "local": (0.1, 0.5, 0.4), "debug": (0.0, 0.0, 0.0)}
POLL_SECONDS = 0.05
NUMBER, TOKEN = re.compile(r"[0-9]+(_[0-9]+)?"), re.compile(r"[0-9a-f]{32}")  # they become names of files
NOT_AN_END = ("interrupted", "busy", LOST, UNFIT, REFUSED)  # in an answer that nobody took: the task is begun again


@dataclass
class _Running:
    """A ticket's job. `dead`: since when SLURM says so, though there is no answer."""

    task: Task
    job: Any
    files: Files
    offset: int = 0  # in the file of its events
    dead: float | None = None


@dataclass
class _Told:
    """The ledger's line for a task: its job, its files, and what must be equal so that it is the same work."""

    job: str
    token: str
    what: str


@dataclass
class SlurmEngine:
    """Jobs of one sweep. Raises UserError where submitit or SLURM is missing.

    flavour: slurm, or submitit's stand-ins local and debug. options: as parse_options gives them. folder: for
    submitit's files. asked: as --device. seats: runs at once on a device, for `local`. retries: how often a job may be
    requeued after a signal in the last fifth, or in the last ten minutes, of its time limit (submitit's
    max_num_timeout; preemption before that is not counted; `local` starts a job six times at most).
    """

    flavour: str
    options: dict[str, str]
    folder: Path
    asked: str | None
    seats: int
    expected: Identity
    retries: int
    say: Callable[[str], None]
    far: bool = field(default=True, init=False)
    looking: bool = field(default=False, init=False)  # `devices` waits itself

    def __post_init__(self) -> None:
        assert self.flavour in FLAVOURS
        self._submitit = _submitit()
        if self.flavour == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "there is no SLURM on this machine (no sbatch); --executor slurm:local runs the same jobs here, "
                "--executor local does without them"
            )
        self.folder = self.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._devices: list[Device] | None = None
        self._running: dict[int, _Running] = {}
        self._heard: list[Heard] = []
        self._taken: list[tuple[_Running, bool]] = []  # answered; and whether well
        self._excluded: list[str] = []  # nodes that are not what the driver is
        self._stopping = False
        self._look_seconds, self._ask_seconds, self._settle_seconds = PACE[self.flavour]
        self._next_look = self._next_ask = 0.0
        self._ledger = self._read_ledger()

    # --- devices ---------------------------------------------------------------------------------------------------

    def devices(self) -> list[Device]:
        """The queue as one device, or this machine's. Looked at once, by a job; waits until that one has run."""
        if self._devices is None:
            found = self._looked()
            if self.flavour == "slurm":
                found = [replace(found[0], name="SLURM", seats=SEATS, environment=(), apart=True)]
            else:
                found = [replace(device, seats=self.seats if self.flavour == "local" else 1) for device in found]
            self._devices = found
        return self._devices

    def _looked(self) -> list[Device]:
        name = "SLURM" if self.flavour == "slurm" else f"SLURM, {self.flavour},"
        files = self._files()
        call = partial(look_here, files, self._variables(), self.expected, self.asked, "SLURM", name)
        (job,) = self._submit([call], alone=False)
        running = _Running(Task("look", "", ()), job, files)
        if self.flavour == "slurm":
            self.say(f"job {job.job_id} looks at what a node has; it waits in SLURM's queue")
        try:
            found = self._first_look(running)
        except BaseException:
            self._cancel(job)
            raise
        if found.wrong:
            raise UserError(f"{found.wrong} (--slurm says which nodes to ask for)")
        self._remove_files(running, well=True)
        return list(found.devices)

    def _first_look(self, running: _Running) -> Look:
        """What the looking job found. Raises UserError where it was ended before."""
        if self.flavour == "debug":
            running.job.result()
        while True:
            if running.files.answer.name in self._names():
                return read_look(running.files.answer)
            if time.monotonic() >= self._next_ask and (end := self._ends({-1: running})):
                raise UserError(f"no node could be looked at: {end[-1].message} (its log: {running.job.paths.stderr})")
            time.sleep(self._look_seconds)

    # --- begin -----------------------------------------------------------------------------------------------------

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """One array for all of them, in their order; a job of its own for each that wants a whole machine."""
        self._forget_taken()
        left = self._join(tasks)
        together = [words for words in left if not words[1].whole_host]
        groups = [together[i : i + ARRAY_MOST] for i in range(0, len(together), ARRAY_MOST)]
        for group in groups + [[words] for words in left if words[1].whole_host]:
            calls = [self._job(task, device) for _, task, device in group]
            jobs = self._submit(calls, alone=group[0][1].whole_host)
            for (ticket, task, _), call, job in zip(group, calls, jobs, strict=True):
                self._running[ticket] = _Running(task, job, call.files)
                self._ledger[task.name] = _Told(job.job_id, call.files.token, self._what(task))
            self._write_ledger()
            if self.flavour == "slurm":
                number = jobs[0].job_id.split("_")[0]
                self.say(f"job {number} is in SLURM's queue ({len(jobs)} task{'s' * (len(jobs) > 1)})")

    def _job(self, task: Task, device: Device) -> Job:
        words, files = tuple(variables(task, device).items()), self._files()
        files.events.touch()
        # the driver's own mark goes with the driver, while jobs may wait in the queue for longer
        task = replace(task, mark=str(files.events))
        return Job(task, words, files, self._variables(), patient=self.flavour == "slurm")

    def _files(self) -> Files:
        return Files(self.folder, uuid.uuid4().hex)

    def _variables(self) -> tuple[tuple[str, str | None], ...]:
        """Of a job's process: submitit's local stand-in hides all GPUs from it."""
        return (("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")),) if self.flavour == "local" else ()

    def _submit(self, calls: Sequence[Callable[[], Any]], alone: bool) -> list[Any]:
        """Jobs, as one array where they are several. Raises UserError."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            # a job outlives Ctrl-C, which is heard here, and finds this checkout
            with no_interrupt(), surrounded({"PYTHONPATH": path}):
                jobs: list[Any] = self._executor(alone).submit_array(calls)
        except (RuntimeError, OSError, ValueError) as error:
            last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise UserError(f"SLURM does not take a job: {inert(last)} (--slurm)") from error
        return jobs

    def _executor(self, alone: bool) -> Any:
        if self.flavour == "debug":
            return self._submitit.DebugExecutor(self.folder)
        if self.flavour == "local":
            executor = self._submitit.LocalExecutor(self.folder, max_num_timeout=self.retries)
            minutes = int(self.options.get("time", YEAR_MINUTES))
            executor.update_parameters(timeout_min=minutes, signal_delay_s=slurm_queue.SIGNAL_SECONDS)
        else:
            executor = self._submitit.SlurmExecutor(self.folder, max_num_timeout=self.retries)
            executor.update_parameters(**slurm_queue.parameters(self.options, alone, self._excluded))
        return executor

    # --- the jobs of a driver before this one ----------------------------------------------------------------------

    def _join(self, tasks: Sequence[tuple[int, Task, Device]]) -> list[tuple[int, Task, Device]]:
        """Take over those whose jobs still live, or have left an answer; the others are returned."""
        known = {}
        for ticket, task, _ in tasks:
            told = self._ledger.get(task.name)
            if told is not None and told.what == self._what(task):
                known[ticket] = _Running(task, self._known_job(told.job), Files(self.folder, told.token))
        names = self._names() if known else frozenset()
        states = self._states([running.job for running in known.values()]) if known else {}
        for ticket, running in known.items():
            answer = self._answered(running, names)
            alive = states is None or states[running.job.job_id] in slurm_queue.ALIVE
            if alive if answer is None else answer.outcome.status not in NOT_AN_END:
                self._running[ticket] = running
            else:
                self._remove_files(running, well=False)
        joined = [ticket for ticket in known if ticket in self._running]
        if joined:
            self.say(f"{len(joined)} of the tasks have jobs of an earlier command, which are joined")
        return [words for words in tasks if words[0] not in joined]

    def _known_job(self, job_id: str) -> Any:
        kind = self._submitit.SlurmJob if self.flavour == "slurm" else self._submitit.LocalJob
        return kind(self.folder, job_id)

    def _what(self, task: Task) -> str:
        """What a job must have in common with a task to be its own."""
        return content_id([self.flavour, task.function, repr(task.expected), str(task.root)])

    def _read_ledger(self) -> dict[str, _Told]:
        if self.flavour == "debug":
            return {}
        try:
            found = from_json((self.folder / "jobs.json").read_bytes())
            told = {name: _Told(**row) for name, row in found.items()}
            return {name: row for name, row in told.items() if NUMBER.fullmatch(row.job) and TOKEN.fullmatch(row.token)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write_ledger(self) -> None:
        if self.flavour != "debug":
            rows = {name: asdict(told) for name, told in self._ledger.items()}
            write_atomically(self.folder / "jobs.json", to_json(rows))

    # --- hear ------------------------------------------------------------------------------------------------------

    def events(self, seconds: float) -> list[Heard]:
        """What was heard; `debug` carries one task out meanwhile, however long that takes."""
        self._forget_taken()
        deadline = time.monotonic() + seconds
        while True:
            if self.flavour == "debug":
                self._run_next()
            elif time.monotonic() >= self._next_look:
                self._look()
            found, self._heard = self._heard, []
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _look(self) -> None:
        """At the folder, and now and then at who is still alive."""
        names = self._names()
        for ticket, running in list(self._running.items()):
            answer = self._answered(running, names)
            if running.files.events.name in names:
                self._hear_events(ticket, running)
            if answer is not None:
                self._answer(ticket, answer)
        if self._running and time.monotonic() >= self._next_ask:
            for ticket, outcome in self._ends(self._running).items():
                self._answer(ticket, Answer(outcome))
            if self._stopping:
                self._terminate()
        self._next_look = time.monotonic() + self._look_seconds

    def _hear_events(self, ticket: int, running: _Running) -> None:
        found, running.offset = read_events(running.files.events, running.offset)
        self._heard += [(ticket, event) for event in found]

    def _answer(self, ticket: int, answer: Answer) -> None:
        """A ticket's end. A node that is not what the driver is gets no more tasks: this one goes to another."""
        running = self._running.pop(ticket)
        if answer.outcome.status == UNFIT and self.flavour == "slurm":
            if answer.where not in self._excluded:
                self._excluded.append(answer.where)
            answer = replace(answer, outcome=Outcome(LOST, answer.outcome.message))
        self._heard.append((ticket, answer))
        self._taken.append((running, answer.outcome.status == "ok"))

    def _names(self) -> frozenset[str]:
        """The folder's files. A network disk is asked anew for a list, but not for a file that was not there before."""
        with os.scandir(self.folder) as entries:
            return frozenset(entry.name for entry in entries)

    def _answered(self, running: _Running, names: frozenset[str]) -> Answer | None:
        """What a job has left, if it has."""
        if running.files.answer.name not in names:
            return None
        try:
            return read_answer(running.files.answer)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # its job will be found dead

    def _ends(self, running: dict[int, _Running]) -> dict[int, Outcome]:
        """Those that died without an answer: said twice, since an answer may be on its way."""
        found, now = {}, time.monotonic()
        states = self._states([one.job for one in running.values()])
        for ticket, one in running.items():
            state = "RUNNING" if states is None else states[one.job.job_id]
            if state in slurm_queue.ALIVE:
                one.dead = None
            elif one.dead is None:
                one.dead = now
            elif now - one.dead >= self._settle_seconds:
                stopped = Outcome("interrupted", "stopped by the user")
                end = slurm_queue.end_of(one.job.job_id, state, one.job.paths.stderr)
                found[ticket] = stopped if self._stopping else end
        self._next_ask = now + self._ask_seconds
        return found

    def _states(self, jobs: Sequence[Any]) -> dict[str, str] | None:
        if self.flavour == "slurm":
            return slurm_queue.states([job.job_id for job in jobs])
        return {job.job_id: self._local_state(job) for job in jobs}

    def _local_state(self, job: Any) -> str:
        state: str = job.state
        if state.startswith("NO PROCESS"):  # of this driver's
            return "RUNNING" if slurm_queue.alive_here(int(job.job_id)) else ""
        return state

    def _run_next(self) -> None:
        """Carry out the first task of all, here and now."""
        if not self._running:
            return
        ticket, running = next(iter(self._running.items()))
        answer = Answer(Outcome("interrupted", "stopped by the user"))
        try:
            if not self._stopping:
                running.job.result()
                answer = read_answer(running.files.answer)
        finally:
            self._hear_events(ticket, running)
            self._answer(ticket, answer)

    # --- the end ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """SLURM's jobs stay in its queue, and are answered at once; those of this machine save and end."""
        self._stopping = True
        if self.flavour == "slurm":
            for ticket, running in self._running.items():
                job = running.job.job_id
                words = f"its job {job} stays in SLURM's queue; the same command joins it again, scancel {job} ends it"
                self._heard.append((ticket, Answer(Outcome("interrupted", words))))
            self._running.clear()
        elif self.flavour == "local":
            self._terminate()

    def close(self) -> None:
        """What was answered leaves no pickles behind, only the logs of failures; what still runs here is ended."""
        self._forget_taken()
        if self.flavour == "local":
            self._terminate()

    def _terminate(self) -> None:
        """Ask local jobs to save and end; again where one was not listening yet."""
        for running in self._running.values():
            if self._local_state(running.job) == "RUNNING":
                with _gone():
                    os.kill(int(running.job.job_id), signal.SIGTERM)

    def _cancel(self, job: Any) -> None:
        if self.flavour == "slurm":
            job.cancel(check=False)
        elif self.flavour == "local" and self._local_state(job) == "RUNNING":
            with _gone():
                os.kill(int(job.job_id), signal.SIGTERM)

    def _forget_taken(self) -> None:
        if not self._taken:
            return
        for running, _ in self._taken:
            told = self._ledger.get(running.task.name)
            if told is not None and told.token == running.files.token:
                del self._ledger[running.task.name]
        self._write_ledger()
        for running, well in self._taken:
            self._remove_files(running, well)
        self._taken.clear()

    def _remove_files(self, running: _Running, well: bool) -> None:
        """What a job wrote, and submitit's pickles; the logs too, where it went well."""
        paths = running.job.paths
        files = [running.files.answer, running.files.events, paths.result_pickle, paths.submitted_pickle]
        for path in [*files, *([paths.stdout, paths.stderr] if well else [])]:
            with contextlib.suppress(OSError):
                path.unlink()


def _submitit() -> Any:
    """The package, its voice lowered: a driver's terminal shows a sweep. Raises UserError where it is missing."""
    try:
        import submitit
        from submitit.core import logger
    except ImportError:
        raise UserError('--executor slurm needs submitit: pip install -e ".[slurm]"') from None
    logger.get_logger().setLevel("CRITICAL")
    return submitit


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """A process may end before it is signalled."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        yield
