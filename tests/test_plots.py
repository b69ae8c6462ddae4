"""Plots: every one drawn, no name on another, none off the canvas."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.plots import PLOTS, draw, save_all
from bench.store import Store
from bench.tables import compare, history_frame
from models.registry import CATALOGUE
from tests.synthetic import write_store

NAMES = {
    "two": ["seresnet", "vit_tiny"],
    "all": list(CATALOGUE),
    "hostile": ["_x", "a$\\frac{$b", "NA", "<img onerror>", "timm:vit_tiny_patch16_224[depth=2]"],
}


def make_store(root: Path, names: list[str]) -> Store:
    accuracies = {name: 0.60 + 0.023 * (index * 7 % 15) for index, name in enumerate(names)}
    seconds = {name: [1.0 + 0.13 * index, 1.1 + 0.13 * index] for index, name in enumerate(names)}
    return write_store(root, accuracies, seconds)


def drawn_texts(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("name", PLOTS)
def test_names_are_whole_and_apart(tmp_path: Path, name: str, which: str) -> None:
    store = make_store(tmp_path, NAMES[which])
    (comparison,) = compare([store])
    figure = draw(name, comparison, history_frame([store]))
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    texts = drawn_texts(figure)
    labels = [t for t in texts if t.get_text() in NAMES[which]]
    assert sorted(t.get_text() for t in labels) == sorted(NAMES[which]), "each model is named once"
    for text in labels:
        box = Text.get_window_extent(text)  # of an annotation, without its arrow
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= width, text.get_text()
        assert box.y1 <= height, text.get_text()
    for a, b in itertools.combinations(labels, 2):
        first, second = (Text.get_window_extent(t).padded(-1) for t in (a, b))
        assert not first.overlaps(second), f"{a.get_text()} covers {b.get_text()}"


def test_files_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", NAMES["two"])
    first = {p.name: p.read_bytes() for p in save_all([store], tmp_path / "one")}
    again = {p.name: p.read_bytes() for p in save_all([store], tmp_path / "two")}
    assert len(first) == 2 * len(PLOTS)
    assert first == again
    assert b"seresnet" in first["cifar10-shared-3ep-throughput.svg"], "text stays text in SVG"


def test_a_chart_without_data_is_left_out(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"seresnet": 0.9})  # no speed session
    names = {p.stem.rsplit("-", 1)[1] for p in save_all([store], tmp_path / "p")}
    assert names == {"accuracy_vs_flops", "accuracy_vs_seconds"}


def test_hostile_names_are_inert_in_svg(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", NAMES["hostile"])
    for path in save_all([store], tmp_path / "p"):
        if path.suffix == ".svg":
            assert b"<img onerror>" not in path.read_bytes()
