"""Plots across comparisons: verdicts side by side, accuracy against data. Example: save_all(stores, folder)

bench/plots.py draws one comparison. Here a figure is of several: pairs in both tracks, or one question asked with ever
more training images.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.compare import Pair, pairs
from bench.errors import UserError
from bench.pair_table import title_of
from bench.plots import COLOURS, MARKERS, SIZE, STYLE, lay_out, name_ends, save_figure
from bench.spec import slug
from bench.store import Store
from bench.tables import Comparison, compare

TRACK_COLOURS = {"": COLOURS[0], "shared": COLOURS[2], "family": COLOURS[1]}
ROW_INCHES, MOST_PAIRS = 0.42, 30


def save_all(stores: list[Store], folder: Path, by_device: bool = True) -> list[Path]:
    """Every figure across comparisons as PNG and SVG; returns what was written. Raises UserError as `compare` does."""
    written = []
    for stem, group in by_data(compare(stores, by_device=by_device)).items():
        written += save_figure(draw_data_efficiency(group), folder, f"{stem}-data_efficiency")
    try:
        made = pairs(stores)
    except UserError:  # no two models under equal conditions
        return written
    for stem, found in by_question(made).items():
        written += save_figure(draw_differences(found), folder, f"{stem}-differences")
    return written


def _stem(dataset: str, recipe: str, budget: str) -> str:
    return "-".join(slug(word) for word in (dataset, recipe, budget.replace(" epochs", "ep")))


# --- accuracy against the number of training images ----------------------------------------------------------------


def by_data(comparisons: list[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons that differ in nothing but the number of training images, two or more each, by a file's stem."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.rows:
            groups.setdefault(comparison.asks, []).append(comparison)
    found: dict[str, list[Comparison]] = {}
    for group in groups.values():
        if len({c.about["train_images"] for c in group}) > 1:
            about = group[0].about
            recipe = f"track {about['track']}" if about["track"] else about["recipe"]
            found[_free(_stem(about["dataset"], recipe, about["budget"]), found)] = group
    return found


def _free(stem: str, taken: Collection[str]) -> str:
    """The stem, with a number where it is taken: figures of two devices have the same one."""
    return next(name for n in range(1, 10_000) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)


def draw_data_efficiency(group: list[Comparison]) -> Figure:
    """Test accuracy and its interval against the number of training images, on a log axis; a line a model."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=150)
        axes = figure.add_subplot()
        models = sorted({row.model for comparison in group for row in comparison.rows})
        ends = []
        for model, shade in zip(models, COLOURS * len(models), strict=False):
            every = [(c.about["train_images"], r) for c in group for r in c.rows if r.model == model]
            found = sorted(every, key=lambda point: point[0])
            x, y = [n for n, _ in found], [100 * row.values["accuracy"].value for _, row in found]
            axes.plot(x, y, color=shade, marker=MARKERS[found[0][1].family], markersize=5, linewidth=1.4)
            for n, row in found:
                ends_of = row.values["accuracy"]
                if math.isfinite(ends_of.low):
                    axes.plot([n, n], [100 * ends_of.low, 100 * ends_of.high], color=shade, linewidth=1, alpha=0.6)
            ends.append((x[-1], y[-1], model, shade))
        axes.set_xscale("log")
        sizes = sorted({c.about["train_images"] for c in group})
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training images")
        axes.set_ylabel("test accuracy and 95 % interval, %")
        about = group[0].about
        runs = sorted({row.runs for c in group for row in c.rows})
        data = f"{about['dataset']} ({about['content']})" if about["content"] else about["dataset"]
        small = f"{data} · {about['recipe']}, {about['budget']} · {_seeds(runs)} · {about['device_name']}"
        figure.supxlabel("\n".join(textwrap.wrap(small, 110)), fontsize=6.5, color="0.35", parse_math=False)
        name_ends(axes, ends)
        lay_out(axes)
        return figure


def _seeds(numbers: Sequence[int]) -> str:
    shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{shown} seed{'s' * (numbers[-1] > 1)}"


# --- differences of accuracy -----------------------------------------------------------------------------------------


def by_question(made: list[Pair]) -> dict[str, list[Pair]]:
    """Pairs that differ in nothing but models and track, by a file's stem."""
    groups: dict[str, list[Pair]] = {}
    for pair in made:
        groups.setdefault(pair.conditions, []).append(pair)
    found: dict[str, list[Pair]] = {}
    for group in groups.values():
        about = group[0].about
        recipe = "tracks" if group[0].track else about["recipe"]
        found[_free(_stem(about["dataset"], recipe, about["budget"]), found)] = group
    return found


def draw_differences(made: list[Pair]) -> Figure:
    """A row a pair and track: the difference of accuracies with its two intervals, and the margin as a band."""
    shown = made[:MOST_PAIRS]
    names = list(dict.fromkeys((p.a.model, p.b.model) for p in shown))
    tracks = list(dict.fromkeys(p.track for p in shown))
    with matplotlib.rc_context(STYLE):
        height = 1.5 + ROW_INCHES * len(names) * max(1.0, 0.8 * len(tracks))
        figure = Figure(figsize=(SIZE[0], height), dpi=150)
        axes = figure.add_subplot()
        for pair in shown:
            row = len(names) - 1 - names.index((pair.a.model, pair.b.model))
            shift = (len(tracks) - 1) / 2 - tracks.index(pair.track)
            _draw_pair(axes, pair, row + 0.28 * shift)
        margin = 100 * shown[0].margin
        axes.axvspan(-margin, margin, color="0.85", zorder=0, linewidth=0)
        axes.axvline(0, color="0.5", linewidth=0.8, zorder=1)
        axes.set_yticks(range(len(names)), [f"{a} − {b}" for a, b in reversed(names)])
        for tick in axes.get_yticklabels():
            tick.set_parse_math(False)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference of test accuracy, points (right: the first is better)")
        for track in tracks:
            label = f"track {track}" if track else "one recipe for all"
            axes.plot([], [], color=TRACK_COLOURS[track], marker="o", linewidth=2.2, label=label)
        axes.plot([], [], color="0.4", linewidth=5, alpha=0.3, label="this test set")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        words = (
            f"{title_of(shown[0])} · 95 % intervals: line, on images like these; wide pale bar, on this test set; grey "
            f"band: ±{margin:g} points; filled: better or worse"
        )
        figure.supxlabel("\n".join(textwrap.wrap(words, 110)), fontsize=6.5, color="0.35", parse_math=False)
        lay_out(axes)
        return figure


def _draw_pair(axes: Axes, pair: Pair, height: float) -> None:
    shade = TRACK_COLOURS[pair.track]
    like, this = pair.like_these, pair.this_set
    if not math.isnan(this.low):
        axes.plot([100 * this.low, 100 * this.high], [height] * 2, color=shade, linewidth=6, alpha=0.25, zorder=2)
    axes.plot([100 * like.low, 100 * like.high], [height] * 2, color=shade, linewidth=1.6, zorder=3)
    filled = pair.words["verdict"] in ("better", "worse")
    face = shade if filled else "white"
    axes.plot([100 * like.value], [height], marker="o", markersize=5, color=shade, markerfacecolor=face, zorder=4)
