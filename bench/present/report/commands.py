"""Commands that reproduce a store. Example: print("\\n".join(reproduce(loaded, stores)))

Records do not keep their command line; these have the same effect. Names are quoted for a POSIX shell.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from bench.analysis.sessions import setting_of
from bench.analysis.tables import Loaded
from bench.data.catalogue import CATALOGUE as PUBLISHED
from bench.data.convert import DEFAULT_SIZE, own_size
from bench.data.datasets import CINIC_WHOLE
from bench.plan.budget import DEFAULT_VALIDATIONS
from bench.plan.keys import REFERENCE
from bench.plan.recipes import RECIPES, TRACKS
from bench.plan.spec import Recipe
from bench.store.disk import Store
from bench.store.records import FinishedRun, RunRecord, Session

NEW_STORE = "results/again"  # in the old one every run is done already


@dataclass
class Sweep:
    """Runs that one command makes, apart from their seeds."""

    words: list[str]
    seeds: dict[str, set[int]] = field(default_factory=dict)  # by model
    tracks: set[str] = field(default_factory=set)
    shares: set[float] = field(default_factory=set)  # of the training images


def reproduce(loaded: Loaded, stores: Sequence[Store]) -> list[str]:
    """Commands that make these records again in a new store, then those that read it and these stores."""
    commits = {record.environment.get("commit") for record in (*loaded.runs, *loaded.sessions)} - {None, ""}
    lines = [f"git checkout {shlex.quote(str(next(iter(commits))))}"] if len(commits) == 1 else []
    trial_budgets = {search.budget for store in stores for search in store.lr_searches()}
    lines += [
        _command(["run_bench.py", *words, "--results", NEW_STORE]) for words in _run_words(loaded.runs, trial_budgets)
    ]
    lines += [
        _command(["run_bench.py", "time", *_session_words(session), "--results", NEW_STORE])
        for session in loaded.sessions
        if session.ceilings is not None  # those of a sweep have none, and come with it
    ]
    if len(commits) == 1:
        lines.append("git checkout -")  # what reads a store may be newer than what filled it
    again = [*dict.fromkeys(lines), *_reading(["--results", NEW_STORE])] if lines else []
    return [*again, *_reading([word for store in stores for word in ("--results", str(store.root))])]


def _reading(roots: Sequence[str]) -> list[str]:
    """Commands that check, show and draw stores; `roots`: their --results arguments."""
    return [_command(["run_bench.py", command, *roots]) for command in ("check", "table", "compare", "plot", "report")]


def _command(words: Iterable[str]) -> str:
    return " ".join(["python", *map(shlex.quote, words)])


def _run_words(runs: Sequence[RunRecord], trial_budgets: set[str]) -> list[list[str]]:
    """Arguments of `run`: one list per command, models of equal seeds together."""
    sweeps: dict[str, Sweep] = {}
    for run in runs:
        words = _shared_words(run)
        sweep = sweeps.setdefault(json.dumps(words), Sweep(words))
        sweep.seeds.setdefault(run.spec.model, set()).add(run.spec.seed)
        sweep.tracks.add(run.spec.recipe.track)
        sweep.shares.add(run.spec.data.train_fraction)
    commands = []
    for sweep in sweeps.values():
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for model, seeds in sweep.seeds.items():
            by_seeds.setdefault(tuple(sorted(seeds)), []).append(model)
        tracks = sorted(sweep.tracks - {""})
        more = ["--track", "both" if len(tracks) == len(TRACKS) else tracks[0]] if tracks else []
        if tracks and len(trial_budgets) == 1:
            more += ["--trial-budget", next(iter(trial_budgets))]
        if sweep.shares != {1.0}:
            more += ["--train-fraction", ",".join(f"{share:g}" for share in sorted(sweep.shares))]
        for chosen, models in by_seeds.items():
            commands.append(["--models", ",".join(models), *sweep.words, *more, "--seeds", seeds_text(chosen)])
    return commands


def _setting_words(name: str, device: str | None) -> list[str]:
    """The setting, where `auto` may choose another on that device."""
    return [] if (name, device) == ("eager", "cpu") else ["--setting", name]


def _shared_words(run: RunRecord) -> list[str]:
    """A run's arguments besides models, seeds, tracks and shares."""
    spec, recipe = run.spec, run.spec.recipe
    base = "shared" if recipe.track == "family" else recipe.name  # a family's recipe follows from the model
    named = RECIPES[base]() if base in RECIPES else None
    own_file = named is None or (recipe.track != "family" and not _is_named(recipe, named))
    words = [*_data_words(run), "--recipe", f"{base}.toml" if own_file else base]
    words += ["--budget", recipe.budget] if recipe.budget else ["--epochs", str(recipe.epochs)]
    if recipe.validations != (DEFAULT_VALIDATIONS if recipe.budget else 0):
        words += ["--validations", str(recipe.validations)]
    if named is None or recipe.batch_size != named.batch_size:
        words += ["--batch-size", str(recipe.batch_size)]
    if isinstance(run, FinishedRun) and run.target is not None:
        words += ["--target", f"{run.target:g}"]
    words += _setting_words(spec.setting.name, spec.device)
    words += ["--deterministic"] * spec.deterministic
    if isinstance(run, FinishedRun) and (run.metrics.runs_at_once or 1) > 1:
        words += ["--runs-per-device", str(run.metrics.runs_at_once)]
    return [*words, "--device", spec.device]


def _is_named(recipe: Recipe, named: Recipe) -> bool:
    """Whether a recipe is the named one, but for what the command line, a track, the data and the device change."""
    free = ["epochs", "budget", "validations", "batch_size", "precision", "track", "flip"]
    free += ["lr"] if recipe.track else []
    return replace(named, **{name: getattr(recipe, name) for name in free}) == recipe


def _data_words(run: RunRecord) -> list[str]:
    """--dataset and what belongs to it; of local data the name of the file or folder, not its path."""
    name, size = run.spec.data.name, run.spec.data.image_size
    provenance = run.provenance if isinstance(run, FinishedRun) else None
    source = provenance.source if provenance else ""
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


def seeds_text(seeds: Iterable[int]) -> str:
    """`0-2,5` for (0, 1, 2, 5)."""
    ranges: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in ranges)


def _session_words(session: Session) -> list[str]:
    """The arguments of `time` that make a session again."""
    recipe, key = session.recipe, session.key
    known = recipe.name in RECIPES and _is_named(recipe, RECIPES[recipe.name]())
    sizes = sorted({sample.batch_size for sample in session.samples if sample.kind == "inference"})
    words = ["--models", ",".join(session.models)]
    words += ["--recipe", recipe.name if known else f"{recipe.name}.toml"]
    words += ["--batch-size", str(recipe.batch_size), "--batch-sizes", ",".join(map(str, sizes))] if sizes else []
    words += ["--image-size", str(key.image_size), "--num-classes", str(session.num_classes)]
    words += _setting_words(setting_of(session), key.device)
    words += ["--deterministic"] * key.deterministic
    usual = REFERENCE if REFERENCE in session.models else session.models[0]
    if session.reference in session.models and session.reference != usual:
        words += ["--reference", session.reference]
    if session.half_width is not None:
        words += ["--within", f"{100 * session.half_width:g}"]
    if session.limit_seconds is not None:
        words += ["--time-limit", f"{session.limit_seconds:g}s"]
    return [*words, "--device", str(key.device)]
