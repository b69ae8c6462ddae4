"""Import what every worker needs, once, in the server that forks them. Example: begin()

Nothing here may touch CUDA or start a thread: neither survives a fork. Compilation (torch._inductor) starts processes
when it is imported, so it stays with the child that compiles.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os

MODULES = (
    *("numpy", "scipy.special", "torch", "torch.profiler", "torchvision.models", "timm", "fvcore.nn"),
    *("vit_pytorch", "vit_pytorch.cct", "vit_pytorch.vit_for_small_dataset"),
    *("models.external", "models.seresnet", "models.tables", "models.vit"),
    *("bench.measure.counting", "bench.measure.device", "bench.measure.estimate", "bench.measure.probe"),
    *("bench.measure.run", "bench.measure.session", "bench.measure.setting_trial"),
)


def begin() -> None:
    """Call in a forked child once its environment is set: does what a new process does at import."""
    import numpy as np
    import torch

    np.random.seed()  # else all children draw the same; `random` does this by itself, torch's seed is always the same
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdecimal() and int(threads):
        default = torch.get_num_threads()
        # MKL, and torch with it, has no more threads than there are cores, whatever the variable says
        count = min(int(threads), default) if torch.backends.mkl.is_available() else int(threads)
        if count != default:
            torch.set_num_threads(count)


def _import_all() -> None:
    gc.disable()  # imports make nothing but objects that stay: an eighth of their time goes into looking through them
    for module in MODULES:
        with contextlib.suppress(Exception):  # it fails again in the child that needs it, and is reported there
            if module == "torchvision.models":
                importlib.import_module("models.torchvision_import").ensure_torchvision()
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that a child's collector neither scans nor copies the server's objects
    gc.enable()


_import_all()
