"""What makes sampling faster changes nothing: fast against plain, merged against beside, and what is read how often."""

from __future__ import annotations

import pytest
import torch

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ConfigError
from burnish.models import merged
from burnish.models.attention import CachePlan, group_attention
from burnish.models.blocks import LEAST_TOKENS
from burnish.models.lora import LoRAConfig, adapter_parameters, inject, lora_layers
from burnish.models.merged import merge_pays, merged_bytes, merged_weights
from burnish.models.roles import Backbone, Role, response_logprobs
from burnish.ops.logprobs import OutputHead
from burnish.rollout import decoding, drawing
from burnish.rollout.drawing import BLOCK, Projection
from burnish.rollout.sampler import Sample, SamplingParams, route_of, sample
from tests.fast_paths import counted
from tests.models.families import FAMILIES, WINDOW, tiny
from tests.models.test_core import TrueFloat64

STOP = (5, 6, 7, 8, 9, 20, 21)
SAMPLED = SamplingParams(max_new_tokens=12, seed=11, stop_ids=STOP)
OPENING = torch.randint(3, 97, (WINDOW + 3,), generator=torch.Generator().manual_seed(1)).tolist()
"""What all prompts begin with; longer than the windows, so that they slide beyond it."""
ENDS = (5, 0, 12, 7, 3, 9, 2)


def prompts(opening: list[int] = OPENING) -> list[list[int]]:
    """Prompts with a common opening; of one of them there is no more than that."""
    generator = torch.Generator().manual_seed(0)
    return [opening + torch.randint(3, 97, (k,), generator=generator).tolist() for k in ENDS]


@pytest.fixture(autouse=True)
def _tiny_work_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few tokens are read apart, cut and merged as thousands would be."""
    monkeypatch.setitem(decoding.PASS_TOKENS, "cpu", 2)
    monkeypatch.setattr(merged, "LEAST_PASSES", 1)
    monkeypatch.setattr(drawing, "_TILE", 40)


def adapted_role(family: str, dtype: torch.dtype, token_ids: tuple[int, ...] = (9, 2, 60)) -> Role:
    backbone = Backbone(tiny(family, dtype=dtype))
    inject(backbone.model, "a", LoRAConfig(rank=2), seed=0, token_ids=token_ids)
    with torch.no_grad():
        for i, p in enumerate(adapter_parameters(backbone.model, "a").values()):
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    return backbone.role("a")


def drawn(role: Role, how: str, **settings: object) -> list[Sample]:
    params = SamplingParams(**{"max_new_tokens": 12, "seed": 11, "stop_ids": STOP, "decoding": how, **settings})  # type: ignore[arg-type]
    return [s for row in sample(role, prompts(), params, n=2, batch_size=5) for s in row]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 5e-5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_is_plain(family: str, dtype: torch.dtype, tolerance: float) -> None:
    role = adapted_role(family, dtype)
    for settings in ({}, {"temperature": 0.7, "top_p": 0.9})[: 2 if dtype == torch.float64 else 1]:
        plain = drawn(role, "plain", **settings)
        for how in ("auto", "merged", "adapter"):
            for ours, theirs in zip(drawn(role, how, **settings), plain, strict=True):
                assert ours.ids == theirs.ids
                assert ours.finished == theirs.finished
                assert ours.logprobs == pytest.approx(theirs.logprobs, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_long_prompts_behind_a_window_are_read_in_blocks(family: str) -> None:
    """At the thresholds as they are; against transformers' own attention, a prompt at a time."""
    generator = torch.Generator().manual_seed(2)
    long = [torch.randint(3, 97, (n,), generator=generator).tolist() for n in (LEAST_TOKENS + 20, LEAST_TOKENS + 3)]
    drawn = {}
    for compute in ("fast", "plain"):
        model = tiny(family, dtype=torch.float64, max_position_embeddings=512)
        role = Backbone(model, compute=compute).role()  # type: ignore[arg-type]
        with counted() as paths, TrueFloat64():
            drawn[compute] = [s for (s,) in sample(role, long, SamplingParams(max_new_tokens=6, seed=11))]
        assert ("attention in blocks" in paths) == (compute == "fast")
    for ours, theirs in zip(drawn["fast"], drawn["plain"], strict=True):
        assert ours.ids == theirs.ids
        assert ours.logprobs == pytest.approx(theirs.logprobs, rel=0, abs=1e-9)


def test_the_adapter_matters_to_what_is_compared() -> None:
    role = adapted_role("gemma3", torch.float64)
    without = drawn(role.backbone.role(), "plain")
    assert [s.ids for s in drawn(role, "plain")] != [s.ids for s in without]


