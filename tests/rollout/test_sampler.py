"""The sampler against transformers' own generate, and against the log-prob primitive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ConfigError, ModelError
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone, Role, response_logprobs
from burnish.rollout import cache, decoding
from burnish.rollout.sampler import Sample, SamplingParams, sample
from tests.models.families import FAMILIES, SLIDING_FAMILIES, WINDOW, tiny

STOP = (5, 6, 7, 8, 9, 20, 21)
GREEDY = SamplingParams(max_new_tokens=12, temperature=0.0, stop_ids=STOP)


def prompts(lengths: Sequence[int] = (5, 1, 12, 7, 3, 9, 2)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 97, (k,), generator=generator).tolist() for k in lengths]


def generated(model: torch.nn.Module, prompt: list[int], **settings: object) -> list[int]:
    """The new tokens of transformers' own generate, one unpadded prompt."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **settings)  # type: ignore[operator]
    return out[0, len(prompt) :].tolist()


def role_of(family: str = "gemma3", dtype: torch.dtype = torch.float64, **overrides: object) -> Role:
    return Backbone(tiny(family, dtype=dtype, **overrides)).role()


def ids_of(samples: list[list[Sample]]) -> list[list[list[int]]]:
    return [[s.ids for s in row] for row in samples]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_transformers_generates(family: str) -> None:
    stock = tiny(family, dtype=torch.float64)
    expected = [generated(stock, p, max_new_tokens=12, eos_token_id=list(STOP)) for p in prompts()]
    got = sample(role_of(family), prompts(), GREEDY, batch_size=3)
    assert [s[0].ids for s in got] == expected
    assert [s[0].finished for s in got] == [ids[-1] in STOP for ids in expected]


def test_the_greedy_prompts_reach_beyond_the_windows() -> None:
    # 12 new tokens, so that windows slide in decoding; prompts of 5 and more, so that they slide in prefill too.
    assert sum(len(p) > WINDOW for p in prompts()) >= 3
    for family in SLIDING_FAMILIES:
        assert any(len(s[0].ids) == 12 for s in sample(role_of(family), prompts(), GREEDY))


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(max_new_tokens=12, top_p=0.8, temperature=0.6, seed=3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_logprobs_are_those_of_the_trainer(family: str, params: SamplingParams) -> None:
    role = role_of(family, torch.float32)
    got = [s[0] for s in sample(role, prompts(), params, batch_size=3)]
    groups = [PromptGroup(tuple(p), (Response.full(s.ids),)) for p, s in zip(prompts(), got, strict=True)]
    logps = response_logprobs(role, collate(groups)).token
    recorded = torch.tensor([x for s in got for x in s.logprobs])
    assert torch.allclose(recorded, logps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "cohere", "gpt2"])
def test_a_role_at_a_temperature_samples_and_records_there(family: str) -> None:
    role, temperature = role_of(family), 0.4
    plain = SamplingParams(max_new_tokens=12, seed=3)
    got = [s[0] for s in sample(role.at(temperature), prompts(), plain, batch_size=3)]
    stock = tiny(family, dtype=torch.float64)
    for prompt, s in zip(prompts(), got, strict=True):
        logp = torch.log_softmax(stock(torch.tensor([prompt + s.ids])).logits[0] / temperature, -1)
        expected = [logp[len(prompt) + i - 1, token].item() for i, token in enumerate(s.ids)]
        assert s.logprobs == pytest.approx(expected, abs=1e-5)  # transformers softmaxes attention in fp32
    # The same uniform numbers fall on the same tokens as when the sampler divides the logits.
    divided = sample(role, prompts(), SamplingParams(max_new_tokens=12, seed=3, temperature=temperature))
    assert [s[0].ids for s in divided] == [s.ids for s in got]


