"""Static charts: every kind drawn, no text on another, none off the canvas, fonts within, the same bytes each time."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.core.errors import UserError
from bench.present.charts.labels import readable, spread, wrapped
from bench.present.charts.model import Axis, Chart, Look, Mark, Series, looks_of, short
from bench.present.charts.static import FORMATS, caption_of, draw, save, save_all, to_png
from bench.present.charts.styles import check_style

HOSTILE = [
    "_x",
    "a$\\frac{$b",
    "NA",
    "<img onerror>",
    "timm:vit_tiny_patch16_224[depth=2,img_size=32]",
    "W" * 90,
    "$x_1$ with several words in it",
]
NAMES = {
    "one": ["seresnet"],
    "two": ["seresnet", "vit_tiny"],
    "many": HOSTILE + [f"torchvision:efficientnet_v2_{n:02}" for n in range(13)],
}
RNG_SEED = 5


def chart_of(series: list[Series], names: list[str], x: Axis, y: Axis, **more: Any) -> Chart:
    families = {name: ("cnn", "vit", "hybrid", "external")[n % 4] for n, name in enumerate(names)}
    chart = Chart("kind", "cifar10-kind", "Which is it?", x, y, tuple(series), "n = 3.", looks_of(families), "CIFAR-10")
    return replace(chart, **more)


def scatter(names: list[str]) -> Chart:
    rng = np.random.default_rng(RNG_SEED)
    series = []
    for name in names:
        x, y = 10 ** (3 + rng.random()), 70 + 20 * rng.random()
        mark = Mark(x, y, y_low=y - 1, y_high=y + 1, label=short(name), area=0.1 + 0.9 * rng.random())
        series.append(Series(name, "points", (mark,)))
    series.append(Series("", "line", (Mark(1000, 90), Mark(5000, 80)), name="Pareto front", thin=True))
    return chart_of(series, names, Axis("images/s (median; more is faster)", log=True), Axis("test accuracy, %"))


def curves(names: list[str]) -> Chart:
    rng = np.random.default_rng(RNG_SEED)
    series = []
    for name in names:
        y = 60 + 30 * rng.random()
        points = [(float(e), y * (1 - math.exp(-e / 3))) for e in range(1, 9)]
        runs = [Mark(*p) for p in [*points, (math.nan, math.nan), *((x, y + 1) for x, y in points)]]
        series.append(Series(name, "line", tuple(runs), faint=True, name="single runs"))
        ends = [Mark(*p, y_low=p[1] - 2, y_high=p[1] + 2) for p in points]
        series.append(Series(name, "line", (*ends[:-1], replace(ends[-1], label=short(name)))))
    return chart_of(series, names, Axis("epochs", from_zero=True), Axis("validation accuracy, %"))


def batches(names: list[str]) -> Chart:
    sizes = [float(2**n) for n in range(12)]
    rng = np.random.default_rng(RNG_SEED)
    series = []
    for name in names:
        most = 10 ** (3 + rng.random())
        marks = [Mark(n, most * n / (n + 30)) for n in sizes]
        series.append(Series(name, "line", (*marks[:-1], replace(marks[-1], label=short(name)))))
    ticks = Axis("batch size", log=True, ticks=tuple(sizes))
    return chart_of(series, names, ticks, Axis("inference, images/s", log=True))


def reached(names: list[str]) -> Chart:
    series = [
        Series(
            name,
            "steps",
            (Mark(0, 0), Mark(10 + n, 50), Mark(20 + n, 100), Mark(90, 100, open=True, label=short(name))),
        )
        for n, name in enumerate(names)
    ]
    return chart_of(series, names, Axis("training seconds"), Axis("runs that reached 90 %, %", from_zero=True))


def throughput(names: list[str]) -> Chart:
    series = []
    for shade, (name, factor) in enumerate((("training step", 1), ("inference", 3))):
        values = [factor * 1017.0 * (n + 1) for n in range(len(names))]
        marks = tuple(Mark(v, n, x_low=0.9 * v, x_high=1.1 * v, label=f"{v:,.0f}") for n, v in enumerate(values))
        series.append(Series("", "bars", marks, name=name, shade=2 + 3 * shade))
    rows = Axis("", names=tuple(short(name) for name in names))
    return chart_of(series, names, Axis("images/s at the recipe's batch size", from_zero=True), rows)


def operators(names: list[str]) -> Chart:
    parts = [
        "convolution",
        "matrix product",
        "a name of operators that is longer than others, by far, and wraps",
        "other",
    ]
    series = [
        Series("", "bars", tuple(Mark(1.0 + p + n, n) for n in range(len(names))), name=part, shade=4 * p)
        for p, part in enumerate(parts)
    ]
    last = tuple(replace(mark, label=f"{n} ms") for n, mark in enumerate(series[-1].marks))
    rows = Axis("", names=tuple(short(name) for name in names))
    axis = Axis("milliseconds of a step", from_zero=True)
    return chart_of([*series[:-1], replace(series[-1], marks=last)], names, axis, rows, stacked=True)


def differences(names: list[str]) -> Chart:
    pairs = [f"{short(a)} − {short(b)}" for a, b in itertools.combinations([*names, "resnet20"], 2)][:20]
    series = []
    for track, (name, shade) in enumerate((("shared", 2), ("family", 5))):
        values = [math.sin(3 * n + track) for n in range(len(pairs))]
        at = [n + 0.3 * (track - 0.5) for n in range(len(pairs))]
        this = tuple(Mark(v, y, x_low=v - 0.2, x_high=v + 0.2) for v, y in zip(values, at, strict=True))
        series.append(Series("", "ranges", this, name="this test set", shade=shade))
        like = tuple(
            Mark(v, y, x_low=v - 0.5, x_high=v + 0.5, open=v < 0, label="no verdict")
            for v, y in zip(values, at, strict=True)
        )
        series.append(Series("", "points", like, name=f"track {name}", shade=shade))
    axis = Axis("difference of test accuracy, points (right: the first is better)")
    return chart_of(series, names, axis, Axis("", names=tuple(pairs)), band=(-0.25, 0.25))


def roofline(names: list[str]) -> Chart:
    rng = np.random.default_rng(RNG_SEED)
    roof = (Mark(0.3, 3), Mark(10, 100), Mark(300, 100, label="matrix product: 100 GFLOP/s"))
    series = [Series("", "line", roof, thin=True)]
    for name in names:
        x = 10 ** (2 * rng.random())
        label = f"{short(name)}: element-wise 63 %"
        series.append(Series(name, "points", (Mark(x, min(10 * x, 100) * (0.1 + 0.8 * rng.random()), label=label),)))
    up = Axis("GFLOP/s reached (a multiply-add is two)", log=True)
    return chart_of(series, names, Axis("operations per byte in and out of the operators", log=True), up)


KINDS: dict[str, Callable[[list[str]], Chart]] = {
    f.__name__: f for f in (scatter, curves, batches, reached, throughput, operators, differences, roofline)
}


def texts_of(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    ends = {axis: sorted(axis.get_view_interval()) for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis)}
    for axis, (low, high) in ends.items():  # the labels of ticks that are off the axis are there, but never drawn
        for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True):
            assert low <= place <= high, label
    return found


def check_apart(figure: Figure) -> list[Text]:
    """Its texts: none off the canvas, no two on one another."""
    texts = texts_of(figure)
    boxes = [Text.get_window_extent(text) for text in texts]  # of an annotation, without its arrow
    for text, box in zip(texts, boxes, strict=True):
        where = (text.get_text(), box)
        assert box.x0 >= 0, where
        assert box.y0 >= 0, where
        assert box.x1 <= figure.bbox.width, where
        assert box.y1 <= figure.bbox.height, where
    for (a, one), (b, other) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not one.padded(-1).overlaps(other.padded(-1)), f"{a.get_text()} covers {b.get_text()}"
    return texts


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_whole_and_apart(kind: str, which: str, columns: int) -> None:
    chart = KINDS[kind](NAMES[which])
    figure = draw(chart, columns)
    texts = check_apart(figure)
    assert figure.get_size_inches()[0] == pytest.approx({1: 3.35, 2: 6.9}[columns])
    written = sorted(squeezed(text.get_text()) for text in texts)
    labels = [m.label for s in chart.series for m in s.marks if m.label]
    for label in {
        *labels,
        *chart.x.names,
        *chart.y.names,
        chart.x.title,
        chart.y.title,
        *(s.name for s in chart.series),
    }:
        expected = labels.count(label) + (*chart.x.names, *chart.y.names).count(label)
        assert written.count(squeezed(label)) == max(expected, 1) or not label, label
    assert not any(text.get_parse_math() for text in texts), "no name is a formula"


def test_labels_stay_in_the_axes_where_there_is_room() -> None:
    figure = draw(scatter(NAMES["two"]), 2)
    assert {text.get_text() for text in figure.axes[0].texts} == set(NAMES["two"])
    assert not figure.texts, "no column at the right"


def test_texts_are_apart_in_an_empty_chart_and_with_one_label_everywhere() -> None:
    empty = chart_of([], [], Axis("x", log=True), Axis("y", log=True))
    check_apart(draw(empty, 1))
    same = tuple(Mark(1.0, 2.0, label=f"model number {n}") for n in range(60))
    crowd = chart_of([Series("m", "points", same)], ["m"], Axis("x"), Axis("y", names=("a", "b", "c")))
    check_apart(draw(crowd, 1))
    check_apart(draw(replace(crowd, y=Axis("y")), 2))
    across = chart_of(
        [Series("m", "points", (Mark(0, 1), Mark(1, 2)))], ["m"], Axis("", names=tuple(HOSTILE)), Axis("y")
    )
    check_apart(draw(across, 1))


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_points_are_where_they_were_measured() -> None:
    marks = (Mark(1, 2, y_low=1.5, y_high=3, area=0.25), Mark(3, 4, x_low=2, x_high=5, open=True))
    axes = draw(chart_of([Series("seresnet", "points", marks)], ["seresnet"], Axis("x"), Axis("y"))).axes[0]
    (points,) = axes.collections
    assert points.get_offsets().tolist() == [[1, 2], [3, 4]]
    small, large = points.get_sizes()
    assert small / large == pytest.approx(0.25), "areas, not widths, are in proportion"
    (intervals,) = axes.lines
    ends = np.array(intervals.get_xydata())
    assert ends[~np.isnan(ends[:, 0])].tolist() == [[1, 1.5], [1, 3], [2, 4], [5, 4]]
    full, hollow = points.get_facecolors()[:, :3].tolist()
    assert (full, hollow) == ([0, 0, 0], [1, 1, 1])


def test_lines_are_cut_and_steps_are_steps() -> None:
    cut = (Mark(1, 2), Mark(2, 3), Mark(math.nan, math.nan), Mark(1, 5))
    figure = draw(chart_of([Series("m", "line", cut)], ["m"], Axis("x"), Axis("y")))
    assert np.array(figure.axes[0].lines[0].get_xydata()) == pytest.approx(
        np.array([(1, 2), (2, 3), (math.nan, math.nan), (1, 5)]), nan_ok=True
    )
    steps = (Mark(0, 0), Mark(4, 50), Mark(9, 50, open=True))
    line, never = draw(chart_of([Series("m", "steps", steps)], ["m"], Axis("x"), Axis("y"))).axes[0].lines
    assert line.get_drawstyle() == "steps-post"
    assert (never.get_marker(), np.array(never.get_xydata()).tolist()) == ("+", [[9, 50]])


def test_bars_stand_side_by_side_or_end_to_end() -> None:
    series = [
        Series("", "bars", (Mark(3, 0), Mark(1, 1)), shade=2),
        Series("", "bars", (Mark(2, 0), Mark(5, 1)), shade=5),
    ]
    chart = chart_of(series, [], Axis("x"), Axis("", names=("first", "second")))
    axes = draw(chart).axes[0]
    a, b, c, d = (bar.get_bbox() for bar in axes.patches)
    assert [bar.x1 for bar in (a, b, c, d)] == [3, 1, 2, 5]
    assert a.y1 <= c.y0 < 0.5 <= b.y0, "within their rows, in the order of the series"
    assert axes.transData.transform((0, 0))[1] > axes.transData.transform((0, 1))[1], "from top to bottom"
    a, b, c, d = (bar.get_bbox() for bar in draw(replace(chart, stacked=True)).axes[0].patches)
    assert [(bar.x0, bar.x1) for bar in (a, b, c, d)] == [(0, 3), (0, 1), (3, 5), (1, 6)]


def test_ranges_and_the_band_hold_what_they_claim() -> None:
    chart = differences(["seresnet"])
    axes = draw(chart).axes[0]
    band = axes.patches[0].get_bbox()
    assert (band.x0, band.x1) == (-0.25, 0.25)
    wide = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() > 3]
    assert wide == [(m.x_low, m.x_high) for s in chart.series if s.kind == "ranges" for m in s.marks]
    legend = draw(chart).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["this test set", "track shared", "track family"]


def test_only_the_named_ticks_are_labelled_and_regularly() -> None:
    for columns, labels in ((2, ["1", "2", "4", "8"]), (1, ["1", "8", "64", "512"])):
        axes = draw(batches(NAMES["many"]), columns).axes[0]
        assert list(axes.get_xticks()) == [2**n for n in range(12)]
        assert [t.get_text() for t in axes.get_xticklabels() if t.get_text()][: len(labels)] == labels
    values = [float(t.get_text().replace(",", "")) for t in axes.get_yticklabels()]
    assert {float(f"{value:e}"[:1]) for value in values} <= {1, 2, 3, 5}, "a log axis is read as 1, 2, 5, 10"


def test_looks_differ_after_the_colours_are_used_up() -> None:
    marks = (Mark(1, 1), Mark(2, 2))
    for kind in ("points", "line", "bars"):
        drawn = set()
        for used in range(3):
            chart = chart_of([Series("m", kind, marks)], ["m"], Axis("x"), Axis("y"))
            drawn.add(to_png(draw(replace(chart, looks={"m": Look("#D55E00", "square", used)}), 1)))
        assert len(drawn) == 3, kind


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    chart = scatter(HOSTILE[:4])
    first = {path.name: path.read_bytes() for path in save(chart, tmp_path / "one", FORMATS, (1, 2))}
    matplotlib.rcParams["font.size"] = 20  # a user's own settings have no say
    try:
        again = {path.name: path.read_bytes() for path in save_all([chart], tmp_path / "two", FORMATS, (1, 2))}
    finally:
        matplotlib.rcdefaults()
    assert first == again
    stems = {"cifar10-kind", "cifar10-kind-1col"}
    assert set(first) == {f"{stem}.{kind}" for stem in stems for kind in FORMATS} | {"cifar10-kind.txt"}
    for stem, width in (("cifar10-kind", 6.9), ("cifar10-kind-1col", 3.35)):
        assert int.from_bytes(first[f"{stem}.png"][16:20], "big") == int(300 * width)
        pdf, svg = first[f"{stem}.pdf"], first[f"{stem}.svg"]
        assert b"/FontFile2" in pdf, "TrueType, embedded"
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf
        assert b"<text" not in svg, "letters are outlines"
        assert b"<dc:date>" not in svg
        assert b"<img onerror>" not in svg
        assert svg.startswith(b"<?xml")


def test_one_picture_per_chart_unless_more_are_asked_for(tmp_path: Path) -> None:
    written = save_all([throughput(["seresnet"])], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10-kind.png", "cifar10-kind.txt"]
    assert sorted(written) == sorted(tmp_path.iterdir())


def test_letters_of_a_pdf_are_text(tmp_path: Path) -> None:
    (path, _) = save(throughput(["seresnet"]), tmp_path, formats=("pdf",), columns=(2,))
    streams = [part.split(b"endstream")[0].strip(b"\r\n") for part in path.read_bytes().split(b"stream\n")[1:]]
    texts = [zlib.decompressobj().decompress(stream) for stream in streams if stream[:1] == b"x"]
    assert any(b"Tj" in text or b"TJ" in text for text in texts)


def test_the_caption_has_what_the_figure_leaves_out() -> None:
    words = "Median of 3 seeds with 95 % intervals. " * 9
    name = "timm:vit_tiny_patch16_224[depth=2,img_size=32]"
    chart = replace(
        scatter(["seresnet", name]), caption=words, command="python run_bench.py plot --results " + "d/" * 70
    )
    title, caption, subject, names, command = caption_of(chart).rstrip("\n").split("\n\n")
    assert title == "Which is it?"
    assert " ".join(caption.split("\n")) == words.strip()
    assert max(map(len, caption.split("\n"))) <= 100
    assert subject == "Subject: CIFAR-10"
    assert names.split("\n")[1:] == [f"  {short(name)} = {name}"]
    assert command.split("\n")[1].strip() == chart.command, "in one line, to be copied"


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_are_boxes_with_the_name_in_the_caption(tmp_path: Path) -> None:
    chart = scatter(["模型", "résnet"])
    (_, caption) = save(chart, tmp_path, ("png",), (1,))
    assert caption.read_text(encoding="utf-8").endswith("font lacks:\n  模型\n")


def test_a_notebook_gets_bytes() -> None:
    figure = draw(scatter(["seresnet"]))
    assert to_png(figure).startswith(b"\x89PNG")


# --- styles ----------------------------------------------------------------------------------------------------------


def test_a_style_decides_all_but_the_layout_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "large.mplstyle"
    file.write_text("font.size: 15\naxes.grid: False\ntext.usetex: True\nsavefig.bbox: tight\n", encoding="utf-8")
    before = dict(matplotlib.rcParams)
    for kind in (scatter, throughput, differences):
        figure = draw(kind(NAMES["two"]), 1, str(file))
        check_apart(figure)
    assert figure.axes[0].xaxis.label.get_size() == 15
    assert dict(matplotlib.rcParams) == before
    (path, _) = save(scatter(["seresnet"]), tmp_path, ("png",), (2,), str(file))
    assert int.from_bytes(path.read_bytes()[16:20], "big") == 2070, "tight boxes would change the width"
    check_apart(draw(scatter(HOSTILE), 2, "dark_background"))


@pytest.mark.parametrize("ground", ["white", "black", "#E5E5E5"])
def test_names_are_readable_on_any_ground(ground: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    behind = luminance(str(matplotlib.colors.to_hex(ground)))
    for colour in ("#56B4E9", "#E69F00", "#0072B2"):
        low, high = sorted((luminance(readable(colour, ground)), behind))
        assert (high + 0.05) / (low + 0.05) >= 4.45
    assert readable("#0072B2", "white").upper() == "#0072B2", "no darker than needed"


def test_mistakes_in_a_style_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.mplstyle").write_text("axes.grid: perhaps\n", encoding="utf-8")
    (tmp_path / "empty.mplstyle").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "bytes.mplstyle").write_bytes(b"\xff\xfe\x00axes")
    for style, words in (
        ("gplot", r"no style 'gplot'.*ggplot"),
        ("no/file.mplstyle", "no style"),
        (str(tmp_path / "bad.mplstyle"), "cannot be used"),
        (str(tmp_path / "empty.mplstyle"), "sets nothing"),
        (str(tmp_path / "bytes.mplstyle"), "cannot be used"),
        ("mine.py:function", "no style"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            check_style(style)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=words):
            save_all([], tmp_path, style=style)


# --- the parts -------------------------------------------------------------------------------------------------------


def test_boxes_in_a_column_stand_as_near_as_they_can() -> None:
    assert spread([5, 1, 9][1:], [2, 2], 0, 20) == [1, 9], "where there is room, they stay"
    assert spread([5, 5], [2, 2], 0, 20) == [4, 6]
    assert spread([5, 5, 5.3], [1, 2, 3], 0, 20) == pytest.approx([5 - 26 / 15, 5 - 7 / 30, 5 + 34 / 15])
    assert spread([0, 0, 19], [2, 2, 2], 0, 19) == [1, 3, 18], "kept between bottom and top"
    rng = np.random.default_rng(RNG_SEED)
    wanted, heights = np.sort(rng.random(12) * 20), 0.5 + rng.random(12)
    placed = np.array(spread(list(wanted), list(heights), 0, 20))
    assert (np.diff(placed) >= (heights[1:] + heights[:-1]) / 2 - 1e-9).all()


def test_lines_are_no_wider_than_allowed_and_lose_nothing() -> None:
    def width(text: str) -> float:
        return float(len(text))

    assert wrapped("a few words", 20, width) == "a few words"
    assert wrapped("one two three four", 14, width) == "one two\nthree four", "about as long"
    assert wrapped("timm:vit_tiny_patch16", 10, width) == "timm:vit_\ntiny_\npatch16"
    for text in (*HOSTILE, "a " * 30, ""):
        lines = wrapped(text, 7, width).split("\n")
        assert max(map(len, lines)) <= 7
        assert squeezed("".join(lines)) == squeezed(text)
