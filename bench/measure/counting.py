"""The cost of a run's model, as its record keeps it. Example: cost_of(model, spec).notes

Counting takes seconds, so the result for a registered model is kept in the user's cache. Where the counter fails, the
run goes on without it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from torch import nn

from bench.core.events import ModelCounted, ModulePart, Report
from bench.core.files import cache_dir, sha256, write_atomically
from bench.core.status import one_line
from bench.machine.identity import training_code
from bench.measure import cost
from bench.measure.build import build_model, build_plain
from bench.measure.cost import Cost, by_module, count
from bench.measure.layout import layout
from bench.measure.probe import check_model, reason
from bench.measure.step import undisturbed
from bench.plan.spec import RunSpec, content_id, slug
from bench.store.records import Audit
from models import registry
from models.errors import ModelError


@dataclass(frozen=True)
class CountedCost:
    """A record's cost: fields of its metrics, audit and modules in full, notes."""

    metrics: dict[str, int | str | None]
    notes: list[str] = field(default_factory=list)
    audit: Audit | None = None
    modules: tuple[ModulePart, ...] | None = None

    @property
    def train_flops(self) -> float | None:
        """Forward and backward for one image, two operations per multiply-add; None where it was not counted."""
        flops = self.metrics.get("train_flops_2x")
        return float(flops) if isinstance(flops, int) else None


def cost_of(model: nn.Module, spec: RunSpec) -> CountedCost:
    """The cost of the spec's model; where the counter fails, empty figures and a note.

    `model` keeps its state: another one is built to be counted.
    """
    try:
        counted = cached_count(spec)
    except Exception as error:  # fvcore traces the model, and tracing may raise anything
        params = sum(p.numel() for p in model.parameters())
        return CountedCost({"flops": None, "params": params}, [f"FLOPs not counted: {one_line(error)}"])
    figures: dict[str, int | str | None] = {
        "flops": counted.flops,
        "flops_2x": 2 * counted.flops,
        "train_flops_2x": counted.train_flops_2x,
        "flops_audit": counted.audit.verdict,
        "activations": counted.activations,
        "params": counted.params,
    }
    return CountedCost(figures, audit_notes(counted.audit), counted.audit, counted.modules)


class _Cached(msgspec.Struct, frozen=True):
    checksum: str
    cost: Cost


def cached_count(spec: RunSpec) -> Cost:
    """The cost of the spec's model, from this user's cache where the same code has counted it.

    Changes no random stream. Raises whatever building or counting raises.

    An external model is counted every time, since its code may have changed.
    """
    if registry.family(spec.model) == "external":
        return _count_anew(spec)
    code = [sha256(Path(cost.__file__).read_bytes()), training_code()]
    versions = [version(package) for package in ("torch", "fvcore", "timm", "vit-pytorch")]
    key = [spec.model, spec.data.num_classes, spec.data.image_size, code, versions]
    path = cache_dir() / "costs" / f"{slug(spec.model)}-{content_id(key)}.json"
    with contextlib.suppress(OSError, ValueError):
        cached = msgspec.json.decode(path.read_bytes(), type=_Cached)
        if cached.checksum == _checksum(cached.cost):
            return cached.cost
    counted = _count_anew(spec)
    with contextlib.suppress(OSError):  # without a cache the next run counts again
        write_atomically(path, msgspec.json.encode(_Cached(_checksum(counted), counted)))
    return counted


def _count_anew(spec: RunSpec) -> Cost:
    with undisturbed(torch.device("cpu")):
        return count(build_model(spec), spec.data.image_size)


def _checksum(counted: Cost) -> str:
    return sha256(msgspec.json.encode(counted))


def audit_notes(audit: Audit) -> list[str]:
    """Caveats of a FLOP count, one sentence each; empty where both counters agree on everything."""
    notes = []
    if audit.verdict == "mismatch":
        notes.append(
            f"FLOPs do not pass the audit: products {audit.products:,} by fvcore, {audit.torch:,} by torch "
            f"({'; '.join(audit.differing)})"
        )
    elif audit.verdict == "failed":
        notes.append(f"FLOPs could not be audited: {audit.why}")
    if audit.unsupported:
        notes.append(f"operators not counted in the FLOPs: {', '.join(audit.unsupported)}")
    if audit.unused:
        shown = ", ".join(audit.unused[:5]) + (", …" if len(audit.unused) > 5 else "")
        modules = "module with parameters" if len(audit.unused) == 1 else "modules with parameters"
        notes.append(f"{len(audit.unused)} {modules} that the forward pass never calls: {shown}")
    return notes


# --- the `cost` command ------------------------------------------------------------------------------------------


def child_models(
    report: Report, names: tuple[str, ...], num_classes: int, image_sizes: tuple[int, ...], depth: int | None = None
) -> None:
    """Report every model at every size as soon as it is counted; its parts down to `depth` dots where one is given.

    Raises ModelError for a model that cannot be built, tried or counted.
    """
    for name in names:
        for size in image_sizes:
            check_model(name, num_classes, size)
            report(_counted(name, num_classes, size, depth))


def _counted(name: str, num_classes: int, image_size: int, depth: int | None) -> ModelCounted:
    model = build_plain(name, num_classes, image_size)
    try:
        stem, resolutions = layout(model, image_size)
        counted = count(model, image_size)
        modules = () if depth is None else tuple(by_module(model, image_size, depth))
    except Exception as error:  # fvcore traces the model, and tracing may raise anything
        raise ModelError(f"the FLOPs of '{name}' cannot be counted: {reason(error)}") from error
    return ModelCounted(
        model=name,
        image_size=image_size,
        stem=stem,
        resolutions=resolutions,
        params=counted.params,
        flops=counted.flops,
        activations=counted.activations,
        train_flops_2x=counted.train_flops_2x,
        audit=counted.audit.verdict,
        notes=tuple(audit_notes(counted.audit)),
        modules=modules,
    )
