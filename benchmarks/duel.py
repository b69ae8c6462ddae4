"""Two training loops in turns, each in a living process of its own. Example: fight(start, ("ours", "best"), Plan())

A contender (benchmarks/contenders.py) is built, takes its first step and a few to warm up, and is then stopped by a
signal, with all workers it has started. A pair is a number of steps by one contender, then the same number by the
other, in alternating order; the one that waits is stopped, with its queue of loaded batches.

The interval: pairs of one start share two processes, and a process's place in memory changes its speed by about 1 % for
its whole life (LOG.md). Pairs are therefore not independent, and an interval over all of them would be too narrow. So
it is a t-interval over the starts' mean log ratios. With fewer than three starts it is taken over the pairs, and the
output says that it holds for these processes only.
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

from bench.core.files import to_json, write_atomically  # noqa: E402
from bench.core.stats import Interval, ratio_interval  # noqa: E402
from bench.machine.environment import git_state  # noqa: E402
from bench.measure.device import choose_device, resolve_precision  # noqa: E402
from benchmarks.contenders import SETTINGS, Task  # noqa: E402

STARTS_FOR_INTERVAL = 3


class Contender(Protocol):
    """One side, stopped except during `go`."""

    ready_seconds: float

    def go(self, steps: int) -> float:
        """Seconds that `steps` more steps take."""

    def end(self) -> dict[str, Any]:
        """Facts about the process: peak_memory_bytes, torch, threads, device_name."""


@dataclass(frozen=True)
class Plan:
    """How long a duel is. Neither the first step nor those to warm up are part of a pair."""

    starts: int = 4
    pairs: int = 3
    steps: int = 10
    warmup: int = 2
    seed: int = 0


@dataclass
class Start:
    """One start of both processes. By contender: raw seconds of each pair and of the first step, facts at the end."""

    seconds: dict[str, list[float]]
    orders: list[str] = field(default_factory=list)  # which contender began each pair
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
        """What the ratio's n counts."""
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
    """Run the duel. `start` makes a contender by name; which one is built first and which begins alternates."""
    rng = random.Random(plan.seed)
    starts = []
    for number in range(plan.starts):
        order = list(names) if number % 2 == 0 else list(reversed(names))
        record = Start({name: [] for name in names})
        with contextlib.ExitStack() as stack:
            sides = {}
            for name in order:
                side = sides[name] = stack.enter_context(start(name))
                record.ready_seconds[name] = side.ready_seconds
                record.first_step_seconds[name] = side.go(1)
                if plan.warmup:
                    side.go(plan.warmup)
            rng.shuffle(order)
            for _ in range(plan.pairs):
                pair = {name: sides[name].go(plan.steps) for name in order}
                for name, seconds in pair.items():
                    record.seconds[name].append(seconds)
                record.orders.append(order[0])
                on_pair(number, pair)
                order.reverse()
            record.facts = {name: sides[name].end() for name in names}
        starts.append(record)
    return Duel(names, plan, tuple(starts))


# --- a contender as a process --------------------------------------------------------------------------------------


class Process:
    """A contender in a process group of its own, stopped by a signal during the other's turns. POSIX only."""

    def __init__(self, name: str, task: Task) -> None:
        words = [sys.executable, str(ROOT / "benchmarks/contenders.py"), name, json.dumps(asdict(task))]
        self.name = name
        self._popen = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, process_group=0
        )
        self.ready_seconds: float = self._answer()["ready_seconds"]

    def go(self, steps: int) -> float:
        self._signal(signal.SIGCONT)
        self._send(f"{steps}\n")
        seconds: float = self._answer()["seconds"]
        self._signal(signal.SIGSTOP)
        return seconds

    def end(self) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        self._send("\n")
        return self._answer()

    def kill(self) -> None:
        """End it and its workers, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._signal(signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _signal(self, number: int) -> None:
        os.killpg(self._popen.pid, number)

    def _send(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line)
        self._popen.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise SystemExit(f"'{self.name}' has ended; its output is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def process(name: str, task: Task) -> Iterator[Contender]:
    """A contender's process, with a folder for its files; it is ended in any case."""
    with tempfile.TemporaryDirectory() as folder:
        contender = Process(name, Task(**{**asdict(task), "folder": folder}))
        try:
            yield contender
        finally:
            contender.kill()


