"""A local model as evaluation sees it: it answers conversations greedily, and scores raw text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from burnish.data.batching import micro_batches
from burnish.data.examples import Message
from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.models.roles import hidden_of, response_logprobs
from burnish.ops.logprobs import token_kl
from burnish.rollout.answers import Answer
from burnish.rollout.sampler import SamplingParams
from burnish.rollout.speakers import Speaker

SCORING_TOKENS = 4096
"""Tokens, padding included, that are scored at a time."""


class ModelResponder:
    """Evaluation's view of a speaker.

    Args:
        speaker: who answers. A raw one gets the last user message as plain text.
        batch_size: conversations answered at a time.

    Attributes:
        tokens_scored: tokens that scoring has put through this model so far, padding not counted.
    """

    def __init__(self, speaker: Speaker, *, batch_size: int = 32) -> None:
        self.speaker, self.batch_size = speaker, batch_size
        self.tokens_scored = 0

    @property
    def name(self) -> str:
        """What the report calls this model."""
        return self.speaker.name

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Answer each conversation greedily; `progress` is told how many are done so far, `on_answer` is given
        (index, answer) as soon as an answer is finished."""
        params = SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0)
        answers = self.speaker.answers(
            conversations, params, batch_size=self.batch_size, on_answer=on_answer, progress=progress
        )
        return [answer for (answer,) in answers]

    def nats(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """For each raw text the sum of -log p in nats and the number of tokens it is over.

        A text that is longer than the model's context is scored in pieces of that length, each of which begins anew
        (after BOS, where the tokenizer has one). Without BOS the first token of a piece is given, not scored.

        Raises:
            ModelError: a text has nothing that could be scored.
        """
        groups: list[PromptGroup] = []
        for index, text in enumerate(texts):
            pieces = self._pieces(text)
            if not pieces:
                raise ModelError("a text needs at least two tokens to be scored", where=f"text {index}: {text[:60]!r}")
            groups += [PromptGroup((given,), (Response.full(rest),), index=index) for given, rest in pieces]
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        for group, (logp,) in zip(groups, self._score(groups), strict=True):
            sums[group.index] -= logp
            counts[group.index] += len(group.responses[0].ids)
        return list(zip(sums, counts, strict=True))

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """For each (prompt, continuations) the summed log p in nats of every continuation after the raw prompt.

        Prompt and continuation are tokenised together, as the model would meet them. What all of an item's texts and
        its prompt have in common is the prompt that is computed once; should a continuation melt into the prompt's
        last token, that token is scored with every continuation, so that all are measured after the same context.

        Raises:
            ModelError: an item is empty, or longer than the model's context.
        """
        groups = [self._choices(index, prompt, texts) for index, (prompt, texts) in enumerate(items)]
        return self._score(groups)

    @torch.no_grad()
    def kl_from(self, start: ModelResponder, texts: Sequence[str], *, max_tokens: int) -> list[tuple[float, int]]:
        """For each raw text the sum of KL(self || start) in nats over the vocabulary, and the number of positions.

        The positions are those that predict a token which `nats` would score, up to `max_tokens` of them from the
        text's beginning (and within the first piece of a text longer than the context). Two roles of one backbone are
        computed in one pass.

        Raises:
            ModelError: the two don't read the same tokens, or need different layouts; or a text is too short.
        """
        ours, theirs = self.speaker.role, start.speaker.role
        layout = ours.backbone.layout
        if layout != theirs.backbone.layout or ours.backbone.vocabulary != theirs.backbone.vocabulary:
            raise ModelError(f"{self.name} and {start.name} have different vocabularies or layouts")
        groups: list[PromptGroup] = []
        for index, text in enumerate(texts):
            pieces = self._pieces(text)
            if pieces != start._pieces(text):
                raise ModelError(f"{self.name} and {start.name} cut text into different tokens", where=f"text {index}")
            if not pieces:
                raise ModelError("a text needs at least two tokens", where=f"text {index}: {text[:60]!r}")
            given, rest = pieces[0]
            groups.append(PromptGroup((given,), (Response.full(rest[:max_tokens]),), index=index))
        found = [(0.0, 0)] * len(texts)
        for part in micro_batches(groups, tokens=SCORING_TOKENS, layout=layout):
            batch = collate(part, layout=layout).to(ours.backbone.device)
            self.tokens_scored += batch.n_tokens
            start.tokens_scored += batch.n_tokens
            own, other = (
                hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.predictors)
                for hidden in hidden_of([ours, theirs], batch)
            )
            kl = token_kl(own, other, ours.head(), theirs.head())
            sums = torch.zeros(len(part), dtype=torch.float64, device=kl.device)
            sums.index_add_(0, batch.response_of, kl.double())
            for group, nats in zip(part, sums.tolist(), strict=True):
                found[group.index] = (nats, len(group.responses[0].ids))
        return found

    def _pieces(self, text: str) -> list[tuple[int, list[int]]]:
        """A text as (given token, scored tokens), cut to the model's context."""
        ids = self._ids(text)
        width = self.speaker.role.backbone.context_length - 1
        bos = self.speaker.tokenizer.bos_token_id
        if bos is not None and ids and ids[0] == bos:
            return [(bos, ids[start : start + width]) for start in range(1, len(ids), width)]
        starts = range(0, len(ids) - 1, width + 1)
        return [(ids[start], ids[start + 1 : start + 1 + width]) for start in starts]

    def _choices(self, index: int, prompt: str, continuations: Sequence[str]) -> PromptGroup:
        where = f"item {index}: {prompt[:60]!r}"
        alone = self._ids(prompt)
        wholes = [self._ids(prompt + text) for text in continuations]
        common = min((_common_prefix(alone, whole) for whole in wholes), default=0)
        if not common or any(len(whole) == common for whole in wholes):
            raise ModelError("a continuation, or the prompt before it, has no tokens of its own", where=where)
        limit = self.speaker.role.backbone.context_length
        if (longest := max(map(len, wholes))) > limit:
            raise ModelError(f"{longest:,} tokens are more than the model's context of {limit:,}", where=where)
        responses = tuple(Response.full(whole[common:]) for whole in wholes)
        return PromptGroup(tuple(alone[:common]), responses, index=index)

    def _ids(self, text: str) -> list[int]:
        return [int(i) for i in self.speaker.tokenizer(text)["input_ids"]]

    @torch.no_grad()
    def _score(self, groups: list[PromptGroup]) -> list[list[float]]:
        """Summed log p of every response of every group, in the order given."""
        role = self.speaker.role
        layout = role.backbone.layout
        place = {id(group): i for i, group in enumerate(groups)}
        found: list[list[float]] = [[] for _ in groups]
        for part in micro_batches(groups, tokens=SCORING_TOKENS, layout=layout):
            batch = collate(part, layout=layout).to(role.backbone.device)
            self.tokens_scored += batch.n_tokens
            sums = iter(response_logprobs(role, batch).summed().tolist())
            for group in part:
                found[place[id(group)]] = [next(sums) for _ in group.responses]
        return found


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
