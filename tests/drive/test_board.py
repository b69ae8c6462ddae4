"""Which task goes where, and what its answer leads to: the board with a scripted executor and a fake clock."""

from __future__ import annotations

import contextlib
import heapq
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.core.display import RunDisplay, Tally
from bench.core.errors import NotIdle, UserError
from bench.core.events import BlockDone, Event, Numbered, Stage, StepDone
from bench.drive import board
from bench.drive.board import DESERTED_SECONDS, ELSEWHERE, IN_A_ROW, Board, InOrder, Work, call_alone
from bench.drive.forecast import Size, makespan
from bench.executors.child import Outcome
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Message, Task
from bench.present.screen.progress import ScreenDisplay, make_console
from tests.engines import HERE, AtOnce

OK = Outcome("ok")


def device(name: str, seats: int = 1, node: str = "") -> Device:
    return Device(name, node or name, "cpu", "Test CPU", False, threads=2, seats=seats)


@dataclass(frozen=True)
class Start:
    """A task that an executor was asked to start, and when."""

    at: float
    name: str
    device: str
    share: float


@dataclass
class Scripted:
    """An executor whose tasks end as `script` says, after `lengths` seconds; the board reads its clock."""

    present: list[Device]
    lengths: Callable[[str, Device], float] = lambda name, device: 1.0
    script: Callable[[str, Device, int], Outcome] = lambda name, device, attempt: OK  # attempt counts from 1
    remote: bool = False
    looking: bool = False
    clock: float = 0.0
    stopped: bool = False
    starts: list[Start] = field(default_factory=list)
    running: list[tuple[float, int, str, Device]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)

    def now(self) -> float:
        return self.clock

    def devices(self) -> list[Device]:
        return self.present

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        for ticket, task, where in tasks:
            self.starts.append(Start(self.clock, task.name, where.name, task.share))
            self.attempts[task.name] += 1
            heapq.heappush(self.running, (self.clock + self.lengths(task.name, where), ticket, task.name, where))
            used = sum(1 for entry in self.running if entry[3].name == where.name)
            assert used <= where.seats, "never more than asked"

    def events(self, seconds: float) -> list[Message]:
        if not self.running:
            self.clock += seconds
            return []
        self.clock, answers = self.running[0][0], list[Message]()
        while self.running and self.running[0][0] == self.clock:  # all that end together come together
            _, ticket, name, where = heapq.heappop(self.running)
            outcome = Outcome("interrupted") if self.stopped else self.script(name, where, self.attempts[name])
            answers.append((ticket, Answer(outcome, where.node)))
        return answers

    def stop(self) -> None:
        self.stopped = True
        self.running = [(self.clock, *rest) for _, *rest in self.running]  # type: ignore[misc]
        heapq.heapify(self.running)

    def close(self) -> None:
        """Nothing to leave behind."""

    def names(self) -> list[str]:
        return [start.name for start in self.starts]


