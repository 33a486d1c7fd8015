"""PPO once more, naively: stock models in float64, a row a response, no padding, loops over tokens.

Nothing of burnish computes here; the names follow the papers (Ziegler et al. 2019, Schulman et al. 2015 and 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

Weights = dict[str, tuple[Tensor, Tensor, float, bool]]
"""Path of a layer -> A, B, the scale, and whether the layer keeps its weight transposed (GPT-2)."""


def weights_of(layers: Any, adapter: str | None) -> Weights:
    """A copy of an adapter's factors, out of the layers that hold it."""
    if adapter is None:
        return {}
    return {
        path: (
            layer.lora_a[adapter].detach().double().clone(),
            layer.lora_b[adapter].detach().double().clone(),
            layer.configs[adapter].scale,
            layer.transposed,
        )
        for path, layer in layers
    }


def stock(base: Path, weights: Weights) -> Any:
    """The stock model in float64 with an adapter added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    with torch.no_grad():
        for path, (a, b, scale, transposed) in weights.items():
            delta = scale * b @ a
            model.get_submodule(path).weight += delta.T if transposed else delta
    return model


def adapter_gradients(model: Any, weights: Weights) -> dict[str, Tensor]:
    """Gradients of A and B from that of W = W0 + s B A: dB = s dW A', dA = s B' dW."""
    found = {}
    for path, (a, b, scale, transposed) in weights.items():
        gradient = model.get_submodule(path).weight.grad
        gradient = gradient.T if transposed else gradient
        found[f"{path}.lora_A"], found[f"{path}.lora_B"] = scale * b.T @ gradient, scale * gradient @ a.T
    return found


def logprobs(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float) -> Tensor:
    """(T,) log-probs of the response's tokens."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
    log = torch.log_softmax(logits.double(), -1)
    return torch.stack([log[len(prompt) + t - 1, token] for t, token in enumerate(response)])


def entropy(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float) -> Tensor:
    """The sum of the entropies of the distributions that the response's tokens were drawn from."""
    ids = torch.tensor([[*prompt, *response]])
    log = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double() / temperature, -1)
    log = log[len(prompt) - 1 : -1]
    return -(log.exp() * log).sum()


def states(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """(prompt + response, D) last hidden states."""
    ids = torch.tensor([[*prompt, *response]])
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0].double()


def values(model: Any, head: Tensor, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """(T,) the value before each of the response's tokens."""
    return torch.stack([states(model, prompt, response)[len(prompt) + t - 1] @ head for t in range(len(response))])


def score(model: Any, head: Tensor, prompt: Sequence[int], response: Sequence[int]) -> float:
    """The score at the very last token."""
    return float((states(model, prompt, response)[-1] @ head).detach())


def kl_of(estimator: str, x: float) -> float:
    """Schulman 2020, of x = log pi - log ref."""
    return {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) - 1 + x}[estimator]


def advantages(rewards: Sequence[float], value: Sequence[float], gamma: float, lam: float) -> list[float]:
    """GAE as its definition has it: a sum over all later temporal differences."""
    n, after = len(rewards), [*value[1:], 0.0]
    delta = [rewards[t] + gamma * after[t] - value[t] for t in range(n)]
    return [sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]


def whitened(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Mean 0 and variance 1 over all the numbers of all rows."""
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat) + 1e-8)
    return [[(x - mean) / std for x in row] for row in rows]


def policy_loss(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """The sum of the clipped surrogate over tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for log_new, log_old, a in zip(new, old, advantage, strict=True):
        ratio = torch.exp(log_new - log_old)
        bounded = torch.clip(ratio, 1 - low, 1 + high)
        total = total - torch.min(ratio * a, bounded * a)
    return total


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """The sum of the clipped squared error over tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for v, v_old, r in zip(new, old, returns, strict=True):
        bounded = torch.clip(v, v_old - clip, v_old + clip)
        total = total + torch.max((v - r) ** 2, (bounded - r) ** 2) / 2
    return total
