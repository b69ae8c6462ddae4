"""A spec's model and batches. Example: model = build_model(spec)"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from bench.data.datasets import Dataset
from bench.data.loader import Batches
from bench.measure.step import Note, arrange
from bench.plan.spec import RunSpec
from models import registry
from models.drop_path import set_drop_path


def build_model(spec: RunSpec, note: Note = lambda text: None) -> nn.Module:
    """The spec's model on the CPU, its weights determined by the seed alone, in the setting's memory format.

    `note` gets a sentence where the model does not support the recipe's drop_path.
    """
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)  # a model from a file may draw from these two
    np.random.seed(spec.seed)
    model = registry.build(spec.model, spec.data.num_classes, spec.data.image_size)
    rate = spec.recipe.drop_path
    if not set_drop_path(model, rate) and rate:
        note(f"the recipe's drop_path of {rate:g} applies to no block of this model; it was trained without it")
    return arrange(model, spec.setting)


def make_batches(spec: RunSpec, dataset: Dataset, device: torch.device) -> Batches:
    """The training part as batches on the device, augmented there."""
    images, labels = dataset.arrays.train_x[dataset.train_index], dataset.arrays.train_y[dataset.train_index]
    layout = spec.setting.memory_format
    return Batches.create(images, labels, spec.recipe, spec.data.num_classes, spec.seed, device, layout)
