"""What stands at a report's end: environment, protocol, commands, files. Example: reproduce(load(stores), stores)"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.analysis.tables import Loaded
from bench.core.files import inert
from bench.data.catalogue import CATALOGUE as PUBLISHED
from bench.data.convert import DEFAULT_SIZE, own_size
from bench.data.datasets import CINIC_WHOLE
from bench.plan.budget import LOOKS
from bench.plan.recipes import RECIPES, TRACKS
from bench.plan.spec import Recipe
from bench.present.pair_table import VERDICTS
from bench.store.disk import VIEWS, Store, views_of
from bench.store.records import Record

AGAIN = "results/again"  # a new store: in the old one every run is done already

# Ten sentences, each of what the code does; docs/measurement.md has the whole of it.
PROTOCOL = (
    "A comparison holds runs that share everything but model and seed: images, split, recipe, budget, batch, "
    "precision, device and versions (in a track each model has its own learning rate, and in track family its family's "
    "recipe).",
    "Each run is a process of its own, whose seed decides the weights at the start, the order of the images and their "
    "augmentation.",
    "A fixed tenth of each class is kept from training for validation, or the publisher's own validation part; "
    "learning rates and targets are judged on it alone.",
    "The test images are looked at once, after the last step, with the weights as they then are: no best epoch is "
    "picked.",
    "Training seconds are those of training steps with their loading; evaluation, checkpoints and the first step, "
    "which allocates and compiles, are off the clock.",
    "Speeds come from sessions of their own in which the models take turns: in every block each comes once, in random "
    "order, on random images that already lie on the device.",
    "A speed is the median of the blocks; a ratio of two speeds is taken within blocks, as a geometric mean with a "
    "95 % interval, so that a machine that slows down midway favours nobody.",
    "FLOPs are multiply-adds of one image's forward pass, attention included, and every count is held against torch's "
    "own counter.",
    "A difference of accuracy has a 95 % interval for other seeds and other images like these; better and worse need p "
    "below 0.05 among all pairs compared at once (Holm), and equivalent an interval within the margin.",
    "What failed is a row with its reason, what has a damaged checksum is left out and named, and speeds of different "
    "devices, versions or precisions never share a table.",
)


@dataclass(frozen=True)
class Fact:
    """One fact of the environment: each value that was met, and in how many records, the most frequent first."""

    name: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RawFile:
    """A CSV file of a store, to be downloaded."""

    store: str
    name: str
    content: bytes


def environment(found: Loaded) -> list[Fact]:
    """Every fact that runs and sessions recorded of where they ran, by name; a record without it is not counted."""
    counts: dict[str, Counter[str]] = {}
    for record in (*found.runs, *found.sessions):
        for name, value in record.get("environment", {}).items():
            counts.setdefault(name, Counter())[_value(value)] += 1
    return [Fact(name, tuple(counter.most_common())) for name, counter in sorted(counts.items())]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def raw_files(stores: Sequence[Store]) -> list[RawFile]:
    """The CSV files of each store as they lie in its folder; views that are missing are made from the records."""
    files = []
    for store in stores:
        there = {name: _read(store.root / name) for name in (*VIEWS, VERDICTS)}
        made = views_of(store.runs(), store.sessions()) if any(there[name] is None for name in VIEWS) else {}
        for name, content in there.items():
            content = made.get(name) if content is None else content
            if content is not None:
                files.append(RawFile(inert(str(store.root)), name, content))
    return files


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


# --- commands --------------------------------------------------------------------------------------------------------


def reproduce(found: Loaded, stores: Sequence[Store]) -> list[str]:
    """Commands that make these records again, in a store of their own, then those that read these stores.

    Records do not keep the command line; what is here has the same effect. Names are quoted for a POSIX shell.
    """
    commits = {record.get("environment", {}).get("commit") for record in (*found.runs, *found.sessions)} - {None, ""}
    lines = [f"git checkout {shlex.quote(str(next(iter(commits))))}"] if len(commits) == 1 else []
    trials = _trial_budgets(stores)
    lines += [_command(["run_bench.py", *words, "--results", AGAIN]) for words in _sweeps(found.runs, trials)]
    lines += [
        _command(["run_bench.py", "time", *_session_words(session), "--results", AGAIN])
        for session in found.sessions
        if session.get("ceilings")  # those of a sweep have none, and come with it
    ]
    back = ["git checkout -"] if len(commits) == 1 else []  # what reads a store may be newer than what filled it
    roots = [word for store in stores for word in ("--results", str(store.root))]
    again = [*dict.fromkeys(lines), *back, *read_again(["--results", AGAIN])] if found.runs or found.sessions else []
    return [*again, *read_again(roots)]


def read_again(roots: Sequence[str]) -> list[str]:
    """The commands that draw and tell a store anew; `roots`: --results arguments."""
    return [_command(["run_bench.py", command, *roots]) for command in ("check", "table", "compare", "plot", "report")]


def _command(words: Iterable[str]) -> str:
    return " ".join(["python", *map(shlex.quote, map(str, words))])


def _trial_budgets(stores: Sequence[Store]) -> set[str]:
    return {str(search["budget"]) for store in stores for search in store.searches()}


def _sweeps(runs: Sequence[Record], trials: set[str]) -> list[list[str]]:
    """Arguments of `run`, one list for all runs that one command makes."""
    sweeps: dict[str, dict[str, Any]] = {}
    for run in runs:
        words = _words(run)
        sweep = sweeps.setdefault(json.dumps(words), {"words": words, "models": {}, "tracks": {}, "recipes": set()})
        spec = run["spec"]
        sweep["models"].setdefault(spec["model"], set()).add(spec["seed"])
        sweep["tracks"].setdefault(spec["recipe"]["track"], set()).add(spec["data"]["train_fraction"])
    made = []
    for sweep in sweeps.values():
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for model, seeds in sweep["models"].items():
            by_seeds.setdefault(tuple(sorted(seeds)), []).append(model)
        tracks = [track for track in sweep["tracks"] if track]
        more = ["--track", "both" if len(tracks) == len(TRACKS) else tracks[0]] if tracks else []
        if tracks and len(trials) == 1:
            more += ["--trial-budget", next(iter(trials))]
        shares = sorted(set().union(*sweep["tracks"].values()))
        if shares != [1.0]:
            more += ["--train-fraction", ",".join(f"{share:g}" for share in shares)]
        for seeds, models in by_seeds.items():
            made.append(["--models", ",".join(models), *sweep["words"], *more, "--seeds", seed_words(seeds)])
    return made


def _words(run: Record) -> list[str]:
    """What a run's command has besides models, seeds, tracks and shares."""
    spec, recipe = run["spec"], run["spec"]["recipe"]
    base = "shared" if recipe["track"] == "family" else recipe["name"]  # a family's recipe follows from the model
    named = RECIPES[base]() if base in RECIPES else None
    own_file = named is None or (recipe["track"] != "family" and not _is_that(recipe, named))
    words = [*_data_words(run), "--recipe", f"{base}.toml" if own_file else base]
    words += ["--budget", recipe["budget"]] if recipe["budget"] else ["--epochs", str(recipe["epochs"])]
    if recipe["validations"] != (LOOKS if recipe["budget"] else 0):
        words += ["--validations", str(recipe["validations"])]
    if named is None or recipe["batch_size"] != named.batch_size:
        words += ["--batch-size", str(recipe["batch_size"])]
    if run.get("target") is not None:
        words += ["--target", f"{run['target']:g}"]
    if spec["setting"]["name"] != "eager":
        words += ["--setting", spec["setting"]["name"]]
    words += ["--deterministic"] * bool(spec["deterministic"])
    if (at_once := run.get("metrics", {}).get("runs_at_once", 1)) > 1:
        words += ["--runs-per-device", str(at_once)]
    return [*words, "--device", spec["device"]]


