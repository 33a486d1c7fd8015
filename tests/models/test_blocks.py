"""Attention in blocks: what is a block, when it pays, and float64 equality with the mask and with separate rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from burnish.data.groups import collate
from burnish.models import attention, blocks
from burnish.models.attention import GroupPlan
from burnish.models.blocks import block_attention, blocks_of
from burnish.models.roles import Backbone, response_logprobs
from tests.models.families import FAMILIES, tiny
from tests.models.test_core import assert_equals_separate_forwards, groups


def row(prompt: int, *responses: int, padding: int = 0) -> list[int]:
    segments = [0] * prompt
    for i, length in enumerate(responses, start=1):
        segments += [i] * length
    return segments + [-1] * padding


def span(place: slice) -> tuple[int, int]:
    return place.start, place.stop


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LEAST_TOKENS", 0)
    monkeypatch.setattr(blocks, "LEAST_SAVING", 0.0)


@pytest.mark.usefixtures("always")
def test_a_row_is_cut_where_its_segments_change() -> None:
    segments = torch.tensor([row(3, 2, 4), row(1, 1, padding=7), row(9)])
    found = blocks_of(segments, None)
    assert found is not None
    places = [[(span(block.queries), [span(key) for key in block.keys]) for block in row] for row in found]
    assert places == [
        [((0, 3), [(0, 3)]), ((3, 5), [(0, 3), (3, 5)]), ((5, 9), [(0, 3), (5, 9)])],
        [((0, 1), [(0, 1)]), ((1, 2), [(0, 1), (1, 2)])],
        [((0, 9), [(0, 9)])],
    ]


@pytest.mark.usefixtures("always")
def test_a_window_cuts_the_prompt_into_chunks() -> None:
    # Window 3: token 4 of the prompt sees 2, 3, 4; the response's first, at position 7, sees 5, 6 and itself.
    found = blocks_of(torch.tensor([row(7, 2)]), 3)
    assert found is not None
    assert [(span(b.queries), [span(key) for key in b.keys]) for b in found[0]] == [
        ((0, 3), [(0, 3)]),
        ((3, 6), [(1, 6)]),
        ((6, 7), [(4, 7)]),
        ((7, 9), [(5, 7), (7, 9)]),
    ]
    assert found[0][1].mask is not None
    assert found[0][1].mask.int().tolist() == [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert found[0][3].mask is not None
    assert found[0][3].mask.int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "segments",
    [row(0, 4, 4), [-1, -1, *row(3, 3)], [*row(3, 2, padding=1), 2, 2], [0, 0, 2, 2, 1, 1, -1, -1], [-1] * 8],
    ids=["no prompt", "padding on the left", "padding between", "out of order", "nothing"],
)
def test_other_layouts_are_left_to_the_mask(segments: list[int]) -> None:
    assert blocks_of(torch.tensor([segments]), None) is None


def test_blocks_are_used_where_they_save_enough() -> None:
    # A prompt of 1,000 with two responses of 50: 500,000 + 2 x 50 x 1,050 = 605,000 scores, the mask has 1,210,000.
    found = blocks_of(torch.tensor([row(1000, 50, 50)]), None)
    assert found is not None
    assert sum(block.scores for block in found[0]) == 605_000
    assert blocks_of(torch.tensor([row(100, 50, 50)]), None) is None, "too short"
    # Two responses of 500 behind 20: 200 + 2 x 500 x 520 = 520,200 of 1,040,400; one alone 260,200 of 270,400.
    assert blocks_of(torch.tensor([row(20, 500, 500)]), None) is not None
    assert blocks_of(torch.tensor([row(20, 500)]), None) is None


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("window", [None, 1, 2, 4, 6])
def test_blocks_equal_the_mask(window: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, h, 14, 8, dtype=torch.float64, generator=draw, requires_grad=True) for h in (6, 2, 2)
    )
    segments = torch.tensor([row(7, 3, 4), row(6, 2, 3, padding=3), row(9, 1, padding=4)])
    positions = torch.tensor([
        [*range(7), 7, 8, 9, 7, 8, 9, 10],
        [*range(6), 6, 7, 6, 7, 8, 0, 0, 0],
        [*range(9), 9, 0, 0, 0, 0],
    ])  # fmt: skip
    plan = GroupPlan(segments, positions)
    cut = plan.blocks(window)
    assert cut is not None
    got = block_attention(query, key, value, cut, 0.3).transpose(1, 2)
    mask = plan.mask(window)
    want = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    real = segments.unsqueeze(1).expand(3, 6, 14) >= 0
    assert torch.allclose(got[real], want[real], rtol=0, atol=1e-12)
    assert got[~real].abs().max() == 0
    upstream = torch.randn(got.shape, dtype=torch.float64, generator=draw) * real.unsqueeze(-1)
    for a, b in zip(
        torch.autograd.grad((got * upstream).sum(), (query, key, value)),
        torch.autograd.grad((want * upstream).sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_bfloat16_adds_up_a_prompts_gradients_without_losing_the_later_ones() -> None:
    """Of 32 responses behind one prompt: no less exact than one product in float32 of the same rounded numbers."""
    draw = torch.Generator().manual_seed(0)
    segments = torch.tensor([row(100, *[10] * 32)])
    cut = blocks_of(segments, None)
    assert cut is not None
    wide = [torch.randn(1, h, segments.shape[1], 8, generator=draw).bfloat16() for h in (2, 2, 2)]
    upstream = torch.randn(1, segments.shape[1], 2, 8, generator=draw).bfloat16()
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [x.to(dtype, copy=True).requires_grad_() for x in wide]
        found[dtype] = torch.autograd.grad(block_attention(*inputs, cut, None), inputs, upstream.to(dtype))
    for got, want in zip(found[torch.bfloat16], found[torch.float64], strict=True):
        assert (got.double() - want).norm() <= 0.006 * want.norm()


@pytest.mark.usefixtures("always")
def test_queries_keys_and_values_that_lie_the_other_way() -> None:
    cut = blocks_of(torch.tensor([row(7, 3, 4)]), None)
    assert cut is not None
    inputs = [torch.randn(1, 2, 14, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in inputs]
    want, got = (block_attention(*each, cut, None) for each in (inputs, turned))
    assert torch.equal(got, want)
    assert all(map(torch.equal, *(torch.autograd.grad(out.square().sum(), inputs) for out in (got, want))))


def long_logprobs(family: str, monkeypatch: pytest.MonkeyPatch, *, in_blocks: bool, **settings: Any) -> torch.Tensor:
    """Of a backbone whose probe is too short for blocks, as probes are."""
    backbone = Backbone(tiny(family), **settings)
    if in_blocks:
        monkeypatch.setattr(blocks, "LEAST_TOKENS", 0)
        monkeypatch.setattr(blocks, "LEAST_SAVING", 0.0)
    found = response_logprobs(backbone.role(), collate(groups())).summed()
    found.sum().backward()
    monkeypatch.undo()
    return found.detach()


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_full_fine_tuning_in_mixed_precision(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in float32, products in bfloat16: autocast hands on queries of one and values of the other."""
    mixed = {"compute_dtype": torch.bfloat16}
    exact = long_logprobs(family, monkeypatch, in_blocks=False)
    got = long_logprobs(family, monkeypatch, in_blocks=True, **mixed)
    want = long_logprobs(family, monkeypatch, in_blocks=False, **mixed)
    assert (got - exact).norm() <= 2 * (want - exact).norm()


