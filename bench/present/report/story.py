"""The verdict in two sentences, with the caveat that matters most. Example: headline(made, comparisons).sentences

Of all pairs the one is told that answers the project's question: what an SE-ResNet gives up or gains against a small
transformer under equal conditions. Words and figures are those of `compare`; every sentence is plain text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.analysis import references
from bench.analysis.compare import Pair, Side, turned
from bench.analysis.crossed import Difference
from bench.analysis.tables import Comparison, Row
from bench.analysis.verdicts import ACROSS_TRACKS, BETTER, DEPENDS, EQUIVALENT, NO_VERDICT, WORSE, points
from bench.core.stats import Interval
from bench.plan.budget import parse_budget
from bench.plan.recipes import TRACKS
from bench.present.session_table import significant
from bench.store.disk import REFERENCE

NAMES = {
    "digits": "scikit-learn's digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "fashion_mnist": "Fashion-MNIST",
    "tiny_imagenet": "Tiny ImageNet",
    "cinic10": "CINIC-10",
    "cinic10:train+valid": "CINIC-10 (trained on both its parts)",
}
TRANSFORMERS = ("vit", "hybrid")
WHERE = {"shared": "under one shared recipe", "family": "under each family's own", "": ""}  # by track
STATUS_WORDS = {
    "oom": "ran out of memory",
    "diverged": "diverged",
    "failed": "failed",
    "timeout": "took longer than allowed",
    "killed": "were killed",
    "interrupted": "were interrupted",
}
SCALES = ((1e18, "quintillion"), (1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"))
RISING = 0.02  # of accuracy in the last quarter: more than seeds differ by, so that it was not yet at its end
UNDER_TRAINED = 0.5  # of the fewest samples behind a figure of references.csv: below it, it is another question


@dataclass(frozen=True)
class Headline:
    """Two sentences and a caveat; what they are about; and a line for each other pair, track and data set."""

    sentences: tuple[str, str]
    caveat: str
    models: tuple[str, ...] = ()  # A and B, or the only one; none where nothing could be compared
    dataset: str = ""  # as records name it
    further: tuple[str, ...] = ()  # the other caveats, the weightiest first
    others: tuple[str, ...] = ()


def headline(made: Sequence[Pair], comparisons: Sequence[Comparison], reference: str = REFERENCE) -> Headline:
    """The story of these stores. `made` is of `compare.pairs`, empty where there are none."""
    made = [_oriented(pair, reference) for pair in made]
    if not made:
        return _without_pairs(comparisons, reference)
    told = chosen(made, reference)
    rest = [pair for pair in made if not any(pair is one for one in told)]
    first, *further = caveats(told, comparisons)
    return Headline(
        sentences=(_accuracy(told), _speed(told)),
        caveat=first,
        models=(told[0].a.model, told[0].b.model),
        dataset=str(told[0].about["dataset"]),
        further=tuple(further),
        others=tuple(_other_lines(rest, comparisons, made, reference)),
    )


def display_name(dataset: str) -> str:
    """`cifar10` -> "CIFAR-10"; one's own data keep the name they have."""
    return NAMES.get(dataset, dataset)


# --- which pair ------------------------------------------------------------------------------------------------------


