"""Charts across comparisons: accuracy against data, differences of pairs. Example: data_efficiency(comparisons, common)

Here a chart is of several comparisons: one question asked with ever more training images, or pairs in both tracks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.analysis.compare import Pair
from bench.analysis.crossed import Difference
from bench.analysis.tables import Comparison, Row
from bench.analysis.verdicts import points
from bench.plan.spec import slug
from bench.present.charts.accuracy import facets_of
from bench.present.charts.model import Axis, Chart, Mark, Series, short
from bench.present.charts.parts import Common, caption, counted, free, listed, percent_with, spread, told
from bench.present.pair_table import title_of, verdict_words
from bench.store.disk import REFERENCE

TRACK_SHADES = {"": 0, "shared": 2, "family": 1}  # of COLOURS
MOST_PAIRS = 30
SIDE_LENGTH = 20  # characters of each name of a pair


def stem_of(dataset: str, recipe: str, budget: str) -> str:
    """How the names of files begin that are of these conditions."""
    return "-".join(slug(word) for word in (dataset, recipe, budget.replace(" epochs", "ep")))


# --- accuracy against the number of training images ------------------------------------------------------------------


def data_efficiency(comparisons: Sequence[Comparison], common: Common) -> list[Chart]:
    """Test accuracy against the number of training images, for every question that was asked with several."""
    made, taken = list[Chart](), set[str]()
    for group in by_data(comparisons):
        about = group[0].about
        recipe = f"track {about['track']}" if about["track"] else about["recipe"]
        prefix = free(stem_of(about["dataset"], recipe, about["budget"]), taken)
        taken.add(prefix)
        made.append(_data_efficiency(group, common, f"{prefix}-data_efficiency"))
    return made


def by_data(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons that differ in nothing but the number of training images, two numbers or more each."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.rows:
            groups.setdefault(comparison.asks, []).append(comparison)
    return [group for group in groups.values() if len({c.about["train_images"] for c in group}) > 1]


def _data_efficiency(group: Sequence[Comparison], common: Common, stem: str) -> Chart:
    about = group[0].about
    models = sorted({row.model for comparison in group for row in comparison.rows})
    rows = [row for comparison in group for row in comparison.rows]
    sizes = sorted({float(c.about["train_images"]) for c in group})
    data = f"{about['dataset']} ({about['content']})" if about["content"] else about["dataset"]
    track = f"track {about['track']}, " if about["track"] else ""
    threads = f", {about['threads']} threads" if about["threads"] else ""
    subject = (
        f"{data} with {sizes[0]:,.0f} to {sizes[-1]:,.0f} training images · {track}recipe {about['recipe']}, "
        f"{about['budget']}, batch {about['batch_size']}, {about['precision']} · {about['device_name']}{threads}, "
        f"torch {about['torch']}"
    )
    ends = []
    if any(row.runs > 1 for row in rows):
        ends.append("a 95 % t-interval over seeds on this test set")
    if any(row.runs == 1 for row in rows):
        ends.append("of single runs Wilson's 95 % interval for other test images")
    return Chart(
        key="data_efficiency",
        stem=stem,
        title="Accuracy against training images",
        x=Axis("training images", log=True, ticks=tuple(sizes)),
        y=Axis("test accuracy and 95 % interval, %"),
        series=tuple(Series(model, "line", _by_size(model, group, common)) for model in models),
        caption=caption(
            f"Test accuracy of {counted(len(models), 'model')} trained on more and more images, "
            f"{spread([row.runs for row in rows], 'run')} each; the ends are {listed(ends)}.",
            common.whole(models),
            f"{subject}.",
        ),
        looks=common.of(models),
        subject=subject,
        facets=facets_of(about),
        command=common.command,
    )


def _by_size(model: str, group: Sequence[Comparison], common: Common) -> tuple[Mark, ...]:
    found = sorted(
        ((c.about["train_images"], row) for c in group for row in c.rows if row.model == model), key=lambda one: one[0]
    )
    last = len(found) - 1
    return tuple(_at_size(size, row, common.names[model] if i == last else "") for i, (size, row) in enumerate(found))


def _at_size(size: int, row: Row, label: str) -> Mark:
    accuracy = row.values["accuracy"]
    what = "other seeds" if row.runs > 1 else "other test images"
    return Mark(
        float(size),
        100 * accuracy.value,
        y_low=100 * accuracy.low,
        y_high=100 * accuracy.high,
        label=label,
        hover=(told(row.model), f"{size:,} training images", counted(row.runs, "run"), percent_with(accuracy, what)),
    )


# --- differences of accuracy -----------------------------------------------------------------------------------------


def differences(made: Sequence[Pair], common: Common, reference: str = REFERENCE) -> list[Chart]:
    """A row a pair, a mark a track: the difference of accuracies with both intervals; a chart for each question."""
    charts, taken = list[Chart](), set[str]()
    for group in by_question(made):
        about = group[0].about
        recipe = "tracks" if group[0].track else about["recipe"]
        prefix = free(stem_of(about["dataset"], recipe, about["budget"]), taken)
        taken.add(prefix)
        charts.append(_differences(group, common, f"{prefix}-differences", reference))
    return charts


def by_question(made: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs that differ in nothing but models and track."""
    groups: dict[str, list[Pair]] = {}
    for pair in made:
        groups.setdefault(pair.conditions, []).append(pair)
    return list(groups.values())


