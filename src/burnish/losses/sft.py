"""Supervised fine-tuning: cross-entropy on the response tokens only."""

from __future__ import annotations

from torch import Tensor


def sft_loss(logprobs: Tensor, n_tokens: int) -> Tensor:
    """Mean negative log-likelihood of the response tokens.

    L = -(1 / n) sum_t log p(y_t | y_<t, prompt), the sum over every token that carries loss.

    Args:
        logprobs: (N,) log-probabilities of the response tokens of this micro-batch, in nats.
        n_tokens: response tokens in the *whole* optimiser batch. Micro-batches then add up to the batch's mean,
            however unequal they are; a mean per micro-batch would weigh tokens of short ones more.

    Returns:
        This micro-batch's share of the loss, a scalar in nats per token.
    """
    if n_tokens <= 0:
        raise ValueError(f"n_tokens must be positive, got {n_tokens}")
    return -logprobs.sum() / n_tokens
