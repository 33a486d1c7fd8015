"""One attention function for the shared-prompt layout and for decoding with a cache.

transformers hands q, k and v of every layer to a registered function and passes extra keyword arguments of the
model's forward through to it. burnish registers its own under `burnish` and passes `attention_plan`, which knows
who may see whom. Sliding windows are taken from position ids, not from row offsets: in
`[prompt | response 0 | response 1]` the second response stands far from its prompt in the row, not in the sequence.

Legend: B rows, H heads, Q query tokens, S key tokens.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.data.groups import PAD_SEGMENT, PROMPT_SEGMENT, GroupBatch
from burnish.errors import ModelError
from burnish.models.blocks import Block, block_attention, blocks_of
from burnish.models.sequences import Sequences, kernel_takes, sequence_attention, sequences_of

ATTENTION_NAME = "burnish"
_MASKABLE_LAYERS = {"full_attention", "sliding_attention"}


class AttentionPlan(Protocol):
    """Who may see whom, for one forward pass."""

    def mask(self, window: int | None) -> Tensor | None:
        """(B or 1, 1, Q, S) boolean mask, True where a query may see a key; None for plain causal attention."""
        ...

    def blocks(self, window: int | None) -> list[list[Block]] | None:
        """The same as blocks of each row, where that is less work; None where it is not."""
        ...

    def sequences(self, window: int | None) -> Sequences | None:
        """The same as sequences for a kernel of a GPU; None where there is no mask to be spared."""
        ...


class GroupPlan:
    """The shared-prompt layout: a token sees its prompt and its own response, causally, within the window.

    Args:
        segment_ids: (B, T) 0 prompt, 1... responses, -1 padding.
        position_ids: (B, T) positions in the sequence.
    """

    def __init__(self, segment_ids: Tensor, position_ids: Tensor) -> None:
        self.segment_ids, self.position_ids = segment_ids, position_ids
        self._masks: dict[int | None, Tensor] = {}
        self.windows_asked: set[int | None] = set()
        # One response a row and padding on the right: a real token sees all that stands before it, which is what
        # plain causal attention computes, without a mask.
        self._one_response = bool(segment_ids.max() <= 1)
        self._span = int(position_ids.max()) + 1
        self._blocks: dict[int | None, list[list[Block]] | None] = {}

    @classmethod
    def of(cls, batch: GroupBatch) -> GroupPlan:
        """The plan of a batch."""
        return cls(batch.segment_ids, batch.position_ids)

    def mask(self, window: int | None) -> Tensor | None:
        window = self._narrow(window)
        if self._one_response and window is None:
            return None
        if window not in self._masks:
            self._masks[window] = self._build(window)
        return self._masks[window]

    def blocks(self, window: int | None) -> list[list[Block]] | None:
        window = self._narrow(window)
        if self.segment_ids.device.type != "cpu" or (self._one_response and window is None):
            return None
        if window not in self._blocks:
            self._blocks[window] = blocks_of(self.segment_ids, window)
        return self._blocks[window]

    def sequences(self, window: int | None) -> Sequences | None:
        window = self._narrow(window)
        return None if self._one_response and window is None else self._sequences

    @cached_property
    def _sequences(self) -> Sequences | None:
        return sequences_of(self.segment_ids)

    def _narrow(self, window: int | None) -> int | None:
        """The window, or none where the sequences are no longer than it."""
        self.windows_asked.add(window)
        return None if window is not None and window >= self._span else window

    def _build(self, window: int | None) -> Tensor:
        query, key = self.segment_ids.unsqueeze(2), self.segment_ids.unsqueeze(1)
        width = self.segment_ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=query.device).tril()
        seen = causal & ((key == query) | (key == PROMPT_SEGMENT)) & (key != PAD_SEGMENT)
        if window is not None:
            seen &= self.position_ids.unsqueeze(2) - self.position_ids.unsqueeze(1) < window
        # Padding sees itself: a query that sees nothing would be 0 / 0.
        seen |= torch.eye(width, dtype=torch.bool, device=query.device)
        return seen.unsqueeze(1)


class CachePlan:
    """New tokens against a cache: a token sees every cached key that is in use, at its position or before.

    Args:
        key_positions: (B, S) the position of each cached key, -1 where the slot is not in use.
        query_positions: (B, Q) positions of the new tokens.
    """

    def __init__(self, key_positions: Tensor, query_positions: Tensor) -> None:
        self.key_positions, self.query_positions = key_positions, query_positions
        self._masks: dict[int | None, Tensor] = {}
        self._span = int(query_positions.max()) + 1

    def mask(self, window: int | None) -> Tensor | None:
        if window is not None and window >= self._span:
            window = None
        if window not in self._masks:
            key, query = self.key_positions.unsqueeze(1), self.query_positions.unsqueeze(2)
            seen = (key >= 0) & (key <= query)
            if window is not None:
                seen = seen & (query - key < window)
            # A padding query must see something: 0 / 0 otherwise. What it computes is never read.
            seen = seen | ~seen.any(-1, keepdim=True)
            self._masks[window] = seen.unsqueeze(1)
        return self._masks[window]

    def blocks(self, window: int | None) -> list[list[Block]] | None:
        return None

    def sequences(self, window: int | None) -> Sequences | None:
        return None


def group_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_plan: AttentionPlan | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the attention layer (not read).
        query: (B, H, Q, head) queries.
        key: (B, H or fewer, S, head) keys; fewer heads are shared (grouped-query attention).
        value: like `key`.
        attention_mask: must be None; the plan says who sees whom.
        attention_plan: of this forward pass.
        scaling: factor of the scores, 1 / sqrt(head) if none.
        dropout: of the attention weights.
        sliding_window: how many positions back a token sees, itself included, or none.
        softcap: Gemma 2's cap of the scores.

    Returns:
        (B, Q, H, head), and None in place of the weights.

    Raises:
        ModelError: when the model asks for what the plan does not know: a mask of its own, or a way of attending that
            is not understood. Leaving it out would be wrong in silence.
    """
    _demand_understood(attention_mask, attention_plan, kwargs)
    assert attention_plan is not None
    own_scores = softcap is not None or kwargs.get("s_aux") is not None
    plain_scores = not own_scores and not dropout and query.shape[-1] == value.shape[-1]
    if plain_scores and (rows := attention_plan.blocks(sliding_window)) is not None:
        return block_attention(query, key, value, rows, scaling), None
    if plain_scores and kernel_takes(query) and (found := attention_plan.sequences(sliding_window)) is not None:
        return sequence_attention(query, key, value, found, scaling, sliding_window), None
    mask = attention_plan.mask(sliding_window)
    heads, length = query.shape[1:3]
    if length == 1 and mask is not None and kwargs.get("s_aux") is None and key.shape[1] != heads:
        # One new token: the heads that share a key head become its queries, and each key is read once for all of them.
        query = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    if own_scores:
        out = _eager(query, key, value, mask, scaling, dropout, softcap, kwargs.get("s_aux"))
    else:
        causal = mask is None and query.shape[2] > 1
        grouped = key.shape[1] != query.shape[1]
        if grouped and mask is not None and query.is_cuda:  # with a mask, CUDA's fast kernels want whole heads
            share = query.shape[1] // key.shape[1]
            key, value, grouped = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1), False
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=scaling,
            enable_gqa=grouped,
        )
    return out.reshape(out.shape[0], heads, length, -1).transpose(1, 2).contiguous(), None


