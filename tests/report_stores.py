"""Stores of every kind that a report must handle, made without training. Example: STORES["hostile"](tmp_path)"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.plan.spec import DataRef, RunSpec
from bench.store.disk import Store
from tests.synthetic import DATA, RECIPE, failure, spec, thorough_session, write_predicted

IMAGES = 500
MODELS = {"seresnet": ("cnn", 0.92), "resnet56": ("cnn", 0.91), "vit_flops": ("vit", 0.86), "cct_2": ("hybrid", 0.88)}
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>window.owned=1</script>",
    "$x^2$",
    "_x",
    "NA",
    "=cmd|' /C calc'!A0",
    'a" onmouseover="alert(1)',
    "{{ 7 * 7 }}",
    "../../x",
)


def write_run(store: Store, of: RunSpec, accuracy: float, family: str, index: int, epochs: int = 6) -> None:
    """A finished run: a history that rises to its accuracy, predictions, cost by module."""
    rng = np.random.default_rng([of.seed, index])
    label = np.arange(IMAGES) % of.data.num_classes
    right = rng.random(IMAGES) < accuracy
    wrong = (label + 1 + rng.integers(of.data.num_classes - 1, size=IMAGES)) % of.data.num_classes
    loss = np.where(right, 0.1, 3.0 + rng.random(IMAGES))
    seconds = 30.0 + 7 * index
    history = [
        {
            "epoch": e,
            "train_loss": 2.0,
            "val_loss": 2.1,
            "val_accuracy": accuracy * (1 - math.exp(-1.5 * e / epochs - 0.2 * of.seed / 3)) * 1.2,
            "lr": 1e-3,
            "train_seconds": seconds * e / epochs,
            "samples_seen": 1000 * e,
        }
        for e in range(1, epochs + 1)
    ]
    metrics = {
        "train_flops_2x": 753_638_592 * (1 + index) // 2,
        "flops": 127_105_568 * (1 + index) // 2,
        "params": 861_818 * (1 + index % 5) // 2,
    }
    parts = (
        ("", 43_418, 43_647_616, 311_306),
        ("conv1", 432, 442_368, 16_384),
        ("layer1", 42_336, 43_204_608, 294_912),
        ("fc", 650, 640, 10),
    )
    store.write_spec(of)
    write_predicted(
        store,
        of,
        label,
        np.where(right, label, wrong),
        loss,
        family=family,
        train_seconds=seconds,
        metrics=metrics,
        history=history,
        classes=[f"class {i}" for i in range(of.data.num_classes)],
        target=0.8,
        modules=[dict(zip(("name", "params", "flops", "activations"), part, strict=True)) for part in parts],
    )


def time_all(store: Store, names: list[str]) -> None:
    """A session of the `time` command with everything that it can measure."""
    groups = {"convolution": 0.05, "matrix product": 0.02, "normalisation": 0.02, "elementwise": 0.01}
    session = thorough_session(
        {m: [0.1 * (1 + i / 3) * (1 + 0.01 * b) for b in range(10)] for i, m in enumerate(names)},
        reference="seresnet" if "seresnet" in names else names[0],
        groups={m: {"step_seconds": 0.1 * (1 + i / 3), "groups": groups} for i, m in enumerate(names)},
        energy={
            "source": "rapl",
            "why_not": "",
            "joules_per_1000_images": {m: 12.0 + 3 * i for i, m in enumerate(names)},
        },
    )
    store.write_session(session)


def full(root: Path) -> Store:
    """Four models with three seeds on two data sets, one also on fewer images, a failure, a session with everything."""
    store = Store(root)
    other = DataRef("digits", "d" * 64, "t" * 64, num_classes=10, image_size=32)
    fewer = replace(DATA, train_fraction=0.1, split_hash="u" * 64)
    for data, less, seeds in ((DATA, 0.0, 3), (other, -0.05, 1), (fewer, 0.2, 3)):
        for index, (model, (family, accuracy)) in enumerate(MODELS.items()):
            for seed in range(seeds):
                of = spec(model, seed, data=data)
                write_run(store, of, accuracy - less, family, index)
    time_all(store, list(MODELS))
    of = spec("vit_tiny", 0)
    store.write_failure(failure(of))
    store.rebuild_views()
    return store


def empty(root: Path) -> Store:
    """A store without a run."""
    (root / "runs").mkdir(parents=True)
    return Store(root)


def one_run(root: Path) -> Store:
    """One run of one model, never timed."""
    store = Store(root)
    write_run(store, spec("seresnet"), 0.9, "cnn", 0)
    return store


def one_model(root: Path) -> Store:
    """Three runs of one model, timed alone."""
    store = Store(root)
    for seed in range(3):
        write_run(store, spec("vit_tiny", seed), 0.8, "vit", 1)
    time_all(store, ["vit_tiny"])
    return store


def twenty(root: Path) -> Store:
    """Twenty models with long names."""
    names = [f"timm:convolutional_vision_transformer_{i:02d}_patch16_224[depth={i},heads=3]" for i in range(20)]
    return _many(root, names)


def failures(root: Path) -> Store:
    """Only failed runs."""
    store = Store(root)
    for model, status in (("seresnet", "oom"), ("vit_tiny", "diverged")):
        of = spec(model)
        store.write_failure(failure(of, status, f"{status} at step 7"))
    return store


def hostile(root: Path) -> Store:
    """Models, a data set and messages with names chosen to do harm."""
    store = _many(root, list(HOSTILE), replace(DATA, name="npz:<b>data</b>"))
    of = spec("<svg onload=alert(1)>", data=replace(DATA, name="npz:<b>data</b>"))
    store.write_failure(failure(of, "failed", "</td><script>window.owned=1</script>"))
    return store


def _many(root: Path, names: list[str], data: DataRef = DATA) -> Store:
    store = Store(root)
    families = ("cnn", "vit", "hybrid", "external")
    for index, name in enumerate(names):
        write_run(store, spec(name, data=data), 0.60 + 0.023 * (index * 7 % 15), families[index % 4], index)
    time_all(store, names)
    return store


def large(root: Path, runs: int = 500) -> Store:
    """`runs` runs: ten models, five data sets, seeds."""
    store = Store(root)
    names = ("cifar10", "cifar100", "svhn", "cinic10", "fashion_mnist")
    for number in range(runs):
        model, rest = number % 10, number // 10
        data = replace(DATA, name=names[rest % 5])
        of = spec(f"model_{model}", rest // 5, data=data, recipe=RECIPE)
        write_run(store, of, 0.7 + 0.02 * model, ("cnn", "vit")[model % 2], model, epochs=10)
    time_all(store, [f"model_{i}" for i in range(10)])
    return store


STORES: dict[str, Callable[[Path], Store]] = {
    "full": full,
    "empty": empty,
    "one_run": one_run,
    "one_model": one_model,
    "twenty": twenty,
    "failures": failures,
    "hostile": hostile,
}
