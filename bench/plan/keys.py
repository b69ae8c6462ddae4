"""What must be equal for two figures to be compared. Example: speed_key(record.spec, record.environment)

Two runs answer one question where their data and recipes agree; two speeds share an axis where their keys agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.core.text import plural
from bench.plan.settings import policy
from bench.plan.spec import REFERENCE, Recipe, RunSpec, SessionSpec

__all__ = ["REFERENCE", "Fact", "Facts", "SpeedKey", "question", "session_key", "speed_key", "step_key", "with_host"]

Fact = str | int | float | bool | None
Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class SpeedKey:
    """The comparability key: speeds with different keys never share an axis."""

    device: str | None
    device_name: str | None
    driver: str | None
    torch: str | None
    precision: str
    batch_size: int
    image_size: int
    policy: str  # how settings were given: one for all models, or the best of each
    deterministic: bool
    threads: int | None  # CPU only
    cpu: str | None = None  # of the host, whatever the device: the same card behind another CPU is another machine
    cpu_cores: int | None = None
    cpu_capability: str | None = None  # the instructions that torch uses; two CPUs of one name may differ in them
    shared: bool = False  # whether other processes used the GPU, too

    @property
    def host(self) -> str:
        """The host in words: `AMD EPYC, 16 cores, AVX2`; empty where a record does not say."""
        cores = plural(self.cpu_cores, "core") if self.cpu_cores else ""
        return ", ".join(filter(None, (self.cpu, cores, self.cpu_capability)))


def speed_key(spec: RunSpec, environment: Facts) -> SpeedKey:
    """A run's comparability key."""
    return _key(spec.recipe, spec.data.image_size, spec.setting.name, spec.deterministic, spec.device, environment)


def session_key(spec: SessionSpec, environment: Facts) -> SpeedKey:
    """A speed session's comparability key."""
    return _key(spec.recipe, spec.image_size, spec.setting.name, spec.deterministic, spec.device, environment)


def _key(
    recipe: Recipe, image_size: int, setting: str, deterministic: bool, device: str, environment: Facts
) -> SpeedKey:
    facts: dict[str, Any] = {fact: environment.get(fact) for fact in ("device", "device_name", "driver", "torch")}
    # A run that shared the cores had fewer threads than the session that timed its model, which had them all.
    threads: Any = environment.get("threads_alone", environment.get("torch_threads")) if device == "cpu" else None
    return SpeedKey(
        **facts,
        precision=recipe.precision,
        batch_size=recipe.batch_size,
        image_size=image_size,
        policy=policy(setting),
        deterministic=deterministic,
        threads=threads,
        **_host(environment),
        shared=environment.get("gpu_shared") is True,
    )


def with_host(key: SpeedKey, environment: Facts) -> SpeedKey:
    """A key as recorded, with the host from its environment: older keys did not have it."""
    return replace(key, **_host(environment))


def _host(environment: Facts) -> dict[str, Any]:
    facts: dict[str, Any] = {fact: environment.get(fact) for fact in ("cpu", "cpu_capability")}
    facts["cpu_cores"] = environment.get("cpu_cores", environment.get("cpu_count"))
    kinds = {"cpu": str, "cpu_capability": str, "cpu_cores": int}
    return {fact: value if type(value) is kinds[fact] else None for fact, value in facts.items()}


def step_key(recipe: Recipe) -> tuple[object, ...]:
    """The parts of a recipe that decide how long a training step takes; the rest may differ from session to run."""
    used = (recipe.clip_grad_norm > 0, recipe.label_smoothing > 0, recipe.drop_path > 0)
    return (recipe.optimizer, recipe.batch_size, recipe.precision, *used)


def question(spec: RunSpec) -> dict[str, Any]:
    """What runs must have in common, device and speed apart, to be compared: their data and their recipe.

    In a track the learning rate is each model's own; in track `family` the rest of the recipe is, too.
    """
    recipe = asdict(spec.recipe)
    if spec.recipe.track == "family":
        recipe = {k: recipe[k] for k in ("track", "budget", "epochs", "validations", "batch_size", "precision")}
    elif spec.recipe.track:
        recipe.pop("lr")
    return {"data": asdict(spec.data), "recipe": recipe}
