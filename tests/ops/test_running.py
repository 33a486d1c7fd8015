"""Running moments by hand, and against exact fractions over the whole stream."""

from __future__ import annotations

import json
import statistics
from fractions import Fraction

import pytest
import torch

from burnish.ops.running import RunningMoments


def test_moments_by_hand() -> None:
    # 1, 2, 3 have mean 2 and variance 2 / 3; with 5 and 9 the mean is 20 / 5 and the variance
    # (9 + 4 + 1 + 1 + 25) / 5 = 8.
    moments = RunningMoments()
    assert (moments.count, moments.mean, moments.variance) == (0, 0.0, 0.0)
    moments.update(torch.tensor([1.0, 2.0, 3.0]))
    assert moments.mean == pytest.approx(2.0)
    assert moments.variance == pytest.approx(2 / 3)
    moments.update(torch.tensor([[5.0], [9.0]]))
    assert moments.count == 5
    assert moments.mean == pytest.approx(4.0)
    assert moments.variance == pytest.approx(8.0)


def test_normalise_by_hand() -> None:
    moments = RunningMoments()
    moments.update(torch.tensor([1.0, 5.0]))  # mean 3, standard deviation 2
    scores = torch.tensor([[3.0, 7.0, -1.0]])
    assert moments.normalise(scores).tolist() == [[0.0, 2.0, -2.0]]
    assert moments.normalise(scores, scale=False).tolist() == [[0.0, 4.0, -4.0]]
    assert moments.normalise(scores, centre=False).tolist() == [[1.5, 3.5, -0.5]]
    assert moments.normalise(scores, centre=False, scale=False).tolist() == scores.tolist()
    assert moments.normalise(scores).dtype == torch.float32
    assert moments.count == 2


def test_uneven_batches_far_from_zero_equal_exact_fractions() -> None:
    stream = (torch.randn(200, dtype=torch.float64) * 0.01 + 1e7).tolist()
    moments, start = RunningMoments(), 0
    for size in (1, 1, 7, 0, 90, 1, 100):
        moments.update(torch.tensor(stream[start : start + size], dtype=torch.float64))
        start += size
    assert start == moments.count == len(stream)
    exact = [Fraction(x) for x in stream]
    assert moments.mean == pytest.approx(float(sum(exact) / len(exact)), rel=1e-15)
    # A score near 1e7 is itself rounded to 2e-9, a mean of them likewise: five digits of the variance are left, where
    # E[x^2] - E[x]^2 would have none.
    assert moments.variance == pytest.approx(float(statistics.pvariance(exact)), rel=1e-5)


def test_equal_scores_are_not_blown_up() -> None:
    moments = RunningMoments()
    moments.update(torch.full((7,), 0.1))
    assert moments.normalise(torch.tensor([0.1])).item() == pytest.approx(0.0, abs=1e-6)
    assert moments.normalise(torch.tensor([0.1]), centre=False).item() == pytest.approx(0.1)


def test_moments_go_on_to_the_same_bits() -> None:
    batches = [torch.randn(n) for n in (5, 3, 8, 1)]
    whole, first, second = RunningMoments(), RunningMoments(), RunningMoments()
    for batch in batches:
        whole.update(batch)
    for batch in batches[:2]:
        first.update(batch)
    second.load_state(json.loads(json.dumps(first.state())))
    for batch in batches[2:]:
        second.update(batch)
    assert second.state() == whole.state()
    assert second.variance == whole.variance


def test_nothing_broken_gets_in() -> None:
    moments = RunningMoments()
    with pytest.raises(ValueError, match="no scores seen yet"):
        moments.normalise(torch.ones(1))
    moments.update(torch.empty(0))
    assert moments.count == 0
    moments.update(torch.tensor([1.0, 2.0]))
    before = moments.state()
    with pytest.raises(ValueError, match="finite"):
        moments.update(torch.tensor([1.0, float("nan")]))
    with pytest.raises(KeyError):
        moments.load_state({"count": 3, "mean": 1.0})
    assert moments.state() == before
