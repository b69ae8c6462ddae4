"""Options for SLURM's jobs, and their states. Example: parse_options("partition=gpu,gres=gpu:1,time=240")"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import inert
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.executors.protocol import LOST
from models.registry import suggest

DEFAULT_MINUTES = 240  # a job's time limit: short jobs start sooner, and a run that needs longer is requeued
SIGNAL_SECONDS = int(3 * GRACE_SECONDS) + 60  # before the limit: the child saves, and SLURM's clock ticks in minutes
LEAST_MINUTES = 5  # of which the last two or three are for saving
ASK_SECONDS = 60.0  # timeout of SLURM's commands

COUNT, MINUTES, MEMORY, TEXT = "a whole number", f"minutes, at least {LEAST_MINUTES}", "memory, like 16GB", "a word"
OPTIONS = {
    "partition": TEXT,
    "account": TEXT,
    "qos": TEXT,
    "constraint": TEXT,
    "gres": TEXT,
    "exclude": TEXT,
    "time": MINUTES,
    "mem": MEMORY,
    "cpus_per_task": COUNT,
    "array_parallelism": COUNT,
}
# States of a job that may still answer (man squeue, "JOB STATE CODES")
ALIVE = frozenset(
    ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING",
     "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "UPDATE_DB", "POWER_UP_NODE")
)  # fmt: skip


def parse_options(text: str) -> dict[str, str]:
    """--slurm KEY=VALUE,…; a comma without KEY= after it belongs to the value. Raises UserError.

    See `man sbatch` for what the values mean; `array_parallelism` is how many jobs run at once.
    """
    options: dict[str, str] = {}
    if not text.strip():
        return options
    for part in re.split(r",(?=[^,=]*=)", text):
        key, equals, value = (word.strip() for word in part.partition("="))
        key = key.replace("-", "_")
        if not equals or not value:
            raise UserError(f"--slurm takes KEY=VALUE,…, not '{inert(part)}' (KEY: {', '.join(OPTIONS)})")
        if key not in OPTIONS:
            raise UserError(f"unknown option '{inert(key)}' in --slurm{suggest(key, OPTIONS)} ({', '.join(OPTIONS)})")
        if key in options:
            raise UserError(f"--slurm has '{key}' twice")
        if not _fits(OPTIONS[key], value):
            raise UserError(f"{key} in --slurm must be {OPTIONS[key]}, not '{inert(value)}'")
        options[key] = value
    return options


def _fits(kind: str, value: str) -> bool:
    if kind == TEXT:
        return inert(value) == value  # a line break would end sbatch's option and start a command
    if kind == MEMORY:
        return re.fullmatch(r"[0-9]+([KMGT]B?)?", value, re.IGNORECASE) is not None
    return re.fullmatch(r"[0-9]{1,9}", value) is not None and int(value) >= (LEAST_MINUTES if kind == MINUTES else 1)


def parameters(options: dict[str, str], alone: bool, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor. `alone`: on a node with nothing else. `exclude`: more nodes to avoid."""
    typed = {key: int(value) if OPTIONS[key] in (COUNT, MINUTES) else value for key, value in options.items()}
    result: dict[str, Any] = {"time": DEFAULT_MINUTES, **typed, "job_name": "sevit-bench"}
    result["signal_delay_s"] = SIGNAL_SECONDS
    if nodes := ",".join([*([options["exclude"]] if "exclude" in options else []), *exclude]):
        result["exclude"] = nodes
    if alone:
        # SLURM would bind the one task to its cores, but a session needs all of them
        return {**result, "exclusive": True, "srun_args": ["--cpu-bind=none"]}
    if "cpus_per_task" in result:  # since SLURM 22.05 srun does not inherit this from sbatch
        result["srun_args"] = [f"--cpus-per-task={result['cpus_per_task']}"]
    return result


def states(ids: Sequence[str]) -> dict[str, str] | None:
    """The state of each job, "" for one unknown to SLURM; None if SLURM does not answer.

    From the controller, which knows the living; for the others from accounting, if a site has it.
    """
    queue = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T")
    known = dict(line.strip().split("|", 1) for line in (queue or "").splitlines() if "|" in line)
    rest = [job for job in ids if job not in known]
    accounts = None
    if rest:
        from submitit.slurm.slurm import SlurmJob

        parents = ",".join(sorted({job.split("_")[0] for job in rest}))
        accounts = _ask("sacct", "--allocations", "--parsable2", "--format=JobID,State,NodeList", f"--jobs={parents}")
        known |= {job: info["State"] for job, info in SlurmJob.watcher.read_info(accounts or "").items() if job in rest}
    if queue is None and accounts is None:
        return None
    return {job: known.get(job, "").split(" ")[0] for job in ids}  # "CANCELLED by 1000"


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def end_of(job: str, state: str, log: Path) -> Outcome:
    """How a task ended whose job is over without an answer. `log`: its process's stderr."""
    if state == "OUT_OF_MEMORY":
        return Outcome("oom", f"job {job} needed more memory than it requested; --slurm mem=… requests more")
    if state in ("TIMEOUT", "DEADLINE"):
        return Outcome("timeout", "its job's time limit is over")
    if state == "CANCELLED":
        return Outcome("interrupted", f"its job {job} was cancelled")
    last = _last_line(log) if state in ("FAILED", "COMPLETED", "FINISHED", "INTERRUPTED", "") else ""
    return Outcome(LOST, f"job {job}: {state or 'gone without an answer'}{': ' * bool(last)}{last}")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((inert(line)[:200] for line in reversed(lines) if line.strip()), "")


def birth_of(pid: int) -> str:
    """What no other process has, before or after it: the machine's boot and the clock tick at which it started.

    "" where no living process has this number, and where the system does not tell (proc(5), /proc/[pid]/stat).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        # counted from the third, as the second is a name that may hold anything: the state, and the 22nd
        return f"{boot} {fields[19]}" if fields[0] != "Z" else ""
    except (OSError, IndexError):
        return ""


def alive_here(pid: int, birth: str) -> bool:
    """Whether submitit's controller of a local job, started by an earlier driver, still runs.

    After a power cut its number may be another process's, which must be neither waited for nor ended.
    """
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return birth_of(pid) == birth
