"""What a run is. Example: RunSpec("seresnet", data, recipe, Setting(), "cpu", "AMD EPYC", seed=0).run_id

Frozen plain data, standard library only. Everything that decides what is learned, and how it is executed, stands
in a RunSpec; its hash is the run's name, so a changed recipe or changed data is a new run, never a mixed one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

REFERENCE = "seresnet"  # the model that ratios refer to, where it takes part
MOST_CLASSES = 100_000  # a larger label is a mistake, and a list of all class names would fill the memory
SPEC_SCHEMA = 1  # part of every run_id: raise it only when a field changes its meaning; a record's is in schema.py


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned. Lengths in epochs, `crop_padding` in pixels at the data's own size."""

    name: str
    epochs: int  # 0 under a budget
    batch_size: int
    optimizer: str  # adamw | sgd (Nesterov)
    lr: float
    weight_decay: float  # of matrices and position tables; not of biases and other vectors
    momentum: float = 0.9  # sgd's momentum; adamw's beta1
    warmup_fraction: float = 0.0  # of all steps, linear from 0; then a cosine that ends at 0
    label_smoothing: float = 0.0
    crop_padding: int = 0  # zero padding before a random crop back to size; 0: no crop
    flip: bool = False  # horizontal, one half
    policy: str = ""  # strong augmentation, drawn for each image: trivialaugment (one op), randaugment (two), or none
    cutout: int = 0  # side in pixels of a square set to the mean, anywhere in the image; 0: none
    mixup: float = 0.0  # alpha of the Beta distribution; with cutmix too, a fair coin picks one for each batch
    cutmix: float = 0.0
    random_erasing: float = 0.0  # probability for each image that a rectangle of it is set to the mean
    drop_path: float = 0.0  # stochastic depth: rate of the last block, rising from 0, in models with a place for it
    clip_grad_norm: float = 0.0  # 0: none
    precision: str = "auto"  # auto: bf16 where the device has it natively, else fp32 | fp32 | bf16
    budget: str = ""  # in samples, seconds or FLOP (budget.py) instead of epochs, which are 0 then
    validations: int = 0  # evenly over the run; 0: after every epoch
    track: str = ""  # shared | family: which comparison of tuned models the run belongs to (tracks.py)


@dataclass(frozen=True)
class Setting:
    """How the same computation is executed. `name`: what was asked for; under `tuned` the rest is each model's own."""

    name: str = "eager"  # eager | compiled | graphed | tuned
    memory_format: str = "channels_last"  # or contiguous
    compile_mode: str = ""  # torch.compile's mode; none: not compiled
    attention: str = "fused"  # fused | math | explicit, where a model has the choice
    graphed: bool = False  # the whole training step as one CUDA graph


# Fields that came after the first records. Those without them were made under their defaults, and a run_id leaves
# them out at their defaults: so old runs stay themselves.
LATER = {
    "recipe": (
        *("policy", "cutout", "mixup", "cutmix", "random_erasing", "drop_path"),
        *("budget", "validations", "track"),
    ),
    "setting": ("compile_mode", "attention", "graphed"),
}
LATER_DEFAULTS: dict[str, dict[str, Any]] = {
    part: {f.name: f.default for f in fields(made) if f.name in LATER[part]}
    for part, made in (("recipe", Recipe), ("setting", Setting))
}


@dataclass(frozen=True)
class DataRef:
    """Which images: a name, and hashes that leave no doubt. `train_fraction` is of the training part."""

    name: str
    content_hash: str  # SHA-256 over all arrays
    split_hash: str  # SHA-256 over the indices of the training and the validation part
    num_classes: int
    image_size: int
    train_fraction: float = 1.0


@dataclass(frozen=True)
class Provenance:
    """Where arrays came from: every record of a run says it."""

    source: str  # an address, a package, a file
    version: str  # checksums of its files, or the package's version
    official: bool  # whether the content is what its name promises, by checksum
    like: str = ""  # the published data set whose numbers it has
    checked: bool = True  # whether it was held against that one's checksums
    path: str = ""  # of a user's own file or folder, as it was given


@dataclass(frozen=True)
class RunSpec:
    """One training: model x data x recipe x seed under one setting on one kind of device."""

    model: str
    data: DataRef
    recipe: Recipe
    setting: Setting
    device: str  # cpu | cuda
    device_name: str
    seed: int
    deterministic: bool = False
    model_source: str = ""  # SHA-256 of the file behind an external model, else ""

    @cached_property  # a sweep asks each of its runs twenty times, and hashing takes 0.3 ms
    def run_id(self) -> str:
        """`<slug>-<hash>`: readable, safe as a folder's name, equal exactly for equal specs."""
        parts = (self.model, self.data.name, self.recipe.name, f"s{self.seed}")
        return "-".join([*(slug(p) for p in parts), spec_id(to_dict(self))])


@dataclass(frozen=True)
class Colocation:
    """How many runs train on the device at once, and how many threads a run by itself would have (CPU)."""

    runs: int = 1
    threads_alone: int | None = None


ALONE = Colocation()


