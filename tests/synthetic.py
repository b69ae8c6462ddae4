"""Stores with known content, made without training. Example: write_store(tmp_path, {"seresnet": (0.9, 100.0)})"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.core.files import sha256, to_json
from bench.plan.recipes import shared
from bench.plan.spec import DataRef, RunSpec, Setting, to_dict
from bench.store.disk import Store
from bench.store.records import FailedRun, FinishedRun, Session

DATA = DataRef("cifar10", "c" * 64, "s" * 64, num_classes=10, image_size=32)
RECIPE = replace(shared(), epochs=3, precision="fp32")
ENVIRONMENT = {
    "device": "cpu",
    "device_name": "Test CPU",
    "torch": "2.13.0",
    "torch_threads": 2,
    "commit": "0" * 40,
    "dirty": False,
}


def spec(model: str, seed: int = 0, **changes: Any) -> RunSpec:
    """A run's spec; `changes` replace its fields."""
    return replace(RunSpec(model, DATA, RECIPE, Setting(), "cpu", "Test CPU", seed), **changes)


def record(
    of: RunSpec, accuracy: float, family: str = "cnn", train_seconds: float = 30.0, **changes: Any
) -> FinishedRun:
    """A finished run's record with three epochs; `changes` replace its fields, `metrics` some of its figures."""
    history = [
        {
            "epoch": e,
            "train_loss": 2.0 / e,
            "val_loss": 2.1 / e,
            "val_accuracy": accuracy * e / 3,
            "lr": 1e-3 / e,
            "train_seconds": train_seconds * e / 3,
            "samples_seen": 1000 * e,
        }
        for e in (1, 2, 3)
    ]
    metrics = {
        "accuracy": accuracy,
        "test_loss": 1.0,
        "val_accuracy": accuracy,
        "val_loss": 1.0,
        "train_seconds": train_seconds,
        "first_step_seconds": 0.5,
        "segments": 1,
        "checkpoint_seconds": 0.01,
        "wall_seconds": train_seconds + 5,
        "samples_seen": 3000,
        "loop_images_per_second": 99.0,
        "flops": 127_105_568,
        "params": 861_818,
        "activations": 545_849,
        "peak_memory_bytes": 700_000_000,
        "epochs": 3,
        "train_images": 45_000,
        "test_images": 10_000,
    }
    metrics |= changes.pop("metrics", {})
    made = {
        "run_id": of.run_id,
        "status": "ok",
        "spec": to_dict(of),
        "family": family,
        "started": f"2026-01-01T00:00:{of.seed:02d}.000+00:00",
        "metrics": metrics,
        "history": history,
        "notes": [],
        "classes": list("0123456789"),
        "environment": ENVIRONMENT,
    }
    return msgspec.convert(made | changes, FinishedRun)


def failure(of: RunSpec, status: Any = "oom", message: str = "out of memory at batch 128") -> FailedRun:
    """The record of a run that did not end well."""
    started = "2026-01-02T00:00:00.000+00:00"
    return FailedRun(run_id=of.run_id, status=status, message=message, spec=of, family="vit", started=started)


def session(seconds: dict[str, list[float]], started: str = "2026-01-03T00:00:00.000+00:00", **changes: Any) -> Session:
    """A speed session: by model the seconds of a training step in each block; inference a fourth, latency a tenth.

    `changes` replace its fields, given as plain data.
    """
    samples = [
        {
            "model": model,
            "kind": kind,
            "block": block,
            "position": 0,
            "batch_size": 1 if kind == "latency" else RECIPE.batch_size,
            "calls": 2,
            "seconds": 2 * s / share,
        }
        for model, blocks in seconds.items()
        for block, s in enumerate(blocks)
        for kind, share in (("train", 1), ("inference", 4), ("latency", 10))
    ]
    key = {**{k: ENVIRONMENT.get(k) for k in ("device", "device_name", "driver", "torch")}}
    key |= {"precision": "fp32", "batch_size": RECIPE.batch_size, "image_size": 32, "policy": "identical:eager"}
    key |= {"deterministic": False, "threads": 2}
    made = {
        "id": f"session-{len(seconds)}-{started[:10]}",
        "started": started,
        "models": list(seconds),
        "sources": dict.fromkeys(seconds, ""),
        "settings": {model: asdict(Setting()) for model in seconds},
        "reference": "seresnet",
        "stopped": "narrow",
        "blocks": len(next(iter(seconds.values()))),
        "build_seconds": dict.fromkeys(seconds, 0.1),
        "first_calls": [],
        "failures": [],
        "memory": [],
        "warnings": [],
        "ceilings": None,
        "bounds": {},
        "energy": {"source": "rapl", "why_not": "this machine has no RAPL counter"},
        "key": key,
        "recipe": asdict(RECIPE),
        "num_classes": 10,
        "samples": samples,
        "environment": ENVIRONMENT,
    }
    return msgspec.convert(made | changes, Session)


def split_starts(made: Session, starts: int) -> Session:
    """The same session with its blocks divided among process starts."""
    share = made.blocks / starts
    samples = tuple(msgspec.structs.replace(s, start=int(s.block / share)) for s in made.samples)
    return msgspec.structs.replace(made, samples=samples, starts=starts, planned_starts=starts)


