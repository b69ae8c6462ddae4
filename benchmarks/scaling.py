"""Does the cost grow with the work, and no faster? Example: python benchmarks/scaling.py --out scaling.png

Times whole runs of a small network on random images over epochs, images and batch size; speed sessions over models;
stores over runs. Each series is fitted on logarithms: seconds = c * work^exponent; 1 is linear, and less is better. The
sizes of a series come in a new random order in every round. A fixed cost, such as counting FLOPs, lowers the exponent;
so the exponent between the two largest sizes is printed as well, and the plot shows all points.

Then the commands that a user waits for: table and plot of the largest store, --help, and a typo.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import stats as scipy_stats  # noqa: E402

from bench.analysis import tables  # noqa: E402
from bench.core.files import to_json, write_atomically  # noqa: E402
from bench.core.stats import CONFIDENCE, Interval  # noqa: E402
from bench.data import datasets  # noqa: E402
from bench.data.datasets import Dataset  # noqa: E402
from bench.measure import session  # noqa: E402
from bench.measure.device import device_name, fix_numerics  # noqa: E402
from bench.measure.run import run_one  # noqa: E402
from bench.plan import recipes  # noqa: E402
from bench.plan.spec import RunSpec, SessionSpec, Setting  # noqa: E402
from bench.present import table_formats  # noqa: E402
from bench.store.disk import Store  # noqa: E402
from bench.store.records import TrialResults  # noqa: E402
from models import registry  # noqa: E402
from tests import synthetic  # noqa: E402

LINEAR = 1.05  # an exponent up to here is linear: twice the work takes at most 2.07 times as long
IMAGE_SIZE, CLASSES, BATCH = 16, 10, 32
COMMAND_TRIES = 7
TARGET_SECONDS = {"table": 5.0, "plot": 5.0, "--help": 0.3, "a typo": 0.3}
# A few milliseconds per step, so that everything fits into minutes; many names, because a session's models differ.
NETWORKS = """
from torch import nn

def build(num_classes, image_size):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )

