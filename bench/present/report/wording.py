"""Names, devices and amounts as a sentence says them. Example: display_name("cifar10") == "CIFAR-10" """

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.conditions import Conditions
from bench.core.text import plural
from bench.plan.budget import parse_budget

NAMES = {
    "digits": "scikit-learn's digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "fashion_mnist": "Fashion-MNIST",
    "tiny_imagenet": "Tiny ImageNet",
    "cinic10": "CINIC-10",
    "cinic10:train+valid": "CINIC-10 (trained on both its parts)",
}
SCALES = ((1e18, "quintillion"), (1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"))
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}


def display_name(dataset: str) -> str:
    """`cifar10` -> "CIFAR-10"; local data keep the name they have."""
    return NAMES.get(dataset, dataset)


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def data_text(conditions: Conditions) -> str:
    """The data set, and how its content differs from the official one."""
    content = f" ({conditions.content})" if conditions.content else ""
    return display_name(conditions.dataset) + content


def training_text(conditions: Conditions) -> str:
    """`40 seconds of training per run on two threads of an AMD EPYC`."""
    return f"{budget_text(conditions)} on {device_text(conditions)}"


def budget_text(conditions: Conditions) -> str:
    """How long each run trained."""
    budget, images = parse_budget(conditions.budget), f"{conditions.train_images:,}"
    amount = round(budget.amount)
    if budget.kind == "epochs":
        return f"{plural(amount, 'epoch')} of {images} training images"
    if budget.kind == "samples":
        return f"{amount:,} training samples per run (from {images} images)"
    if budget.kind == "flops":
        scale, word = next(((n, w) for n, w in SCALES if budget.amount >= n), SCALES[-1])
        return f"{budget.amount / scale:.3g} {word} training operations per run"
    for unit, length in (("hour", 3600), ("minute", 60), ("second", 1)):
        if budget.amount >= length and budget.amount % length == 0:
            return f"{plural(amount // length, unit)} of training per run"
    return f"{budget.amount:g} seconds of training per run"


def device_text(conditions: Conditions) -> str:
    """`two threads of an AMD EPYC`, `an NVIDIA H100`."""
    name, threads = conditions.device_name, conditions.threads
    device = f"{'an' if name[:1].lower() in tuple('aeio') or name.startswith('NVIDIA') else 'a'} {name}"
    if threads is None:
        return device
    return f"{NUMBERS.get(threads, f'{threads:,}')} thread{'s' * (threads != 1)} of {device}"
