"""Charts as data, before anything draws them: figures against records, tables and CSV files made by other code."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.analysis.tables import compare
from bench.core.errors import UserError
from bench.core.stats import mean_interval
from bench.plan.recipes import in_track
from bench.plan.settings import SETTINGS
from bench.present.charts.accuracy import MEASURES, front_of, pareto
from bench.present.charts.build import KINDS, charts_of
from bench.present.charts.interactive import figure
from bench.present.charts.model import LONGEST_NAME, Chart, Mark, Missing, Series, looks_of
from bench.present.charts.parts import names_of
from bench.present.charts.static import draw
from bench.store.disk import Store
from bench.store.records import PHASES, Session
from models.registry import CATALOGUE
from models.registry import family as family_of
from tests.conftest import ROOT
from tests.synthetic import (
    DATA,
    ENVIRONMENT,
    RECIPE,
    by_batch,
    failure,
    record,
    spec,
    thorough_session,
    write_pair,
    write_predicted,
    write_store,
)

REFERENCE_STORE = ROOT / "results/reference/cpu-2core"
HOSTILE = ["<img src=x onerror=alert(1)>", "$x$", "_x", "=cmd|' /C calc'!A0", "NA", "a\nb", "\u202eabc", "x" * 300]


def of(charts: list[Chart], key: str, position: str = "") -> Chart:
    """The one chart of its kind."""
    (found,) = [chart for chart in charts if chart.key == key and (not position or chart.position == position)]
    return found


def marks_of(chart: Chart, kind: str = "points") -> dict[str, Mark]:
    """The last mark of each model, single runs behind it left out."""
    return {s.model: s.marks[-1] for s in chart.series if s.kind == kind and s.model and not s.faint}


def thin_line(chart: Chart) -> Series:
    (found,) = [series for series in chart.series if series.thin]
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def reference() -> list[Chart]:
    return charts_of([Store(REFERENCE_STORE)])[0]


@pytest.fixture(scope="module")
def verdict() -> list[Chart]:
    return charts_of([Store(REFERENCE_STORE / "verdict")])[0]


@pytest.fixture(scope="module")
def thorough(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two models with a run each and a session of the `time` command with everything in it."""
    store = write_store(tmp_path_factory.mktemp("thorough"), {"seresnet": 0.9, "vit_tiny": 0.8})
    store.write_session(session_with_all(id="s"))
    return store


def session_with_all(**changes: Any) -> Session:
    parts = {f"part {i}": 0.001 * (10 - i) for i in range(9)}
    groups = {
        "seresnet": {"step_seconds": 0.11, "groups": parts},
        "vit_tiny": {"step_seconds": 0.2, "groups": {"attention": 0.09, "part 0": 0.04}},
    }
    energy = {"source": "nvml", "why_not": "", "joules_per_1000_images": {"seresnet": 12.5, "vit_tiny": 30.0}}
    seconds = {"seresnet": [0.10, 0.12, 0.11], "vit_tiny": [0.2, 0.2, 0.2]}
    return thorough_session(seconds, groups=groups, energy=energy, **changes)


# --- the committed store ---------------------------------------------------------------------------------------------


def test_accuracies_and_figures_are_those_of_the_results_file(reference: list[Chart]) -> None:
    rows = {row["model"]: row for row in rows_of(REFERENCE_STORE / "results.csv")}
    # a median of rates and a rate of a median differ by a little where the number of samples is even
    for measure, tolerance in zip(MEASURES, (1e-3, 1e-12, 1e-12), strict=True):
        marks = marks_of(of(reference, measure.chart))
        assert marks.keys() == rows.keys()
        for model, mark in marks.items():
            row = rows[model]
            assert mark.y == pytest.approx(100 * float(row["accuracy"]))
            assert mark.x == pytest.approx(float(row[measure.key]) / measure.unit, rel=tolerance)
            images = int(row["test_images"])
            test = stats.binomtest(round(float(row["accuracy"]) * images), images)
            low, high = test.proportion_ci(method="wilson")
            assert (mark.y_low, mark.y_high) == pytest.approx((100 * low, 100 * high))
            assert mark.label == model
            assert f"run {row['run_id']}" in mark.hover
            assert f"seed {row['seed']}" in mark.hover
    most = max(int(row["params"]) for row in rows.values())
    areas = {model: mark.area for model, mark in marks_of(of(reference, "accuracy_vs_flops")).items()}
    assert areas == {model: pytest.approx(int(row["params"]) / most) for model, row in rows.items()}
    assert (
        "56.79 % (55.82 to 57.76, other test images)" in marks_of(of(reference, "accuracy_vs_params"))["seresnet"].hover
    )


