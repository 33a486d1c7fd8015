"""Merging an adapter into the weights, proved at the time of merging, and writing models that other tools load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import AdapterError
from burnish.models.heads import score
from burnish.models.lora import LoRALinear, lora_layers
from burnish.models.roles import Backbone
from burnish.models.token_rows import TokenRowsEmbedding, token_rows_of

# What rounding may do to logits, relative to their size: the merged weight is rounded once to the dtype, the adapter's
# path keeps base and update apart.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """Evidence that a merge did what it should, over the logits (a reward model's scores) at a few probe positions.

    Attributes:
        error: root mean square of (merged - adapter) logits or scores, over that of the adapter's.
        effect: the same of (adapter - base): what the adapter changes.
        tolerance: the most that `error` may be in this dtype.
    """

    error: float
    effect: float
    tolerance: float


@torch.no_grad()
def merge(backbone: Backbone, adapter: str, probes: list[list[int]], *, head: Tensor | None = None) -> MergeCheck:
    """Merge an adapter into its backbone's weights, in place, and verify it.

    All the model's adapters are gone afterwards, and its layers are plain again.

    Args:
        backbone: the model; its weights change.
        adapter: the adapter to merge.
        probes: token ids of a few texts to compare on.
        head: (1, D) of a reward model: its scores are compared in place of logits, the merged ones with the head
            rounded as the weights are, as it will be written.

    Raises:
        AdapterError: when the merged logits or scores are not the adapter's, or are the base's: the merge had no
            effect. The model must not be used then.
    """
    model, what = backbone.model, "logits" if head is None else "scores"
    base = _probe(backbone, None, probes, head)
    adapted = _probe(backbone, adapter, probes, head)
    for path, layer in list(lora_layers(model)):
        if adapter in layer.configs:
            _merge_layer(path, layer, adapter)
        _put(model, path, layer.base)
    _merge_token_rows(model, adapter)
    written = None if head is None else head.to(next(model.parameters()).dtype).to(head.dtype)
    check = _compare(base, adapted, _probe(backbone, None, probes, written), backbone.compute_dtype)
    if check.effect <= 0.01 * check.tolerance:
        raise AdapterError(
            f"the adapter changes nothing: its {what} are the base's, but for rounding",
            where=adapter,
            fix="was it trained? An adapter starts with B = 0",
        )
    if not check.error <= check.tolerance or check.error > 0.5 * check.effect:
        raise AdapterError(
            f"the merged model is not the adapted one: relative error of its {what} {check.error:.2e}, allowed "
            f"{check.tolerance:.0e}; the adapter's own effect is {check.effect:.2e}",
            where=adapter,
            fix="merge in a wider dtype (--dtype float32)",
        )
    return check


def _merge_layer(path: str, layer: LoRALinear, adapter: str) -> None:
    """Add s B A to a layer's weight and look at what arrived there: it may be off by one rounding, no more."""
    weight = layer.weight
    wanted = weight.to(layer.lora_a[adapter].dtype) + layer.delta(adapter)
    weight.copy_(wanted.to(weight.dtype))
    arrived: Tensor = layer.base.weight  # type: ignore[assignment]
    off = ((arrived.T if layer.transposed else arrived).to(wanted.dtype) - wanted).abs()
    if not bool((off <= torch.finfo(weight.dtype).eps * wanted.abs().clamp_min(1e-30)).all()):
        raise AdapterError("the merged weight is not the base's plus the adapter's", where=path)


def _probe(backbone: Backbone, adapter: str | None, probes: list[list[int]], scalar: Tensor | None) -> Tensor:
    """(positions, V) logits, or (positions,) scores by a scalar head, in float32 or wider after every probe token."""
    role = backbone.role(adapter)
    dtype = torch.float64 if backbone.compute_dtype == torch.float64 else torch.float32
    found = []
    for ids in probes:
        batch = collate([PromptGroup(tuple(ids[:1]), (Response.full(ids[1:]),))], layout=backbone.layout)
        hidden = backbone.hidden_states(batch.to(backbone.device), role.route())[0]
        found.append(role.head().logits(hidden).to(dtype) if scalar is None else score(hidden, scalar))
    return torch.cat(found)


def _compare(base: Tensor, adapted: Tensor, merged: Tensor, dtype: torch.dtype) -> MergeCheck:
    size = adapted.square().mean().sqrt()
    error = (merged - adapted).square().mean().sqrt() / size
    effect = (adapted - base).square().mean().sqrt() / size
    return MergeCheck(error.item(), effect.item(), _TOLERANCE[dtype])


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _merge_token_rows(model: nn.Module, adapter: str) -> None:
    own = token_rows_of(model, adapter)
    for path, module in list(model.named_modules()):
        if isinstance(module, TokenRowsEmbedding):
            if own is not None:
                module.base.weight[own[0]] = own[1].to(module.weight.dtype)
            _put(model, path, module.base)


def write_model(model: nn.Module, tokenizer: Any, directory: Path, *, stop_ids: Sequence[int]) -> None:
    """Write a plain model and its tokenizer as a Hugging Face directory with safetensors.

    Args:
        model: a model without adapters.
        tokenizer: with its chat template.
        directory: an existing directory (see `files.atomic_directory`).
        stop_ids: what `generation_config.json` names as end of sequence, so that other tools stop there.

    Raises:
        AdapterError: when the model still holds adapters.
    """
    if any(isinstance(module, LoRALinear | TokenRowsEmbedding) for module in model.modules()):
        raise AdapterError("the model still holds adapters; merge one first")
    generation = model.generation_config
    generation.eos_token_id = list(stop_ids) if len(stop_ids) > 1 else stop_ids[0]  # type: ignore[union-attr]
    # Sampling settings of the catalog's or the hub's model are not ours to keep or to judge; an inconsistent set of
    # them would make transformers refuse to save.
    for field in ("temperature", "top_p", "top_k", "do_sample"):
        if hasattr(generation, field):
            setattr(generation, field, None)
    from transformers.utils import logging

    attention, bars = model.config._attn_implementation, logging.is_progress_bar_enabled()  # type: ignore[union-attr]
    model.config._attn_implementation = "sdpa"  # type: ignore[union-attr]
    logging.disable_progress_bar()  # a second's bar would only stay on the screen
    try:
        model.save_pretrained(directory, safe_serialization=True)  # type: ignore[operator]
    finally:
        model.config._attn_implementation = attention  # type: ignore[union-attr]
        if bars:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(directory)
