"""Supervised fine-tuning with a prompt mask: cross-entropy, and -100 for what is not to be learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def prompt_masked_labels(input_ids: Tensor, prompt_lengths: Sequence[int], pad_id: int) -> Tensor:
    """(B, T) labels: the tokens themselves, with IGNORE in place of prompt and padding."""
    labels = input_ids.clone()
    labels[input_ids == pad_id] = IGNORE
    for row, length in enumerate(prompt_lengths):
        labels[row, :length] = IGNORE
    return labels


def sft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (B, T, V) logits: position t predicts token t + 1."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
