"""From stores to charts. Example: charts, missing = charts_of([Store(Path("results/local"))])

Charts are data; charts.static draws them as files and charts.interactive for the page. `missing` names the kinds of
chart that the stores have no data for, each with the command that gets them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from bench.analysis.compare import Pair, pairs_loaded
from bench.analysis.conditions import differing
from bench.analysis.sessions import train_sizes
from bench.analysis.tables import Comparison, Loaded, compare_loaded, load
from bench.core.errors import UserError
from bench.plan.spec import slug
from bench.present.charts.across import data_efficiency, differences, stem_of
from bench.present.charts.comparison import charts_of_comparison
from bench.present.charts.model import Chart, Missing, looks_of
from bench.present.charts.parts import Common, names_of, unused
from bench.present.charts.speed import charts_of_session, in_words
from bench.store.disk import Store
from bench.store.records import Session
from models.registry import family


class KindOfChart(NamedTuple):
    """The title of a kind of chart, and how to get one."""

    title: str
    how: str


TRAIN = "run_bench.py --models seresnet,vit_tiny"
TIME = "run_bench.py time --models seresnet,vit_tiny"
KINDS = {
    "accuracy_vs_throughput": KindOfChart(
        "Accuracy against training speed", f"{TRAIN} trains both and times them together."
    ),
    "accuracy_vs_flops": KindOfChart("Accuracy against FLOPs", f"{TRAIN} trains both and counts their FLOPs."),
    "accuracy_vs_params": KindOfChart(
        "Accuracy against parameters", f"{TRAIN} trains both and counts their parameters."
    ),
    "learning_curves": KindOfChart("Learning curves", f"{TRAIN} trains both and records every validation."),
    "time_to_target": KindOfChart(
        "Time to a target", f"{TRAIN} --target 0.5 --seeds 0-4 times a validation accuracy named before the runs."
    ),
    "throughput": KindOfChart("Training and inference speed", f"{TRAIN} trains both and times them together."),
    "phases": KindOfChart("Where a run spends its time", f"{TRAIN} trains both and records the seconds of each phase."),
    "data_efficiency": KindOfChart(
        "Accuracy against training images", f"{TRAIN} --train-fraction 0.1,0.3,1 trains on more and more images."
    ),
    "differences": KindOfChart(
        "Differences in test accuracy",
        f"{TRAIN} --seeds 0-4 trains two models under equal conditions, with enough seeds for a verdict.",
    ),
    "training_vs_batch": KindOfChart(
        "Training speed against batch size", f"{TIME} --train-batch-sizes 64,128,256 measures it."
    ),
    "throughput_vs_batch": KindOfChart(
        "Inference speed against batch size", f"{TIME} --batch-sizes 1,32,128 measures it."
    ),
    "latency_vs_batch": KindOfChart("Latency against batch size", f"{TIME} --batch-sizes 1,32,128 measures it."),
    "roofline": KindOfChart("Training steps under this device's ceilings", f"{TIME} measures it."),
    "step_time": KindOfChart("Where a training step spends its time", f"{TIME} measures it."),
    "energy": KindOfChart("Energy of training", f"{TIME} measures it where the device has an energy counter."),
}


def charts_of(
    stores: list[Store], by_device: bool = True, reference: str | None = None
) -> tuple[list[Chart], list[Missing]]:
    """Every chart that these stores have data for, and which kinds they have none for.

    Raises UserError as `tables.compare` does, unless `by_device`.
    """
    loaded = load(stores)
    comparisons = compare_loaded(loaded, reference, by_device)
    try:
        pairs = pairs_loaded(loaded, stores, reference=reference)
    except UserError:  # no two models under equal conditions, or no predictions
        pairs = []
    return build(loaded, comparisons, pairs, stores, by_device, reference)


def build(
    loaded: Loaded,
    comparisons: Sequence[Comparison],
    pairs: Sequence[Pair],
    stores: Sequence[Store],
    by_device: bool = True,
    reference: str | None = None,
) -> tuple[list[Chart], list[Missing]]:
    """`charts_of` for stores that were read already."""
    common = common_of(loaded, stores, by_device)
    by_id = {run.run_id: run for run in loaded.runs}
    charts, used = list[Chart](), set[str]()
    for comparison in comparisons:
        if comparison.conditions is not None:
            prefix = unused(stem_of(comparison.conditions), used)
            used.add(prefix)
            charts += charts_of_comparison(comparison, by_id, common, prefix)
    charts += data_efficiency(comparisons, common)
    charts += differences(pairs, common, loaded.shown(reference))
    charts += of_sessions(loaded.sessions, common)
    return charts, missing_of(charts, loaded)


def of_sessions(sessions: Sequence[Session], common: Common) -> list[Chart]:
    """The charts of the sessions of the `time` command."""
    charts, used = list[Chart](), set[str]()
    # a short limit may have left out any of these
    shown = [one for one in sessions if one.bounds or one.memory or len(train_sizes(one)) > 1]
    for session, differs in zip(shown, differing(list(map(in_words, shown))), strict=True):
        prefix = unused(f"speed-{slug(session.id)}", used)
        used.add(prefix)
        charts += charts_of_session(session, common, prefix, differs)
    return charts


def at_a_glance(charts: Sequence[Chart]) -> list[Chart]:
    """The charts at the end of a sweep: one position of each switch, seconds where there are any; no parameters."""
    chosen: dict[tuple[str, str], Chart] = {}
    for chart in charts:
        name = (chart.subject, chart.switch or chart.stem)
        if chart.key != "accuracy_vs_params" and (name not in chosen or chart.position == "seconds"):
            chosen[name] = chart
    return list(chosen.values())


def common_of(loaded: Loaded, stores: Sequence[Store], by_device: bool = True) -> Common:
    """Looks and names of all models of all runs and sessions, so that each is the same in every chart."""
    families = {model: family(model) for session in loaded.sessions for model in session.models}
    families |= {run.spec.model: run.family for run in loaded.runs}
    where = " ".join(f"--results {shlex.quote(str(store.root))}" for store in stores)
    command = " ".join(filter(None, ("python run_bench.py plot", where, "--by-device" if by_device else "")))
    return Common(looks_of(families), names_of(families), command)


def missing_of(charts: Sequence[Chart], loaded: Loaded) -> list[Missing]:
    """The kinds of charts that are not among these, and how to get each."""
    drawn = {chart.key for chart in charts}
    return [
        Missing(key, kind.title, kind.how + (_why_no_energy(loaded) if key == "energy" else ""))
        for key, kind in KINDS.items()
        if key not in drawn
    ]


def _why_no_energy(loaded: Loaded) -> str:
    """Why the newest session has none; of the `time` command's if there are any, since only those measure it."""
    sessions = [session for session in loaded.sessions if session.bounds] or loaded.sessions
    why = sessions[-1].energy.why_not if sessions else ""
    return f" The last session has none: {why.rstrip('.')}." if why else ""