@pytest.mark.parametrize("family", ["gemma3", "smollm"])
def test_an_adapter_and_its_token_rows_are_used(family: str) -> None:
    role = role_of(family)
    before = ids_of(sample(role, prompts(), GREEDY))
    model = role.backbone.model
    inject(model, "a", LoRAConfig(rank=2), seed=0, token_ids=[9, 2, 60])
    with torch.no_grad():
        for i, p in enumerate(adapter_parameters(model, "a").values()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    adapted = role.backbone.role("a")
    got = sample(adapted, prompts(), GREEDY)
    assert ids_of(got) != before
    assert ids_of(sample(role, prompts(), GREEDY)) == before
    for prompt, (s,) in zip(prompts(), got, strict=True):
        for i, token in enumerate(s.ids):  # each token is the argmax after all that stands before it
            group = PromptGroup(tuple(prompt), (Response.full([*s.ids[:i], 0]),))
            hidden = role.backbone.hidden_states(collate([group]), adapted.route())
            z = adapted.head().logits(hidden[0, len(prompt) + i - 1])
            assert int(z.argmax()) == token
            assert torch.log_softmax(z, -1)[token].item() == pytest.approx(s.logprobs[i], abs=1e-6)


SAMPLED = SamplingParams(max_new_tokens=15, seed=11, stop_ids=STOP)


@pytest.mark.parametrize(
    "params", [SAMPLED, SamplingParams(max_new_tokens=15, seed=11, stop_ids=STOP, top_k=9, top_p=0.9, temperature=1.3)]
)
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_samples_depend_on_seed_prompt_and_sample_only(family: str, params: SamplingParams) -> None:
    role = role_of(family)
    ids = ids_of(sample(role, prompts(), params, n=3, batch_size=64))
    for batch_size in (1, 4, 7):
        assert ids_of(sample(role, prompts(), params, n=3, batch_size=batch_size)) == ids
    # Sample 0 is the same however many there are, and the samples of a prompt differ.
    assert ids_of(sample(role, prompts(), params)) == [row[:1] for row in ids]
    assert all(len({tuple(s) for s in row}) == 3 for row in ids)


def test_the_same_prompt_twice_is_two_streams_and_seeds_differ() -> None:
    role, twice = role_of(), [prompts()[0]] * 2
    first, second = sample(role, twice, SAMPLED)
    assert first[0].ids != second[0].ids
    assert sample(role, twice, SamplingParams(max_new_tokens=15, seed=12, stop_ids=STOP))[0] != first
    unseeded = SamplingParams(max_new_tokens=15)
    assert sample(role, twice, unseeded) != sample(role, twice, unseeded)


def test_sampling_does_not_touch_the_global_generator() -> None:
    role = role_of()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    sample(role, prompts(), SAMPLED)
    assert torch.equal(torch.rand(1), expected)


def test_first_tokens_come_as_often_as_the_model_says() -> None:
    role = role_of("llama")
    prompt, n = prompts()[0], 4000
    z = role.backbone.model(torch.tensor([prompt]), attention_plan=_Causal()).logits[0, -1]
    p = torch.softmax(z / 0.5, -1)
    got = sample(role, [prompt], SamplingParams(max_new_tokens=1, temperature=0.5, seed=1), n=n, batch_size=n)
    counts = Counter(s.ids[0] for s in got[0])
    likely = [i for i in range(97) if n * p[i] >= 5]
    rest = n - sum(counts[i] for i in likely)
    statistic = sum((counts[i] - n * p[i].item()) ** 2 / (n * p[i].item()) for i in likely)
    expected_rest = n * (1 - p[likely].sum().item())
    statistic += (rest - expected_rest) ** 2 / expected_rest
    # 99.9 % of chi-square with d degrees of freedom, by the Wilson-Hilferty approximation.
    d = len(likely)
    assert d > 5
    assert statistic < d * (1 - 2 / (9 * d) + 3.09 * (2 / (9 * d)) ** 0.5) ** 3


class _Causal:
    def mask(self, window: int | None) -> None:
        return None

    def blocks(self, window: int | None) -> None:
        return None


def test_the_stop_token_ends_a_sample_and_is_part_of_it() -> None:
    role = role_of()
    free = sample(role, prompts(), SamplingParams(max_new_tokens=20, temperature=0.0))
    assert all(len(row[0].ids) == 20 and not row[0].finished for row in free)
    stop = free[0][0].ids[4]
    stopped = sample(role, prompts(), SamplingParams(max_new_tokens=20, temperature=0.0, stop_ids=(stop,)))
    for (full,), (cut,) in zip(free, stopped, strict=True):
        at = full.ids.index(stop) + 1 if stop in full.ids else 20
        assert cut.ids == full.ids[:at]
        assert cut.finished == (stop in full.ids)
        assert len(cut.logprobs) == len(cut.ids)


def test_min_new_tokens_bars_the_stop_token_until_then_and_leaves_logprobs_as_they_are() -> None:
    role = role_of(vocab_size=512)  # whole blocks, so that the logits are not copied to be padded
    stop = sample(role, prompts(), SamplingParams(max_new_tokens=1, temperature=0.0))[0][0].ids[0]
    params = SamplingParams(max_new_tokens=9, temperature=0.0, stop_ids=(stop,), min_new_tokens=4)
    got = [row[0] for row in sample(role, prompts(), params)]
    assert all(stop not in s.ids[:4] for s in got)
    groups = [PromptGroup(tuple(p), (Response.full(s.ids),)) for p, s in zip(prompts(), got, strict=True)]
    logps = response_logprobs(role, collate(groups)).token.to(torch.float64)
    assert torch.allclose(torch.tensor([x for s in got for x in s.logprobs]).double(), logps, atol=1e-6)


def test_finished_rows_leave_and_waiting_prompts_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    role = role_of()
    sizes: list[tuple[int, int]] = []
    step = Backbone.step

    def spy(self, input_ids, *rest):  # type: ignore[no-untyped-def]
        sizes.append(tuple(input_ids.shape))
        return step(self, input_ids, *rest)

    monkeypatch.setattr(Backbone, "step", spy)
    many = prompts([3 + i % 7 for i in range(40)])
    got = sample(role, many, SAMPLED, batch_size=8)
    total = sum(len(row[0].ids) for row in got)
    decoding = [rows for rows, width in sizes if width == 1]
    assert max(decoding) == 8
    assert sum(decoding) == total, "a row is decoded for its own tokens and no longer"
    assert sum(rows for rows, width in sizes if width > 1) == 40, "every prompt is read once"
    # While prompts wait, the batch is never less than three quarters full.
    last_read = max(i for i, (_, width) in enumerate(sizes) if width > 1)
    assert min(rows for rows, width in sizes[:last_read] if width == 1) >= 7
    assert len(decoding) < 1.35 * total / 8 + 15


def test_a_prompt_is_read_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    role = role_of()
    read: list[tuple[int, ...]] = []
    step = Backbone.step

    def spy(self, input_ids, *rest):  # type: ignore[no-untyped-def]
        read.extend([tuple(input_ids.shape)] * (input_ids.shape[1] > 1))
        return step(self, input_ids, *rest)

    monkeypatch.setattr(Backbone, "step", spy)
    sample(role, prompts([6, 4]), SAMPLED, n=4, batch_size=8)
    assert read == [(2, 5)], "all but the last token, padded to the longest"


def test_prompts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sample(role_of(), prompts(), GREEDY)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 12)
    assert ids_of(sample(role_of(), prompts(), GREEDY)) == ids_of(expected)


