"""What runs of one comparison have in common. Example: conditions_of(run).batch_size

Runs are compared where their data, recipe and comparability key are equal; `group_of` is that as a text to group by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from bench.core.text import plural
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
    apart: str = ""  # what tells it from others of the same title: `data 1f3a5c7e`, `lr 0.003`

    @property
    def data_title(self) -> str:
        """The data set's name and what must stand beside it."""
        return f"{self.dataset} {self.content}"

    @property
    def budget_words(self) -> str:
        """`20 epochs`, `3,840 samples`, `40 s`."""
        found = re.fullmatch(r"(\d[\d.e+]*) ?([A-Za-z]+)", self.budget)
        return f"{float(found[1]):,.12g} {found[2]}" if found else self.budget


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
    )


def told_apart(runs: Sequence[FinishedRun]) -> list[Conditions]:
    """The conditions of each group of runs, given one run of each; those that would read the same say what differs.

    Names do not: two files may both be called data.npz, and a recipe's file may have been edited.
    """
    made = [conditions_of(run) for run in runs]
    alike: dict[str, list[int]] = {}
    for index, conditions in enumerate(made):
        alike.setdefault(as_text(in_words(conditions)), []).append(index)
    for group in alike.values():
        facts = {index: _facts(runs[index]) for index in group}
        chosen: list[str] = []
        for name in facts[group[0]]:  # as few as tell all of them apart
            if len(_values(facts, [*chosen, name])) > len(_values(facts, chosen)):
                chosen.append(name)
        for index in group:
            apart = ", ".join(f"{name} {facts[index].get(name)}" for name in chosen)
            made[index] = replace(made[index], apart=apart)
    return made


def in_words(c: Conditions) -> dict[str, str]:
    """Each condition as a title says it; "" where there is nothing to say."""
    threads = f" with {plural(c.threads, 'thread')}" if c.threads else ""
    return {
        "data": f"{c.dataset} ({c.content})" if c.content else c.dataset,
        "size": f"{c.image_size} px",
        "training": f"{c.train_images:,} training images",
        "recipe": f"track {c.track}" if c.track else f"recipe {c.recipe}",
        "budget": c.budget_words,
        "batch": f"batch {c.batch_size}",
        "precision": c.precision,
        "setting": f"{c.setting}{', deterministic' * c.deterministic}",
        "device": f"{c.device_name}{threads}",
        "torch": f"torch {c.torch}",
        "apart": c.apart,
    }


def differing(words: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """For each of several things that are shown side by side, what is not the same in all of them: for their titles."""
    kept = [name for name in (words[0] if words else ()) if len({one[name] for one in words}) > 1]
    return [tuple(one[name] for name in kept if one[name]) for one in words]


def titled(title: str, words: Sequence[str]) -> str:
    """A title with those of the words that it lacks."""
    return " · ".join([title, *(word for word in words if word not in title)])


def _values(facts: Mapping[int, Mapping[str, object]], names: Sequence[str]) -> set[str]:
    return {as_text([own.get(name) for name in names]) for own in facts.values()}


def _facts(run: FinishedRun) -> dict[str, object]:
    """Everything that `group_of` looks at, by a name to show, hashes shortened."""
    asked = question(run.spec)
    data = asked["data"]
    hashes = {"data": data.pop("content_hash")[:8], "split": data.pop("split_hash")[:8]}
    return {**hashes, **data, **asked["recipe"], **asdict(speed_key(run.spec, run.environment))}


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
