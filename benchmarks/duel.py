"""Two training loops in turns, each in a living process of its own. Example: fight(start, ("ours", "best"), Plan())

A contender (benchmarks/contenders.py) is built, takes its first step and a few to warm up, and is then stopped by a
signal, with all the workers it has started. Both are alive from then on: a pair is a number of steps by the one, then
the same by the other, in alternating order; who is not at work stands still, its queue of loaded batches too.

The interval. Pairs of one start share two processes, and where a process happens to lie in memory is worth about 1 %
for its life (LOG.md): they are not independent, and an interval over all of them would be too narrow. So the unit is
a start: the interval is a t-interval over the starts' mean log ratios. Under three starts there is none to speak of;
it is then taken over the pairs, and what is printed says so: it holds for these processes only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.core.files import to_json, write_atomically
from bench.core.stats import Interval, ratio_interval
from bench.machine import environment
from benchmarks.contenders import SETTINGS, Task  # noqa: E402

STARTS_FOR_INTERVAL = 3


class Contender(Protocol):
    """One side, standing still but for `go`."""

    ready_seconds: float

    def go(self, steps: int) -> float:
        """Seconds that `steps` more steps take."""

    def end(self) -> dict[str, Any]:
        """Facts about the process: peak_memory_bytes, torch, threads, device_name."""


@dataclass(frozen=True)
class Plan:
    """How long a duel is. Steps to warm up come after the first, which is apart; neither is in a pair."""

    starts: int = 4
    pairs: int = 3
    steps: int = 10
    warmup: int = 2
    seed: int = 0


@dataclass
class Start:
    """One start of both processes, by contender: raw seconds of each pair, of the first step, facts at the end."""

    seconds: dict[str, list[float]]
    orders: list[str] = field(default_factory=list)  # who began each pair
    ready_seconds: dict[str, float] = field(default_factory=dict)
    first_step_seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Duel:
    """All raw samples."""

    names: tuple[str, str]
    plan: Plan
    starts: tuple[Start, ...]

    def ratio(self) -> Interval:
        """Seconds of the first over seconds of the second contender: below 1, the first is faster."""
        a, b = self.names
        if len(self.starts) >= STARTS_FOR_INTERVAL:
            means = [[statistics.geometric_mean(s.seconds[n]) for s in self.starts] for n in (a, b)]
            return ratio_interval(*means)
        every = [[t for s in self.starts for t in s.seconds[n]] for n in (a, b)]
        return ratio_interval(*every)

    def unit(self) -> str:
        """What the n of the ratio counts."""
        return "process starts" if len(self.starts) >= STARTS_FOR_INTERVAL else "pairs, so of these processes only"

    def memory_ratio(self) -> Interval | None:
        """Peak of the first over peak of the second, over the starts; None where the system does not say."""
        peaks = [[s.facts[n]["peak_memory_bytes"] for s in self.starts] for n in self.names]
        return None if None in peaks[0] + peaks[1] else ratio_interval(*peaks)

    def step_seconds(self, name: str) -> float:
        """Median over all pairs."""
        return statistics.median(t for s in self.starts for t in s.seconds[name]) / self.plan.steps


def fight(
    start: Callable[[str], contextlib.AbstractContextManager[Contender]],
    names: tuple[str, str],
    plan: Plan,
    on_pair: Callable[[int, dict[str, float]], None] = lambda start, seconds: None,
) -> Duel:
    """Run the duel. `start` makes a contender by name; who is first built and who begins a pair alternates."""
    rng = random.Random(plan.seed)
    starts = []
    for number in range(plan.starts):
        order = list(names) if number % 2 == 0 else list(reversed(names))
        made = Start({name: [] for name in names})
        with contextlib.ExitStack() as stack:
            sides = {}
            for name in order:
                side = sides[name] = stack.enter_context(start(name))
                made.ready_seconds[name] = side.ready_seconds
                made.first_step_seconds[name] = side.go(1)
                if plan.warmup:
                    side.go(plan.warmup)
            rng.shuffle(order)
            for _ in range(plan.pairs):
                found = {name: sides[name].go(plan.steps) for name in order}
                for name, seconds in found.items():
                    made.seconds[name].append(seconds)
                made.orders.append(order[0])
                on_pair(number, found)
                order.reverse()
            made.facts = {name: sides[name].end() for name in names}
        starts.append(made)
    return Duel(names, plan, tuple(starts))


# --- a contender as a process --------------------------------------------------------------------------------------


class Process:
    """A contender in a process group of its own, stopped by a signal while it is not its turn. POSIX only."""

    def __init__(self, name: str, task: Task) -> None:
        words = [sys.executable, str(ROOT / "benchmarks/contenders.py"), name, json.dumps(asdict(task))]
        self.name = name
        self._popen = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, process_group=0
        )
        self.ready_seconds: float = self._hear()["ready_seconds"]

    def go(self, steps: int) -> float:
        self._signal(signal.SIGCONT)
        self._tell(f"{steps}\n")
        seconds: float = self._hear()["seconds"]
        self._signal(signal.SIGSTOP)
        return seconds

    def end(self) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        self._tell("\n")
        return self._hear()

    def kill(self) -> None:
        """Whatever it is doing, its workers too."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._signal(signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _signal(self, number: int) -> None:
        os.killpg(self._popen.pid, number)

    def _tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line)
        self._popen.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise SystemExit(f"'{self.name}' has ended; what it says is above")
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextlib.contextmanager
def process(name: str, task: Task) -> Iterator[Contender]:
    """A contender alive, with a folder for its files. It is gone at the end, however that comes."""
    with tempfile.TemporaryDirectory() as folder:
        made = None
        try:
            made = Process(name, Task(**{**asdict(task), "folder": folder}))
            yield made
        finally:
            if made is not None:
                made.kill()


