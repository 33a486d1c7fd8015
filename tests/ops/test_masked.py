"""Masked moments and whitening against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.ops.masked import explained_variance, masked_mean, masked_var, masked_whiten

NAN = math.nan
# Real: 1, 3, 5, 7, with mean 16 / 4 = 4 and variance (9 + 1 + 1 + 9) / 4 = 5, not 20 / 3. Padding holds what it may.
VALUES = torch.tensor([[1.0, 3.0, 5.0], [7.0, NAN, 1e6]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_mean_and_variance_by_hand() -> None:
    assert masked_mean(VALUES, MASK).item() == pytest.approx(4.0)
    assert masked_var(VALUES, MASK).item() == pytest.approx(5.0)


def test_variance_keeps_its_digits_far_from_zero() -> None:
    # 4096 and 4097 in fp32: variance 1 / 4; E[x^2] - E[x]^2 is the difference of two numbers rounded to 1 or 2.
    values = torch.tensor([4096.0, 4097.0, 4096.0, 4097.0])
    assert masked_var(values, torch.ones(4, dtype=torch.bool)).item() == 0.25


def test_whitening_by_hand() -> None:
    # (x - 4) / sqrt(5): -3, -1, 1, 3 over 2.2360680
    expected = [[-1.3416408, -0.4472136, 0.4472136], [1.3416408, 0.0, 0.0]]
    whitened = masked_whiten(VALUES, MASK)
    torch.testing.assert_close(whitened, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    # The mean is added back to what is real: 4 - 1.3416408 and so on, padding still 0.
    expected = [[2.6583592, 3.5527864, 4.4472136], [5.3416408, 0.0, 0.0]]
    kept = masked_whiten(VALUES, MASK, shift_mean=False)
    torch.testing.assert_close(kept, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_padding_is_exactly_zero() -> None:
    for shift_mean in (True, False):
        whitened = masked_whiten(VALUES, MASK, shift_mean)
        assert whitened[~MASK].tolist() == [0.0, 0.0]


def test_equal_values_whiten_to_zero() -> None:
    values, mask = torch.full((5,), 0.1), torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(masked_whiten(values, mask), torch.zeros(5), atol=1e-3, rtol=0)


def test_padding_gets_no_gradient_and_poisons_none() -> None:
    values = VALUES.clone().requires_grad_()
    masked_mean(values, MASK).backward()
    assert values.grad.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]


def test_too_few_values_and_wrong_masks() -> None:
    one = torch.tensor([[True, False, False], [False, False, False]])
    assert masked_mean(VALUES, one).item() == 1.0
    assert masked_var(VALUES, one).item() == 0.0
    with pytest.raises(ValueError, match="at least 2 real values, the mask has 1"):
        masked_whiten(VALUES, one)
    with pytest.raises(ValueError, match="at least 1 real value, the mask has 0"):
        masked_mean(VALUES, torch.zeros_like(MASK))
    with pytest.raises(ValueError, match="bool"):
        masked_mean(VALUES, MASK.long())
    with pytest.raises(ValueError, match="shape"):
        masked_mean(VALUES, MASK[:, :1])  # would broadcast


def test_explained_variance_by_hand() -> None:
    # Returns 1 and 3 vary by 1; the critic's 1 and 2 leave 0 and 1, which vary by 1 / 4.
    returns, mask = torch.tensor([1.0, 3.0, NAN]), torch.tensor([True, True, False])
    assert explained_variance(torch.tensor([1.0, 2.0, 5.0]), returns, mask).item() == pytest.approx(0.75)
    assert explained_variance(returns, returns, mask).item() == 1.0
    assert explained_variance(torch.full((3,), 7.0), returns, mask).item() == 0.0
    # 3 and 1 leave -2 and 2, which vary by 4
    assert explained_variance(torch.tensor([3.0, 1.0, 0.0]), returns, mask).item() == pytest.approx(-3.0)


def test_explained_variance_of_equal_returns_is_not_a_number() -> None:
    # The fp32 sum of seven times 0.7 is not 4.9, so that their variance about the mean comes out as 4e-15.
    returns, mask = torch.full((7,), 0.7), torch.ones(7, dtype=torch.bool)
    assert math.isnan(explained_variance(torch.arange(7.0), returns, mask).item())
    with pytest.raises(ValueError, match="same shape"):
        explained_variance(torch.ones(2), returns, mask)
