"""One setting for all models, where the user named none. Example: plans = with_setting(plans, context)

On a CPU it is `eager`. On CUDA it is the one under which the store has runs of this sweep, so that the same command
resumes them; else `fused` where that repays compiling (bench/plan/settings.py), and `graphed` where it does not. A
speed session follows the runs of its models in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.core.text import duration
from bench.drive.context import SweepContext
from bench.drive.estimates import Estimator
from bench.drive.planning import Plan
from bench.plan.recipes import training_images
from bench.plan.settings import GRAPHED_IMAGES_PER_SECOND, SETTINGS, has_compiler, repays_compiling
from bench.plan.spec import RunSpec
from bench.store.disk import Store

CHOICES = ("fused", "graphed", "eager")
NO_COMPILER = "because fused needs a C++ compiler"


def with_setting(plans: list[Plan], context: SweepContext) -> list[Plan]:
    """The plans under one setting; on CUDA a line says which, and why."""
    if plans[0].specs[0].device != "cuda":
        return plans
    known = context.store.runs()
    asked = {_work(spec) for plan in plans for spec in plan.specs}
    name = _most_used([run.spec for run in known if _work(run.spec) in asked])
    why = "under which runs of this sweep are in the store"
    if not name:
        estimator = Estimator(known, context.executor.remote)
        name, why = choose(plans, lambda spec, images: estimator.estimate(spec, images)[0])
    context.display.line(f"setting {name}, {why}; --setting chooses another")
    return [replace(plan, specs=[under(name, spec) for spec in plan.specs]) for plan in plans]


def of_session(models: Sequence[str], seconds: float, device: str, store: Store) -> tuple[str, str]:
    """(the setting of a speed session of so many seconds, why); on a CPU `eager`, without a reason.

    On CUDA it is the one under which the store has runs of these models there, so that one report holds both; else
    `fused` where the session is long enough to repay compiling them, as a sweep of that length would be.
    """
    if device != "cuda":
        return "eager", ""
    specs = [run.spec for run in store.runs() if run.spec.device == device and run.spec.model in models]
    if name := _most_used(specs):
        return name, "under which runs of these models are in the store"
    if not has_compiler():
        return "graphed", NO_COMPILER
    fused = repays_compiling({model: [seconds / len(models)] for model in models})
    return ("fused" if fused else "graphed"), (
        f"because {duration(seconds)} of timing {'repay' if fused else 'do not repay'} compiling"
    )


def under(name: str, spec: RunSpec) -> RunSpec:
    """The run under a setting."""
    return replace(spec, setting=SETTINGS[name])


def choose(plans: list[Plan], seconds_of: Callable[[RunSpec, int], float | None]) -> tuple[str, str]:
    """(`fused` or `graphed`, why). `seconds_of` gives a run's training seconds from its spec and images.

    It may have to measure them, so it is asked only where the pace of known models leaves the answer open.
    """
    if not has_compiler():
        return "graphed", NO_COMPILER
    runs = [(under("graphed", spec), len(plan.dataset.train_index)) for plan in plans for spec in plan.specs]
    images = [training_images(spec.recipe, count) for spec, count in runs]

    def repaid(seconds: Sequence[float | None]) -> bool:
        by_model: dict[str, list[float]] = defaultdict(list)
        for (spec, _), taken in zip(runs, seconds, strict=True):
            by_model[spec.model].append(taken or 0.0)
        return repays_compiling(by_model)

    slowest, fastest = ([n / pace if n else None for n in images] for pace in GRAPHED_IMAGES_PER_SECOND)
    seconds: Sequence[float | None]
    if all(images) and not repaid(slowest):
        seconds, fused = slowest, False
    elif all(images) and repaid(fastest):
        seconds, fused = fastest, True
    else:
        seconds = [seconds_of(*run) for run in runs]
        fused = repaid(seconds)
    total = duration(sum(taken or 0.0 for taken in seconds))
    about = f"about {total} of training" if seconds is not slowest else f"at most about {total} of training"
    return ("fused" if fused else "graphed"), f"because {about} {'' if fused else 'do not '}repay compiling"


def _most_used(specs: Sequence[RunSpec]) -> str:
    """The setting, of those that `auto` chooses from, under which most of these runs are; "" for none."""
    counts = [sum(spec.setting == SETTINGS[name] for spec in specs) for name in CHOICES]
    return CHOICES[counts.index(max(counts))] if any(counts) else ""


def _work(spec: RunSpec) -> RunSpec:
    """Equal for runs of one sweep of one model, whatever their setting, seed, learning rate and card."""
    return replace(under("eager", spec), seed=0, device_name="", recipe=replace(spec.recipe, lr=0.0))
