"""bench/executors/slurm.py: with submitit's own stand-ins, and with its real executor on a stand-in for SLURM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.core.errors import UserError
from bench.core.events import Continued, Note, Numbered, encode
from bench.executors import slurm, slurm_queue
from bench.executors.child import Outcome, call
from bench.executors.protocol import LOST, Answer, Device, Message, Task
from bench.executors.slurm import SlurmExecutor, _Entry
from bench.executors.slurm_job import SAVE_SECONDS, event_log, read_events
from bench.executors.slurm_queue import parse_options
from bench.machine.identity import Identity, identity
from tests.conftest import ROOT

pytest.importorskip("submitit")

PATIENCE_SECONDS = 60.0
DEVICE = Device("SLURM", "SLURM", "cpu", "a CPU", False, 1, 100, (("SLURM_WORK", "seen"),), queued=True)
OTHER = Identity("0" * 40, "another", ())
COMMANDS = ("sbatch", "srun", "scancel", "scontrol", "squeue", "sacct")
FAKE = ROOT / "tests" / "fake_slurm" / "slurm.py"


@pytest.fixture(autouse=True)
def own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVIT_HOST_LOCK", str(tmp_path / "host.lock"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


Make = Callable[..., SlurmExecutor]


@pytest.fixture
def make(root: Path) -> Iterator[Make]:
    """An executor on the store's folder; all are closed at the end."""
    executors: list[SlurmExecutor] = []

    def create(flavour: str = "slurm", retries: int = 1, expected: Identity = OTHER, **options: str) -> SlurmExecutor:
        executor = SlurmExecutor(flavour, options, root / "slurm", "cpu", 2, expected, retries, lambda text: None)
        executors.append(executor)
        return executor

    yield create
    for executor in executors:
        executor.close()


def task(root: Path, name: str, function: str, *args: Any, **changes: Any) -> Task:
    return Task(name, f"tests.slurm_work:{function}", (root, *args), root=root, **changes)


def listen(executor: SlurmExecutor, *tickets: int) -> tuple[dict[int, Answer], list[Message]]:
    """All messages until these tickets are answered, each once."""
    answers: dict[int, Answer] = {}
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not answers.keys() >= set(tickets):
        assert time.monotonic() < deadline, f"no answer to {set(tickets) - answers.keys()}: {logs(executor)}"
        for ticket, message in executor.events(0.1):
            messages.append((ticket, message))
            if isinstance(message, Answer):
                assert ticket not in answers, "answered twice"
                answers[ticket] = message
    return answers, messages


def logs(executor: SlurmExecutor) -> str:
    return "\n".join(path.read_text() for path in sorted(executor.folder.glob("*log.*")))


def wait_for(path: Path) -> Path:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)
    return path


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_are_words_and_numbers_and_commas_may_belong_to_a_value() -> None:
    text = "partition=gpu,short,gres=gpu:a100:1,time=60,mem=16GB,cpus-per-task=8,exclude=n[1,3],array_parallelism=32"
    assert parse_options("") == {}
    assert parse_options(text) == {
        "partition": "gpu,short",
        "gres": "gpu:a100:1",
        "time": "60",
        "mem": "16GB",
        "cpus_per_task": "8",
        "exclude": "n[1,3]",
        "array_parallelism": "32",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (",", "KEY=VALUE"),
        ("gpu", "KEY=VALUE"),
        ("partition=", "KEY=VALUE"),
        ("partitoin=gpu", "did you mean 'partition'"),
        ("qos=a,qos=b", "twice"),
        ("time=1", "at least 5"),
        ("time=1:00:00", "minutes"),
        ("cpus_per_task=0", "whole number"),
        ("mem=much", "memory"),
        ("account=a\nrm -r x", "a word"),
    ],
)
def test_nonsense_in_options_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_options(text)


def test_options_as_submitit_takes_them() -> None:
    plain = slurm_queue.parameters({"time": "60", "cpus_per_task": "8", "exclude": "n1"}, False, ["n2"])
    assert (plain["time"], plain["cpus_per_task"], plain["exclude"]) == (60, 8, "n1,n2")
    assert plain["srun_args"] == ["--cpus-per-task=8"]
    assert plain["signal_delay_s"] > SAVE_SECONDS + 60  # SLURM may be a minute early or late
    alone = slurm_queue.parameters({}, True)
    assert alone["exclusive"] is True
    assert alone["time"] == slurm_queue.DEFAULT_MINUTES


def test_missing_parts_are_named(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="slurm:local"):
        make()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[slurm\]"'):
        make("local")