def chosen(made: Sequence[Pair], reference: str = REFERENCE) -> list[Pair]:
    """The pair that answers the project's question, once for each track it was compared in. `made` must not be empty.

    An SE-ResNet against a transformer or hybrid, if there is one; then the reference, both tracks, the most test
    images, the most seeds, the closest match in FLOPs, the newest.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in made:
        groups.setdefault(pair.asks, []).append(pair)

    def rank(group: list[Pair]) -> tuple[float, ...]:
        pair = group[0]
        squeeze, against = _is_seresnet(pair.a, reference), _family(pair.b) in TRANSFORMERS
        return (
            2 * against + squeeze,
            against and _family(pair.a) == "cnn",
            pair.a.model == reference,
            len({one.track for one in group}),
            pair.like_these.images,
            min(pair.like_these.seeds_a, pair.like_these.seeds_b),
            -abs(math.log(pair.flops.value)) if pair.flops.n else -math.inf,
        )

    def newest(pair: Pair) -> str:
        return max(str(run["started"]) for side in (pair.a, pair.b) for run in side.runs)

    # of groups that rank equal the newest; of equally new ones the first
    group = max(groups.values(), key=lambda group: (rank(group), max(map(newest, group))))
    # two recipes of one's own may both have been tuned in track shared
    by_track = [[pair for pair in group if pair.track == track] for track in ("", *TRACKS)]
    return [max(pairs, key=newest) for pairs in by_track if pairs]


def _oriented(pair: Pair, reference: str) -> Pair:
    """The pair with the SE-ResNet as A, or else the one that is no transformer."""
    order = [(_is_seresnet(s, reference), s.model == reference, _family(s) == "cnn") for s in (pair.a, pair.b)]
    return turned(pair) if order[1] > order[0] else pair


def _is_seresnet(side: Side, reference: str) -> bool:
    return side.model == reference or (_family(side) == "cnn" and side.model.startswith("seresnet"))


def _family(side: Side) -> str:
    return str(side.runs[0]["family"])


# --- accuracy --------------------------------------------------------------------------------------------------------


def _accuracy(told: list[Pair]) -> str:
    """Sentence 1."""
    one, about = told[0], told[0].about
    start = f"On {_data(about)}, {_after(about)}, "
    if len(told) == 1:
        where = f" {WHERE[one.track]}{' recipe' * (one.track == 'family')}" if one.track else ""
        return f"{start}{_alone(one)}{where} {_brackets(one)}{_afterthought(one)}."
    return f"{start}{_across(told)}: {_by_track(told)}."


def _alone(pair: Pair) -> str:
    """What one track says, without its interval."""
    a, b, d, word = pair.a.model, pair.b.model, pair.like_these, pair.words["verdict"]
    if d.of_runs:
        were, theirs = ("were" if d.seeds_a > 1 else "was"), ("those" if d.seeds_b > 1 else "that")
        return f"{_runs(d)} of {a} {were} {_than(pair)} {theirs} of {b}"
    if word in (BETTER, WORSE):
        return f"{a} was {_than(pair)} {b}"
    if word == EQUIVALENT:
        return f"{a} and {b} were equally accurate within ±{points(pair.margin)}: {a} was {_than(pair)} {b}"
    if _excludes_zero(d):
        return f"{a} was {_than(pair)} {b}"
    return f"{a} and {b} could not be told apart: {a} was {_than(pair)} {b}"


def _afterthought(pair: Pair) -> str:
    """What keeps a difference from being a verdict, where the interval alone would look like one."""
    d = pair.like_these
    if d.of_runs:
        return f", which is said of these {'two ' * (d.seeds_a + d.seeds_b == 2)}runs alone"
    if pair.words["verdict"] == NO_VERDICT and _excludes_zero(d):
        return f", which among {pair.tests} pairs looked at together may be chance: no verdict"
    return ""


def _across(told: list[Pair]) -> str:
    """What both tracks say together."""
    shared, family = (pair.words["verdict"] for pair in told)
    a, b, margin = told[0].a.model, told[0].b.model, told[0].margin
    if all(pair.words["verdict"] == NO_VERDICT and not _excludes_zero(pair.like_these) for pair in told):
        return f"{a} and {b} could not be told apart"
    return {
        BETTER: f"{a} was more accurate than {b} under both kinds of recipe",
        WORSE: f"{a} was less accurate than {b} under both kinds of recipe",
        EQUIVALENT: f"{a} and {b} were equally accurate within ±{points(margin)} under both kinds of recipe",
        DEPENDS: f"whether {a} or {b} was more accurate depends on the recipe",
        NO_VERDICT: f"there is no verdict on {a} and {b} that holds under both kinds of recipe",
    }[ACROSS_TRACKS[shared, family]]


def _by_track(told: list[Pair]) -> str:
    """A's advantage in each track, with intervals; seeds and images once where they are equal."""
    numbers = [_numbers(pair.like_these) for pair in told]
    parts = []
    for index, pair in enumerate(told):
        said_later = numbers[index] in numbers[index + 1 :]
        who = f"{pair.a.model} was " if index == 0 else ""
        parts.append(f"{WHERE[pair.track]} {who}{_more(pair.like_these)} {_brackets(pair, not said_later, index == 0)}")
    return ", ".join(parts)


