"""Draws against probabilities worked out by hand, by frequency; log-probs against log_softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from burnish.ops.logprobs import OutputHead, token_logprobs
from burnish.rollout import drawing
from burnish.rollout.drawing import BLOCK, Logits, draw, exact_logits, log_probability

# Probabilities of six tokens, on both sides of block borders in a vocabulary of 1,300; the other tokens have none.
PLACES = (0, 3, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 1299)
PROBABILITIES = (0.40, 0.05, 0.25, 0.10, 0.15, 0.05)
N = 20_000


def logits_of(probabilities: tuple[float, ...], dtype: torch.dtype = torch.float64, rows: int = 1) -> torch.Tensor:
    z = torch.full((rows, 1300), -torch.inf, dtype=dtype)
    z[:, list(PLACES)] = torch.tensor(probabilities, dtype=dtype).log() + 3.0  # a constant changes nothing
    return z


def frequencies(seed: int = 0, **how: float) -> list[int]:
    """How often each of the six tokens is drawn in N draws; nothing else may be drawn."""
    uniforms = torch.from_numpy(np.random.default_rng(seed).random(N))
    z = Logits(logits_of(PROBABILITIES, torch.float32, rows=1000))
    tokens = [draw(z, part, **how) for part in uniforms.split(1000)]  # type: ignore[arg-type]
    counts = torch.bincount(torch.cat(tokens), minlength=1300)
    assert int(counts[list(PLACES)].sum()) == N
    return counts[list(PLACES)].tolist()


def chi_square(counts: list[int], expected: list[float]) -> float:
    """Pearson's statistic over the tokens that can be drawn; the others must not be."""
    assert all(count == 0 for count, p in zip(counts, expected, strict=True) if p == 0)
    return sum((count - N * p) ** 2 / (N * p) for count, p in zip(counts, expected, strict=True) if p)


# The 99.9 % points of chi-square with 5, 4, 3, 2, 1 degrees of freedom: 20.5, 18.5, 16.3, 13.8, 10.8.
SQUARED = [p * p / sum(q * q for q in PROBABILITIES) for p in PROBABILITIES]


@pytest.mark.parametrize(
    ("how", "expected", "limit"),
    [
        ({"temperature": 1.0}, list(PROBABILITIES), 20.5),
        # At temperature 1/2 probabilities are squared and made to sum to 1 again.
        ({"temperature": 0.5}, SQUARED, 20.5),
        # The three most probable have 0.40 + 0.25 + 0.15 = 0.80.
        ({"temperature": 1.0, "top_k": 3}, [0.5, 0, 0.3125, 0, 0.1875, 0], 13.8),
        # 0.40 + 0.25 = 0.65 falls short of 0.70, the third crosses it.
        ({"temperature": 1.0, "top_p": 0.70}, [0.5, 0, 0.3125, 0, 0.1875, 0], 13.8),
        # 0.65 holds 0.60.
        ({"temperature": 1.0, "top_p": 0.60}, [0.40 / 0.65, 0, 0.25 / 0.65, 0, 0, 0], 10.8),
        # After top-k 3 the first two hold 0.8125 of what is left: enough for 0.80, not enough without top-k.
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.80}, [0.40 / 0.65, 0, 0.25 / 0.65, 0, 0, 0], 10.8),
        # Squares: 0.16 0.0025 0.0625 0.01 0.0225 0.0025 sum to 0.26; 0.2225 / 0.26 = 0.856 holds 0.80.
        ({"temperature": 0.5, "top_p": 0.80}, [0.16 / 0.2225, 0, 0.0625 / 0.2225, 0, 0, 0], 10.8),
    ],
)
def test_frequencies(how: dict[str, float], expected: list[float], limit: float) -> None:
    assert math.isclose(sum(expected), 1.0)
    assert chi_square(frequencies(**how), expected) < limit


def test_top_p_1_and_a_large_top_k_change_nothing() -> None:
    plain = frequencies(temperature=1.0)
    assert frequencies(temperature=1.0, top_k=1300) == plain
    assert frequencies(temperature=1.0, top_k=5000) == plain


@pytest.mark.parametrize("how", [{"top_p": 1e-9}, {"top_k": 1}])
def test_the_smallest_choice_is_greedy(how: dict[str, float]) -> None:
    assert frequencies(temperature=1.0, **how) == [N, 0, 0, 0, 0, 0]


def test_a_nucleus_wider_than_the_first_candidates_is_found_whole() -> None:
    # 1,000 tokens alike: a nucleus of 0.5 is 500 of them, more than are looked at first.
    z = torch.full((8000, 1000), 1.5)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(8000))
    tokens = draw(Logits(z), uniforms, temperature=1.0, top_p=0.5)
    assert len(set(tokens.tolist())) == 500


