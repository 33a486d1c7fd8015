"""What both sides read: the same tokens as padded rows and as prompt groups, on one tiny model in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from burnish.data.groups import PromptGroup, Response
from tests.models.families import EOS_ID, PAD_ID, tiny

GROUPS = (
    PromptGroup((11, 12, 13), (Response.full((21, 22, 23, EOS_ID)), Response.full((24, EOS_ID)))),
    PromptGroup((14, 15), (Response.full((25, 26, EOS_ID)), Response.full((27, 28, 29, 30, 31)))),
)
"""Two prompts with two responses each, of unequal lengths; the last response was cut off."""


def model(seed: int = 0) -> nn.Module:
    """A tiny Llama in float64."""
    return tiny("llama", dtype=torch.float64, seed=seed)


def rows(groups: Sequence[PromptGroup] = GROUPS) -> tuple[Tensor, list[int]]:
    """(R, T) token ids padded on the right, a row a response, and the lengths of the prompts."""
    sequences = [group.prompt + response.ids for group in groups for response in group.responses]
    lengths = [len(group.prompt) for group in groups for _ in group.responses]
    ids = torch.full((len(sequences), max(map(len, sequences))), PAD_ID)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids, lengths


def logits_of(causal: nn.Module, ids: Tensor) -> Tensor:
    """(R, T, V) logits of the model's own forward."""
    return causal(ids, attention_mask=ids != PAD_ID, use_cache=False).logits


def gradients(of: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that got one."""
    of.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in of.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """The same parameters have the same gradients, none of them 0 throughout."""
    assert ours.keys() == theirs.keys()
    assert ours
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.abs().max() > 0, name
