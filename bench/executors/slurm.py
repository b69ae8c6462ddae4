"""SLURM as an executor, through submitit: one job per task. Example: SlurmExecutor("slurm", {"gres": "gpu:1"}, …)

SLURM queues and places the tasks; those started together are one job array. Answers come through files on a disk that
the nodes and the driver share. A driver that dies leaves its jobs in the queue, and a ledger of them: the next driver
joins those still alive. submitit's stand-ins run the same jobs on this machine ("local") or in this process ("debug").
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.core.errors import UserError
from bench.core.files import inert, write_atomically
from bench.core.text import plural
from bench.executors import slurm_queue
from bench.executors.child import Outcome
from bench.executors.processes import changed, no_interrupt
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Message, Task, variables
from bench.executors.slurm_job import Files, Job, look_here, read_answer, read_events, read_look
from bench.executors.worker import Look
from bench.machine.environment import ROOT
from bench.machine.identity import Identity
from bench.plan.spec import content_id

FLAVOURS = ("slurm", "local", "debug")
SEATS = 1_000_000  # of a queue: everything may wait in it
ARRAY_MOST = 1000  # tasks in an array: SLURM's own MaxArraySize is 1001
YEAR_MINUTES = 365 * 24 * 60  # submitit's local stand-in would end a job after two


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks at the folder, between two questions which jobs live, and from the first report of a
    death to its certainty: the answer may be on its way through a slow disk."""

    look: float
    ask: float
    settle: float


PACE = {"slurm": Pace(1.0, 15.0, 10.0), "local": Pace(0.1, 0.5, 0.4), "debug": Pace(0.0, 0.0, 0.0)}
POLL_SECONDS = 0.05
NUMBER, TOKEN = re.compile(r"[0-9]+(_[0-9]+)?"), re.compile(r"[0-9a-f]{32}")  # they become names of files
NOT_AN_END = ("interrupted", "busy", LOST, UNFIT, REFUSED)  # in an answer that nobody took: the task is begun again


@dataclass
class _Running:
    """A ticket's job. `dead_since`: when SLURM first said so, though there is no answer."""

    task: Task
    job: Any
    files: Files
    offset: int = 0  # in the file of its events
    dead_since: float | None = None


@dataclass
class _Entry:
    """The ledger's line for a task: its job, its files, and what must be equal for it to be the same work."""

    job: str
    token: str
    what: str
    birth: str = ""  # of a local job's process, whose number may be another's later