class Recorder(ScreenDisplay):
    """A display that keeps its lines and tallies, and which runs it shows."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.lines: list[str] = []
        self.tallies: list[Tally] = []
        self.open = Counter[str]()

    def line(self, text: str) -> None:
        self.lines.append(text)

    def overall(self, tally: Tally) -> None:
        self.tallies.append(tally)

    @contextlib.contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[RunDisplay]:
        self.open[name] += 1
        try:
            with super().run(title, batch_size, prefix, name) as shown:
                yield shown
        finally:
            self.open[name] -= 1


def work(name: str, flops: float | None = None, group: str = "", **more: Any) -> Work:
    def task(device: Device, alone: bool) -> Task:
        return Task(name, "module:function", (), share=1.0 if alone else 1 / device.seats)

    return Work(name, name, name, 1, task, size=Size(group or name, flops), **more)


@dataclass
class Sweep:
    """A board with its executor, and every end that was settled."""

    executor: Scripted
    retries: int = 3
    display: Recorder = field(default_factory=Recorder)
    ends: list[tuple[float, str, str, str]] = field(default_factory=list)  # when, name, status, device

    def __post_init__(self) -> None:
        self.board = Board(self.executor, self.display, self.retries, self.executor.now)

    def settle(self, work: Work, device: Device, answer: Answer, shown: RunDisplay) -> None:
        self.ends.append((self.executor.clock, work.name, answer.outcome.status, device.name))

    def run(self, works: Sequence[Work], settle: Callable[..., None] | None = None) -> dict[str, str]:
        """How each ended, which it did exactly once; nothing runs or is shown any more."""
        for one in works:
            self.board.add(one)
        try:
            self.board.run(settle or self.settle)
        finally:
            assert not self.executor.running, "every answer was awaited"
            assert not any(self.display.open.values()), "nothing is left open"
            assert max(Counter(name for _, name, *_ in self.ends).values(), default=1) == 1
        return {name: status for _, name, status, _ in self.ends}


# --- order and seats -------------------------------------------------------------------------------------------------


def test_order_is_turn_then_length_then_as_given() -> None:
    sweep = Sweep(Scripted([device("a")]))
    sizes = {"small": 1.0, "large": 9.0, "unknown": None, "large too": 9.0, "middle": 5.0}
    works = [work(name, flops) for name, flops in sizes.items()]
    known = work("takes a week")
    known.size = Size("w", None, seconds=6e5)  # whose FLOPs cannot be counted
    sweep.run([*works, known, work("later", 99.0, turn=1)])
    assert sweep.executor.names() == ["large", "large too", "middle", "small", "takes a week", "unknown", "later"]


def test_first_one_on_each_device_then_the_second() -> None:
    sweep = Sweep(Scripted([device("a", 2), device("b", 3), device("c", 1)]))
    sweep.run([work(f"run {i}") for i in range(8)])
    assert [start.device for start in sweep.executor.starts] == ["a", "b", "c", "a", "b", "b", "a", "b"]
    assert [start.at for start in sweep.executor.starts] == [0] * 6 + [1] * 2, "every seat was used at once"
    assert {start.share for start in sweep.executor.starts if start.device == "b"} == {1 / 3}


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    seats=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_no_seat_is_idle_while_something_waits(lengths: list[int], seats: list[int]) -> None:
    """The end is that of a list schedule, longest first, which makespan computes independently."""
    executor = Scripted([device(str(i), n) for i, n in enumerate(seats)], lambda name, device: float(name.split()[1]))
    sweep = Sweep(executor)
    ended = sweep.run([work(f"{i}: {length}", float(length)) for i, length in enumerate(lengths)])
    assert len(ended) == len(lengths)
    assert executor.clock == makespan(sorted(map(float, lengths), reverse=True), [0.0] * sum(seats))


def test_devices_that_come_and_go() -> None:
    executor = Scripted([])

    def meanwhile() -> None:
        if executor.clock > 1 and not executor.starts:
            executor.present = [device("late")]
        if len(executor.starts) == 2:
            executor.present = [device("later")]

    sweep = Sweep(executor)
    for name in ("one", "two", "three", "four"):
        sweep.board.add(work(name))
    sweep.board.run(sweep.settle, meanwhile)
    assert [(start.name, start.device) for start in executor.starts] == [
        ("one", "late"), ("two", "late"), ("three", "later"), ("four", "later"),
    ]  # fmt: skip
    assert 1 < executor.starts[0].at < 1.5


def test_without_any_device_for_ten_minutes_it_gives_up() -> None:
    executor = Scripted([], clock=5000.0)
    with pytest.raises(UserError, match="no device for ten minutes"):
        Sweep(executor).run([work("one")])
    assert 5000 + DESERTED_SECONDS < executor.clock < 5000 + DESERTED_SECONDS + 1


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_lost_runs_are_retried_a_limited_number_of_times(retries: int) -> None:
    def script(name: str, device: Device, attempt: int) -> Outcome:
        always = name == "cursed" or (name == "unlucky" and attempt <= retries)
        return Outcome(LOST, "node gone") if always else OK

    sweep = Sweep(Scripted([device("a"), device("b")], script=script, remote=True), retries)
    assert sweep.run([work("cursed"), work("unlucky"), work("fine")]) == {"cursed": LOST, "unlucky": "ok", "fine": "ok"}
    assert sweep.executor.attempts == {"cursed": 1 + retries, "unlucky": 1 + retries, "fine": 1}
    again = [line for line in sweep.display.lines if "lost: node gone; retry" in line]
    assert len(again) == 2 * retries
    if retries:
        assert f"  cursed: lost: node gone; retry 1 of at most {retries}" in again


@pytest.mark.parametrize("status", ["failed", "diverged", "timeout", "killed", "oom"])
def test_failed_runs_are_settled_once_and_never_retried(status: str) -> None:
    sweep = Sweep(Scripted([device("a")], script=lambda name, *_: Outcome(status) if name == "bad" else OK))
    assert sweep.run([work("bad"), work("good")]) == {"bad": status, "good": "ok"}
    assert sweep.executor.names() == ["bad", "good"]


def test_an_unfit_machine_gets_no_more_work() -> None:
    devices = [device("bad 0", node="bad"), device("bad 1", node="bad"), device("good")]
    wrong = Outcome(UNFIT, "bad has torch 1.0, not 2.0")
    executor = Scripted(devices, script=lambda name, device, _: wrong if device.node == "bad" else OK, remote=True)
    sweep = Sweep(executor)
    ended = sweep.run([work(f"run {i}") for i in range(6)])
    assert set(ended.values()) == {"ok"}
    assert len(ended) == 6
    assert {end[3] for end in sweep.ends} == {"good"}
    assert sum(start.device != "good" for start in executor.starts) == 2, "only what started before it was known"
    assert any("bad has torch 1.0, not 2.0; that machine is left out" in line for line in sweep.display.lines)


def test_where_every_machine_is_unfit_the_reasons_are_named() -> None:
    executor = Scripted(
        [device("a"), device("b")], script=lambda name, device, _: Outcome(UNFIT, f"{device.name} is old"), remote=True
    )
    with pytest.raises(UserError, match="no device is fit for this sweep: a is old; b is old"):
        Sweep(executor).run([work("one"), work("two")])


def test_this_machine_cannot_be_left_out() -> None:
    sweep = Sweep(Scripted([device("a")], script=lambda name, *_: Outcome(UNFIT if name == "bad" else "ok")))
    assert sweep.run([work("bad"), work("good")]) == {"bad": "failed", "good": "ok"}


def test_a_run_out_of_memory_is_retried_alone_once_its_device_is_empty() -> None:
    def script(name: str, device: Device, attempt: int) -> Outcome:
        return Outcome("oom", "too little") if name == "glutton" or (name == "big" and attempt == 1) else OK

    lengths = {"big": 1.0, "glutton": 1.0, "slow": 9.0}
    executor = Scripted([device("a", 2), device("b", 2)], lambda name, device: lengths.get(name, 2.0), script)
    sweep = Sweep(executor)
    names = ["big", "glutton", "slow", "short", "more", "and more"]
    assert sweep.run([work(name) for name in names]) == {**dict.fromkeys(names, "ok"), "glutton": "oom"}
    alone = [start for start in executor.starts if start.share == 1.0]
    assert [start.name for start in alone] == ["big", "glutton"]
    assert executor.attempts["glutton"] == 2, "alone, it is not retried again"
    for start in alone:  # nothing overlaps it
        end = start.at + lengths[start.name]
        beside = [s for s in executor.starts if s.device == start.device and s != start]
        assert all(s.at + lengths.get(s.name, 2.0) <= start.at or s.at >= end for s in beside)


def test_a_run_of_another_process_is_put_off_and_announced_once() -> None:
    executor = Scripted([device("a")])
    asked = [0]

    def before() -> Outcome | None:
        asked[0] += 1
        return Outcome("busy", "process 7 on elsewhere") if executor.clock < 6 else None

    sweep = Sweep(executor)
    assert sweep.run([work("theirs", 9.0, before=before), work("mine", 1.0)]) == {"theirs": "ok", "mine": "ok"}
    assert executor.names() == ["mine", "theirs"]
    assert executor.starts[0].at == 0, "the seat is not idle meanwhile"
    assert 6 <= executor.starts[1].at <= 6 + board.BUSY_SECONDS + board.WAIT_SECONDS
    assert asked[0] == 4
    assert [line for line in sweep.display.lines if "is running it" in line] == [
        "theirs: process 7 on elsewhere is running it; continuing with the others, then waiting"
    ]


def test_a_run_that_is_busy_on_arrival_is_put_off_too() -> None:
    executor = Scripted([device("a")], script=lambda name, _, attempt: Outcome("busy", "p") if attempt < 3 else OK)
    sweep = Sweep(executor)
    assert sweep.run([work("theirs")]) == {"theirs": "ok"}
    assert [start.at for start in executor.starts] == pytest.approx([0.0, 3.0, 6.0], abs=2 * board.WAIT_SECONDS)
    assert sum("is running it" in line for line in sweep.display.lines) == 1


def test_a_run_done_by_another_process_takes_no_seat_and_teaches_nothing() -> None:
    """Other processes' failures are not this machine's, and their runs' durations say nothing about the next."""
    sweep = Sweep(Scripted([device("a"), device("b")], remote=True))
    theirs = [work(f"theirs {i}", 9.0, before=lambda: Outcome("failed")) for i in range(IN_A_ROW)]
    done = work("done", 9.0, "same", before=lambda: OK)
    mine = [work(f"mine {i}", 1.0, "same") for i in range(4)]
    ended = sweep.run([*theirs, done, *mine])
    assert Counter(ended.values()) == {"failed": IN_A_ROW, "ok": 5}
    assert [(start.at, start.device) for start in sweep.executor.starts] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert sweep.display.tallies[0].seconds_left is None
    assert sweep.display.tallies[0].done == 1


