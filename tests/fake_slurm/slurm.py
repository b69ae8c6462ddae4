"""A stand-in for SLURM: jobs run on this machine. Example: python tests/fake_slurm/slurm.py sbatch script.sh

Standard library only, and no import of the project: it starts a dozen times per test. `$FAKE_SLURM` is its memory: one
folder per job (or array element) in jobs/, with `state`, `step` (the process that srun became) and `runner`; a log of
calls; `hold`, a file that keeps jobs from starting; `refuse`, a text with which sbatch fails. A job with a file
`only_sacct` is unknown to squeue.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])


def write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def sbatch(script: str) -> None:
    if (HOME / "refuse").exists():
        sys.exit((HOME / "refuse").read_text())
    text = Path(script).read_text()
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    number = 100 + len(list((HOME / "scripts").iterdir()))
    copied = HOME / "scripts" / str(number)
    copied.write_text(text)
    for element in range(int(array[1]) + 1) if array else [None]:
        folder = HOME / "jobs" / (f"{number}_{element}" if array else str(number))
        folder.mkdir()
        write(folder / "state", "PENDING")
        if not (HOME / "hold").exists():
            start(folder)
    print(f"Submitted batch job {number}")


def start(folder: Path) -> None:
    command = [sys.executable, "-I", "-S", __file__, "run", str(folder)]
    nowhere = subprocess.DEVNULL
    runner = subprocess.Popen(command, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    write(folder / "runner", str(runner.pid))


def release() -> None:
    """For tests: start what is pending."""
    (HOME / "hold").unlink()
    for folder in sorted((HOME / "jobs").iterdir()):
        if (folder / "state").read_text() == "PENDING":
            start(folder)


def run(name: str) -> None:
    """What slurmd does: the script, again after a requeue; after scancel the end, once a test has written `kill`."""
    folder = Path(name)
    number, _, element = folder.name.partition("_")
    about = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "FAKE_JOB": str(folder)}
    about["SLURMD_NODENAME"] = "node-7"
    if element:
        about |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": element}
    while True:
        write(folder / "state", "RUNNING")
        job = subprocess.Popen(["bash", str(HOME / "scripts" / number)], env={**os.environ, **about})
        while job.poll() is None:
            time.sleep(0.02)
            if (HOME / "kill").exists() and (folder / "state").read_text().startswith("CANCELLED"):
                os.kill(int((folder / "step").read_text()), signal.SIGKILL)
        if (folder / "requeue").exists():
            (folder / "requeue").unlink()
        else:
            break
    if (folder / "state").read_text() == "RUNNING":
        write(folder / "state", "FAILED" if job.returncode else "COMPLETED")


def srun(*words: str) -> None:
    """Become the command, its output where it was told to be."""
    left, files = list(words), {}
    while left[0].startswith("--"):
        option = left.pop(0)
        if option in ("--output", "--error"):
            files[option] = left.pop(0)
    number, _, element = Path(os.environ["FAKE_JOB"]).name.partition("_")
    for option, handle in (("--output", 1), ("--error", 2)):
        name = files[option].replace("%A", number).replace("%a", element).replace("%j", number).replace("%t", "0")
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), handle)
    write(Path(os.environ["FAKE_JOB"]) / "step", str(os.getpid()))
    os.execvp(left[0], left)


def scancel(job: str, *words: str) -> None:
    folder = HOME / "jobs" / job
    if not words:
        write(folder / "state", "CANCELLED by 1000")
    name = words[1].removeprefix("SIG") if words else "TERM"  # scancel takes both spellings
    if (folder / "step").exists():
        os.kill(int((folder / "step").read_text()), signal.Signals["SIG" + name])


def scontrol(what: str, job: str) -> None:
    assert what == "requeue"
    (HOME / "jobs" / job / "requeue").touch()


def states() -> list[tuple[str, str, bool]]:
    folders = sorted((HOME / "jobs").iterdir())
    return [(f.name, (f / "state").read_text(), (f / "only_sacct").exists()) for f in folders]


def squeue(*words: str) -> None:
    for job, state, only_sacct in states():
        if not only_sacct:
            print(f"{job}|{state.split()[0]}")


def sacct(*words: str) -> None:
    print("JobID|State|NodeList")
    for job, state, _ in states():
        print(f"{job}|{state}|node-7\n{job}.batch|{state}|node-7")


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command != "run":
        with (HOME / "calls").open("a") as log:
            log.write(" ".join([command, *words]) + "\n")
    globals()[command](*words)