def test_throughput_bars_are_those_of_the_results_file(reference: list[Chart]) -> None:
    rows = {row["model"]: row for row in rows_of(REFERENCE_STORE / "results.csv")}
    chart = of(reference, "throughput")
    assert [series.name for series in chart.series] == ["training step", "inference"]
    for series, key in zip(chart.series, ("train_images_per_second", "inference_images_per_second"), strict=True):
        assert [mark.y for mark in series.marks] == [0, 1, 2, 3]
        for model, mark in zip(chart.y.names, series.marks, strict=True):
            assert mark.x == pytest.approx(float(rows[model][key]), rel=2e-3)
            assert mark.x_low <= mark.x <= mark.x_high
    accuracies = [float(rows[model]["accuracy"]) for model in chart.y.names]
    assert accuracies == sorted(accuracies, reverse=True)


def test_learning_curves_are_those_of_the_history_file(verdict: list[Chart]) -> None:
    epochs: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows_of(REFERENCE_STORE / "verdict/history.csv"):
        epochs.setdefault((row["run_id"], row["epoch"]), {})[row["metric"]] = float(row["value"])
    flops = {r["run_id"]: float(r["train_flops_2x"]) for r in rows_of(REFERENCE_STORE / "verdict/results.csv")}
    wanted = {
        "epochs": {(float(epoch), 100 * m["val_accuracy"]) for (_, epoch), m in epochs.items()},
        # 12 runs shared their device, and the file has no seconds of them either
        "seconds": {(m["train_seconds"], 100 * m["val_accuracy"]) for m in epochs.values() if "train_seconds" in m},
        "FLOPs": {(m["samples_seen"] * flops[run] / 1e12, 100 * m["val_accuracy"]) for (run, _), m in epochs.items()},
        "samples": {(m["samples_seen"] / 1000, 100 * m["val_accuracy"]) for m in epochs.values()},
    }
    curves = [chart for chart in verdict if chart.key == "learning_curves"]
    assert list(dict.fromkeys(chart.position for chart in curves)) == list(wanted)
    for position, points in wanted.items():
        series = [s for chart in curves if chart.position == position for s in chart.series]
        assert len(series) == (24 if position == "seconds" else 36)
        assert {(mark.x, mark.y) for s in series for mark in s.marks} == points
    for chart in curves:
        labels = [mark.label for s in chart.series for mark in s.marks if mark.label]
        assert sorted(labels) == sorted(chart.looks), "each model is named once"
        assert all(mark.label == "" for s in chart.series for mark in s.marks[:-1])


def test_differences_are_those_of_the_verdicts_file(verdict: list[Chart]) -> None:
    wanted = rows_of(REFERENCE_STORE / "verdict/verdicts.csv")
    drawn: dict[tuple[str, ...], tuple[float, ...]] = {}
    for chart in (chart for chart in verdict if chart.key == "differences"):
        budget = "3840samples" if "3,840 samples" in chart.subject else "40s"
        assert chart.band == (-0.5, 0.5)
        ranges = {mark.y: mark for s in chart.series if s.kind == "ranges" for mark in s.marks}
        for series in (s for s in chart.series if s.kind == "points"):
            for mark in series.marks:
                pair = chart.y.names[round(mark.y)].split(" − ")
                this = ranges[mark.y]
                figures = (mark.x, mark.x_low, mark.x_high, this.x_low, this.x_high, float(mark.open))
                drawn[budget, series.name, *pair] = figures
    keys = ("difference_points", "low_points", "high_points", "low_points_this_set", "high_points_this_set")
    assert drawn == {
        (row["budget"], f"track {row['track']}", row["model_a"], row["model_b"]): pytest.approx(
            (*(float(row[key]) for key in keys), float(row["verdict"] in ("no verdict", "equivalent")))
        )
        for row in wanted
    }


def test_who_reached_the_target_agrees_with_the_verdicts_file(verdict: list[Chart]) -> None:
    rows = rows_of(REFERENCE_STORE / "verdict/verdicts.csv")
    charts = [chart for chart in verdict if chart.key == "time_to_target" and chart.position == "seconds"]
    assert len(charts) == 2, "the runs of the third comparison shared their device"
    for chart in charts:
        assert ", 40 s," in chart.subject
        own = [r for r in rows if (r["track"], r["budget"]) == (chart.facets["track"], "40s")]
        shares = {r[f"model_{side}"]: r[f"reached_{side}"] for r in own for side in "ab"}
        medians = {r[f"model_{side}"]: r[f"median_seconds_{side}"] for r in own for side in "ab"}
        for series in chart.series:
            assert f"{series.model} {shares[series.model]}" in chart.caption
            reached = sum(not mark.open for mark in series.marks[1:])
            assert shares[series.model] == f"{reached} of {len(series.marks) - 1}"
            half = next((mark.x for mark in series.marks if mark.y >= 50 and not mark.open), None)
            assert half == (pytest.approx(float(medians[series.model])) if medians[series.model] else None)


