"""The screen of `--live` as lines of text. Example: lines = draw(state, width=80, height=24, now=0.0)

The state of a sweep, the time left, sparklines, and the screen. Nothing here reads a clock, a sensor or a terminal:
all of them are arguments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bench.core.display import Job, block_words, turn_words
from bench.core.events import (
    BlockDone,
    CandidateStarted,
    CandidateTurn,
    Continued,
    EpochDone,
    Event,
    ModelTurn,
    Planned,
    Stage,
    StepDone,
    TaskStarted,
)
from bench.core.files import inert
from bench.core.text import duration, plural

BLOCKS = "▁▂▃▄▅▆▇█"
WIDE = 120  # columns from which a run needs one line, else two
LOG_LINES = 100  # kept for the pane; all of them are printed at the end
AFTERWARDS = "timing, tables, plots"  # not in the time left
MOST_FAILED = 3  # shown, the latest


@dataclass(eq=False)
class Running:
    """A run in progress; `started` and `first` (a moment and its step) by the display's clock, in seconds."""

    name: str
    title: str
    batch_size: int
    started: float
    steps: int = 0
    epochs: float = 0.0
    step: int = 0
    first: tuple[float, int] | None = None
    latest: float = 0.0
    resumed: bool = False
    loss: float | None = None
    curve: list[float] = field(default_factory=list)  # validation accuracy, 0 to 1

    def on_event(self, event: Event, now: float) -> None:
        """Take in what its process reports; notes go to the log."""
        match event:
            case Planned(steps=steps, epochs=epochs):
                self.steps, self.epochs = steps, epochs
            case Continued(step=step):
                self.resumed, self.step = True, step
            case StepDone(step=step):
                self.step, self.latest = step, now
                self.first = self.first or (now, step)
            case EpochDone(row=row):
                self.loss = row.train_loss
                self.curve.append(row.val_accuracy)

    def seconds_per_step(self, until: float) -> float | None:
        """Its pace from its first report to `until`, validation included; None before the second report."""
        if self.first is None or self.step <= self.first[1]:
            return None
        return (until - self.first[0]) / (self.step - self.first[1])

    def seconds_left(self, now: float) -> float | None:
        """Seconds left at its own pace; None before there is one."""
        pace = self.seconds_per_step(now)
        return None if pace is None else pace * (self.steps - self.step)

    def seconds_in_all(self, now: float) -> float | None:
        """Seconds from start to end at its own pace; None before there is one, and for a resumed run."""
        left = self.seconds_left(now)
        return None if left is None or self.resumed else now - self.started + left


@dataclass(frozen=True)
class Ended:
    """A run that has ended; `seconds` from start to end, None where it was resumed or never trained."""

    name: str
    title: str
    well: bool
    text: str
    curve: tuple[float, ...] = ()
    seconds: float | None = None


@dataclass
class Session:
    """A speed session or a setting search in progress."""

    title: str
    block: int = 0  # of all process starts, as the bar shows them
    blocks: int = 0
    progress: str = ""
    text: str = "building and warming up"
    turn: str = ""

    def on_event(self, event: Event) -> None:
        """Take in what its process reports."""
        match event:
            case BlockDone(block=block, blocks=blocks, start=start, starts=starts):
                self.block, self.blocks, self.text = (start - 1) * blocks + block, starts * blocks, ""
                self.progress = block_words(event)
            case ModelTurn():
                self.turn = turn_words(event)
                self.text = "" if self.block else self.text
            case TaskStarted(model=model):
                self.turn = f"now {model}"
            case Stage(text=text) | CandidateStarted(text=text) | CandidateTurn(text=text):
                self.text = text


@dataclass
class State:
    """Everything that a display knows; `started` by its clock."""

    started: float
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
        """Jobs that neither run nor have ended, in their order."""
        gone = {run.name for run in self.running} | {run.name for run in self.ended}
        return [job for job in self.jobs if job.name not in gone]