# --- what the scripts share ----------------------------------------------------------------------------------------


def make_parser(text: str, models: str, starts: int, pairs: int) -> argparse.ArgumentParser:
    """The flags of a script that runs a duel."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="CIFAR-10 as .npz: train_x, train_y, test_x, test_y")
    parser.add_argument("--models", default=models, help=f"comma-separated (default {models})")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="for all but plain")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="eager", help="for all but plain")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=45_000, help="training images per epoch (45,000)")
    parser.add_argument("--held-out", type=int, default=5_000, help="validation images (5,000)")
    parser.add_argument("--starts", type=int, default=starts, help=f"number of process starts ({starts})")
    parser.add_argument("--pairs", type=int, default=pairs, help=f"pairs of turns per start ({pairs})")
    parser.add_argument("--steps", type=int, help="steps per turn (CPU 10; CUDA an epoch, with its validation)")
    parser.add_argument("--warmup", type=int, default=2, help="steps to warm up, after the first (2)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="raw samples as JSON, one file for all models")
    return parser


def task_of(arguments: argparse.Namespace, model: str) -> Task:
    """The flags as a task."""
    device = choose_device(arguments.device)
    return Task(
        model=model,
        data=str(arguments.data.resolve()),
        device=device.type,
        precision=resolve_precision(arguments.precision, device),
        setting=arguments.setting,
        batch_size=arguments.batch_size,
        images=arguments.images,
        held_out=arguments.held_out,
        folder="",
    )


def run(arguments: argparse.Namespace, names: tuple[str, str], model: str) -> tuple[Task, Duel]:
    """One model's duel as the flags say; prints one line per pair."""
    task = task_of(arguments, model)
    steps = arguments.steps or (10 if task.device == "cpu" else task.steps)
    plan = Plan(arguments.starts, arguments.pairs, steps, arguments.warmup)

    def on_pair(start: int, seconds: dict[str, float]) -> None:
        rates = "  ".join(f"{n} {steps * task.batch_size / seconds[n]:,.0f}" for n in names)
        print(f"  start {start + 1}: {rates} images/s", flush=True)

    print(f"{model}:", flush=True)
    return task, fight(lambda name: process(name, task), names, plan, on_pair)


def describe(task: Task, duel: Duel) -> str:
    """What was measured, and the figures of each contender."""
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
    """The ratio of speeds from a ratio of times."""
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.n)


def show(ratio: Interval, unit: str, digits: int = 2) -> str:
    """`2.71 (2.60 to 2.83, n = 4 process starts)`."""
    if math.isnan(ratio.low):
        return f"{ratio.value:.{digits}f} (no interval, n = {ratio.n})"
    return f"{ratio.value:.{digits}f} ({ratio.low:.{digits}f} to {ratio.high:.{digits}f}, n = {ratio.n} {unit})"


def at_least(ratio: Interval, target: float) -> str:
    """Whether the whole interval meets the target; open where it contains the target."""
    return _verdict(ratio.low >= target, ratio.high < target)


def at_most(ratio: Interval, target: float) -> str:
    """Whether even the upper end is below the target."""
    return _verdict(ratio.high <= target, ratio.low > target)


def _verdict(met: bool, missed: bool) -> str:
    return "met" if met else "not met" if missed else "open: the interval contains it, or there is none"


def save(path: Path | None, duels: dict[str, tuple[Task, Duel]]) -> None:
    """Write all raw samples."""
    if path is not None:
        data = {model: {"task": asdict(task), **asdict(duel)} for model, (task, duel) in duels.items()}
        commit, dirty = git_state()
        write_atomically(path, to_json({"commit": commit, "dirty": dirty, "duels": data}))
