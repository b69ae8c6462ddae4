"""A trained model's weights as one safe file. Example: weights_file(model, batches, report)

Every parameter and buffer of the state dict, as the test images met them, and in the metadata how their pixels were
normalised. `run_bench.py weights` prints how to load it.
"""

from __future__ import annotations

import json

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bench.core.events import Note, Report
from bench.core.status import one_line
from bench.data.loader import Batches
from bench.store.disk import WEIGHTS


def weights_file(model: nn.Module, batches: Batches, report: Report) -> dict[str, bytes]:
    """The file by its name; none, with a note, of a model that cannot be kept: its run is worth more than its weights.

    Metadata: `mean` and `std` of the training images' channels in 0..255, as JSON.
    """
    metadata = {"mean": json.dumps(batches.mean.tolist()), "std": json.dumps(batches.std.tolist())}
    try:
        # copies, since safetensors takes neither tensors that share their memory nor other memory formats
        tensors = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in _tensors(model).items()
        }
        return {WEIGHTS: save(tensors, metadata)}
    except Exception as error:  # a data type that safetensors lacks, too little memory for the copy
        report(Note(f"the weights could not be kept: {one_line(error)}"))
        return {}


def weights_bytes(model: nn.Module) -> int:
    """How many bytes of weights a run of the model keeps, without the file's header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(model).values())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