# --- on this machine -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_local_job_answers_as_a_child_process_does(make: Make, root: Path) -> None:
    executor = make("local")
    executor.start([(1, task(root, "a", "greet", "hello"), DEVICE), (2, task(root, "b", "fail"), DEVICE)])
    answers, messages = listen(executor, 1, 2)
    here = call("tests.slurm_work:fail", (root,), lambda event: None)
    assert answers[1].outcome.status == "ok"
    assert answers[1].events == (Note("hello"),)
    assert (1, Numbered(0, Note("hello"))) in messages
    assert (answers[2].outcome.status, answers[2].outcome.message) == (here.status, here.message)
    assert "broken on purpose" in answers[2].outcome.traceback
    assert executor.events(0) == []
    assert not list(executor.folder.glob("*.pkl"))  # what was taken is gone, but for the log of what failed
    assert len(list(executor.folder.glob("*log.err"))) == 1
    assert (executor.folder / "jobs.json").read_text().strip() == "{}"


def test_an_interrupted_local_job_is_requeued_and_goes_on_from_what_it_saved(make: Make, root: Path) -> None:
    executor = make("local")
    executor.start([(1, task(root, "a", "continues"), DEVICE)])
    os.kill(int(wait_for(root / "ready").read_text()), signal.SIGUSR2)
    answers, messages = listen(executor, 1)
    assert answers[1].outcome.status == "ok"
    assert answers[1].events == (Note("from the start"), Continued(7))
    numbered = [message for _, message in messages if isinstance(message, Numbered)]
    assert numbered == [Numbered(0, Note("from the start")), Numbered(1, Continued(7))]


def test_stopped_local_jobs_save_and_end(make: Make, root: Path) -> None:
    executor = make("local")
    executor.start([(1, task(root, "a", "continues"), DEVICE)])
    parent = int(wait_for(root / "ready").read_text())
    for process in (parent, int(slurm_job(executor).job_id)):
        os.kill(process, signal.SIGINT)  # Ctrl-C reaches every process of a terminal
    executor.stop()
    answers, _ = listen(executor, 1)
    assert answers[1].outcome.status == "interrupted"
    assert (root / "saved").read_text() == "7"


def test_the_next_driver_joins_a_local_job(make: Make, root: Path) -> None:
    tasks = [(1, task(root, "a", "waits", "a"), DEVICE)]
    first = make("local")
    first.start(tasks)
    parent = wait_for(root / "ready-a").read_text()
    first._running.clear()  # it is gone
    second = make("local")
    second.start([(5, *tasks[0][1:])])
    (root / "go").touch()
    answers, _ = listen(second, 5)
    assert answers[5].outcome.status == "ok"
    assert (root / "ready-a").read_text() == parent  # begun once


def test_a_process_that_has_a_jobs_old_number_is_not_its_job(make: Make, root: Path) -> None:
    """After a power cut: it is neither waited for nor ended, though submitit stands in its command line."""
    first, ticket = make("local"), (1, task(root, "a", "waits", "a"), DEVICE)
    with subprocess.Popen([sys.executable, "-c", "input()", "submitit"], stdin=subprocess.PIPE) as other:
        birth = slurm_queue.birth_of(other.pid)
        assert birth == slurm_queue.birth_of(other.pid) != slurm_queue.birth_of(os.getpid())
        boot, tick = birth.split()
        for wrong in (f"{boot} {int(tick) - 1}", f"another-boot {tick}", ""):
            entry = _Entry(str(other.pid), "0" * 32, first._what(ticket[1]), wrong)
            (first.folder / "jobs.json").write_bytes(msgspec.json.encode({"a": entry}))
            executor = make("local")
            assert executor._join([ticket]) == [ticket]
            executor.close()
            assert other.poll() is None
        (first.folder / "jobs.json").write_bytes(msgspec.json.encode({"a": replace(entry, birth=birth)}))
        assert make("local")._join([ticket]) == []
        other.kill()
        assert other.wait() == -signal.SIGKILL
    assert slurm_queue.birth_of(other.pid) == ""
    assert make("local")._join([ticket]) == [ticket]


def test_this_machine_is_a_device_with_its_seats(make: Make) -> None:
    (device,) = make("local", expected=identity()).devices()
    assert (device.type, device.seats, device.queued) == ("cpu", 2, False)


def test_debug_does_it_within_this_process(make: Make, root: Path) -> None:
    executor = make("debug")
    executor.start([(1, task(root, "a", "greet", "hello"), DEVICE), (2, task(root, "b", "greet", "no"), DEVICE)])
    (first, event), (_, answer) = executor.events(0.1)
    assert (first, event) == (1, Numbered(0, Note("hello")))
    assert isinstance(answer, Answer)
    assert answer.outcome.status == "ok"
    executor.stop()
    answers, _ = listen(executor, 2)
    assert answers[2].outcome.status == "interrupted"
    assert (root / "greeted").read_text() == "hello\n"


