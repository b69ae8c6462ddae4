"""What models are and cost, as the `cost` command prints it. Example: print(head("csv"))

Rows are ModelCounted events, which a worker sends: bench.measure counts, and nothing here needs torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from bench.core.events import ModelCounted
from bench.present.grid import wrap

FORMATS = ("text", "markdown", "csv")
# Alignment in Markdown: text to the left, figures to the right.
COLUMNS = {
    "model": "<",
    "px": ">",
    "stem": "<",
    "resolutions": "<",
    "parameters": ">",
    "multiply-adds": ">",
    "activations": ">",
    "train_flops_2x": ">",
    "audit": "<",
}
WIDTH = 80  # of the text format, whatever the terminal: rows appear one by one
NAME = 20  # characters of a model's name before its figures; a longer one takes a line of its own


def head(style: str) -> str:
    """The table's first lines."""
    if style == "csv":
        return _csv(COLUMNS)
    if style == "markdown":
        rule = "".join("---:|" if side == ">" else "---|" for side in COLUMNS.values())
        return f"{_markdown(COLUMNS)}\n|{rule}"
    return (
        _text_line("model", ("px", "parameters", "multiply-adds", "activations"), "audit")
        + "\n"
        + _second_line("  stem; resolutions", "flops_2x", "train_flops_2x")
    )


def line(row: ModelCounted, style: str) -> str:
    """One model at one size. In text its notes stand beneath it; in the other formats print `notes_of` elsewhere."""
    figures = (row.params, row.flops, row.activations, row.train_flops_2x)
    if style == "csv":
        return _csv(
            (row.model, str(row.image_size), row.stem, row.resolutions, *map(_plain, figures), row.audit),
        )
    params, flops, activations, train = map(_grouped, figures)
    if style == "markdown":
        name, size = f"`{row.model}`", str(row.image_size)
        return _markdown((name, size, row.stem, row.resolutions, params, flops, activations, train, row.audit))
    name = row.model if len(row.model) <= NAME else f"{row.model}\n{'':{NAME}}"
    lines = [
        _text_line(name, (str(row.image_size), params, flops, activations), row.audit),
        _second_line(f"  {row.stem}; {row.resolutions}", _grouped(2 * row.flops), train),
        *(wrap(f"  {note}", WIDTH, "  ") for note in row.notes),
    ]
    return "\n".join(lines)


def notes_of(row: ModelCounted) -> list[str]:
    """What a reader of the count must know, each with its model."""
    return [f"{row.model}, {row.image_size} px: {note}" for note in row.notes]


def module_table(row: ModelCounted) -> str:
    """The parts of one model with their costs, and its notes beneath; ends in a newline."""
    names = [part.name or row.model for part in row.modules]
    width = max(24, *(len(name) + 2 for name in names))
    lines = [f"{'':{width}}{'parameters':>14}{'multiply-adds':>18}{'activations':>16}"]
    lines += [
        f"{name:{width}}{part.params:>14,}{part.flops:>18,}{part.activations:>16,}"
        for name, part in zip(names, row.modules, strict=True)
    ]
    lines += [wrap(f"  {note}", WIDTH, "  ") for note in row.notes]
    return "".join(f"{line}\n" for line in lines)


def _plain(figure: int | None) -> str:
    return "–" if figure is None else str(figure)


def _grouped(figure: int | None) -> str:
    return "–" if figure is None else f"{figure:,}"


def _text_line(name: str, figures: Sequence[str], audit: str) -> str:
    size, params, flops, activations = figures
    return f"{name:{NAME}} {size:>4} {params:>12} {flops:>15} {activations:>14}  {audit}".rstrip()


def _second_line(layout: str, flops_2x: str, train: str) -> str:
    """The counts in which a multiply-add is two: of the forward pass, and of forward and backward."""
    return f"{layout:{NAME + 18}} {flops_2x:>15} {train:>14}"


def _csv(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _markdown(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
