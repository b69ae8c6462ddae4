"""What `--live` shows, drawn from what is known. Example: lines = draw(state, width=80, height=24, now=clock())

The state of a sweep as its display hears of it, the time left, sparklines, and the screen as lines of text. Nothing
here reads a clock, a sensor or a terminal: all of them are arguments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bench.core.files import inert
from bench.present.screen.progress import Job, duration

BLOCKS = "▁▂▃▄▅▆▇█"
WIDE = 120  # columns from which a run needs one line, else two
LOG_LINES = 100  # kept for the pane; all of them are printed at the end
AFTERWARDS = "the timing in turns, tables, plots"  # of which the time left knows nothing
MOST_FAILED = 3  # shown, the latest


@dataclass(eq=False)
class Running:
    """A run as far as it has told; `begun` and `first` (a moment and its step) by the display's clock, in seconds."""

    name: str
    title: str
    batch_size: int
    begun: float
    steps: int = 0
    epochs: float = 0.0
    step: int = 0
    first: tuple[float, int] | None = None
    latest: float = 0.0
    continued: bool = False
    loss: float | None = None
    curve: list[float] = field(default_factory=list)  # validation accuracy, 0 to 1

    def hear(self, event: dict[str, Any], now: float) -> None:
        """What its process reports; notes are for the log."""
        kind = event["event"]
        if kind == "planned":
            self.steps, self.epochs = event["steps"], event["epochs"]
        elif kind == "continued":
            self.continued, self.step = True, event["step"]
        elif kind == "step":
            self.step, self.latest = event["step"], now
            self.first = self.first or (now, self.step)
        elif kind == "epoch":
            self.loss = event["train_loss"]
            self.curve.append(event["val_accuracy"])

    def seconds_a_step(self, until: float) -> float | None:
        """Of its own, between its first report and `until`, validation included; None before the second report."""
        if self.first is None or self.step <= self.first[1]:
            return None
        return (until - self.first[0]) / (self.step - self.first[1])

    def left(self, now: float) -> float | None:
        """Seconds, at its own pace so far; None before there is one."""
        pace = self.seconds_a_step(now)
        return None if pace is None else pace * (self.steps - self.step)

    def whole(self, now: float) -> float | None:
        """Seconds from its beginning to its end, at its own pace; None before there is one, or where half is older."""
        left = self.left(now)
        return None if left is None or self.continued else now - self.begun + left


@dataclass(frozen=True)
class Ended:
    """A run that is over; `seconds` from its beginning to its end, None where that is no whole run."""

    name: str
    title: str
    well: bool
    text: str
    curve: tuple[float, ...] = ()
    seconds: float | None = None


@dataclass
class Session:
    """A speed session, or a search for a setting, as far as it has told."""

    title: str
    block: int = 0
    blocks: int = 0
    text: str = "building and warming up"
    model: str = ""

    def hear(self, event: dict[str, Any]) -> None:
        """What its process reports."""
        self.block, self.blocks = event.get("block", self.block), event.get("blocks", self.blocks)
        self.model = event.get("model", self.model)
        self.text = event.get("text", "" if self.block else self.text)


@dataclass
class State:
    """Everything that a display knows; `begun` by its clock."""

    begun: float
    about: str = ""
    jobs: tuple[Job, ...] = ()
    at_once: int = 1
    running: list[Running] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    session: Session | None = None
    transfers: dict[str, tuple[int, int]] = field(default_factory=dict)  # done, of
    log: deque[str] = field(default_factory=lambda: deque[str](maxlen=LOG_LINES))
    machine: str = ""

    def coming(self) -> list[Job]:
        """What has neither ended nor runs, in its order."""
        gone = {run.name for run in self.running} | {run.name for run in self.ended}
        return [job for job in self.jobs if job.name not in gone]


# --- time left -----------------------------------------------------------------------------------------------------


