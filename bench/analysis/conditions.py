"""What runs of one comparison have in common. Example: conditions_of(run).batch_size

Runs are compared where their data, recipe and comparability key are equal; `group_of` is that as a text to group by.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from bench.data.provenance import content_words
from bench.plan.keys import question, speed_key
from bench.plan.spec import RunSpec
from bench.store.records import FinishedRun


@dataclass(frozen=True)
class Conditions:
    """The conditions as titles and CSV files show them."""

    dataset: str
    content: str  # what must stand beside the data set's name, or ""
    image_size: int
    train_images: int
    test_images: int
    track: str  # shared | family | ""
    recipe: str
    epochs: int | None  # None under a budget
    budget: str
    validations: int
    batch_size: int
    precision: str
    setting: str
    deterministic: bool
    device_name: str
    threads: int | None  # CPU only
    torch: str
    host: str = ""  # its CPU, in words

    @property
    def data_title(self) -> str:
        """The data set's name and what must stand beside it."""
        return f"{self.dataset} {self.content}"


def conditions_of(run: FinishedRun) -> Conditions:
    """The conditions of a run, and so of its comparison."""
    spec, recipe, key = run.spec, run.spec.recipe, speed_key(run.spec, run.environment)
    return Conditions(
        dataset=spec.data.name,
        content=content_words(spec.data.name, run.provenance),
        image_size=spec.data.image_size,
        train_images=run.metrics.train_images,
        test_images=run.metrics.test_images,
        track=recipe.track,
        recipe="each family's own" if recipe.track == "family" else recipe.name,
        epochs=recipe.epochs or None,
        budget=recipe.budget or f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}",
        validations=len(run.history),
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        setting=spec.setting.name,
        deterministic=spec.deterministic,
        device_name=spec.device_name,
        threads=key.threads,
        torch=str(run.environment["torch"]),
        host=key.host,
    )


def group_of(run: FinishedRun) -> str:
    """A text that is equal for runs that may be compared."""
    return as_text(question(run.spec), asdict(speed_key(run.spec, run.environment)))


def as_text(*parts: object) -> str:
    """Plain data as a text to group by."""
    return json.dumps(parts, sort_keys=True)


def same_plan(a: RunSpec, b: RunSpec) -> bool:
    """Whether two runs belong to one comparison: all is equal but model and seed, and in a track the recipe."""
    same_place = (a.device, a.device_name, a.deterministic) == (b.device, b.device_name, b.deterministic)
    return same_place and question(a) == question(b) and a.setting.name == b.setting.name
