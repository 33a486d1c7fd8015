"""Preflight: is what the model would see fit to train on?

Every stage runs it before training, and `burnish check` shows its result. It looks at token ids and embedding rows, not
at text: what it finds is what the model would meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from burnish.data.chat import ChatTemplate, Tokenizer, stop_ids, tokenize
from burnish.data.groups import PromptGroup
from burnish.errors import PreflightError

Level = Literal["error", "warning", "info"]

NEAR_DUPLICATE = 0.99
"""Rows of an embedding above this cosine are the same to the model: untrained tokens lie so close together."""
SAME_LOGIT = 0.98
"""A row whose product with a token's row is at least so much of the token's own square has the same logit, nearly. On
Gemma 3 270M base it holds for all 4,707 near-duplicates of <end_of_turn>; of the trained <|im_end|> of
SmolLM2-135M-Instruct the 18 near-duplicates reach 0.975, and the model stops."""

_LISTED = 5
_CHUNK_ELEMENTS = 1 << 24
"""Elements of the embedding that are held in fp32 at once (64 MiB)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight found. An `error` stops training."""

    level: Level
    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.what}"]
        lines += [f"  where: {self.where}"] if self.where else []
        lines += [f"  to do: {self.fix}"] if self.fix else []
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Context lengths of the examples (prompt and longest response), in tokens."""

    p50: int
    p95: int
    max: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """How alone a token's embedding row is.

    Attributes:
        token_id: the token.
        n_within: how many other rows have a cosine of at least the threshold with it.
        n_confusable: how many of those are also about as long: where the token's logit is high, theirs is within 2 %
            of it. A trained token can have near-duplicates in direction that are shorter, and win over them.
        nearest_id: the token of the nearest other row.
        nearest_cosine: their cosine.
        text: the token's text, for messages.
    """

    token_id: int
    n_within: int
    nearest_id: int
    nearest_cosine: float
    text: str = ""
    n_confusable: int = 0