def run_seconds(state: State, now: float) -> dict[str, float]:
    """By group the seconds of a whole run: the mean of those that ended well here, else of those that run now.

    Else what an earlier run of the same work took to train. Models differ in speed, so one says nothing of another.
    """
    groups = {job.name: job.group for job in state.jobs}
    known = {job.group: job.seconds for job in state.jobs if job.seconds is not None}
    for measured in (
        [(run.name, run.whole(now)) for run in state.running],
        [(run.name, run.seconds) for run in state.ended if run.well],
    ):
        series: dict[str, list[float]] = {}
        for name, seconds in measured:
            if name in groups and seconds is not None:
                series.setdefault(groups[name], []).append(seconds)
        known |= {group: fmean(values) for group, values in series.items()}
    return known


def time_left(state: State, now: float) -> tuple[float, int]:
    """(seconds until the runs of known length are done, how many runs of unknown length are not in them).

    What runs goes on at its own pace, what comes takes run_seconds. Several at once share the work evenly, and none
    ends before the longest of what runs: the order of the rest is left open. Timing and tables are not counted.
    """
    known, groups = run_seconds(state, now), {job.name: job.group for job in state.jobs}
    lefts: list[float | None] = []
    for run in state.running:
        whole = known.get(groups.get(run.name, ""))
        by_others = None if whole is None else max(0.0, whole - (now - run.begun))
        own = run.left(now)
        lefts.append(by_others if own is None else own)
    longest = max((left for left in lefts if left is not None), default=0.0)
    lefts += [known.get(job.group) for job in state.coming()]
    counted = [left for left in lefts if left is not None]
    return max(longest, sum(counted) / state.at_once), len(lefts) - len(counted)


def time_words(state: State, now: float) -> str:
    """How long it has taken, and what is left of the runs."""
    so_far = f"{duration(now - state.begun)} so far"
    if not (state.running or state.coming()):
        return so_far
    seconds, unknown = time_left(state, now)
    if unknown and not seconds:
        return f"{so_far}, time left not known yet"
    rest = f" + {unknown} run{'s' * (unknown > 1)} not known yet" if unknown else ""
    return f"{so_far}, ~{duration(seconds)} left{rest}"


# --- sparklines ----------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float], low: float, high: float, width: int) -> str:
    """A block a value: ▁ from `low` on, █ up to `high`, eight equal steps; where low is high, ▄.

    More values than `width` are thinned out: each block is a value that was measured, the last of its share.
    """
    if len(values) > width:
        values = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    if high <= low:
        return "▄" * len(values)
    return "".join(BLOCKS[min(7, max(0, math.floor(8 * (v - low) / (high - low))))] for v in values)


def scale_of(state: State) -> tuple[float, float]:
    """The lowest and the highest validation accuracy of all curves: one scale for all, so that they can be compared."""
    curves = [*(run.curve for run in state.running), *(run.curve for run in state.ended)]
    every = [value for curve in curves for value in curve]
    return min(every, default=0.0), max(every, default=0.0)


# --- the screen ----------------------------------------------------------------------------------------------------


def cut(text: str, width: int) -> str:
    """A text from anywhere on at most `width` columns, unable to do anything to a terminal."""
    return clip(inert(text), width)


def clip(text: str, width: int) -> str:
    """A text of our own on at most `width` columns."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1)).rstrip()}…"[: max(0, width)]


def label(title: str, width: int) -> str:
    """A run's title on exactly `width` columns: of `a_long_name, seed 0` the name is cut, not the seed."""
    name, comma, rest = inert(title).rpartition(", ")
    tail = f"{comma}{rest}"
    if not comma or cell_len(tail) > width // 2:
        return set_cell_size(cut(title, width), width)
    return set_cell_size(cut(name, width - cell_len(tail)) + tail, width)


def bar(done: float, of: float, width: int) -> Text:
    """A bar with its per cent."""
    share = min(1.0, done / of) if of else 0.0
    full = int(share * width)
    percent = f" {100 * share:3.0f} %" if of else "   – %"
    return Text.assemble(("━" * full, "green"), ("─" * (width - full), "dim"), percent)


