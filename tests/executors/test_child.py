"""Child processes: how they start, what they have of their parent, how they end. Example: pytest tests/executors"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.core.events import Described, Event, Note
from bench.executors import child
from bench.executors.child import Outcome, call
from bench.executors.processes import no_interrupt
from tests.conftest import ROOT
from tests.faults.processes import eventually, gone

PATIENCE_SECONDS = 60.0
SPAWNED = {"PYTHONINTMAXSTRDIGITS": "5000"}  # one of those that Python reads as it starts
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are spawned")


def events_of(function: str, *args: object, **more: object) -> list[Event]:
    """The events of a call that ends well."""
    events: list[Event] = []
    outcome = call(f"tests.executors.work:{function}", args, events.append, **more)  # type: ignore[arg-type]
    assert outcome == Outcome("ok"), outcome
    return events


def looks(**environment: str) -> dict[str, str | int | float | bool | None]:
    (event,) = events_of("looks", environment=environment)
    assert isinstance(event, Described)
    return event.environment


def text_of(function: str, *args: object, **more: object) -> str:
    (event,) = events_of(function, *args, **more)
    assert isinstance(event, Note)
    return event.text


def pids_in(path: Path, count: int) -> list[int]:
    """What a child has written, once it has."""
    assert eventually(lambda: path.exists() and len(path.read_text().split()) == count, PATIENCE_SECONDS)
    return [int(pid) for pid in path.read_text().split()]


# --- start -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_a_process_starts_is_held_back_and_not_lost() -> None:
    """The process that starts never sees it."""
    before, blocked = signal.getsignal(signal.SIGINT), ""
    ask = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"

    def start() -> None:
        nonlocal blocked
        with no_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            blocked = subprocess.check_output([sys.executable, "-c", ask], text=True)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert blocked == "True\n"
    assert signal.getsignal(signal.SIGINT) == before
    with no_interrupt():
        pass


@linux
def test_the_server_has_imported_torch_and_has_one_thread_and_no_cuda_context() -> None:
    assert text_of("misses") == "", "else each child would import it again"
    first, second = looks(), looks()
    assert (first["preloaded"], first["cuda"], first["parent_threads"]) == (True, False, 1)
    assert first["parent"] == second["parent"] != os.getpid()


@linux
@pytest.mark.gpu
def test_a_forked_child_computes_on_the_gpu_which_the_server_has_not_touched() -> None:
    assert text_of("uses_gpu") == "3.0 0"


@linux
def test_a_child_has_the_callers_environment_folder_and_streams(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMOVED", "before")
    monkeypatch.setenv("CHANGED", "before")
    looks()  # the server is there
    monkeypatch.delenv("REMOVED")
    monkeypatch.setenv("CHANGED", "after")
    monkeypatch.chdir(tmp_path)
    child = looks(ADDED="here")
    assert (child["ADDED"], child["CHANGED"], child["REMOVED"]) == ("here", "after", None)
    assert (child["folder"], child["PYTHONSAFEPATH"]) == (str(tmp_path), None)
    events_of("speaks")
    captured = capfd.readouterr()
    assert (captured.out, set(captured.err.splitlines())) == ("", {"to standard output", "to standard error"})


@linux
def test_threads_are_those_of_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh() -> int:
        words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert looks()["threads"] == fresh()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert looks()["threads"] == fresh()
    assert looks(OMP_NUM_THREADS="1")["threads"] == 1


@linux
def test_what_is_read_at_load_needs_a_process_of_its_own_that_learns_the_same() -> None:
    assert looks(**SPAWNED)["parent"] == os.getpid()
    assert looks(PYTHONBREAKPOINT="0")["parent"] != os.getpid(), "read when a breakpoint is reached"
    assert text_of("trains") == text_of("trains", environment=SPAWNED)


@linux
def test_children_draw_different_numbers() -> None:
    first, second = (text_of("draws").split() for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_changed_model_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    for width in (2, 30):
        path.write_text(f"from torch import nn\ndef make(classes, size):\n    return nn.Linear({width}, classes)\n")
        assert f"in_features={width}" in text_of("builds", f"{path}:make")


# --- end -------------------------------------------------------------------------------------------------------------


def test_exit_codes_and_signals_are_named() -> None:
    assert call("tests.executors.work:exits", (0,), print) == Outcome("ok")
    assert call("tests.executors.work:exits", (7,), print) == Outcome("killed", "its process ended by exit code 7")
    assert call("tests.far_work:dies", (), print) == Outcome("killed", "its process ended by SIGKILL")
    outcome = call("tests.executors.nowhere:nothing", (), print)
    assert outcome.status == "failed"
    assert outcome.message == "ModuleNotFoundError: No module named 'tests.executors.nowhere'"


def test_an_event_that_is_none_is_the_childs_fault() -> None:
    outcome = call("tests.executors.work:lies", (), print)
    assert outcome.status == "failed"
    assert "reported nonsense" in outcome.message


def test_a_timeout_asks_first(tmp_path: Path) -> None:
    outcome = call("tests.executors.work:saves", (tmp_path,), print, timeout=1)
    assert outcome == Outcome("timeout", "not done after 1 s")
    assert (tmp_path / "saved").exists()


@linux
def test_signals_of_a_scheduler_to_all_processes_leave_the_server_alive(tmp_path: Path) -> None:
    stop, outcomes = threading.Event(), list[str]()

    def run() -> None:
        try:
            call("tests.executors.work:saves", (tmp_path,), print, stop=stop)
        except KeyboardInterrupt:
            outcomes.append("interrupted")

    thread = threading.Thread(target=run)
    thread.start()
    (server,) = pids_in(tmp_path / "started", 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(server, number)
    stop.set()
    thread.join(PATIENCE_SECONDS)
    assert outcomes == ["interrupted"]
    assert (tmp_path / "saved").exists()
    assert looks()["parent"] == server


@linux
def test_a_killed_server_is_replaced() -> None:
    server = looks()["parent"]
    assert isinstance(server, int)
    os.kill(server, signal.SIGKILL)
    assert gone([server])
    assert looks()["parent"] not in (server, os.getpid())


@linux
def test_a_killed_server_takes_its_children_along(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "pids", list[Outcome]()
    thread = threading.Thread(target=lambda: outcomes.append(call("tests.executors.work:sleeps", (path,), print)))
    thread.start()
    child, server = pids_in(path, 2)
    os.kill(server, signal.SIGKILL)
    thread.join(PATIENCE_SECONDS)
    assert [outcome.status for outcome in outcomes] == ["killed"]
    assert gone([child])


DRIVER = """
import sys
from pathlib import Path
from bench.executors.child import call
call("tests.executors.work:sleeps", (Path(sys.argv[1]),), print)
"""


def test_a_child_and_its_server_end_with_a_killed_driver(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, path], cwd=ROOT)
    try:
        pids = pids_in(path, 2)
    finally:
        driver.kill()
        driver.wait()
    assert gone(pids)


def test_ctrl_c_while_the_server_still_imports_ends_at_once(tmp_path: Path) -> None:
    script = f"import signal; signal.signal(2, signal.default_int_handler){DRIVER}"
    command = [sys.executable, "-c", script, tmp_path / "pids"]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(1.0)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(PATIENCE_SECONDS) != 0
    _, error = driver.communicate(timeout=PATIENCE_SECONDS)  # once the server, too, has ended
    assert error.count("Traceback") == 1, error  # the driver's own; no child's, no server's
    assert error.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("how", ["thread", "atexit", "exits"])
def test_what_a_child_leaves_behind_does_not_keep_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last word counts; then it is ended, with a note."""
    monkeypatch.setattr(child, "EXIT_SECONDS", 0.5)
    events: list[Event] = []
    environment = SPAWNED if how == "atexit" else {}  # a forked child runs no such functions
    assert call("tests.executors.work:stays", (how,), events.append, environment=environment) == Outcome("ok")
    (note,) = events
    assert isinstance(note, Note)
    assert "did not end within 0.5 s and was ended: its work was done" in note.text