def _more(d: Difference) -> str:
    """ "2.1 points more accurate"."""
    if d.value == 0:
        return "exactly as accurate"
    return f"{_figure(abs(d.value), d)} points {'more' if d.value > 0 else 'less'} accurate"


def _than(pair: Pair) -> str:
    return f"{_more(pair.like_these)} {'than' if pair.like_these.value else 'as'}"


def _figure(share: float, d: Difference) -> str:
    """In points with one decimal, or two where the interval is narrow or a figure would read 0.0."""
    small = any(0 < abs(share) < 0.0005 for share in (d.value, d.low, d.high))
    return f"{100 * share:.{2 if small or math.isnan(d.low) or d.high - d.low < 0.02 else 1}f}"


def _signed(share: float, d: Difference) -> str:
    return ("−" if share < 0 else "+") + _figure(abs(share), d)


def _brackets(pair: Pair, with_numbers: bool = True, with_word: bool = True) -> str:
    """`(95 % interval −1.0 to +5.2; 3 seeds each, 10,000 test images)`; without signs where A's side is plain."""
    d = pair.like_these
    if math.isnan(d.low):
        interval = "no interval"
    elif _excludes_zero(d):
        interval = " to ".join(_figure(end, d) for end in sorted((abs(d.low), abs(d.high))))
    else:
        interval = f"{_signed(d.low, d)} to {_signed(d.high, d)}"
    if with_word and not math.isnan(d.low):
        interval = f"95 % interval {interval}" + " for other test images" * d.of_runs
    return f"({interval}; {_numbers(d)})" if with_numbers else f"({interval})"


def _numbers(d: Difference) -> str:
    return f"{_seeds(d)}, {d.images:,} test images"


def _seeds(d: Difference) -> str:
    if d.seeds_a == d.seeds_b:
        return "one seed each" if d.seeds_a == 1 else f"{d.seeds_a} seeds each"
    return f"{d.seeds_a} and {d.seeds_b} seeds"


def _runs(d: Difference) -> str:
    return "the one run" if d.seeds_a == 1 else f"{d.seeds_a} runs"


def _excludes_zero(d: Difference) -> bool:
    return d.low > 0 or d.high < 0


# --- where and how long ----------------------------------------------------------------------------------------------


def _data(about: dict[str, object]) -> str:
    content = f" ({about['content']})" if about["content"] else ""
    return display_name(str(about["dataset"])) + content


def _after(about: dict[str, object]) -> str:
    """`after 40 seconds of training a run on two threads of an AMD EPYC`."""
    return f"after {_budget(about)} on {_device(about)}"


def _budget(about: dict[str, object]) -> str:
    text, images = str(about["budget"]), f"{about['train_images']:,} training images"
    found = parse_budget(text)
    amount = round(found.amount)
    if found.kind == "epochs":
        return f"{amount:,} pass{'es' * (amount != 1)} over {images}"
    if found.kind == "samples":
        return f"training on {amount:,} images a run, drawn from {images}"
    if found.kind == "flops":
        scale, word = next(((n, w) for n, w in SCALES if found.amount >= n), SCALES[-1])
        return f"{found.amount / scale:.3g} {word} arithmetic operations of training a run"
    for unit, length in (("hour", 3600), ("minute", 60), ("second", 1)):
        if found.amount >= length and found.amount % length == 0:
            return f"{amount // length:,} {unit}{'s' * (amount != length)} of training a run"
    return f"{found.amount:g} seconds of training a run"


def _device(about: dict[str, object]) -> str:
    name = str(about["device_name"])
    article = "an" if name[:1].lower() in tuple("aeio") or name.startswith("NVIDIA") else "a"
    threads = about["threads"]
    if not isinstance(threads, int):
        return f"{article} {name}"
    count = {1: "one", 2: "two", 3: "three", 4: "four"}.get(threads, f"{threads:,}")
    return f"{count} thread{'s' * (threads != 1)} of {article} {name}"


