"""The log-prob primitive against autograd through the whole logits in float64, and against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.ops import tiles
from burnish.ops.entropy import token_entropy
from burnish.ops.logprobs import OutputHead, token_kl, token_logprobs
from tests.ops.tails import tail_that_points_one_way

V, D, N = 53, 7, 11


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several uneven tiles in both directions."""
    monkeypatch.setattr(tiles, "TOKEN_TILE", 4)
    monkeypatch.setattr(tiles, "VOCAB_TILE", 10)


def leaf(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def whole_logprobs(hidden, weight, bias, scale, softcap, targets, row_ids=None, rows=None):
    """The textbook form: all logits, log_softmax, gather."""
    if rows is not None:
        weight = weight.index_copy(0, row_ids, rows)
    logits = hidden @ weight.T * scale
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]


def test_by_hand() -> None:
    # Two tokens of a vocabulary of two, hidden width one: logits (0, ln 3) give probabilities (1/4, 3/4).
    hidden = torch.tensor([[math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    head = OutputHead(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    logp = token_logprobs(hidden, head, torch.tensor([1]))
    assert logp.item() == pytest.approx(math.log(0.75), abs=1e-12)
    logp.sum().backward()
    assert hidden.grad.item() == pytest.approx(1.0 - 0.75, abs=1e-12)  # W_y - sum p W


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_rows", [False, True])
def test_values_and_all_gradients_equal_the_whole_logits(softcap, scale, with_bias, with_rows) -> None:
    hidden, weight = leaf(N, D, scale=2.0), leaf(V, D)
    bias = leaf(V) if with_bias else None
    row_ids = torch.tensor([3, 9, 10, 52]) if with_rows else None
    rows = leaf(4, D) if with_rows else None
    targets = torch.tensor([0, 3, 9, 10, 52, 51, 20, 20, 29, 30, 5])
    upstream = torch.randn(N, dtype=torch.float64)

    expected = whole_logprobs(hidden, weight, bias, scale, softcap, targets, row_ids, rows)
    leaves = [t for t in (hidden, weight, bias, rows) if t is not None]
    expected_grads = torch.autograd.grad((expected * upstream).sum(), leaves)
    got = token_logprobs(hidden, OutputHead(weight, bias, scale, softcap, row_ids, rows), targets)
    got_grads = torch.autograd.grad((got * upstream).sum(), leaves)

    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for a, b in zip(got_grads, expected_grads, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_only_what_trains_gets_a_gradient() -> None:
    hidden, weight = leaf(N, D), torch.randn(V, D, dtype=torch.float64)
    row_ids, rows = torch.tensor([1]), leaf(1, D)
    token_logprobs(
        hidden, OutputHead(weight, row_ids=row_ids, rows=rows), torch.ones(N, dtype=torch.long)
    ).sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0
    assert rows.grad.abs().sum() > 0


def test_logits_of_the_head_agree_with_the_primitive() -> None:
    head = OutputHead(leaf(V, D), leaf(V), 0.7, 2.0, torch.tensor([4, 40]), leaf(2, D))
    hidden, targets = leaf(N, D), torch.randint(V, (N,))
    expected = torch.log_softmax(head.logits(hidden), -1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(token_logprobs(hidden, head, targets), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_a_tempered_head_divides_the_logits(softcap, scale, with_bias, with_rows, temperature) -> None:
    hidden, weight = leaf(N, D, scale=2.0), leaf(V, D)
    bias = leaf(V, scale=2.0) if with_bias else None
    row_ids, rows = (torch.tensor([3, 52]), leaf(2, D)) if with_rows else (None, None)
    table = weight if rows is None else weight.index_copy(0, row_ids, rows)
    z = hidden @ table.T * scale + (0.0 if bias is None else bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)

    head = OutputHead(weight, bias, scale, softcap, row_ids, rows).tempered(temperature)
    assert torch.allclose(head.logits(hidden), z / temperature, rtol=0, atol=1e-12)
    targets = torch.tensor([0, 3, 9, 10, 52, 51, 20, 20, 29, 30, 5])
    expected = torch.log_softmax(z / temperature, -1)[torch.arange(N), targets]
    got = token_logprobs(hidden, head, targets)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    leaves = [t for t in (hidden, weight, bias, rows) if t is not None]
    for g, e in zip(
        torch.autograd.grad(got.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(g, e, rtol=0, atol=1e-11)


def test_temperatures_of_one_and_of_nonsense() -> None:
    head = OutputHead(leaf(V, D), leaf(V))
    assert head.tempered(1.0) is head
    for nonsense in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            head.tempered(nonsense)


def test_bf16_keeps_the_gradient_of_a_confident_token() -> None:
    # p(target) is about 0.998. Were the target inside the bf16 sum, 1 - p would come out as 0 or 0.004.
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    hidden = torch.tensor([[6.25, 0.0]])
    p_other = 1.0 / (1.0 + math.exp(6.25))
    low = hidden.bfloat16().requires_grad_()
    token_logprobs(low, OutputHead(weight.bfloat16()), torch.tensor([0])).sum().backward()
    assert low.grad[0, 0].item() == pytest.approx(p_other, rel=0.01)


@pytest.mark.parametrize("softcap", [None, 20.0])
def test_negligible_columns_cost_the_gradient_no_more_than_promised(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A vocabulary of 400 of which 40 tokens have nearly all of the mass: those of the tail lie at about e^-18 = 1.5e-8.
    vocabulary, width, n = 400, 16, 9
    weight = torch.randn(vocabulary, width, dtype=torch.float64)
    weight[:, 0] = torch.where(torch.arange(vocabulary) % 10 == 0, 0.0, -18.0)
    hidden = torch.randn(n, width, dtype=torch.float64) * 0.3
    hidden[:, 0] = 1.0
    targets = torch.arange(n) * 7  # of both kinds
    exact = hidden.clone().requires_grad_()
    expected = whole_logprobs(exact, weight, None, 1.0, softcap, targets)
    expected.sum().backward()

    taken: list[int] = []
    original = tiles.columns_with_mass

    def spy(p, total, states):
        columns = original(p, total, states)
        taken.append(p.shape[1] if columns is None else columns.numel())
        return columns

    monkeypatch.setattr(tiles, "columns_with_mass", spy)
    single = hidden.float().requires_grad_()
    got = token_logprobs(single, OutputHead(weight.float(), softcap=softcap), targets)
    got.sum().backward()
    assert sum(taken) < 0.25 * vocabulary * 3  # three tiles of tokens
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-5)  # log-probs lose nothing
    assert (single.grad.double() - exact.grad).norm() < 3e-4 * exact.grad.norm()


def test_negligible_columns_that_point_the_same_way_are_not_lost() -> None:
    # 2,000 tokens of the tail, all with the row (0, 1) and a probability of about 5e-7 each: together 1e-3 of the mass,
    # and all that the second component of the gradient is made of. The targets are the two tokens that have the rest.
    weight, bias, hidden = tail_that_points_one_way(5e-7)
    targets = torch.tensor([0, 1, 1])
    exact = hidden.double().requires_grad_()
    whole_logprobs(exact, weight.double(), bias.double(), 1.0, None, targets).sum().backward()
    assert exact.grad[0, 1].item() == pytest.approx(-1e-3, rel=0.01)
    single = hidden.clone().requires_grad_()
    token_logprobs(single, OutputHead(weight, bias), targets).sum().backward()
    assert torch.allclose(single.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


def test_a_flat_distribution_over_a_large_vocabulary_keeps_its_mean() -> None:
    # Every one of 150,000 tokens is below bfloat16's threshold of 1e-5: d log p(y) / dh = W_y - mean of W, where the
    # rows left out would leave W_y.
    weight = torch.zeros(150_000, 2)
    weight[:, 0] = 4.0
    weight[7] = torch.tensor([8.0, 1.0])
    hidden = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    token_logprobs(hidden, OutputHead(weight.bfloat16()), torch.tensor([7, 8, 8])).sum().backward()
    expected = torch.tensor([[4.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(hidden.grad.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("op", ["logprobs", "entropy"])
def test_a_token_that_is_no_number_leaves_the_others_alone(op: str) -> None:
    # All columns but the first two are negligible, so that they would count as a mean over the tokens.
    weight = torch.randn(5000, 4)
    bias = torch.full((5000,), -25.0)
    bias[:2] = 0.0
    hidden = torch.randn(3, 4)
    hidden[1] = math.nan
    hidden.requires_grad_()
    head = OutputHead(weight, bias)
    values = token_entropy(hidden, head) if op == "entropy" else token_logprobs(hidden, head, torch.tensor([0, 1, 1]))
    values[[0, 2]].sum().backward()
    assert hidden.grad[[0, 2]].isfinite().all()
    assert values.isnan().tolist() == [False, True, False]


def test_a_token_that_matters_to_one_row_only_is_kept() -> None:
    # Column 1 has probability 1e-12 in the first row and 1/2 in the second: its share must reach the second's gradient.
    weight = torch.tensor([[0.0], [1.0], *[[0.0]] * 8])
    weight[2:] = -40.0
    hidden = torch.tensor([[-27.6], [0.0]], requires_grad=True)
    head = OutputHead(weight, bias=torch.tensor([0.0, 0.0, *[-60.0] * 8]))
    token_logprobs(hidden[1:], head, torch.tensor([0])).sum().backward()
    alone = hidden.grad[1].clone()
    hidden.grad = None
    token_logprobs(hidden[:, :], head, torch.tensor([0, 0]))[1].backward()
    assert alone.item() == pytest.approx(-0.5, rel=1e-5)
    assert hidden.grad[1].item() == pytest.approx(-0.5, rel=1e-5)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    head = OutputHead(torch.tensor([[1.0], [-1.0], [0.5]]))
    logp = token_logprobs(hidden, head, torch.tensor([0, 0]))
    assert logp.tolist() == pytest.approx([0.0, -2000.0])
    logp.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_kl_equals_the_definition_and_is_zero_for_equal_models() -> None:
    head, ref_head = OutputHead(leaf(V, D)), OutputHead(leaf(V, D))
    h, r = leaf(N, D), leaf(N, D)
    log_p = torch.log_softmax(h @ head.weight.T, -1)
    log_q = torch.log_softmax(r @ ref_head.weight.T, -1)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert torch.allclose(token_kl(h, r, head, ref_head), expected, atol=1e-12)
    assert torch.equal(token_kl(h, h, head, head), torch.zeros(N, dtype=torch.float64))