def test_an_interruption_of_debug_saves_first(make: Make, root: Path) -> None:
    executor = make("debug")
    executor.start([(1, task(root, "a", "continues"), DEVICE)])

    def interrupt() -> None:
        wait_for(root / "ready")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.events(0)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert (root / "saved").exists()
    executor.stop()
    assert listen(executor, 1)[0][1].outcome.status == "interrupted"


def test_a_ledger_from_elsewhere_names_no_other_files(make: Make, root: Path) -> None:
    first = make("local")
    (first.folder / "jobs.json").write_text('{"a": {"job": "../1", "token": "../x", "what": ""}, "b": 1}')
    assert make("local")._ledger == {}
    (first.folder / "jobs.json").write_text('{"a": {"job": "../1", "token": "../x", "what": ""}}')
    assert make("local")._ledger == {}


def test_a_half_written_line_of_events_costs_one_event(tmp_path: Path) -> None:
    path = tmp_path / "1.events"
    whole = encode(Numbered(0, Note("first"))) + b"\n"
    path.write_bytes(whole + b'{"event": "no')
    assert read_events(path) == ([Numbered(0, Note("first"))], len(whole))
    with event_log(path) as log:
        log(Numbered(0, Note("second")))
        answer = log.completed(Answer(Outcome("ok"), events=(Note("second"),)))
    assert answer.events == (Note("first"), Note("second"))
    assert read_events(path, len(whole))[0] == [Numbered(1, Note("second"))]


# --- submitit's executor, on a stand-in for SLURM --------------------------------------------------------------------


