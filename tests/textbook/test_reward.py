"""The textbook's reward model beside ours."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.data.groups import PromptGroup, Response, collate
from burnish.losses.reward import bradley_terry
from burnish.models.heads import Scorer, new_head, score
from burnish.models.roles import Backbone
from tests.models.families import EOS_ID, PAD_ID
from tests.models.test_core import TrueFloat64
from tests.textbook.pairs import GROUPS, model, rows
from textbook.reward import RewardModel, last_token, reward_loss


def test_equal_with_a_frozen_backbone_and_padding_of_its_own() -> None:
    with TrueFloat64():
        backbone = Backbone(model())
        ours = Scorer(backbone.role(), new_head(backbone, seed=3))
        scores = ours.scores(collate(GROUPS))
        loss = bradley_terry(scores[0::2], scores[1::2]).mean()
        loss.backward()
        theirs = RewardModel(model().base_model, width=32, pad_id=PAD_ID).double()
        theirs.head.weight.data.copy_(ours.head.data)
        their_scores = theirs(rows()[0])
        their_loss = reward_loss(their_scores[0::2], their_scores[1::2])
        their_loss.backward()
    torch.testing.assert_close(scores, their_scores, rtol=1e-10, atol=1e-12)
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-12)
    torch.testing.assert_close(ours.head.grad, theirs.head.weight.grad, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in theirs.backbone.parameters())


def test_where_padding_is_the_stop_token_the_score_is_read_one_token_early() -> None:
    # One response that ends, "7 EOS", padded with EOS to the length of another. Hidden states (3, 1) at "7" and (0, 2)
    # at the EOS; the head is (1, -1): 2 is the score of a response that has not ended, -2 that of this one.
    ids = torch.tensor([[5, 7, EOS_ID, EOS_ID]])
    hidden = torch.tensor([[[9.0, 9.0], [3.0, 1.0], [0.0, 2.0], [8.0, 8.0]]])
    head = torch.tensor([[1.0, -1.0]])
    assert last_token(ids, pad_id=EOS_ID).tolist() == [1]
    assert score(hidden[0, last_token(ids, pad_id=EOS_ID)], head).tolist() == [2.0]
    batch = collate([PromptGroup((5,), (Response.full((7, EOS_ID)),))], pad_to_multiple=4)
    assert batch.last_positions.tolist() == [2]
    assert score(hidden.reshape(-1, 2)[batch.last_positions], head).tolist() == [-2.0]


def test_so_it_cant_tell_a_response_that_ends_from_one_that_was_cut_off() -> None:
    # Chosen "7 EOS", rejected "7", cut off: with padding = EOS the very same rows. Scores are equal, the loss is ln 2
    # whatever the weights, and the head's gradient is exactly 0. Ours sees two responses.
    theirs = RewardModel(model().base_model, width=32, pad_id=EOS_ID).double()
    ids = torch.tensor([[5, 7, EOS_ID], [5, 7, EOS_ID]])
    scores = theirs(ids)
    loss = reward_loss(scores[:1], scores[1:])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert theirs.head.weight.grad.abs().max() == 0
    backbone = Backbone(model())
    ours = Scorer(backbone.role(), new_head(backbone, seed=3))
    chosen, rejected = ours.scores(collate([PromptGroup((5,), (Response.full((7, EOS_ID)), Response.full((7,))))]))
    assert (chosen - rejected).abs().item() > 0.01


def test_the_loss_leaves_a_constant_free_which_centring_holds() -> None:
    # Scores (1, 0) and (101, 100) have the same loss, log(1 + 1/e). 0.01 (r_c + r_r)^2 adds 0.01 to the first and
    # 0.01 * 201^2 = 404.01 to the second.
    small, large = torch.tensor([1.0, 0.0]).double(), torch.tensor([101.0, 100.0]).double()
    same = math.log1p(math.exp(-1.0))
    assert reward_loss(small[:1], small[1:]).item() == pytest.approx(same)
    assert reward_loss(large[:1], large[1:]).item() == pytest.approx(same)
    assert bradley_terry(small[:1], small[1:], centring=0.01).item() == pytest.approx(same + 0.01)
    assert bradley_terry(large[:1], large[1:], centring=0.01).item() == pytest.approx(same + 404.01)
