"""A local model behind the cache: asked only for what is new, and not even loaded for what is old."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.data.examples import Message
from burnish.evaluation.answers import Responder
from burnish.models.roles import Backbone
from burnish.rollout.cached import CachedResponder
from burnish.rollout.responder import ModelResponder
from burnish.rollout.response_cache import ResponseCache
from burnish.rollout.speakers import Speaker
from tests.models.families import tiny, tiny_tokenizer

TEXTS = ["the capital of France is Paris", "no", "one two three and a question: how are you?", "hello world"]
TALKS = [[Message("user", text)] for text in TEXTS]
ITEMS = [("Question: no?\nAnswer:", [" yes", " no"]), ("one two", [" three", " a model", " hello"])]


class Loader:
    """Loads a tiny model, and counts it; what the model is asked is written down."""

    def __init__(self) -> None:
        self.count = 0
        self.asked: list[str] = []

    def __call__(self) -> ModelResponder:
        self.count += 1
        tokenizer = tiny_tokenizer()
        backbone = Backbone(tiny("gemma3", vocab_size=len(tokenizer)))
        speaker = Speaker.of("raw", backbone.role(), tokenizer)
        return ModelResponder(speaker, batch_size=2)


def never() -> ModelResponder:
    raise AssertionError("the model was loaded")


def make(cache: Path, load: Callable[[], ModelResponder], identity: str = "a") -> CachedResponder:
    return CachedResponder("raw", identity, load, ResponseCache(cache))


def test_it_says_what_the_model_says_and_the_second_time_without_loading_it(tmp_path: Path) -> None:
    load = Loader()
    plain, first = load(), make(tmp_path, load)
    assert isinstance(first, Responder)
    done: list[int] = []
    answers = first.answer(TALKS, max_new_tokens=6, progress=done.append)
    assert answers == plain.answer(TALKS, max_new_tokens=6)
    assert done == [0, 1, 2, 3, 4]
    nats, logprobs = first.nats([TEXTS[0], TEXTS[2]]), first.continuation_logprobs(ITEMS)
    assert nats == plain.nats([TEXTS[0], TEXTS[2]])
    assert logprobs == plain.continuation_logprobs(ITEMS)
    assert first.is_raw
    assert load.count == 2

    again = make(tmp_path, never)
    kept = again.answer(TALKS, max_new_tokens=6)
    assert kept == answers
    assert [answer.usage for answer in kept] == [answer.usage for answer in answers]
    assert again.nats([TEXTS[0], TEXTS[2]]) == nats
    assert again.continuation_logprobs(ITEMS) == logprobs
    assert again.is_raw
    assert (again.asked, again.from_cache) == (4, 4)


def test_an_answer_tells_what_it_took() -> None:
    answers = Loader()().answer(TALKS, max_new_tokens=6)
    tokenizer = tiny_tokenizer()
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer.usage is not None
        assert answer.n_tokens is not None
        assert answer.usage.prompt_tokens == len(tokenizer(text)["input_ids"])
        assert answer.usage.completion_tokens == answer.n_tokens + answer.finished  # the stop token was generated too
        assert answer.usage.seconds > 0


def test_one_more_prompt_asks_for_that_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, Loader()).answer(TALKS[:3], max_new_tokens=6)
    asked: list[list[str]] = []
    real = ModelResponder.answer

    def spy(self: ModelResponder, conversations, **more):  # type: ignore[no-untyped-def]
        asked.append([talk[-1].content for talk in conversations])
        return real(self, conversations, **more)

    monkeypatch.setattr(ModelResponder, "answer", spy)
    progress: list[int] = []
    make(tmp_path, Loader()).answer([TALKS[3], *TALKS[:3]], max_new_tokens=6, progress=progress.append)
    assert asked == [[TEXTS[3]]]
    assert progress == [3, 4]


@pytest.mark.parametrize("change", ["identity", "limit", "turns"])
def test_another_model_limit_or_conversation_never_meets_an_old_answer(tmp_path: Path, change: str) -> None:
    make(tmp_path, Loader()).answer(TALKS, max_new_tokens=6)
    load = Loader()
    other = make(tmp_path, load, "b" if change == "identity" else "a")
    talks = [[Message("system", "x"), *talk] for talk in TALKS] if change == "turns" else TALKS
    other.answer(talks, max_new_tokens=7 if change == "limit" else 6)
    assert (other.from_cache, load.count) == (0, 1)


def test_what_was_finished_when_it_was_cut_off_is_kept(tmp_path: Path) -> None:
    """An interrupt after the second answer: two are on the disk, the other two are sampled by the next call."""

    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Loader()).answer(TALKS, max_new_tokens=6, progress=interrupt)
    again = make(tmp_path, Loader())
    assert again.answer(TALKS, max_new_tokens=6) == Loader()().answer(TALKS, max_new_tokens=6)
    assert again.from_cache == 2
