"""Useful FLOPs against numbers worked by hand."""

from __future__ import annotations

import pytest

from common.flops import ModelSize, sampling_flops, step_flops

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


def test_groups_add_up() -> None:
    both = step_flops("dpo", SIZE, [GROUP, (1, [1])], rank=2)
    assert both == step_flops("dpo", SIZE, [GROUP], rank=2) + step_flops("dpo", SIZE, [(1, [1])], rank=2)


def test_sampling_reads_all_but_the_last_token() -> None:
    # 5 + 3 - 1 tokens are read through 100 weights, 3 are drawn through 40.
    assert sampling_flops(SIZE, [5], 3) == 7 * 200 + 3 * 80
