"""Named recipes. Example: load("shared").optimizer == "adamw"

A recipe is a function that returns plain data; its docstring says what it costs and should reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import read_toml
from bench.core.text import writable
from bench.plan.budget import DEFAULT_VALIDATIONS, Budget, parse_budget, samples_for
from bench.plan.spec import Recipe
from models.registry import suggest

OPTIMIZERS = ("adamw", "sgd")
POLICIES = ("", "trivialaugment", "randaugment")
PRECISIONS = ("auto", "fp32", "bf16")
MOST_EPOCHS = 1_000_000  # the marks of all of them are in memory
TRACKS = ("shared", "family")  # in the order in which they are shown


def shared() -> Recipe:
    """One recipe for every model: AdamW, warm-up, cosine, crop + flip, label smoothing, gradients clipped at norm 1.

    Sources: crop and flip of He et al. 2016 (arXiv:1512.03385); AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) at
    lr 1e-3 with decay 0.05, warm-up, cosine and label smoothing 0.1 of Touvron et al. 2021 (arXiv:2012.12877); clipping
    at norm 1 of Dosovitskiy et al. 2021 (arXiv:2010.11929). Cost: 50 passes over CIFAR-10's 45,000 training images, 351
    steps each. Expected there: not measured yet at full length (LOG.md has what was), and no figure was published for
    it; ResNet-56 reaches 93 % by its own recipe in 164 passes. It favours neither family by design, and may suit one
    better than the other.
    """
    return Recipe(
        name="shared",
        epochs=50,
        batch_size=128,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        warmup_fraction=0.05,
        label_smoothing=0.1,
        crop_padding=4,
        flip=True,
        clip_grad_norm=1.0,
    )


def smoke() -> Recipe:
    """A few minutes on a laptop: `shared` with small batches and few epochs, for the embedded digits.

    Cost: about 5 minutes for seresnet and vit_tiny on 2 CPU cores. Expected: both above 50 % test accuracy, which
    says that all works, not who wins.
    """
    return replace(shared(), name="smoke", epochs=4, batch_size=12, lr=3e-4, crop_padding=0)


def cnn() -> Recipe:
    """What the ResNets' own literature uses: SGD with Nesterov momentum, decay 5e-4, cosine, crop + flip, no more.

    Sources: He et al. 2016 (arXiv:1512.03385, section 4.2: batch 128, lr 0.1, crop from 4 px padding + flip), with the
    decay, Nesterov momentum and cosine that later work settled on (Zagoruyko & Komodakis 2016, arXiv:1605.07146;
    Loshchilov & Hutter 2017, arXiv:1608.03983). Cost: 200 passes over CIFAR-10's 45,000 training images. Expected:
    93 to 94.4 % with ResNet-56 there (results/references.csv); not measured here at full length.
    """
    return Recipe(
        name="cnn",
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        crop_padding=4,
        flip=True,
    )


def vit() -> Recipe:
    """What small ViTs' own literature uses: `shared` for longer, with strong augmentation of every kind.

    Sources: Touvron et al. 2021 (arXiv:2012.12877) for the set, as Lee et al. 2021 (arXiv:2112.13492) and Hassani et
    al. 2021 (arXiv:2104.05704) use it on small images: lr 1e-3, decay 0.05, label smoothing 0.1, RandAugment, mixup,
    cutmix, random erasing, and stochastic depth where a model has a place for it (timm's and CCT).
    Cost: 200 passes over CIFAR-10's 45,000 training images. Expected: 89 to 94.8 % there, by model
    (results/references.csv); not measured here at full length. Over few passes it is too strong for any model.
    """
    return replace(
        shared(),
        name="vit",
        epochs=200,
        policy="randaugment",
        mixup=0.8,
        cutmix=1.0,
        random_erasing=0.25,
        drop_path=0.1,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"shared": shared, "smoke": smoke, "cnn": cnn, "vit": vit}
FAMILY_RECIPES = {"cnn": cnn, "vit": vit, "hybrid": vit}  # track `family`, by the registry's family
# From which each model of a track takes its learning rate on validation, by optimizer; factors of about 3.
LRS = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2), "sgd": (1e-2, 3e-2, 1e-1, 3e-1)}


def parse_tracks(text: str) -> tuple[str, ...]:
    """`shared`, `family`, `both`, or none. Raises UserError."""
    if text not in ("", "both", *TRACKS):
        raise UserError(f"--track '{text}'{suggest(text, ('both', *TRACKS))} Choices: shared, family, both")
    return TRACKS if text == "both" else (text,) if text else ()


def in_track(track: str, family: str, base: Recipe, model: str) -> Recipe:
    """The recipe of a model in a track: `base` for all, or its family's for as long as `base`, of the same batch size.

    Raises UserError for a model of no family.
    """
    if track == "shared":
        return replace(base, track=track)
    if family not in FAMILY_RECIPES:
        raise UserError(
            f"--track family knows no recipe for '{model}', which is of no known family; use --track shared"
        )
    own = replace(FAMILY_RECIPES[family](), track=track, batch_size=base.batch_size, precision=base.precision)
    return replace(own, epochs=base.epochs, budget=base.budget, validations=base.validations)


def under(recipe: Recipe, budget: Budget, validations: int | None = None) -> Recipe:
    """The recipe, with its length set by the budget."""
    if budget.kind == "epochs":
        return replace(recipe, epochs=round(budget.amount), budget="", validations=validations or 0)
    in_all = DEFAULT_VALIDATIONS if validations is None else validations
    return replace(recipe, epochs=0, budget=budget.text, validations=in_all)


def length(recipe: Recipe) -> Budget:
    """How long a recipe trains."""
    return parse_budget(recipe.budget) if recipe.budget else Budget("epochs", recipe.epochs)


def training_images(recipe: Recipe, train_images: int) -> int | None:
    """Images that a run will have seen at its end; None where its own speed or its FLOPs will decide."""
    budget, batch = length(recipe), recipe.batch_size
    if budget.kind == "epochs":
        return recipe.epochs * (train_images // batch) * batch
    return samples_for(budget, batch) if budget.kind == "samples" else None


def load(name: str) -> Recipe:
    """A named recipe, or one derived from a named one in a TOML file. Raises UserError with the choices."""
    if name.endswith(".toml"):
        return _from_toml(Path(name))
    if name not in RECIPES:
        raise UserError(
            f"unknown recipe '{name}'{suggest(name, RECIPES)} Choices: {', '.join(RECIPES)}, or a .toml file"
        )
    return RECIPES[name]()


def _from_toml(path: Path) -> Recipe:
    changes = read_toml(path, "recipe file")
    base = changes.pop("base", "shared")
    if not isinstance(base, str) or base not in RECIPES:
        raise UserError(f"base = {base!r} in '{path}': choose from {', '.join(RECIPES)}")
    return derive(RECIPES[base](), {"name": writable(path.stem), **changes}, str(path))


def derive(base: Recipe, changes: dict[str, Any], origin: str) -> Recipe:
    """`base` with `changes`, checked field by field. Raises UserError that names `origin` and the field."""
    types = {f.name: type(getattr(base, f.name)) for f in dataclasses.fields(Recipe)}
    for key, value in changes.items():
        if key == "track":
            raise UserError(f"{origin}: track cannot be set in a recipe; use --track shared, family or both")
        if key not in types:
            raise UserError(f"{origin}: unknown field '{key}'; a recipe has {', '.join(types)}")
        wanted = types[key]
        if wanted is float and type(value) is int:
            changes = {**changes, key: float(value)}
        elif type(value) is not wanted:
            raise UserError(f"{origin}: {key} must be {wanted.__name__}, not {value!r}")
    recipe = replace(base, **changes)
    if changes.get("budget"):
        if "epochs" in changes:
            raise UserError(f"{origin}: epochs and budget both set the length; give only one")
        recipe = under(recipe, parse_budget(recipe.budget, f"{origin}: budget"), changes.get("validations"))
    check(recipe, origin)
    return recipe


def check(recipe: Recipe, origin: str) -> None:
    """Raise UserError, naming `origin`, for a value that no training can use."""
    if recipe.budget:
        parse_budget(recipe.budget, f"{origin}: budget")
    rules = [
        (recipe.epochs >= 1 or (recipe.budget and recipe.epochs == 0), "epochs must be at least 1"),
        (recipe.epochs <= MOST_EPOCHS, f"epochs must be at most {MOST_EPOCHS:,}"),
        (0 <= recipe.validations <= 10_000, "validations must be between 0 and 10,000"),
        (recipe.track in ("", *TRACKS), f"track must be one of {', '.join(TRACKS)}"),
        (recipe.batch_size >= 1, "batch size must be at least 1"),
        (0 < recipe.lr < float("inf"), "lr must be above 0"),
        (0 <= recipe.weight_decay < float("inf"), "weight_decay must not be negative"),
        (0 <= recipe.momentum < 1, "momentum must be at least 0 and below 1"),
        (0 <= recipe.warmup_fraction < 1, "warmup_fraction must be at least 0 and below 1"),
        (0 <= recipe.label_smoothing < 1, "label_smoothing must be at least 0 and below 1"),
        (0 <= recipe.crop_padding <= 64, "crop_padding must be between 0 and 64"),
        (0 <= recipe.cutout <= 1024, "cutout must be between 0 and 1,024"),
        (0 <= recipe.mixup <= 100, "mixup must be between 0 and 100"),
        (0 <= recipe.cutmix <= 100, "cutmix must be between 0 and 100"),
        (recipe.policy in POLICIES, f"policy must be empty or one of {', '.join(POLICIES[1:])}"),
        (0 <= recipe.random_erasing <= 1, "random_erasing must be between 0 and 1"),
        (0 <= recipe.drop_path < 1, "drop_path must be at least 0 and below 1"),
        (0 <= recipe.clip_grad_norm < float("inf"), "clip_grad_norm must not be negative"),
        (recipe.optimizer in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}"),
        (recipe.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}"),
    ]
    for holds, sentence in rules:
        if not holds:
            raise UserError(f"{origin}: {sentence}")
