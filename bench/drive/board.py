"""Which task goes to which device, and what is tried again. Example: board.add(work); board.run(settle)

The same for every engine: the longest first, to whichever device has room; what went down with its machine again, a few
times; what failed by itself never. What an answer means for the store is the caller's, by `settle`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bench.core.errors import NotIdle, UserError
from bench.drive.forecast import Forecast, Size, makespan
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Engine, Heard, Task
from bench.executors.worker import not_idle
from bench.present.screen.progress import Display, Events, Tally
from bench.store.disk import now as utc_now

RETRIES = 3  # of a run whose machine was lost
WAIT_SECONDS = 0.2  # for events, at most: in between others' locks and devices are looked at
BUSY_SECONDS = 2.0  # between two looks at whether another process has finished
REST_SECONDS = 30.0  # a machine that lost a run gets nothing for as long: an engine may take it for living meanwhile
DESERTED_SECONDS = 600.0  # without any device, after which a sweep gives up
TELL_SECONDS = 5.0  # between two reckonings of the time left
IN_A_ROW = 5  # runs of different models that failed on one device, and none that did not: it is the device

ELSEWHERE = "another process"  # where an Answer comes from that `before` gave
UNKNOWN = Size("")
TICKETS = itertools.count()  # of all boards: what an engine says late of an earlier one's task is nobody's


def _ignore(event: dict[str, Any]) -> None:
    pass


def _nothing() -> Outcome | None:
    return None


@dataclass
class Work:
    """A task to come. `task`: for a device, and whether it is to have that one for itself.

    `before`: asked at the last moment; an outcome says that, and why, it need not be begun.
    """

    name: str
    title: str
    short: str  # before its lines, where several run at once
    batch_size: int
    task: Callable[[Device, bool], Task]
    before: Callable[[], Outcome | None] = _nothing
    size: Size = UNKNOWN
    turn: int = 0  # lower ones first, before any size
    hear: Callable[[dict[str, Any]], None] = _ignore  # its events, beside the display
    lost: int = 0
    alone: bool = False
    started: str = ""  # in UTC, of the last attempt


@dataclass
class _Running:
    work: Work
    device: Device
    bar: Events
    closing: contextlib.ExitStack
    begun: float


Settle = Callable[[Work, Device, Answer, Events], None]


@dataclass
class _Counts:
    total: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0


class Board:
    """Works that wait, works that run, and an engine with devices."""

    def __init__(
        self, engine: Engine, display: Display, retries: int = RETRIES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._display, self._retries, self._now = engine, display, retries, now
        self._order = itertools.count()
        self._heard: deque[Heard] = deque()  # what the engine said and nobody has looked at yet
        self._waiting: list[tuple[tuple[int, float, float], int, Work]] = []  # a heap, the largest first
        self._later: list[tuple[float, int, Work]] = []  # a heap: busy elsewhere, looked at again then
        self._alone: list[Work] = []  # for a device to themselves, when no others wait
        self._running: dict[int, _Running] = {}
        self._used: Counter[str] = Counter()  # seats, by device
        self._unfit: dict[str, str] = {}  # nodes, and why
        self._resting: dict[str, float] = {}  # nodes that lost a run, and until when they get nothing
        self._in_a_row: dict[str, set[str]] = {}
        self._told: set[str] = set()
        self._counts, self._forecast = _Counts(), Forecast()
        self._seen, self._tell_next = now(), 0.0

    def add(self, work: Work) -> None:
        """One more, even while the others run."""
        self._counts.total += 1
        self._wait(work)

    def run(self, settle: Settle, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until everything is settled; `settle` hears each end once and may add more; `meanwhile` is called in between.

        An interruption, or what is raised, stops what runs, hears it out and goes on. Raises UserError where no device
        is left.
        """
        try:
            while self._waiting or self._later or self._alone or self._running:
                self._begin(settle)
                if self._now() >= self._tell_next:  # now that the seats are taken, of which the time left is reckoned
                    self._tell()
                self._listen(settle, WAIT_SECONDS)
                meanwhile()
            self._tell()
        except BaseException:
            self._wind_up(settle)
            raise

    # --- begin -----------------------------------------------------------------------------------------------------

    def _wait(self, work: Work) -> None:
        if work.alone:
            self._alone.append(work)
        else:
            flops, seconds = work.size.rank
            heapq.heappush(self._waiting, ((work.turn, -flops, -seconds), next(self._order), work))

    def _begin(self, settle: Settle) -> None:
        """Give every free seat something to do."""
        while self._later and self._later[0][0] <= self._now():
            self._wait(heapq.heappop(self._later)[2])
        devices = self._devices()
        tasks: list[tuple[int, Task, Device]] = []
        try:
            for device in self._seats(devices):
                begun = False
                while self._waiting and not begun:  # what another process has, or has done, takes no seat
                    begun = self._start(heapq.heappop(self._waiting)[2], device, settle, tasks)
            for device in [] if self._waiting else devices:
                begun = self._used[device.name] > 0
                while self._alone and not begun:
                    begun = self._start(self._alone.pop(0), device, settle, tasks)
        except BaseException:
            for ticket, _, _ in tasks:  # the engine never hears of them, so nobody need wait for their ends
                self._leave(ticket).closing.close()
            raise
        if tasks:
            self._engine.start(tasks)

    def _devices(self) -> list[Device]:
        """Those that may get work. Raises UserError where there has been none for long, or will be none."""
        every = self._engine.devices()
        devices = [device for device in every if device.node not in self._unfit]
        if devices or self._running:
            self._seen = self._now()
        if every and not devices and not self._running:
            raise UserError(f"no device is fit for this sweep: {'; '.join(sorted(set(self._unfit.values())))}")
        if self._now() - self._seen > DESERTED_SECONDS:
            raise UserError("no device has been there for ten minutes; bring one back, and the same command goes on")
        return [device for device in devices if self._resting.get(device.node, 0.0) <= self._now()]

    def _seats(self, devices: list[Device]) -> Iterator[Device]:
        """A device for each free seat: first one of each, then the second, so that few runs spread over many."""
        free = {device.name: device.seats - self._used[device.name] for device in devices}
        for used in range(max((device.seats for device in devices), default=0)):
            if not self._waiting:
                return
            for device in devices:
                if self._used[device.name] <= used and free[device.name] > 0:
                    free[device.name] -= 1
                    yield device

    def _start(self, work: Work, device: Device, settle: Settle, tasks: list[tuple[int, Task, Device]]) -> bool:
        """A seat's work, shown and put to `tasks`; False where it need not be begun after all."""
        outcome = work.before()
        if outcome is not None and outcome.status == "busy":
            self._put_off(work, outcome.message)
            return False
        task = work.task(device, work.alone) if outcome is None else None
        work.started = utc_now()
        several = self._several()
        prefix = f"  {work.short}: " if several else "  "
        title = f"{work.title} on {device.name}" if several and len(self._engine.devices()) > 1 else work.title
        closing = contextlib.ExitStack()
        bar = closing.enter_context(self._display.run(title, work.batch_size, prefix, work.name))
        running = _Running(work, device, bar, closing, self._now())
        if task is None:
            assert outcome is not None
            self._end(running, Answer(outcome, ELSEWHERE), settle)
            return False
        ticket = next(TICKETS)
        self._running[ticket] = running
        self._used[device.name] += device.seats if work.alone else 1
        tasks.append((ticket, task, device))
        return True

    def _put_off(self, work: Work, who: str) -> None:
        """Another process has it: later again."""
        if work.name not in self._told:
            self._told.add(work.name)
            self._display.line(f"{work.short}: being run by {who}; going on with the others, then waiting")
        heapq.heappush(self._later, (self._now() + BUSY_SECONDS, next(self._order), work))

    def _several(self) -> bool:
        return self._engine.far or sum(device.seats for device in self._engine.devices()) > 1

    # --- hear ------------------------------------------------------------------------------------------------------

    def _listen(self, settle: Settle, seconds: float) -> None:
        self._heard.extend(self._engine.events(seconds))
        while self._heard:  # one by one: an interruption leaves the others' ends where _wind_up finds them
            ticket, heard = self._heard.popleft()
            running = self._running.get(ticket)
            if running is None:
                continue
            if isinstance(heard, Answer):
                self._judge(self._leave(ticket), heard, settle)
            else:
                running.work.hear(heard)
                running.bar.event(heard)

    def _leave(self, ticket: int) -> _Running:
        running = self._running.pop(ticket)
        self._seen = self._now()
        self._used[running.device.name] -= running.device.seats if running.work.alone else 1
        return running

    def _judge(self, running: _Running, answer: Answer, settle: Settle) -> None:
        """Again, later, elsewhere, alone; or the end."""
        work, device, outcome = running.work, running.device, answer.outcome
        if outcome.status == "busy":
            running.closing.close()
            self._put_off(work, outcome.message)
        elif outcome.status == LOST and work.lost < self._retries:
            work.lost += 1
            if not device.apart:
                self._resting[device.node] = self._now() + REST_SECONDS
            self._again(running, f"lost: {outcome.message}; again ({work.lost} of at most {self._retries} times)")
        elif outcome.status == UNFIT and self._engine.far:
            self._unfit[device.node] = outcome.message
            self._again(running, f"{outcome.message}; that machine is left out")
        elif outcome.status == "oom" and device.beside > 1 and not work.alone:
            work.alone = True
            self._again(running, f"oom: {outcome.message}; again with the device to itself")
        else:
            if outcome.status == UNFIT:
                answer = replace(answer, outcome=replace(outcome, status="failed"))
            self._end(running, answer, settle)

    def _again(self, running: _Running, why: str) -> None:
        running.bar.line(why)
        running.closing.close()
        self._counts.retried += 1
        self._wait(running.work)

    def _end(self, running: _Running, answer: Answer, settle: Settle) -> None:
        well, here = answer.outcome.status == "ok", answer.where != ELSEWHERE
        self._counts.done += well
        self._counts.failed += not well
        if well and here:
            self._forecast.learn(running.work.size, running.device.kind, self._now() - running.begun)
        with running.closing:
            settle(running.work, running.device, answer, running.bar)
        if here:
            self._watch(running, answer.outcome.status)

    def _watch(self, running: _Running, status: str) -> None:
        """Leave out a machine that fails everything while others are there: it would empty the whole list."""
        node, failed = running.device.node, self._in_a_row.setdefault(running.device.node, set())
        if status in ("ok", "diverged"):  # it did compute
            failed.clear()
            return
        failed.add(running.work.size.group or running.work.name)
        others = {device.node for device in self._engine.devices()} - {node, *self._unfit}
        if self._engine.far and len(failed) >= IN_A_ROW and others:
            self._unfit[node] = f"{running.device.name} failed {len(failed)} different runs and did none"
            self._display.line(f"{self._unfit[node]}; it is left out")

    def _wind_up(self, settle: Settle) -> None:
        """Ask what runs to save and end, and hear it out; an interruption more leaves it alone."""
        deadline = self._now() + 2 * GRACE_SECONDS
        try:
            self._engine.stop()
            while self._running and self._now() < deadline:
                if not self._heard:
                    self._heard.extend(self._engine.events(WAIT_SECONDS))
                while self._heard:
                    ticket, heard = self._heard.popleft()
                    if isinstance(heard, Answer) and ticket in self._running:
                        self._last_words(self._leave(ticket), heard, settle)
        finally:
            for running in self._running.values():
                running.closing.close()

    def _last_words(self, running: _Running, answer: Answer, settle: Settle) -> None:
        """The end of a run that was stopped."""
        if answer.outcome.status in ("busy", UNFIT):  # it never began
            running.closing.close()
            return
        with contextlib.suppress(Exception):  # what began all this is told; the others' ends matter more than a second
            self._end(running, answer, settle)

    def _tell(self) -> None:
        self._tell_next = self._now() + TELL_SECONDS
        if self._several():
            devices = {running.device.name for running in self._running.values()}
            self._display.overall(
                Tally(
                    self._counts.done,
                    self._counts.failed,
                    len(self._running),
                    self._counts.total,
                    self._counts.retried,
                    len(devices),
                    self._left(),
                )
            )

    def _left(self) -> float | None:
        """Seconds until all is done, as far as can be told."""
        free: list[float] = []
        for running in self._running.values():
            seconds = self._forecast.seconds(running.work.size, running.device.kind)
            if seconds is None:
                return None
            free.append(max(0.0, seconds - (self._now() - running.begun)))
        kinds = [running.device.kind for running in self._running.values()] or [""]
        coming = [entry[2] for entry in sorted(self._waiting)] + [entry[2] for entry in self._later] + self._alone
        found = [self._forecast.seconds(work.size, kinds[0]) for work in coming]
        known = [seconds for seconds in found if seconds is not None]
        return makespan(known, free) if len(known) == len(found) else None


