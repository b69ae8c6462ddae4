"""Settings by name. Example: check("compiled", "cpu"); SETTINGS["compiled"].compile_mode == "default"

A setting says how the same computation is executed. `eager`, `compiled`, `graphed` and `fused` are one for all models;
under `tuned` each model gets the best of `space`, found by the same search (bench/drive/setting_search.py). `auto`
stands for one of the former, chosen for a whole sweep (bench/drive/auto_setting.py); no run is ever made under "auto".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import cache_dir
from bench.plan.spec import Setting
from models.registry import suggest

SETTINGS: dict[str, Setting] = {
    "eager": Setting(),
    "compiled": Setting("compiled", compile_mode="default"),
    "graphed": Setting("graphed", graphed=True),
    "fused": Setting("fused", compile_mode="default", graphed=True),
    "tuned": Setting("tuned"),  # before the search
}
AUTO = "auto"
SUMMARIES = {
    AUTO: "the default, one for all models: eager on a CPU; on CUDA graphed, or fused where length repays compiling",
    "eager": "operator by operator, channels_last, fused attention; on a GPU it measures the host's launches",
    "compiled": "compiled with torch.compile; needs a C++ compiler, and 30 s to 2 min per model on first use",
    "graphed": "the whole training step as one CUDA graph; CUDA only; no launches between its kernels",
    "fused": "compiled, then captured as one CUDA graph; the fastest steps, after a minute or two of compiling a model",
    "tuned": "each model's fastest combination of layout, compilation, graph and attention, by a timed search",
}
ATTENTION = ("fused", "explicit", "math")
LAYOUTS = ("channels_last", "contiguous")
COMPILERS = ("c++", "g++", "clang++")
# One H100 at batch 128, 2026-11-28: compiling took 50 to 92 s a model and 11 s from its cache; fused steps are 1.37
# times as fast as graphed ones for seresnet, 1.74 times for vit_tiny. The rule takes of each the end that speaks for
# graphed.
COMPILE_SECONDS, CACHED_SECONDS, FUSED_GAIN = 92.0, 11.0, 1.37
GRAPHED_IMAGES_PER_SECOND = (14_000.0, 87_000.0)  # of the slowest and the fastest of nine models


def parse_settings(text: str) -> list[str]:
    """Parse comma-separated names, `auto` among them. Raises UserError with the choices."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in SUMMARIES:
            raise UserError(f"unknown setting '{name}'{suggest(name, SUMMARIES)} Choices: {', '.join(SUMMARIES)}")
    return list(dict.fromkeys(names))


def check(name: str, device: str) -> None:
    """Raise UserError if a setting is unavailable for every model on this kind of device."""
    if SETTINGS[name].graphed and device != "cuda":
        raise UserError(f"setting '{name}' needs a CUDA device: CUDA graphs exist only there; use eager or tuned")
    if SETTINGS[name].compile_mode and not has_compiler():
        raise UserError(
            f"setting '{name}' needs a C++ compiler, and none of {', '.join(COMPILERS)} is on the PATH; install one "
            "(Debian: apt install g++), or name it in CXX, or use --setting eager"
        )


def repays_compiling(runs: Mapping[str, Sequence[float]]) -> bool:
    """Whether a sweep is faster `fused` than `graphed`: what faster steps save is more than compiling costs.

    `runs`: by model, the training seconds of each of its runs under `graphed`. A model is compiled once, and taken from
    the cache by its later runs.
    """
    saved = sum(seconds * (1 - 1 / FUSED_GAIN) for own in runs.values() for seconds in own)
    return saved > sum(COMPILE_SECONDS + CACHED_SECONDS * (len(own) - 1) for own in runs.values() if own)


def has_compiler() -> bool:
    """Whether torch.compile will find a C++ compiler."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else COMPILERS))


def space(device: str, attention_choice: bool) -> list[Setting]:
    """All candidates for `tuned`, simplest first; ties go to the earlier one.

    Layout, compilation, graph (CUDA) and attention kernel (where the model has the choice); never the precision, which
    belongs to the recipe. Without a compiler nothing compiled is tried.
    """
    graphs = (False, True) if device == "cuda" else (False,)
    modes = ("", "default") if has_compiler() else ("",)
    kernels = ATTENTION if attention_choice else ATTENTION[:1]
    tuned = SETTINGS["tuned"]
    return [
        replace(tuned, compile_mode=mode, graphed=graphed, attention=kernel, memory_format=layout)
        for mode, graphed, kernel, layout in product(modes, graphs, kernels, LAYOUTS)
        # Compiled, the explicit form and the decomposed kernel are the same operators before they are fused.
        if not (mode and kernel == "math")
    ]


def words(setting: Setting) -> str:
    """A readable description of a setting: `channels_last, compiled (default), explicit attention, graph`."""
    parts = [setting.memory_format, f"compiled ({setting.compile_mode})" if setting.compile_mode else "eager"]
    parts += [f"{setting.attention} attention"] if setting.attention != "fused" else []
    return ", ".join([*parts, *(["graph"] if setting.graphed else [])])


def policy(setting: str) -> str:
    """The part of the comparability key that says how settings were given: one for all, or each model's best."""
    return "tuned" if setting == "tuned" else f"identical:{setting}"


def compiled_dir() -> Path:
    """Where torch keeps what it compiles."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or cache_dir() / "compiled")


def keep_compiled_code() -> None:
    """Let torch keep what it compiles in an ordinary cache directory, for child processes and later runs."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled_dir()))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_dir() / "triton"))
