"""Several trainings in one process, taking turns step by step. Example: take_turns(jobs, device, Company(4), ended)

A small network leaves most of a GPU idle: on an H100 four captured steps of seresnet on four streams gave 1.88 times
the images per second of one (issue 20). Each training keeps what it would have alone: weights, optimizer, batches,
random streams, on a GPU a stream and a generator of its own; so on a CPU it is the same training to the last bit. Their
seconds are nobody's own, and no record has them.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.errors import Busy, Diverged, Interrupted, Unfit, UserError
from bench.core.events import Event, Finished, OfRun, Report
from bench.core.status import failure
from bench.data.datasets import DataSource
from bench.measure.device import synchroniser
from bench.measure.run import Images, claimed_run, data_here, run_trial
from bench.measure.supervise import Turns
from bench.plan.spec import RunOptions, RunSpec
from bench.store.disk import Store

WORTH = 1.1  # times the images per second of one alone, below which trainings go one after the other
WINDOWS, STEPS = 3, 20  # of a measurement: the fastest window counts, since a validation may fall into one
MEMORY_SHARE = 0.8  # of what is free, for those that join the first


@dataclass
class Company:
    """How many train at once. `width` 0: as many of `most` as memory allows and a measurement says is worth it."""

    width: int
    most: int = 1
    remarks: list[str] = field(default_factory=list)  # what the measurement found, for every record

    @property
    def size(self) -> int:
        """How many take turns from now on, as far as it is known."""
        return self.width or self.most


@dataclass(frozen=True)
class Job:
    """One of several trainings. `begin` makes it, told how many take turns; its result is `ended`'s."""

    name: str
    begin: Callable[[int], Turns[Event]]


class Lane:
    """A training, and what of the process is its own while it has its turn."""

    def __init__(self, job: Job, device: torch.device, together: int) -> None:
        self.name, self._device = job.name, device
        self._turns = job.begin(together)
        self._host: tuple[Any, ...] | None = None  # states of the host's random streams
        self._generator: torch.Generator | None = None  # a CUDA graph replays from the state that it was captured with
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._generator = _default_generator(device).clone_state()
            self._stream = torch.cuda.Stream(device)
            torch.cuda.synchronize(device)  # the images that all share may still be on their way

    def step(self) -> Event | None:
        """Its turn: one training step and what comes before it. Its result at the end; raises what it raises."""
        with self._own():
            try:
                next(self._turns)
            except StopIteration as end:
                result: Event = end.value
                return result
        return None

    def close(self) -> None:
        """Give it up where it is."""
        with self._own():
            self._turns.close()

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        if self._host is not None:
            torch_state, python_state, numpy_state = self._host
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
        with contextlib.ExitStack() as stack:
            if self._generator is not None:
                default = _default_generator(self._device)
                stack.callback(default.graphsafe_set_state, default.graphsafe_get_state())
                default.graphsafe_set_state(self._generator)
                stack.enter_context(torch.cuda.stream(self._stream))
            try:
                yield
            finally:
                self._host = (torch.get_rng_state(), random.getstate(), np.random.get_state())


def _default_generator(device: torch.device) -> torch.Generator:
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


Ended = Callable[[str, Event], None]


def take_turns(jobs: Iterable[Job], device: torch.device, company: Company, ended: Ended) -> None:
    """Carry the jobs out, `company.width` at a time. `ended` hears what each returned, or a Failed.

    One's failure is its own. Raises Interrupted once each has saved and stopped; Unfit; and what leaves the process
    unusable for the others, such as a device assert.
    """
    waiting, lanes = deque(jobs), list[Lane]()
    interrupted: Interrupted | None = None

    def join() -> None:
        lanes.append(Lane(waiting.popleft(), device, company.size))

    def turn(lane: Lane) -> bool:
        """Whether it goes on."""
        nonlocal interrupted
        try:
            result = lane.step()
        except Interrupted as error:
            interrupted = error
            waiting.clear()
            company.width = len(lanes)  # all of them, to save
        except Unfit:
            raise
        except Exception as error:
            failed = failure(error)
            if not isinstance(error, Diverged | Busy | UserError) and not _usable(device):
                raise
            del error
            lane.close()
            ended(lane.name, failed)
            _free(device)
        else:
            if result is None:
                return True
            ended(lane.name, result)
        lanes.remove(lane)
        return False

    try:
        if not company.width:
            join()
            if turn(lanes[0]):
                _settle_width(company, waiting, lanes, join, turn, device)
            company.width = company.width or 1
        while waiting or lanes:
            while waiting and len(lanes) < company.width:
                join()
            for lane in lanes[: company.width]:
                turn(lane)
        if interrupted is not None:
            raise interrupted
    finally:
        for lane in lanes:
            lane.close()


