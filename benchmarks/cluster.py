"""How well is a cluster used, what does handing out work cost? Example: python benchmarks/cluster.py --out cluster.png

The simulation drives the real board (bench/drive/board.py) with an engine whose clock jumps from one end to the next: 15
models x 5 data sets x 5 seeds x 2 tracks on 1 to 256 devices, with the seconds that models took in the stores under
results/reference where they were measured, and by their FLOPs elsewhere. `ideal` is what no schedule can beat: all
work divided by all devices, or the longest run. Beside longest first stand two other orders: the runs as they are
named, seed by seed, and one plan (a data set in a track) after the other, longest first within each.

With --overhead, runs that do nothing go through everything that hands out real ones: board, store, views, lines.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import io
import itertools
import math
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from bench.core.errors import UserError
from bench.data.catalogue import CATALOGUE
from bench.data.datasets import DataSource
from bench.drive import board, runs
from bench.drive.board import Board, Work
from bench.drive.forecast import Size
from bench.executors.child import Outcome
from bench.executors.protocol import LOST, Answer, Device, Heard, Task
from bench.plan.recipes import shared
from bench.plan.spec import RunSpec
from bench.present.screen.progress import Display, Events, Tally
from bench.store.disk import Store, quartiles, seconds_per_call, shared_device
from tests import synthetic

REFERENCE = ROOT / "results" / "reference" / "cpu-2core"
# Of one training step for one image of 32 px, in millions, by bench.measure.cost (2026-11-23). At 64 px they are the same to
# within 5 %, counted too: stems and patches of all these models grow with the image.
TRAIN_MFLOPS = {
    "seresnet": 754, "seresnet20": 244, "seresnet110": 1518, "resnet20": 244, "resnet56": 754, "resnet110": 1518,
    "vit_tiny": 2189, "vit_params": 362, "vit_flops": 750, "simple_vit": 2155, "vit_lite": 1527,
    "vit_small_data": 1140, "cct_2": 209, "cct_7": 7076, "swin": 1445,
}  # fmt: skip
DATA_SETS = ("cifar10", "cifar100", "svhn", "tiny_imagenet", "fashion_mnist")
HELD_OUT = 0.1  # for validation, of each
SEEDS, TRACKS = 5, ("shared", "family")
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPAIR_SECONDS = 300.0  # until a device that failed is back
HOUR = 3600.0


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """From committed stores: seconds of training an image, by model; of everything else, a run; and how runs differ."""

    seconds_per_image: dict[str, float]
    counts: dict[str, int]  # how many measurements each rests on
    startup_seconds: float
    spread: float  # standard deviation of the logarithm of a run's speed among runs that differ in their seed alone
    runs: int
    groups: int

    def seconds_of(self, model: str) -> float:
        """Of training on one image; for a model without a measurement by its FLOPs, at the others' median speed."""
        rates = [1e6 * TRAIN_MFLOPS[name] / seconds for name, seconds in self.seconds_per_image.items()]
        return self.seconds_per_image.get(model, 1e6 * TRAIN_MFLOPS[model] / statistics.median(rates))


@cache
def measured(root: Path = REFERENCE) -> Measured:
    """What the stores in and under a folder say of runs that had their device to themselves."""
    stores = [Store(path) for path in (root, *sorted(root.iterdir())) if (path / "runs").is_dir()]
    alone = [run for store in stores for run in store.runs() if run["status"] == "ok" and not shared_device(run)]
    seconds, groups = defaultdict(list), defaultdict(list)
    for run in alone:
        speed = run["metrics"]["loop_images_per_second"]
        seconds[run["spec"]["model"]].append(1 / speed)
        groups[repr({**run["spec"], "seed": 0})].append(math.log(speed))
    for session in (session for store in stores for session in store.sessions()):
        for model in session["models"]:
            if steps := seconds_per_call(session, model, "train"):
                seconds[model].append(statistics.median(steps) / session["recipe"]["batch_size"])
    several = [logs for logs in groups.values() if len(logs) > 1]
    freedom = sum(len(logs) - 1 for logs in several)
    squares = sum((log - statistics.fmean(logs)) ** 2 for logs in several for log in logs)
    return Measured(
        {model: statistics.median(values) for model, values in seconds.items()},
        {model: len(values) for model, values in seconds.items()},
        statistics.median(run["metrics"]["wall_seconds"] - run["metrics"]["train_seconds"] for run in alone),
        math.sqrt(squares / freedom),
        len(alone),
        len(several),
    )


