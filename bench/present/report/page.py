"""Stores as one HTML file that needs no network. Example: build([Store(Path("results/local"))])[:15]

The tables, text and still images are in the file itself, so it can be read without JavaScript and printed; the script
only sorts, filters and replaces the images by interactive charts. A browser may run nothing but the two scripts whose
hashes its Content-Security-Policy names, so a hostile name in a record stays a name.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from bench.analysis.compare import Pair, pairs_loaded
from bench.analysis.tables import Loaded, compare_loaded, load
from bench.core.errors import UserError
from bench.core.files import inert, write_atomically
from bench.core.text import plural, writable
from bench.plan.keys import REFERENCE
from bench.present.charts import interactive
from bench.present.charts.build import build as build_charts
from bench.present.report import commands, facts, figures, model_text, models, results_table, story
from bench.present.table_formats import lay_out
from bench.store.disk import Store

FOLDER = Path(__file__).parent
TITLE = "sevit-bench: SE-ResNets and small Vision Transformers on small images"
FIRST_COMMAND = "make bench"


def silent(what: str, done: int, of: int) -> None:
    """Show no progress."""


def build(
    stores: list[Store],
    images: str = "all",
    still: bool = True,
    progress: figures.Progress = silent,
    reference: str | None = None,
    claim: tuple[str, str] | None = None,
) -> bytes:
    """The page's bytes. `images`: which misclassified images are shown: all, digits or none.

    `reference`: the model that ratios refer to and that comes first; None: seresnet where it takes part. `claim`: the
    pair (A, B) at the top. Without `still`, which is quicker, there are no images for readers without a script. The
    same stores give the same bytes. Raises UserError where the two of the claim cannot be compared.
    """
    loaded = load(stores)
    reference = loaded.shown(reference)
    claim = claim and (loaded.names.get(claim[0], claim[0]), loaded.names.get(claim[1], claim[1]))
    comparisons = compare_loaded(loaded, reference)
    pairs = _pairs(loaded, stores, reference)
    first_model = reference or REFERENCE
    headline = story.headline(pairs, comparisons, first_model, claim)
    charts, missing = build_charts(loaded, comparisons, pairs, stores, reference=reference)
    sections = results_table.sections(comparisons, {run.run_id: run for run in loaded.runs})
    script, plotly = (FOLDER / "page.js").read_text(encoding="utf-8"), _plotly() if charts else ""
    page = _template().render(
        title=TITLE,
        policy=_policy([text for text in (plotly, script) if text]),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        headline=headline,
        heads=results_table.heads(comparisons),
        sections=sections,
        common=results_table.in_common(sections),
        choices=results_table.choices(sections),
        conditions=[(one.title, notes) for one in comparisons if (notes := lay_out(one, (), "Bold").notes)],
        first_command=FIRST_COMMAND,
        groups=figures.groups(charts, figures.stills(charts, progress) if still else [b""] * len(charts)),
        missing=missing,
        chips=figures.chips(charts),
        models=models.sections(stores, loaded, comparisons, images, reference=first_model),
        labels={comparison.title: results_table.label(comparison) for comparison in comparisons},
        protocol=facts.PROTOCOL,
        commands=commands.reproduce(loaded, stores) if loaded.runs else [],
        environment=facts.environment(loaded),
        files=facts.raw_files(stores),
        origin=_origin(loaded, stores),
        data=packed(_json([interactive.figure(chart) for chart in charts])),
        plotly=packed(plotly),
        script=Markup(script),
    )
    return writable(page).encode()


def write(
    stores: list[Store],
    path: Path,
    images: str = "all",
    progress: figures.Progress = silent,
    reference: str | None = None,
    claim: tuple[str, str] | None = None,
) -> int:
    """Write the page; returns its size in bytes. Raises UserError as `build` does, and where it cannot be written."""
    content = build(stores, images, progress=progress, reference=reference, claim=claim)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to '{path}': {error.strerror}; name another --out") from None
    return len(content)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(base64=_base64, size=size_text)
    environment.globals.update(
        run_heads=model_text.RUN_HEADS,
        run_cells=model_text.run_cells,
        matrix_text=model_text.matrix_text,
        error_lines=model_text.error_lines,
        heat=model_text.heat,
        mistakes_text=model_text.mistakes_text,
        missing_images=model_text.missing_images,
    )
    return environment.get_template("page.html")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _policy(scripts: Iterable[str]) -> str:
    """Scripts by their hash alone; styles may be inline, because plotly sets them; nothing is loaded from anywhere."""
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))


def packed(text: str) -> str:
    """Compressed, as letters and digits: the script unpacks it when the first chart is near.

    A third of the bytes; and the page can be used a second and more before plotly has been read.
    """
    return _base64(gzip.compress(text.encode(), mtime=0))


def _pairs(loaded: Loaded, stores: list[Store], reference: str | None) -> list[Pair]:
    try:
        return pairs_loaded(loaded, stores, reference=reference)
    except UserError:  # no two models under equal conditions
        return []


def size_text(count: int) -> str:
    """A number of bytes: `1.2 kB`, `3.4 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _origin(loaded: Loaded, stores: Sequence[Store]) -> str:
    """Which stores the page is about; no date of its own, so that the same stores make the same page."""
    newest = max((record.started[:10] for record in (*loaded.runs, *loaded.sessions)), default="")
    where = ", ".join(inert(str(store.root)) for store in stores)
    until = f", the newest from {newest}" if newest else ""
    runs, sessions = plural(len(loaded.runs), "run"), plural(len(loaded.sessions), "speed session")
    damaged = f"Damaged records left out: {len(loaded.damaged)}."
    return f"Written by run_bench.py report from {where}: {runs} and {sessions}{until}. {damaged}"
