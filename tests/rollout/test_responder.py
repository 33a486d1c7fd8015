"""The responder against forwards of transformers' own code, one unpadded text at a time."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from burnish.data.examples import Message
from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone
from burnish.rollout import responder as module
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import Speaker
from tests.models.families import EOS_ID, tiny, tiny_tokenizer


def stock(**overrides: object) -> PreTrainedModel:
    return tiny("gemma3", vocab_size=len(tiny_tokenizer()), **overrides)


def responder(*, add_bos: bool = True, **overrides: object) -> ModelResponder:
    tokenizer = tiny_tokenizer(add_bos=add_bos)
    if not add_bos:
        tokenizer.bos_token = None
    return ModelResponder(Speaker.of("raw", Backbone(stock(**overrides)).role(), tokenizer), batch_size=2)


@torch.no_grad()
def logps(model: PreTrainedModel, ids: list[int]) -> list[float]:
    """log p of every token but the first."""
    z = model(torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(z.double(), -1).gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1).tolist()


TEXTS = ["the capital of France is Paris", "no", "one two three and a question: how are you?"]


@pytest.mark.parametrize("add_bos", [True, False])
def test_nats_are_those_of_every_token_that_has_one_before_it(add_bos: bool) -> None:
    model, tokenizer = stock(), tiny_tokenizer(add_bos=add_bos)
    texts = TEXTS if add_bos else [TEXTS[0], TEXTS[2]]
    for text, (nats, count) in zip(texts, responder(add_bos=add_bos).nats(texts), strict=True):
        ids = tokenizer(text)["input_ids"]
        expected = logps(model, ids)
        assert count == len(ids) - 1 == len(expected)
        assert nats == pytest.approx(-sum(expected), abs=1e-4)


def test_a_text_longer_than_the_context_is_scored_in_pieces_and_no_token_is_lost() -> None:
    model, tokenizer = stock(max_position_embeddings=8), tiny_tokenizer()
    text = TEXTS[2] * 2
    bos, *ids = tokenizer(text)["input_ids"]
    assert len(ids) > 16
    ((nats, count),) = responder(max_position_embeddings=8).nats([text])
    expected = [x for start in range(0, len(ids), 7) for x in logps(model, [bos, *ids[start : start + 7]])]
    assert count == len(ids) == len(expected)
    assert nats == pytest.approx(-sum(expected), abs=1e-4)
    # Without BOS each piece's first token is given: pieces of 8, of which 7 are scored.
    ((_, count),) = responder(max_position_embeddings=8, add_bos=False).nats([text])
    assert count == len(ids) - -(-len(ids) // 8)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ModelError, match="at least two tokens") as error:
        responder().nats(["fine", ""])
    assert error.value.where == "text 1: ''"


def test_continuations_are_scored_after_the_raw_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORING_TOKENS", 60)  # several micro-batches, out of order
    model, tokenizer = stock(), tiny_tokenizer()
    items = [
        ("Question: what is the capital of France?\nAnswer:", [" Paris", " no", " the end of the world"]),
        ("Question: no?\nAnswer:", [" yes", " no"]),
        ("one two", [" three", " a model", " hello"]),
    ]
    got = responder().continuation_logprobs(items)
    for (prompt, texts), values in zip(items, got, strict=True):
        n = len(tokenizer(prompt)["input_ids"])
        expected = [sum(logps(model, tokenizer(prompt + text)["input_ids"])[n - 1 :]) for text in texts]
        assert values == pytest.approx(expected, abs=1e-4)


def test_a_continuation_that_melts_into_the_prompt_is_scored_after_what_all_have_in_common() -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    ids = {text: tokenizer(text)["input_ids"] for text in ("the cap", "the capital", "the cap of")}
    common = 0
    while len({tuple(i[: common + 1]) for i in ids.values()}) == 1:
        common += 1
    assert common < len(ids["the cap"]), "'capital' is one token, so 'cap' is not a prefix of it"
    got = responder().continuation_logprobs([("the cap", ["ital", " of"])])[0]
    expected = [sum(logps(model, ids[text])[common - 1 :]) for text in ("the capital", "the cap of")]
    assert got == pytest.approx(expected, abs=1e-4)


def test_items_that_can_not_be_scored_are_refused() -> None:
    with pytest.raises(ModelError, match="no tokens of its own"):
        responder().continuation_logprobs([("the", [" end", ""])])
    with pytest.raises(ModelError, match="more than the model's context of 8"):
        responder(max_position_embeddings=8).continuation_logprobs([("the end of the world", [" yes", " no no no no"])])


def test_answers_are_greedy_and_counted_without_the_stop_token() -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    talks = [[Message("user", text)] for text in TEXTS]
    done: list[int] = []
    answers = responder().answer(talks, max_new_tokens=9, progress=done.append)
    assert done == [1, 2, 3]
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=9, do_sample=False, eos_token_id=EOS_ID)[
            0, ids["input_ids"].shape[1] :
        ]
        finished = int(out[-1]) == EOS_ID
        assert answer.text == tokenizer.decode(out, skip_special_tokens=True).strip()
        assert (answer.finished, answer.n_tokens) == (finished, len(out) - finished)
    assert responder().name == "raw"


def pair(*, add_bos: bool = True, seed: int = 1) -> tuple[ModelResponder, ModelResponder]:
    """A plain model and an adapter of it that has moved."""
    tokenizer = tiny_tokenizer(add_bos=add_bos)
    if not add_bos:
        tokenizer.bos_token = None
    model = stock()
    inject(model, "moved", LoRAConfig(rank=2, targets=["q_proj", "v_proj"]), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, "moved").values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    backbone = Backbone(model)
    return (
        ModelResponder(Speaker.of("raw", backbone.role(), tokenizer)),
        ModelResponder(Speaker.of("moved", backbone.role("moved"), tokenizer)),
    )


@torch.no_grad()
def distributions(responder: ModelResponder, ids: list[int]) -> torch.Tensor:
    """(tokens, V) log-probs of one unpadded text, the output projection in float64."""
    role = responder.speaker.role
    batch = collate([PromptGroup((ids[0],), (Response.full(ids[1:]),))])
    hidden = role.backbone.hidden_states(batch, role.route())[0]
    weight = role.backbone.model.get_output_embeddings().weight
    return torch.log_softmax(hidden.double() @ weight.double().T, -1)


@pytest.mark.parametrize("add_bos", [True, False])
def test_kl_is_the_sum_over_the_vocabulary_at_every_scored_position(
    add_bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORING_TOKENS", 40)  # several micro-batches, out of order
    start, moved = pair(add_bos=add_bos)
    texts = [TEXTS[0], TEXTS[2], "hello world, how are you"]
    found = moved.kl_from(start, texts, max_tokens=10)
    for text, (nats, count) in zip(texts, found, strict=True):
        ids = moved.speaker.tokenizer(text)["input_ids"]
        p, q = distributions(moved, ids)[:-1][:10], distributions(start, ids)[:-1][:10]
        assert count == min(10, len(ids) - 1) == len(p)
        assert nats == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
        assert nats > 0.01
        reverse = float((q.exp() * (q - p)).sum())
        assert abs(reverse - nats) > 1e-3, "the other direction is another number"


def test_kl_from_itself_is_nothing() -> None:
    start, moved = pair()
    assert [nats for nats, _ in start.kl_from(start, TEXTS, max_tokens=9)] == [0.0] * 3
    assert moved.tokens_scored == 0


def test_tokens_that_go_through_a_model_are_counted() -> None:
    start, moved = pair()
    ids = moved.speaker.tokenizer(TEXTS[0])["input_ids"]
    moved.nats([TEXTS[0]])
    assert moved.tokens_scored == len(ids)
    moved.kl_from(start, [TEXTS[0]], max_tokens=100)
    assert (moved.tokens_scored, start.tokens_scored) == (2 * len(ids), len(ids))


def test_kl_needs_the_same_tokens() -> None:
    start, moved = pair()
    other = ModelResponder(Speaker.of("other", start.speaker.role, tiny_tokenizer(add_bos=False)))
    with pytest.raises(ModelError, match="different tokens"):
        moved.kl_from(other, TEXTS, max_tokens=9)
    wide = ModelResponder(Speaker.of("wide", Backbone(tiny("gemma3", vocab_size=400)).role(), tiny_tokenizer()))
    with pytest.raises(ModelError, match=r"moved reads token .* and wide has only 400 tokens"):
        moved.kl_from(wide, TEXTS, max_tokens=9)
    with pytest.raises(ModelError, match="at least two tokens"):
        moved.kl_from(start, [""], max_tokens=9)
