"""Which task goes where, and what becomes of its answer: the real board against a scripted engine and a fake clock."""

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

from bench.core.errors import NotIdle, UserError
from bench.drive import board
from bench.drive.board import DESERTED_SECONDS, ELSEWHERE, IN_A_ROW, Board, InOrder, Work, call_alone
from bench.drive.forecast import Size, makespan
from bench.executors.child import Outcome
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Heard, Task
from bench.present.screen.progress import Display, Events, Tally, make_console
from tests.engines import HERE, AtOnce

OK = Outcome("ok")


def device(name: str, seats: int = 1, node: str = "") -> Device:
    return Device(name, node or name, "cpu", "Test CPU", False, threads=2, seats=seats)


@dataclass(frozen=True)
class Start:
    """What an engine was asked to begin, and when."""

    at: float
    name: str
    device: str
    share: float


@dataclass
class Scripted:
    """An engine whose tasks end as `script` says, after as many seconds as `lengths` says; its clock is the board's."""

    there: list[Device]
    lengths: Callable[[str, Device], float] = lambda name, device: 1.0
    script: Callable[[str, Device, int], Outcome] = lambda name, device, attempt: OK  # attempt counts from 1
    far: bool = False
    clock: float = 0.0
    stopped: bool = False
    starts: list[Start] = field(default_factory=list)
    running: list[tuple[float, int, str, Device]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)

    def now(self) -> float:
        return self.clock

    def devices(self) -> list[Device]:
        return self.there

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        for ticket, task, where in tasks:
            self.starts.append(Start(self.clock, task.name, where.name, task.share))
            self.attempts[task.name] += 1
            heapq.heappush(self.running, (self.clock + self.lengths(task.name, where), ticket, task.name, where))
            used = sum(1 for entry in self.running if entry[3].name == where.name)
            assert used <= where.seats, "never more than asked"

    def events(self, seconds: float) -> list[Heard]:
        if not self.running:
            self.clock += seconds
            return []
        self.clock, found = self.running[0][0], list[Heard]()
        while self.running and self.running[0][0] == self.clock:  # all that end together come together
            _, ticket, name, where = heapq.heappop(self.running)
            outcome = Outcome("interrupted") if self.stopped else self.script(name, where, self.attempts[name])
            found.append((ticket, Answer(outcome, where.node)))
        return found

    def stop(self) -> None:
        self.stopped = True
        self.running = [(self.clock, *rest) for _, *rest in self.running]  # type: ignore[misc]
        heapq.heapify(self.running)

    def close(self) -> None:
        """Nothing is left."""

    def names(self) -> list[str]:
        return [start.name for start in self.starts]


class Shown(Display):
    """A display that keeps what it is told, and which runs it shows."""

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
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[Events]:
        self.open[name] += 1
        try:
            with super().run(title, batch_size, prefix, name) as bar:
                yield bar
        finally:
            self.open[name] -= 1


def work(name: str, flops: float | None = None, group: str = "", **more: Any) -> Work:
    def task(device: Device, alone: bool) -> Task:
        return Task(name, "module:function", (), share=1.0 if alone else 1 / device.seats)

    return Work(name, name, name, 1, task, size=Size(group or name, flops), **more)


@dataclass
class Sweep:
    """A board with its engine, and every end that it settled."""

    engine: Scripted
    retries: int = 3
    display: Shown = field(default_factory=Shown)
    ends: list[tuple[float, str, str, str]] = field(default_factory=list)  # when, name, status, device

    def __post_init__(self) -> None:
        self.board = Board(self.engine, self.display, self.retries, self.engine.now)

    def settle(self, work: Work, device: Device, answer: Answer, bar: Events) -> None:
        self.ends.append((self.engine.clock, work.name, answer.outcome.status, device.name))

    def run(self, works: Sequence[Work], settle: Callable[..., None] | None = None) -> dict[str, str]:
        """How each ended; each of them exactly once, and nothing shown any more."""
        for one in works:
            self.board.add(one)
        try:
            self.board.run(settle or self.settle)
        finally:
            assert not self.engine.running, "all was heard out"
            assert not any(self.display.open.values()), "nothing is left open"
            assert max(Counter(name for _, name, *_ in self.ends).values(), default=1) == 1
        return {name: status for _, name, status, _ in self.ends}


# --- order and seats -------------------------------------------------------------------------------------------------


