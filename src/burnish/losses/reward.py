"""The reward model's loss: Bradley-Terry over pairs of scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    centring: float = 0.0,
) -> Tensor:
    """-(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_chosen + r_rejected)^2, with d = r_chosen - r_rejected - m.

    The first term is Ouyang et al. 2022 (arXiv:2203.02155, eq. 1); the margin m Touvron et al. 2023
    (arXiv:2307.09288, eq. 2); e is the share of labels that are taken to be wrong; the last term Eisenstein et al. 2023
    (arXiv:2312.09244, eq. 9), without which the scores of a pair are fixed only up to a constant of each prompt's own.

    Args:
        chosen: (P,) scores of the better responses.
        rejected: (P,) scores of the worse ones.
        margin: (P,) or a number: how far apart the scores should be at least.
        label_smoothing: e, in [0, 0.5).
        centring: c, 0 or above.

    Returns:
        (P,) losses in nats.

    Raises:
        ValueError: an option outside its range.
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    if not centring >= 0.0:
        raise ValueError(f"centring must be 0 or above, got {centring}")
    d = chosen - rejected - margin
    loss = -(1.0 - label_smoothing) * F.logsigmoid(d) - label_smoothing * F.logsigmoid(-d)
    return loss + centring * (chosen + rejected) ** 2 if centring else loss