def test_texts_that_are_no_utf_8_come_through_with_replacements() -> None:
    events: list[Event] = []
    outcome = call("tests.executors.work:fails", (), events.append)
    assert events == [Note("on ?")]
    assert (outcome.status, outcome.message) == ("failed", "ValueError: bad \ufffd name")
    assert outcome.traceback.encode().endswith(b"bad ? name\n")


@pytest.mark.parametrize("environment", [{}, SPAWNED])
def test_what_a_child_prints_stays_out_of_the_commands_output(
    environment: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CSV on stdout stays one; and the command's arguments are not for a file that parses some (cases 31, 32)."""
    monkeypatch.setattr(sys, "argv", ["run_bench.py", "cost", "noisy.py:net"])
    assert text_of("prints", environment=environment) == ""
    captured = capfd.readouterr()
    assert captured.out == ""
    assert {"in Python", "below it"} <= set(captured.err.splitlines())


def test_what_a_child_prints_commands_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Colours, titles and cleared screens stay in the child; so does a flood (attack 40)."""
    assert call("tests.executors.work:commands", (), lambda event: None) == Outcome("ok")
    assert capfd.readouterr().err == "red clear\nnext \ufffd5m \ufffd  line"
    assert call("tests.executors.work:floods", (), lambda event: None) == Outcome("ok")
    error = capfd.readouterr().err
    assert error.count("0123456789abcdef") == child.MOST_PRINTED // 16
    assert error.endswith("(it printed more than 1,048,576 bytes; the rest is left out)\n")


def test_an_exception_that_is_none_of_pythons_usual_ones_is_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = call("tests.executors.work:raises_base", (), lambda event: None)
    assert (outcome.status, outcome.message) == ("failed", "Own: not an\ufffd[31m Exception")
    assert capfd.readouterr().err == ""