# --- the Pareto front ------------------------------------------------------------------------------------------------


def test_pareto_against_every_pair() -> None:
    rng = np.random.default_rng(0)
    for n in [*range(8), 40]:
        for _ in range(40):
            points = [(float(a), float(b)) for a, b in rng.integers(0, 6, (n, 2))]  # few values, so many ties
            beaten = {
                i for i, (x, y) in enumerate(points) if any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
            }
            assert pareto(points) == set(range(n)) - beaten


def test_the_front_is_of_fast_or_cheap_models(tmp_path: Path) -> None:
    accuracies = {"best": 0.9, "middle": 0.8, "slow": 0.7, "fast": 0.6}
    seconds = {"best": [1.0] * 3, "middle": [0.5] * 3, "slow": [0.8] * 3, "fast": [0.25] * 3}
    store = write_store(tmp_path, accuracies, seconds)  # the i-th costs (i + 1) / 2 times the FLOPs
    (comparison,) = compare([store])
    assert front_of(comparison, "train_images_per_second") == {"best", "middle", "fast"}
    assert front_of(comparison, "latency_ms") == {"best", "middle", "fast"}
    assert front_of(comparison, "flops") == {"best"}
    assert front_of(comparison, "params") == {"best"}, "as many in all of them"
    assert front_of(comparison, "nothing") == frozenset()
    charts, _ = charts_of([store])
    chart = of(charts, "accuracy_vs_throughput")
    # around what the front dominates: down at the speed of the more accurate, then on to the faster
    assert [(mark.x, mark.y) for mark in thin_line(chart).marks] == [
        pytest.approx(point) for point in ((128, 90), (128, 80), (256, 80), (256, 60), (512, 60))
    ]
    assert not [s for s in of(charts, "accuracy_vs_flops").series if s.thin]
    assert "No other model is more accurate or cheaper in FLOPs than best" in of(charts, "accuracy_vs_flops").caption


def test_a_front_of_costs_goes_on_before_it_goes_up(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"small": 0.6, "large": 0.9})
    (small, large) = (127_105_568 * n // 2 / 1e6 for n in (1, 2))
    points = [(mark.x, mark.y) for mark in thin_line(of(charts_of([store])[0], "accuracy_vs_flops")).marks]
    assert points == [pytest.approx(point) for point in ((small, 60), (large, 60), (large, 90))]


# --- seeds, shared devices, targets ----------------------------------------------------------------------------------


def runs(root: Path, changes: list[dict[str, Any]], model: str = "seresnet", accuracy: float = 0.9) -> Store:
    """One run per seed; `changes` replace fields of its record."""
    store = Store(root)
    for seed, change in enumerate(changes):
        store.write_record(record(spec(model, seed), accuracy - 0.02 * seed, **change))
    return store


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": replace(RECIPE, precision="bf16")}, ("fp32", "bf16")),
        ({"recipe": replace(RECIPE, batch_size=8)}, (f"batch {RECIPE.batch_size}", "batch 8")),
        ({"setting": SETTINGS["compiled"]}, ("eager", "compiled")),
        ({"deterministic": True}, ("eager", "eager, deterministic")),
        ({"threads": 7}, ("Test CPU with 2 threads", "Test CPU with 7 threads")),
        ({"train_images": 387}, ("1,295 training images", "387 training images")),
    ],
    ids=lambda of: next(iter(of)),
)
def test_titles_say_what_differs(change: dict[str, Any], words: tuple[str, str], tmp_path: Path) -> None:
    """Two comparisons side by side: charts of one kind are told apart by their titles, and so are the tables."""
    store, there = Store(tmp_path), {"threads": 2, "train_images": 1295, **change}
    for seed, own in enumerate(({"threads": 2, "train_images": 1295}, there)):
        threads, images = own.pop("threads"), own.pop("train_images")
        own["data"] = replace(DATA, train_fraction=images / 1295)
        environment = {**ENVIRONMENT, "torch_threads": threads}
        run = spec("seresnet", seed, **own)
        store.write_record(record(run, 0.9, environment=environment, metrics={"train_images": images}))
    charts, _ = charts_of([store])
    titles = {chart.title for chart in charts if chart.key == "accuracy_vs_flops"}
    assert titles == {f"Accuracy against FLOPs · {word}" for word in words}
    assert len({(chart.title, chart.position) for chart in charts}) == len(charts)
    assert len({comparison.title for comparison in compare([store])}) == 2