def test_values_of_another_width_than_keys_go_through_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "block_attention", None)
    plan = GroupPlan(torch.tensor([row(500, 3, 4)]), torch.tensor([[*range(503), *range(500, 504)]]))
    assert plan.blocks(None) is not None
    query, key, value = (torch.randn(1, 2, 507, width) for width in (8, 8, 4))
    out, _ = attention.group_attention(torch.nn.Module(), query, key, value, None, attention_plan=plan)
    assert out.shape == (1, 507, 2, 4)


@pytest.mark.usefixtures("always")
def test_a_long_prompt_is_kept_once_for_all_its_responses() -> None:
    query, key, value = (torch.randn(1, h, 40, 8, requires_grad=True) for h in (4, 2, 2))
    cut = blocks_of(torch.tensor([row(30, *[2] * 5)]), None)
    assert cut is not None
    kept: dict[int, int] = {}

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        block_attention(query, key, value, cut, None)
    # Queries, keys, values, what comes out, and a number for each query and head.
    assert sum(kept.values()) == 4 * 40 * 8 * (4 + 2 + 2 + 4) + 4 * 40 * 4


@pytest.mark.usefixtures("true_float64", "always")
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_equal_separate_unpadded_forwards(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of_calls = []
    real = attention.block_attention

    def watched(query: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        rows_of_calls.append(len(query))
        return real(query, *rest, **more)

    monkeypatch.setattr(attention, "block_attention", watched)
    assert_equals_separate_forwards(family)
    # The probe of a new backbone has one row, the groups have one each.
    assert (len(groups()) in rows_of_calls) == (family != "gemma2"), "capped scores have a way of their own"