@dataclass(frozen=True)
class Job:
    """A run to come: how long it takes, and what the board is told of it beforehand."""

    name: str
    plan: str
    size: Size
    training: float
    startup: float = 0.0

    @property
    def seconds(self) -> float:
        """On a device of speed 1."""
        return self.training + self.startup


def comparison(found: Measured) -> list[Job]:
    """All runs, seed by seed. The board is told FLOPs, as before a first sweep, not how long they take."""
    epochs = shared().epochs
    jobs = []
    for seed, data, track, model in itertools.product(range(SEEDS), DATA_SETS, TRACKS, TRAIN_MFLOPS):
        images = epochs * round((1 - HELD_OUT) * CATALOGUE[data].facts.train)
        size = Size(f"{model} {data} {track}", flops=1e6 * TRAIN_MFLOPS[model] * images)
        length = found.seconds_of(model) * images
        jobs.append(Job(f"{size.group} {seed}", f"{data} {track}", size, length, found.startup_seconds))
    return jobs


def with_luck(jobs: Sequence[Job], spread: float, seed: int) -> list[Job]:
    """Each training somewhat shorter or longer, log-normally."""
    rng = random.Random(seed)
    return [replace(job, training=job.training * math.exp(rng.gauss(0, spread))) for job in jobs]


# --- the simulated cluster -------------------------------------------------------------------------------------------


class Silent(Display):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))

    def line(self, text: str) -> None:
        """Not said."""

    def ended(self, well: bool, text: str) -> None:
        """Not said."""

    def event(self, event: dict[str, Any]) -> None:
        """Not said."""

    def overall(self, tally: Tally) -> None:
        """Not said."""

    @contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[Events]:
        """The display itself is the bar of every run."""
        yield self


@dataclass(frozen=True)
class Failures:
    """Devices are lost, each while it works once in `mean_seconds`, exponentially; and what a run then keeps."""

    mean_seconds: float
    keeps: bool  # its checkpoints, of which there is one an epoch; else it begins anew
    seed: int = 0


@dataclass
class Simulated:
    """An engine without machines: its clock is at the next end as soon as somebody waits for one."""

    jobs: dict[str, Job]
    speeds: Sequence[float]
    failures: Failures | None = None
    far = True
    clock: float = 0.0
    worked: float = 0.0  # seconds, of all devices
    last_end: float = 0.0
    lost: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.failures.seed if self.failures else 0)
        self._all = [
            Device(f"device {i}", f"node {i}", "cuda", f"speed {speed:g}", True, 1)
            for i, speed in enumerate(self.speeds)
        ]
        self._speed = {device.name: speed for device, speed in zip(self._all, self.speeds, strict=True)}
        self._away: dict[str, float] = {}  # devices, until when
        self._there = self._all
        self._ends: list[tuple[float, int, str, Device, Outcome]] = []
        self._kept: Counter[str] = Counter()  # epochs of training, by run

    def now(self) -> float:
        """In seconds since the beginning."""
        return self.clock

    def devices(self) -> list[Device]:
        """Those that are not away."""
        return self._there

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Decide at once when each ends, and how."""
        for ticket, task, device in tasks:
            job, speed, epochs = self.jobs[task.name], self._speed[device.name], shared().epochs
            left = job.training * (1 - self._kept[job.name] / epochs)
            length, outcome = (left + job.startup) / speed, Outcome("ok")
            until = self._rng.expovariate(1 / self.failures.mean_seconds) if self.failures else math.inf
            if until < length:
                trained = max(0.0, until * speed - job.startup)
                if self.failures and self.failures.keeps:
                    self._kept[job.name] += int(trained / job.training * epochs)
                length, outcome = until, Outcome(LOST, "the device failed")
            self.worked += length
            heapq.heappush(self._ends, (self.clock + length, ticket, task.name, device, outcome))

    def events(self, seconds: float) -> list[Heard]:
        """The next end, or the next device's return."""
        back = min(self._away.values(), default=math.inf)
        if not self._ends or back <= self._ends[0][0]:
            self.clock = back
            self._away = {name: until for name, until in self._away.items() if until > back}
            self._there = [device for device in self._all if device.name not in self._away]
            return []
        self.clock, ticket, _, device, outcome = heapq.heappop(self._ends)
        self.last_end = self.clock
        if outcome.status == LOST:
            self.lost += 1
            self._away[device.name] = self.clock + REPAIR_SECONDS
            self._there = [one for one in self._there if one.name != device.name]
        return [(ticket, Answer(outcome, device.node))]

    def stop(self) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """Nothing is left."""