def test_seeds_stand_faint_behind_their_mean(tmp_path: Path) -> None:
    chart = of(charts_of([runs(tmp_path, [{}, {}, {}])])[0], "accuracy_vs_flops")
    faint, mean = chart.series
    assert faint.faint
    assert [mark.y for mark in faint.marks] == [pytest.approx(y) for y in (90, 88, 86)]
    assert [mark.hover[1] for mark in faint.marks] == ["seed 0", "seed 1", "seed 2"]
    wanted = mean_interval([0.9, 0.88, 0.86])
    (mark,) = mean.marks
    assert (mark.y, mark.y_low, mark.y_high) == pytest.approx((100 * wanted.value, 100 * wanted.low, 100 * wanted.high))
    assert "1 model, 3 runs each" in chart.caption
    assert "t-interval over seeds" in chart.caption
    assert "Wilson" not in chart.caption


def test_no_seconds_of_runs_that_shared_their_device(tmp_path: Path) -> None:
    shared = {"metrics": {"runs_at_once": 2, "train_flops_2x": 7e8}, "target": 0.5}
    charts, _ = charts_of([runs(tmp_path / "all", [shared, shared | {"metrics": {"runs_at_once": 2}}])])
    assert [c.position for c in charts if c.switch == "learning_curves"] == ["epochs", "FLOPs", "samples"]
    assert [c.position for c in charts if c.switch == "time_to_target"] == ["samples"]
    assert "1 of 2 runs" in of(charts, "learning_curves", "FLOPs").caption
    charts, _ = charts_of([runs(tmp_path / "one", [{}, {"metrics": {"runs_at_once": 2}}])])
    chart = of(charts, "learning_curves", "seconds")
    assert len(chart.series) == 1
    assert "1 of 2 runs shared the device" in chart.caption


def history(accuracies: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": e, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": a, "lr": 1e-3, "train_seconds": 10.0 * e}
        | {"samples_seen": 1000 * e}
        for e, a in enumerate(accuracies, 1)
    ]


def test_time_to_target_is_the_share_that_got_there(tmp_path: Path) -> None:
    histories = [history([0.6]), history([0.1, 0.6]), history([0.1, 0.6, 0.7]), history([0.1, 0.2, 0.3, 0.5])]
    store = runs(tmp_path, [{"history": h, "target": 0.5} for h in histories])
    chart = of(charts_of([store])[0], "time_to_target", "seconds")
    (series,) = chart.series
    assert series.kind == "steps"
    assert [(mark.x, mark.y) for mark in series.marks] == [(0, 0), (10, 25), (20, 75), (20, 75), (40, 100)]
    assert not any(mark.open for mark in series.marks)
    assert [mark.label for mark in series.marks] == ["", "", "", "", "seresnet"]
    assert "Reached by seresnet 4 of 4" in chart.caption


def test_runs_that_missed_the_target_or_diverged_never_reach_it(tmp_path: Path) -> None:
    """By hand, 5 runs: one is there at 10, one at 30, three never; the curve levels off at 2 of 5."""
    histories = [history([0.6]), history([0.1, 0.2]), history([0.1, 0.2, 0.5]), history([0.1, 0.2, 0.3, 0.4])]
    store = runs(tmp_path, [{"history": h, "target": 0.5} for h in histories])
    lost = spec("seresnet", 4)
    store.write_failure(failure(lost, "diverged"))
    other = spec("seresnet", 5, recipe=replace(RECIPE, lr=9.0))  # of another recipe: of no meaning here
    store.write_failure(failure(other, "diverged"))
    chart = of(charts_of([store])[0], "time_to_target", "seconds")
    found = [(mark.x, pytest.approx(mark.y), mark.open) for mark in chart.series[0].marks]
    assert found == [(0, 0, False), (10, 20, False), (20, 20, True), (30, 40, False), (40, 40, True)]
    assert "seresnet 2 of 5" in chart.caption
    assert "1 run diverged" in chart.caption


def test_runs_with_another_target_are_left_out(tmp_path: Path) -> None:
    store = runs(tmp_path, [{"target": 0.5}, {"target": 0.5}, {"target": 0.6}, {}])
    chart = of(charts_of([store])[0], "time_to_target", "samples")
    assert len(chart.series[0].marks) == 3
    assert "Left out: 2 runs with another target or none." in chart.caption
    charts, missing = charts_of([runs(tmp_path / "none", [{}])])
    assert not [c for c in charts if c.key == "time_to_target"]
    assert "--target" in next(m.how for m in missing if m.key == "time_to_target")


