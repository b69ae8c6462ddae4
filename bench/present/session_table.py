"""One speed session as a table on the terminal, without torch. Example: print(render_session(session))"""

from __future__ import annotations

import io
import math
from typing import Any

from bench.core.files import inert
from bench.plan.settings import words
from bench.plan.spec import Setting
from bench.store.disk import speed_rows
from bench.store.records import Record

TRAIN_HEADS = [
    "model",
    "training\nimages/s",
    "quartiles\nn",
    "× reference\n95 % interval",
    "first step\ns",
    "memory\nMB",
    "limited by\nshare of step",
    "twice the\nbatch",
    "ceiling\nreached, %",
    "J per\n1,000 images",
]
STOPPED = {
    "narrow": "enough for every ratio to be known within ±{within:g} %",
    "limit": "ended by the time limit; ±{within:g} % would have taken {planned}",
    "blocks": "ended before every ratio was known within ±{within:g} %",
    "alone": "one model, no ratios",
}


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def inert_record(value: Any) -> Any:
    """A record with every text in it harmless to a terminal, a table or a plot, whoever wrote it."""
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, dict):
        # most are numbers, of which there are hundreds of thousands in a large store
        return {inert(k): inert_record(v) if isinstance(v, str | dict | list) else v for k, v in value.items()}
    return [inert_record(v) for v in value] if isinstance(value, list) else value


def why_ended(session: Record) -> str:
    """Why a session ended, for its note."""
    within, planned = 100 * session.get("half_width", 0.02), session.get("planned_blocks", session["blocks"])
    return STOPPED[session["stopped"]].format(within=within, planned=planned)


def render_session(session: Record, width: int = 140) -> str:
    """One session for the terminal: training, latency and inference by batch size, and what limits each model."""
    session = inert_record(session)
    key, rows = session["key"], [row for row in speed_rows(session) if row["status"] == "ok"]
    title = (
        f"{key['image_size']} px, {session['num_classes']} classes, training batch {session['recipe']['batch_size']}, "
        f"{key['precision']}, {key['policy']} · {key['device_name']}, torch {key['torch']}"
    )
    models = session["models"]
    by_task = {(row["model"], row["kind"], row["batch_size"]): row for row in rows}
    sizes = sorted({row["batch_size"] for row in rows if row["kind"] == "inference"})
    batch = session["recipe"]["batch_size"]
    train = _grid(
        TRAIN_HEADS,
        [_train_cells(model, by_task.get((model, "train", batch)), session) for model in models],
        width,
    )
    heads = ["model", "latency of 1\nms", *(f"inference at {n}\nimages/s" for n in sizes)]
    inference = _grid(heads, [_inference_cells(model, sizes, by_task) for model in models], width)
    lines = [
        f"{f['model']} {f['kind']} {f['batch_size'] or ''}: {f['status']}. {f['message']}" for f in session["failures"]
    ]
    return f"{title}\n\n{train}\n{inference}\n" + "".join(f"{line}\n" for line in (*lines, *_session_notes(session)))


def render_settings(sessions: list[Record], width: int = 140) -> str:
    """The training step's images/s under several settings, a column each; they were not timed in turns."""
    sessions = [inert_record(session) for session in sessions]
    models = list(dict.fromkeys(model for session in sessions for model in session["models"]))
    speeds = []
    for session in sessions:
        rows = (row for row in speed_rows(session) if row["status"] == "ok" and row["kind"] == "train")
        speeds.append({row["model"]: row["images_per_second"] for row in rows})
    names = [_setting_name(session) for session in sessions]
    heads = ["model", *(f"{name}\nimages/s" for name in names)]
    cells = [[model, *(significant(s[model]) if model in s else "–" for s in speeds)] for model in models]
    if "tuned" in names:
        found = sessions[names.index("tuned")]["settings"]
        heads.append("tuned: what was found")
        cells = [[*row, words(Setting(**found[row[0]])) if row[0] in found else "–"] for row in cells]
    grid = _grid(heads, cells, width)
    return f"{grid}· a training step under each setting, in sessions one after the other: a drift shows.\n"


