"""An adapter folded into a copy of the weights, for the length of many forward passes: W' = W + (alpha / r) B A.

The copy is handed to the LoRA layers in the route (`routing.py`), like the adapter's name: nothing on the model
changes, the base weights stay as they are, and the copy is gone when the route is. To write a merged model to disk see
`export.py`.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from burnish.models.lora import LoRALinear, lora_layers
from burnish.models.roles import Backbone

SHARE = 8
"""The copy may take 1 / 8 of the device's memory where nobody asked for it. Of all its memory, not of what is free: the
choice changes rounding, and a resumed run must choose as the first one did."""
LEAST_PASSES = 32
"""Forward passes from which on merging pays: it costs about as much as two of them."""
EXACT = (torch.float32, torch.float64)
"""Dtypes in which merged and separate weights differ by rounding of no consequence."""


def merge_pays(backbone: Backbone, adapter: str, passes: int) -> bool:
    """Whether to merge where nobody said so: in full precision, for a long call, if the copy is small.

    Args:
        backbone: the model.
        adapter: the adapter's name.
        passes: forward passes that are to come.
    """
    layers = [layer for _, layer in lora_layers(backbone.model, adapter)]
    exact = backbone.compute_dtype in EXACT and all(layer.weight.dtype == backbone.compute_dtype for layer in layers)
    return exact and passes >= LEAST_PASSES and SHARE * merged_bytes(backbone, adapter) <= total_memory(backbone.device)


def merged_bytes(backbone: Backbone, adapter: str) -> int:
    """Bytes of what `merged_weights` makes."""
    width = torch.empty((), dtype=backbone.compute_dtype).element_size()
    return width * sum(layer.weight.numel() for _, layer in lora_layers(backbone.model, adapter))


@torch.no_grad()
def merged_weights(backbone: Backbone, adapter: str) -> dict[nn.Module, Tensor]:
    """(O, I) merged weight of every layer that holds the adapter, in the dtype of the activations.

    The sum is made in the adapter's precision (float32 or wider) and rounded once. Trainable token rows are not part
    of it: they are looked up by the adapter's name as before.
    """
    with torch.autocast(backbone.device.type, enabled=False):
        layers = [layer for _, layer in lora_layers(backbone.model, adapter)]
        return {layer: _merged(layer, adapter, backbone.compute_dtype) for layer in layers}


def _merged(layer: LoRALinear, adapter: str, dtype: torch.dtype) -> Tensor:
    delta = layer.delta(adapter)
    return delta.add_(layer.weight.to(delta.dtype)).to(dtype)


def total_memory(device: torch.device) -> int:
    """Bytes of memory of a device, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
