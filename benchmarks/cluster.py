"""How well is a cluster used, and what does scheduling cost? Example: python benchmarks/cluster.py --out cluster.png

Drives the real scheduler (bench/drive/board.py) with an executor whose clock jumps from one end to the next: 15 models
x 5 data sets x 5 seeds x 2 tracks on 1 to 256 devices. Durations come from the stores under results/reference where a
model was measured, else from its FLOPs. `ideal` is what no schedule beats: all work divided by all devices, or the
longest run.

With --overhead, runs that do nothing go through everything that handles real ones: board, store, views, lines.
"""

from __future__ import annotations

import argparse
import heapq
import io
import itertools
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from bench.core.display import RunDisplay, Tally  # noqa: E402
from bench.core.events import Event, Placed  # noqa: E402
from bench.data.catalogue import CATALOGUE  # noqa: E402
from bench.data.datasets import DataSource  # noqa: E402
from bench.drive import board  # noqa: E402
from bench.drive.board import Board, Work  # noqa: E402
from bench.drive.context import SweepContext  # noqa: E402
from bench.drive.forecast import Size  # noqa: E402
from bench.drive.planning import Plan  # noqa: E402
from bench.drive.runs import RunPolicy, Views, train_all  # noqa: E402
from bench.executors.child import Outcome  # noqa: E402
from bench.executors.protocol import Answer, Device, Message, Task  # noqa: E402
from bench.machine.identity import identity  # noqa: E402
from bench.plan.recipes import shared  # noqa: E402
from bench.plan.spec import RunSpec  # noqa: E402
from bench.present.screen.progress import ScreenDisplay  # noqa: E402
from bench.store.disk import Store  # noqa: E402
from bench.store.records import finished  # noqa: E402
from tests import synthetic  # noqa: E402
from tests.engines import AtOnce  # noqa: E402

REFERENCE = ROOT / "results" / "reference" / "cpu-2core"
# Of one training step for one image of 32 px, in millions, by the cost command (2026-11-23). At 64 px they are the
# same to within 5 %, counted too: stems and patches of all these models grow with the image.
TRAIN_MFLOPS = {
    "seresnet": 754, "seresnet20": 244, "seresnet110": 1518, "resnet20": 244, "resnet56": 754, "resnet110": 1518,
    "vit_tiny": 2189, "vit_params": 362, "vit_flops": 750, "simple_vit": 2155, "vit_lite": 1527,
    "vit_small_data": 1140, "cct_2": 209, "cct_7": 7076, "swin": 1445,
}  # fmt: skip
DATA_SETS = ("cifar10", "cifar100", "svhn", "tiny_imagenet", "fashion_mnist")
HELD_OUT = 0.1  # for validation, of each
SEEDS, TRACKS = 5, ("shared", "family")
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ORDERS = {  # label, colour, marker and line style of each
    "longest first": ("longest first", "#0072B2", "o", "-"),
    "by name": ("by name, seed by seed", "#D55E00", "s", "--"),
    "plan by plan": ("one data set and track after another", "#009E73", "^", ":"),
}
HOUR = 3600.0


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Training seconds per image by model, seconds of everything else per run, and how much runs differ."""

    seconds_per_image: dict[str, float]
    startup_seconds: float
    spread: float  # standard deviation of the logarithm of speed, among runs that differ in their seed alone

    def seconds_of(self, model: str) -> float:
        """Training seconds per image; for an unmeasured model by its FLOPs, at the others' median speed."""
        rates = [1e6 * TRAIN_MFLOPS[name] / seconds for name, seconds in self.seconds_per_image.items()]
        return self.seconds_per_image.get(model, 1e6 * TRAIN_MFLOPS[model] / statistics.median(rates))