# --- sessions --------------------------------------------------------------------------------------------------------


def test_speed_and_latency_by_batch_size(thorough: Store) -> None:
    charts, missing = charts_of([thorough])
    speed, latency = of(charts, "throughput_vs_batch"), of(charts, "latency_vs_batch")
    assert speed.x.ticks == latency.x.ticks == (1, 32, 128)
    assert speed.x.log
    assert speed.y.log
    times = {"seresnet": (0.105, 0.11, 0.115), "vit_tiny": (0.2, 0.2, 0.2)}  # quartiles of a step's seconds
    for model, (low, middle, high) in times.items():
        for series, per_batch in ((speed, False), (latency, True)):
            marks = next(s.marks for s in series.series if s.model == model)
            for mark, size in zip(marks, (1, 32, 128), strict=True):
                seconds = [t * (20 + size) / 1000 for t in (low, middle, high)]
                wanted = [1000 * t for t in seconds] if per_batch else [size / t for t in reversed(seconds)]
                assert (mark.y_low, mark.y, mark.y_high) == pytest.approx(wanted)
            assert [mark.label for mark in marks] == ["", "", model]
    assert {m.key for m in missing} == {
        "time_to_target",
        "phases",
        "data_efficiency",
        "differences",
        "training_vs_batch",
    }


def test_training_speed_by_batch_size_and_where_the_order_turns(tmp_path: Path) -> None:
    """0.09 s and 0.5 ms an image against 1 ms an image: at 64 images 524 and 1,000 images/s."""
    made = by_batch({"seresnet": (0.0, 0.001), "vit_tiny": (0.09, 0.0005)}, (64, 128, 256))
    Store(tmp_path).write_session(made)
    chart = of(charts_of([Store(tmp_path)])[0], "training_vs_batch")
    assert chart.title == "Training speed against batch size, eager"
    assert chart.x.ticks == (64, 128, 256)
    speeds = {s.model: [mark.y for mark in s.marks] for s in chart.series}
    assert speeds["vit_tiny"] == pytest.approx([64 / 0.122, 128 / 0.154, 256 / 0.218], rel=1e-3)
    assert "seresnet is faster up to 128, vit_tiny from 256 on." in chart.caption


def test_a_single_image_is_in_the_latency_where_no_batch_of_one_was_timed(tmp_path: Path) -> None:
    failed = {"model": "vit_tiny", "kind": "inference", "batch_size": 512, "status": "oom", "message": "too much"}
    seconds = {"seresnet": [0.1, 0.1], "vit_tiny": [0.2, 0.2]}
    Store(tmp_path).write_session(thorough_session(seconds, sizes=(32, 128), failures=[failed]))
    charts, _ = charts_of([Store(tmp_path)])
    latency = of(charts, "latency_vs_batch")
    assert [(mark.x, mark.y) for mark in latency.series[0].marks] == [
        (1, pytest.approx(10)),
        (32, pytest.approx(5.2)),
        (128, pytest.approx(14.8)),
    ]
    assert of(charts, "throughput_vs_batch").x.ticks == (32, 128)
    assert "Not measured: vit_tiny inference at 512 (oom)." in latency.caption


def test_roofline_has_the_points_under_its_roof(thorough: Store) -> None:
    chart = of(charts_of([thorough])[0], "roofline")
    marks = marks_of(chart)
    assert (marks["seresnet"].x, marks["seresnet"].y) == pytest.approx((750e6 * 128 / 4e9, 20))
    assert (marks["vit_tiny"].x, marks["vit_tiny"].y) == pytest.approx((750e6 * 128 / 8e9, 10))
    assert marks["seresnet"].label == "seresnet: bandwidth 40 %"
    left, ridge, right = thin_line(chart).marks
    assert (ridge.x, ridge.y) == pytest.approx((60 / 14, 60))
    assert left.y == pytest.approx(14 * left.x)
    assert right.y == 60
    assert left.x < min(12, ridge.x) < 24 < right.x
    assert "14.0 GB/s" in left.label
    assert "60.0 GFLOP/s" in right.label