def test_the_longest_first_in_turns_and_equals_as_given() -> None:
    sweep = Sweep(Scripted([device("a")]))
    sizes = {"small": 1.0, "large": 9.0, "unknown": None, "large too": 9.0, "middle": 5.0}
    works = [work(name, flops) for name, flops in sizes.items()]
    known = work("takes a week")
    known.size = Size("w", None, seconds=6e5)  # whose FLOPs cannot be counted
    sweep.run([*works, known, work("later", 99.0, turn=1)])
    assert sweep.engine.names() == ["large", "large too", "middle", "small", "takes a week", "unknown", "later"]


def test_first_one_on_each_device_then_the_second() -> None:
    sweep = Sweep(Scripted([device("a", 2), device("b", 3), device("c", 1)]))
    sweep.run([work(f"run {i}") for i in range(8)])
    assert [start.device for start in sweep.engine.starts] == ["a", "b", "c", "a", "b", "b", "a", "b"]
    assert [start.at for start in sweep.engine.starts] == [0] * 6 + [1] * 2, "every seat was used at once"
    assert {start.share for start in sweep.engine.starts if start.device == "b"} == {1 / 3}


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    seats=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_no_seat_stands_idle_while_something_waits(lengths: list[int], seats: list[int]) -> None:
    """The end is that of a list schedule, longest first, as makespan reckons it by other means."""
    engine = Scripted([device(str(i), n) for i, n in enumerate(seats)], lambda name, device: float(name.split()[1]))
    sweep = Sweep(engine)
    ended = sweep.run([work(f"{i}: {length}", float(length)) for i, length in enumerate(lengths)])
    assert len(ended) == len(lengths)
    assert engine.clock == makespan(sorted(map(float, lengths), reverse=True), [0.0] * sum(seats))


def test_devices_that_come_and_go() -> None:
    engine = Scripted([])

    def meanwhile() -> None:
        if engine.clock > 1 and not engine.starts:
            engine.there = [device("late")]
        if len(engine.starts) == 2:
            engine.there = [device("later")]

    sweep = Sweep(engine)
    for name in ("one", "two", "three", "four"):
        sweep.board.add(work(name))
    sweep.board.run(sweep.settle, meanwhile)
    assert [(start.name, start.device) for start in engine.starts] == [
        ("one", "late"), ("two", "late"), ("three", "later"), ("four", "later"),
    ]  # fmt: skip
    assert 1 < engine.starts[0].at < 1.5


def test_without_any_device_for_ten_minutes_it_gives_up() -> None:
    engine = Scripted([], clock=5000.0)
    with pytest.raises(UserError, match="no device has been there for ten minutes"):
        Sweep(engine).run([work("one")])
    assert 5000 + DESERTED_SECONDS < engine.clock < 5000 + DESERTED_SECONDS + 1


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_was_lost_is_begun_again_at_most_so_many_times(retries: int) -> None:
    def script(name: str, device: Device, attempt: int) -> Outcome:
        always = name == "cursed" or (name == "unlucky" and attempt <= retries)
        return Outcome(LOST, "node gone") if always else OK

    sweep = Sweep(Scripted([device("a"), device("b")], script=script, far=True), retries)
    assert sweep.run([work("cursed"), work("unlucky"), work("fine")]) == {"cursed": LOST, "unlucky": "ok", "fine": "ok"}
    assert sweep.engine.attempts == {"cursed": 1 + retries, "unlucky": 1 + retries, "fine": 1}
    again = [line for line in sweep.display.lines if "lost: node gone; again" in line]
    assert len(again) == 2 * retries
    if retries:
        assert f"  cursed: lost: node gone; again (1 of at most {retries} times)" in again


@pytest.mark.parametrize("status", ["failed", "diverged", "timeout", "killed", "oom"])
def test_what_failed_by_itself_is_settled_once_and_never_begun_again(status: str) -> None:
    sweep = Sweep(Scripted([device("a")], script=lambda name, *_: Outcome(status) if name == "bad" else OK))
    assert sweep.run([work("bad"), work("good")]) == {"bad": status, "good": "ok"}
    assert sweep.engine.names() == ["bad", "good"]


def test_an_unfit_machine_gets_nothing_more() -> None:
    devices = [device("bad 0", node="bad"), device("bad 1", node="bad"), device("good")]
    wrong = Outcome(UNFIT, "bad has torch 1.0, not 2.0")
    engine = Scripted(devices, script=lambda name, device, _: wrong if device.node == "bad" else OK, far=True)
    sweep = Sweep(engine)
    ended = sweep.run([work(f"run {i}") for i in range(6)])
    assert set(ended.values()) == {"ok"}
    assert len(ended) == 6
    assert {end[3] for end in sweep.ends} == {"good"}
    assert sum(start.device != "good" for start in engine.starts) == 2, (
        "those that were begun there before it was known"
    )
    assert any("bad has torch 1.0, not 2.0; that machine is left out" in line for line in sweep.display.lines)