def row(*cells: str | Text, style: str = "") -> Text:
    """Cells, two columns apart."""
    return Text("  ").join(cell if isinstance(cell, Text) else Text(cell, style) for cell in cells if len(cell))


def share_out(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for each part: one in turn until all have what they want, or no room is left."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for i, most in enumerate(wanted):
            if room > 0 and given[i] < most:
                given[i], room = given[i] + 1, room - 1
    return given


def running_lines(run: Running, width: int, scale: tuple[float, float]) -> list[Text]:
    """A run on one line, or on two where the screen is narrow."""
    speed = run.seconds_a_step(run.latest)
    passes = max(0, run.step - 1) * run.epochs / run.steps if run.steps else 0.0
    facts = [
        f"epoch {1 + int(passes)}/{math.ceil(run.epochs)}" if run.step else "starting",
        f"{run.batch_size / speed:,.0f} images/s" if speed else "",
        f"loss {run.loss:.3f}" if run.loss is not None else "",
        f"validation {100 * run.curve[-1]:.1f} %" if run.curve else "",
    ]
    if width >= WIDE:
        spark = sparkline(run.curve, *scale, min(24, width - 112))
        wide = [set_cell_size(fact, size) for fact, size in zip(facts, (12, 16, 10, 17), strict=True)]
        return [row(label(run.title, 30), bar(run.step, run.steps, 10), *wide, Text(spark, "cyan"))]
    room = width - 2 - 8 - 6 - 2  # of what the bar leaves
    spark = sparkline(run.curve, *scale, room * 2 // 5)
    first = row(label(run.title, room - room * 2 // 5 - 2), bar(run.step, run.steps, 8), Text(spark, "cyan"))
    return [first, Text(clip("  " + "  ".join(filter(None, facts)), width))]


def ended_line(run: Ended, width: int, scale: tuple[float, float], longest: int) -> Text:
    """A run that is over: its curve, as wide as the longest of all, and what it found; or why it failed."""
    room = min(32, width // 3)
    name = label(run.title, room)
    if not run.well:
        return Text.assemble(("✗ ", "red"), name, "  ", cut(run.text, width - room - 4))
    size = min(24, width // 5, longest)
    spark = set_cell_size(sparkline(run.curve, *scale, size), size)
    found = cut(run.text, width - room - size - 6)
    return Text.assemble(("✓ ", "green"), name, "  ", (spark, "cyan"), "  ", found)


def session_lines(session: Session, width: int) -> list[Text]:
    """What is timed, which block, whose turn it is."""
    blocks = f"block {session.block} of {session.blocks}" if session.blocks else ""
    turn = f"now {session.model}" if session.model else ""
    about = ", ".join(filter(None, (blocks, turn, session.text)))
    return [
        *(Text(part) for part in folded(session.title, width, 3)),
        row("", bar(session.block, session.blocks, 12), cut(about, width - 22)),
    ]


def folded(text: str, width: int, most: int) -> list[str]:
    """A text on at most so many lines, broken at spaces where there are any."""
    lines, rest = list[str](), inert(text)
    while rest and len(lines) < most - 1 and cell_len(rest) > width:
        piece = set_cell_size(rest, width)
        end = piece.rfind(" ") + 1 or len(piece)
        lines.append(rest[:end].rstrip())
        rest = rest[end:]
    return [*lines, cut(rest, width)]


def some(items: Sequence[list[Text]], rows: int, last: bool = False) -> list[Text]:
    """As many whole items as fit, the first or the last ones; where some are left out, one line says how many.

    Where not even one and that line fit, what fits of one.
    """
    if sum(map(len, items)) <= rows:
        return [line for item in items for line in item]
    one = items[-1 if last else 0]
    if len(one) + 1 > rows:
        return one[:rows]
    kept: list[list[Text]] = []
    for item in reversed(items) if last else items:
        if sum(map(len, kept)) + len(item) > rows - 1:
            break
        kept.append(item)
    more = [Text(f"  and {len(items) - len(kept)} {'earlier' if last else 'more'}", "dim")]
    shown = [line for item in (reversed(kept) if last else kept) for line in item]
    return [*more, *shown] if last else [*shown, *more]


@dataclass(frozen=True)
class Part:
    """A part of the screen: its title, how many lines it would like, and what it shows on fewer."""

    title: str
    wanted: int
    lines: Callable[[int], list[Text]]


def head(state: State, width: int, now: float) -> list[Text]:
    """What is compared, how many runs are done, how long it takes, what the machine says."""
    failed = sum(not run.well for run in state.ended)
    planned = {job.name for job in state.jobs}
    done = sum(run.name in planned for run in state.ended)
    counts = [
        f"{done - failed} of {len(planned)} done",
        f"{failed} failed" if failed else "",
        f"{len(state.running)} now" if state.running else "",
        f"{len(state.coming())} to come" if state.coming() else "",
    ]
    runs = ", ".join(filter(None, counts)) if planned else "not planned yet"
    rows = {"runs": runs, "time": time_words(state, now), "machine": state.machine}
    facts = [Text.assemble((f"{name:<8}", "dim"), cut(words, width - 8)) for name, words in rows.items()]
    return [Text(cut(state.about or "getting ready", width), "bold"), *facts]


def parts_of(state: State, width: int, clock: float) -> list[Part]:
    """The parts that have something to show, the most important first when room is shared out."""
    scale = scale_of(state)
    now = [running_lines(run, width, scale) for run in state.running]
    now += [session_lines(state.session, width)] if state.session else []
    now += [
        [row(label(what, width // 3), bar(done, of, 12), cut(f"{done:,} of {of:,}", width // 3))]
        for what, (done, of) in state.transfers.items()
    ]
    lengths = run_seconds(state, clock)
    coming = [
        [
            row(
                label(job.title, min(44, width * 2 // 3)),
                f"~{duration(lengths[job.group])}" if job.group in lengths else "",
            )
        ]
        for job in state.coming()
    ]
    longest = max((len(run.curve) for run in state.ended), default=0)
    failed = [[ended_line(run, width, scale, longest)] for run in state.ended if not run.well]
    well = [[ended_line(run, width, scale, longest)] for run in state.ended if run.well]
    log = [[Text(cut(text, width), "dim")] for text in state.log]
    curves = f" · validation accuracy ▁ {100 * scale[0]:.1f} to █ {100 * scale[1]:.1f} %" if scale[1] else ""
    after = f"next ({len(coming)}) · then {AFTERWARDS}"
    if state.running and not coming:
        after, coming = "next", [[Text(AFTERWARDS)]]

    def part(title: str, items: list[list[Text]], most: int, last: bool = False) -> Part:
        wanted = min(most, sum(map(len, items)))
        return Part(title, wanted, lambda rows: some(items, rows, last))

    parts = [
        part(f"now{curves if state.running else ''}", now, 200),
        part(after, coming, 4),
        part(f"failed ({len(failed)})", failed, MOST_FAILED, last=True),
        part(f"done ({len(well)}){'' if state.running else curves}", well, 200, last=True),
        Part("log", min(8, len(log)), lambda rows: [line for item in log[-rows:] for line in item]),
    ]
    return [part for part in parts if part.wanted]


def draw(state: State, width: int, height: int, now: float) -> list[Text]:
    """The screen: at most `height` lines, none wider than `width` columns."""
    top, parts = head(state, width, now), parts_of(state, width, now)
    while parts and len(top) + 2 * len(parts) > height:  # a title and a line each, or not at all
        parts.pop()
    given = share_out([part.wanted for part in parts], height - len(top) - len(parts))
    lines = list(top)
    for part, rows in zip(parts, given, strict=True):
        title = clip(f"── {part.title} ", width - 1)
        lines += [Text(title + "─" * (width - cell_len(title)), "dim"), *part.lines(rows)]
    for line in lines:
        line.truncate(width)
    return lines[:height]
