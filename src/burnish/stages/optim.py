"""AdamW's parameter groups and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from burnish.stages.config import TrainConfig


def make_optimiser(
    parameters: Mapping[str, nn.Parameter], config: TrainConfig, rates: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only.

    Args:
        parameters: by stable name, fp32.
        config: learning rate, betas, weight decay.
        rates: prefix of names -> the peak learning rate of these parameters, where it is another than `config`'s. A
            parameter group's share of the common rate stands in it as `relative_rate`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.weight_decay if parameter.dim() >= 2 and not name.endswith("token_rows") else 0.0
        rate = next((rate for prefix, rate in (rates or {}).items() if name.startswith(prefix)), config.learning_rate)
        groups.setdefault((decay, rate / config.learning_rate), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "relative_rate": share}
            for (decay, share), members in groups.items()
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
        # On a GPU one kernel for all of a step, in place of a pass over the weights for each of its operations.
        fused=all(parameter.is_cuda for parameter in parameters.values()) or None,
    )


def learning_rate(step: int, n_steps: int, config: TrainConfig) -> float:
    """Learning rate of step `step` (from 0) of `n_steps`: linear warm-up, then cosine, linear or constant.

    The first step already learns: warm-up over w steps gives 1/w, 2/w, ... of the peak. Cosine and linear would reach
    0 one step after the last.
    """
    warm = math.ceil(config.warmup * n_steps)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warm) / max(1, n_steps - warm)
    if config.schedule == "linear":
        return config.learning_rate * (1.0 - progress)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