@dataclass(frozen=True)
class RunOptions:
    """What a worker must know of a run beside its spec; none of it decides what is learned."""

    rerun: bool = False  # repeat a finished run
    colocation: Colocation = ALONE
    target: float | None = None  # validation accuracy in 0..1 to be timed, named before training
    together: int = 1  # runs that take turns in its process, itself included; 0: as many as are worth it
    seconds_from: str = ""  # the run_id of one of the same work that trained alone, where this one does not
    samples: int | None = None  # of a budget in seconds, where another run has measured the pace
    keep_weights: bool = False  # beside the record


@dataclass(frozen=True)
class SessionSpec:
    """One speed session: models under one set of conditions. Images are random, so that no data set is needed."""

    models: tuple[tuple[str, str], ...]  # (name, model_source)
    recipe: Recipe  # its batch size is the training step's
    setting: Setting
    device: str
    device_name: str
    image_size: int
    num_classes: int
    reference: str  # ratios are to this one
    deterministic: bool = False
    batch_sizes: tuple[int, ...] = ()  # of inference; none: the recipe's
    train_batch_sizes: tuple[int, ...] = ()  # of training steps beside the recipe's
    half_width: float = 0.02  # of a ratio's 95 % interval, on the logarithm
    seconds: float = 60.0  # of all of it, from the first build to the last window
    starts: int = 3  # fresh processes, where the limit allows
    thorough: bool = False  # each model tried alone, memory, limits, energy
    own_settings: tuple[tuple[str, Setting], ...] = ()  # by model, under `tuned`
    own_recipes: tuple[tuple[str, Recipe], ...] = ()  # by model, in a track

    def setting_of(self, model: str) -> Setting:
        """A model's own setting, or that for all."""
        return dict(self.own_settings).get(model, self.setting)

    def recipe_of(self, model: str) -> Recipe:
        """A model's own recipe, or that for all; of one batch size and precision."""
        return dict(self.own_recipes).get(model, self.recipe)


def session_of(specs: Sequence[RunSpec], seconds: float, reference: str | None = None) -> SessionSpec:
    """The speed session for runs that differ only in model and seed, and in a track in the recipe.

    `reference`: the model that ratios refer to; by default seresnet where it takes part, else the first.
    """
    first = specs[0]
    conditions = {(s.data, s.recipe.batch_size, s.recipe.precision, s.setting.name, s.device) for s in specs}
    assert len(conditions) == 1, "one session, one set of conditions"
    names = [spec.model for spec in specs]
    return SessionSpec(
        models=tuple((spec.model, spec.model_source) for spec in specs),
        recipe=first.recipe,
        setting=first.setting,
        device=first.device,
        device_name=first.device_name,
        image_size=first.data.image_size,
        num_classes=first.data.num_classes,
        reference=reference_among(names, reference),
        deterministic=first.deterministic,
        seconds=seconds,
        own_settings=tuple((spec.model, spec.setting) for spec in specs),
        own_recipes=tuple((spec.model, spec.recipe) for spec in specs) if first.recipe.track else (),
    )


def reference_among(models: Sequence[str], asked: str | None = None) -> str:
    """The model that ratios refer to: the one asked for where it takes part, else seresnet, else the first."""
    return next((name for name in (asked, REFERENCE) if name is not None and name in models), models[0])


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """As plain data for JSON, with the schema's number."""
    return {"schema": SPEC_SCHEMA, **asdict(spec)}


def spec_id(spec: dict[str, Any]) -> str:
    """The hash in a run's name, from its spec as plain data: later fields count only where they are not the default."""
    trimmed = dict(spec)
    for part, defaults in LATER_DEFAULTS.items():
        trimmed[part] = {k: v for k, v in spec[part].items() if k not in defaults or v != defaults[k]}
    return content_id(trimmed)


def work_id(spec: dict[str, Any]) -> str:
    """The same for runs, as plain data, that differ in nothing but the kind of device that they were done on."""
    return spec_id({**spec, "device_name": ""})


def content_id(data: Any) -> str:
    """Ten hex digits of SHA-256 over canonical JSON: equal content, equal id, on every machine."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]


def slug(text: str) -> str:
    """Letters, digits, '_' and '.', the last 40 of them: whatever a model is called, its folder is harmless."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text)[-40:].strip("._") or "x"


def expand(
    models: Iterable[tuple[str, str]],
    data: DataRef,
    recipe: Recipe | Sequence[Recipe],
    setting: Setting,
    device: tuple[str, str],
    seeds: Iterable[int],
    deterministic: bool = False,
) -> list[RunSpec]:
    """Models x seeds as specs, seed by seed, so that an unfinished sweep still has every model under equal seeds.

    `models` are (name, model_source) pairs; `recipe` is one for all or one for each; `device` is (kind, name).
    """
    models = list(models)
    own = [recipe] * len(models) if isinstance(recipe, Recipe) else recipe
    return [
        RunSpec(name, data, mine, setting, *device, seed, deterministic, source)
        for seed in seeds
        for (name, source), mine in zip(models, own, strict=True)
    ]