# --- what the scripts share ----------------------------------------------------------------------------------------


def make_parser(text: str, models: str, starts: int, pairs: int) -> argparse.ArgumentParser:
    """Flags of a script that is a duel."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="CIFAR-10 as .npz: train_x, train_y, test_x, test_y")
    parser.add_argument("--models", default=models, help=f"comma-separated (default {models})")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of all but plain")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="eager", help="of all but plain")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=45_000, help="of the training part, an epoch (45,000)")
    parser.add_argument("--held-out", type=int, default=5_000, help="validated on after each epoch (5,000)")
    parser.add_argument("--starts", type=int, default=starts, help=f"of fresh processes ({starts})")
    parser.add_argument("--pairs", type=int, default=pairs, help=f"of turns a start ({pairs})")
    parser.add_argument("--steps", type=int, help="a turn (CPU 10; CUDA an epoch, so that each turn validates once)")
    parser.add_argument("--warmup", type=int, default=2, help="steps after the first (2)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="raw samples as JSON, one file for all models")
    return parser


def task_of(arguments: argparse.Namespace, model: str) -> Task:
    """The flags as a task."""
    device = environment.choose_device(arguments.device)
    return Task(
        model=model,
        data=str(arguments.data.resolve()),
        device=device.type,
        precision=environment.resolve_precision(arguments.precision, device),
        setting=arguments.setting,
        batch_size=arguments.batch_size,
        images=arguments.images,
        held_out=arguments.held_out,
        folder="",
    )


def run(arguments: argparse.Namespace, names: tuple[str, str], model: str) -> tuple[Task, Duel]:
    """One model's duel by the flags, with a line for each pair."""
    task = task_of(arguments, model)
    steps = arguments.steps or (10 if task.device == "cpu" else task.steps)
    plan = Plan(arguments.starts, arguments.pairs, steps, arguments.warmup)

    def on_pair(start: int, seconds: dict[str, float]) -> None:
        rates = "  ".join(f"{n} {steps * task.batch_size / seconds[n]:,.0f}" for n in names)
        print(f"  start {start + 1}: {rates} images/s", flush=True)

    print(f"{model}:", flush=True)
    return task, fight(lambda name: process(name, task), names, plan, on_pair)


def describe(task: Task, duel: Duel) -> str:
    """What was measured, and each contender's own figures."""
    plan, facts = duel.plan, duel.starts[0].facts[duel.names[0]]
    images = plan.starts * plan.pairs * plan.steps * task.batch_size
    lines = [
        f"{task.model}, batch {task.batch_size}, {task.precision}, {task.setting}, on {facts['device_name']}, "
        f"{facts['threads']} threads, torch {facts['torch']}",
        f"{plan.starts} process starts x {plan.pairs} pairs x {plan.steps} steps: {images:,} images each",
    ]
    for name in duel.names:
        first = statistics.median(s.first_step_seconds[name] for s in duel.starts)
        ready = statistics.median(s.ready_seconds[name] for s in duel.starts)
        peaks = [s.facts[name]["peak_memory_bytes"] for s in duel.starts]
        peak = "unknown" if None in peaks else f"{statistics.median(peaks) / 1e6:,.0f} MB"
        rate = task.batch_size / duel.step_seconds(name)
        lines.append(
            f"  {name:<6}{rate:>10,.0f} images/s   first step {first:.2f} s, ready after {ready:.1f} s, "
            f"peak memory {peak}"
        )
    return "\n".join(lines)


def inverse(ratio: Interval) -> Interval:
    """Of a ratio of times, the ratio of speeds."""
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.n)


def show(ratio: Interval, unit: str, digits: int = 2) -> str:
    """`2.71 (2.60 to 2.83, n = 4 process starts)`."""
    if math.isnan(ratio.low):
        return f"{ratio.value:.{digits}f} (no interval, n = {ratio.n})"
    return f"{ratio.value:.{digits}f} ({ratio.low:.{digits}f} to {ratio.high:.{digits}f}, n = {ratio.n} {unit})"


def at_least(found: Interval, asked: float) -> str:
    """Met or not by the whole interval; open where it holds the target."""
    return _verdict(found.low >= asked, found.high < asked)


def at_most(found: Interval, asked: float) -> str:
    """Met where even the upper end is below."""
    return _verdict(found.high <= asked, found.low > asked)


def _verdict(met: bool, missed: bool) -> str:
    return "met" if met else "not met" if missed else "open: the interval holds it, or there is none"


def save(path: Path | None, found: dict[str, tuple[Task, Duel]]) -> None:
    """All raw samples, for whoever wants other statistics."""
    if path is not None:
        data = {model: {"task": asdict(task), **asdict(duel)} for model, (task, duel) in found.items()}
        commit, dirty = environment.git_state()
        write_atomically(path, to_json({"commit": commit, "dirty": dirty, "duels": data}))
