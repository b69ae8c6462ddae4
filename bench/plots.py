"""Plots from stores, without torch. Example: save_all([Store(Path("results/local"))], Path("results/local/plots"))

Okabe-Ito colours, a marker a family, names beside the points; the same functions serve the notebook.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter

from bench.schema import Record
from bench.session_table import inert_record, significant
from bench.spec import slug
from bench.store import Store, speed_rows
from bench.tables import Comparison, Row, compare_loaded, history_of, load

# Okabe & Ito 2008, "Color Universal Design", without the yellow that white paper swallows; black first.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = {"cnn": "o", "vit": "s", "hybrid": "^", "external": "D"}
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "sevit-bench",  # the same store gives the same file
    "svg.fonttype": "none",
}
SIZE = (6.4, 4.2)  # inches
LABEL_HEIGHT = 0.055  # of the axes
ADJUST_STEPS = 100  # of placing names; by default they end after a second, so elsewhere on a slower machine
CONNECTED_PIXELS = 8  # from a name to its point; nearer ones need no line


def colour(comparison: Comparison, model: str) -> str:
    """The same colour for a model in every plot of a comparison."""
    names = sorted(row.model for row in comparison.rows)
    return COLOURS[names.index(model) % len(COLOURS)]


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> Text:
    """A name as it is: a model called `$x$` or `_x` is no formula and no hidden label."""
    return axes.text(x, y, text, parse_math=False, **style)


def _percent(value: float) -> float:
    return 100 * value


def _scatter(axes: Axes, comparison: Comparison, key: str, area: Callable[[Row], float]) -> bool:
    """Accuracy against one figure, names beside the points; False where no row has the figure."""
    texts, points = [], []
    for row in _with(comparison, key):
        x, accuracy = row.values[key].value, row.values["accuracy"]
        y, shade = _percent(accuracy.value), colour(comparison, row.model)
        if math.isfinite(accuracy.low):
            axes.plot([x, x], [_percent(accuracy.low), _percent(accuracy.high)], color=shade, linewidth=1, alpha=0.6)
        marker = MARKERS[row.family]
        style: Any = {"marker": marker, "markersize": math.sqrt(area(row)), "color": shade, "alpha": 0.75}
        points += axes.plot([x], [y], linestyle="none", zorder=3, **style)
        texts.append(_write(axes, x, y, row.model, color=shade))
    axes.set_ylabel("test accuracy and 95 % interval, %")
    _spread_axes(axes, [row.values[key].value for row in _with(comparison, key)])
    if texts:
        figure = lay_out(axes)  # it must be final before names are placed in it
        anchors = [text.get_position() for text in texts]
        for text, point, anchor in zip(texts, points, anchors, strict=True):
            x, y = axes.transData.transform(anchor)
            beside = (x + 0.7 * point.get_markersize() * figure.dpi / 72 + 4, y)
            text.set_position(tuple(axes.transData.inverted().transform(beside)))
            text.set_verticalalignment("center")
        adjust_text(
            texts,
            ax=axes,
            target_x=[x for x, _ in anchors],
            target_y=[y for _, y in anchors],
            objects=points,
            expand=(1.15, 1.3),
            force_text=(0.4, 0.6),
            force_static=(0.3, 0.5),
            iter_lim=ADJUST_STEPS,
        )
        _connect(axes, texts, anchors)
    return bool(texts)


def lay_out(axes: Axes) -> Figure:
    """Give the axes the room that their labels leave. Once: a figure with a layout engine does it at every drawing."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    ConstrainedLayoutEngine().execute(figure)
    return figure


def _connect(axes: Axes, texts: list[Text], anchors: list[tuple[float, float]]) -> None:
    """A thin line from each name that was moved away to its point; an arrow would be clipped anew at every drawing."""
    for text, anchor in zip(texts, anchors, strict=True):
        box, (x, y) = text.get_window_extent(), axes.transData.transform(anchor)
        near = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
        if math.dist(near, (x, y)) > CONNECTED_PIXELS:
            (left, bottom), (right, top) = axes.transData.inverted().transform([near, (x, y)])
            axes.plot([left, right], [bottom, top], color="0.6", linewidth=0.6, zorder=2, scalex=False, scaley=False)


