"""DPO's textbook loss beside ours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from burnish.data.groups import collate
from burnish.losses.preference import PairLogps, pair_logps, sigmoid
from burnish.models.roles import Backbone, response_logprobs
from tests.models.families import PAD_ID
from tests.models.test_core import TrueFloat64
from tests.textbook.pairs import GROUPS, assert_same, gradients, logits_of, model, rows
from textbook.dpo import dpo_loss, sequence_logprobs
from textbook.sft import IGNORE, prompt_masked_labels


def pairs(chosen: Tensor, rejected: Tensor) -> PairLogps:
    """Pairs of log-ratios: the reference's log-probs are 0."""
    zero, one = torch.zeros_like(chosen), torch.ones(len(chosen), dtype=torch.long)
    return PairLogps(chosen, rejected, zero, zero, one, one)


def test_equal_from_the_same_model_and_reference() -> None:
    with TrueFloat64():
        causal, reference = model(), model(seed=1)
        ids, lengths = rows()
        labels = prompt_masked_labels(ids, lengths, PAD_ID)
        summed = sequence_logprobs(logits_of(causal, ids), labels)
        ref = sequence_logprobs(logits_of(reference, ids), labels).detach()
        theirs = dpo_loss(summed[0::2], summed[1::2], ref[0::2], ref[1::2])
        their_gradients = gradients(causal, theirs)

        backbone, batch = Backbone(model()), collate(GROUPS)  # prompt, chosen and rejected in one row
        logprobs = response_logprobs(backbone.role(), batch)
        with torch.no_grad():
            our_ref = response_logprobs(Backbone(model(seed=1)).role(), batch).summed()
        loss = sigmoid(pair_logps(logprobs.summed(), logprobs.counts(), our_ref)).sum() / len(GROUPS)
        our_gradients = gradients(backbone.model, loss)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert_same(our_gradients, their_gradients)


def test_averaged_log_probs_are_another_loss() -> None:
    # The policy's tokens against a uniform reference over 4 tokens. Chosen: 2 tokens, each e times as likely as under
    # the reference; rejected: 5 tokens, each e^0.6 times. Summed: 2 - 3 = -1, the pair is wrong; averaged: 1 - 0.6 =
    # 0.4, the pair is right. -log sigmoid(-0.1) = 0.7444, -log sigmoid(0.04) = 0.6733.
    ids = torch.tensor([[IGNORE, 1, 1, IGNORE, IGNORE, IGNORE], [IGNORE, 1, 1, 1, 1, 1]])
    uniform = torch.full((2, 6, 4), 1 / 4, dtype=torch.float64).log()
    policy = uniform.clone()
    for row, gain in enumerate((1.0, 0.6)):
        p = math.exp(gain) / 4
        policy[row] = torch.tensor([(1 - p) / 3, p, (1 - p) / 3, (1 - p) / 3], dtype=torch.float64).log()
    losses = {}
    for average in (False, True):
        now, ref = (sequence_logprobs(logits, ids, average=average) for logits in (policy, uniform))
        losses[average] = dpo_loss(now[:1], now[1:], ref[:1], ref[1:]).item()
    assert losses[False] == pytest.approx(math.log1p(math.exp(0.1)))
    assert losses[True] == pytest.approx(math.log1p(math.exp(-0.04)))
    assert (round(losses[False], 4), round(losses[True], 4)) == (0.7444, 0.6733)
    ours = sigmoid(pairs(torch.tensor([2.0]), torch.tensor([3.0])), beta=0.1)
    assert ours.item() == pytest.approx(losses[False])


def test_a_mean_of_each_micro_batch_weighs_pairs_of_small_ones_more() -> None:
    # Micro-batches of one pair (h = 0) and of three (h = 20, loss log(1 + e^-2) = 0.1269). Over the batch
    # (0.6931 + 3 * 0.1269) / 4 = 0.2685; the mean of two means is (0.6931 + 0.1269) / 2 = 0.4100.
    even, sure = torch.zeros(1).double(), torch.full((3,), 20.0).double()
    theirs = (dpo_loss(even, 0 * even, 0 * even, 0 * even) + dpo_loss(sure, 0 * sure, 0 * sure, 0 * sure)) / 2
    ours = (sigmoid(pairs(even, 0 * even)).sum() + sigmoid(pairs(sure, 0 * sure)).sum()) / 4
    low = math.log1p(math.exp(-2.0))
    assert theirs.item() == pytest.approx((math.log(2) + low) / 2)
    assert ours.item() == pytest.approx((math.log(2) + 3 * low) / 4)
    assert (round(theirs.item(), 4), round(ours.item(), 4)) == (0.4100, 0.2685)
