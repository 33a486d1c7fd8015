"""Conversations to token ids, and which of them carry loss.

Nothing here knows transformers: a tokenizer is any object with the methods of `Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from burnish.data.examples import BadRow, Example, Message
from burnish.data.groups import PromptGroup, Response
from burnish.data.templates import BUILTIN, EOS, ChatTemplate, render_source
from burnish.errors import TemplateError, suggest

__all__ = [
    "BUILTIN",
    "EOS",
    "ChatTemplate",
    "Tokenizer",
    "decode_response",
    "encode_example",
    "encode_examples",
    "encode_prompt",
    "encode_usable",
    "install_template",
    "render",
    "resolve_template",
    "stop_ids",
    "tokenize",
]

_PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<PAD>", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""Tokens that vocabularies keep for padding, in the order in which they are tried."""


class Tokenizer(Protocol):
    """What is used of a tokenizer; every `PreTrainedTokenizerBase` has it."""

    chat_template: Any
    bos_token: Any
    eos_token: Any
    pad_token: Any
    unk_token: Any

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """`bos_token`, `eos_token`, ... by name, those that are set."""

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that are matched as a whole, special or not."""

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Text as token ids."""

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> Any:
        """Token ids as text."""


# ---- which template ----


def resolve_template(tokenizer: Tokenizer, choice: str | None) -> ChatTemplate:
    """The chat template to use, ready for this tokenizer.

    Args:
        choice: None or `auto` takes the tokenizer's own and, if it has none (a base model), `plain`; else the name of
            a built-in template or the path of a Jinja file.

    Raises:
        TemplateError: unknown name, unreadable file, wrong Jinja, a stop token that is not one token of this
            tokenizer, or none at all.
    """
    choice = choice or "auto"
    if choice == "auto":
        own = _own_template(tokenizer)
        template = BUILTIN["plain"] if own is None else _probe("tokenizer", own, tokenizer)
    elif choice in BUILTIN:
        template = BUILTIN[choice]
    else:
        template = _probe(choice, _read_template(choice), tokenizer)
    template = replace(template, stop_token=_stop_text(template, tokenizer))
    _stop_id(template, tokenizer)
    return template


def _own_template(tokenizer: Tokenizer) -> str | None:
    own = tokenizer.chat_template
    if isinstance(own, Mapping):
        if "default" not in own:
            raise TemplateError(
                f"the tokenizer has several chat templates ({', '.join(own)}) and none is the default",
                fix="write the one to use into a .jinja file and give its path",
            )
        own = own["default"]
    return own or None


def _read_template(choice: str) -> str:
    path = Path(choice).expanduser()
    if not path.is_file():
        raise TemplateError(
            f"unknown chat template {choice!r}{suggest(choice, list(BUILTIN))}",
            fix=f"give one of auto, {', '.join(BUILTIN)}, or the path of a .jinja file",
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"can't read the chat template: {error}", where=choice) from None


def _probe(name: str, source: str, tokenizer: Tokenizer) -> ChatTemplate:
    """Find a template's stop and role tokens by rendering a short conversation.

    The stop token is the first whole token (special, or added to the vocabulary) after the assistant's text. White
    space does not count: Gemma's vocabulary holds newlines as added tokens.
    """
    answer = "Polo"
    template = ChatTemplate(name, source, EOS)
    text = render(
        template, tokenizer, [Message("user", "Marco"), Message("assistant", answer)], add_generation_prompt=False
    )
    whole_tokens = {i: token for token, i in tokenizer.get_added_vocab().items() if token.strip()}
    _, found, tail = text.rpartition(answer)
    stop = next((whole_tokens[i] for i in tokenize(tokenizer, tail) if i in whole_tokens), None)
    if not found or stop is None:
        raise TemplateError(
            "the chat template puts no stop token after the assistant's text, so the model could never learn to stop",
            where=f"template {name!r} renders {text!r}",
            fix="end the assistant's turn with {{ eos_token }} in the template, or choose a built-in one",
        )
    seen = [whole_tokens.get(i) for i in tokenize(tokenizer, text)]
    after_bos = seen[1:] if seen[0] == tokenizer.bos_token else seen  # BOS may be the role token as well (SmolLM2)
    roles = dict.fromkeys(token for token in after_bos if token not in (None, stop, tokenizer.eos_token))
    return ChatTemplate(name, source, stop, tuple(token for token in roles if token))


def _stop_text(template: ChatTemplate, tokenizer: Tokenizer) -> str:
    if template.stop_token != EOS:
        return template.stop_token
    if not tokenizer.eos_token:
        raise TemplateError(
            "the tokenizer has no EOS token, with which this template ends a response",
            where=f"template {template.name!r}",
            fix="set eos_token in the model's tokenizer_config.json, or choose a template with a stop token of its own",
        )
    return str(tokenizer.eos_token)


