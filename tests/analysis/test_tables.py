"""Comparisons: ratios within blocks, honest gaps, what may be called the best."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_struct

from bench.analysis.conditions import Conditions
from bench.analysis.tables import ABOUT, COLUMNS, Row, apart, best_row, compare, why_missing
from bench.core.stats import Interval
from bench.store.disk import Store
from tests.synthetic import DATA, RECIPE, failure, record, session, spec, write_store

DRIFTING = {"seresnet": [1.0, 1.0, 2.0], "vit_tiny": [2.0, 2.0, 4.0]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(tmp_path, {"vit_tiny": 0.8, "seresnet": 0.9}, DRIFTING)


def test_best_first_with_ratios_to_seresnet(store: Store) -> None:
    (comparison,) = compare([store])
    assert [row.model for row in comparison.rows] == ["seresnet", "vit_tiny"]
    vit = comparison.rows[1]
    assert vit.ratios["train_images_per_second"].value == pytest.approx(0.5)
    assert vit.ratios["train_images_per_second"].low == pytest.approx(0.5 / math.exp(0.02)), (
        "drift cancels within blocks"
    )
    assert vit.ratios["latency_ms"].value == pytest.approx(2.0)
    assert vit.ratios["flops"].value == pytest.approx(0.5)
    assert vit.ratios["train_seconds"].value == pytest.approx(30 / 37)
    assert comparison.rows[0].ratios["params"].value == 1


def test_the_reference_is_seresnet_or_the_first_or_the_one_named(store: Store, tmp_path: Path) -> None:
    assert compare([store])[0].reference == "seresnet"
    (named,) = compare([store], "vit_tiny")
    assert named.reference == "vit_tiny"
    assert named.rows[0].ratios["train_images_per_second"].value == pytest.approx(2)
    assert any("ratio to vit_tiny" in note for note in named.notes)
    (unknown,) = compare([store], "resnet20")
    assert unknown.reference is None
    assert "No ratios: resnet20 is not among these models." in unknown.notes
    others = Store(tmp_path / "others")
    for day, model in enumerate(("vit_tiny", "cct_2"), 1):
        others.write_record(record(spec(model), 0.8, started=f"2026-01-0{day}T00:00:00.000+00:00"))
    assert compare([others])[0].reference == "vit_tiny", "the first that was run"


def test_without_a_common_session_there_is_no_speed(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    (comparison,) = compare([store])
    assert "train_images_per_second" not in comparison.rows[0].values
    assert "train_images_per_second" not in comparison.rows[1].ratios
    for made in ("seresnet", "vit_tiny"):  # timed separately: each has a speed somewhere, but no ratio
        alone = session({made: [1.0, 1.0]}, started=f"2026-01-0{4 + len(made) % 2}T00:00:00.000+00:00")
        store.write_session(replace_struct(alone, id=made))
    (comparison,) = compare([store])
    assert sum("train_images_per_second" in row.values for row in comparison.rows) == 1
    assert not any("train_images_per_second" in r.ratios for r in comparison.rows if r.model != "seresnet")


def test_seeds_are_averaged_and_conditions_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        of = spec("seresnet", seed)
        store.write_record(record(of, accuracy))
    for changes in ({"recipe": replace(RECIPE, lr=0.1)}, {"data": replace(DATA, train_fraction=0.5)}):
        of = spec("seresnet", **changes)
        store.write_record(record(of, 0.5))
    comparisons = compare([store])
    assert len(comparisons) == 3
    row = max((r for c in comparisons for r in c.rows), key=lambda r: r.runs)
    assert row.runs == 3
    assert row.values["accuracy"].value == pytest.approx(0.92)
    assert row.values["accuracy"].high == pytest.approx(0.92 + 4.303 * 0.02 / 3**0.5, abs=1e-4)


def test_one_run_has_the_interval_of_its_test_images(store: Store) -> None:
    value = compare([store])[0].rows[0].values["accuracy"]
    assert value.low == pytest.approx(0.8940, abs=2e-4)
    assert value.high == pytest.approx(0.9057, abs=2e-4)


def test_several_stores_count_a_run_once(store: Store, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", {"seresnet": 0.9, "resnet56": 0.85})
    (comparison,) = compare([store, other])
    worse, of = Store(tmp_path / "worse"), spec("seresnet")
    worse.write_record(failure(of, "interrupted"))
    assert compare([store, other, worse]) == [comparison], "a failure elsewhere does not hide a finished run"
    assert [(row.model, row.runs) for row in comparison.rows] == [("seresnet", 1), ("resnet56", 1), ("vit_tiny", 1)]


def test_an_edited_model_is_not_averaged_with_its_former_self(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for source, accuracy, started in (("old", 0.5, "2026-01-01"), ("new", 0.7, "2026-01-02")):
        of = spec("mine.py:f", model_source=source)
        store.write_record(record(of, accuracy, started=f"{started}T00:00:00.000+00:00"))
    (comparison,) = compare([store])
    assert [(row.runs, row.values["accuracy"].value) for row in comparison.rows] == [(1, 0.7)]
    assert any("1 run left out" in note for note in comparison.notes)


COLUMN = {column.key: column for column in COLUMNS}


@pytest.mark.parametrize(
    ("intervals", "high", "best"),
    [
        ({"a": (0.9, 0.88, 0.92), "b": (0.8, 0.78, 0.82)}, True, "a"),
        ({"a": (0.9, 0.88, 0.92), "b": (0.8, 0.78, 0.82)}, False, "b"),
        ({"a": (0.9, 0.88, 0.92), "b": (0.87, 0.86, 0.88)}, True, None),  # they touch
        ({"a": (0.9, 0.88, 0.92), "b": (0.1, 0.0, 0.99)}, True, None),  # the last one may be anywhere
        ({"a": (0.9, 0.88, 0.92), "b": (0.8, math.nan, math.nan)}, True, None),
        ({"a": (0.9, math.nan, math.nan), "b": (0.8, 0.78, 0.82)}, True, None),
        ({"a": (5, 5, 5), "b": (6, 6, 6), "c": (6, 6, 6)}, False, "a"),
        ({"a": (5, 5, 5), "b": (5, 5, 5), "c": (6, 6, 6)}, False, None),  # a tie
        ({"a": (0.9, 0.88, 0.92)}, True, None),  # alone
        ({}, True, None),
    ],
)
def test_what_lies_apart(intervals: dict[str, tuple[float, float, float]], high: bool, best: str | None) -> None:
    assert apart({name: Interval(*ends, 3) for name, ends in intervals.items()}, high) == best


def a_row(model: str, key: str, value: float, ratio: Interval | None = None, marked: bool = False) -> Row:
    """A row with one figure, whose ends are the figure itself."""
    ratios = {} if ratio is None else {key: ratio}
    return Row(model, "cnn", 1, {key: Interval(value, value, value, 3)}, ratios, frozenset({key} if marked else ()))


def test_the_best_is_called_so_only_where_its_interval_allows_it() -> None:
    one, faster, perhaps = Interval(1, 1, 1, 10), Interval(1.2, 1.1, 1.3, 10), Interval(1.01, 0.99, 1.03, 10)
    for key in ("train_images_per_second", "inference_images_per_second"):
        assert best_row(COLUMN[key], [a_row("reference", key, 100, one), a_row("a", key, 110, faster)]) == "a"
        assert best_row(COLUMN[key], [a_row("reference", key, 100, one), a_row("a", key, 101, perhaps)]) is None
        assert best_row(COLUMN[key], [a_row("b", key, 100), a_row("a", key, 110)]) is None, "no ratios, no interval"
    slow = [a_row("reference", "latency_ms", 10, one), a_row("a", "latency_ms", 12, faster)]
    assert best_row(COLUMN["latency_ms"], slow) == "reference"
    for key in ("flops", "params", "activations"):
        assert best_row(COLUMN[key], [a_row("a", key, 5), a_row("b", key, 6)]) == "a"
        assert best_row(COLUMN[key], [a_row("a", key, 5), a_row("b", key, 5)]) is None
        assert best_row(COLUMN[key], [a_row("a", key, 5), a_row("without", "accuracy", 1)]) is None, "alone"
    for marked in ("a", "b"):
        audited = [a_row("a", "flops", 5, marked=marked == "a"), a_row("b", "flops", 6, marked=marked == "b")]
        assert best_row(COLUMN["flops"], audited) is None, "a count that may be wrong is not beaten either"
    for key in ("train_seconds", "samples_seen", "peak_memory_bytes"):
        assert best_row(COLUMN[key], [a_row("a", key, 5), a_row("b", key, 6)]) is None


def test_an_empty_cell_has_its_reason(store: Store) -> None:
    of = spec("resnet56")
    store.write_record(record(of, 0.7, metrics={"runs_at_once": 2, "flops": None, "peak_memory_bytes": None}))
    (comparison,) = compare([store])
    (row,) = (row for row in comparison.rows if row.model == "resnet56")
    reasons = {column.key: why_missing(row, column, comparison) for column in COLUMNS if column.key not in row.values}
    assert reasons == {
        "train_seconds": "runs shared the device",
        **dict.fromkeys(
            ("train_images_per_second", "inference_images_per_second", "latency_ms"),
            "not timed together with the others",
        ),
        "flops": "not counted",
        "samples_seen": "the same for all under a budget in epochs",
        "peak_memory_bytes": "not measured",
    }
    alone = replace(comparison, rows=(row,))
    assert why_missing(row, COLUMN["latency_ms"], alone) == "not timed"
    timed = replace(row, values={**row.values, "latency_ms": Interval(1, 1, 1, 1)})
    assert why_missing(timed, COLUMN["train_images_per_second"], comparison) == "its timing failed"


def test_what_rows_share_has_the_same_names_everywhere(store: Store) -> None:
    (comparison,) = compare([store])
    assert set(ABOUT) <= set(Conditions.__dataclass_fields__)
    assert comparison.conditions is not None
    assert (comparison.conditions.budget, comparison.conditions.epochs) == ("3 epochs", 3)


def test_the_time_to_equal_accuracy_stands_in_the_notes(store: Store, tmp_path: Path) -> None:
    (comparison,) = compare([store])
    notes = [note for note in comparison.notes if note.startswith("Equal accuracy")]
    assert len(notes) == len(comparison.rows) - 1
    assert all("on validation after " in note and ", where " in note for note in notes)
    (alone,) = compare([write_store(tmp_path / "alone", {"seresnet": 0.9})])
    assert not any(note.startswith("Equal accuracy") for note in alone.notes)