def test_a_run_done_by_another_process_says_so() -> None:
    where: list[str] = []
    sweep = Sweep(Scripted([device("a")]))
    sweep.run([work("done", before=lambda: OK), work("mine")], lambda w, d, answer, shown: where.append(answer.where))
    assert where == [ELSEWHERE, "a"]


def test_a_machine_that_fails_every_model_is_left_out_if_another_works() -> None:
    executor = Scripted(
        [device("broken"), device("fine")],
        script=lambda name, device, _: Outcome("failed") if device.name == "broken" else OK,
        remote=True,
    )
    sweep = Sweep(executor)
    ended = sweep.run([work(f"model {i}, seed {seed}", group=f"model {i}") for seed in range(3) for i in range(7)])
    assert Counter(ended.values()) == {"failed": IN_A_ROW, "ok": 21 - IN_A_ROW}
    assert "broken failed 5 different runs and finished none; it is left out" in sweep.display.lines


@pytest.mark.parametrize(
    ("names", "remote", "status"),
    [
        (["fine", "bad", "bad", "bad", "bad", "fine", "bad", "bad", "bad", "bad"], True, "failed"),  # now and then
        (["bad"] * 12, False, "failed"),  # this machine is the only one
        (["same"] * 12, True, "failed"),  # one model, whose fault it is
        (["bad"] * 12, True, "diverged"),  # it computed
    ],
)
def test_other_failures_are_not_blamed_on_the_machine(names: list[str], remote: bool, status: str) -> None:
    executor = Scripted(
        [device("a", 1), device("b", 1)],
        # a works on the largest one to the end, so that b gets all the others in their order
        lambda name, device: 100.0 if name == "large" else 1.0,
        lambda name, *_: OK if "fine" in name or name == "large" else Outcome(status),
        remote,
    )
    sweep = Sweep(executor)
    sweep.run(
        [work("large", 7.0), *(work(f"{name} {i}", group="same" * (name == "same")) for i, name in enumerate(names))]
    )
    assert [start.device for start in executor.starts] == ["a", *"b" * len(names)]
    assert not any("left out" in line for line in sweep.display.lines)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_error_stops_what_runs_and_awaits_its_answers(error: BaseException) -> None:
    """Three end together; the first cannot be settled, and if the disk is full, nor can the last."""
    executor = Scripted([device("a", 4)], lambda name, device: 9.0 if name == "slow" else 1.0)
    sweep = Sweep(executor)

    def settle(work: Work, device: Device, answer: Answer, shown: RunDisplay) -> None:
        sweep.settle(work, device, answer, shown)
        if work.name == "first" or (work.name == "third" and isinstance(error, OSError)):
            raise error

    with pytest.raises(type(error)):
        sweep.run([work(name) for name in ("first", "second", "third", "slow", "never started")], settle)
    assert executor.stopped
    assert {name: status for _, name, status, _ in sweep.ends} == {
        "first": "ok", "second": "ok", "third": "ok", "slow": "interrupted",
    }  # fmt: skip
    assert executor.clock == 1.0


