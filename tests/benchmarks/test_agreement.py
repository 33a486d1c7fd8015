"""The proof that two sides did the same work fails when they did not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.agreement import largest_distance, largest_token_distance, proof_problems, token_problems


def proof(loss: float = 0.7, later: float = 0.6, grad_norm: float = 2.0, **values: list[float]) -> dict[str, Any]:
    numbers = {name[1:]: value for name, value in values.items()}
    return {"losses": [loss, later], "grad_norm": grad_norm, "values": numbers}


def test_what_agrees_to_rounding_is_no_problem() -> None:
    peer, own = proof(0.7, _0=[-200.0, -3.0]), proof(0.70005, _0=[-200.015, -3.0002])
    assert proof_problems(peer, own, "float32") == []
    assert largest_distance(peer, own) == {
        "loss": pytest.approx(5e-5),
        "later_losses": 0.0,
        "grad_norm": 0.0,
        "values": pytest.approx(0.015 / 200.015),
    }


@pytest.mark.parametrize(
    ("peer", "own", "said"),
    [
        (proof(0.7, _0=[-1.0]), proof(0.7002, _0=[-1.0]), "loss"),
        (proof(0.7, _0=[-1.0]), proof(math.nan, _0=[-1.0]), "loss"),
        (proof(0.7, _0=[-1.0]), proof(0.7, _1=[-1.0]), "examples"),
        (proof(0.7, _0=[-1.0, -2.0]), proof(0.7, _0=[-1.0]), "responses"),
        (proof(0.7, _0=[-1.0, -200.0]), proof(0.7, _0=[-1.0, -200.05]), "per-response"),
        (proof(0.7, 0.6), proof(0.7, 0.6002), "the loss of step 2"),
        (proof(0.7, 0.6), {**proof(0.7), "losses": [0.7]}, "losses of 2 and 1 steps"),
        # A column of the output matrix left out too many, or LoRA's scale.
        (proof(grad_norm=2.0), proof(grad_norm=2.003), "norm"),
        # Nothing is learned: as soon as one side has no gradient, and also where neither has.
        (proof(grad_norm=2.0), proof(grad_norm=0.0), "norm"),
        (proof(grad_norm=0.0), proof(grad_norm=0.0), "norm"),
        (proof(grad_norm=2.0), proof(grad_norm=math.nan), "norm"),
    ],
)
def test_what_differs_is_said(peer: dict[str, Any], own: dict[str, Any], said: str) -> None:
    [problem] = proof_problems(peer, own, "float32")
    assert said in problem


def test_bfloat16_may_differ_by_two_percent() -> None:
    assert proof_problems(proof(_0=[-100.0]), proof(_0=[-101.9]), "bfloat16") == []
    assert proof_problems(proof(_0=[-100.0]), proof(_0=[-103.0]), "bfloat16")
    assert proof_problems(proof(grad_norm=2.0), proof(grad_norm=2.08), "bfloat16") == []
    assert proof_problems(proof(grad_norm=2.0), proof(grad_norm=2.2), "bfloat16")


def test_greedy_tokens_may_part_where_they_are_as_probable() -> None:
    peer = [[(5, -1.0), (7, -0.69314), (1, -9.0)]]
    assert token_problems(peer, [[(5, -1.0), (8, -0.69315), (2, -0.1)]], "float32", steps=3) == []
    assert token_problems(peer, [[(5, -1.0), (8, -0.9), (2, -0.1)]], "float32", steps=3)
    assert token_problems(peer, [[(5, -1.1), (7, -0.69314), (1, -9.0)]], "float32", steps=3)
    assert token_problems(peer, [], "float32", steps=3) == ["1 and 0 prompts"]
    # 4e-5 of the token at which they part; what follows is of other texts.
    assert largest_token_distance(peer, [[(5, -1.00001), (8, -0.69318), (2, -0.1)]]) == pytest.approx(4e-5)