def test_where_every_machine_is_unfit_the_reasons_are_named() -> None:
    engine = Scripted(
        [device("a"), device("b")], script=lambda name, device, _: Outcome(UNFIT, f"{device.name} is old"), far=True
    )
    with pytest.raises(UserError, match="no device is fit for this sweep: a is old; b is old"):
        Sweep(engine).run([work("one"), work("two")])


def test_this_machine_cannot_be_left_out() -> None:
    sweep = Sweep(Scripted([device("a")], script=lambda name, *_: Outcome(UNFIT if name == "bad" else "ok")))
    assert sweep.run([work("bad"), work("good")]) == {"bad": "failed", "good": "ok"}


def test_out_of_memory_beside_others_is_tried_alone_once_its_device_is_empty() -> None:
    def script(name: str, device: Device, attempt: int) -> Outcome:
        return Outcome("oom", "too little") if name == "glutton" or (name == "big" and attempt == 1) else OK

    lengths = {"big": 1.0, "glutton": 1.0, "slow": 9.0}
    engine = Scripted([device("a", 2), device("b", 2)], lambda name, device: lengths.get(name, 2.0), script)
    sweep = Sweep(engine)
    names = ["big", "glutton", "slow", "short", "more", "and more"]
    assert sweep.run([work(name) for name in names]) == {**dict.fromkeys(names, "ok"), "glutton": "oom"}
    alone = [start for start in engine.starts if start.share == 1.0]
    assert [start.name for start in alone] == ["big", "glutton"]
    assert engine.attempts["glutton"] == 2, "alone it is its own fault"
    for start in alone:  # nothing runs beside: neither what began before and ends later, nor what begins until its end
        end = start.at + lengths[start.name]
        beside = [s for s in engine.starts if s.device == start.device and s != start]
        assert all(s.at + lengths.get(s.name, 2.0) <= start.at or s.at >= end for s in beside)


def test_what_another_process_has_is_put_off_and_said_once() -> None:
    engine = Scripted([device("a")])
    asked = [0]

    def before() -> Outcome | None:
        asked[0] += 1
        return Outcome("busy", "process 7 on elsewhere") if engine.clock < 6 else None

    sweep = Sweep(engine)
    assert sweep.run([work("theirs", 9.0, before=before), work("mine", 1.0)]) == {"theirs": "ok", "mine": "ok"}
    assert engine.names() == ["mine", "theirs"]
    assert engine.starts[0].at == 0, "the seat does not stand idle meanwhile"
    assert 6 <= engine.starts[1].at <= 6 + board.BUSY_SECONDS + board.WAIT_SECONDS
    assert asked[0] == 4
    assert [line for line in sweep.display.lines if "being run by" in line] == [
        "theirs: being run by process 7 on elsewhere; going on with the others, then waiting"
    ]


def test_what_turns_out_busy_on_arrival_is_put_off_too() -> None:
    engine = Scripted([device("a")], script=lambda name, _, attempt: Outcome("busy", "p") if attempt < 3 else OK)
    sweep = Sweep(engine)
    assert sweep.run([work("theirs")]) == {"theirs": "ok"}
    assert [start.at for start in engine.starts] == pytest.approx([0.0, 3.0, 6.0], abs=2 * board.WAIT_SECONDS)
    assert sum("being run by" in line for line in sweep.display.lines) == 1


def test_what_another_process_has_done_takes_no_seat_and_teaches_nothing() -> None:
    """Five failures of others' are not this machine's, and a run that took no time here is no measure of the next."""
    sweep = Sweep(Scripted([device("a"), device("b")], far=True))
    theirs = [work(f"theirs {i}", 9.0, before=lambda: Outcome("failed")) for i in range(IN_A_ROW)]
    done = work("done", 9.0, "same", before=lambda: OK)
    mine = [work(f"mine {i}", 1.0, "same") for i in range(4)]
    ended = sweep.run([*theirs, done, *mine])
    assert Counter(ended.values()) == {"failed": IN_A_ROW, "ok": 5}
    assert [(start.at, start.device) for start in sweep.engine.starts] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert sweep.display.tallies[0].seconds_left is None
    assert sweep.display.tallies[0].done == 1


