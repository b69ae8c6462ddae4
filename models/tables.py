"""Turn tables that a model keeps as plain tensors into buffers. Example: tables_to_buffers(model)

A plain tensor stays on the CPU when its model moves to a device. The model then copies it at every forward pass, and
the device waits for the host each time (vit-pytorch's SimpleViT does so with its positions).
"""

from __future__ import annotations

from torch import Tensor, nn


def tables_to_buffers(model: nn.Module) -> nn.Module:
    """Register each module's plain tensors as buffers outside the state_dict; returns the same model."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not hasattr(type(module), name):  # a class's default would hide the buffer
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)
    return model