@dataclass
class SlurmExecutor:
    """Jobs of one sweep. Raises UserError if submitit or SLURM is missing.

    flavour: slurm, or submitit's stand-ins local and debug. options: from slurm_queue.parse_options. folder: for
    submitit's files. asked: as --device. seats: runs at once on a device, for `local`. retries: how often a job may be
    requeued after a signal in the last fifth, or in the last ten minutes, of its time limit (submitit's
    max_num_timeout; preemption before that does not count; `local` starts a job six times at most).
    """

    flavour: str
    options: dict[str, str]
    folder: Path
    asked: str | None
    seats: int
    expected: Identity
    retries: int
    say: Callable[[str], None]
    remote: bool = field(default=True, init=False)
    looking: bool = field(default=False, init=False)  # `devices` waits itself

    def __post_init__(self) -> None:
        assert self.flavour in FLAVOURS
        self._submitit = _submitit()
        if self.flavour == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "there is no SLURM on this machine (no sbatch); --executor slurm:local runs the same jobs here, "
                "--executor local runs without jobs"
            )
        self.folder = self.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._devices: list[Device] | None = None
        self._running: dict[int, _Running] = {}
        self._messages: list[Message] = []
        self._taken: list[tuple[_Running, bool]] = []  # answered; and whether it ended well
        self._excluded: list[str] = []  # nodes that do not run what the driver runs
        self._stopping = False
        self._pace = PACE[self.flavour]
        self._next_look = self._next_ask = 0.0
        self._ledger = self._read_ledger()

    # --- devices ---------------------------------------------------------------------------------------------------

    def devices(self) -> list[Device]:
        """The queue as one device, or this machine's devices. The first call submits a job that looks, and waits."""
        if self._devices is None:
            first, *others = self._look_by_job()
            if self.flavour == "slurm":
                self._devices = [replace(first, name="SLURM", seats=SEATS, environment=(), queued=True)]
            else:
                seats = self.seats if self.flavour == "local" else 1
                self._devices = [replace(device, seats=seats) for device in (first, *others)]
        return self._devices

    def _look_by_job(self) -> tuple[Device, ...]:
        name = "SLURM" if self.flavour == "slurm" else f"SLURM, {self.flavour},"
        files = self._files()
        call = partial(look_here, files, self._variables(), self.expected, self.asked, "SLURM", name)
        (job,) = self._submit([call], alone=False)
        running = _Running(Task("look", "", ()), job, files)
        if self.flavour == "slurm":
            self.say(f"job {job.job_id}, in SLURM's queue, looks at what a node has")
        try:
            result = self._wait_for_look(running)
        except BaseException:
            self._cancel(job)
            raise
        if result.wrong:
            raise UserError(f"{result.wrong} (--slurm chooses the nodes)")
        self._remove_files(running, well=True)
        return result.devices

    def _wait_for_look(self, running: _Running) -> Look:
        """The looking job's result. Raises UserError if it ended without one."""
        if self.flavour == "debug":
            running.job.result()
        while True:
            if running.files.answer.name in self._names():
                return read_look(running.files.answer)
            if time.monotonic() >= self._next_ask and (end := self._ends({-1: running})):
                raise UserError(f"no node could be looked at: {end[-1].message} (its log: {running.job.paths.stderr})")
            time.sleep(self._pace.look)

    # --- start -----------------------------------------------------------------------------------------------------

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """One array for all of them, in their order; a separate job for each that needs a whole machine."""
        self._forget_taken()
        left = self._join(tasks)
        together = [ticketed for ticketed in left if not ticketed[1].whole_host]
        groups = [together[i : i + ARRAY_MOST] for i in range(0, len(together), ARRAY_MOST)]
        for group in groups + [[ticketed] for ticketed in left if ticketed[1].whole_host]:
            calls = [self._job(task, device) for _, task, device in group]
            jobs = self._submit(calls, alone=group[0][1].whole_host)
            for (ticket, task, _), call, job in zip(group, calls, jobs, strict=True):
                self._running[ticket] = _Running(task, job, call.files)
                birth = slurm_queue.birth_of(int(job.job_id)) if self.flavour == "local" else ""
                self._ledger[task.name] = _Entry(job.job_id, call.files.token, self._what(task), birth)
            self._write_ledger()
            if self.flavour == "slurm":
                number = jobs[0].job_id.split("_")[0]
                self.say(f"job {number} is in SLURM's queue ({plural(len(jobs), 'task')})")

    def _job(self, task: Task, device: Device) -> Job:
        files = self._files()
        files.events.touch()
        # the driver's own marker is gone once the driver is, while jobs may wait in the queue for longer
        task = replace(task, marker=str(files.events))
        return Job(task, variables(task, device), files, self._variables(), patient=self.flavour == "slurm")

    def _files(self) -> Files:
        return Files(self.folder, uuid.uuid4().hex)

    def _variables(self) -> Mapping[str, str | None]:
        """Of a job's process: submitit's local stand-in hides all GPUs from it."""
        return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if self.flavour == "local" else {}

    def _submit(self, calls: Sequence[Callable[[], Any]], alone: bool) -> list[Any]:
        """Jobs, as one array where they are several. Raises UserError."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            # a job survives Ctrl-C, which this process handles, and finds this checkout
            with no_interrupt(), changed({"PYTHONPATH": path}):
                jobs: list[Any] = self._executor(alone).submit_array(calls)
        except (RuntimeError, OSError, ValueError) as error:
            last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise UserError(f"SLURM rejects the job: {inert(last)} (--slurm)") from error
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
        """Take over tasks whose jobs still live, or have left an answer; return the others."""
        known = {}
        for ticket, task, _ in tasks:
            entry = self._ledger.get(task.name)
            if entry is not None and entry.what == self._what(task):
                known[ticket] = _Running(task, self._known_job(entry.job), Files(self.folder, entry.token))
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
            self.say(f"joined the jobs that an earlier command submitted for {plural(len(joined), 'task')}")
        return [ticketed for ticketed in tasks if ticketed[0] not in joined]

    def _known_job(self, job_id: str) -> Any:
        kind = self._submitit.SlurmJob if self.flavour == "slurm" else self._submitit.LocalJob
        return kind(self.folder, job_id)

    def _what(self, task: Task) -> str:
        """What must be equal for a job to be a task's own."""
        return content_id([self.flavour, task.function, repr(task.expected), str(task.root)])

    def _read_ledger(self) -> dict[str, _Entry]:
        if self.flavour == "debug":
            return {}
        try:
            rows = msgspec.json.decode((self.folder / "jobs.json").read_bytes(), type=dict[str, _Entry])
        except (OSError, ValueError):
            return {}
        return {name: row for name, row in rows.items() if NUMBER.fullmatch(row.job) and TOKEN.fullmatch(row.token)}

    def _write_ledger(self) -> None:
        if self.flavour != "debug":
            write_atomically(self.folder / "jobs.json", msgspec.json.encode(self._ledger))

    # --- messages --------------------------------------------------------------------------------------------------

    def events(self, seconds: float) -> list[Message]:
        """The messages; `debug` carries out one task meanwhile, however long that takes."""
        self._forget_taken()
        deadline = time.monotonic() + seconds
        while True:
            if self.flavour == "debug":
                self._run_next()
            elif time.monotonic() >= self._next_look:
                self._look()
            messages, self._messages = self._messages, []
            if messages or time.monotonic() >= deadline:
                return messages
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _look(self) -> None:
        """Look at the folder, and now and then at which jobs still live."""
        names = self._names()
        for ticket, running in list(self._running.items()):
            answer = self._answered(running, names)
            if running.files.events.name in names:
                self._take_events(ticket, running)
            if answer is not None:
                self._answer(ticket, answer)
        if self._running and time.monotonic() >= self._next_ask:
            for ticket, outcome in self._ends(self._running).items():
                self._answer(ticket, Answer(outcome))
            if self._stopping:
                self._terminate()
        self._next_look = time.monotonic() + self._pace.look

    def _take_events(self, ticket: int, running: _Running) -> None:
        events, running.offset = read_events(running.files.events, running.offset)
        self._messages += [(ticket, event) for event in events]

    def _answer(self, ticket: int, answer: Answer) -> None:
        """A ticket's end. A node that is unfit gets no more tasks, and this one goes to another."""
        running = self._running.pop(ticket)
        if answer.outcome.status == UNFIT and self.flavour == "slurm":
            if answer.where not in self._excluded:
                self._excluded.append(answer.where)
            answer = replace(answer, outcome=Outcome(LOST, answer.outcome.message))
        self._messages.append((ticket, answer))
        self._taken.append((running, answer.outcome.status == "ok"))

    def _names(self) -> frozenset[str]:
        """The folder's files: a network disk refreshes a list, but not what it knows of a file that was missing."""
        with os.scandir(self.folder) as entries:
            return frozenset(entry.name for entry in entries)

    def _answered(self, running: _Running, names: frozenset[str]) -> Answer | None:
        """A job's answer, if there is one."""
        if running.files.answer.name not in names:
            return None
        try:
            return read_answer(running.files.answer)
        except (OSError, ValueError):
            return None  # its job will be found dead

    def _ends(self, running: dict[int, _Running]) -> dict[int, Outcome]:
        """Those that died without an answer, once SLURM has said so for a while: an answer may be on its way."""
        ends, now = {}, time.monotonic()
        states = self._states([one.job for one in running.values()])
        for ticket, one in running.items():
            state = "RUNNING" if states is None else states[one.job.job_id]
            if state in slurm_queue.ALIVE:
                one.dead_since = None
            elif one.dead_since is None:
                one.dead_since = now
            elif now - one.dead_since >= self._pace.settle:
                stopped = Outcome("interrupted", "stopped by the user")
                end = slurm_queue.end_of(one.job.job_id, state, one.job.paths.stderr)
                ends[ticket] = stopped if self._stopping else end
        self._next_ask = now + self._pace.ask
        return ends

    def _states(self, jobs: Sequence[Any]) -> dict[str, str] | None:
        if self.flavour == "slurm":
            return slurm_queue.states([job.job_id for job in jobs])
        return {job.job_id: self._local_state(job) for job in jobs}

    def _local_state(self, job: Any) -> str:
        state: str = job.state
        if state.startswith("NO PROCESS"):  # of this driver's
            birth = next((entry.birth for entry in self._ledger.values() if entry.job == job.job_id), "")
            return "RUNNING" if slurm_queue.alive_here(int(job.job_id), birth) else ""
        return state

    def _run_next(self) -> None:
        """Carry out the first task in this process."""
        if not self._running:
            return
        ticket, running = next(iter(self._running.items()))
        answer = Answer(Outcome("interrupted", "stopped by the user"))
        try:
            if not self._stopping:
                running.job.result()
                answer = read_answer(running.files.answer)
        finally:
            self._take_events(ticket, running)
            self._answer(ticket, answer)

    # --- the end ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """SLURM's jobs stay in its queue, and are answered at once; jobs on this machine save and end."""
        self._stopping = True
        if self.flavour == "slurm":
            for ticket, running in self._running.items():
                job = running.job.job_id
                why = f"its job {job} stays in SLURM's queue; the same command joins it again, scancel {job} ends it"
                self._messages.append((ticket, Answer(Outcome("interrupted", why))))
            self._running.clear()
        elif self.flavour == "local":
            self._terminate()

    def close(self) -> None:
        """Remove the files of answered jobs, except the logs of failures; end what still runs here."""
        self._forget_taken()
        if self.flavour == "local":
            self._terminate()

    def _terminate(self) -> None:
        """Ask local jobs to save and end; repeated, since one may not have been listening yet."""
        for running in self._running.values():
            if self._local_state(running.job) == "RUNNING":
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it may end first
                    os.kill(int(running.job.job_id), signal.SIGTERM)

    def _cancel(self, job: Any) -> None:
        if self.flavour == "slurm":
            job.cancel(check=False)
        elif self.flavour == "local" and self._local_state(job) == "RUNNING":
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it may end first
                os.kill(int(job.job_id), signal.SIGTERM)

    def _forget_taken(self) -> None:
        if not self._taken:
            return
        for running, _ in self._taken:
            entry = self._ledger.get(running.task.name)
            if entry is not None and entry.token == running.files.token:
                del self._ledger[running.task.name]
        self._write_ledger()
        for running, well in self._taken:
            self._remove_files(running, well)
        self._taken.clear()

    def _remove_files(self, running: _Running, well: bool) -> None:
        """What a job wrote, and submitit's pickles; the logs too if it ended well."""
        paths = running.job.paths
        files = [running.files.answer, running.files.events, paths.result_pickle, paths.submitted_pickle]
        for path in [*files, *([paths.stdout, paths.stderr] if well else [])]:
            with contextlib.suppress(OSError):
                path.unlink()


def _submitit() -> Any:
    """The package, its log kept off the terminal. Raises UserError if it is missing."""
    try:
        import submitit
        from submitit.core import logger
    except ImportError:
        raise UserError('--executor slurm needs submitit: pip install -e ".[slurm]"') from None
    logger.get_logger().setLevel("CRITICAL")
    return submitit