def test_elsewhere_is_where_a_run_that_was_not_begun_was_done() -> None:
    found = []
    sweep = Sweep(Scripted([device("a")]))
    sweep.run([work("done", before=lambda: OK), work("mine")], lambda w, d, answer, bar: found.append(answer.where))
    assert found == [ELSEWHERE, "a"]


def test_a_machine_that_fails_every_model_is_left_out_where_another_works() -> None:
    engine = Scripted(
        [device("broken"), device("fine")],
        script=lambda name, device, _: Outcome("failed") if device.name == "broken" else OK,
        far=True,
    )
    sweep = Sweep(engine)
    ended = sweep.run([work(f"model {i}, seed {seed}", group=f"model {i}") for seed in range(3) for i in range(7)])
    assert Counter(ended.values()) == {"failed": IN_A_ROW, "ok": 21 - IN_A_ROW}
    assert "broken failed 5 different runs and did none; it is left out" in sweep.display.lines


@pytest.mark.parametrize(
    ("names", "far", "status"),
    [
        (["fine", "bad", "bad", "bad", "bad", "fine", "bad", "bad", "bad", "bad"], True, "failed"),  # now and then
        (["bad"] * 12, False, "failed"),  # this machine is the only one
        (["same"] * 12, True, "failed"),  # one model, whose fault it is
        (["bad"] * 12, True, "diverged"),  # it computed
    ],
)
def test_other_failures_are_not_the_machines(names: list[str], far: bool, status: str) -> None:
    engine = Scripted(
        [device("a", 1), device("b", 1)],
        # a is at work on the largest one till the end, so that b gets all the others, in their order
        lambda name, device: 100.0 if name == "large" else 1.0,
        lambda name, *_: OK if "fine" in name or name == "large" else Outcome(status),
        far,
    )
    sweep = Sweep(engine)
    sweep.run(
        [work("large", 7.0), *(work(f"{name} {i}", group="same" * (name == "same")) for i, name in enumerate(names))]
    )
    assert [start.device for start in engine.starts] == ["a", *"b" * len(names)]
    assert not any("left out" in line for line in sweep.display.lines)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_error_stops_what_runs_and_hears_it_out(error: BaseException) -> None:
    """Of three that end together the first cannot be settled; nor, where the disk is full, can the last."""
    engine = Scripted([device("a", 4)], lambda name, device: 9.0 if name == "slow" else 1.0)
    sweep = Sweep(engine)

    def settle(work: Work, device: Device, answer: Answer, bar: Events) -> None:
        sweep.settle(work, device, answer, bar)
        if work.name == "first" or (work.name == "third" and isinstance(error, OSError)):
            raise error

    with pytest.raises(type(error)):
        sweep.run([work(name) for name in ("first", "second", "third", "slow", "never begun")], settle)
    assert engine.stopped
    assert {name: status for _, name, status, _ in sweep.ends} == {
        "first": "ok", "second": "ok", "third": "ok", "slow": "interrupted",
    }  # fmt: skip
    assert engine.clock == 1.0


def test_what_fails_before_it_is_handed_over_is_not_waited_for() -> None:
    def before() -> Outcome | None:
        raise OSError("the store is gone")

    engine = Scripted([device("a", 3)])
    sweep = Sweep(engine)
    with pytest.raises(OSError, match="the store is gone"):
        sweep.run([work("one", 3.0), work("two", 2.0), work("three", 1.0, before=before)])
    assert engine.stopped
    assert (engine.clock, engine.starts, sweep.ends) == (0.0, [], [])


@pytest.mark.parametrize("status", ["busy", UNFIT])
def test_what_never_began_is_no_end_of_a_sweep_that_is_stopped(status: str) -> None:
    """Statuses that no record can have."""
    engine = Scripted([device("a", 2)], lambda name, device: 1.0 if name == "first" else 2.0)
    engine.stop = lambda: None  # type: ignore[method-assign]
    engine.script = lambda name, *_: OK if name == "first" else Outcome(status)
    sweep = Sweep(engine)

    def settle(work: Work, device: Device, answer: Answer, bar: Events) -> None:
        sweep.settle(work, device, answer, bar)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run([work("first"), work("second")], settle)
    assert [name for _, name, *_ in sweep.ends] == ["first"]


def test_an_end_may_add_more() -> None:
    sweep = Sweep(Scripted([device("a")]))

    def settle(work_: Work, device: Device, answer: Answer, bar: Events) -> None:
        sweep.settle(work_, device, answer, bar)
        if len(sweep.ends) < 4:
            sweep.board.add(work(f"{work_.name}+"))

    assert list(sweep.run([work("a")], settle)) == ["a", "a+", "a++", "a+++"]