def _setting_name(session: Record) -> str:
    return str(session["key"]["policy"]).removeprefix("identical:")


def _train_cells(model: str, row: Record | None, session: Record) -> list[str]:
    if row is None:
        return [model, *("–",) * 9]
    batch, found = row["batch_size"], session["bounds"].get(model)
    low, high = (significant(1000 * batch / row[q]) for q in ("q3_ms", "q1_ms"))
    if row.get("ratio"):
        interval = f"{significant(row['ratio_low'])}–{significant(row['ratio_high'])}" if row["ratio_low"] else ""
        ratio = f"{significant(row['ratio'])}×\n{interval}"
    else:
        ratio = "1.00×" if model == session["reference"] else "–"
    joules = row.get("joules_per_1000_images")
    ceilings, twice = session["ceilings"], found["twice_the_batch"] if found else None
    reached = found["flops_per_second"] / ceilings["flops_per_second"] if found and found["flops_per_second"] else None
    return [
        model,
        significant(row["images_per_second"]),
        f"{low}–{high}\nn = {row['n']}",
        ratio,
        significant(row["first_call_seconds"]) if row.get("first_call_seconds") else "–",
        f"{row['memory_bytes'] / 1e6:,.0f}" if row.get("memory_bytes") else "–",
        f"{found['name']}\n{100 * found['share']:.0f} %" if found else "–",
        f"{significant(twice)}×\n{found['experiment']}" if found and twice else "–",
        f"{100 * reached:.0f}" if reached else "–",
        significant(joules) if joules else "–",
    ]


def _inference_cells(model: str, sizes: list[int], by_task: dict[tuple[str, str, int], Record]) -> list[str]:
    latency = by_task.get((model, "latency", 1))
    cells = [model, significant(latency["median_ms"]) + _ratio_below(latency) if latency else "–"]
    for size in sizes:
        row = by_task.get((model, "inference", size))
        cells.append(significant(row["images_per_second"]) + _ratio_below(row) if row else "–")
    return cells


def _ratio_below(row: Record) -> str:
    return f"\n{significant(row['ratio'])}×" if row.get("ratio") else ""


def _session_notes(session: Record) -> list[str]:
    """What a reader must know to read a session's figures."""
    notes = [
        f"· {session['blocks']} blocks, {why_ended(session)}. In each block every model came once, in random order; "
        f"figures are medians of the blocks, × is a ratio of speeds to {session['reference']} within blocks (above 1: "
        "faster).",
    ]
    if ceilings := session["ceilings"]:
        notes.append(
            f"· this device in this session: {significant(ceilings['flops_per_second'] / 1e9)} GFLOP/s in a large "
            f"matrix product, {significant(ceilings['bytes_per_second'] / 1e9)} GB/s in a large copy, "
            f"{significant(1e6 * ceilings['launch_seconds'])} µs an empty operator, the loader alone "
            f"{significant(ceilings['loader_images_per_second'])} images/s."
        )
        notes.append(
            "· limited by: the ceiling that a training step, operator by operator, comes nearest to, and the share of "
            "the step that it explains; twice the batch: images/s at twice the batch over those at once."
        )
    if _setting_name(session) == "tuned":
        found = (f"{model} {words(Setting(**setting))}" for model, setting in session["settings"].items())
        notes.append(f"· settings found by the same search for each: {'; '.join(found)}.")
    if session["energy"]["why_not"]:
        notes.append(f"· no energy: {session['energy']['why_not']}.")
    return notes + [f"· warning: {warning}." for warning in session["warnings"]]


def _grid(heads: list[str], rows: list[list[str]], width: int) -> str:
    """A table for the terminal; columns without any figure are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [i for i in range(len(heads)) if i == 0 or any(row[i] != "–" for row in rows)]
    console = Console(width=width, file=io.StringIO(), record=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i in shown:
        table.add_column(heads[i], justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    console.print(table)
    return console.export_text(styles=False)
