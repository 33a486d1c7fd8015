"""A local model as evaluation sees it: it answers conversations greedily, and scores raw text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from burnish.data.batching import micro_batches
from burnish.data.examples import Message
from burnish.data.groups import GroupBatch, PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.models.roles import Role, hidden_of, predicting_hidden, response_logprobs
from burnish.ops.logprobs import OutputHead, token_kl
from burnish.rollout.answers import Answer
from burnish.rollout.sampler import SamplingParams
from burnish.rollout.speakers import Speaker

SCORING_TOKENS = 4096
"""Tokens, padding included, that are scored at a time."""

OUTSIDE = 1e-3
"""Of two models with output matrices of different height, the most probability that one may give at any position to
tokens that the other lacks. Padding rows of an embedding get far less; tokens that a model has learned to say, more."""


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

    def kl_from(self, start: ModelResponder, texts: Sequence[str], *, max_tokens: int) -> list[tuple[float, int]]:
        """For each raw text the sum of KL(self || start) in nats over the vocabulary, and the number of positions.

        The positions are those that predict a token which `nats` would score, up to `max_tokens` of them from the
        text's beginning (and as far as the text fits into both contexts). The two need not share a backbone.

        Raises:
            ModelError: the two don't read the same tokens (see `demand_same_tokens`), or a text is too short.
        """
        demand_same_tokens(self.name, self.speaker.tokenizer, start.name, start.speaker.tokenizer, texts)
        most = min(max_tokens, self._context(start) - 1)
        groups = []
        for index, text in enumerate(texts):
            if not (pieces := self._pieces(text)):
                raise ModelError("a text needs at least two tokens", where=f"text {index}: {text[:60]!r}")
            given, rest = pieces[0]
            groups.append(PromptGroup((given,), (Response.full(rest[:most]),), index=index))
        return self._kl(start, groups)

    def kl_after(
        self, start: ModelResponder, items: Sequence[tuple[Sequence[Message], Sequence[int]]]
    ) -> list[tuple[float, int]]:
        """For each (conversation, answer's token ids) the sum of KL(self || start) in nats over the vocabulary at the
        positions that predict a token of the answer, and their number.

        The prompt is the conversation as this model is prompted. Both models read the same ids: the starting model
        meets this model's template, however it is prompted itself.

        Raises:
            ModelError: the two don't read the same tokens (see `demand_same_tokens`), or the starting model can't hold
                a prompt with its answer.
        """
        texts = texts_of(items, self.speaker.tokenizer)
        demand_same_tokens(self.name, self.speaker.tokenizer, start.name, start.speaker.tokenizer, texts)
        limit = self._context(start)
        groups = []
        for index, (conversation, ids) in enumerate(items):
            group = PromptGroup(tuple(self.speaker.prompt(conversation)), (Response.full(ids),), index=index)
            if group.context_length > limit:
                what = f"{group.context_length:,} tokens are more than the context of {limit:,}"
                raise ModelError(f"a prompt with its answer is too long for {start.name}: {what}")
            groups.append(group)
        return self._kl(start, groups)

    def _context(self, start: ModelResponder) -> int:
        """What both hold, in tokens."""
        return min(self.speaker.role.backbone.context_length, start.speaker.role.backbone.context_length)

    @torch.no_grad()
    def _kl(self, start: ModelResponder, groups: Sequence[PromptGroup]) -> list[tuple[float, int]]:
        """Of each group (one response, `index` its place) the sum of KL(self || start) and the number of positions.

        Two roles of one backbone are computed in one pass. Where the output matrices differ in height, both
        distributions are taken over the tokens that both have.
        """
        ours, theirs = self.speaker.role, start.speaker.role
        size = min(ours.backbone.vocabulary, theirs.backbone.vocabulary)
        used = max((max(*group.prompt, *group.responses[0].ids) for group in groups), default=0)
        if used >= size:
            raise ModelError(f"{self.name} reads token {used}, and {start.name} has only {size} tokens")
        heads = [ours.head(), theirs.head()]
        shared = [_first_rows(head, size) for head in heads]
        found = [(0.0, 0)] * len(groups)
        for part in micro_batches(groups, tokens=SCORING_TOKENS, layout=ours.backbone.layout):
            own, other, batch = _hidden_of_two(ours, theirs, part)
            self.tokens_scored += batch.n_tokens
            start.tokens_scored += batch.n_tokens
            for one, head, hidden in ((self, heads[0], own), (start, heads[1], other)):
                if (lost := _outside(head, hidden, size)) > OUTSIDE:
                    what = f"{one.name} gives {lost:.2%} of its probability to tokens that the other lacks"
                    raise ModelError(f"{self.name} and {start.name} have different vocabularies: {what}")
            kl = token_kl(own, other, *shared)
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


def demand_same_tokens(name: str, tokenizer: Any, start: str, other: Any, texts: Sequence[str]) -> None:
    """Refuse two models whose tokenizers cut any of these texts into different ids; no weights are needed for it.

    Raises:
        ModelError: they do; the message names both, its place the text.
    """
    for index, text in enumerate(texts):
        if tokenizer(text)["input_ids"] != other(text)["input_ids"]:
            raise ModelError(f"{name} and {start} cut text into different tokens", where=f"text {index}")


def texts_of(items: Sequence[tuple[Sequence[Message], Sequence[int]]], tokenizer: Any) -> list[str]:
    """What is said in conversations and the answers to them, without the template around it."""
    said = [message.content for conversation, _ in items for message in conversation]
    return said + [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for _, ids in items]


def _hidden_of_two(ours: Role, theirs: Role, part: Sequence[PromptGroup]) -> tuple[Tensor, Tensor, GroupBatch]:
    """(N, D) hidden states of both at the positions that predict the groups' only responses, and the batch. Each
    backbone has its layout: with one response a group, all of them number the positions alike."""
    batch = collate(part, layout=ours.backbone.layout).to(ours.backbone.device)
    if ours.backbone is theirs.backbone:
        both = hidden_of([ours, theirs], batch)
        own, other = (hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.predictors) for hidden in both)
        return own, other, batch
    read = collate(part, layout=theirs.backbone.layout).to(theirs.backbone.device)
    return predicting_hidden(ours, batch), predicting_hidden(theirs, read), batch


def _first_rows(head: OutputHead, size: int) -> OutputHead:
    """The head over the first `size` tokens: its distribution is this model's, given that one of these comes."""
    if head.weight.shape[0] == size:
        return head
    bias = None if head.bias is None else head.bias[:size]
    ids, rows = head.row_ids, head.rows
    if ids is not None and rows is not None:
        ids, rows = ids[ids < size], rows[ids < size]
    return replace(head, weight=head.weight[:size], bias=bias, row_ids=ids, rows=rows)


def _outside(head: OutputHead, hidden: Tensor, size: int) -> float:
    """The highest probability, among the positions, of all tokens from `size` on together."""
    height = head.weight.shape[0]
    if height == size:
        return 0.0
    step = max(1, 2**24 // height)
    parts = (hidden[begin : begin + step] for begin in range(0, hidden.shape[0], step))
    return max(float(head.log_softmax(part)[:, size:].exp().sum(-1).max()) for part in parts)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