def test_greedy_takes_the_highest_wherever_it_is() -> None:
    for place in (*PLACES, 700):
        z = torch.randn(3, 1300, generator=torch.Generator().manual_seed(0))
        z[1, place] = 9.0
        tokens = draw(Logits(z), torch.zeros(3, dtype=torch.float64), temperature=0.0)
        assert tokens.tolist() == [int(z[0].argmax()), place, int(z[2].argmax())]


@pytest.mark.parametrize("how", [{}, {"top_k": 4}, {"top_p": 0.9}, {"top_k": 4, "top_p": 0.9}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_uniform_numbers_at_the_ends_draw_tokens_that_can_be_drawn(how: dict[str, float], dtype: torch.dtype) -> None:
    z = logits_of(PROBABILITIES, dtype, rows=2)
    z[:, 0] = -torch.inf  # the first token, on which 0 falls, can't be drawn either
    uniforms = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert set(draw(Logits(z), uniforms, temperature=1.0, **how).tolist()) <= set(PLACES[1:])  # type: ignore[arg-type]


def test_a_draw_does_not_depend_on_the_other_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 1300, generator=generator, dtype=torch.float64) * 3
    uniforms = torch.rand(9, generator=generator, dtype=torch.float64)
    for how in ({}, {"top_k": 20}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.5}):
        together = draw(Logits(z), uniforms, temperature=0.7, **how)  # type: ignore[arg-type]
        alone = [draw(Logits(z[i : i + 1]), uniforms[i : i + 1], temperature=0.7, **how) for i in range(9)]  # type: ignore[arg-type]
        assert together.tolist() == torch.cat(alone).tolist()


def head(dtype: torch.dtype, *, special: bool) -> OutputHead:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1300, 16, generator=generator, dtype=torch.float64).to(dtype)
    if not special:
        return OutputHead(weight)
    bias = torch.randn(1300, generator=generator, dtype=torch.float64).to(dtype)
    rows = torch.randn(2, 16, generator=generator)
    return OutputHead(
        weight,
        bias,
        0.7,
        5.0,
        torch.tensor([3, 600]),
        rows.to(torch.float64 if dtype == torch.float64 else torch.float32),
    )


def recorded(h: OutputHead, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    logits = Logits(h.logits(hidden))
    return log_probability(logits, logits.masses(1.0), tokens, exact_logits(h, hidden, tokens))


@pytest.mark.parametrize("special", [False, True])
def test_log_probabilities_are_those_of_log_softmax(special: bool) -> None:
    h = head(torch.float64, special=special)
    hidden = torch.randn(40, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tokens = torch.arange(40) * 33 % 1300
    tokens[:3] = torch.tensor([3, 600, 1299])
    expected = torch.log_softmax(h.logits(hidden), -1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    assert torch.allclose(recorded(h, hidden, tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("special", [False, True])
def test_in_bf16_log_probabilities_are_those_of_the_training_primitive(special: bool) -> None:
    h = head(torch.bfloat16, special=special)
    hidden = torch.randn(40, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    tokens = h.logits(hidden).argmax(-1)  # probable tokens, whose own logit matters most
    expected = token_logprobs(hidden, h, tokens)
    assert torch.allclose(recorded(h, hidden, tokens), expected, rtol=0, atol=5e-3)


def test_a_near_certain_token_keeps_its_digits() -> None:
    # One token 40 nats above the other: log p = -log(1 + e^-40) = -4.248e-18, which 1 - p in fp32 would lose.
    h = OutputHead(torch.tensor([[40.0], [0.0]]))
    got = recorded(h, torch.ones(1, 1), torch.tensor([0]))
    assert got.item() == pytest.approx(-math.exp(-40.0), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logits_that_lie_token_by_token_are_the_same(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drawing._PASS, "cpu", 9 * BLOCK)  # a block at a time
    generator = torch.Generator().manual_seed(0)
    z = 4.0 * torch.randn(9, 1300, generator=generator, dtype=torch.float64)
    usual, turned = Logits(z), Logits(F.pad(z, (0, 236), value=-torch.inf).T.contiguous().T)
    assert turned.turned
    assert not usual.turned
    weights = ((z - z.amax(1, keepdim=True)) / temperature).exp()
    blocks = torch.stack([part.sum(1) for part in weights.split(BLOCK, 1)], 1)
    for logits in (usual, turned):
        assert torch.equal(logits.block_max, torch.stack([part.amax(1) for part in z.split(BLOCK, 1)], 1))
        assert torch.allclose(logits.masses(temperature), blocks, rtol=1e-12, atol=0)
    uniforms = torch.rand(9, generator=generator, dtype=torch.float64)
    for how in ({}, {"top_k": 3}, {"top_p": 0.7}):
        tokens = [draw(logits, uniforms, temperature=temperature, **how) for logits in (usual, turned)]  # type: ignore[arg-type]
        assert torch.equal(*tokens)
    assert torch.equal(turned.argmax(), z.argmax(1))