def test_parts_of_a_step_add_up(thorough: Store) -> None:
    chart = of(charts_of([thorough])[0], "step_time")
    assert chart.stacked
    assert chart.y.names == ("seresnet", "vit_tiny")
    widths = {y: sum(m.x for s in chart.series for m in s.marks if m.y == y) for y in (0, 1)}
    assert widths == pytest.approx({0: sum(range(2, 11)), 1: 130})
    legend = [series.name for series in chart.series if series.name]
    assert len(legend) == len(set(legend)) == 7, "six parts by name and the rest"
    assert legend[0] == "attention"
    assert legend[-1] == "everything else"
    assert len({series.shade for series in chart.series if series.name}) == 7


def test_energy_and_why_there_is_none(thorough: Store, tmp_path: Path) -> None:
    chart = of(charts_of([thorough])[0], "energy")
    assert [(s.model, s.marks[0].x, s.marks[0].y) for s in chart.series] == [("seresnet", 12.5, 0), ("vit_tiny", 30, 1)]
    store = write_store(tmp_path, {"seresnet": 0.9}, {"seresnet": [0.1, 0.1]})
    _, missing = charts_of([store])
    (energy,) = [m for m in missing if m.key == "energy"]
    assert "this machine has no RAPL counter" in energy.how


# --- across comparisons ----------------------------------------------------------------------------------------------


def test_data_efficiency_holds_every_share(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for fraction, accuracies in ((0.01, (0.3, 0.2)), (0.1, (0.6, 0.4)), (1.0, (0.9, 0.8))):
        for model, accuracy in zip(("seresnet", "vit_tiny"), accuracies, strict=True):
            this = spec(model, data=replace(DATA, train_fraction=fraction, split_hash=str(fraction)))
            store.write_record(record(this, accuracy, metrics={"train_images": round(45_000 * fraction)}))
    charts, _ = charts_of([store])
    chart = of(charts, "data_efficiency")
    assert chart.x.ticks == (450, 4500, 45_000)
    found = {series.model: [(mark.x, mark.y) for mark in series.marks] for series in chart.series}
    assert found == {
        "seresnet": [(450, pytest.approx(30)), (4500, 60), (45_000, 90)],
        "vit_tiny": [(450, 20), (4500, 40), (45_000, 80)],
    }
    stems = [c.stem for c in charts]
    assert len(set(stems)) == len(stems), "three comparisons of one name"
    assert {"cifar10-shared-3ep-accuracy_vs_flops-2"} - set(stems), "the number stands before the kind"
    assert "cifar10-shared-3ep-2-accuracy_vs_flops" in stems


def test_many_pairs_are_cut_and_those_with_the_reference_kept(tmp_path: Path) -> None:
    names = ["aa", *(f"m{i}" for i in range(7)), "seresnet"]
    store = Store(tmp_path)
    write_pair(store, {name: 0.5 + 0.05 * i for i, name in enumerate(names)}, seeds=1, images=2000)
    chart = of(charts_of([store])[0], "differences")
    assert len(chart.y.names) == 30
    assert all("seresnet" in name for name in chart.y.names[:8])
    other = of(charts_of([store], reference="m6")[0], "differences")
    assert all("m6" in name for name in other.y.names[:8])
    assert "6 more pairs left out" in chart.caption
    assert "these two runs" in chart.series[0].marks[0].hover[2]
    assert all(mark.open for series in chart.series for mark in series.marks), "single runs give no verdict"
    assert "Every mark is hollow: no verdict." in chart.caption
    assert "0 pairs" not in chart.caption
    assert (chart.hollow, chart.band_name) == ("hollow: equivalent or no verdict", "within ±0.5 points: equivalent")
    shown = [trace["name"] for trace in figure(chart)["data"] if trace["showlegend"]]
    assert shown == ["one recipe for all", chart.hollow, chart.band_name]
    legend = draw(chart).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == shown
    assert not [series for series in chart.series if series.kind == "ranges"]


def test_a_model_has_one_colour_in_every_store() -> None:
    alone, together = looks_of({"vit_tiny": "vit"}), looks_of({m: family_of(m) for m in CATALOGUE})
    assert alone["vit_tiny"] == together["vit_tiny"]
    assert {together[m].round for m in ("seresnet", "resnet56", "vit_flops", "vit_tiny", "vit_params", "cct_2")} == {0}
    assert len({(look.colour, look.round) for look in together.values()}) == len(CATALOGUE)
    mine = {"timm:resnet18": "external", "torchvision:resnet18": "external", "a.py:f": "external"}
    assert len({(look.colour, look.round) for look in looks_of(mine).values()}) == 3


def test_speed_and_accuracy_have_intervals_of_one_kind(tmp_path: Path) -> None:
    """Of ten blocks of 1.0 to 1.9 s, the second and the ninth are the ends, by the binomial distribution."""
    seconds = {"seresnet": [1 + i / 10 for i in range(10)], "vit_tiny": [2.0] * 10}
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, seconds)
    chart = of(charts_of([store])[0], "accuracy_vs_throughput")
    (mark,) = next(one for one in chart.series if one.model == "seresnet" and not one.faint).marks
    assert (mark.x_low, mark.x_high) == pytest.approx((128 / 1.8, 128 / 1.1))
    assert "quartiles" not in chart.caption
    assert "95 % interval of the median" in chart.caption