class Fake:
    """What a test sees and does of the stand-in's memory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def state(self, job: str, state: str, only_sacct: bool = False) -> None:
        (self.home / "jobs" / job / "state").write_text(state)
        if only_sacct:
            (self.home / "jobs" / job / "only_sacct").touch()

    def calls(self, command: str) -> int:
        return sum(line.startswith(command) for line in (self.home / "calls").read_text().splitlines())

    def script(self, number: int) -> str:
        return (self.home / "scripts" / str(number)).read_text()

    def release(self) -> None:
        """Start what is pending, and hold no more."""
        subprocess.run([sys.executable, "-I", "-S", FAKE, "release"], check=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    home, folder = tmp_path / "fake", tmp_path / "bin"
    for path in (home / "jobs", home / "scripts", folder):
        path.mkdir(parents=True)
    for command in COMMANDS:
        script = folder / command
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} {command} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setattr(slurm, "PACE", {**slurm.PACE, "slurm": slurm.Pace(0.05, 0.2, 0.1)})
    yield Fake(home)
    for runner in home.glob("jobs/*/runner"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(runner.read_text()), signal.SIGKILL)


def test_tasks_are_one_array_in_their_order_and_a_whole_machine_is_a_job_of_its_own(
    make: Make, root: Path, fake: Fake
) -> None:
    executor = make(partition="gpu", array_parallelism="1", cpus_per_task="2")
    tasks = [(i, task(root, f"t{i}", "greet", f"{i}"), DEVICE) for i in range(2)]
    executor.start([*tasks, (2, task(root, "session", "greet", "alone", whole_host=True), DEVICE)])
    answers, _ = listen(executor, 0, 1, 2)
    assert {answer.outcome.status for answer in answers.values()} == {"ok"}
    assert {answer.where for answer in answers.values()} == {"node-7"}
    assert [answers[i].events for i in range(3)] == [(Note("0"),), (Note("1"),), (Note("alone"),)]
    assert fake.calls("sbatch") == 2
    assert "--array=0-1%1" in fake.script(100)
    assert "--partition=gpu" in fake.script(100)
    assert "--cpus-per-task=2 " in fake.script(100)  # of srun
    assert "--exclusive" not in fake.script(100)
    assert "#SBATCH --exclusive\n" in fake.script(101)
    assert "--array" not in fake.script(101)


def test_jobs_that_die_without_an_answer_are_answered_by_their_state(make: Make, root: Path, fake: Fake) -> None:
    (fake.home / "hold").touch()
    executor = make()
    executor.start([(i, task(root, f"t{i}", "greet", f"{i}"), DEVICE) for i in range(7)])
    fake.state("100_0", "NODE_FAIL")
    fake.state("100_1", "TIMEOUT", only_sacct=True)
    fake.state("100_2", "OUT_OF_MEMORY")
    fake.state("100_3", "CANCELLED by 1000", only_sacct=True)
    fake.state("100_4", "PREEMPTED")
    (executor.folder / "100_5_0_log.err").write_text("some line\nsrun: error: no such file\n")
    fake.state("100_5", "FAILED")
    answers, _ = listen(executor, *range(6))
    assert [answers[i].outcome.status for i in range(6)] == [LOST, "timeout", "oom", "interrupted", LOST, LOST]
    assert answers[0].outcome.message == "job 100_0: NODE_FAIL"
    assert answers[5].outcome.message == "job 100_5: FAILED: srun: error: no such file"
    fake.release()  # the one that lived on
    assert listen(executor, 6)[0][6].outcome.status == "ok"


def test_the_next_driver_joins_jobs_and_takes_answers_and_begins_again_what_died(
    make: Make, root: Path, fake: Fake
) -> None:
    tasks = [(i, task(root, f"t{i}", "greet", f"{i}"), DEVICE) for i in range(3)]
    first = make()
    first.start(tasks[:1])
    wait_for(first._running[0].files.answer)  # and not taken
    (fake.home / "hold").touch()
    first.start(tasks[1:])
    fake.state("101_1", "NODE_FAIL")
    first.stop()
    stopped, _ = listen(first, 0, 1, 2)
    assert "scancel 101_0 ends it" in stopped[1].outcome.message
    second = make()
    second.start([(10 + ticket, one, DEVICE) for ticket, one, _ in tasks])
    assert fake.calls("sbatch") == 3  # the third: again, alone
    fake.release()
    answers, _ = listen(second, 10, 11, 12)
    assert {answer.outcome.status for answer in answers.values()} == {"ok"}
    assert sorted((root / "greeted").read_text().split()) == ["0", "1", "2"]


def test_other_work_of_the_same_name_is_not_joined(make: Make, root: Path, fake: Fake) -> None:
    (fake.home / "hold").touch()
    make().start([(1, task(root, "a", "greet", "x", expected=OTHER), DEVICE)])
    make().start([(1, task(root, "a", "greet", "x", expected=identity()), DEVICE)])
    assert fake.calls("sbatch") == 2


def test_a_preempted_job_is_requeued_by_slurm_and_goes_on(make: Make, root: Path, fake: Fake) -> None:
    executor = make(time="5")  # so short that any signal counts as the end of the time
    executor.start([(1, task(root, "a", "continues"), DEVICE)])
    wait_for(root / "ready")
    slurm_job(executor)._interrupt()
    answers, _ = listen(executor, 1)
    assert answers[1].outcome.status == "ok"
    assert answers[1].events == (Note("from the start"), Continued(7))
    assert fake.calls("scontrol requeue 100") == 1


def test_a_job_whose_time_is_over_too_often_says_so(make: Make, root: Path, fake: Fake) -> None:
    executor = make(time="5", retries=0)
    executor.start([(1, task(root, "a", "continues"), DEVICE)])
    wait_for(root / "ready")
    slurm_job(executor)._interrupt(timeout=True)
    answers, _ = listen(executor, 1)
    assert answers[1].outcome.status == "timeout"
    assert (root / "saved").exists()
    assert fake.calls("scontrol") == 0


def test_a_cancelled_job_saves(make: Make, root: Path, fake: Fake) -> None:
    executor = make()
    executor.start([(1, task(root, "a", "continues"), DEVICE)])
    wait_for(root / "ready")
    slurm_job(executor).cancel()
    wait_for(root / "saved")
    (fake.home / "kill").touch()
    answers, _ = listen(executor, 1)
    assert answers[1].outcome.status == "interrupted"


def slurm_job(executor: SlurmExecutor) -> Any:
    return executor._running[1].job


def test_a_node_with_other_code_gets_no_more_tasks(make: Make, root: Path, fake: Fake) -> None:
    executor = make()
    executor.start([(1, task(root, "a", "greet", "x", expected=OTHER), DEVICE)])
    answers, _ = listen(executor, 1)
    assert answers[1].outcome.status == LOST
    assert "commit" in answers[1].outcome.message
    (fake.home / "hold").touch()
    executor.start([(2, task(root, "a", "greet", "x"), DEVICE)])
    assert "--exclude=node-7" in fake.script(101)


def test_before_anything_is_planned_a_node_is_looked_at(make: Make, fake: Fake) -> None:
    with pytest.raises(UserError, match=r"commit .*--slurm"):
        make(expected=OTHER).devices()
    (device,) = make(expected=identity()).devices()
    assert (device.name, device.type, device.queued, device.environment) == ("SLURM", "cpu", True, ())
    assert device.seats > 1000


def test_what_sbatch_refuses_is_reported(make: Make, root: Path, fake: Fake) -> None:
    (fake.home / "refuse").write_text("sbatch: error: invalid partition specified: nope")
    with pytest.raises(UserError, match="invalid partition"):
        make(partition="nope").start([(1, task(root, "a", "greet", "x"), DEVICE)])
