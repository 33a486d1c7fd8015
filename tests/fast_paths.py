"""Every fast path by the place that it goes through: to have all of them taken by tiny models, and to count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from burnish.data.groups import GroupBatch
from burnish.models import attention, blocks, gated, lora, lowrank, merged, norms, remade, turned
from burnish.models.trunk import Trunk, TrunkCache
from burnish.ops import entropy, logprobs, tiles
from burnish.rollout import cache, decoding, drawing, sampler

TRAINING: dict[str, tuple[Any, str]] = {
    "rows shared by responses": (attention.GroupPlan, "__init__"),
    "attention in blocks": (attention, "block_attention"),
    "norms as one node": (norms, "rms_norm"),
    "gated products as one node": (gated, "gated_product"),
    "inputs made again": (remade.Remaker, "remade"),
    "LoRA as one node": (lowrank._LoRAFunction, "forward"),
    "tiled log-probs": (logprobs._TokenLogprobs, "forward"),
    "negligible columns": (tiles, "columns_with_mass"),
    "tiled entropy": (entropy._TokenEntropy, "forward"),
    "several roles in one pass": (GroupBatch, "repeated"),
    "trunk": (Trunk, "states"),
    "kept trunk": (TrunkCache, "fill"),
}
SAMPLING: dict[str, tuple[Any, str]] = {
    "a cache by position": (cache.KVCache, "__init__"),
    "attention by a plan": (attention.CachePlan, "__init__"),
    "a common opening": (cache.KVCache, "spread"),
    "merged weights": (sampler, "merged_weights"),
    "turned products": (turned, "turned_linear"),
    "turned merged products": (lora, "turned_linear"),
    "tiles of logits": (drawing.Projection, "__call__"),
}


def everywhere(patch: pytest.MonkeyPatch) -> None:
    """Let tiny models take every fast path, with several tiles in both directions."""
    patch.setattr(blocks, "LEAST_TOKENS", 0)
    patch.setattr(blocks, "LEAST_SAVING", 0.0)
    patch.setattr(tiles, "TOKEN_TILE", 5)
    patch.setattr(tiles, "VOCAB_TILE", 20)
    patch.setattr(drawing, "_TILE", 40)
    patch.setattr(merged, "LEAST_PASSES", 1)
    patch.setitem(decoding.PASS_TOKENS, "cpu", 2)
    patch.setattr(sampler, "can_turn", lambda device, dtype: True)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each fast path is taken within."""
    found: Counter[str] = Counter()

    def noted(name: str, real: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        found[name] += 1
        return real(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, attribute) in (TRAINING | SAMPLING).items():
            watched = partial(noted, name, getattr(owner, attribute))
            # A partial is no method: of a class that is not a static one it has to be bound by a function.
            if isinstance(owner, type) and attribute != "forward":
                patch.setattr(owner, attribute, lambda self, *a, watched=watched, **k: watched(self, *a, **k))
            else:
                patch.setattr(owner, attribute, staticmethod(watched) if isinstance(owner, type) else watched)
        yield found
