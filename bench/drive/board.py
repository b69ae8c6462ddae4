"""Which task goes to which device, and what is retried. Example: board.add(work); board.run(settle)

The same for every executor: the longest first, to whichever device has room. Tasks lost with their machine are retried
a few times; tasks that failed by themselves never. What an answer means for the store is decided by the caller's
`settle`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bench.core.display import Display, RunDisplay, SeveralRuns, Tally
from bench.core.errors import NotIdle, UserError
from bench.core.events import Event, Numbered, Report
from bench.drive.forecast import Forecast, Size, makespan
from bench.executors.child import GRACE_SECONDS, Outcome
from bench.executors.protocol import LOST, REFUSED, UNFIT, Answer, Device, Executor, Message, Task
from bench.executors.worker import not_idle
from bench.store.disk import now as utc_now

RETRIES = 3  # of a run whose machine was lost
WAIT_SECONDS = 0.2  # for events, at most: in between, others' locks and devices are checked
BUSY_SECONDS = 2.0  # between two checks whether another process has finished
REST_SECONDS = 30.0  # a machine that lost a run gets no work meanwhile: an executor may still report it as alive
DESERTED_SECONDS = 600.0  # without any device, after which a sweep gives up
TALLY_SECONDS = 5.0  # between two estimates of the time left
IN_A_ROW = 5  # runs of different models that failed on one device while none succeeded: the device is to blame

ELSEWHERE = "another process"  # where an Answer comes from that `before` gave
UNKNOWN = Size("")
TICKETS = itertools.count()  # of all boards, so that a late event of an earlier board's task has no owner


def _ignore(event: Event) -> None:
    pass


def _nothing() -> Outcome | None:
    return None


@dataclass(frozen=True)
class Member:
    """One of several runs that a task carries out. Its display has this name, its lines begin with `short`."""

    name: str
    title: str
    short: str


@dataclass
class Work:
    """A task to come. `task`: makes it for a device; the flag says whether it gets the device to itself.

    `before`: asked at the last moment; an outcome means that the task need not start, and why. `members`: the runs, if
    it carries out several; whoever settles it tells the board of each one's end.
    """

    name: str
    title: str
    short: str  # before its lines, where several run at once
    batch_size: int
    task: Callable[[Device, bool], Task]
    before: Callable[[], Outcome | None] = _nothing
    size: Size = UNKNOWN
    turn: int = 0  # lower ones first, before any size
    on_event: Report = _ignore  # beside the display
    members: tuple[Member, ...] = ()
    lost: int = 0
    alone: bool = False
    started: str = ""  # in UTC, of the last attempt

    @property
    def runs(self) -> int:
        """How many runs it is."""
        return len(self.members) or 1


@dataclass
class _Running:
    work: Work
    device: Device
    display: RunDisplay
    closing: contextlib.ExitStack
    start: float


Settle = Callable[[Work, Device, Answer, RunDisplay], None]


@dataclass
class _Counts:
    total: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0


class Board:
    """Works that wait, works that run, and an executor with devices."""

    def __init__(
        self, executor: Executor, display: Display, retries: int = RETRIES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._executor, self._display, self._retries, self._now = executor, display, retries, now
        self._order = itertools.count()
        self._messages: deque[Message] = deque()  # received and not yet handled
        self._waiting: list[tuple[tuple[int, float, float], int, Work]] = []  # a heap, the largest first
        self._later: list[tuple[float, int, Work]] = []  # a heap: busy elsewhere, checked again then
        self._alone: list[Work] = []  # for a device to themselves, when no others wait
        self._running: dict[int, _Running] = {}
        self._used: Counter[str] = Counter()  # seats, by device
        self._unfit: dict[str, str] = {}  # nodes, and why
        self._resting: dict[str, float] = {}  # nodes that lost a run, and until when they get no work
        self._failed_in_a_row: dict[str, set[str]] = {}
        self._announced: set[str] = set()
        self._counts, self._forecast = _Counts(), Forecast()
        self._last_device_seen, self._next_tally = now(), 0.0

    def add(self, work: Work) -> None:
        """One more, even while the others run."""
        self._counts.total += work.runs
        self._wait(work)

    def again(self, work: Work) -> None:
        """One of several whose task has ended, and that is counted already, by itself."""
        self._counts.retried += 1
        self._wait(work)

    def ended(self, well: bool) -> None:
        """One of several has ended."""
        self._counts.done += well
        self._counts.failed += not well

    def run(self, settle: Settle, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run until everything is settled; `settle` is called once per end and may add more works.

        `meanwhile` is called in between. An interruption, or an exception, stops what runs, waits for its answers and
        is raised again. Raises UserError where no device is left.
        """
        try:
            while self._waiting or self._later or self._alone or self._running:
                self._start_all(settle)
                if self._now() >= self._next_tally:  # now that the seats are taken: the time left depends on them
                    self._show_tally()
                self._listen(settle, WAIT_SECONDS)
                meanwhile()
            self._show_tally()
        except BaseException:
            self._wind_up(settle)
            raise

    # --- start -----------------------------------------------------------------------------------------------------

    def _wait(self, work: Work) -> None:
        if work.alone:
            self._alone.append(work)
        else:
            flops, seconds = work.size.rank
            heapq.heappush(self._waiting, ((work.turn, -flops, -seconds), next(self._order), work))

    def _start_all(self, settle: Settle) -> None:
        """Give every free seat something to do."""
        while self._later and self._later[0][0] <= self._now():
            self._wait(heapq.heappop(self._later)[2])
        devices = self._devices()
        tasks: list[tuple[int, Task, Device]] = []
        try:
            for device in self._seats(devices):
                started = False
                while self._waiting and not started:  # what another process has, or has done, takes no seat
                    started = self._start(heapq.heappop(self._waiting)[2], device, settle, tasks)
            for device in [] if self._waiting else devices:
                started = self._used[device.name] > 0
                while self._alone and not started:
                    started = self._start(self._alone.pop(0), device, settle, tasks)
        except BaseException:
            for ticket, _, _ in tasks:  # the executor never gets them, so nobody need wait for their ends
                self._leave(ticket).closing.close()
            raise
        if tasks:
            self._executor.start(tasks)

    def _devices(self) -> list[Device]:
        """Those that may get work. Raises UserError where there has been none for long, or will be none."""
        every = self._executor.devices()
        devices = [device for device in every if device.node not in self._unfit]
        if devices or self._running:
            self._last_device_seen = self._now()
        if every and not devices and not self._running:
            raise UserError(f"no device is fit for this sweep: {'; '.join(sorted(set(self._unfit.values())))}")
        if self._now() - self._last_device_seen > DESERTED_SECONDS:
            raise UserError("no device for ten minutes; bring one back, then rerun the same command to resume")
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
        """A seat's work, shown and added to `tasks`; False where it need not start after all."""
        outcome = work.before()
        if outcome is not None and outcome.status == "busy":
            self._put_off(work, outcome.message)
            return False
        task = work.task(device, work.alone) if outcome is None else None
        work.started = utc_now()
        closing = contextlib.ExitStack()
        shown = self._shown(work, device, closing)
        running = _Running(work, device, shown, closing, self._now())
        if task is None:
            assert outcome is not None
            self._end(running, Answer(outcome, ELSEWHERE), settle)
            return False
        ticket = next(TICKETS)
        self._running[ticket] = running
        self._used[device.name] += device.seats if work.alone else 1
        tasks.append((ticket, task, device))
        return True

    def _shown(self, work: Work, device: Device, closing: contextlib.ExitStack) -> RunDisplay:
        """The display of its run, or of all its runs."""
        several = self._several()
        where = f" on {device.name}" if several and len(self._executor.devices()) > 1 else ""

        def shown(one: Work | Member) -> RunDisplay:
            prefix = f"  {one.short}: " if several or work.members else "  "
            return closing.enter_context(self._display.run(one.title + where, work.batch_size, prefix, one.name))

        return SeveralRuns({one.name: shown(one) for one in work.members}) if work.members else shown(work)

    def _put_off(self, work: Work, owner: str) -> None:
        """Another process has it: later again."""
        if work.name not in self._announced:
            self._announced.add(work.name)
            self._display.line(f"{work.short}: {owner} is running it; continuing with the others, then waiting")
        heapq.heappush(self._later, (self._now() + BUSY_SECONDS, next(self._order), work))

    def _several(self) -> bool:
        return self._executor.remote or sum(device.seats for device in self._executor.devices()) > 1

    # --- listen ----------------------------------------------------------------------------------------------------

    def _listen(self, settle: Settle, seconds: float) -> None:
        self._messages.extend(self._executor.events(seconds))
        while self._messages:  # one by one: an interruption leaves the others' ends where _wind_up finds them
            ticket, message = self._messages.popleft()
            running = self._running.get(ticket)
            if running is None:
                continue
            if isinstance(message, Answer):
                self._judge(self._leave(ticket), message, settle)
            else:
                event = message.event if isinstance(message, Numbered) else message
                running.work.on_event(event)
                running.display.event(event)

    def _leave(self, ticket: int) -> _Running:
        running = self._running.pop(ticket)
        self._last_device_seen = self._now()
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
            if not device.queued:
                self._resting[device.node] = self._now() + REST_SECONDS
            self._retry(running, f"lost: {outcome.message}; retry {work.lost} of at most {self._retries}")
        elif outcome.status == UNFIT and self._executor.remote:
            self._unfit[device.node] = outcome.message
            self._retry(running, f"{outcome.message}; that machine is left out")
        elif outcome.status == "oom" and device.runs_at_once > 1 and not work.alone:
            work.alone = True
            self._retry(running, f"oom: {outcome.message}; retrying with the device to itself")
        else:
            if outcome.status == UNFIT:
                answer = replace(answer, outcome=replace(outcome, status="failed"))
            self._end(running, answer, settle)

    def _retry(self, running: _Running, why: str) -> None:
        running.display.line(why)
        running.closing.close()
        self._counts.retried += 1
        self._wait(running.work)

    def _end(self, running: _Running, answer: Answer, settle: Settle) -> None:
        well, here = answer.outcome.status == "ok", answer.where != ELSEWHERE
        if not running.work.members:
            self.ended(well)
        if well and here:
            self._forecast.learn(running.work.size, running.device.kind, self._now() - running.start)
        with running.closing:
            settle(running.work, running.device, answer, running.display)
        if here:
            self._watch(running, answer.outcome.status)

    def _watch(self, running: _Running, status: str) -> None:
        """Leave out a machine that fails everything while others are there: it would empty the whole list."""
        node = running.device.node
        failed = self._failed_in_a_row.setdefault(node, set())
        if status in ("ok", "diverged"):  # it did compute
            failed.clear()
            return
        failed.add(running.work.size.group or running.work.name)
        others = {device.node for device in self._executor.devices()} - {node, *self._unfit}
        if self._executor.remote and len(failed) >= IN_A_ROW and others:
            self._unfit[node] = f"{running.device.name} failed {len(failed)} different runs and finished none"
            self._display.line(f"{self._unfit[node]}; it is left out")

    def _wind_up(self, settle: Settle) -> None:
        """Ask what runs to save and end, and wait for its answers; a second interruption stops waiting."""
        deadline = self._now() + 2 * GRACE_SECONDS
        try:
            self._executor.stop()
            while self._running and self._now() < deadline:
                if not self._messages:
                    self._messages.extend(self._executor.events(WAIT_SECONDS))
                while self._messages:
                    ticket, message = self._messages.popleft()
                    if isinstance(message, Answer) and ticket in self._running:
                        self._stopped(self._leave(ticket), message, settle)
        finally:
            for running in self._running.values():
                running.closing.close()

    def _stopped(self, running: _Running, answer: Answer, settle: Settle) -> None:
        """The end of a run that was asked to stop."""
        if answer.outcome.status in ("busy", UNFIT):  # it never started
            running.closing.close()
            return
        with contextlib.suppress(Exception):  # the first exception is raised; the ends matter more
            self._end(running, answer, settle)

    # --- time left -------------------------------------------------------------------------------------------------

    def _show_tally(self) -> None:
        self._next_tally = self._now() + TALLY_SECONDS
        if self._several():
            counts, devices = self._counts, {running.device.name for running in self._running.values()}
            self._display.overall(
                Tally(
                    counts.done,
                    counts.failed,
                    sum(running.work.runs for running in self._running.values()),
                    counts.total,
                    counts.retried,
                    len(devices),
                    self._seconds_left(),
                )
            )

    def _seconds_left(self) -> float | None:
        """Seconds until all is done; None where there is no estimate."""
        free: list[float] = []
        for running in self._running.values():
            seconds = self._forecast.seconds(running.work.size, running.device.kind)
            if seconds is None:
                return None
            free.append(max(0.0, seconds - (self._now() - running.start)))
        kinds = [running.device.kind for running in self._running.values()] or [""]
        coming = [entry[2] for entry in sorted(self._waiting)] + [entry[2] for entry in self._later] + self._alone
        estimates = [self._forecast.seconds(work.size, kinds[0]) for work in coming]
        known = [seconds for seconds in estimates if seconds is not None]
        return makespan(known, free) if len(known) == len(estimates) else None