@cache
def measured(root: Path = REFERENCE) -> Measured:
    """What the stores in and under a folder say about runs that had their device to themselves."""
    stores = [Store(path) for path in (root, *sorted(root.iterdir())) if (path / "runs").is_dir()]
    alone = [run for store in stores for run in finished(store.runs()) if not run.shared_device]
    seconds, by_seed, startups = defaultdict[str, list[float]](list), defaultdict[RunSpec, list[float]](list), []
    for run in alone:
        speed, wall = run.metrics.loop_images_per_second, run.metrics.wall_seconds
        assert speed is not None
        assert wall is not None
        seconds[run.spec.model].append(1 / speed)
        by_seed[replace(run.spec, seed=0)].append(math.log(speed))
        startups.append(wall - run.metrics.train_seconds)
    for session in (session for store in stores for session in store.sessions()):
        for model in session.models:
            if steps := session.seconds_per_call(model, "train"):
                seconds[model].append(statistics.median(steps) / session.recipe.batch_size)
    several = [logs for logs in by_seed.values() if len(logs) > 1]
    freedom = sum(len(logs) - 1 for logs in several)
    squares = sum((log - statistics.fmean(logs)) ** 2 for logs in several for log in logs)
    medians = {model: statistics.median(values) for model, values in seconds.items()}
    return Measured(medians, statistics.median(startups), math.sqrt(squares / freedom))


@dataclass(frozen=True)
class Job:
    """A run to come: its size, as the board is told, and its seconds on a device of speed 1."""

    name: str
    plan: str
    size: Size
    seconds: float


def all_jobs(speeds: Measured, seed: int = 0) -> list[Job]:
    """All runs, seed by seed, each training somewhat longer or shorter by log-normal noise.

    The board is told FLOPs, as before a first sweep, not seconds.
    """
    epochs, noise = shared().epochs, random.Random(seed)
    jobs = []
    for number, data, track, model in itertools.product(range(SEEDS), DATA_SETS, TRACKS, TRAIN_MFLOPS):
        images = epochs * round((1 - HELD_OUT) * CATALOGUE[data].facts.train)
        size = Size(f"{model} {data} {track}", flops=1e6 * TRAIN_MFLOPS[model] * images)
        training = speeds.seconds_of(model) * images * math.exp(noise.gauss(0, speeds.spread))
        jobs.append(Job(f"{size.group} {number}", f"{data} {track}", size, training + speeds.startup_seconds))
    return jobs


# --- the simulated cluster -------------------------------------------------------------------------------------------


class Silent(ScreenDisplay):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))

    def line(self, text: str) -> None:
        """Does nothing."""

    def ended(self, well: bool, text: str) -> None:
        """Does nothing."""

    def event(self, event: Event) -> None:
        """Does nothing."""

    def overall(self, tally: Tally) -> None:
        """Does nothing."""

    @contextmanager
    def run(self, title: str, batch_size: int, prefix: str = "  ", name: str = "") -> Iterator[RunDisplay]:
        """The display itself stands for every run."""
        yield self


@dataclass
class Simulated:
    """An executor without machines: asked for messages, it moves its clock to the next end."""

    jobs: dict[str, Job]
    speeds: Sequence[float]
    remote = True
    looking = False
    clock: float = 0.0
    worked: float = 0.0  # seconds, of all devices

    def __post_init__(self) -> None:
        self._devices = [
            Device(f"device {i}", f"node {i}", "cuda", f"speed {speed:g}", True, 1)
            for i, speed in enumerate(self.speeds)
        ]
        self._speed = {device.name: speed for device, speed in zip(self._devices, self.speeds, strict=True)}
        self._ends: list[tuple[float, int, str]] = []  # a heap: when, ticket, node

    def now(self) -> float:
        """Seconds since the start."""
        return self.clock

    def devices(self) -> list[Device]:
        """Always the same."""
        return self._devices

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Decide at once when each ends."""
        for ticket, task, device in tasks:
            seconds = self.jobs[task.name].seconds / self._speed[device.name]
            self.worked += seconds
            heapq.heappush(self._ends, (self.clock + seconds, ticket, device.node))

    def events(self, seconds: float) -> list[Message]:
        """The next end."""
        self.clock, ticket, node = heapq.heappop(self._ends)
        return [(ticket, Answer(Outcome("ok"), node))]

    def stop(self) -> None:
        """Never called."""

    def close(self) -> None:
        """Nothing to leave behind."""


@dataclass(frozen=True)
class Result:
    """A simulated sweep: seconds until the last end, idle share of the devices' time, how often each run ended."""

    makespan: float
    idle: float
    ends: Counter[str] = field(repr=False)