def test_a_failure_before_the_start_is_not_waited_for() -> None:
    def before() -> Outcome | None:
        raise OSError("the store is gone")

    executor = Scripted([device("a", 3)])
    sweep = Sweep(executor)
    with pytest.raises(OSError, match="the store is gone"):
        sweep.run([work("one", 3.0), work("two", 2.0), work("three", 1.0, before=before)])
    assert executor.stopped
    assert (executor.clock, executor.starts, sweep.ends) == (0.0, [], [])


@pytest.mark.parametrize("status", ["busy", UNFIT])
def test_a_run_that_never_started_is_not_settled_when_a_sweep_stops(status: str) -> None:
    """No record can have such a status."""
    executor = Scripted([device("a", 2)], lambda name, device: 1.0 if name == "first" else 2.0)
    executor.stop = lambda: None  # type: ignore[method-assign]
    executor.script = lambda name, *_: OK if name == "first" else Outcome(status)
    sweep = Sweep(executor)

    def settle(work: Work, device: Device, answer: Answer, shown: RunDisplay) -> None:
        sweep.settle(work, device, answer, shown)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run([work("first"), work("second")], settle)
    assert [name for _, name, *_ in sweep.ends] == ["first"]


def test_settling_may_add_more_work() -> None:
    sweep = Sweep(Scripted([device("a")]))

    def settle(work_: Work, device: Device, answer: Answer, shown: RunDisplay) -> None:
        sweep.settle(work_, device, answer, shown)
        if len(sweep.ends) < 4:
            sweep.board.add(work(f"{work_.name}+"))

    assert list(sweep.run([work("a")], settle)) == ["a", "a+", "a++", "a+++"]