@pytest.mark.parametrize("family", ["gemma3", "smollm", "gpt2"])
def test_logprobs_through_merged_weights_are_those_of_the_training_forward(family: str) -> None:
    # What PPO's drift measures, at learning rate 0; its limit in fp32 is 1e-4.
    role = adapted_role(family, torch.float32)
    got = drawn(role, "merged")
    asked = [prompt for prompt in prompts() for _ in range(2)]
    groups = [PromptGroup(tuple(p), (Response.full(s.ids),)) for p, s in zip(asked, got, strict=True)]
    recorded = torch.tensor([x for s in got for x in s.logprobs])
    with torch.no_grad():
        assert torch.allclose(recorded, response_logprobs(role, collate(groups)).token, rtol=0, atol=2e-5)


# ---- merging ----


def test_merged_weights_are_base_plus_update_by_hand() -> None:
    role = adapted_role("gpt2", torch.float32)  # its layers are transposed
    for layer, weight in merged_weights(role.backbone, "a").items():
        a, b = layer.lora_a["a"].double(), layer.lora_b["a"].double()  # type: ignore[index,union-attr]
        by_hand = layer.base.weight.double().T + layer.configs["a"].alpha / 2 * (b @ a)  # type: ignore[index,union-attr,operator]
        assert torch.allclose(weight.double(), by_hand, rtol=0, atol=1e-6)


def test_merging_leaves_the_model_as_it_is() -> None:
    role = adapted_role("llama", torch.float32)
    before = {name: value.clone() for name, value in role.backbone.model.state_dict().items()}
    base = [s.ids for s in drawn(role.backbone.role(), "auto")]
    drawn(role, "merged")
    after = role.backbone.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [s.ids for s in drawn(role.backbone.role(), "auto")] == base


def test_auto_merges_in_full_precision_only_for_long_calls_and_where_the_copy_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, half = adapted_role("llama", torch.float32), adapted_role("llama", torch.bfloat16)
    monkeypatch.setattr(merged, "LEAST_PASSES", 32)
    assert merge_pays(full.backbone, "a", 32)
    assert not merge_pays(full.backbone, "a", 31)
    assert not merge_pays(half.backbone, "a", 1000)
    layers = [layer for _, layer in lora_layers(full.backbone.model, "a")]
    expected = sum(4 * layer.weight.numel() for layer in layers)
    assert merged_bytes(full.backbone, "a") == expected == 2 * merged_bytes(half.backbone, "a")
    monkeypatch.setattr(merged, "total_memory", lambda device: 8 * expected - 1)
    assert not merge_pays(full.backbone, "a", 32)
    monkeypatch.setattr(merged, "total_memory", lambda device: 8 * expected)
    assert merge_pays(full.backbone, "a", 32)


def test_the_option_decides_where_it_says_so() -> None:
    full, half = adapted_role("llama", torch.float32), adapted_role("llama", torch.bfloat16)
    for role, how, is_merged in [
        (full, "auto", True), (full, "adapter", False), (full, "plain", False), (full, "merged", True),
        (half, "auto", False), (half, "merged", True), (full.backbone.role(), "merged", False),
    ]:  # fmt: skip
        route = route_of(role, SamplingParams(decoding=how), 100)  # type: ignore[arg-type]
        assert (route.merged is not None) == is_merged
        assert route.parts == role.route().parts, "trainable token rows are found by the adapter's name"
    with pytest.raises(ConfigError, match="decoding must be auto or merged or adapter or plain"):
        SamplingParams(decoding="fast")  # type: ignore[arg-type]


# ---- reading prompts ----