m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = build
"""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Measure = Callable[[int], float]  # size -> seconds


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Interval:
    """The exponent of seconds = c * size^exponent, by least squares on logarithms, with its 95 % t-interval."""
    line = scipy_stats.linregress(np.log(sizes), np.log(seconds))
    df, slope = len(sizes) - 2, float(line.slope)
    half = float(scipy_stats.t.ppf((1 + CONFIDENCE) / 2, df)) * float(line.stderr) if df > 0 else math.nan
    return Interval(slope, slope - half, slope + half, len(sizes))


def last_stretch(points: Sequence[tuple[int, float]]) -> Interval:
    """The exponent between the two largest sizes alone, where a fixed cost matters least."""
    largest = sorted({size for size, _ in points})[-2:]
    return fit(*zip(*(p for p in points if p[0] in largest), strict=True))


def verdict(exponent: Interval, last: Interval) -> str:
    """Linear or better if the whole interval is, worse if either interval lies above; else open."""
    if exponent.low > LINEAR or last.low > LINEAR:
        return "WORSE than linear"
    return "linear or better" if exponent.high <= LINEAR else "open"


def series(measure: Measure, sizes: Sequence[int], rounds: int, seed: int = 0) -> list[tuple[int, float]]:
    """(size, seconds) of every size once per round, in random order, after a first call that is not kept."""
    rng = random.Random(seed)
    measure(sizes[0])
    return [(size, measure(size)) for _ in range(rounds) for size in rng.sample(sizes, len(sizes))]


# --- what is measured ----------------------------------------------------------------------------------------------


def random_data(folder: Path, count: int) -> Dataset:
    """A data set of random pixels."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, number in (("train", count), ("test", 100)):
        arrays[f"{part}_x"] = rng.integers(0, 256, (number, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        arrays[f"{part}_y"] = np.arange(number) % CLASSES
    path = folder / "random.npz"
    np.savez(path, **arrays)
    return datasets.load(f"npz:{path}", folder)


def run_seconds(dataset: Dataset, model: str, folder: Path, epochs: int, images: int, batch: int) -> float:
    """Seconds of a whole run on the first `images` training images, from the model to the record."""
    dataset = replace(dataset, train_index=dataset.train_index[:images])
    recipe = replace(recipes.shared(), epochs=epochs, batch_size=batch, precision="fp32", policy="", mixup=0.0)
    device = (DEVICE.type, device_name(DEVICE))
    source = registry.source_hash(model)
    spec = RunSpec(model, dataset.ref, recipe, Setting(), *device, seed=0, model_source=source)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        start = time.perf_counter()
        run_one(spec, dataset, Store(Path(store)), lambda event: None)
        return time.perf_counter() - start


def session_seconds(file: Path, folder: Path, models: int) -> float:
    """Seconds of a whole speed session; its number of blocks does not depend on the number of models."""
    names = [f"{file}:m{i}" for i in range(models)]
    source = registry.source_hash(names[0])
    session.SAMPLE_SECONDS = {"cpu": 0.02, "cuda": 0.01}  # a tenth: the session is timed here, not the models
    recipe = replace(recipes.shared(), batch_size=BATCH, precision="fp32")
    spec = SessionSpec(
        models=tuple((name, source) for name in names), recipe=recipe, setting=Setting(), device=DEVICE.type,
        device_name=device_name(DEVICE), image_size=IMAGE_SIZE, num_classes=CLASSES, reference=names[0],
        half_width=10.0, seconds=600.0,  # narrow at once: only the pilot's blocks
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as store:
        start = time.perf_counter()
        session.time_models(spec, TrialResults(), Store(Path(store)), lambda event: None)
        return time.perf_counter() - start


def fill(root: Path, runs: int) -> Store:
    """A store of ten models with made-up records, and a speed session."""
    store, models = Store(root), [f"model_{i}" for i in range(10)]
    for index in range(runs):
        spec = synthetic.spec(models[index % 10], seed=index // 10)
        accuracy = 0.8 + 0.01 * (index % 10) + 1e-4 * (index // 10 % 7)
        store.write_spec(spec)
        store.write_record(synthetic.record(spec, accuracy, train_seconds=30.0 + index % 10))
    store.write_session(synthetic.session({model: [0.1 + 0.01 * i] * 20 for i, model in enumerate(models)}))
    return store


def store_measures(folder: Path, sizes: Sequence[int]) -> dict[str, Measure]:
    """What grows with the runs of a store: writing them, the CSV views, finding what is done, the table."""
    stores = {runs: fill(folder / f"store-{runs}", runs) for runs in sizes}

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def write(runs: int) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            return timed(lambda: fill(Path(fresh), runs))

    def done(runs: int) -> float:
        specs = [synthetic.spec(f"model_{i % 10}", seed=i // 10) for i in range(runs)]
        return timed(lambda: [stores[runs].is_done(spec) for spec in specs])

    return {
        "runs: records": write,
        "runs: views": lambda runs: timed(stores[runs].rebuild_views),
        "runs: what is done": done,
        "runs: table": lambda runs: timed(lambda: table_formats.render(tables.compare([stores[runs]]), "text")),
    }


def commands(store: Path, folder: Path) -> dict[str, list[float]]:
    """Seconds of the commands that a user waits for, with Python's start."""
    words = {
        "table": ["table", "--results", str(store)],
        "plot": ["plot", "--results", str(store), "--out", str(folder / "plots")],
        "--help": ["--help"],
        "a typo": ["--models", "vit_tinny"],
    }
    waits: dict[str, list[float]] = {name: [] for name in words}
    for attempt in range(COMMAND_TRIES):
        for name, arguments in words.items():
            if attempt >= 3 and name in ("table", "plot"):
                continue
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "run_bench.py", *arguments], cwd=ROOT, capture_output=True, text=True
            )
            waits[name].append(time.perf_counter() - start)
            expected = 2 if name == "a typo" else 0
            if done.returncode != expected:
                raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return waits


# --- the report ----------------------------------------------------------------------------------------------------


def draw(found: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Plot every series on logarithmic axes, with its fit and a line of exponent 1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(12, 3 * math.ceil(len(found) / 4)), dpi=130, layout="constrained")
    panels = list(figure.subplots(math.ceil(len(found) / 4), 4, squeeze=False).flat)
    for panel, (name, points) in zip(panels, found.items(), strict=False):
        sizes, seconds = (np.array(values, float) for values in zip(*points, strict=True))
        exponent = fit(sizes, seconds)
        ends = np.array([sizes.min(), sizes.max()])
        middle = np.exp(np.log(sizes).mean())
        level = np.exp(np.log(seconds).mean())
        panel.loglog(sizes, seconds, "o", color="#0072B2", markersize=4)
        panel.loglog(ends, level * (ends / middle) ** exponent.value, color="#0072B2", label="fit")
        panel.loglog(ends, level * (ends / middle), "--", color="0.6", label="linear")
        title = f"exponent {exponent.value:.2f} ({exponent.low:.2f} to {exponent.high:.2f})"
        panel.set_title(title, fontsize=9)
        panel.set_xticks(sorted(set(sizes)), [f"{size:,.0f}" for size in sorted(set(sizes))], fontsize=8)
        panel.minorticks_off()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.tick_params(axis="y", labelsize=8)
        panel.set_xlabel(name, fontsize=8)
        panel.set_ylabel("seconds", fontsize=8)
        panel.legend(frameon=False, fontsize=8)
    for panel in panels[len(found) :]:
        panel.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.supxlabel(f"{device_name(DEVICE)}, torch {torch.__version__}", fontsize=7, color="0.35")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the plot of all series")
    parser.add_argument("--save", type=Path, metavar="FILE", help="raw samples as JSON")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every size (3)")
    parser.add_argument("--only", default="", help="series whose names begin like this; `commands` for the commands")
    arguments = parser.parse_args()
    fix_numerics(deterministic=False)
    with tempfile.TemporaryDirectory() as name:
        found, waits = measure(Path(name), arguments.rounds, arguments.only)
    print(f"on {device_name(DEVICE)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, points in found.items():
        exponent = fit(*zip(*points, strict=True))
        text = f"exponent {exponent.value:.2f} ({exponent.low:.2f} to {exponent.high:.2f}, n = {exponent.n})"
        last = last_stretch(points)
        text += f"; last stretch {last.value:.2f} ({last.low:.2f} to {last.high:.2f})"
        print(f"{name:<20} {text}: {verdict(exponent, last)}")
    for name, seconds in waits.items():
        middle, target = statistics.median(seconds), TARGET_SECONDS[name]
        text = f"median {middle:.2f} s, most {max(seconds):.2f} s, n = {len(seconds)}"
        print(f"{name:<20} {text}; target {target:g} s: {'met' if middle < target else 'not met'}")
    if found:
        draw(found, arguments.out)
    if arguments.save:
        write_atomically(arguments.save, to_json({"series": found, "commands": waits}))


def measure(folder: Path, rounds: int, only: str) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[float]]]:
    """Raw samples: (size, seconds) by series, seconds by command."""
    file = folder / "networks.py"
    file.write_text(NETWORKS, encoding="utf-8")
    model, sizes = f"{file}:build", (10, 30, 100, 300, 1000)
    dataset = random_data(folder, 6_000)
    kinds: dict[str, tuple[Measure, Sequence[int]]] = {
        "epochs": (lambda n: run_seconds(dataset, model, folder, n, 640, BATCH), (4, 8, 16, 32)),
        "images": (lambda n: run_seconds(dataset, model, folder, 4, n, BATCH), (640, 1280, 2560, 5120)),
        # the number of steps stays: the work of a step grows
        "batch size": (lambda n: run_seconds(dataset, model, folder, 4, 20 * n, n), (32, 64, 128, 256)),
        "models": (lambda n: session_seconds(file, folder, n), (2, 4, 8)),
    }
    if "runs".startswith(only) or only.startswith("runs"):
        kinds |= {name: (call, sizes) for name, call in store_measures(folder, sizes).items()}
    found = {}
    for name, (call, values) in kinds.items():
        if name.startswith(only):
            with contextlib.redirect_stdout(sys.stderr):
                found[name] = series(call, values, rounds)
            print(f"{name}: " + "  ".join(f"{size}: {s:.2f} s" for size, s in sorted(found[name])), flush=True)
    waits: dict[str, list[float]] = {}
    if "commands".startswith(only):
        store = folder / f"store-{sizes[-1]}"
        if not store.exists():
            fill(store, sizes[-1])
        waits = commands(store, folder)
    return found, waits


if __name__ == "__main__":
    main()