def test_both_tracks_stand_in_one_chart_of_differences(tmp_path: Path) -> None:
    store, rng, label = Store(tmp_path), np.random.default_rng(0), np.arange(2000) % 10
    for track in ("shared", "family"):
        for model, family in (("seresnet", "cnn"), ("vit_tiny", "vit")):
            for seed in range(2):
                predicted = np.where(rng.random(len(label)) < 0.8, label, (label + 1) % 10)
                recipe = in_track(track, family, RECIPE, model)
                write_predicted(store, spec(model, seed, recipe=recipe), label, predicted)
    chart = of(charts_of([store])[0], "differences")
    names = [series.name for series in chart.series]
    assert names == ["this test set", "track shared", "", "track family"]
    heights = [series.marks[0].y for series in chart.series]
    assert heights[0] == heights[1] < 0 < heights[2] == heights[3] < 0.5
    assert "recipe" not in chart.facets
    assert "track" not in chart.facets


# --- phases ----------------------------------------------------------------------------------------------------------


def test_phases_are_means_of_a_models_runs_and_add_up_to_them(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    assert "phases" not in {chart.key for chart in charts_of([store])[0]}, "older records have none"
    seconds = dict(zip(PHASES, (1.0, 2.0, 0.5, 0.25, 0.25, 3.0, 40.0, 5.0, 1.0, 0.5), strict=True))
    for model, times in (("seresnet", (1, 3)), ("vit_tiny", (1,))):
        for seed, factor in enumerate(times):
            phases = {phase: factor * value for phase, value in seconds.items()}
            cached = {"first_step_from_cache": seed > 0} if model == "seresnet" else {}
            store.write_record(record(replace(spec(model), seed=seed), 0.9, "cnn", phases=phases, **cached))
    chart = of(charts_of([store])[0], "phases")
    assert chart.stacked
    by_model = {model: {s.shade: s.marks[0].x for s in chart.series if s.model == model} for model in chart.looks}
    assert sum(by_model["seresnet"].values()) == pytest.approx(2 * sum(seconds.values()))
    assert list(by_model["vit_tiny"].values()) == [40.0, 3.0, 5.0, 1.0, 3.0, 1.0, 0.5]
    assert next(s.name for s in chart.series if s.name) == "training"
    assert "1 to 2 runs per model" in chart.caption
    assert "Of 2 first steps under a compiler, 1 found all code in its cache." in chart.caption


# --- any store -------------------------------------------------------------------------------------------------------


def check_shape(charts: list[Chart], missing: list[Missing]) -> None:
    """What must hold whatever a store contains."""
    assert len({c.stem for c in charts}) == len(charts)
    assert {c.key for c in charts} | {m.key for m in missing} == set(KINDS)
    assert not {c.key for c in charts} & {m.key for m in missing}
    for chart in charts:
        assert chart.series
        assert chart.caption.endswith(".")
        assert "  " not in chart.caption
        for series in chart.series:
            assert series.model in {"", *chart.looks}
            assert series.marks
            for mark in series.marks:
                assert math.isfinite(mark.x)
                assert math.isfinite(mark.y)
                assert mark.x > 0 or not chart.x.log
                assert mark.y > 0 or not chart.y.log
                assert mark.x_low <= mark.x <= mark.x_high or math.isnan(mark.x_low)
                assert mark.y_low <= mark.y <= mark.y_high or math.isnan(mark.y_low)
                assert 0 < mark.area <= 1
                assert all(0 < len(line) <= 400 for line in mark.hover)
    switches = [(c.subject, c.switch, c.position) for c in charts if c.switch]
    assert len(set(switches)) == len(switches)


@pytest.mark.parametrize("name", ["", "verdict", "sane"])
def test_committed_stores_have_the_shape(name: str) -> None:
    check_shape(*charts_of([Store(REFERENCE_STORE / name)]))


def test_nothing_in_a_store_and_failures_only(tmp_path: Path) -> None:
    charts, missing = charts_of([Store(tmp_path / "empty")])
    assert charts == []
    assert [m.key for m in missing] == list(KINDS)
    assert all("run_bench.py" in m.how and m.how.endswith(".") for m in missing)
    store = Store(tmp_path / "failed")
    for model in ("seresnet", "vit_tiny"):
        store.write_failure(failure(spec(model)))
    assert charts_of([store]) == (charts, missing)


def test_one_run(tmp_path: Path) -> None:
    charts, missing = charts_of([write_store(tmp_path, {"seresnet": 0.9})])
    check_shape(charts, missing)
    assert [c.stem for c in charts] == [
        "cifar10-shared-3ep-accuracy_vs_flops",
        "cifar10-shared-3ep-accuracy_vs_params",
        *(f"cifar10-shared-3ep-learning_curves-{p}" for p in ("epochs", "seconds", "samples")),
    ]


def test_hostile_and_long_names(tmp_path: Path) -> None:
    names = [*HOSTILE, "y" * 60 + "1" + "z" * 60, "y" * 60 + "2" + "z" * 60]
    seconds = {name: [0.1 * (i + 1), 0.11 * (i + 1)] for i, name in enumerate(names)}
    store = write_store(tmp_path, {name: 0.5 + 0.02 * i for i, name in enumerate(names)}, seconds)
    charts, missing = charts_of([store])
    check_shape(charts, missing)
    chart = of(charts, "accuracy_vs_flops")
    labels = [mark.label for mark in marks_of(chart).values()]
    assert len(set(labels)) == len(names), "two that are shortened to the same text get a number"
    assert all(0 < len(label) <= LONGEST_NAME for label in labels)
    assert "$x$" in labels, "as in the records: whoever draws makes it inert"
    assert all("\n" not in text and "\u202e" not in text for text in (*labels, chart.caption))
    assert "x" * 300 in chart.caption, "whole where the chart shortens it"


def test_shortened_names_stay_apart() -> None:
    models = [f"{'a' * 40}{i}{'b' * 40}" for i in range(12)]
    shown = names_of(models)
    assert len(set(shown.values())) == 12
    assert max(map(len, shown.values())) <= LONGEST_NAME
    assert names_of(["seresnet"]) == {"seresnet": "seresnet"}


def test_a_model_looks_the_same_everywhere_and_a_command_draws_it(thorough: Store, tmp_path: Path) -> None:
    other = write_store(tmp_path / "it's; other", {"seresnet": 0.6, "aaa": 0.5})
    charts, _ = charts_of([thorough, other])
    looks = {(model, look) for chart in charts for model, look in chart.looks.items()}
    assert len(looks) == len({model for model, _ in looks}) == 3
    assert all(c.command.endswith(f"""--results '{tmp_path}/it'"'"'s; other' --by-device""") for c in charts)
    timed = of(charts, "roofline")
    assert timed.facets == {"device": "Test CPU", "recipe": "shared"}
    assert timed.looks["seresnet"].marker == "circle"


def test_two_devices_are_two_charts_or_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9})
    this = spec("seresnet", device_name="Other CPU")
    store.write_record(record(this, 0.8, environment=ENVIRONMENT | {"device_name": "Other CPU"}))
    charts, _ = charts_of([store])
    assert {c.facets["device"] for c in charts} == {"Test CPU", "Other CPU"}
    assert {c.stem for c in charts if c.key == "accuracy_vs_flops"} == {
        "cifar10-shared-3ep-accuracy_vs_flops",
        "cifar10-shared-3ep-2-accuracy_vs_flops",
    }
    with pytest.raises(UserError, match="device_name"):
        charts_of([store], by_device=False)


def test_comparisons_of_one_title_are_told_apart(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9})
    this = spec("seresnet", data=replace(DATA, content_hash="d" * 64))
    store.write_record(record(this, 0.8))
    charts, missing = charts_of([store])
    check_shape(charts, missing)
    first, second = (c for c in charts if c.key == "accuracy_vs_flops")
    assert {one.subject.partition(" · data ")[2] for one in (first, second)} == {"c" * 8, "d" * 8}
    assert first.subject.partition(" · data ")[0] == second.subject.partition(" · data ")[0]


def test_doubtful_flops_and_missing_parameters_are_mentioned(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for model, facts in (("seresnet", {"flops_audit": "mismatch"}), ("vit_tiny", {"params": None})):
        store.write_record(record(spec(model), 0.9, metrics=facts))
    charts, missing = charts_of([store])
    check_shape(charts, missing)
    assert "The FLOPs of seresnet did not pass the audit" in of(charts, "accuracy_vs_flops").caption
    assert "Not shown, figure missing: vit_tiny." in of(charts, "accuracy_vs_params").caption
    assert marks_of(of(charts, "accuracy_vs_flops"))["vit_tiny"].area < 0.1