# --- speed -----------------------------------------------------------------------------------------------------------


def _speed(told: list[Pair]) -> str:
    """Sentence 2: the ratio of training speeds, and what becomes of the claim that this project began with."""
    a, b = told[0].a.model, told[0].b.model
    claim = f"the claim “faster and at most {points(told[0].margin)} less accurate”"
    timed = [pair for pair in told if pair.speed.n]
    if not timed:
        return (
            f"{a} and {b} were never timed in turns, so that nothing is known of their speeds, and {claim} "
            f"{_claims(told)}."
        )
    parts = []
    for index, pair in enumerate(timed):
        begin = f"ran at {_times(pair.speed)} the speed of {b}" if index == 0 else f"at {_times(pair.speed)}"
        where = f" {WHERE[pair.track]}{' recipe' * (pair.track == 'family')}" if pair.track else ""
        parts.append(f"{begin}{where} {_speed_brackets(pair.speed, index == 0)}")
    return f"One training step of {a} {' and '.join(parts)}, so that {claim} {_claims(told)}."


def _times(ratio: Interval) -> str:
    return f"{_ratio_figure(ratio.value)} times"


def _ratio_figure(value: float) -> str:
    """Two decimals; three where they would read 1.00 of what is not 1, since that is where faster begins."""
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.3f}" if f"{value:.2f}" == "1.00" and value != 1 else f"{value:.2f}"


def _speed_brackets(ratio: Interval, first: bool) -> str:
    blocks = f"{ratio.n} block{'s' * (ratio.n > 1)}" + " in turns" * first
    if math.isnan(ratio.low):
        return f"({blocks})"
    word = "95 % interval " if first else ""
    return f"({word}{_ratio_figure(ratio.low)} to {_ratio_figure(ratio.high)}; {blocks})"


CLAIM_WORDS = {"holds": "holds", "does not hold": "does not hold", "open": "stays open"}


def _claims(told: list[Pair]) -> str:
    words = [CLAIM_WORDS[pair.words["claim"]] for pair in told]
    if len(words) == 1:
        # it is one question of its own, while better and worse are asked of all pairs at once
        alone = told[0].tests > 1 and words[0] == "holds" and told[0].words["verdict"] == NO_VERDICT
        return f"{words[0]} here{', by its own intervals and not corrected for the other pairs' * alone}"
    if len(set(words)) == 1:
        return f"{words[0]} under {'either' if 'not' in words[0] else 'both'}"
    by_track = {pair.track: word for pair, word in zip(told, words, strict=True)}
    return f"{by_track['shared']} under the shared recipe and {by_track['family']} under the families' own"


# --- caveats ---------------------------------------------------------------------------------------------------------


