"""What people from other tools look for. Example: model_hint("resnet18") == "write torchvision:resnet18" """

from __future__ import annotations

import re
from dataclasses import fields

from bench.plan.spec import Recipe

FIELDS = {field.name for field in fields(Recipe)} - {"name", "epochs", "batch_size", "budget", "validations", "track"}
OTHER_NAMES = {
    "learning_rate": "lr",
    "opt": "optimizer",
    "wd": "weight_decay",
    "warmup": "warmup_fraction",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
}
RESUME = "not needed: the same command resumes"
LOADER = "not needed: images live on the device"
STORE = "--results names the store, --out the file that a command writes"
INSTEAD = {
    "resume": RESUME,
    "checkpoint": RESUME,
    "workers": LOADER,
    "num_workers": LOADER,
    "gpu": "use --device cuda or cuda:N",
    "gpus": "use --device cuda or cuda:N",
    "cpu": "use --device cpu",
    "output": STORE,
    "output_dir": STORE,
    "arch": "use --models",
    "steps": "use --budget, such as 1Msamples",
    "tensorboard": "train first, then run_bench.py export --to tensorboard",
    "mlflow": "train first, then run_bench.py export --to mlflow",
    "compile": "use --setting compiled",
}
TORCHVISION = re.compile(
    r"(wide_)?resnet(18|34|50|101|152)(_2)?|vit_[blh]_\d+|swin_(v2_)?[tsb]|convnext_(tiny|small|base|large)|"
    r"efficientnet_(b\d|v2_[sml])|mobilenet_v\d(_\w+)?|vgg\d+(_bn)?|densenet\d+"
)
TIMM = re.compile(r"\w+_patch\d+\w*|deit_\w+|resnetv2_\w+")


def flag_hint(flag: str) -> str | None:
    """What to use instead of another tool's flag; None for a flag that nobody is known to look for."""
    name = flag.lstrip("-").replace("-", "_")
    field = OTHER_NAMES.get(name, name)
    if field in FIELDS:
        return f"{field} is a recipe's field: write FILE.toml and use --recipe FILE.toml"
    return INSTEAD.get(name)


def model_hint(name: str) -> str | None:
    """How to write a model that is not in the catalogue; None where nothing is known of it."""
    if name.endswith(".py"):
        return f"add :FUNCTION, as in {name}:make_model"
    if TORCHVISION.fullmatch(name):
        return f"write torchvision:{name}"
    return f"write timm:{name}" if TIMM.fullmatch(name) else None
