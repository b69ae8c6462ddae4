"""The protocol, environment and files at a report's end. Example: environment(loaded); raw_files(stores)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.tables import Loaded
from bench.analysis.verdicts_csv import VERDICTS, verdicts_csv
from bench.plan.keys import Fact as FactValue
from bench.plan.spec import slug
from bench.present.charts.parts import unused
from bench.store.disk import Store
from bench.store.views import views_of

# Ten sentences, each about what the code does; docs/measurement.md has the details.
PROTOCOL = (
    "A comparison holds runs that share everything but model and seed: images, split, recipe, budget, batch size, "
    "precision, device and versions (in a track each model has its own learning rate, and in track family its family's "
    "recipe).",
    "Each run is a process of its own; its seed decides the initial weights, the order of the images and their "
    "augmentation.",
    "A fixed tenth of each class is held out from training for validation, or the publisher's own validation part; "
    "learning rates and targets are judged on it alone.",
    "The test images are used once, after the last step, with the weights as they are then: no best epoch is picked.",
    "Training seconds cover the training steps with their data loading; evaluation, checkpoints and the first step, "
    "which allocates and compiles, are not counted.",
    "Speeds come from separate sessions in which the models take turns: every block runs each model once, in random "
    "order, on random images that are already on the device.",
    "A speed is the median over blocks; a ratio of two speeds is taken within blocks, as a geometric mean with a "
    "95 % interval, so a machine that slows down midway favours no model.",
    "FLOPs are multiply-adds of the forward pass for one image, attention included; every count is checked against "
    "torch's own counter.",
    "An accuracy difference has a 95 % interval for other seeds and other images like these; better and worse need p "
    "below 0.05 among all pairs compared at once (Holm), and equivalent an interval within the margin.",
    "A failed run is a row with its reason, a record with a damaged checksum is left out and named, and speeds of "
    "different devices, versions or precisions never share a table.",
)

FILES = {
    "results.csv": "one row per run",
    "speed.csv": "one row per model, kind and batch size of each speed session",
    "history.csv": "every validation of every run",
    "timings.csv": "every raw timing",
    "environment.csv": "every fact about the machine",
    VERDICTS: "one row per pair of models",
}


@dataclass(frozen=True)
class Fact:
    """One fact of the environment: each value found and in how many records, the most frequent first."""

    name: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RawFile:
    """A CSV file of a store, for download; `name` begins with the store's where there are several."""

    name: str
    content: bytes
    text: str


def environment(loaded: Loaded) -> list[Fact]:
    """Every fact that runs and sessions recorded about where they ran, by name."""
    counts: dict[str, Counter[str]] = {}
    for record in (*loaded.runs, *loaded.sessions):
        for name, value in record.environment.items():
            counts.setdefault(name, Counter())[_value(value)] += 1
    return [Fact(name, tuple(counter.most_common())) for name, counter in sorted(counts.items())]


def _value(value: FactValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def raw_files(stores: Sequence[Store]) -> list[RawFile]:
    """The CSV files of each store, made from its records: those in its folder may have been edited, or be links."""
    files, prefixes = list[RawFile](), list[str]()
    for store in stores:
        contents: dict[str, bytes | None] = {**views_of(store.runs(), store.sessions()), VERDICTS: verdicts_csv(store)}
        prefixes.append(unused(slug(str(store.root)), prefixes))
        files += [
            RawFile(f"{prefixes[-1]}-{name}" if len(stores) > 1 else name, content, FILES[name])
            for name, content in contents.items()
            if content is not None
        ]
    return files