def test_the_time_left_is_right_where_all_take_equally_long() -> None:
    """Nine runs of ten seconds on two devices: 50 s in all, unknown until the first has ended."""
    sweep = Sweep(Scripted([device("a"), device("b")], lambda *_: 10.0))
    sweep.run([work(f"run {i}", 1.0, "same") for i in range(9)])
    assert [(tally.done, tally.running, tally.devices, tally.seconds_left) for tally in sweep.display.tallies] == [
        (0, 2, 2, None), (2, 2, 2, 40.0), (4, 2, 2, 30.0), (6, 2, 2, 20.0), (8, 1, 1, 10.0), (9, 0, 0, 0.0),
    ]  # fmt: skip


# --- one task alone --------------------------------------------------------------------------------------------------


INTERRUPT = Stage("Ctrl-C")


@dataclass
class Alone:
    """An executor whose messages are scripted: one list for each time it is asked."""

    script: list[Sequence[Event | Numbered | Answer]]
    remote: bool = True
    looking: bool = False
    stopped: bool = False
    tasks: list[Task] = field(default_factory=list)
    ticket: int = -1

    def devices(self) -> list[Device]:
        return [device("a")]

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        ((self.ticket, task, _),) = tasks
        self.tasks.append(task)

    def events(self, seconds: float) -> list[Message]:
        messages = self.script.pop(0)
        if messages == [INTERRUPT]:
            raise KeyboardInterrupt
        of_earlier_task: Message = (-7, Numbered(0, StepDone(1)))
        return [of_earlier_task, *((self.ticket, message) for message in messages)]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        """Nothing to leave behind."""


