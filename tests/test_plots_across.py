"""Figures across comparisons hold the figures that they claim to hold, for any names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.compare import pairs
from bench.plots_across import by_data, by_question, draw_data_efficiency, draw_differences, save_all
from bench.recipes import in_track
from bench.store import Store
from bench.tables import compare
from tests.synthetic import DATA, RECIPE, record, spec
from tests.test_compare import made_store, write_run

HOSTILE = {"_x$": 0.9, "<b>": 0.8}


def shares(root: Path) -> Store:
    """Two models on 1 %, 10 % and all of the images."""
    store, rng = Store(root), np.random.default_rng(0)
    for fraction, accuracies in ((0.01, (0.3, 0.2)), (0.1, (0.6, 0.4)), (1.0, (0.9, 0.8))):
        for model, accuracy in zip(("seresnet", "vit_tiny"), accuracies, strict=True):
            of = spec(model, data=replace(DATA, train_fraction=fraction, split_hash=str(fraction)))
            metrics = record(of, accuracy)["metrics"] | {"train_images": round(45_000 * fraction)}
            write_run(store, of, accuracy, rng, metrics={**metrics, "accuracy": accuracy, "test_images": 4000})
    return store


def test_data_efficiency_holds_every_share(tmp_path: Path) -> None:
    store = shares(tmp_path)
    (group,) = by_data(compare([store])).values()
    axes = draw_data_efficiency(group).axes[0]
    drawn = {tuple(line.get_xdata()): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3}
    assert list(drawn) == [(450, 4500, 45_000)]
    curves = [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3]
    assert curves == [[pytest.approx(30), pytest.approx(60), pytest.approx(90)], [20, 40, 80]]
    assert {text.get_text() for text in axes.texts} == {"seresnet", "vit_tiny"}
    canvas = axes.figure.bbox
    assert all(canvas.x0 <= box.x0 and box.x1 <= canvas.x1 for box in (t.get_window_extent() for t in axes.texts))
    written = {path.name for path in save_all([store], tmp_path / "plots")}
    assert "cifar10-shared-3ep-data_efficiency.png" in written


@pytest.mark.parametrize("accuracies", [{"seresnet": 0.9, "vit_tiny": 0.8, "cct_2": 0.7}, HOSTILE])
def test_differences_hold_every_pair(accuracies: dict[str, float], tmp_path: Path) -> None:
    made = pairs([made_store(tmp_path, accuracies)])
    (found,) = by_question(made).values()
    axes = draw_differences(found).axes[0]
    points = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert points == pytest.approx([100 * pair.like_these.value for pair in made])
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == [f"{pair.a.model} − {pair.b.model}" for pair in reversed(made)]


def test_both_tracks_stand_in_one_figure(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for track in ("shared", "family"):
        for model, family in (("seresnet", "cnn"), ("vit_tiny", "vit")):
            for seed in range(2):
                write_run(store, spec(model, seed, recipe=in_track(track, family, RECIPE, model)), 0.8, rng)
    (found,) = by_question(pairs([store])).values()
    assert [pair.track for pair in found] == ["shared", "family"]
    legend = draw_differences(found).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["track shared", "track family", "this test set"]