class Reads:
    """Shapes of the passes that read prompts, and of those that decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        step = Backbone.step

        def spy(backbone, input_ids, *rest):  # type: ignore[no-untyped-def]
            self.shapes.append(tuple(input_ids.shape))
            return step(backbone, input_ids, *rest)

        monkeypatch.setattr(Backbone, "step", spy)

    @property
    def prompts(self) -> list[tuple[int, int]]:
        return [shape for shape in self.shapes if shape[1] > 1]


def test_what_all_prompts_begin_with_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    role = Backbone(tiny("gemma3")).role()
    expected = [s[0].ids for s in sample(role, prompts(), SamplingParams(max_new_tokens=12, seed=1, decoding="plain"))]
    reads = Reads(monkeypatch)
    got = sample(role, prompts(), SamplingParams(max_new_tokens=12, seed=1), batch_size=3)
    assert [s[0].ids for s in got] == expected
    # The last token of the shortest prompt, which is all opening, is decoded: six of its seven tokens are common.
    assert reads.prompts[0] == (1, len(OPENING) - 1)
    real = sum(end for end in ENDS)
    assert len(OPENING) - 1 + real <= sum(rows * width for rows, width in reads.prompts) <= len(OPENING) + real + 8
    monkeypatch.setitem(decoding.PASS_TOKENS, "cpu", 1000)
    reads.shapes.clear()
    sample(role, prompts(), SamplingParams(max_new_tokens=1, seed=1))
    assert reads.prompts == [(7, len(OPENING) + max(ENDS) - 1)], "not where a pass costs more than it saves"


def test_prompts_that_share_nothing_or_all_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    role = Backbone(tiny("llama")).role()
    params = SamplingParams(max_new_tokens=5, temperature=0.0)
    for asked in ([[5], [7]], [[3, 4, 5, 6, 7, 8, 9]] * 3, [[3, 4, 5, 6], [4, 4, 5, 6]], [[3, 4, 5, 6, 7, 8, 9], [3]]):
        alone = [sample(role, [prompt], params)[0][0].ids for prompt in asked]
        assert [s[0].ids for s in sample(role, asked, params)] == alone
    reads = Reads(monkeypatch)
    sample(role, [[3, 4, 5, 6, 7, 8, 9]] * 3, params)
    assert reads.prompts == [(1, 6)], "prompts that are equal are read once"


def test_prompts_are_cut_into_passes_with_little_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    role = Backbone(tiny("llama")).role()
    asked = [[3 + i, *range(10, 10 + length)] for i, length in enumerate([40, 40, 10, 10, 10])]
    reads = Reads(monkeypatch)
    params = SamplingParams(max_new_tokens=1, seed=1)
    monkeypatch.setitem(decoding.PASS_TOKENS, "cpu", 64)
    sample(role, asked, params)
    assert reads.prompts == [(2, 40), (3, 10)], "90 tokens of padding are more than a pass of 64"
    reads.shapes.clear()
    monkeypatch.setitem(decoding.PASS_TOKENS, "cpu", 91)
    sample(role, asked, params)
    assert reads.prompts == [(5, 40)]


# ---- one new token: attention, and logits ----


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_of_one_new_token_is_the_textbook_form(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    heads, shared, width, slots = 6, 2, 8, 10
    query = torch.randn(3, heads, 1, width, generator=generator, dtype=torch.float64)
    keys, values = torch.randn(2, 3, shared, slots, width, generator=generator, dtype=torch.float64)
    at = torch.tensor([[9], [4], [0]])
    plan = CachePlan(torch.arange(slots).expand(3, -1), at)
    out, _ = group_attention(
        torch.nn.Module(), query, keys, values, None, attention_plan=plan, sliding_window=4, softcap=softcap
    )
    assert out.shape == (3, 1, heads, width)
    for row in range(3):
        for head in range(heads):
            seen = range(max(0, int(at[row]) - 3), int(at[row]) + 1)
            k, v = keys[row, head // 3, list(seen)], values[row, head // 3, list(seen)]
            scores = k @ query[row, head, 0] / width**0.5
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            assert torch.allclose(out[row, 0, head], torch.softmax(scores, 0) @ v, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_logits_in_tiles_are_the_logits(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, rows, hidden = (
        torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (97, 2, 5)
    )  # 97 rows: two tiles of 40, and one of 17
    bias = torch.randn(97, generator=generator, dtype=torch.float64)
    head = OutputHead(weight, bias, 0.5, softcap, torch.tensor([3, 50]), rows)
    own = weight.clone()
    own[[3, 50]] = rows
    expected = 0.5 * hidden @ own.T + bias
    expected = expected if softcap is None else softcap * torch.tanh(expected / softcap)
    project = Projection(head)
    assert torch.allclose(project(hidden), expected, atol=1e-12)
    assert torch.allclose(project(hidden[:2]), expected[:2], atol=1e-12)  # fewer rows, in the same buffer
    assert torch.allclose(project(torch.cat([hidden, hidden])), torch.cat([expected, expected]), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logits_of_a_plain_head_end_with_a_whole_block(dtype: torch.dtype) -> None:
    """In bfloat16 they lie in memory token by token. The buffer is used again for fewer rows and for more."""
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 8, generator=generator).to(dtype) for n in (700, 5))
    exact = hidden.double() @ weight.double().T
    project = Projection(OutputHead(weight))
    for rows in (5, 2, 1, 5):
        logits = project(hidden[:rows])
        assert logits.shape == (rows, 2 * BLOCK)
        assert logits[:, 700:].isneginf().all()
        assert torch.allclose(logits[:, :700].double(), exact[:rows], rtol=2**-7, atol=2**-7)
        if rows > 1:
            assert logits.stride() == ((1, rows) if dtype == torch.bfloat16 else (2 * BLOCK, 1))
