"""Direct preference optimisation from the log-probs of whole responses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from textbook.sft import IGNORE


def sequence_logprobs(logits: Tensor, labels: Tensor, *, average: bool = False) -> Tensor:
    """(B,) log-probs of the labelled tokens, summed over each row, or averaged."""
    labels = labels[:, 1:]
    mask = labels != IGNORE
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    total = (logprobs * mask).sum(1)
    return total / mask.sum(1) if average else total


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Mean of -log sigmoid(beta h) over (P,) pairs, h = log (pi / ref)(chosen) - log (pi / ref)(rejected)."""
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()
