"""Plans and runs in words, for the screen. Example: devices_words(context.executor.devices())"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.core.text import plural
from bench.data.provenance import content_words
from bench.drive.planning import Plan
from bench.executors.protocol import Device
from bench.plan.spec import Recipe, RunSpec


def describe(plan: Plan, devices: Sequence[Device]) -> str:
    """The conditions that all runs of a plan share, in two lines; in a track one more line per recipe."""
    spec, dataset = plan.specs[0], plan.dataset
    by_recipe: dict[Recipe, list[str]] = {}
    for one in plan.specs:
        models = by_recipe.setdefault(one.recipe, [])
        models += [] if one.model in models else [one.model]
    content = content_words(spec.data.name, dataset.provenance)
    lines = [
        f"{spec.data.name}{f' ({content})' if content else ''}: {len(dataset.train_index):,} training, "
        f"{len(dataset.val_index):,} validation, {plural(len(dataset.arrays.test_y), 'test image')} of "
        f"{spec.data.image_size} px, {plural(spec.data.num_classes, 'class', 'classes')}"
    ]
    for recipe, models in by_recipe.items():
        of_models = f" ({', '.join(models)})" if recipe.track else ""
        lines.append(
            f"recipe {recipe.name}{of_models}: {length_words(recipe)}, batch {recipe.batch_size}, {recipe.optimizer}, "
            f"lr {recipe.lr:g}, {augmentation(recipe)}, {recipe.precision}, {spec.setting.name}, "
            f"on {devices_words(devices)}"
        )
    return "\n".join(lines)


def length_words(recipe: Recipe) -> str:
    """`4 epochs`, `track shared, budget 600s`."""
    length = f"budget {recipe.budget}" if recipe.budget else plural(recipe.epochs, "epoch")
    return f"track {recipe.track}, {length}" if recipe.track else length


def devices_words(devices: Sequence[Device]) -> str:
    """`H100`, or `3 x H100 and 1 x A100`."""
    counts = Counter(device.kind for device in devices)
    if len(devices) == 1:
        return devices[0].kind
    return " and ".join(f"{count} x {kind}" for kind, count in counts.items())


def augmentation(recipe: Recipe) -> str:
    """What is done to the training images, and to the models' branches, in words."""
    parts = [
        (recipe.crop_padding, f"crop from {recipe.crop_padding} px padding"),
        (recipe.flip, "flip"),
        (recipe.policy, recipe.policy),
        (recipe.cutout, f"cutout of {recipe.cutout} px"),
        (recipe.random_erasing, f"random erasing {recipe.random_erasing:g}"),
        (recipe.mixup, f"mixup {recipe.mixup:g}"),
        (recipe.cutmix, f"cutmix {recipe.cutmix:g}"),
        (recipe.drop_path, f"drop path {recipe.drop_path:g}"),
    ]
    return " + ".join(words for used, words in parts if used) or "no augmentation"


def titles(specs: Sequence[RunSpec]) -> dict[str, str]:
    """Each run among others, by run_id: model and seed, and of data, recipe and share of the images what differs."""
    several_data = len({spec.data.name for spec in specs}) > 1
    several_shares = len({spec.data.train_fraction for spec in specs}) > 1
    recipes = defaultdict[str, set[str]](set)
    for spec in specs:
        recipes[spec.model].add(spec.recipe.name)
    names = {}
    for spec in specs:
        parts = [
            spec.model,
            f"on {spec.data.name}" if several_data else "",
            f"recipe {spec.recipe.name}" if len(recipes[spec.model]) > 1 else "",
            f"{100 * spec.data.train_fraction:g} % of the images" if several_shares else "",
            f"seed {spec.seed}",
        ]
        names[spec.run_id] = ", ".join(filter(None, parts))
    return names