def _spread_axes(axes: Axes, values: list[float]) -> None:
    """Room for names; a log axis where the values span a decade, else one whose ticks stay readable."""
    axes.margins(x=0.2, y=0.15)
    if values and max(values) >= 10 * min(values) > 0:
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
    axes.autoscale_view()


def _with(comparison: Comparison, key: str) -> list[Row]:
    return [row for row in comparison.rows if key in row.values]


def accuracy_vs_throughput(axes: Axes, comparison: Comparison, history: pd.DataFrame) -> bool:
    """Test accuracy against training images/s from the common speed session."""
    axes.set_xlabel("training images/s (median of a speed session; more is faster)")
    return _scatter(axes, comparison, "train_images_per_second", lambda row: 60)


def accuracy_vs_flops(axes: Axes, comparison: Comparison, history: pd.DataFrame) -> bool:
    """Test accuracy against multiply-adds an image; the area of a marker is proportional to the parameters."""
    most = max((row.values["params"].value for row in comparison.rows if "params" in row.values), default=1.0)
    axes.set_xlabel(f"FLOPs, million multiply-adds an image (area: parameters, largest {most / 1e6:.2f}M)")
    drawn = _scatter(axes, comparison, "flops", lambda row: 600 * row.values["params"].value / most)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:,.0f}")
    return drawn


def accuracy_vs_seconds(axes: Axes, comparison: Comparison, history: pd.DataFrame) -> bool:
    """Validation accuracy after each epoch against seconds on the training clock; a line a seed."""
    ends: list[tuple[float, float, str, str]] = []
    runs = (
        history[history["run_id"].isin(comparison.run_ids)].dropna(subset="train_seconds") if len(history) else history
    )
    for model, lines in runs.groupby("model") if len(runs) else ():
        shade = colour(comparison, str(model))
        marker = MARKERS[next(row.family for row in comparison.rows if row.model == model)]
        # One artist a model, cut by nan between its seeds: a thousand artists take many times as long to draw.
        run_ids = lines["run_id"].to_numpy()
        cuts = 1 + np.flatnonzero(run_ids[1:] != run_ids[:-1])
        x, y = np.insert(lines[["train_seconds", "val_accuracy"]].to_numpy(), cuts, math.nan, axis=0).T
        axes.plot(x, 100 * y, color=shade, marker=marker, markersize=4, linewidth=1.4)
        ends.append((x[-1], 100 * y[-1], str(model), shade))
    axes.set_xlabel("training seconds (evaluation is not counted)")
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlim(left=0)
    name_ends(axes, ends)
    return bool(ends)