def test_the_cache_grows_with_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sample(role_of(), prompts(), GREEDY)
    monkeypatch.setattr(cache, "_GROWTH", 2)
    for (grown,), (whole,) in zip(sample(role_of(), prompts(), GREEDY), expected, strict=True):
        assert grown.ids == whole.ids
        assert grown.logprobs == pytest.approx(whole.logprobs, abs=1e-6)


def test_the_context_ends_a_sample() -> None:
    role = role_of("gpt2", max_position_embeddings=16)
    got = sample(role, prompts([12, 15, 2]), SamplingParams(max_new_tokens=10, temperature=0.0))
    assert [len(row[0].ids) for row in got] == [4, 1, 10]
    assert not any(row[0].finished for row in got)
    with pytest.raises(ModelError, match=r"a prompt of 16 tokens leaves no room .* context of 16"):
        sample(role, prompts([16]), SamplingParams())


def test_streaming_and_progress() -> None:
    streamed: dict[int, list[int]] = {}
    finished: list[int] = []
    got = sample(
        role_of(),
        prompts(),
        SAMPLED,
        batch_size=3,
        on_token=lambda prompt, token: streamed.setdefault(prompt, []).append(token),
        progress=finished.append,
    )
    assert [streamed[i] for i in range(7)] == [row[0].ids for row in got]
    assert finished == [1, 2, 3, 4, 5, 6, 7]


def test_without_logprobs_the_samples_are_the_same() -> None:
    for params in (GREEDY, SAMPLED):
        with_them = sample(role_of(), prompts(), params)
        without = sample(role_of(), prompts(), params, logprobs=False)
        assert without == [[Sample(s.ids, s.finished, []) for s in row] for row in with_them]


def test_mixed_precision_weights_are_sampled_from_like_bf16_ones() -> None:
    mixed = Backbone(tiny("llama"), compute_dtype=torch.bfloat16).role()
    got = sample(mixed, prompts(), SAMPLED)
    groups = [PromptGroup(tuple(p), (Response.full(row[0].ids),)) for p, row in zip(prompts(), got, strict=True)]
    logps = response_logprobs(mixed, collate(groups)).token
    recorded = torch.tensor([x for row in got for x in row[0].logprobs])
    assert (recorded - logps).abs().mean() < 0.03  # activations are rounded in bf16, in another order


def test_no_prompts_no_samples() -> None:
    assert sample(role_of(), [], GREEDY) == []


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"stop_ids": (-1,)}, "stop_ids"),
        ({"min_new_tokens": 200}, "min_new_tokens"),
    ],
)
def test_settings_of_nonsense_are_refused(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        SamplingParams(**settings)  # type: ignore[arg-type]


def test_calls_of_nonsense_are_refused() -> None:
    role = role_of()
    with pytest.raises(ConfigError, match="at least 1"):
        sample(role, prompts(), GREEDY, batch_size=0)
    with pytest.raises(ConfigError, match="one sample a prompt"):
        sample(role, prompts(), GREEDY, n=2, on_token=lambda p, t: None)
    with pytest.raises(ConfigError, match="stop_ids"):
        sample(role, prompts(), SamplingParams(stop_ids=(97,)))
    with pytest.raises(ModelError, match="at least one token") as error:
        sample(role, [[4], []], GREEDY)
    assert error.value.where == "prompt 1"
    with pytest.raises(ModelError, match="outside the model's vocabulary of 97"):
        sample(role, [[4, 97]], GREEDY)
