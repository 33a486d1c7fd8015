"""A local model whose answers and scores are kept on disk; it is loaded only when something is missing there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from burnish.data.examples import Message
from burnish.rollout.answers import Answer, Usage
from burnish.rollout.responder import ModelResponder, demand_same_tokens, texts_of
from burnish.rollout.response_cache import Keep, ResponseCache


class CachedResponder:
    """A `ModelResponder` behind a cache.

    Answers are kept one by one as they are finished, scores when they are all there.

    Args:
        name: what the report calls it.
        identity: stands for all that an answer depends on besides the question: the model's content with its base and
            its tokenizer, the precision, the kind of device, the code.
        load: gives the model; called once, at the first question that the cache can't answer.
        cache: keeps what is computed.
        load_tokenizer: gives its tokenizer without its weights; the loaded model's is taken if not given.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        load: Callable[[], ModelResponder],
        cache: ResponseCache,
        load_tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        self._name, self.identity, self.cache = name, identity, cache
        self._load, self._load_tokenizer = load, load_tokenizer
        self._model: ModelResponder | None = None
        self.asked = 0
        """Conversations so far."""
        self.from_cache = 0
        """Of these, whose answer was on the disk."""

    @property
    def name(self) -> str:
        """What the report calls this model."""
        return self._name

    @property
    def model(self) -> ModelResponder:
        """The model itself, loaded if need be."""
        if self._model is None:
            self._model = self._load()
        return self._model

    @property
    def is_raw(self) -> bool:
        """Whether it is prompted with raw text."""

        def compute(missing: list[int], keep: Keep) -> None:
            keep(0, {"raw": self.model.speaker.is_raw})

        return bool(self.cache.filled([[self.identity, "raw"]], compute)[0]["raw"])

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer each conversation greedily; `progress` is told how many are done so far, kept ones included."""

        def on_disk(count: int) -> None:
            self.from_cache += count

        def compute(missing: list[int], keep: Keep) -> None:
            self.model.answer(
                [conversations[place] for place in missing],
                max_new_tokens=max_new_tokens,
                on_answer=lambda place, answer: keep(missing[place], asdict(answer)),
            )

        self.asked += len(conversations)
        settings = {"max_new_tokens": max_new_tokens, "temperature": 0}
        keys = [
            [self.identity, "answer", [[message.role, message.content] for message in conversation], settings]
            for conversation in conversations
        ]
        return [_answer(value) for value in self.cache.filled(keys, compute, found=on_disk, progress=progress)]

    def nats(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """For each raw text the sum of -log p in nats and the number of tokens; see `ModelResponder.nats`."""

        def compute(missing: list[int], keep: Keep) -> None:
            for place, value in zip(missing, self.model.nats([texts[i] for i in missing]), strict=True):
                keep(place, list(value))

        found = self.cache.filled([[self.identity, "nats", text] for text in texts], compute)
        return [(float(nats), int(count)) for nats, count in found]

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """The summed log p in nats of every continuation; see `ModelResponder.continuation_logprobs`."""

        def compute(missing: list[int], keep: Keep) -> None:
            values = self.model.continuation_logprobs([items[i] for i in missing])
            for place, value in zip(missing, values, strict=True):
                keep(place, list(value))

        keys = [[self.identity, "continuations", prompt, list(texts)] for prompt, texts in items]
        return self.cache.filled(keys, compute)

    @property
    def tokens_scored(self) -> int:
        """Tokens that scoring has put through the model; none for what was on the disk."""
        return self._model.tokens_scored if self._model is not None else 0

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, without loading the model where that can be."""
        if self._model is None and self._load_tokenizer is not None:
            return self._load_tokenizer()
        return self.model.speaker.tokenizer

    def kl_from(self, start: CachedResponder, texts: Sequence[str], *, max_tokens: int) -> list[tuple[float, int]]:
        """The sums of KL(self || start) in nats over the texts' positions; see `ModelResponder.kl_from`. Two models
        that can't be compared are not loaded to find it out."""

        def compute(missing: list[int], keep: Keep) -> None:
            asked = [texts[i] for i in missing]
            self._demand_same_tokens(start, lambda _: asked)
            values = self.model.kl_from(start.model, asked, max_tokens=max_tokens)
            for place, value in zip(missing, values, strict=True):
                keep(place, list(value))

        keys = [[self.identity, "kl", start.identity, text, max_tokens] for text in texts]
        return [(float(nats), int(count)) for nats, count in self.cache.filled(keys, compute)]

    def kl_after(
        self, start: CachedResponder, items: Sequence[tuple[Sequence[Message], Sequence[int]]]
    ) -> list[tuple[float, int]]:
        """The sums of KL(self || start) in nats over the answers' positions; see `ModelResponder.kl_after`."""

        def compute(missing: list[int], keep: Keep) -> None:
            asked = [items[i] for i in missing]
            self._demand_same_tokens(start, lambda tokenizer: texts_of(asked, tokenizer))
            for place, value in zip(missing, self.model.kl_after(start.model, asked), strict=True):
                keep(place, list(value))

        keys = [
            [self.identity, "kl after", start.identity, [[m.role, m.content] for m in conversation], list(ids)]
            for conversation, ids in items
        ]
        return [(float(nats), int(count)) for nats, count in self.cache.filled(keys, compute)]

    def _demand_same_tokens(self, start: CachedResponder, texts: Callable[[Any], Sequence[str]]) -> None:
        if self._model is None or start._model is None:
            own = self.tokenizer
            demand_same_tokens(self.name, own, start.name, start.tokenizer, texts(own))


def _answer(value: dict[str, Any]) -> Answer:
    usage, ids = value["usage"], value["ids"]
    return Answer(
        **{**value, "usage": None if usage is None else Usage(**usage), "ids": None if ids is None else tuple(ids)}
    )