def name_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names of curves that end at (x, y), in their colours and in a column at the right, each as near as others allow.

    Heights are shares of the axes, so that a log axis is like any other.
    """
    ends = sorted(ends, key=lambda end: end[1])
    low, high = axes.get_ylim()
    bottom, *heights, top = axes.yaxis.get_transform().transform([low, *(end[1] for end in ends), high])
    placed: list[float] = []
    for height in ((h - bottom) / (top - bottom) for h in heights):
        placed.append(max(height, placed[-1] + LABEL_HEIGHT) if placed else height)
    excess = max(0.0, placed[-1] - 1) if placed else 0.0
    for (x, y, name, shade), height in zip(ends, placed, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, height - excess),
            textcoords="axes fraction",
            color=shade,
            va="center",
            annotation_clip=False,
            parse_math=False,
            # from the name's left, unclipped: clipping at its box takes most of the time of a drawing
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "patchA": None,
                "color": shade,
                "linewidth": 0.5,
                "alpha": 0.5,
            },
        )


def throughput(axes: Axes, comparison: Comparison, history: pd.DataFrame) -> bool:
    """Bars of training and inference images/s with the quartiles of the samples."""
    rows = _with(comparison, "train_images_per_second")[::-1]
    for offset, key, label, shade in (
        (0.2, "train_images_per_second", "training step", COLOURS[2]),
        (-0.2, "inference_images_per_second", "inference", COLOURS[5]),
    ):
        for position, row in enumerate(rows):
            value = row.values[key]
            spread = [[value.value - value.low], [value.high - value.value]]
            bar: Any = {"color": shade, "height": 0.38, "label": label if position == 0 else None}
            axes.barh(position + offset, value.value, xerr=spread, error_kw={"linewidth": 1, "alpha": 0.6}, **bar)
            _write(axes, value.high, position + offset, f" {value.value:,.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.model for row in rows])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set_xlabel("images/s at the recipe's batch size (median and quartiles of a speed session)")
    if rows:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return bool(rows)


PLOTS: dict[str, Callable[[Axes, Comparison, pd.DataFrame], bool]] = {
    "accuracy_vs_throughput": accuracy_vs_throughput,
    "accuracy_vs_flops": accuracy_vs_flops,
    "accuracy_vs_seconds": accuracy_vs_seconds,
    "throughput": throughput,
}


# --- speed sessions --------------------------------------------------------------------------------------------------


def _session_colour(session: Record, model: str) -> str:
    return COLOURS[sorted(session["models"]).index(model) % len(COLOURS)]


def throughput_vs_batch(axes: Axes, session: Record) -> bool:
    """Inference images/s against the batch size, both on log axes; bars are the quartiles."""
    ends: list[tuple[float, float, str, str]] = []
    rows = [r for r in speed_rows(session) if r["status"] == "ok" and r["kind"] == "inference"]
    for model in session["models"]:
        mine = sorted((r for r in rows if r["model"] == model), key=lambda r: r["batch_size"])
        if len(mine) < 2:
            continue
        x = [r["batch_size"] for r in mine]
        y = [r["images_per_second"] for r in mine]
        spread = [
            [v - 1000 * r["batch_size"] / r["q3_ms"] for v, r in zip(y, mine, strict=True)],
            [1000 * r["batch_size"] / r["q1_ms"] - v for v, r in zip(y, mine, strict=True)],
        ]
        shade = _session_colour(session, model)
        axes.errorbar(x, y, yerr=spread, color=shade, marker="o", markersize=4, linewidth=1.4, capsize=2)
        ends.append((x[-1], y[-1], model, shade))
    if not ends:
        return False
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_log(axes.yaxis)
    axes.set_xticks(sorted({r["batch_size"] for r in rows}), [str(n) for n in sorted({r["batch_size"] for r in rows})])
    axes.set_xlabel("batch size")
    axes.set_ylabel("inference, images/s (median and quartiles)")
    name_ends(axes, ends)
    return True


def _plain_log(axis: Axis) -> None:
    """A log axis that is labelled 1, 2, 5, 10 …, as people read numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def roofline(axes: Axes, session: Record) -> bool:
    """Training steps under the ceilings measured beside them (Williams et al. 2009, doi:10.1145/1498765.1498785).

    Beside each name the nearest ceiling and the share of the step that it explains. Across: operations for each byte
    that goes in or out of an operator. Up: operations a second. Nothing lies above the slope (the copy's bandwidth) or
    the flat (the matrix product's arithmetic), unless caches help.
    """
    ceilings = session["ceilings"]
    points = {m: b for m, b in session["bounds"].items() if b["flops_2x"] and b["flops_per_second"]}
    if not ceilings or not points:
        return False
    flat, slope = ceilings["flops_per_second"] / 1e9, ceilings["bytes_per_second"] / 1e9
    intensities = {model: b["flops_2x"] / b["bytes"] for model, b in points.items()}
    ridge = flat / slope
    left = min(min(intensities.values()), ridge) / 3
    right = max(max(intensities.values()), ridge) * 3
    axes.plot([left, ridge, right], [left * slope, flat, flat], color="0.35", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_log(axes.xaxis)
    _plain_log(axes.yaxis)
    texts, dots = [], []
    for model, x in intensities.items():
        y, shade = points[model]["flops_per_second"] / 1e9, _session_colour(session, model)
        dots += axes.plot([x], [y], "o", color=shade, markersize=7, alpha=0.8, zorder=3)
        nearest = f"{points[model]['name']} {100 * points[model]['share']:.0f} %"
        texts.append(_write(axes, x, y, f"{model}: {nearest}", color=shade))
    lowest = min(b["flops_per_second"] for b in points.values()) / 1e9
    axes.set_ylim(min(lowest, left * slope) / 2, flat * 2.5)
    _write(
        axes, right, flat * 1.08, f"{significant(flat)} GFLOP/s, matrix product", ha="right", va="bottom", color="0.35"
    )
    _write(axes, left, flat * 1.08, f"slope: {significant(slope)} GB/s, copy", ha="left", va="bottom", color="0.35")
    axes.set_xlabel("operations per byte in and out of the operators of a training step")
    axes.set_ylabel("GFLOP/s reached (a multiply-add is two)")
    lay_out(axes)
    anchors = [text.get_position() for text in texts]
    adjust_text(texts, ax=axes, objects=dots, expand=(1.2, 1.5), iter_lim=ADJUST_STEPS)
    _connect(axes, texts, anchors)
    return True


SESSION_PLOTS: dict[str, Callable[[Axes, Record], bool]] = {
    "throughput_vs_batch": throughput_vs_batch,
    "roofline": roofline,
}


def draw_session(name: str, session: Record) -> Figure | None:
    """One of SESSION_PLOTS as a figure, or None where the session has nothing to draw in it."""
    key = session["key"]
    about = (
        f"{key['image_size']} px, training batch {session['recipe']['batch_size']}, {key['precision']}, "
        f"{key['policy']} · {key['device_name']}, torch {key['torch']} · {session['blocks']} blocks, "
        f"{session['started'][:10]}"
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=150)
        axes = figure.add_subplot()
        figure.supxlabel("\n".join(textwrap.wrap(about, 110)), fontsize=6.5, color="0.35", parse_math=False)
        return lay_out(axes) if SESSION_PLOTS[name](axes, session) else None


def save_session(session: Record, folder: Path) -> list[Path]:
    """Every plot of a session as PNG and SVG; returns what was written."""
    session, written = inert_record(session), []
    for name in SESSION_PLOTS:
        figure = draw_session(name, session)
        if figure is not None:
            written += save_figure(figure, folder, f"speed-{slug(session['id'])}-{name}")
    return written


def save_figure(figure: Figure, folder: Path, stem: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.{ending}" for ending in ("png", "svg")]
    for path in paths:
        with matplotlib.rc_context(STYLE):
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def draw(name: str, comparison: Comparison, history: pd.DataFrame) -> Figure | None:
    """One of PLOTS as a figure, or None where the store has nothing to draw in it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=150)
        axes = figure.add_subplot()
        # Beneath, not above: what a figure shows stands in its axes, where it was measured in the small print.
        figure.supxlabel("\n".join(textwrap.wrap(comparison.title, 110)), fontsize=6.5, color="0.35", parse_math=False)
        return lay_out(axes) if PLOTS[name](axes, comparison, history) else None


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, for a notebook."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save_all(stores: list[Store], folder: Path, by_device: bool = True) -> list[Path]:
    """Every plot of every comparison as PNG and SVG; returns what was written. Raises UserError as `compare` does."""
    found, written, used = load(stores), [], set[str]()
    history = history_of(found)
    for comparison in compare_loaded(found, by_device=by_device):
        if not comparison.rows:
            continue
        about = comparison.about
        length = about["budget"].replace(" epochs", "ep")
        words = ("track " + about["track"] if about["track"] else about["recipe"], length)
        stem = "-".join(slug(word) for word in (about["dataset"], *words))
        prefix = next(p for n in range(1, 1000) if (p := stem if n == 1 else f"{stem}-{n}") not in used)
        used.add(prefix)
        for name in PLOTS:
            figure = draw(name, comparison, history)
            if figure is None:
                continue
            written += save_figure(figure, folder, f"{prefix}-{name}")
    for session in found.sessions:
        if session["bounds"]:  # of the `time` command
            written += save_session(session, folder)
    return written