def _settle_width(
    company: Company,
    waiting: Sized,
    lanes: list[Lane],
    join: Callable[[], None],
    turn: Callable[[Lane], bool],
    device: torch.device,
) -> None:
    """Decide how many take turns, by their own steps: nothing is trained in vain. The first has made its first step."""
    room = _room(device)
    alone = _rate(lanes, turn, device)
    if alone is None:
        return
    company.width = min(company.most, len(waiting) + 1, room)
    while waiting and lanes and len(lanes) < company.width:  # one may fail, or all be asked to stop
        join()
        turn(lanes[-1])
    together = _rate(lanes, turn, device)
    if company.width < 2 or together is None:
        return
    gain, words = together / alone, f"{company.width} trained together"
    if gain < WORTH:
        company.width, words = 1, f"{company.width} were tried together and then trained one after the other"
    company.remarks.append(f"{words}: {gain:.2f} times the images/s of one alone")


def _room(device: torch.device) -> int:
    """How many trainings like the one that has begun fit into the memory, itself included."""
    if device.type != "cuda":
        return 1 << 30
    free, _ = torch.cuda.mem_get_info(device)
    return 1 + int(MEMORY_SHARE * free / max(1, torch.cuda.memory_reserved(device)))


def _rate(lanes: list[Lane], turn: Callable[[Lane], bool], device: torch.device) -> float | None:
    """Steps per second of all lanes together; None where one ended meanwhile."""
    count, rates, wait = len(lanes), list[float](), synchroniser(device)
    for _ in range(WINDOWS):
        wait()
        start = time.perf_counter()
        for _ in range(STEPS):
            for lane in list(lanes):
                if not turn(lane):
                    return None
        wait()
        rates.append(count * STEPS / (time.perf_counter() - start))
    return max(rates)


def _usable(device: torch.device) -> bool:
    """Whether the device still computes: a device assert is felt by every later call of the process."""
    try:
        synchroniser(device)()
    except Exception:
        return False
    return True


def _free(device: torch.device) -> None:
    """What a training that has ended held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --- in a child process ------------------------------------------------------------------------------------------


def child_runs(
    report: Report, runs: list[tuple[str, RunSpec]], source: DataSource, root: Path, options: RunOptions
) -> None:
    """Runs of one model that differ in the seed, each under its own lock; those that are done are left alone.

    Every event is of one of them, by its name. `options.together`: how many take turns, 0: to be found.
    """
    store, images = Store(root.absolute()), Images(data_here(source))
    company = Company(options.together, min(len(runs), options.together or len(runs)))

    def job(name: str, spec: RunSpec) -> Job:
        own = _own(report, name)

        def begin(together: int) -> Turns[Event]:
            mine = replace(options, together=together)
            yield from claimed_run(spec, lambda: images, store, own, mine, remarks=company.remarks)
            return Finished()

        return Job(name, begin)

    jobs = [job(*run) for run in runs]
    take_turns(jobs, torch.device(runs[0][1].device), company, lambda name, event: report(OfRun(name, event)))


def child_trials(report: Report, trials: list[tuple[str, RunSpec]], source: DataSource, together: int) -> None:
    """Trials of a learning-rate search, by name; the last event of each holds its result."""
    images, company = Images(data_here(source)), Company(together, len(trials))

    def job(name: str, spec: RunSpec) -> Job:
        return Job(name, lambda count: run_trial(spec, images, _own(report, name), count))

    jobs = [job(*trial) for trial in trials]
    take_turns(jobs, torch.device(trials[0][1].device), company, lambda n, event: report(OfRun(n, event)))


def _own(report: Report, name: str) -> Report:
    return lambda event: report(OfRun(name, event))
