"""Useful FLOPs against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from burnish.ops import logprobs, tiles
from common.flops import ModelSize, ppo_flops, sampling_flops, step_flops
from common.sides import HeadProducts

SIZE = ModelSize(linear=100, widths=30, hidden=4, vocabulary=10)
GROUP = (5, [3, 2])
"""10 tokens, the prompt once; 5 of them predicted."""


@pytest.mark.parametrize(
    ("stage", "reference", "flops"),
    [
        # LoRA of rank 2 has 60 weights. Forward 2 (100 + 60), backward 2 * 100 + 4 * 60: 760 a token, 7,600 in all.
        # The output matrix has 40 weights: 160 a predicted token there and back, 800 in all.
        ("sft", False, 7600 + 800),
        ("dpo", False, 7600 + 800),
        # The reference reads 10 tokens through 100 weights and 5 through 40.
        ("dpo", True, 7600 + 800 + 2000 + 400),
        ("reward", False, 7600),
    ],
)
def test_a_step(stage: str, reference: bool, flops: int) -> None:
    assert step_flops(stage, SIZE, [GROUP], rank=2, reference=reference) == flops


def test_a_part_of_the_head_may_be_left_out() -> None:
    # A quarter of the product in backward: 5 predicted tokens save 3/4 of 2 x 40 operations each.
    assert step_flops("dpo", SIZE, [GROUP], rank=2, head_kept=0.25) == 7600 + 800 - 300
    assert step_flops("reward", SIZE, [GROUP], rank=2, head_kept=0.25) == 7600


def test_the_columns_that_are_left_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens, each sure of its own column of 4,096: of the second product two columns are left."""
    monkeypatch.setattr(tiles, "columns_with_mass", tiles.columns_with_mass)  # put back after the test
    head = HeadProducts()
    head.watch()
    assert head.share() is None
    weight = torch.zeros(4096, 2)
    weight[7, 0] = weight[9, 1] = 60.0
    hidden = torch.eye(2, requires_grad=True)
    logprobs.token_logprobs(hidden, logprobs.OutputHead(weight), torch.tensor([11, 11])).sum().backward()
    assert head.share() == pytest.approx(2 / 4096)


def test_groups_add_up() -> None:
    both = step_flops("dpo", SIZE, [GROUP, (1, [1])], rank=2)
    assert both == step_flops("dpo", SIZE, [GROUP], rank=2) + step_flops("dpo", SIZE, [(1, [1])], rank=2)


def test_sampling_reads_all_but_the_last_token() -> None:
    # 5 + 3 - 1 tokens are read through 100 weights, 3 are drawn through 40.
    assert sampling_flops(SIZE, [5], 3) == 7 * 200 + 3 * 80


def test_an_update_of_ppo() -> None:
    # A prompt of 5 tokens with a response of 3: sampling as above, 1,640. All 8 tokens are read by reference (2 x 100),
    # critic and reward model (2 x 160 each): 6,720, and the reference's log-probs of 3 tokens through 40 weights: 240.
    # An epoch: policy and critic 760 a token each as in a step of SFT, 12,160, and 160 a predicted token: 480.
    assert ppo_flops(SIZE, [5], 3, rank=2, epochs=1) == 1640 + 6720 + 240 + 12160 + 480
    assert ppo_flops(SIZE, [5], 3, rank=2, epochs=2) == 1640 + 6720 + 240 + 2 * (12160 + 480)
    # LoRA in half of the layers: what is below it is read once, 2 x 50 a token; above it 50 weights and 30 of LoRA.
    assert ppo_flops(SIZE, [5], 3, rank=2, epochs=1, upper=0.5) == 1640 + 800 + 3360 + 240 + 6080 + 480