def simulate(jobs: Sequence[Job], speeds: Sequence[float], order: str) -> Result:
    """A sweep of these runs on devices of these speeds, scheduled by the real board."""
    executor, ends = Simulated({job.name: job for job in jobs}, speeds), Counter[str]()

    def settle(work: Work, device: Device, answer: Answer, display: RunDisplay) -> None:
        ends[work.name] += 1

    def work_of(job: Job) -> Work:
        size = replace(job.size, flops=None) if order == "by name" else job.size
        return Work(job.name, job.name, job.name, 1, lambda device, alone: Task(job.name, "", ()), size=size)

    plans = list(dict.fromkeys(job.plan for job in jobs))
    for part in [[plan] for plan in plans] if order == "plan by plan" else [plans]:
        sweep = Board(executor, Silent(), now=executor.now)
        for job in jobs:
            if job.plan in part:
                sweep.add(work_of(job))
        with mock.patch.object(board, "TALLY_SECONDS", math.inf):  # else estimates the time left after every end
            sweep.run(settle)
    return Result(executor.clock, 1 - executor.worked / (len(speeds) * executor.clock), ends)


def ideal(jobs: Iterable[Job], speeds: Sequence[float]) -> float:
    """Seconds that no schedule beats: all work on all devices at once, or the longest run on the fastest."""
    lengths = [job.seconds for job in jobs]
    return max(sum(lengths) / sum(speeds), max(lengths) / max(speeds))


# --- table and plot --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A number of devices under one order; means over several draws of noise."""

    devices: int
    order: str
    ideal_hours: float
    hours: float
    ratio: float  # makespan divided by the ideal
    idle: float


def row(draws: Sequence[Sequence[Job]], speeds: Sequence[float], order: str) -> Row:
    """One number of devices under one order."""
    results = [simulate(jobs, speeds, order) for jobs in draws]
    best = [ideal(jobs, speeds) for jobs in draws]
    return Row(
        len(speeds),
        order,
        statistics.fmean(best) / HOUR,
        statistics.fmean(result.makespan for result in results) / HOUR,
        statistics.fmean(result.makespan / least for result, least in zip(results, best, strict=True)),
        statistics.fmean(result.idle for result in results),
    )


def table(rows: Sequence[Row]) -> str:
    """One line per number of devices: the ideal, then for each order the makespan relative to it and the idle share."""
    orders = list(dict.fromkeys(row.order for row in rows))
    lines = ["devices   ideal, h" + "".join(f"   {order:>14}    idle" for order in orders)]
    for count in dict.fromkeys(row.devices for row in rows):
        same = {row.order: row for row in rows if row.devices == count}
        cells = [f"   {same[order].ratio:>12.3f} ×   {same[order].idle:>5.1%}" for order in orders]
        lines.append(f"{count:>7}   {same[orders[0]].ideal_hours:>8,.1f}{''.join(cells)}")
    return "\n".join(lines)