# --- one task, with a whole machine to itself ------------------------------------------------------------------------


@dataclass
class InOrder:
    """Passes on every numbered event once, in order, whether it came by itself or with the answer."""

    on_event: Report
    taken: int = 0

    def __call__(self, event: Event | Numbered) -> None:
        """An event. What comes after one that was lost waits for the answer."""
        if not isinstance(event, Numbered):
            self.on_event(event)
        elif event.n == self.taken:
            self.taken += 1
            self.on_event(event.event)


def call_alone(executor: Executor, device: Device, task: Task, on_event: Report) -> Answer:
    """Carry out one task while nothing else runs on its machine; every event arrives before this returns.

    Raises NotIdle where the machine is not idle, and KeyboardInterrupt after the task has been stopped.
    """
    in_order, answers, own = InOrder(on_event), list[Answer](), next(TICKETS)

    def listen(seconds: float) -> None:
        for ticket, message in executor.events(seconds):
            if ticket != own:
                continue
            if isinstance(message, Answer):
                answers.append(message)
            else:
                in_order(message)

    executor.start([(own, replace(task, whole_host=True), device)])
    try:
        while not answers:
            listen(WAIT_SECONDS)
    except BaseException:
        executor.stop()
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        while not answers and time.monotonic() < deadline:
            listen(WAIT_SECONDS)
        raise
    answer = answers[0]
    if answer.outcome.status == REFUSED:
        raise NotIdle(not_idle(answer.outcome.message))
    for number, event in enumerate(answer.events):
        in_order(Numbered(number, event))
    return answer