# What models pass on to attention that changes nothing here: positions (the plan has them), outputs, cache places.
_HARMLESS = {
    "position_ids", "cache_position", "output_attentions", "use_cache", "is_causal", "s_aux", "position_bias",
    "output_router_logits", "return_dict", "position_embeddings", "logits_to_keep", "head_mask",
}  # fmt: skip


def _demand_understood(attention_mask: Tensor | None, plan: AttentionPlan | None, extra: dict[str, Any]) -> None:
    if plan is None:
        raise ModelError(
            "this model is set up for burnish's forward passes and can't be called on its own",
            fix="load it once more with load_model for generate() and the like",
        )
    odd = sorted(name for name, value in extra.items() if value is not None and name not in _HARMLESS)
    if attention_mask is not None or extra.get("position_bias") is not None:
        odd.insert(0, "a mask of its own")
    if odd:
        raise ModelError(f"the model's attention asks for what the shared layout does not know: {', '.join(odd)}")


def _eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with capped scores (Gemma 2) or with sinks, learned extra logits that take weight and give nothing."""
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, dim=-1, dtype=dtype).to(value.dtype)
    weights = weights[..., : key.shape[2]]
    return F.dropout(weights, dropout) @ value


def register_attention() -> None:
    """Make `group_attention` known to transformers. Safe to call again.

    Only the attention is registered, no mask maker: transformers then builds no mask of its own.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if ATTENTION_NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, group_attention)


def stock_attention(model: nn.Module) -> str:
    """The attention of transformers that a model runs with when burnish's does not hold it."""
    return "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"


def supports_shared_layout(model: nn.Module) -> bool:
    """Whether all layers attend through transformers' attention interface, so that they can be masked per token.

    Recurrent and linear-attention layers, and models with attention code of their own, can't; they get a row a
    response.
    """
    config: Any = model.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    return bool(
        getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and kinds <= _MASKABLE_LAYERS
    )