def simulation(out: Path | None, draws: int) -> None:
    """Both tables, and the plot."""
    speeds = measured()
    jobs = [all_jobs(speeds, seed) for seed in range(draws)]
    counted = sum(model in speeds.seconds_per_image for model in TRAIN_MFLOPS)
    hours = sorted(job.seconds / HOUR for job in all_jobs(replace(speeds, spread=0.0)))
    print(
        f"{len(hours)} runs of {hours[0]:.1f} to {hours[-1]:.1f} h, {sum(hours):,.0f} h in all; {len(TRAIN_MFLOPS)} "
        f"models, {counted} of them measured ({REFERENCE.relative_to(ROOT)}), the others estimated from their FLOPs"
    )
    rows = [row(jobs, [1.0] * count, order) for count in DEVICES for order in ORDERS]
    print(f"\nequal devices, means of {draws} draws of {speeds.spread:.1%} noise\n{table(rows)}")
    mixed = [row(jobs, [1.0, 0.5] * (count // 2), "longest first") for count in DEVICES[1:]]
    print(f"\nevery second device at half speed\n{table(mixed)}")
    if out:
        draw(rows, out)
        print(f"\nwrote {out}")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Makespan against the number of devices, with the ideal; below it the idle share."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from bench.present.charts.styles import settings

    by_order = {order: [row for row in rows if row.order == order] for order in ORDERS}
    counts, best = zip(*((row.devices, row.ideal_hours) for row in by_order["longest first"]), strict=True)
    least_idle = [100 * (1 - best[0] / (count * hours)) for count, hours in zip(counts, best, strict=True)]
    with settings("", points=9):
        figure = Figure(figsize=(6.9, 5.2), dpi=120, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        band: Any = {"color": "0.82", "linewidth": 6.0, "solid_capstyle": "round"}
        above.plot(counts, best, label="ideal: no schedule is faster", **band)
        below.plot(counts, least_idle, **band)
        for order, (label, color, marker, line) in ORDERS.items():
            style: Any = {"color": color, "marker": marker, "linestyle": line, "markersize": 4.5, "linewidth": 1.3}
            above.plot(counts, [row.hours for row in by_order[order]], label=label, **style)
            below.plot(counts, [100 * row.idle for row in by_order[order]], **style)
        above.set(xscale="log", yscale="log", ylabel="hours until all runs are done")
        above.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        above.yaxis.set_minor_locator(NullLocator())
        above.legend(frameon=False)
        above.set_title("750 runs on a cluster, simulated with speeds of two CPU cores", loc="left")
        above.annotate("the longest run", (counts[-1], best[-1]), (0, -18), textcoords="offset points", ha="right")
        above.set_ylim(0.55 * best[-1], None)
        below.set(xlabel="devices", ylabel="idle share of their time, %", ylim=(-3, 100))
        below.set_xticks(counts, [str(count) for count in counts])
        below.minorticks_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


# --- what scheduling costs -------------------------------------------------------------------------------------------


def do_nothing(task: Task) -> Answer:
    """The least that a run leaves behind: its spec and its record."""
    spec, _, root, _ = task.args
    store = Store(root)
    store.write_spec(spec)
    store.write_record(synthetic.record(spec, 0.5))
    return Answer(Outcome("ok"), "here", (Placed(spec.run_id, spec.device_name),))


@contextmanager
def ray_here() -> Iterator[Any]:
    """Ray on this machine, whose workers write a record and start no child process."""
    os.environ["PYTHONPATH"] = str(ROOT)  # for Ray's workers
    from bench.executors.ray import RayExecutor

    executor: Any = RayExecutor("", None, 2, identity(), print)
    import ray

    executor._carry = ray.remote(max_retries=0)(lambda ticket, task, environment, mailbox: do_nothing(task))
    try:
        while not executor.devices():  # they report within seconds
            executor.events(0.2)
        yield executor
    finally:
        executor.close()


def overhead(number: int, by_ray: bool) -> None:
    """Print the milliseconds per run that does nothing, and how many of them writing its record takes."""
    writing = 0.0

    def answer(task: Task, device: Device) -> Answer:
        nonlocal writing
        start = time.perf_counter()
        result = do_nothing(task)
        writing += time.perf_counter() - start
        return result

    @contextmanager
    def at_once() -> Iterator[AtOnce]:
        yield AtOnce(answer, [Device(f"device {i}", "here", "cpu", "Test CPU", False, 1) for i in range(4)])

    models = [f"model_{i}" for i in range(15)]
    specs = [synthetic.spec(models[i % len(models)], seed=i // len(models)) for i in range(number)]
    dataset: Any = SimpleNamespace(train_index=range(45_000))
    plan = Plan(specs, DataSource("cifar10", None, None, 1.0), dataset)
    with (
        tempfile.TemporaryDirectory() as name,
        open(os.devnull, "w", encoding="utf-8") as sink,
        ray_here() if by_ray else at_once() as executor,
        ScreenDisplay(Console(file=sink, width=140, markup=False, highlight=False)) as display,
    ):
        store = Store(Path(name) / "store")
        context = SweepContext(store, executor, display, identity() if by_ray else None)
        start = time.perf_counter()
        trained = train_all([plan], {spec.run_id for spec in specs}, context, Views(store), RunPolicy())
        seconds = time.perf_counter() - start
    assert len(trained.finished) == number
    assert not trained.failures
    record = f", {1000 * writing / number:.2f} ms of it writing the record" if writing else ""
    how = "through Ray" if by_ray else "through an executor that answers at once"
    print(f"{number:,} runs that do nothing, {how}: {1000 * seconds / number:.2f} ms per run{record}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="PNG", help="write the plot of the simulation")
    parser.add_argument("--draws", type=int, default=5, help="repeat the simulation with new noise (default: 5 times)")
    parser.add_argument(
        "--overhead", type=int, const=10_000, nargs="?", metavar="RUNS", help="measure scheduling (default: 10,000)"
    )
    parser.add_argument("--ray", action="store_true", help="with --overhead: through Ray on this machine")
    arguments = parser.parse_args()
    if arguments.overhead:
        overhead(arguments.overhead, arguments.ray)
    else:
        simulation(arguments.out, arguments.draws)


if __name__ == "__main__":
    main()