@dataclass
class Result:
    """How a simulated sweep went: hours, and how each run ended."""

    makespan: float
    idle: float  # share of the devices' time
    ends: Counter[tuple[str, str]] = field(repr=False)  # (name, status)
    lost: int = 0
    worked: float = 0.0

    @property
    def given_up(self) -> int:
        """Runs that were lost too often."""
        return sum(count for (_, status), count in self.ends.items() if status == LOST)


ORDERS = ("longest first", "as named", "plan by plan")


def simulate(jobs: Sequence[Job], speeds: Sequence[float], order: str, failures: Failures | None = None) -> Result:
    """A sweep of these runs on devices of these speeds, by the real board."""
    engine = Simulated({job.name: job for job in jobs}, speeds, failures)
    ends = Counter[tuple[str, str]]()

    def settle(work: Work, device: Device, answer: Answer, bar: Events) -> None:
        ends[work.name, answer.outcome.status] += 1

    plans = dict.fromkeys(job.plan for job in jobs) if order == "plan by plan" else {"": None}
    for plan in plans:
        sweep = Board(engine, Silent(), now=engine.now)
        for job in jobs:
            if plan in ("", job.plan):
                sweep.add(as_work(job, known=order != "as named"))
        sweep.run(settle)
    return Result(
        engine.last_end, 1 - engine.worked / (len(speeds) * engine.last_end), ends, engine.lost, engine.worked
    )


def as_work(job: Job, known: bool) -> Work:
    """A job for the board; where its size is not known, it stays where it was named."""

    def task(device: Device, alone: bool) -> Task:
        return Task(job.name, "", ())

    return Work(job.name, job.name, job.name, 1, task, size=job.size if known else replace(job.size, flops=None))


