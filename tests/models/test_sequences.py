"""Attention as sequences of a GPU's kernel: which sequences a batch has, and that the node around the kernel is right.

The kernel itself needs a GPU (benchmarks/gpu_check.py). Here a stand-in of the same contract takes its place: sequences
of uneven length one behind the other, their ends lined up, computed in float64 by the definition.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.models import sequences as module
from burnish.models.attention import GroupPlan, group_attention
from burnish.models.sequences import sequence_attention, sequences_of
from tests.models.test_blocks import row


def test_prompts_responses_and_padding_are_sequences() -> None:
    found = sequences_of(torch.tensor([row(3, 2, 4), row(1, 1, padding=7), row(9)]))
    assert found is not None
    assert found.query_bounds.tolist() == [0, 3, 5, 9, 10, 11, 18, 27]
    # 3, 3 + 2, 3 + 4 | 1, 1 + 1, 7 of padding | 9
    assert found.key_bounds.tolist() == [0, 3, 8, 15, 16, 18, 25, 34]
    first = [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]
    assert found.keys.tolist() == [*first, 9, 9, 10, *range(11, 18), *range(18, 27)]
    assert found.longest == (9, 9)
    assert found.query_bounds.dtype == found.key_bounds.dtype == torch.int32


@pytest.mark.parametrize(
    "segments",
    [row(0, 4, 4), [-1, -1, *row(3, 3)], [0, 0, 2, 2, 1, 1, -1, -1], [-1] * 8],
    ids=["no prompt", "padding on the left", "out of order", "nothing"],
)
def test_other_layouts_are_left_to_the_mask(segments: list[int]) -> None:
    assert sequences_of(torch.tensor([segments])) is None


def attend(
    q: Tensor, k: Tensor, v: Tensor, q_bounds: Tensor, k_bounds: Tensor, most_q: int, most_k: int, *rest: Any, **kw: Any
) -> Any:
    """The kernel's contract, by the definition: (tokens, heads, width), a sequence's last query lines up with its last
    key, a query sees `window_size_left` keys back (-1: all) and none ahead."""
    share, left, out = q.shape[1] // k.shape[1], kw["window_size_left"], []
    scale = q.shape[-1] ** -0.5 if kw["scale"] is None else kw["scale"]
    assert rest[:2] == (0.0, left < 0)  # no dropout; causal where there is no window
    assert kw["window_size_right"] == 0
    for (a, b), (c, d) in zip(pairwise(q_bounds.tolist()), pairwise(k_bounds.tolist()), strict=True):
        assert b - a <= most_q
        assert d - c <= most_k
        back = (torch.arange(b - a) + (d - c) - (b - a)).unsqueeze(1) - torch.arange(d - c)
        seen = (back >= 0) & ((back <= left) | (left < 0))
        keys, values = (x[c:d].repeat_interleave(share, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[a:b], keys) * scale
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1)
        out.append(torch.einsum("hqk,khd->qhd", weights, values))
    empty = q.new_empty(0)
    return torch.cat(out), empty, empty, empty, empty


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, *rest: Any, **kw: Any
) -> Any:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    with torch.enable_grad():
        again = attend(q, k, v, *rest[:6], **kw)[0]
    assert torch.allclose(again, out)
    return torch.autograd.grad(again, (q, k, v), grad)


@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_equals_the_mask_in_float64(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_attend", attend)
    monkeypatch.setattr(module, "_attend_backward", attend_backward)
    segments = torch.tensor([row(6, 3, 5), row(2, 1, 4, 2, padding=5), row(14)])
    positions = torch.tensor(
        [[*range(6), *range(6, 9), *range(6, 11)], [0, 1, 2, 2, 3, 4, 5, 2, 3, *[0] * 5], [*range(14)]]
    )
    real = (segments >= 0).unsqueeze(2).unsqueeze(3)
    plan, found = GroupPlan(segments, positions), sequences_of(segments)
    assert found is not None
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(3, heads, 14, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    ]
    up = torch.randn(3, 14, 4, 8, generator=generator, dtype=torch.float64)
    wanted, _ = group_attention(torch.nn.Module(), *inputs, None, attention_plan=plan, sliding_window=window)
    out = sequence_attention(*inputs, found, None, window)
    assert out.is_contiguous()
    assert torch.allclose(out * real, wanted * real, atol=1e-12)
    gradients = [torch.autograd.grad((x * real * up).sum(), inputs) for x in (out, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        # What a prompt's keys get is added up in float32.
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_plan_without_a_mask_has_no_sequences() -> None:
    plan = GroupPlan(torch.tensor([row(3, 2)]), torch.arange(5).unsqueeze(0))
    assert plan.sequences(None) is None
    assert plan.sequences(5) is None
    assert plan.sequences(4) is not None


def test_the_kernel_itself_takes_what_it_is_given() -> None:
    # Its shapes and arguments alone: on the device `meta` nothing is computed.
    found = sequences_of(torch.tensor([row(6, 3, 5), row(2, 1, 4, 2, padding=5)]))
    assert found is not None
    moved = module.Sequences(*(x.to("meta") for x in (found.query_bounds, found.key_bounds, found.keys)), found.longest)
    # Heads before tokens in memory, as a torch.cat of rotated parts leaves them.
    inputs = [
        torch.empty(2, heads, 14, 64, device="meta", dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2)
    ]
    out = module._SequenceAttention.apply(*inputs, moved, None, 4)
    assert out.shape == (2, 14, 8, 64)
    assert out.is_contiguous()
    for x, grad in zip(inputs, torch.autograd.grad(out.sum(), inputs), strict=True):
        assert grad.shape == x.shape
