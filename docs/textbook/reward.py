"""A reward model: a frozen backbone, a linear head on the last token, the Bradley-Terry loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RewardModel(nn.Module):
    """A score for each row of token ids.

    Args:
        backbone: a decoder that returns `last_hidden_state`; its weights are frozen.
        width: D, its hidden size.
        pad_id: the padding token.
    """

    def __init__(self, backbone: nn.Module, width: int, pad_id: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(width, 1, bias=False)
        self.pad_id = pad_id

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B,) scores of (B, T) token ids."""
        with torch.no_grad():
            hidden = self.backbone(input_ids, attention_mask=input_ids != self.pad_id).last_hidden_state
        return self.head(hidden[torch.arange(len(hidden)), last_token(input_ids, self.pad_id)]).squeeze(-1)


def last_token(input_ids: Tensor, pad_id: int) -> Tensor:
    """(B,) the place of each row's last token that is not padding."""
    return (input_ids != pad_id).sum(1) - 1


def reward_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected) over (P,) pairs."""
    return -F.logsigmoid(chosen - rejected).mean()