def _stop_id(template: ChatTemplate, tokenizer: Tokenizer) -> int:
    stop = _stop_text(template, tokenizer)
    ids = tokenize(tokenizer, stop)
    if len(ids) != 1 and stop in (added := tokenizer.get_added_vocab()):
        return added[stop]  # tokenizers that put a space before every text
    if len(ids) != 1:
        raise TemplateError(
            f"the stop token {stop!r} is not one token of this tokenizer ({len(ids)} tokens)",
            where=f"template {template.name!r}",
            fix="choose a template of this model's family; for a base model: plain",
        )
    return ids[0]


def stop_ids(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens at which generation stops: the template's stop token, then EOS where that is another one."""
    ids = [_stop_id(template, tokenizer)]
    if tokenizer.eos_token:
        ids += tokenize(tokenizer, str(tokenizer.eos_token))
    return tuple(dict.fromkeys(ids))


def install_template(template: ChatTemplate, tokenizer: Tokenizer) -> None:
    """Make `template` the tokenizer's own, so that it is saved with it and `apply_chat_template` gives the same ids.

    A tokenizer without a padding token gets one that its vocabulary holds; EOS only if there is nothing else. The loss
    masks here come from positions, never from token ids, so that even then EOS is trained.
    """
    tokenizer.chat_template = template.source
    if tokenizer.pad_token:
        return
    vocabulary = tokenizer.get_vocab()
    taken = {tokenizer.eos_token, tokenizer.bos_token, _stop_text(template, tokenizer)}
    candidates = [name for name in (*_PAD_NAMES, tokenizer.unk_token) if name in vocabulary and name not in taken]
    tokenizer.pad_token = candidates[0] if candidates else tokenizer.eos_token


# ---- text and tokens ----


def render(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    """The text of a conversation; with `add_generation_prompt` up to where the assistant's next text begins.

    Raises:
        TemplateError: when the Jinja is wrong, or refuses these messages.
    """
    return render_source(template, tokenizer.special_tokens_map, messages, add_generation_prompt=add_generation_prompt)


def tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a rendered text. The template writes BOS itself, so the tokenizer adds nothing."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode_prompt(template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids up to where the assistant's next text begins: the context in which a response is sampled.

    Raises:
        TemplateError: when the template refuses the messages, leaves one out, or writes BOS twice.
    """
    text = render(template, tokenizer, messages, add_generation_prompt=True)
    _check_rendered(template, messages, text)
    ids = tokenize(tokenizer, text)
    bos = tokenizer.bos_token
    if bos and len(ids) > 1 and ids[0] == ids[1] and text.startswith(str(bos)):
        raise TemplateError(
            f"the prompt begins with {bos!r} twice",
            where=f"template {template.name!r}",
            fix="write {{ bos_token }} once in the template",
        )
    return ids


def _check_rendered(template: ChatTemplate, messages: Sequence[Message], text: str) -> None:
    """Every message must be in the text; only thoughts before `</think>` may be left out, as reasoning models do."""
    for number, message in enumerate(messages, start=1):
        if message.content.rpartition("</think>")[2].strip() not in text:
            raise TemplateError(
                f"the chat template leaves out or changes turn {number}, a {message.role} turn",
                where=f"template {template.name!r}; the turn begins {message.content[:60]!r}",
                fix="choose a template that renders this role's text as it is",
            )


def encode_example(template: ChatTemplate, tokenizer: Tokenizer, example: Example, *, index: int = -1) -> PromptGroup:
    """An example as token ids, with loss on the assistant's turns up to and with their stop token.

    The prompt and prompt + response are tokenised apart, and for every assistant turn the first must be a prefix of
    the second: only then does the model see in training what it will see when it answers. What the template writes
    after the last stop token (ChatML's newline) is left away, so that a response ends as a sampled one does.

    Plain text is tokenised as the tokenizer does it by itself (with BOS, where that is its way) and carries loss from
    its second token on; no template and no stop token.

    Args:
        index: the example's place in its data set.

    Raises:
        TemplateError: naming the example and the turn: no prefix, no stop token, a stop token inside a turn's text,
            messages that the template refuses, or a plain text of a single token.
    """
    if example.text is not None:
        return _encode_text(template, tokenizer, example.text, str(example.origin), index)
    try:
        prompt = encode_prompt(template, tokenizer, example.prompt)
        responses = [_encode_response(template, tokenizer, example.prompt, r, prompt) for r in example.responses]
    except TemplateError as error:
        where = f"{example.origin}; {error.where}" if error.where else str(example.origin)
        raise TemplateError(error.what, where=where, fix=error.fix) from None
    return PromptGroup(tuple(prompt), tuple(responses), str(example.origin), index, margin=example.margin)


def encode_examples(template: ChatTemplate, tokenizer: Tokenizer, examples: Iterable[Example]) -> list[PromptGroup]:
    """All of a data set's examples as token ids, each with its place as `index`; see `encode_example`."""
    return [encode_example(template, tokenizer, example, index=i) for i, example in enumerate(examples)]


def encode_usable(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    *,
    on_bad_row: Literal["error", "skip"] = "skip",
) -> tuple[list[PromptGroup], list[BadRow]]:
    """As `encode_examples`, and the rows that this template can't encode, which `skip` leaves out.

    Raises:
        TemplateError: at the first such row; with `skip` only if all rows are such, for then it is the template.
    """
    groups: list[PromptGroup] = []
    refused: list[BadRow] = []
    first: TemplateError | None = None
    for index, example in enumerate(examples):
        try:
            groups.append(encode_example(template, tokenizer, example, index=index))
        except TemplateError as error:
            if on_bad_row == "error":
                raise
            first = first or error
            refused.append(BadRow(example.origin, "", error.what))
    if first is not None and not groups:
        raise first
    return groups, refused


def _encode_text(template: ChatTemplate, tokenizer: Tokenizer, text: str, origin: str, index: int) -> PromptGroup:
    if (stop_text := _stop_text(template, tokenizer)) in text:
        raise TemplateError(
            f"the text holds the stop token {stop_text!r}: the model would learn to stop in the middle of a text",
            where=origin,
            fix="take it out of the text",
        )
    ids = list(tokenizer.encode(text))
    if len(ids) < 2:
        raise TemplateError("a text of a single token leaves nothing to predict", where=origin, fix="leave the row out")
    return PromptGroup((ids[0],), (Response.full(ids[1:]),), origin, index, plain_text=True)


def _encode_response(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    prompt: Sequence[Message],
    response: Sequence[Message],
    prompt_ids: Sequence[int],
) -> Response:
    messages = [*prompt, *response]
    text = render(template, tokenizer, messages, add_generation_prompt=False)
    _check_rendered(template, messages, text)
    ids = tokenize(tokenizer, text)
    stop, stop_text = _stop_id(template, tokenizer), _stop_text(template, tokenizer)

    turns = [i for i in range(len(prompt), len(messages)) if messages[i].role == "assistant"]
    starts = []
    for turn in turns:
        if stop_text in messages[turn].content:
            raise TemplateError(
                f"turn {turn + 1} holds the stop token {stop_text!r} in its text: the model would learn to stop there",
                fix="take it out of the text; the template puts it at the end of every turn",
            )
        before = prompt_ids if turn == len(prompt) else encode_prompt(template, tokenizer, messages[:turn])
        if list(before) != ids[: len(before)]:
            raise _prefix_error(template, tokenizer, messages, turn, before, ids)
        starts.append(len(before))

    loss, end = [False] * len(ids), 0
    for turn, start, limit in zip(turns, starts, [*starts[1:], len(ids)], strict=True):
        end = next((i + 1 for i in range(start, limit) if ids[i] == stop), 0)
        if not end:
            raise TemplateError(
                f"no stop token {stop_text!r} after turn {turn + 1}: the model could not learn to stop",
                where=f"template {template.name!r} renders {_excerpt(tokenizer, ids[start:limit])}",
                fix="let the template end every assistant turn with its stop token",
            )
        loss[start:end] = [True] * (end - start)
    first = len(prompt_ids)
    return Response(tuple(ids[first:end]), tuple(loss[first:end]))


def _prefix_error(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    turn: int,
    before: Sequence[int],
    ids: Sequence[int],
) -> TemplateError:
    """Say where the prompt and prompt + response part, and whether in the text or only in the tokens."""
    at = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
    alone = render(template, tokenizer, messages[:turn], add_generation_prompt=True)
    together = render(template, tokenizer, messages, add_generation_prompt=False)
    if messages[turn].content[:1].isspace():
        fix = "the response begins with white space, which melts into the prompt's end: take it away"
    elif together.startswith(alone):
        fix = "the prompt's end and the response's beginning melt into one token: end the prompt with a special token,"
        fix += " a newline, or a word and no space after it (as the built-in templates do)"
    else:
        fix = "the template writes the earlier turns, or the opening of this one, otherwise when a response follows;"
        fix += " choose a template that writes a turn the same way always"
    return TemplateError(
        f"the prompt is not a token prefix of prompt + response at turn {turn + 1}: the model would see another "
        f"context in training than when it answers; token {at} is {_token(tokenizer, before, at)} in the prompt alone "
        f"and {_token(tokenizer, ids, at)} with the response",
        where=f"template {template.name!r}; prompt ends {_excerpt(tokenizer, before[max(0, at - 8) :])}; "
        f"with the response {_excerpt(tokenizer, ids[max(0, at - 8) : at + 4])}",
        fix=fix,
    )


def _token(tokenizer: Tokenizer, ids: Sequence[int], at: int) -> str:
    return f"{tokenizer.decode([ids[at]])!r} (id {ids[at]})" if at < len(ids) else "not there"


def _excerpt(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return repr(tokenizer.decode(list(ids[:40])))


def decode_response(tokenizer: Tokenizer, ids: Sequence[int], stop_ids: Sequence[int]) -> str:
    """The text of sampled ids up to the first stop token, without special tokens and surrounding white space."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))
    text = tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
