"""The look of static charts. Example: check_style("ggplot")

A user's style is the name of a matplotlib style or the path of an .mplstyle file.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style

from bench.core.errors import UserError
from bench.core.files import inert

STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so it is the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "legend.fontsize": "medium",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.6,
}
# What no style changes: fonts within the files, the same bytes each time, names that are never formulas, our layout.
FIXED: Any = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "sevit-bench",
    "text.usetex": False,
    "text.parse_math": False,
    "text.hinting": "no_hinting",  # a text is as wide in a PNG as in a PDF
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "savefig.bbox": None,
    "savefig.dpi": "figure",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences matplotlib's own messages: check_style raises a sentence instead."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_style(style: str) -> None:
    """Raises UserError, naming the remedy, where `style` is no style or a style file that cannot be used."""
    if not style or style in matplotlib.style.available:
        return
    if not Path(style).is_file():
        known = ", ".join(name for name in matplotlib.style.available if not name.startswith("_"))
        raise UserError(f"no style '{inert(style)}': name an .mplstyle file or one of matplotlib's styles: {known}")
    try:
        with _quiet():
            params = matplotlib.rc_params_from_file(style, fail_on_error=True, use_default_template=False)
    except Exception as error:  # matplotlib raises what its parsers happen to raise
        raise UserError(f"the style file '{inert(style)}' cannot be used: {_first_line(error)}") from None
    if not params:
        raise UserError(f"the style file '{inert(style)}' sets nothing: it needs lines such as 'axes.grid: False'")


@contextlib.contextmanager
def settings(style: str, points: float) -> Iterator[None]:
    """Matplotlib's settings for one figure: its defaults, ours, those of `style`, and what must not change.

    The user's own matplotlibrc is ignored, so that a store gives the same figures everywhere. `points` is the size of
    texts. Raises UserError as check_style does.
    """
    check_style(style)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A character that the font lacks is drawn as a box, with a warning each; the caption file has the full name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"font.size": points})
        if style:
            matplotlib.style.use(style)
        matplotlib.rcParams.update(FIXED)
        yield


def _first_line(error: Exception) -> str:
    return inert(f"{type(error).__name__}: {error}")[:300]
