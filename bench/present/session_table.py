"""One speed session as a table for the terminal. Example: print(render_session(session, width=80))"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from bench.analysis.sessions import about_limit, about_starts, setting_of, train_sizes, turns, why_ended
from bench.core.text import plural, significant
from bench.plan.settings import words
from bench.present.grid import grid, heads_shown, notes_text, wrap
from bench.store.records import Session, inert_copy, shown_names
from bench.store.views import Row, speed_rows

Timed = Mapping[tuple[str, str, int], Row]  # by model, kind and batch size
LIMITED_BY = "limited by\nshare of step"
TRAIN_HEADS = (
    "model",
    "training\nimages/s",
    "quartiles\nn",
    "× reference\n95 % interval",
    "first step\ns",
    "memory\nMB",
    LIMITED_BY,
    "twice the\nbatch",
    "ceiling\nreached, %",
    "J per\n1,000 images",
)


def session_notes(session: Session, width: int) -> str:
    """What a reader must know of the figures that this width has room for; ends in a newline."""
    return notes_text(_notes(inert_copy(session), width), width)


def render_session(session: Session, width: int = 140) -> str:
    """Training, latency and inference by batch size, and what limits each model: the columns that fit side by side."""
    session = inert_copy(session)
    key = session.key
    title = (
        f"{key.image_size} px, {session.num_classes} classes, training batch {session.recipe.batch_size}, "
        f"{key.precision}, {key.policy} · {key.device_name}, torch {key.torch}"
    )
    timed = _by_task(session)
    training = _train_rows(session, timed)
    sizes = sorted(
        {size for _, kind, size in timed if kind == "inference"}, reverse=True
    )  # the fastest are left out last
    heads = ["model", "latency of 1\nms", *(f"inference at {n}\nimages/s" for n in sizes)]
    inference = [_inference_cells(model, sizes, timed) for model in session.models]
    failures = [
        wrap(f"{f.model} {f.kind} {f.batch_size or ''}: {f.status}. {f.message}", width, "  ") for f in session.failures
    ]
    return (
        f"{wrap(title, width)}\n\n{_grid(TRAIN_HEADS, training, width)}\n{_curve(session, timed, width)}"
        f"{_grid(heads, inference, width)}\n" + "".join(f"{line}\n" for line in failures)
    )


def _curve(session: Session, timed: Timed, width: int) -> str:
    """Training images/s by batch size, where there are several; what failed is named."""
    failed = {(f.model, f.batch_size): f.status for f in session.failures if f.kind == "train"}
    sizes = sorted({*train_sizes(session), *(size for _, size in failed if size)}, reverse=True)
    if len(sizes) < 2:
        return ""

    def cell(model: str, size: int) -> str:
        row = timed.get((model, "train", size))
        return (
            failed.get((model, size), "–") if row is None else significant(row["images_per_second"]) + _ratio_below(row)
        )

    heads = ["model", *(f"training at {n}\nimages/s" for n in sizes)]
    return f"{_grid(heads, [[m, *(cell(m, n) for n in sizes)] for m in session.models], width)}\n"


def render_settings(sessions: list[Session], width: int = 140) -> str:
    """Training images/s under several settings, one column each; they were not timed in turns."""
    shown = shown_names(sessions)
    sessions = [inert_copy(session, shown) for session in sessions]
    models = list(dict.fromkeys(model for session in sessions for model in session.models))
    speeds = [
        {
            row["model"]: row["images_per_second"]
            for row in _timed(session)
            if (row["kind"], row["batch_size"]) == ("train", session.recipe.batch_size)
        }
        for session in sessions
    ]
    names = [setting_of(session) for session in sessions]
    heads = ["model", *(f"{name}\nimages/s" for name in names)]
    cells = [[model, *(significant(s[model]) if model in s else "–" for s in speeds)] for model in models]
    if "tuned" in names:
        settings = sessions[names.index("tuned")].settings
        heads.append("tuned: its setting")
        cells = [[*row, words(settings[row[0]]) if row[0] in settings else "–"] for row in cells]
    note = "Training steps under each setting, in one session after the other: a drift of the device is part of them."
    return _grid(heads, cells, width, continued=True) + notes_text([note], width)


def _by_task(session: Session) -> Timed:
    return {(row["model"], row["kind"], row["batch_size"]): row for row in _timed(session)}


def _timed(session: Session) -> list[Row]:
    return [row for row in speed_rows(session) if row["status"] == "ok"]


def _train_rows(session: Session, timed: Timed) -> list[list[str]]:
    batch = session.recipe.batch_size
    return [_train_cells(model, timed.get((model, "train", batch)), session) for model in session.models]


def _train_cells(model: str, row: Row | None, session: Session) -> list[str]:
    if row is None:
        return [model, *("–",) * 9]
    batch, bound, ceilings = row["batch_size"], session.bounds.get(model), session.ceilings
    low, high = (significant(1000 * batch / row[q]) for q in ("q3_ms", "q1_ms"))
    if row.get("ratio"):
        interval = f"{significant(row['ratio_low'])}–{significant(row['ratio_high'])}" if row["ratio_low"] else ""
        ratio = f"{significant(row['ratio'])}×\n{interval}"
    else:
        ratio = "1.00×" if model == session.reference else "–"
    joules = row.get("joules_per_1000_images")
    twice = bound.twice_the_batch if bound else None
    reached = (bound.flops_per_second or 0.0) / ceilings.flops_per_second if bound and ceilings else 0.0
    return [
        model,
        significant(row["images_per_second"]),
        f"{low}–{high}\nn = {row['n']}",
        ratio,
        significant(row["first_call_seconds"]) if row.get("first_call_seconds") else "–",
        f"{row['memory_bytes'] / 1e6:,.0f}" if row.get("memory_bytes") else "–",
        f"{bound.name}\n{100 * bound.share:.0f} %" if bound else "–",
        f"{significant(twice)}×\n{bound.experiment}" if bound and twice else "–",
        f"{100 * reached:.0f}" if reached else "–",
        significant(joules) if joules else "–",
    ]


def _inference_cells(model: str, sizes: Sequence[int], timed: Timed) -> list[str]:
    latency = timed.get((model, "latency", 1))
    cells = [model, significant(latency["median_ms"]) + _ratio_below(latency) if latency else "–"]
    for size in sizes:
        row = timed.get((model, "inference", size))
        cells.append(significant(row["images_per_second"]) + _ratio_below(row) if row else "–")
    return cells


def _ratio_below(row: Row) -> str:
    return f"\n{significant(row['ratio'])}×" if row.get("ratio") else ""


def _notes(session: Session, width: int) -> list[str]:
    """What a reader must know to read a session's figures."""
    shown = heads_shown(*_with_figures(TRAIN_HEADS, _train_rows(session, _by_task(session))), width)
    notes = [
        f"{plural(session.blocks, 'block')}, {why_ended(session)}. Each block has every model once, in random order; "
        f"figures are medians over the blocks, × is the ratio of speeds to {session.reference} within blocks (above 1: "
        "faster).",
        about_starts(session),
        about_limit(session),
        *(
            f"Training speed by batch size: {text}."
            for a, b in combinations(session.models, 2)
            if (text := turns(a, b, session))
        ),
    ]
    if ceilings := session.ceilings:
        notes.append(
            f"This device in this session: {significant(ceilings.flops_per_second / 1e9)} GFLOP/s in a large matrix "
            f"product, {significant(ceilings.bytes_per_second / 1e9)} GB/s in a large copy, "
            f"{significant(1e6 * ceilings.launch_seconds)} µs per empty operator, the loader alone "
            f"{significant(ceilings.loader_images_per_second)} images/s."
        )
    if LIMITED_BY in shown:
        notes.append(
            "Limited by: the ceiling that a training step, operator by operator, comes nearest to, and the share of "
            "the step that it explains. Twice the batch: images/s at twice the batch over those at the batch size."
        )
    if setting_of(session) == "tuned":
        settings = (f"{model} {words(setting)}" for model, setting in session.settings.items())
        notes.append(f"Settings, found by the same search for each model: {'; '.join(settings)}.")
    if session.bounds and session.energy.why_not:  # only the `time` command measures energy
        notes.append(f"No energy: {session.energy.why_not}.")
    notes = [note for note in notes if note]
    return notes + [f"Warning: {warning}." for warning in session.warnings]


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, continued: bool = False) -> str:
    """Without the columns that have no figure; nothing where none has."""
    heads, rows = _with_figures(heads, rows)
    return grid(heads, rows, width, continued) if len(heads) > 1 else ""


def _with_figures(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    shown = [i for i in range(len(heads)) if i == 0 or any(row[i] != "–" for row in rows)]
    return [heads[i] for i in shown], [[row[i] for i in shown] for row in rows]
