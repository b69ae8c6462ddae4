"""Import torchvision even where its compiled part does not load. Example: ensure_torchvision()

The usual torchvision package is built against a CUDA torch. With a CPU torch its extension does not load, and importing
it raises `operator torchvision::nms does not exist`: it registers fake kernels for detection operators that were never
declared. Declaring them here is enough, since no classifier calls them. timm needs torchvision too.
"""

from __future__ import annotations

import importlib
import sys

import torch

DETECTION_OPERATORS = ("nms", "qnms")
_declarations = torch.library.Library("torchvision", "FRAGMENT")  # kept: the declarations live as long as it does


def ensure_torchvision() -> None:
    """Make `import torchvision`, and so `import timm`, work in this process. Raises ImportError where it is missing."""
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in DETECTION_OPERATORS:
            _declarations.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