# --- time left -----------------------------------------------------------------------------------------------------


def run_seconds(state: State, now: float) -> dict[str, float]:
    """Seconds of a whole run by group: the mean of those that ended well, else of those that run now.

    Else the training time of an earlier run of the same work. Models differ in speed: one says nothing about another.
    """
    groups = {job.name: job.group for job in state.jobs}
    known = {job.group: job.seconds for job in state.jobs if job.seconds is not None}
    for measured in (
        [(run.name, run.seconds_in_all(now)) for run in state.running],
        [(run.name, run.seconds) for run in state.ended if run.well],
    ):
        series: dict[str, list[float]] = {}
        for name, seconds in measured:
            if name in groups and seconds is not None:
                series.setdefault(groups[name], []).append(seconds)
        known |= {group: fmean(values) for group, values in series.items()}
    return known


def time_left(state: State, now: float) -> tuple[float, int]:
    """(seconds until the runs with an estimate are done, number of runs without one).

    A running one continues at its own pace, a coming one takes run_seconds. Runs at once share the work evenly, and
    none ends before the longest running one: the order of the rest is open. Timing and tables are not counted.
    """
    known, groups = run_seconds(state, now), {job.name: job.group for job in state.jobs}
    estimates: list[float | None] = []
    for run in state.running:
        whole = known.get(groups.get(run.name, ""))
        by_others = None if whole is None else max(0.0, whole - (now - run.started))
        own = run.seconds_left(now)
        estimates.append(by_others if own is None else own)
    longest = max((seconds for seconds in estimates if seconds is not None), default=0.0)
    estimates += [known.get(job.group) for job in state.coming()]
    counted = [seconds for seconds in estimates if seconds is not None]
    return max(longest, sum(counted) / state.at_once), len(estimates) - len(counted)


def time_text(state: State, now: float) -> str:
    """How long it has taken, and what is left of the runs."""
    so_far = f"{duration(now - state.started)} so far"
    if not (state.running or state.coming()):
        return so_far
    seconds, unknown = time_left(state, now)
    if unknown and not seconds:
        return f"{so_far}, no estimate yet"
    rest = f" + {plural(unknown, 'run')} without an estimate" if unknown else ""
    return f"{so_far}, ~{duration(seconds)} left{rest}"


# --- sparklines ----------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float], low: float, high: float, width: int) -> str:
    """One block per value, from ▁ at `low` to █ at `high` in eight equal steps; ▄ where low is high.

    More values than `width` are thinned out: each block is a measured value, the last of its share.
    """
    if len(values) > width:
        values = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    if high <= low:
        return "▄" * len(values)
    return "".join(BLOCKS[min(7, max(0, math.floor(8 * (v - low) / (high - low))))] for v in values)


def scale_of(state: State) -> tuple[float, float]:
    """The lowest and highest validation accuracy of all curves: one scale, so that they can be compared."""
    curves = [*(run.curve for run in state.running), *(run.curve for run in state.ended)]
    values = [value for curve in curves for value in curve]
    return min(values, default=0.0), max(values, default=0.0)


# --- the screen ----------------------------------------------------------------------------------------------------


def cut(text: str, width: int) -> str:
    """Text from elsewhere on at most `width` columns, harmless to a terminal."""
    return clip(inert(text), width)


def clip(text: str, width: int) -> str:
    """Our own text on at most `width` columns."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1)).rstrip()}…"[: max(0, width)]


def label(title: str, width: int) -> str:
    """A run's title on exactly `width` columns: `a_long_name, seed 0` loses part of its name, not its seed."""
    name, comma, rest = inert(title).rpartition(", ")
    tail = f"{comma}{rest}"
    if not comma or cell_len(tail) > width // 2:
        return set_cell_size(cut(title, width), width)
    return set_cell_size(cut(name, width - cell_len(tail)) + tail, width)


