"""Tables: ratios within blocks, honest gaps, names that stay inert."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.store import Store
from bench.tables import FORMATS, compare, frame, render, significant, to_frame
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
    assert vit.ratios["train_images_per_second"].low == pytest.approx(0.5), "drift cancels within blocks"
    assert vit.ratios["latency_ms"].value == pytest.approx(2.0)
    assert vit.ratios["flops"].value == pytest.approx(0.5)
    assert vit.ratios["train_seconds"].value == pytest.approx(30 / 37)
    assert comparison.rows[0].ratios["params"].value == 1


def test_without_a_common_session_there_is_no_speed(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8})
    (comparison,) = compare([store])
    assert "train_images_per_second" not in comparison.rows[0].values
    assert "train_images_per_second" not in comparison.rows[1].ratios
    for made in ("seresnet", "vit_tiny"):  # timed apart: each has a speed somewhere, but never a ratio
        alone = session({made: [1.0, 1.0]}, started=f"2026-01-0{4 + len(made) % 2}T00:00:00.000+00:00")
        store.write_session(made, {**alone, "id": made})
    (comparison,) = compare([store])
    assert sum("train_images_per_second" in row.values for row in comparison.rows) == 1
    assert not any("train_images_per_second" in r.ratios for r in comparison.rows if r.model != "seresnet")


def test_seeds_are_averaged_and_conditions_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        of = spec("seresnet", seed)
        store.write_record(of, record(of, accuracy))
    for changes in ({"recipe": replace(RECIPE, lr=0.1)}, {"data": replace(DATA, train_fraction=0.5)}):
        of = spec("seresnet", **changes)
        store.write_record(of, record(of, 0.5))
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
    worse.write_record(of, failure(of, "interrupted"))
    assert compare([store, other, worse]) == [comparison], "a failure elsewhere does not hide a finished run"
    assert [(row.model, row.runs) for row in comparison.rows] == [("seresnet", 1), ("resnet56", 1), ("vit_tiny", 1)]


def test_an_edited_model_is_not_averaged_with_its_former_self(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for source, accuracy, started in (("old", 0.5, "2026-01-01"), ("new", 0.7, "2026-01-02")):
        of = spec("mine.py:f", model_source=source)
        store.write_record(of, {**record(of, accuracy), "started": f"{started}T00:00:00.000+00:00"})
    (comparison,) = compare([store])
    assert [(row.runs, row.values["accuracy"].value) for row in comparison.rows] == [(1, 0.7)]
    assert any("1 run(s) left out" in note for note in comparison.notes)


HOSTILE = ["_x", "a$\\frac{$b", "NA", "007", "=cmd|x", "<img onerror>", "a|b & 50%", "[red]name", "../../x"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.01234, "0.0123"), (1.005, "1.00"), (98.76, "98.8"), (12345.6, "12,346")]
)
def test_significant(value: float, shown: str) -> None:
    assert significant(value) == shown
