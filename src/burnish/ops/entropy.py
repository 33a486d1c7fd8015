"""Placeholder."""

from torch import Tensor

from burnish.ops.logprobs import OutputHead


def token_entropy(hidden: Tensor, head: OutputHead) -> Tensor:
    import torch

    logp = torch.log_softmax(head.logits(hidden).float(), -1)
    return -(logp.exp() * logp).sum(-1)
