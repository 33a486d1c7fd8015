"""A decoder's layers: by number, checkpointed, and in forward passes over a part of them.

transformers gives no way to enter a decoder in its middle that all families share. So each layer's forward is wrapped
once: in a pass over a part, the layers outside of it hand on what they get, and the first one inside takes the given
states in place of its input. Embeddings, positions and masks are made as in any other pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from burnish.errors import AdapterError, ModelError
from burnish.models.config import ALL_LAYERS
from burnish.models.routing import recompute_contexts

_WRAPPED = "_burnish_parts"


@dataclass
class _Part:
    """Layers `start` to `stop` (not included; none for the last) of one forward pass.

    `hidden` goes in at layer `start`, or is what would have gone in at layer `stop`.
    """

    start: int
    stop: int | None
    hidden: Tensor | None = None


_PART: ContextVar[_Part | None] = ContextVar("burnish_part", default=None)


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The path of a model's list of decoder layers, and the list.

    Raises:
        ModelError: there is no list with as many modules as the configuration has layers.
    """
    config: Any = model.config
    decoder = model.get_decoder()  # type: ignore[operator]
    n_layers = config.get_text_config().num_hidden_layers
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    for name, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return ".".join(part for part in (prefix, name) if part), module
    raise ModelError(f"no list of {n_layers} layers is found in this model ({config.model_type})")


def layer_number(path: str, prefix: str) -> int | None:
    """The number of the decoder layer that a path leads into, from 0; none for what is outside of them."""
    if not path.startswith(f"{prefix}."):
        return None
    head = path[len(prefix) + 1 :].split(".", 1)[0]
    return int(head) if head.isdigit() else None


def first_trained_layer(model: nn.Module, layers: str) -> int:
    """The number of the lowest decoder layer that trains under `LoRAConfig.layers`.

    Raises:
        AdapterError: the model has fewer layers than are named.
    """
    if layers == ALL_LAYERS:
        return 0
    n_layers = len(decoder_layers(model)[1])
    wanted = int(layers.removeprefix("last-"))
    if wanted > n_layers:
        raise AdapterError(
            f"{layers} asks for more layers than the model has ({n_layers})",
            where="lora.layers",
            fix=f"use all, or last-1 to last-{n_layers}",
        )
    return n_layers - wanted


def trained_paths(model: nn.Module, paths: Iterable[str], layers: str) -> list[str]:
    """The paths that lead into the layers that train under `LoRAConfig.layers`; `all` holds what is outside of the
    decoder's layers too.

    Raises:
        AdapterError: the model has fewer layers than are named.
    """
    if layers == ALL_LAYERS:
        return list(paths)
    prefix, lowest = decoder_layers(model)[0], first_trained_layer(model, layers)
    return [path for path in paths if (number := layer_number(path, prefix)) is not None and number >= lowest]


def checkpoint_layers(model: nn.Module) -> None:
    """Let each decoder layer keep its input only and compute the rest again in backward, on the same route.

    transformers' own switch works in training mode only, which would wake the backbone's dropout.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            if hasattr(layer, _WRAPPED):  # what is computed again would not know which part it belongs to
                raise ModelError("layers are checkpointed before passes over a part of them, not after")
            layer.forward = _checkpointed(layer.forward)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=recompute_contexts, **kwargs)

    return wrapped


@contextmanager
def only_below(depth: int) -> Iterator[Callable[[], Tensor]]:
    """Forward passes within run the layers below `depth`; the value gives (B, T, D), what the next one would take."""
    part = _Part(0, depth)

    def reached() -> Tensor:
        assert part.hidden is not None
        return part.hidden

    token = _PART.set(part)
    try:
        yield reached
    finally:
        _PART.reset(token)


@contextmanager
def only_from(depth: int, hidden: Tensor) -> Iterator[None]:
    """Forward passes within run the layers from `depth` on, on `hidden` (B, T, D)."""
    token = _PART.set(_Part(depth, None, hidden))
    try:
        yield
    finally:
        _PART.reset(token)


def allow_parts(model: nn.Module) -> None:
    """Make `only_below` and `only_from` work for a model. Safe to call again.

    Raises:
        ModelError: the model's layers can't be found.
    """
    layers = decoder_layers(model)[1]
    gives_tuples: set[int] = set()
    for number, layer in enumerate(layers):
        if not hasattr(layer, _WRAPPED):
            layer.forward = _in_parts(layer.forward, number, gives_tuples)
            setattr(layer, _WRAPPED, True)


def _in_parts(forward: Callable[..., Any], number: int, gives_tuples: set[int]) -> Callable[..., Any]:
    def wrapped(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        part = _PART.get()
        if part is not None:
            if number == part.stop:
                part.hidden = hidden_states
            if number < part.start or (part.stop is not None and number >= part.stop):
                return (hidden_states,) if gives_tuples else hidden_states
            if number == part.start and part.hidden is not None:
                hidden_states = part.hidden
        out = forward(hidden_states, *args, **kwargs)
        if isinstance(out, tuple):
            gives_tuples.add(number)
        return out

    return wrapped