def ideal(jobs: Iterable[Job], speeds: Sequence[float]) -> float:
    """Seconds that no schedule can beat: all work on all devices at once, or the longest run on the fastest."""
    lengths = [job.seconds for job in jobs]
    return max(sum(lengths) / sum(speeds), max(lengths) / max(speeds))


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A number of devices under one order, over several draws of luck: hours, ratios to the ideal, idle shares."""

    devices: int
    order: str
    hours: list[float]
    ideal_hours: list[float]
    idle: list[float]

    @property
    def ratios(self) -> list[float]:
        """Makespan by ideal, for each draw."""
        return [hours / best for hours, best in zip(self.hours, self.ideal_hours, strict=True)]


def sweep_over(
    draws: Sequence[Sequence[Job]], counts: Iterable[int], orders: Iterable[str], speeds: Callable[[int], list[float]]
) -> list[Row]:
    """Every number of devices under every order."""
    rows = []
    for count, order in itertools.product(counts, orders):
        found = [simulate(jobs, speeds(count), order) for jobs in draws]
        best = [ideal(jobs, speeds(count)) / HOUR for jobs in draws]
        rows.append(Row(count, order, [r.makespan / HOUR for r in found], best, [r.idle for r in found]))
    return rows


def table(rows: Sequence[Row], orders: Sequence[str]) -> str:
    """Hours at best, then for each order makespan by that, its range, and the idle share."""
    lines = ["devices   ideal, h" + "".join(f"   {order + ': h':>18}   by ideal (low-high)   idle" for order in orders)]
    for count in dict.fromkeys(row.devices for row in rows):
        here = {row.order: row for row in rows if row.devices == count}
        words = [f"{count:>7}   {statistics.fmean(here[orders[0]].ideal_hours):>8,.1f}"]
        for order in orders:
            row = here[order]
            middle, low, high = statistics.fmean(row.ratios), min(row.ratios), max(row.ratios)
            hours = f"{statistics.fmean(row.hours):,.1f}"
            words.append(f"{hours:>18}   {middle:6.3f} ({low:.3f}-{high:.3f})  {statistics.fmean(row.idle):6.1%}")
        lines.append("   ".join(words))
    return "\n".join(lines)


def failure_table(draws: Sequence[Sequence[Job]], counts: Iterable[int], mean_hours: float) -> str:
    """What lost devices cost, where runs begin anew and where they go on from their checkpoints."""
    lines = ["devices   without, h   a lost run       h, mean   by without   lost   work done twice   idle   given up"]
    for count, keeps in itertools.product(counts, (False, True)):
        plain = [simulate(jobs, [1.0] * count, "longest first") for jobs in draws]
        found = [
            simulate(jobs, [1.0] * count, "longest first", Failures(mean_hours * HOUR, keeps, seed))
            for seed, jobs in enumerate(draws)
        ]
        for jobs, result in zip(draws, found, strict=True):
            assert len(result.ends) == len(jobs), "every run ended"
            assert set(result.ends.values()) == {1}, "once"
        hours, without = (statistics.fmean(r.makespan for r in results) / HOUR for results in (found, plain))
        twice = 1 - statistics.fmean(p.worked / r.worked for p, r in zip(plain, found, strict=True))
        lines.append(
            f"{count:>7}   {without:>10,.1f}   {'goes on' if keeps else 'begins anew':<12} {hours:>11,.1f}   "
            f"{hours / without:>10.3f}   {statistics.fmean(r.lost for r in found):>4.0f}   {twice:>15.1%}   "
            f"{statistics.fmean(r.idle for r in found):>4.0%}   {statistics.fmean(r.given_up for r in found):>8.1f}"
        )
    return "\n".join(lines)


def simulation(out: Path | None, draws: int, mean_hours: float) -> None:
    """All tables, and the plot."""
    found = measured()
    jobs = comparison(found)
    lucky = [with_luck(jobs, found.spread, seed) for seed in range(draws)]
    print(describe(found, jobs))
    rows = sweep_over(lucky, DEVICES, ORDERS, lambda count: [1.0] * count)
    print(f"\nequal devices, {draws} draws of luck: means, and lowest and highest ratio\n{table(rows, ORDERS)}")
    mixed = sweep_over(lucky, DEVICES[1:], ORDERS[:2], lambda count: [1.0, 0.5] * (count // 2))
    print(f"\nevery second device at half the speed\n{table(mixed, ORDERS[:2])}")
    print(
        f"\na device is lost once in {mean_hours:g} h of work and back after {REPAIR_SECONDS / 60:g} min, a run begun "
        f"again at most {board.RETRIES} times; longest first\n{failure_table(lucky, DEVICES[::2], mean_hours)}"
    )
    if out:
        draw(rows, out)
        print(f"\nwrote {out}")


def describe(found: Measured, jobs: Sequence[Job]) -> str:
    """Where the run times come from."""
    known = ", ".join(f"{model} {1 / found.seconds_of(model):.0f}" for model in TRAIN_MFLOPS if model in found.counts)
    others = ", ".join(
        f"{model} {1 / found.seconds_of(model):.0f}" for model in TRAIN_MFLOPS if model not in found.counts
    )
    hours = sorted(job.seconds / HOUR for job in jobs)
    return (
        f"{len(jobs)} runs: {len(TRAIN_MFLOPS)} models x {', '.join(DATA_SETS)} x {SEEDS} seeds x "
        f"{len(TRACKS)} tracks, {shared().epochs} epochs each\n"
        f"images/s measured on two CPU cores ({REFERENCE.relative_to(ROOT)}; medians of {min(found.counts.values())} "
        f"to {max(found.counts.values())} runs and sessions): {known}\n"
        f"reckoned from FLOPs at the median measured speed: {others}\n"
        f"64 px as 32 px: the models' stems grow with the image, their FLOPs stay within 5 %\n"
        f"beside training {found.startup_seconds:.0f} s a run: median of {found.runs} runs, validation as they had it\n"
        f"luck: log-normal, {found.spread:.1%}, from {found.groups} groups of runs that differ in the seed alone\n"
        f"hours a run: {hours[0]:.1f} to {hours[-1]:.1f}, median {statistics.median(hours):.1f}, all {sum(hours):,.0f}"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Makespan against devices with the ideal, and the idle share below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from bench.present.charts.styles import settings

    looks = {
        "longest first": ("#0072B2", "o", "-"),
        "as named": ("#D55E00", "s", "--"),
        "plan by plan": ("#009E73", "^", ":"),
    }
    labels = {"as named": "as named, seed by seed", "plan by plan": "one data set and track after the other"}
    with settings("", points=9):
        figure = Figure(figsize=(6.9, 5.2), dpi=120, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        counts = list(dict.fromkeys(row.devices for row in rows))
        best = [statistics.fmean(row.ideal_hours) for row in rows if row.order == ORDERS[0]]
        under: Any = {
            "color": "0.82",
            "linewidth": 6.0,
            "solid_capstyle": "round",
            "label": "ideal: no schedule is faster",
        }
        above.plot(counts, best, **under)
        below.plot(
            counts, [100 * (1 - best[0] / (count * hours)) for count, hours in zip(counts, best, strict=True)], **under
        )
        for order, (color, marker, line) in looks.items():
            mine = [row for row in rows if row.order == order]
            style: Any = {"color": color, "marker": marker, "linestyle": line, "markersize": 4.5, "linewidth": 1.3}
            style["label"] = labels.get(order, order)
            above.plot(counts, [statistics.fmean(row.hours) for row in mine], **style)
            below.plot(counts, [100 * statistics.fmean(row.idle) for row in mine], **style)
        above.set(xscale="log", yscale="log", ylabel="hours until all are done")
        above.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        above.yaxis.set_minor_locator(NullLocator())
        above.legend(frameon=False)
        above.set_title("750 runs on a cluster, simulated with the speeds of two CPU cores", loc="left")
        above.annotate("the longest run", (counts[-1], best[-1]), (0, -18), textcoords="offset points", ha="right")
        above.set_ylim(0.55 * best[-1], None)
        below.set(xlabel="devices", ylabel="idle share of their time, %", ylim=(-3, 100))
        below.set_xticks(counts, [str(count) for count in counts])
        below.minorticks_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


# --- what handing out costs ------------------------------------------------------------------------------------------


def write_one(root: Path, spec: RunSpec) -> None:
    """What a run's process leaves behind, at the least."""
    store = Store(root)
    store.write_spec(spec)
    store.write_record(spec, synthetic.record(spec, 0.5))


