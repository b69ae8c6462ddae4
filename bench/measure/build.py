"""A spec's model and batches. Example: model = build_model(spec)"""

from __future__ import annotations

import contextlib
import random
import sys
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bench.core.status import one_line
from bench.data.datasets import Dataset
from bench.data.loader import Batches
from bench.measure.step import Note, arrange, layout, undisturbed
from bench.measure.switches import in_mode, kept
from bench.plan.spec import RunSpec, Setting
from models import registry
from models.drop_path import set_drop_path

CONTIGUOUS = Setting(memory_format="contiguous")


def build_model(spec: RunSpec, note: Note = lambda text: None) -> nn.Module:
    """The spec's model on the CPU, its weights determined by the seed alone, in the setting's memory format.

    `note` gets a sentence for each of these: the model does not support the recipe's drop_path; it does not run in the
    setting's memory format; its code changed switches of the process.
    """
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)  # a model from a file may draw from these two
    np.random.seed(spec.seed)
    model = build_plain(spec.model, spec.data.num_classes, spec.data.image_size, note)
    rate = spec.recipe.drop_path
    if not set_drop_path(model, rate) and rate:
        note(f"the recipe's drop_path of {rate:g} applies to no block of this model; it was trained without it")
    return arrange_as_far(model, spec.model, spec.setting, spec.data.image_size, note)


def build_plain(name: str, num_classes: int, image_size: int, note: Note = lambda text: None) -> nn.Module:
    """The model as its author builds it, every weight initialised. `note` is told of switches that were put back.

    Raises ModelError, and whatever the model's own code raises.
    """
    with kept(note):
        model = registry.build(name, num_classes, image_size)
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            _look(model, image_size)  # lazy layers take their sizes from the first images that they see
    return model


def arrange_as_far(model: nn.Module, name: str, setting: Setting, image_size: int, note: Note) -> nn.Module:
    """The model as the setting says; in the contiguous format, with a note, where it does not run in channels_last.

    The setting's batches stay in channels_last, so such a model gets a contiguous copy of each. Only models from
    elsewhere are tried: those of the catalogue run in both formats.
    """
    if setting.memory_format == "contiguous" or not registry.is_external(name):
        return arrange(model, setting)

    def failure(tried: Setting) -> Exception | None:
        try:
            arrange(model, tried)
            with kept(), undisturbed(torch.device("cpu")):
                _look(model, image_size, tried)
        except Exception as error:  # view() on a convolution's output, parameters of five dimensions
            return error
        return None

    error = failure(setting)
    if error is None:
        return model
    if failure(replace(setting, memory_format="contiguous")) is not None:
        return arrange(model, setting)  # the format is not to blame
    model.register_forward_pre_hook(lambda module, images: tuple(x.contiguous() for x in images))
    note(f"this model does not run in channels_last ({one_line(error)}): it ran in the contiguous format")
    return model


def _look(model: nn.Module, image_size: int, setting: Setting = CONTIGUOUS) -> None:
    """One forward pass over two black images in eval mode."""
    images = torch.zeros(2, 3, image_size, image_size).contiguous(memory_format=layout(setting))
    # a model that compiles itself would compile this pass, too
    compiles = "torch._dynamo" in sys.modules
    eagerly = torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
    with eagerly, torch.no_grad(), in_mode(model, training=False):
        model(images)


def make_batches(spec: RunSpec, dataset: Dataset, device: torch.device) -> Batches:
    """The training part as batches on the device, augmented there."""
    images, labels = dataset.arrays.train_x[dataset.train_index], dataset.arrays.train_y[dataset.train_index]
    memory_format = spec.setting.memory_format
    return Batches.create(images, labels, spec.recipe, spec.data.num_classes, spec.seed, device, memory_format)