def by_batch(models: dict[str, tuple[float, float]], sizes: tuple[int, ...], blocks: int = 4) -> Session:
    """A session with training steps at these batch sizes: seconds of launching, and of each image."""
    made = session({model: [0.128] * blocks for model in models})
    template = next(s for s in made.samples if s.kind == "train")
    samples = [s for s in made.samples if s.kind != "train"]
    for model, (launch, image) in models.items():
        for size in sizes:
            for block in range(blocks):
                seconds = (launch + image * size) * (1 + 0.001 * (block % 2))
                changes = {"model": model, "block": block, "batch_size": size, "seconds": seconds, "calls": 1}
                samples.append(msgspec.structs.replace(template, **changes))
    return msgspec.structs.replace(made, samples=tuple(samples))


def sealed(body: dict[str, Any]) -> bytes:
    """A record as stored, with a checksum that holds, whatever its fields are: what an attacker could write."""
    body = {name: value for name, value in body.items() if name != "checksum"}
    return to_json({**body, "checksum": sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode())})


def write_store(root: Path, accuracies: dict[str, float], seconds: dict[str, list[float]] | None = None) -> Store:
    """A store with one run a model, and a speed session where seconds are given."""
    store = Store(root)
    families = ("cnn", "vit", "hybrid", "external")
    for index, (model, accuracy) in enumerate(accuracies.items()):
        of = spec(model)
        flops = 127_105_568 * (1 + index) // 2
        store.write_spec(of)
        store.write_record(
            record(of, accuracy, families[index % 4], train_seconds=30.0 + 7 * index, metrics={"flops": flops})
        )
    if seconds:
        store.write_session(session(seconds))
    store.rebuild_views()
    return store


def thorough_session(seconds: dict[str, list[float]], sizes: tuple[int, ...] = (1, 32, 128), **changes: Any) -> Session:
    """A session of the `time` command: inference at several batch sizes, limits, memory; `changes` as of `session`."""
    made: dict[str, Any] = msgspec.to_builtins(session(seconds))
    samples = [s for s in made["samples"] if s["kind"] != "inference"]
    for model, blocks in seconds.items():
        for block, s in enumerate(blocks):
            for size in sizes:
                about = {"model": model, "kind": "inference", "block": block, "position": 1, "batch_size": size}
                samples.append({**about, "calls": 1, "seconds": s * (20 + size) / 1000})
    ceilings = {"flops_per_second": 6e10, "bytes_per_second": 1.4e10, "launch_seconds": 3e-6}
    bounds = {
        model: {
            "name": "bandwidth",
            "share": 0.4,
            "shares": {"launch": 0.1, "bandwidth": 0.4, "compute": 0.3, "loader": 0.01},
            "flops_per_second": 2e10 / (1 + i),
            "flops_2x": 750_000_000 * 128,
            "operators": 900,
            "bytes": 4 * 10**9 * (1 + i),
            "step_seconds": blocks[0],
            "twice_the_batch": 1.02,
            "experiment": "confirmed",
        }
        for i, (model, blocks) in enumerate(seconds.items())
    }
    memory = [
        {"model": m, "kind": "train", "batch_size": 128, "bytes": 9 * 10**8, "reserved_bytes": None} for m in seconds
    ]
    made |= {"samples": samples, "bounds": bounds, "memory": memory}
    made["ceilings"] = {**ceilings, "loader_images_per_second": 20_000.0}
    made["first_calls"] = [{**s, "calls": 1, "block": 0} for s in samples if s["block"] == 0]
    return msgspec.convert(made | changes, Session)


def write_predicted(store: Store, of: RunSpec, label: Any, predicted: Any, loss: Any = None, **changes: Any) -> None:
    """A finished run with these predictions of the test part; `changes` replace fields of its record."""
    label, predicted = np.asarray(label, np.int16), np.asarray(predicted, np.int16)
    arrays = {"test_label": label, "test_predicted": predicted}
    arrays |= {} if loss is None else {"test_loss": np.asarray(loss, np.float32)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    figures = {"test_images": len(label), "train_flops_2x": 753_638_592, **changes.pop("metrics", {})}
    made = record(of, float((label == predicted).mean()), metrics=figures, **changes)
    store.run_dir(of).mkdir(parents=True, exist_ok=True)
    (store.run_dir(of) / "predictions.npz").write_bytes(buffer.getvalue())
    store.write_record(made)


def write_pair(
    store: Store, accuracies: dict[str, float], seeds: int = 3, images: int = 4000, **changes: Any
) -> list[str]:
    """Each model with so many seeds, right with its accuracy whatever the image; returns the run ids."""
    rng, families, made = np.random.default_rng(0), {"vit": "vit", "cct": "hybrid"}, []
    for model, accuracy in accuracies.items():
        for seed in range(seeds):
            label = np.arange(images) % 10
            predicted = np.where(rng.random(images) < accuracy, label, (label + 1) % 10)
            of = spec(model, seed, **changes)
            family = families.get(model[:3], "cnn")
            write_predicted(store, of, label, predicted, family=family)
            made.append(of.run_id)
    return made
