"""AdamW's parameter groups and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from burnish.stages.config import TrainConfig


def make_optimiser(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only.

    Args:
        parameters: by stable name, fp32.
        config: learning rate, betas, weight decay.
    """
    decayed = [p for name, p in parameters.items() if p.dim() >= 2 and name != "token_rows"]
    kept = [p for name, p in parameters.items() if p.dim() < 2 or name == "token_rows"]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
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