def nothing(task: Task) -> Answer:
    """The end of a run that only wrote its record."""
    spec: RunSpec = task.args[0]
    write_one(task.args[2], spec)
    return Answer(Outcome("ok"), "here", ({"event": "placed", "run_id": spec.run_id, "device_name": spec.device_name},))


@dataclass
class AtOnce:
    """An engine whose tasks have ended when they have begun. `writing`: seconds that their records took."""

    there: list[Device]
    far = False
    writing: float = 0.0
    begun: list[float] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    def devices(self) -> list[Device]:
        """All of them, always."""
        return self.there

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Do nothing but write."""
        for ticket, task, _ in tasks:
            self.begun.append(time.perf_counter())
            self.heard.append((ticket, nothing(task)))
            self.writing += time.perf_counter() - self.begun[-1]

    def events(self, seconds: float) -> list[Heard]:
        """All ends."""
        heard, self.heard = self.heard, []
        return heard

    def stop(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is left."""


@contextmanager
def by_ray(begun: list[float]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Ray on this machine, whose workers write a record and start no process; and what Home is to know of it."""
    from bench.machine.identity import identity

    os.environ["PYTHONPATH"] = str(ROOT)  # for Ray's workers
    try:
        import ray

        from bench.executors.ray import RayEngine
    except ImportError:
        raise UserError("there is no Ray here, or no engine for it: pip install -e .[ray]") from None
    expected = identity()
    engine: Any = RayEngine("", None, 2, expected, print)

    def carry(ticket: int, task: Task, environment: Any, mailbox: Any) -> Answer:
        return nothing(task)

    engine._carry = ray.remote(max_retries=0)(carry)
    start = engine.start

    def counted(tasks: Sequence[Any]) -> None:
        begun.extend(time.perf_counter() for _ in tasks)
        start(tasks)

    engine.start = counted
    try:
        while not engine.devices():  # they say what they are within seconds
            engine.events(0.2)
        yield engine, {"expected": expected}
    finally:
        engine.close()


def overhead(number: int, ray: bool, profile: bool) -> None:
    """Milliseconds a run, by thousands of runs, so that growth is seen."""
    models = [f"model_{i}" for i in range(15)]
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w", encoding="utf-8") as sink:
        store = Store(Path(name) / "store")
        specs = [synthetic.spec(models[i % len(models)], seed=i // len(models)) for i in range(number)]
        source: Any = DataSource("cifar10", None, None, 1.0)
        plan = runs.Plan(specs, source, SimpleNamespace(train_index=range(45_000)))  # type: ignore[arg-type]
        names = {spec.run_id for spec in specs}
        views, display = runs.Views(store), Display(Console(file=sink, width=140, markup=False, highlight=False))

        def carry_out(engine: Any, more: dict[str, Any]) -> float:
            began = time.perf_counter()
            with display:
                if profile:
                    profiler.enable()
                failed, placed = runs.train_all(
                    [plan], names, runs.Home(store, **more), engine, display, views, runs.Manner()
                )
                profiler.disable()
            took = time.perf_counter() - began
            if failed or len(placed) != number:
                raise SystemExit(f"{failed} failed, {len(placed)} of {number} are in the store")
            return took

        if ray:
            begun: list[float] = []
            with by_ray(begun) as (engine, more):
                took, writing = carry_out(engine, more), 0.0
        else:
            devices = [Device(f"device {i}", "here", "cpu", "Test CPU", False, 1) for i in range(4)]
            at_once = AtOnce(devices)
            took, writing, begun = carry_out(at_once, {}), at_once.writing, at_once.begun
    print(told(begun, took, writing, "by Ray" if ray else "by an engine that answers at once"))
    if profile:
        print("\nwith the profiler on, which slows all of it; seconds of their own:")
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(12)
        print("\n".join(line for line in text.getvalue().splitlines() if line.strip())[:3000])


def told(begun: Sequence[float], took: float, writing: float, how: str) -> str:
    """Milliseconds a run over all, and how they grow; `writing`: seconds in which records were written meanwhile."""
    size, between = max(1, len(begun) // 10), begun[-1] - begun[0]
    ends = [*range(size, len(begun) - 1, size), len(begun) - 1]
    chunks = [1000 * (begun[b] - begun[a]) / (b - a) for a, b in itertools.pairwise([0, *ends])]
    low, middle, high = quartiles(chunks)
    lines = [
        f"{len(begun):,} runs that do nothing, {how}: {1000 * took / len(begun):.2f} ms a run in all, of {took:.1f} s "
        f"{took - between:.1f} s before the first begins and after the last has begun",
        f"by chunks of {size:,}: median {middle:.2f} ms a run (quartiles {low:.2f}-{high:.2f}, n = {len(chunks)}), "
        f"first {chunks[0]:.2f}, last {chunks[-1]:.2f}",
    ]
    if writing:
        lines.append(
            f"{1000 * writing / len(begun):.2f} ms of each are the record itself, which a run's own process writes; "
            f"the rest, {1000 * (took - writing) / len(begun):.2f} ms, is what handing it out costs"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="PNG", help="the plot of the simulation")
    parser.add_argument("--draws", type=int, default=5, help="of luck, of the simulation (5)")
    parser.add_argument("--mean-hours", type=float, default=200.0, help="of work until a device is lost (200)")
    parser.add_argument(
        "--overhead", type=int, const=10_000, nargs="?", metavar="RUNS", help="that do nothing (10,000)"
    )
    parser.add_argument("--ray", action="store_true", help="--overhead through Ray on this machine")
    parser.add_argument("--profile", action="store_true", help="--overhead with what takes the time")
    arguments = parser.parse_args()
    if arguments.overhead:
        overhead(arguments.overhead, arguments.ray, arguments.profile)
        return
    board.TELL_SECONDS = math.inf  # simulated seconds fly: the time left would be reckoned after every end
    simulation(arguments.out, arguments.draws, arguments.mean_hours)


if __name__ == "__main__":
    main()