# --- one task, with a whole machine to itself ------------------------------------------------------------------------


@dataclass
class InOrder:
    """Hands on every numbered event once, in order, whether it came by itself or with the answer."""

    hear: Callable[[dict[str, Any]], None]
    taken: int = field(default=0)

    def __call__(self, event: dict[str, Any]) -> None:
        """An event. What came after one that was lost waits for the answer."""
        number = event.get("n")
        if number is None:
            self.hear(event)
        elif number == self.taken:
            self.taken += 1
            self.hear({key: value for key, value in event.items() if key != "n"})


def call_alone(engine: Engine, device: Device, task: Task, on_event: Callable[[dict[str, Any]], None]) -> Answer:
    """Carry out one task, for which nothing else runs on its machine; every event arrives before this returns.

    Raises NotIdle where it is not idle, and KeyboardInterrupt after the task has been stopped.
    """
    in_order, answers, mine = InOrder(on_event), list[Answer](), next(TICKETS)

    def listen(seconds: float) -> None:
        for ticket, heard in engine.events(seconds):
            if ticket != mine:
                continue
            if isinstance(heard, Answer):
                answers.append(heard)
            else:
                in_order(heard)

    engine.start([(mine, replace(task, whole_host=True), device)])
    try:
        while not answers:
            listen(WAIT_SECONDS)
    except BaseException:
        engine.stop()
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        while not answers and time.monotonic() < deadline:
            listen(WAIT_SECONDS)
        raise
    if answers[0].outcome.status == REFUSED:
        raise NotIdle(not_idle(answers[0].outcome.message))
    for event in answers[0].events:
        in_order(event)
    return answers[0]
