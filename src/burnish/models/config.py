"""What of a model is trained, as configuration. Kept apart from torch, so that the command line starts at once."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from burnish.config import Config

ALL_LINEAR = "all-linear"
ALL_LAYERS = "all"
Precision = Literal["auto", "bfloat16", "float32"]
Compute = Literal["fast", "plain"]
"""How a model's passes are computed. `plain` is without any fast path, for comparison: docs/architecture.md has what is
left out."""


class LoRAConfig(Config):
    """What is adapted, and how strongly."""

    rank: int = Field(8, ge=1, le=4096)
    """r, the inner width of the update."""
    alpha: float = Field(16.0, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input, in training."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Layer names (`q_proj`), patterns over full paths (`*.layers.1?.mlp.*`), or `all-linear`: every linear layer
    but the output projection."""
    layers: str = ALL_LAYERS
    """Which decoder layers train: `all`, or `last-N`, the N nearest to the output. The others stay as the stage finds
    them, so that what they compute is computed once for all epochs and for all roles that share them."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732)."""
    init: Literal["kaiming", "normal"] = "kaiming"
    """How A starts: Kaiming uniform with a = sqrt(5), as the authors' code has it, or normal with deviation 1 / r."""
    trainable_tokens: tuple[str, ...] = ()
    """Tokens whose embedding rows (and output rows, where tied) are trained beside the adapter."""

    @field_validator("targets", "trainable_tokens", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one target, or use all-linear")
        return value

    @field_validator("layers")
    @classmethod
    def _known_layers(cls, value: str) -> str:
        if value != ALL_LAYERS and not re.fullmatch(r"last-[1-9][0-9]*", value):
            raise ValueError("give all, or last-N with N from 1, as in last-10")
        return value

    @model_validator(mode="after")
    def _token_rows_are_below(self) -> Self:
        if self.layers != ALL_LAYERS and self.trainable_tokens:
            raise ValueError("trainable_tokens train the embeddings, below the layers that stay: use layers: all")
        return self

    @property
    def scale(self) -> float:
        """The factor of B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)