def _differences(group: Sequence[Pair], common: Common, stem: str, reference: str) -> Chart:
    every = list(dict.fromkeys((pair.a.model, pair.b.model) for pair in group))
    names = sorted(every, key=lambda names: reference not in names)[:MOST_PAIRS]
    shown = [pair for pair in group if (pair.a.model, pair.b.model) in names]
    tracks = list(dict.fromkeys(pair.track for pair in shown))
    models = sorted({model for both in names for model in both})
    about = group[0].about
    facets = facets_of({**about, "track": tracks[0] if len(tracks) == 1 else ""})
    if len(tracks) > 1:
        facets.pop("recipe")  # of one of them
    margin = 100 * shown[0].margin
    return Chart(
        key="differences",
        stem=stem,
        title="Differences of test accuracy",
        x=Axis("difference of test accuracy, points (right: the first is better)"),
        y=Axis("", names=tuple(f"{short(a, SIDE_LENGTH)} − {short(b, SIDE_LENGTH)}" for a, b in names)),
        series=tuple(
            series for track in tracks for series in _of_track(shown, names, track, tracks, track == tracks[0])
        ),
        caption=_of_differences(shown, len(every) - len(names), models, group[0]),
        looks=common.of(models),
        subject=title_of(group[0]),
        facets=facets,
        command=common.command,
        band=(-margin, margin),
    )


def _of_track(
    shown: Sequence[Pair], names: Sequence[tuple[str, str]], track: str, tracks: Sequence[str], first: bool
) -> list[Series]:
    """The pale ranges of one track and the marks upon them, a little above or below where there are two tracks."""
    shift = 0.28 * (tracks.index(track) - (len(tracks) - 1) / 2)
    mine = [(pair, names.index((pair.a.model, pair.b.model)) + shift) for pair in shown if pair.track == track]
    ranges = [_range(pair, y) for pair, y in mine if not math.isnan(pair.this_set.low)]
    name, shade = f"track {track}" if track else "one recipe for all", TRACK_SHADES[track]
    series = [Series("", "points", tuple(_difference(pair, y) for pair, y in mine), name=name, shade=shade)]
    if ranges:
        series.insert(0, Series("", "ranges", tuple(ranges), name="this test set" if first else "", shade=shade))
    return series


def _range(pair: Pair, y: float) -> Mark:
    this = pair.this_set
    return Mark(100 * this.value, y, x_low=100 * this.low, x_high=100 * this.high, hover=_of_pair(pair))


def _difference(pair: Pair, y: float) -> Mark:
    like = pair.like_these
    return Mark(
        100 * like.value,
        y,
        x_low=100 * like.low,
        x_high=100 * like.high,
        hover=_of_pair(pair),
        open=pair.words["verdict"] not in ("better", "worse"),
    )


def _of_pair(pair: Pair) -> tuple[str, ...]:
    """A pair's verdict and its two intervals."""
    like, this = pair.like_these, pair.this_set
    word = verdict_words(pair, pair.words["verdict"])
    what = "these two runs, other images" if like.of_runs else "images like these"
    lines = [
        f"{told(pair.a.model)} − {told(pair.b.model)}",
        f"{f'track {pair.track}: ' if pair.track else ''}{word}",
        f"{_in_points(like)}, {what}",
    ]
    if not math.isnan(this.low):
        lines.append(f"{_in_points(this)}, this test set")
    return (*lines, f"{like.seeds_a} and {like.seeds_b} seeds, {like.images:,} images")


def _in_points(difference: Difference) -> str:
    ends = f" ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})" if math.isfinite(difference.low) else ""
    return f"{100 * difference.value:+.2f} points{ends}"


def _of_differences(shown: Sequence[Pair], left_out: int, models: Sequence[str], first: Pair) -> str:
    seeds = [n for pair in shown for n in (pair.like_these.seeds_a, pair.like_these.seeds_b)]
    cut = [f"{short(model, SIDE_LENGTH)} is {model}" for model in models if short(model, SIDE_LENGTH) != model]
    return caption(
        f"Accuracy of the first model minus that of the second, {spread(seeds, 'seed')} each. Line: the 95 % interval "
        "for other seeds and other images like these; wide pale bar: for other seeds on this test set. Filled: better "
        f"or worse, by Holm's p among {spread([pair.tests for pair in shown], 'pair')} and the whole interval; hollow: "
        f"equivalent or no verdict. Grey band: the ±{points(first.margin)} that make no difference.",
        "With one seed on a side the interval is of these two runs on other images, and gives no verdict."
        if any(pair.like_these.of_runs for pair in shown)
        else "",
        f"{counted(left_out, 'more pair')} left out: `run_bench.py compare` prints them." if left_out else "",
        f"Names in full: {'; '.join(cut)}." if cut else "",
        f"{title_of(first)}.",
    )
