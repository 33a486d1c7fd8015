"""Mean, variance and whitening over the real entries of a padded tensor.

Padding may hold anything, NaN included: it is taken out before any arithmetic, not multiplied by zero after it.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to the variance in whitening, so that equal values become 0 and not 0 / 0."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all real entries, each of them with the same weight.

    Args:
        values: any shape, float32 or float64.
        mask: bool, the same shape; true where an entry is real.

    Returns:
        A scalar.

    Raises:
        ValueError: when nothing is real, or the mask is not bool or of another shape.
    """
    count = _count(values, mask, least=1)
    return _real(values, mask).sum() / count


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Variance over all real entries with their number n as the denominator, not n - 1.

    Args, errors: as `masked_mean`.

    Returns:
        A scalar; 0 for a single entry.
    """
    mean = masked_mean(values, mask)
    # About the mean, and not E[x^2] - E[x]^2, which loses every digit where the mean is far from 0.
    return masked_mean((values - mean) ** 2, mask)


def masked_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the real entries to unit variance, and centre them unless told not to.

    (x - mean) / sqrt(var + 1e-8) [+ mean], with mean and variance (denominator n) over everything that is given. So
    hand over the whole rollout batch: whitened by mini-batch, a token's advantage would depend on its neighbours.
    Huang et al. 2024, arXiv:2403.17031 (detail "whitening"), who leave the mean in for rewards and take it out for
    advantages.

    Args:
        values: any shape, float32 or float64.
        mask: bool, the same shape; true where an entry is real.
        shift_mean: move the mean to 0; when false, it is added back.

    Returns:
        The shape of `values`; exactly 0 where the mask is false.

    Raises:
        ValueError: for fewer than two real entries, or a mask that is not bool or of another shape.
    """
    _count(values, mask, least=2)
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + EPSILON)
    return _real(whitened if shift_mean else whitened + mean, mask)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the variance of the returns that a critic accounts for: 1 - var(returns - values) / var(returns).

    1 for a perfect critic, 0 for one that says the same everywhere, below 0 for one that is worse than that. A
    constant offset of the critic goes unseen.

    Args:
        values: any shape, the critic's values when the rollout was made.
        returns: the same shape.
        mask: bool, the same shape; true where an entry is real.

    Returns:
        A scalar; NaN where all returns are equal, so that there is nothing to explain.

    Raises:
        ValueError: when nothing is real, or shapes differ.
    """
    if values.shape != returns.shape:
        raise ValueError(f"values {tuple(values.shape)} and returns {tuple(returns.shape)} must have the same shape")
    total = masked_var(returns, mask)
    real = returns[mask]
    # The rounded mean of equal numbers may differ from them: their variance is then tiny, not 0.
    nothing = real.max() == real.min()
    return torch.where(nothing, torch.nan, 1.0 - masked_var(returns - values, mask) / total)


def _real(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values))


def _count(values: Tensor, mask: Tensor, least: int) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != values.shape:
        raise ValueError(
            f"the mask must be bool and of the values' shape {tuple(values.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    count = mask.sum()
    if count < least:
        raise ValueError(f"needs at least {least} real value{'s' if least > 1 else ''}, the mask has {int(count)}")
    return count