def bar(done: float, of: float, width: int) -> Text:
    """A bar and its percentage."""
    share = min(1.0, done / of) if of else 0.0
    full = int(share * width)
    percent = f" {100 * share:3.0f} %" if of else "   – %"
    return Text.assemble(("━" * full, "green"), ("─" * (width - full), "dim"), percent)


def row(*cells: str | Text, style: str = "") -> Text:
    """Cells, two columns apart."""
    return Text("  ").join(cell if isinstance(cell, Text) else Text(cell, style) for cell in cells if len(cell))


def share_rows(wishes: Sequence[int], room: int) -> list[int]:
    """Rows for each part: one in turn until all wishes are met, or no room is left."""
    rows = [0] * len(wishes)
    while room > 0 and rows != list(wishes):
        for i, wish in enumerate(wishes):
            if room > 0 and rows[i] < wish:
                rows[i], room = rows[i] + 1, room - 1
    return rows


def running_lines(run: Running, width: int, scale: tuple[float, float]) -> list[Text]:
    """A run on one line, or on two where the screen is narrow."""
    pace = run.seconds_per_step(run.latest)
    epochs = max(0, run.step - 1) * run.epochs / run.steps if run.steps else 0.0
    facts = [
        f"epoch {1 + int(epochs)}/{math.ceil(run.epochs)}" if run.step else "starting",
        f"{run.batch_size / pace:,.0f} images/s" if pace else "",
        f"loss {run.loss:.3f}" if run.loss is not None else "",
        f"validation {100 * run.curve[-1]:.1f} %" if run.curve else "",
    ]
    if width >= WIDE:
        spark = sparkline(run.curve, *scale, min(24, width - 112))
        wide = [set_cell_size(fact, size) for fact, size in zip(facts, (12, 16, 10, 17), strict=True)]
        return [row(label(run.title, 30), bar(run.step, run.steps, 10), *wide, Text(spark, "cyan"))]
    room = width - 2 - 8 - 6 - 2  # beside the bar
    spark = sparkline(run.curve, *scale, room * 2 // 5)
    first = row(label(run.title, room - room * 2 // 5 - 2), bar(run.step, run.steps, 8), Text(spark, "cyan"))
    return [first, Text(clip("  " + "  ".join(filter(None, facts)), width))]


def ended_line(run: Ended, width: int, scale: tuple[float, float], longest: int) -> Text:
    """A run that has ended: its curve, as wide as the longest of all, and its result; or why it failed."""
    room = min(32, width // 3)
    name = label(run.title, room)
    if not run.well:
        return Text.assemble(("✗ ", "red"), name, "  ", cut(run.text, width - room - 4))
    size = min(24, width // 5, longest)
    spark = set_cell_size(sparkline(run.curve, *scale, size), size)
    result = cut(run.text, width - room - size - 6)
    return Text.assemble(("✓ ", "green"), name, "  ", (spark, "cyan"), "  ", result)


def session_lines(session: Session, width: int) -> list[Text]:
    """What is timed, which block it is at, whose turn it is."""
    now = ", ".join(filter(None, (session.turn, session.text)))
    return [
        *(Text(part) for part in folded(session.title, width, 3)),
        row("", bar(session.block, session.blocks, 12), cut(session.progress, width - 22)),
        Text(cut(now, width)),
    ]


def folded(text: str, width: int, most: int) -> list[str]:
    """Text on at most so many lines, broken at spaces where there are any."""
    lines, rest = list[str](), inert(text)
    while rest and len(lines) < most - 1 and cell_len(rest) > width:
        piece = set_cell_size(rest, width)
        end = piece.rfind(" ") + 1 or len(piece)
        lines.append(rest[:end].rstrip())
        rest = rest[end:]
    return [*lines, cut(rest, width)]


def fit(items: Sequence[list[Text]], rows: int, last: bool = False) -> list[Text]:
    """As many whole items as fit, the first or the last ones, and one line that counts those left out.

    Where not even one item and that line fit, as much of one item as fits.
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
    """A part of the screen: its title, the rows it would like, and what it shows on fewer."""

    title: str
    rows: int
    lines: Callable[[int], list[Text]]


def head(state: State, width: int, now: float) -> list[Text]:
    """The conditions, how many runs are done, how long it takes, what the machine says."""
    failed = sum(not run.well for run in state.ended)
    planned = {job.name for job in state.jobs}
    done = sum(run.name in planned for run in state.ended)
    counts = [
        f"{done - failed} of {len(planned)} done",
        f"{failed} failed" if failed else "",
        f"{len(state.running)} running" if state.running else "",
        f"{len(state.coming())} to come" if state.coming() else "",
    ]
    runs = ", ".join(filter(None, counts)) if planned else "not planned yet"
    facts = {"runs": runs, "time": time_text(state, now), "machine": state.machine}
    lines = [Text.assemble((f"{name:<8}", "dim"), cut(text, width - 8)) for name, text in facts.items()]
    return [Text(cut(state.about or "preparing", width), "bold"), *lines]


def parts_of(state: State, width: int, now: float) -> list[Part]:
    """The parts that have something to show, the most important first when rows are shared out."""
    scale = scale_of(state)
    longest = max((len(run.curve) for run in state.ended), default=0)
    running = running_items(state, width, scale)
    failed = [[ended_line(run, width, scale, longest)] for run in state.ended if not run.well]
    well = [[ended_line(run, width, scale, longest)] for run in state.ended if run.well]
    log = [Text(cut(text, width), "dim") for text in state.log]
    legend = f" · validation accuracy ▁ {100 * scale[0]:.1f} to █ {100 * scale[1]:.1f} %" if scale[1] else ""
    coming = coming_items(state, width, now)
    next_title = f"next ({len(coming)}) · then {AFTERWARDS}"
    if state.running and not coming:
        next_title, coming = "next", [[Text(AFTERWARDS)]]
    parts = [
        Part(f"now{legend if state.running else ''}", sum(map(len, running)), partial(fit, running)),
        Part(next_title, min(4, len(coming)), partial(fit, coming)),
        Part(f"failed ({len(failed)})", min(MOST_FAILED, len(failed)), partial(fit, failed, last=True)),
        Part(f"done ({len(well)}){'' if state.running else legend}", len(well), partial(fit, well, last=True)),
        Part("log", min(8, len(log)), lambda rows: log[-rows:]),
    ]
    return [part for part in parts if part.rows]


def running_items(state: State, width: int, scale: tuple[float, float]) -> list[list[Text]]:
    """What happens now: runs, a session, transfers."""
    items = [running_lines(run, width, scale) for run in state.running]
    items += [session_lines(state.session, width)] if state.session else []
    third = width // 3
    return items + [
        [row(label(what, third), bar(done, of, 12), cut(f"{done:,} of {of:,}", third))]
        for what, (done, of) in state.transfers.items()
    ]


def coming_items(state: State, width: int, now: float) -> list[list[Text]]:
    """The runs to come, with how long each takes where that is known."""
    lengths = run_seconds(state, now)
    titles = [(label(job.title, min(44, width * 2 // 3)), lengths.get(job.group)) for job in state.coming()]
    return [[row(title, "" if seconds is None else f"~{duration(seconds)}")] for title, seconds in titles]


def draw(state: State, width: int, height: int, now: float) -> list[Text]:
    """The screen: at most `height` lines, none wider than `width` columns."""
    top, parts = head(state, width, now), parts_of(state, width, now)
    while parts and len(top) + 2 * len(parts) > height:  # a title and a line each, or not at all
        parts.pop()
    rows = share_rows([part.rows for part in parts], height - len(top) - len(parts))
    lines = list(top)
    for part, count in zip(parts, rows, strict=True):
        title = clip(f"── {part.title} ", width - 1)
        lines += [Text(title + "─" * (width - cell_len(title)), "dim"), *part.lines(count)]
    for line in lines:
        line.truncate(width)
    return lines[:height]