def caveats(told: Sequence[Pair], comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must keep in mind of these pairs, the weightiest first; never empty."""
    sides = [side for pair in told for side in (pair.a, pair.b)]
    runs = [run for side in sides for run in side.runs]
    found = []
    if any(pair.like_these.of_runs for pair in told):
        found.append("One seed tells nothing of the next: with another one the same models may come out otherwise.")
    found += _under_trained(told[0], sides)
    if content := told[0].about["content"]:
        found.append(f"The images are {content}, so that the figures are not to be held against published ones.")
    if any(run["environment"].get("dirty") for run in runs):
        found.append("The code had changes that no commit holds, so that nobody can run exactly the same again.")
    found += _still_rising(sides)
    found += _timing(runs, comparisons)
    if all(run["spec"]["device"] == "cpu" for run in runs):
        found.append(
            "All of it ran on a CPU: on a GPU the speeds stand in another ratio, and longer training is usual."
        )
    if edge := list(dict.fromkeys(side.model for side in sides if side.search_edge)):
        found.append(
            f"The learning rate found for {_and(edge)} was the last one tried on its side: a better one may lie beyond."
        )
    for side in sides:
        found += [f"Of {side.model} runs are left out: {'; '.join(side.left_out)}."] * bool(side.left_out)
    if len(told) == 1:
        found.append("One recipe is no neutral ground: under another one the same models may come out otherwise.")
    found.append("Another data set or a longer training may turn it round.")
    return list(dict.fromkeys(found))


def _under_trained(pair: Pair, sides: Iterable[Side]) -> list[str]:
    """Runs that fall short of published figures, or stop long before any publication would."""
    dataset = str(pair.about["dataset"])
    for side in sides:
        spec, seen = side.runs[0]["spec"], int(side.runs[0]["metrics"]["samples_seen"])
        held = references.held_against(
            side.model, dataset, seen, float(side.right.mean()), spec["data"]["train_fraction"]
        )
        if any(one.verdict == "under-trained" for one in held):
            return [f"Short of what was published: {references.sentence(held)}"]
    base = _published_name(dataset)
    published = [row.samples_seen for row in references.load() if row.dataset == base and row.samples_seen]
    most = max(int(run["metrics"]["samples_seen"]) for side in sides for run in side.runs)
    if not published or most >= UNDER_TRAINED * min(published):
        return []
    share = 100 * most / min(published)
    said = f"{share:.1g}" if share < 10 else f"{share:.0f}"
    return [
        f"No run was trained on more than {most:,} images, repeats counted: {said} % of the "
        f"{min(published) / 1e6:.3g} million behind the shortest training for {display_name(base)} in "
        "results/references.csv. This is the start of a training, and does not show what either model can reach."
    ]


def _still_rising(sides: Iterable[Side]) -> list[str]:
    """Models whose validation accuracy rose by more than RISING over the last quarter of their training."""
    rises: dict[str, float] = {}
    for side in sides:
        gained = []
        for run in side.runs:
            history, end = run["history"], run["history"][-1]
            before = [epoch for epoch in history if epoch["samples_seen"] <= 0.75 * end["samples_seen"]]
            if before:
                gained.append(end["val_accuracy"] - before[-1]["val_accuracy"])
        if gained and (rise := sum(gained) / len(gained)) > RISING:
            rises[side.model] = max(rise, rises.get(side.model, 0.0))
    if not rises:
        return []
    told = _and([f"{model} (by {100 * rise:.1f} points)" for model, rise in rises.items()])
    return [
        f"Over the last quarter of the training the validation accuracy of {told} still rose: a longer budget may turn "
        "the verdict round."
    ]


def _published_name(dataset: str) -> str:
    """The published data set that this one is, or by its name is a part of; else ""."""
    known = {row.dataset for row in references.load()}
    words = re.split(r"[^a-z0-9]+", dataset.lower())
    return next((name for name in sorted(known) if dataset == name or name in words), "")


def _timing(runs: Sequence[dict[str, object]], comparisons: Sequence[Comparison]) -> list[str]:
    """What the notes of these runs' tables say against their speed session."""
    ids, found = {run["run_id"] for run in runs}, []
    for comparison in comparisons:
        if not ids & {*comparison.run_ids}:
            continue
        for note in comparison.notes:
            if note.startswith("Speed session: "):
                found.append(f"The timing gave a warning: {note.removeprefix('Speed session: ')}")
            elif note.startswith("Speeds: ") and "ended by the time limit" in note:
                found.append(
                    "The timing was ended by its time limit, before the ratio was known as exactly as planned."
                )
    return found


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- the others ------------------------------------------------------------------------------------------------------


def _other_lines(
    rest: Sequence[Pair], comparisons: Sequence[Comparison], made: Sequence[Pair], reference: str
) -> list[str]:
    """A line each: pairs of the reference first, in the order they came; then what stands alone."""
    ordered = sorted(rest, key=lambda pair: reference not in (pair.a.model, pair.b.model))
    shown = {run["run_id"] for pair in made for side in (pair.a, pair.b) for run in side.runs}
    alone = [c for c in comparisons if c.rows and not shown & {*c.run_ids}]
    return [*map(_line, ordered), *(_lonely_line(c) for c in alone)]


def _line(pair: Pair) -> str:
    about, d = pair.about, pair.like_these
    track = f", track {pair.track}" if pair.track else ""
    word = pair.words["verdict"]
    interval = "" if math.isnan(d.low) else f" ({_signed(d.low, d)} to {_signed(d.high, d)})"
    speed = "not timed in turns"
    if pair.speed.n:
        ends = f"{_ratio_figure(pair.speed.low)} to {_ratio_figure(pair.speed.high)}"
        speed = f"{_times(pair.speed)} the speed" + ("" if math.isnan(pair.speed.low) else f" ({ends})")
    verdict = f"equivalent within ±{points(pair.margin)}" if word == EQUIVALENT else word
    return (
        f"{_data(about)}, {about['budget']}{track}: {pair.a.model} against {pair.b.model}: {verdict}; "
        f"{_signed(d.value, d)} points{interval}, {_seeds(d)}; {speed}"
    )


def _lonely_line(comparison: Comparison) -> str:
    about = comparison.about
    track = f", track {about['track']}" if about["track"] else ""
    return f"{_data(about)}, {about['budget']}{track}: {_and([_reached(row) for row in comparison.rows])}; no pair"


# --- without a pair --------------------------------------------------------------------------------------------------


def _without_pairs(comparisons: Sequence[Comparison], reference: str) -> Headline:
    """One model, nothing comparable, failures only, or nothing at all."""
    finished = [c for c in comparisons if c.rows]
    if not finished:
        return _nothing_finished(comparisons)
    first = max(finished, key=lambda c: (any(r.model == reference for r in c.rows), len(c.rows)))
    models = list(dict.fromkeys(row.model for c in finished for row in c.rows))
    start = f"On {_data(first.about)}, {_after(first.about)}, "
    figures = _and([_reached(row, " of the test images right") for row in first.rows])
    row = next((row for row in first.rows if row.model == reference), first.rows[0])
    if len(models) == 1:
        why = "nothing stands beside it yet: a comparison needs a second model under the same conditions."
    elif len(first.rows) > 1:
        why = "these figures cannot be compared: the runs' predictions are missing or damaged."
    else:
        why = "no two models were trained under equal conditions, so that nothing can be compared."
    return Headline(
        sentences=(f"{start}{figures}.", _own_speed(row)),
        caveat=why[0].upper() + why[1:],
        models=(row.model,),
        dataset=str(first.about["dataset"]),
        others=tuple(_lonely_line(c) for c in finished if c is not first),
    )


def _reached(row: Row, what: str = "") -> str:
    """`seresnet got 56.79 % (95 % interval 55.82 to 57.76; one seed)`."""
    value = row.values["accuracy"]
    interval = "" if math.isnan(value.low) else f"95 % interval {100 * value.low:.2f} to {100 * value.high:.2f}; "
    seeds = "one seed" if row.runs == 1 else f"{row.runs} seeds"
    return f"{row.model} got {100 * value.value:.2f} %{what} ({interval}{seeds})"


def _own_speed(row: Row) -> str:
    speed = row.values.get("train_images_per_second")
    if speed is None:
        return f"The speed of {row.model} was not measured."
    return (
        f"{row.model} trains on {significant(speed.value)} images a second (median of {speed.n} blocks; half of them "
        f"lay between {significant(speed.low)} and {significant(speed.high)})."
    )


def _nothing_finished(comparisons: Sequence[Comparison]) -> Headline:
    failed = [failure for comparison in comparisons for failure in comparison.failures]
    if not failed:
        return Headline(
            ("There is no finished run here yet.", "Nothing is known of accuracy or speed."),
            "A first comparison of two models: python run_bench.py --models seresnet,vit_flops",
        )
    counts = Counter(failure.status for failure in failed)
    words = _and([f"{count} {_how(status, count)}" for status, count in counts.most_common()])
    many = f"None of {len(failed)} runs" if len(failed) > 1 else "The only run"
    return Headline(
        (
            f"{many} {'finished' if len(failed) > 1 else 'did not finish'}: {words}.",
            "So nothing is known of accuracy or speed.",
        ),
        "The messages of the runs say what happened; the same command tries them again.",
    )


def _how(status: str, count: int) -> str:
    words = STATUS_WORDS.get(status, status)
    return words.replace("were ", "was ") if count == 1 else words