def test_the_time_left_is_right_where_all_take_equally_long() -> None:
    """Ten seconds each, nine runs on two devices: 50 s in all, and unknown until the first has ended."""
    sweep = Sweep(Scripted([device("a"), device("b")], lambda *_: 10.0))
    sweep.run([work(f"run {i}", 1.0, "same") for i in range(9)])
    assert [(tally.done, tally.running, tally.devices, tally.seconds_left) for tally in sweep.display.tallies] == [
        (0, 2, 2, None), (2, 2, 2, 40.0), (4, 2, 2, 30.0), (6, 2, 2, 20.0), (8, 1, 1, 10.0), (9, 0, 0, 0.0),
    ]  # fmt: skip


# --- one task alone --------------------------------------------------------------------------------------------------


@dataclass
class Alone:
    """An engine that says what is scripted about whatever it is asked."""

    said: list[Sequence[dict[str, Any] | Answer]]
    far: bool = True
    stopped: bool = False
    asked: list[Task] = field(default_factory=list)
    ticket: int = -1

    def devices(self) -> list[Device]:
        return [device("a")]

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        ((self.ticket, task, _),) = tasks
        self.asked.append(task)

    def events(self, seconds: float) -> list[Heard]:
        heard = self.said.pop(0)
        if heard == [{"event": "interrupt"}]:
            raise KeyboardInterrupt
        return [(-7, {"event": "of an earlier task", "n": 0}), *((self.ticket, one) for one in heard)]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        """Nothing is left."""


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"event": "block", "n": n, "block": n} for n in numbers]


def test_every_event_arrives_once_and_in_order_though_live_ones_were_lost() -> None:
    step = {"event": "step", "step": 7}
    answer = Answer(OK, "a", tuple(numbered(0, 1, 2, 3, 4)))
    engine = Alone([numbered(0), [step], [], numbered(2), numbered(1, 3), [answer]])
    heard: list[dict[str, Any]] = []
    assert call_alone(engine, device("a"), Task("s", "m:f", ()), heard.append) is answer
    assert heard == [{"event": "block", "block": 0}, step, *({"event": "block", "block": n} for n in (1, 2, 3, 4))]
    assert engine.asked[0].whole_host


@given(st.lists(st.integers(0, 9), max_size=40))
def test_in_order_whatever_comes_live(live: list[int]) -> None:
    heard: list[int] = []
    in_order = InOrder(lambda event: heard.append(event["block"]))
    for event in numbered(*live, *range(10)):
        in_order(event)
    assert heard == list(range(10))


def test_a_host_at_work_is_no_place_for_a_session() -> None:
    refused = Answer(Outcome(REFUSED, "node-2: 3 runs are being trained"), "node-2")
    with pytest.raises(NotIdle, match="nothing is timed beside other work: node-2: 3 runs are being trained"):
        call_alone(Alone([[refused]]), device("a"), Task("s", "m:f", ()), lambda event: None)


def test_an_interrupted_session_is_stopped_and_heard_out() -> None:
    heard: list[dict[str, Any]] = []
    engine = Alone([[{"event": "interrupt"}], numbered(0), [Answer(Outcome("interrupted"), "a")]])
    with pytest.raises(KeyboardInterrupt):
        call_alone(engine, device("a"), Task("s", "m:f", ()), heard.append)
    assert engine.stopped
    assert not engine.said
    assert heard == [{"event": "block", "block": 0}]


def test_a_machine_that_lost_a_run_gets_nothing_for_a_while() -> None:
    """Ray may take a dead node for living: it would take the same run again and again until no retry is left."""
    now, taken = [0.0], list[str]()
    pair = [replace(HERE, name=name, node=name) for name in ("dead", "fine")]

    def answer(task: Task, device: Device) -> Answer:
        taken.append(device.name)
        now[0] += 1.0
        return Answer(Outcome(LOST, "gone") if device.name == "dead" else Outcome("ok"))

    engine = AtOnce(answer, pair, far=True)
    made, ends = Board(engine, Display(make_console()), now=lambda: now[0]), list[str]()
    for n in range(8):
        made.add(Work(f"run {n}", f"run {n}", f"run {n}", 1, lambda device, alone: Task("x", "m:f", ())))
    made.run(lambda work, device, answer, bar: ends.append(answer.outcome.status))
    assert ends == ["ok"] * 8
    assert taken.count("dead") == 1