@dataclass(frozen=True)
class PreflightReport:
    """What preflight saw: counts over the examples that were kept, and its findings.

    Attributes:
        n_examples: examples kept.
        n_skipped: examples left out because they exceed the context.
        n_prompt_tokens: tokens of their prompts.
        n_loss_tokens: tokens that carry loss.
        lengths: of all the examples, those left out included.
        context: the limit that lengths were held against, in tokens.
        findings: errors first, then warnings, then information.
        neighbourhoods: of the stop and role tokens, where embeddings were given.
    """

    n_examples: int
    n_skipped: int
    n_prompt_tokens: int
    n_loss_tokens: int
    lengths: Lengths
    context: int
    findings: tuple[Finding, ...]
    neighbourhoods: tuple[Neighbourhood, ...] = ()

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return not any(finding.level == "error" for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Raise `PreflightError` with every error found."""
        errors = [finding for finding in self.findings if finding.level == "error"]
        if len(errors) == 1:
            raise PreflightError(errors[0].what, where=errors[0].where or None, fix=errors[0].fix or None)
        if errors:
            raise PreflightError(f"{len(errors)} things make this unfit to train on:\n" + "\n".join(map(str, errors)))


def preflight(
    groups: Sequence[PromptGroup],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    context: int,
    embeddings: Tensor | None = None,
    trainable_tokens: Sequence[str] = (),
    too_long: Literal["error", "skip"] = "error",
) -> tuple[PreflightReport, list[PromptGroup]]:
    """Check encoded examples before a model trains on them.

    Args:
        groups: what `encode_example` made; without responses for data of prompts.
        template: the resolved template that they were made with.
        context: the longest sequence that the model may see, in tokens; for prompts less what is to be generated.
        embeddings: (V, D) output rows (the input embedding, where tied) if they stay frozen; None when they train.
        trainable_tokens: tokens whose rows train although the embedding is frozen.
        too_long: examples above `context` are an error, or are left out and counted.

    Returns:
        The report, and the groups to train on. Nothing is raised for what is found: see `raise_if_failed`.
    """
    long = [group for group in groups if group.context_length > context]
    kept = [group for group in groups if group.context_length <= context] if too_long == "skip" else list(groups)
    stop = stop_ids(template, tokenizer)[0]
    findings = [
        *_check_counts(groups, kept),
        *_check_lengths(long, len(groups), context, too_long),
        *_check_loss(kept),
        *_check_texts(kept),
        *_check_stop(kept, stop, template, tokenizer),
        *_check_template(kept, stop, template, tokenizer),
    ]
    neighbourhoods: tuple[Neighbourhood, ...] = ()
    if embeddings is not None:
        findings += _check_vocabulary(kept, embeddings)
        neighbourhoods, near = _check_neighbours(embeddings, stop, template, tokenizer, trainable_tokens)
        findings += near
    order: list[Level] = ["error", "warning", "info"]
    report = PreflightReport(
        n_examples=len(kept),
        n_skipped=len(groups) - len(kept),
        n_prompt_tokens=sum(len(group.prompt) for group in kept),
        n_loss_tokens=sum(group.loss_tokens for group in kept),
        lengths=_lengths(groups),
        context=context,
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.level))),
        neighbourhoods=neighbourhoods,
    )
    return report, kept


def _lengths(groups: Sequence[PromptGroup]) -> Lengths:
    lengths = sorted(group.context_length for group in groups)
    if not lengths:
        return Lengths(0, 0, 0)

    def quantile(percent: int) -> int:
        """The nearest-rank quantile: the least length that `percent` % of the examples do not exceed."""
        return lengths[max(0, -(-len(lengths) * percent // 100) - 1)]

    return Lengths(quantile(50), quantile(95), lengths[-1])


def _places(groups: Iterable[PromptGroup]) -> str:
    origins = [group.origin or f"example {group.index}" for group in groups]
    more = len(origins) - _LISTED
    return ", ".join(origins[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


# ---- the checks ----


def _check_counts(groups: Sequence[PromptGroup], kept: Sequence[PromptGroup]) -> list[Finding]:
    if not groups:
        return [Finding("error", "there are no examples", fix="check the data and its split")]
    if not kept:
        return [Finding("error", "every example exceeds the context, none is left", fix="raise the context length")]
    return []


def _check_lengths(
    long: Sequence[PromptGroup], n_groups: int, context: int, too_long: Literal["error", "skip"]
) -> list[Finding]:
    if not long:
        return []
    longest = max(long, key=lambda group: group.context_length)
    what = f"{len(long):,} of {_count(n_groups, 'example')} exceed the context of {context:,} tokens"
    what += f"; the longest has {longest.context_length:,}"
    by_length = sorted(long, key=lambda group: -group.context_length)
    if too_long == "skip":
        return [Finding("warning", f"{what}; they are left out", _places(by_length))]
    fix = "raise the context length, shorten them, or leave them out with too_long: skip"
    return [Finding("error", what, _places(by_length), fix)]


def _check_loss(groups: Sequence[PromptGroup]) -> list[Finding]:
    empty = [group for group in groups if any(not any(response.loss) for response in group.responses)]
    if not empty:
        return []
    what = f"{_count(len(empty), 'example')} of {len(groups):,} with a response in which no token carries loss"
    fix = "the template must mark the assistant's turns; look at them with `burnish check`"
    return [Finding("error", what, _places(empty), fix)]


def _check_texts(groups: Sequence[PromptGroup]) -> list[Finding]:
    """Plain texts teach no stop token, so there must be conversations beside them for a model that is to answer."""
    texts = [group for group in groups if group.plain_text]
    if not texts:
        return []
    if len(texts) < len(groups):
        what = f"{len(texts):,} of {_count(len(groups), 'example')} are plain text, without template and stop token"
        return [Finding("info", what)]
    what = "all examples are plain text: the model will learn to go on with text, not to answer and stop"
    return [Finding("warning", what, _places(texts), "for an assistant, give conversations (or prompt + completion)")]


def _check_stop(
    groups: Sequence[PromptGroup], stop: int, template: ChatTemplate, tokenizer: Tokenizer
) -> list[Finding]:
    """Every response must end with the stop token, with loss on it, and hold none before in a turn; text has none."""
    absent, hidden, early = [], [], []
    for group in (group for group in groups if not group.plain_text):
        for response in group.responses:
            if response.ids[-1] != stop:
                absent.append(group)
            elif not response.loss[-1]:
                hidden.append(group)
            pairs = zip(response.ids, response.loss, response.loss[1:], strict=False)
            if any(token == stop and loss and goes_on for token, loss, goes_on in pairs):
                early.append(group)
    pad = tokenizer.pad_token
    name, of_all = template.stop_token, f"in {_count(len(groups), 'example')}"
    pad_is_stop = bool(pad) and tokenize(tokenizer, str(pad)) == [stop]
    findings = []
    if absent:
        what = f"{_count(len(absent), 'response')} {of_all} without the stop token {name!r} at the end"
        fix = "use a template that ends the assistant's turn with its stop token, or the model never stops"
        findings.append(Finding("error", what, _places(absent), fix))
    if hidden:
        why = ": pad and stop are the same token, and masking one hides the other" if pad_is_stop else ""
        what = f"{_count(len(hidden), 'response')} {of_all} whose stop token {name!r} carries no loss{why}"
        fix = (
            "make the loss mask from positions, not from token ids" if pad_is_stop else "put the stop token in the mask"
        )
        findings.append(Finding("error", what, _places(hidden), fix))
    if early:
        what = (
            f"{_count(len(early), 'response')} with the stop token {name!r} inside a turn: the model would stop there"
        )
        findings.append(Finding("error", what, _places(early), "take the token out of the text"))
    if pad_is_stop and not hidden:
        what = (
            f"the padding token is the stop token ({name!r}); burnish masks by position, so it is trained all the same"
        )
        fix = "tools that mask by the padding token's id would hide it: give the tokenizer a padding token of its own"
        findings.append(Finding("info", what, fix=fix))
    return findings


def _check_template(
    groups: Sequence[PromptGroup], stop: int, template: ChatTemplate, tokenizer: Tokenizer
) -> list[Finding]:
    findings = []
    bos = tokenize(tokenizer, str(tokenizer.bos_token)) if tokenizer.bos_token else []
    begins_with_bos = bool(bos) and list(tokenizer.encode("x"))[:1] == bos
    without = [group for group in groups if list(group.prompt[:1]) != bos]
    if begins_with_bos and without:
        what = f"{_count(len(without), 'prompt')} of {len(groups):,} without {tokenizer.bos_token!r} at the beginning, "
        what += "with which this tokenizer begins every text: the model has hardly seen a text without it"
        findings.append(Finding("warning", what, _places(without), "begin the template with {{ bos_token }}"))
    if "strftime_now" in template.source:
        what = f"template {template.name!r} writes today's date into the prompt: token ids change from day to day"
        findings.append(
            Finding("info", what, fix="for a run to be repeated exactly, write the date out in a .jinja file")
        )
    return findings


def _check_vocabulary(groups: Sequence[PromptGroup], embeddings: Tensor) -> list[Finding]:
    rows = int(embeddings.shape[0])
    beyond = [
        group
        for group in groups
        if max(group.prompt) >= rows or any(max(response.ids) >= rows for response in group.responses)
    ]
    if not beyond:
        return []
    what = f"{_count(len(beyond), 'example')} with token ids beyond the model's {rows:,} embedding rows"
    return [Finding("error", what, _places(beyond), "use the tokenizer that belongs to the model")]


# ---- embedding neighbourhoods ----


def neighbourhood(embeddings: Tensor, token_id: int, threshold: float = NEAR_DUPLICATE) -> Neighbourhood:
    """Who lies near a token's embedding row, by cosine, in fp32 and in chunks over the vocabulary.

    Args:
        embeddings: (V, D), V at least 2, any floating dtype, on any device.
        threshold: cosine from which on a row counts as a near-duplicate.

    Two rows of zeros count as equal (cosine 1): neither was trained. Any other row has cosine 0 with a row of zeros.
    """
    rows, width = embeddings.shape
    own = embeddings[token_id].detach().float()
    own_norm = own.norm()
    own_is_zero = bool(own_norm == 0)
    n_within, n_confusable, nearest_id, nearest = 0, 0, -1, -2.0
    step = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, rows, step):
        chunk = embeddings[start : start + step].detach().float()
        norms = chunk.norm(dim=1)
        if own_is_zero:
            cosines = (norms == 0).float()
        else:
            cosines = torch.where(norms > 0, chunk @ own / (norms * own_norm).clamp_min(1e-30), torch.zeros_like(norms))
        if start <= token_id < start + step:
            cosines[token_id - start] = -2.0
        near = cosines >= threshold
        n_within += int(near.sum())
        n_confusable += int((near & (chunk @ own >= SAME_LOGIT * own_norm**2)).sum())
        best = int(cosines.argmax())
        if float(cosines[best]) > nearest:
            nearest_id, nearest = start + best, float(cosines[best])
    return Neighbourhood(token_id, n_within, nearest_id, min(nearest, 1.0), n_confusable=n_confusable)


def _check_neighbours(
    embeddings: Tensor, stop: int, template: ChatTemplate, tokenizer: Tokenizer, trainable_tokens: Sequence[str]
) -> tuple[tuple[Neighbourhood, ...], list[Finding]]:
    trained = {token for text in trainable_tokens for token in tokenize(tokenizer, text)}
    roles = {token for text in template.role_texts for token in tokenize(tokenizer, text)} - {stop}
    measured, findings = [], []
    for token in (stop, *sorted(roles)):
        if token >= embeddings.shape[0]:
            what = f"token id {token} of the template lies beyond the model's {embeddings.shape[0]:,} embedding rows"
            findings.append(Finding("error", what, fix="use the tokenizer that belongs to the model"))
            continue
        found = neighbourhood(embeddings, token)
        text = str(tokenizer.decode([token]))
        measured.append(replace(found, text=text))
        if found.n_confusable:
            findings.append(_near_duplicate(measured[-1], tokenizer, is_stop=token == stop, trains=token in trained))
    return tuple(measured), findings


def _near_duplicate(near: Neighbourhood, tokenizer: Tokenizer, *, is_stop: bool, trains: bool) -> Finding:
    role = "stop" if is_stop else "role"
    nearest = str(tokenizer.decode([near.nearest_id]))
    what = (
        f"the {role} token {near.text!r} (id {near.token_id}) looks untrained: "
        f"{_count(near.n_confusable, 'other token')} "
    )
    what += f"within cosine {NEAR_DUPLICATE} of its embedding and as long, "
    what += f"the nearest {nearest!r} at {near.nearest_cosine:.4f}"
    if trains:
        return Finding("info", f"{what}; its row is trained here")
    what += "; with frozen embeddings the model can't tell them apart"
    fix = f"make its row trainable (trainable_tokens: [{near.text!r}])"
    if not is_stop:
        return Finding("warning", what, fix=f"choose template plain, whose roles are trained words, or {fix}")
    return Finding("error", f"{what} and would emit those instead of stopping", fix=f"choose template plain, or {fix}")
