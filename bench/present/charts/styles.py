"""The look of static charts, and what a user changes of it. Example: with settings("ggplot", points=8): Figure()

A style is the name of one of matplotlib's, the path of an .mplstyle file, or path/to/file.py:function, which is called
as function(figure, chart) before the figure is saved: the user's own code, to trust as a model's factory is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure

from bench.core.errors import UserError
from bench.core.files import inert
from bench.present.charts.model import Chart

Hook = Callable[[Figure, Chart], object]

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
HOOK = re.compile(r"(?P<path>.+\.py):(?P<function>\w+)")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without matplotlib's own words on the terminal: what is wrong is told in our sentence."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_style(style: str) -> None:
    """Raises UserError, naming the remedy, where `style` is no style, or a file of one that cannot be used."""
    if not style or style in matplotlib.style.available or hook_of(style) is not None:
        return
    if not Path(style).is_file():
        known = ", ".join(name for name in matplotlib.style.available if not name.startswith("_"))
        raise UserError(
            f"no style '{inert(style)}': name an .mplstyle file, a function as path/to/file.py:function, or one of "
            f"matplotlib's: {known}"
        )
    try:
        with _quiet():
            found = matplotlib.rc_params_from_file(style, fail_on_error=True, use_default_template=False)
    except Exception as error:  # matplotlib raises what its parsers happen to raise
        raise UserError(f"the style file '{inert(style)}' cannot be used: {_first_line(error)}") from None
    if not found:
        raise UserError(f"the style file '{inert(style)}' sets nothing: it needs lines such as 'axes.grid: False'")


@contextlib.contextmanager
def settings(style: str, points: float) -> Iterator[None]:
    """Matplotlib's settings for one figure: its defaults, ours, those of `style`, and what must not change.

    The user's own matplotlibrc has no say, so that a store gives the same figures everywhere. `points` is the size of
    texts. Raises UserError as check_style does.
    """
    check_style(style)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, each time with a warning; the caption file has the name whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"font.size": points})
        if style and hook_of(style) is None:
            matplotlib.style.use(style)
        matplotlib.rcParams.update(FIXED)
        yield


def hook_of(style: str) -> Hook | None:
    """The function that path/to/file.py:function names; None for other styles. Raises UserError if it is missing."""
    match = HOOK.fullmatch(style)
    if match is None:
        return None
    path = Path(match["path"])
    if not path.is_file():
        raise UserError(f"no file '{inert(str(path))}' for the style '{inert(style)}' (looked in {Path.cwd()})")
    function = getattr(_module(path.resolve(), path.stat().st_mtime_ns), match["function"], None)
    if not callable(function):
        raise UserError(f"'{inert(str(path))}' has no function '{match['function']}': write one of (figure, chart)")
    return function


@lru_cache(maxsize=8)  # a user's file runs once a call, not once a figure; again where it was edited
def _module(path: Path, changed_ns: int) -> Any:
    name = f"_sevit_style_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of that file look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the user's own code, told in a sentence
        raise UserError(f"importing the style '{inert(str(path))}' failed: {_first_line(error)}") from error
    return module


def apply_hook(style: str, figure: Figure, chart: Chart) -> None:
    """Call the user's function on the figure, where `style` names one. Raises UserError where it fails."""
    hook = hook_of(style)
    if hook is None:
        return
    try:
        hook(figure, chart)
    except Exception as error:  # any error of the user's own code, told in a sentence
        raise UserError(f"the style '{inert(style)}' failed on chart '{chart.key}': {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return inert(f"{type(error).__name__}: {error}")[:300]
