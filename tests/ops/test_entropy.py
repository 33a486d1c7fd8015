"""The entropy primitive against autograd through the whole log_softmax in float64, and against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.ops import tiles
from burnish.ops.entropy import token_entropy
from burnish.ops.logprobs import OutputHead
from tests.ops.tails import tail_that_points_one_way

V, D, N = 53, 7, 11


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several uneven tiles in both directions."""
    monkeypatch.setattr(tiles, "TOKEN_TILE", 4)
    monkeypatch.setattr(tiles, "VOCAB_TILE", 10)


def leaf(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def whole_entropy(hidden, weight, bias=None, scale=1.0, softcap=None, row_ids=None, rows=None):
    """The textbook form, over the columns that can come at all."""
    if rows is not None:
        weight = weight.index_copy(0, row_ids, rows)
    logits = hidden @ weight.T * scale
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = torch.log_softmax(logits[:, ~torch.isneginf(logits).all(0)], -1)
    return -(log_p.exp() * log_p).sum(-1)


def assert_equal_with_gradients(hidden: torch.Tensor, head: OutputHead, expected: torch.Tensor, atol=1e-12) -> None:
    leaves = [t for t in (hidden, head.weight, head.bias, head.rows) if t is not None and t.requires_grad]
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    expected_grads = torch.autograd.grad((expected * upstream).sum(), leaves)
    got = token_entropy(hidden, head)
    got_grads = torch.autograd.grad((got * upstream).sum(), leaves)
    assert torch.allclose(got, expected, rtol=0, atol=atol)
    for g, e in zip(got_grads, expected_grads, strict=True):
        assert torch.allclose(g, e, rtol=0, atol=atol)


def test_by_hand() -> None:
    # Logits (0, ln 3), probabilities (1/4, 3/4): H = 2 ln 2 - 3/4 ln 3, and dH/dh = -p1 (z1 - m) = -3/4 * 1/4 ln 3.
    hidden = torch.tensor([[math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    entropy = token_entropy(hidden, OutputHead(torch.tensor([[0.0], [1.0]], dtype=torch.float64)))
    assert entropy.item() == pytest.approx(2 * math.log(2.0) - 0.75 * math.log(3.0), abs=1e-14)
    entropy.sum().backward()
    assert hidden.grad.item() == pytest.approx(-0.1875 * math.log(3.0), abs=1e-14)


def test_a_uniform_distribution_is_the_maximum() -> None:
    hidden = torch.zeros(N, D, dtype=torch.float64, requires_grad=True)
    entropy = token_entropy(hidden, OutputHead(leaf(V, D)))
    assert torch.allclose(entropy, torch.full((N,), math.log(V), dtype=torch.float64), rtol=0, atol=1e-13)
    entropy.sum().backward()
    assert hidden.grad.abs().max() < 1e-14


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_rows", [False, True])
def test_values_and_all_gradients_equal_the_whole_logits(softcap, scale, with_bias, with_rows) -> None:
    hidden, weight = leaf(N, D, scale=2.0), leaf(V, D)
    bias = leaf(V) if with_bias else None
    row_ids, rows = (torch.tensor([3, 9, 10, 52]), leaf(4, D)) if with_rows else (None, None)
    expected = whole_entropy(hidden, weight, bias, scale, softcap, row_ids, rows)
    assert_equal_with_gradients(hidden, OutputHead(weight, bias, scale, softcap, row_ids, rows), expected)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_at_a_temperature(temperature: float) -> None:
    hidden, weight, bias = leaf(N, D), leaf(V, D), leaf(V)
    z = 1.5 * torch.tanh((hidden @ weight.T + bias) / 1.5) / temperature
    log_p = torch.log_softmax(z, -1)
    head = OutputHead(weight, bias, softcap=1.5).tempered(temperature)
    assert torch.allclose(token_entropy(hidden, head), -(log_p.exp() * log_p).sum(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("barred", [list(range(10)), [0, 9, 10, 25, 52], list(range(40, 53))])
def test_columns_that_can_not_come_count_for_nothing(barred: list[int]) -> None:
    # The first, some, and the last tile: a whole tile of -inf may come before and after there is a maximum.
    hidden, weight = leaf(N, D, scale=2.0), leaf(V, D)
    bias = torch.randn(V, dtype=torch.float64)
    bias[barred] = -torch.inf
    bias.requires_grad_()
    assert_equal_with_gradients(hidden, OutputHead(weight, bias), whole_entropy(hidden, weight, bias))


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_tile_that_is_substituted_as_a_whole(softcap: float | None) -> None:
    hidden, weight, row_ids, rows = leaf(N, D, scale=2.0), leaf(V, D), torch.arange(10), leaf(10, D)
    expected = whole_entropy(hidden, weight, None, 1.0, softcap, row_ids, rows)
    assert_equal_with_gradients(hidden, OutputHead(weight, None, 1.0, softcap, row_ids, rows), expected)


@pytest.mark.parametrize("best", [0, 17, 52])
@pytest.mark.parametrize("gap", [5.0, 10.0, 14.5, 18.0, 60.0, 2000.0])
def test_a_nearly_certain_token_in_float32(best: int, gap: float) -> None:
    # All other tokens at e^-gap: others R = 52 e^-gap, H = log1p(R) + gap R / (1 + R), dH/dh = -gap R / (1 + R)^2.
    # 1 - p and log p would have lost their digits at a gap of 18.
    weight = torch.full((V, 1), -1.0)
    weight[best] = 0.0
    hidden = torch.tensor([[gap]], requires_grad=True)
    entropy = token_entropy(hidden, OutputHead(weight))
    others = (V - 1) * math.exp(-gap)
    assert entropy.item() == pytest.approx(math.log1p(others) + gap * others / (1 + others), rel=2e-6, abs=1e-37)
    entropy.sum().backward()
    # From a gap of about 17 on gap e^-gap is below 1e-6: the columns are negligible, and the gradient may be 0.
    assert hidden.grad.item() == pytest.approx(-gap * others / (1 + others) ** 2, rel=1e-5, abs=2e-5)


def test_logits_far_from_zero_and_in_rising_order() -> None:
    # The maximum moves at every tile, both ways of 1000: nothing overflows, and the mean is moved along.
    weight = torch.arange(V, dtype=torch.float64).unsqueeze(1) + 1000.0
    for sign in (1.0, -1.0):
        hidden = torch.tensor([[sign], [0.1 * sign]], dtype=torch.float64, requires_grad=True)
        expected = whole_entropy(hidden, weight)
        grad = torch.autograd.grad(expected.sum(), hidden)[0]
        got = token_entropy(hidden, OutputHead(weight))
        assert torch.allclose(got, expected, rtol=0, atol=1e-11)
        assert torch.allclose(torch.autograd.grad(got.sum(), hidden)[0], grad, rtol=0, atol=1e-9)


def test_only_what_trains_gets_a_gradient_and_nothing_else_is_kept() -> None:
    hidden, weight, rows = leaf(N, D), torch.randn(V, D, dtype=torch.float64), leaf(1, D)
    token_entropy(hidden, OutputHead(weight, row_ids=torch.tensor([1]), rows=rows)).sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0
    assert rows.grad.abs().sum() > 0
    shapes: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
        token_entropy(hidden, OutputHead(weight))
    assert shapes == [(N, D)]
    assert not token_entropy(hidden.detach(), OutputHead(weight)).requires_grad


def test_negligible_columns_cost_the_gradient_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # 40 of 400 tokens have nearly all of the mass, the tail lies at about e^-18.
    vocabulary, width, n = 400, 16, 9
    weight = torch.randn(vocabulary, width, dtype=torch.float64)
    weight[:, 0] = torch.where(torch.arange(vocabulary) % 10 == 0, 0.0, -18.0)
    hidden = torch.randn(n, width, dtype=torch.float64) * 0.3
    hidden[:, 0] = 1.0
    exact = hidden.clone().requires_grad_()
    expected = whole_entropy(exact, weight)
    expected.sum().backward()
    taken: list[int] = []
    original = tiles.columns_with_mass

    def spy(p, total, states):
        columns = original(p, total, states)
        taken.append(p.shape[1] if columns is None else columns.numel())
        return columns

    monkeypatch.setattr(tiles, "columns_with_mass", spy)
    single = hidden.float().requires_grad_()
    got = token_entropy(single, OutputHead(weight.float()))
    got.sum().backward()
    assert sum(taken) < 0.4 * vocabulary * 3  # three tiles of tokens
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-5)
    assert (single.grad.double() - exact.grad).norm() < 1e-3 * exact.grad.norm()


def test_negligible_columns_that_point_the_same_way_are_not_lost() -> None:
    # 2,000 tokens of the tail, all with the row (0, 1): little each, but all of the gradient's second component.
    weight, bias, hidden = tail_that_points_one_way(2e-8)
    exact = hidden.double().requires_grad_()
    whole_entropy(exact, weight.double(), bias=bias.double()).sum().backward()
    assert exact.grad[0, 1].abs().item() > 1e-4
    single = hidden.clone().requires_grad_()
    token_entropy(single, OutputHead(weight, bias)).sum().backward()
    assert torch.allclose(single.grad.double(), exact.grad, rtol=1e-3, atol=1e-7)


def test_bf16_is_near() -> None:
    hidden, weight = torch.randn(N, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64)
    low = hidden.bfloat16().requires_grad_()
    wide = low.detach().double().requires_grad_()
    expected = whole_entropy(wide, weight.bfloat16().double())
    expected.sum().backward()
    got = token_entropy(low, OutputHead(weight.bfloat16()))
    got.sum().backward()
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, rtol=0, atol=0.03)
    assert (low.grad.double() - wide.grad).norm() < 0.03 * wide.grad.norm()
