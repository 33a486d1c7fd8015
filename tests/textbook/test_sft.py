"""SFT's textbook loss beside ours."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.data.groups import PromptGroup, Response, collate
from burnish.losses.sft import sft_loss as ours
from burnish.models.roles import Backbone, response_logprobs
from tests.models.families import PAD_ID
from tests.models.test_core import TrueFloat64
from tests.textbook.pairs import GROUPS, assert_same, gradients, logits_of, model, rows
from textbook.sft import IGNORE, prompt_masked_labels, sft_loss


def logits_with(probabilities: list[list[float]]) -> torch.Tensor:
    """(1, T, 4) logits whose softmax gives those probabilities to token 1; the rest goes to token 0."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([1 - first, first, torch.zeros_like(first), torch.zeros_like(first)], -1).log()


def test_equal_on_a_whole_batch() -> None:
    with TrueFloat64():
        causal = model()
        ids, lengths = rows()
        theirs = sft_loss(logits_of(causal, ids), prompt_masked_labels(ids, lengths, PAD_ID))
        their_gradients = gradients(causal, theirs)
        backbone = Backbone(model())
        batch = collate(GROUPS)
        loss = ours(response_logprobs(backbone.role(), batch).token, batch.n_loss_tokens)
        our_gradients = gradients(backbone.model, loss)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert_same(our_gradients, their_gradients)


def test_a_mean_of_each_micro_batch_is_not_the_mean_of_the_batch() -> None:
    # Micro-batches of one token (1/16: 4 ln 2) and of three (1/2, 1/2, 1/2: ln 2 each). Over the batch that is
    # (4 + 1 + 1 + 1) / 4 ln 2 = 1.75 ln 2; the mean of the two means is (4 + 1) / 2 ln 2 = 2.5 ln 2.
    first, second = logits_with([[1 / 16, 1.0]]), logits_with([[1 / 2, 1 / 2, 1 / 2, 1.0]])
    labels = [torch.tensor([[IGNORE, 1]]), torch.tensor([[IGNORE, 1, 1, 1]])]
    theirs = (sft_loss(first, labels[0]) + sft_loss(second, labels[1])) / 2
    logprobs = [-4 * math.log(2) * torch.ones(1), -math.log(2) * torch.ones(3)]
    assert theirs.item() == pytest.approx(2.5 * math.log(2))
    assert (ours(logprobs[0], 4) + ours(logprobs[1], 4)).item() == pytest.approx(1.75 * math.log(2))


def test_where_padding_is_the_stop_token_the_stop_token_is_never_learned() -> None:
    # Prompt 5, response "1" and the end 2, which is the padding too. The response's token has probability 1/2, its end
    # 1/8: (ln 2 + ln 8) / 2 = 2 ln 2. The mask by token id hides the end: ln 2.
    stop = 2
    ids = torch.tensor([[5, 1, stop, stop]])
    logits = torch.full((1, 4, 6), -math.inf, dtype=torch.float64)
    logits[0, 0, [0, 1]] = torch.tensor([1 / 2, 1 / 2], dtype=torch.float64).log()
    logits[0, 1, [0, stop]] = torch.tensor([7 / 8, 1 / 8], dtype=torch.float64).log()
    logits[0, 2:] = 0.0
    labels = prompt_masked_labels(ids, [1], pad_id=stop)
    assert labels.tolist() == [[IGNORE, 1, IGNORE, IGNORE]]
    assert sft_loss(logits, labels).item() == pytest.approx(math.log(2))
    # Ours marks tokens by their place: the response holds its end, and padding is in no response.
    batch = collate([PromptGroup((5,), (Response.full((1, stop)),))], pad_to_multiple=4)
    assert batch.targets.tolist() == [1, stop]
    logprobs = logits.log_softmax(-1)[0][batch.predictors, batch.targets]
    assert ours(logprobs, batch.n_loss_tokens).item() == pytest.approx(2 * math.log(2))


def test_without_a_label_the_mean_is_no_number() -> None:
    labels = torch.full((1, 3), IGNORE)
    assert math.isnan(sft_loss(torch.zeros(1, 3, 4), labels).item())
    with pytest.raises(ValueError, match="positive"):
        ours(torch.zeros(0), 0)