def blocks(*numbers: int) -> list[Event]:
    return [BlockDone(n, 10) for n in numbers]


def numbered(*numbers: int) -> list[Numbered]:
    return [Numbered(n, event) for n, event in zip(numbers, blocks(*numbers), strict=True)]


def test_every_event_arrives_once_and_in_order_although_live_ones_were_lost() -> None:
    answer = Answer(OK, "a", tuple(blocks(0, 1, 2, 3, 4)))
    executor = Alone([numbered(0), [StepDone(7)], [], numbered(2), numbered(1, 3), [answer]])
    events: list[Event] = []
    assert call_alone(executor, device("a"), Task("s", "m:f", ()), events.append) is answer
    assert events == [*blocks(0), StepDone(7), *blocks(1, 2, 3, 4)]
    assert executor.tasks[0].whole_host


@given(st.lists(st.integers(0, 9), max_size=40))
def test_order_holds_whatever_comes_live(live: list[int]) -> None:
    events: list[Event] = []
    in_order = InOrder(events.append)
    for event in numbered(*live, *range(10)):
        in_order(event)
    assert events == blocks(*range(10))


def test_a_busy_host_refuses_a_session() -> None:
    refused = Answer(Outcome(REFUSED, "node-2: 3 runs are being trained"), "node-2")
    with pytest.raises(NotIdle, match="nothing is timed beside other work: node-2: 3 runs are being trained"):
        call_alone(Alone([[refused]]), device("a"), Task("s", "m:f", ()), lambda event: None)


def test_an_interrupted_session_is_stopped_and_its_answer_awaited() -> None:
    events: list[Event] = []
    executor = Alone([[INTERRUPT], numbered(0), [Answer(Outcome("interrupted"), "a")]])
    with pytest.raises(KeyboardInterrupt):
        call_alone(executor, device("a"), Task("s", "m:f", ()), events.append)
    assert executor.stopped
    assert not executor.script
    assert events == blocks(0)


def test_a_machine_that_lost_a_run_rests() -> None:
    """Ray may report a dead node as alive: without a rest, it would get the same run until no retry is left."""
    now, taken = [0.0], list[str]()
    pair = [replace(HERE, name=name, node=name) for name in ("dead", "fine")]

    def answer(task: Task, device: Device) -> Answer:
        taken.append(device.name)
        now[0] += 1.0
        return Answer(Outcome(LOST, "gone") if device.name == "dead" else Outcome("ok"))

    executor = AtOnce(answer, pair, remote=True)
    sweep, ends = Board(executor, ScreenDisplay(make_console()), now=lambda: now[0]), list[str]()
    for n in range(8):
        sweep.add(Work(f"run {n}", f"run {n}", f"run {n}", 1, lambda device, alone: Task("x", "m:f", ())))
    sweep.run(lambda work, device, answer, shown: ends.append(answer.outcome.status))
    assert ends == ["ok"] * 8
    assert taken.count("dead") == 1
