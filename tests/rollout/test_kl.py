"""KL between models with weights of their own, and in a model's own answers: against softmax in float64 over logits of
transformers' own forward, one unpadded text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.data.chat import install_template, resolve_template
from burnish.data.examples import Message
from burnish.errors import ModelError
from burnish.models.roles import Backbone
from burnish.rollout import responder as module
from burnish.rollout.cached import CachedResponder
from burnish.rollout.responder import ModelResponder
from burnish.rollout.response_cache import ResponseCache
from burnish.rollout.speakers import Speaker
from tests.models.families import EOS_ID, tiny, tiny_tokenizer

V = len(tiny_tokenizer())
TEXTS = ["the capital of France is Paris", "hello world, how are you", "one two three and a question: no?"]
TALK = [Message("user", "what is the capital of France?")]


def stock(family: str = "llama", **overrides: Any) -> PreTrainedModel:
    return tiny(family, **{"vocab_size": V, "dtype": torch.float64, **overrides})


def padded(rows: int, bias: float) -> PreTrainedModel:
    """A Llama whose output matrix has so many rows more, each with this bias on its logit."""
    model = stock(vocab_size=V + rows, seed=3)
    output = model.get_output_embeddings()
    output.bias = nn.Parameter(torch.cat([torch.zeros(V), torch.full((rows,), bias)]).double())  # type: ignore[assignment]
    return model


def speak(name: str, model: PreTrainedModel, *, template: bool = False, add_bos: bool = True) -> ModelResponder:
    tokenizer = tiny_tokenizer(add_bos=add_bos)
    if template:
        install_template(resolve_template(tokenizer, "plain"), tokenizer)
    return ModelResponder(Speaker.of(name, Backbone(model).role(), tokenizer))


@torch.no_grad()
def expected(model: PreTrainedModel, start: PreTrainedModel, ids: list[int], begin: int) -> float:
    """Sum over the positions that predict `ids[begin:]` of p log(p / q) over the first V tokens, renormalised."""
    inputs = torch.tensor([ids])  # before a backbone is made: that takes the model's own attention
    p, q = (torch.softmax(one(inputs).logits[0, begin - 1 : -1, :V], -1) for one in (model, start))
    return float((p * (p / q).log()).sum())


def test_kl_between_two_families_with_weights_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORING_TOKENS", 40)  # several micro-batches, out of order
    ours, theirs = stock("llama", seed=1), stock("qwen3", seed=2, hidden_size=24)
    values = [expected(ours, theirs, tiny_tokenizer()(text)["input_ids"], 1) for text in TEXTS]
    reverse = [expected(theirs, ours, tiny_tokenizer()(text)["input_ids"], 1) for text in TEXTS]
    found = speak("ours", ours).kl_from(speak("theirs", theirs), TEXTS, max_tokens=99)
    assert [nats for nats, _ in found] == pytest.approx(values, rel=1e-6)
    assert values != pytest.approx(reverse, rel=0.05), "the other direction is another number"


def test_layouts_need_not_be_the_same() -> None:
    ours, theirs = stock("llama", seed=1), stock("llama", seed=2)
    values = [expected(ours, theirs, tiny_tokenizer()(text)["input_ids"], 1) for text in TEXTS]
    start = speak("theirs", theirs)
    start.speaker.role.backbone._use_layout("rows")
    assert [nats for nats, _ in speak("ours", ours).kl_from(start, TEXTS, max_tokens=99)] == pytest.approx(values)


@pytest.mark.parametrize("wide_is_start", [False, True])
def test_padding_rows_of_an_embedding_are_left_out_of_both_distributions(wide_is_start: bool) -> None:
    """Biased by -5, five rows get about 1e-4 of the probability: below the bound, and seen where they are counted."""
    models = [stock(seed=1), padded(5, -5.0)]
    ours, theirs = models if wide_is_start else reversed(models)
    values = [expected(ours, theirs, tiny_tokenizer()(text)["input_ids"], 1) for text in TEXTS]
    found = speak("ours", ours).kl_from(speak("theirs", theirs), TEXTS, max_tokens=99)
    assert [nats for nats, _ in found] == pytest.approx(values, rel=1e-6)


def test_rows_that_a_model_puts_probability_on_are_no_padding() -> None:
    ours, theirs = speak("ours", padded(5, 0.0)), speak("theirs", stock(seed=1))
    for one, other in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ModelError, match=r"ours gives \d+\.\d+% of its probability to tokens that the other lacks"):
            one.kl_from(other, TEXTS, max_tokens=9)


@pytest.mark.parametrize("template", [True, False])
def test_kl_after_is_over_the_answers_positions_with_this_models_prompt(template: bool) -> None:
    ours, theirs = stock(seed=1), stock(seed=2)
    tokenizer = tiny_tokenizer()
    said = f"User: {TALK[0].content}\nAssistant:" if template else TALK[0].content
    prompt = tokenizer(said)["input_ids"]
    answers = [tokenizer(" Paris", add_special_tokens=False)["input_ids"], [EOS_ID]]
    answers[0] = [*answers[0], EOS_ID]
    items = [(TALK, ids) for ids in answers]
    values = [expected(ours, theirs, [*prompt, *ids], len(prompt)) for ids in answers]
    # The starting model is raw in both cases: it reads what the other one is prompted with.
    found = speak("ours", ours, template=template).kl_after(speak("theirs", theirs), items)
    assert [count for _, count in found] == [len(ids) for ids in answers]
    assert [nats for nats, _ in found] == pytest.approx(values, rel=1e-6)


def test_what_can_not_be_compared_after_a_prompt_is_refused() -> None:
    ours = speak("ours", padded(5, -5.0))
    with pytest.raises(ModelError, match=f"ours reads token {V + 1}, and theirs has only {V}"):
        ours.kl_after(speak("theirs", stock(seed=1)), [(TALK, [V + 1])])
    with pytest.raises(ModelError, match=r"too long for theirs: .* more than the context of 8"):
        ours.kl_after(speak("theirs", stock(max_position_embeddings=8)), [(TALK, [5])])
    with pytest.raises(ModelError, match="cut text into different tokens"):
        ours.kl_after(speak("theirs", stock(), add_bos=False), [(TALK, [5])])


def test_a_text_is_cut_to_the_shorter_context() -> None:
    ours, theirs = stock(seed=1), stock(seed=2, max_position_embeddings=8)
    value = expected(ours, theirs, tiny_tokenizer()(TEXTS[2])["input_ids"][:8], 1)
    ((nats, count),) = speak("ours", ours).kl_from(speak("theirs", theirs), TEXTS[2:], max_tokens=99)
    assert count == 7
    assert nats == pytest.approx(value)


def test_behind_the_cache_nothing_is_loaded_twice_nor_for_models_that_can_not_be_compared(tmp_path: Path) -> None:
    loaded: list[str] = []

    def make(name: str, *, add_bos: bool = True, seed: int = 1) -> CachedResponder:
        def load() -> ModelResponder:
            loaded.append(name)
            return speak(name, stock(seed=seed), add_bos=add_bos)

        tokenizer = tiny_tokenizer(add_bos=add_bos)
        return CachedResponder(name, f"{name}{seed}", load, ResponseCache(tmp_path), lambda: tokenizer)

    items = [(TALK, [5, EOS_ID]), (TALK, [7])]
    first = make("ours").kl_after(make("theirs", seed=2), items)
    assert loaded == ["ours", "theirs"]
    assert make("ours").kl_after(make("theirs", seed=2), items) == first
    assert loaded == ["ours", "theirs"]
    again = make("ours").kl_after(make("theirs", seed=3), items[:1])  # another starting model
    assert again[0][0] != first[0][0]
    loaded.clear()
    other = make("other", add_bos=False)
    for attempt in (
        lambda: make("ours").kl_from(other, ["no"], max_tokens=9),
        lambda: make("ours").kl_after(other, items),
    ):
        with pytest.raises(ModelError, match="ours and other cut text into different tokens"):
            attempt()
    assert loaded == []
