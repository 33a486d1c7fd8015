"""Bradley-Terry against numbers worked by hand, and its gradient against finite differences in float64."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.losses.reward import bradley_terry


def value(chosen: float, rejected: float, **options: float) -> float:
    pair = torch.tensor([[chosen], [rejected]], dtype=torch.float64)
    return bradley_terry(pair[0], pair[1], **options).item()


def test_by_hand() -> None:
    # exp(-(r_c - r_r)) = 1/3, so sigmoid = 3/4 and the loss is log(4/3).
    assert value(math.log(3.0), 0.0) == pytest.approx(math.log(4 / 3), abs=1e-12)
    # Equal scores: a coin.
    assert value(5.0, 5.0) == pytest.approx(math.log(2.0), abs=1e-12)
    # A margin of log 3 asked for and reached: a coin again.
    assert value(math.log(3.0), 0.0, margin=math.log(3.0)) == pytest.approx(math.log(2.0), abs=1e-12)
    # A tenth of the labels flipped: 0.9 log(4/3) + 0.1 log 4.
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4.0)
    assert value(math.log(3.0), 0.0, label_smoothing=0.1) == pytest.approx(expected, abs=1e-12)
    # Centring looks at the sum: (1 + 3)^2 * 0.5 = 8 beside log(1 + e^2).
    assert value(1.0, 3.0, centring=0.5) == pytest.approx(math.log1p(math.exp(2.0)) + 8.0, abs=1e-12)
    # Scores around zero cost nothing there.
    assert value(2.0, -2.0, centring=0.5) == pytest.approx(math.log1p(math.exp(-4.0)), abs=1e-12)


def test_margins_of_each_pair() -> None:
    margin = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    chosen = torch.full((2,), math.log(3.0), dtype=torch.float64)
    losses = bradley_terry(chosen, torch.zeros(2, dtype=torch.float64), margin=margin)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(2.0)])


def test_gradient() -> None:
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def loss(pair: torch.Tensor) -> torch.Tensor:
        return bradley_terry(pair[0], pair[1], margin=0.3, label_smoothing=0.2, centring=0.1).sum()

    assert torch.autograd.gradcheck(loss, (scores,))


def test_scores_far_apart_stay_finite() -> None:
    scores = torch.tensor([[-500.0], [500.0]], requires_grad=True)
    loss = bradley_terry(scores[0], scores[1])
    loss.sum().backward()
    assert loss.item() == pytest.approx(1000.0)
    assert scores.grad.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("options", [{"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"centring": -1.0}])
def test_options_of_nonsense(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        value(1.0, 0.0, **options)