def _is_that(recipe: Record, named: Recipe) -> bool:
    """Whether a record's recipe is the named one but for what a command line, a track, data and device change."""
    free = {"epochs", "budget", "validations", "batch_size", "precision", "track", "flip"}
    free |= {"lr"} if recipe["track"] else set()
    made = replace(named, **{k: v for k, v in recipe.items() if k in free})
    return all(getattr(made, field) == value for field, value in recipe.items() if hasattr(made, field))


def _data_words(run: Record) -> list[str]:
    """--dataset and what belongs to it; of one's own data the name of the file or folder, not its path."""
    name, size = run["spec"]["data"]["name"], run["spec"]["data"]["image_size"]
    source = str(run.get("provenance", {}).get("source", ""))
    words = ["--dataset", name]
    if name == CINIC_WHOLE:
        words = ["--dataset", "cinic10", "--cinic-train", "train+valid"]
    elif source.startswith(("npz:", "folder:")):
        words = ["--dataset", source]
    elif name.startswith("npz:"):
        words = ["--dataset", f"{name}.npz"]
    known = PUBLISHED.get(name.partition(":")[0])
    usual = own_size(known.facts.size, known.facts.size) if known else DEFAULT_SIZE
    return words + (["--image-size", str(size)] if size != usual else [])


def seed_words(seeds: Sequence[int]) -> str:
    """`0-2,5` for (0, 1, 2, 5)."""
    ranges: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in ranges)


def _session_words(session: Record) -> list[str]:
    """The arguments of `time` that make a session again."""
    recipe, key = session["recipe"], session["key"]
    known = recipe["name"] in RECIPES and _is_that(recipe, RECIPES[recipe["name"]]())
    sizes = sorted({s["batch_size"] for s in session["samples"] if s["kind"] == "inference"})
    words = ["--models", ",".join(session["models"])]
    words += ["--recipe", recipe["name"] if known else f"{recipe['name']}.toml"]
    words += ["--batch-size", str(recipe["batch_size"]), "--batch-sizes", ",".join(map(str, sizes))] if sizes else []
    words += ["--image-size", str(key["image_size"]), "--num-classes", str(session["num_classes"])]
    policy = str(key["policy"]).removeprefix("identical:")
    words += ["--setting", policy] if policy != "eager" else []
    words += ["--deterministic"] * bool(key.get("deterministic"))
    if "half_width" in session:
        words += ["--within", f"{100 * session['half_width']:g}"]
    if "limit_seconds" in session:
        words += ["--time-limit", f"{session['limit_seconds']:g}s"]
    return [*words, "--device", str(key["device"])]
