"""Conversations out of column values: message lists, plain text, HH-RLHF's and Alpaca's texts.

Every function raises `RowError` with the field at fault; `shapes.py` knows which column means what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.data.examples import ROLES, Message
from burnish.data.formats import type_name

Turns = tuple[Message, ...]

_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
_ROLE_ALIASES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names (`from`/`value`)."""

_HH_MARK = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}

_ALPACA_TEXT = re.compile(
    r"Below is an instruction that describes a task(?:, paired with an input that provides further context)?\. "
    r"Write a response that appropriately completes the request\.\s+"
    r"### Instruction:\n(?P<instruction>.*?)(?:\n+### Input:\n(?P<input>.*?))?\n+### Response:\s*",
    re.DOTALL,
)


class RowError(Exception):
    """A row can't be used: the field at fault and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


def require_text(value: Any, field: str, *, empty: str = "is empty") -> str:
    """`value` if it is text with at least one visible character."""
    if value is None:
        raise RowError(field, "is null, it must be text")
    if not isinstance(value, str):
        raise RowError(field, f"must be text, this is {type_name(value)}")
    require_encodable(value, field)
    if not value.strip():
        raise RowError(field, empty)
    return value


def require_encodable(value: Any, field: str = "") -> None:
    """Refuse half a surrogate pair in a text, or in any text of a list or an object; `field` is empty for a whole row.

    JSON's escapes can name such a half, and UTF-8 can't hold it.
    """
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            broken = f"\\u{ord(value[error.start]):04x}"
            raise RowError(field, f"holds {broken}, half of a surrogate pair, which no tokenizer can read") from None
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            require_encodable(name, field or "a field's name")
            require_encodable(inner, f"{field}.{name}" if field else name)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            require_encodable(inner, f"{field}[{index}]")


def parse_messages(value: Any, field: str) -> Turns:
    """A list of `{"role", "content"}` (or ShareGPT's `{"from", "value"}`), or JSON text of one (as CSV holds it).

    Blank system messages say nothing and are left out.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError(field, "must be a list of messages, this is text") from None
    if not isinstance(value, (list, tuple)):
        raise RowError(field, f"must be a list of messages, this is {type_name(value)}")
    if not value:
        raise RowError(field, "is an empty list")
    turns = [_parse_message(item, f"{field}[{index}]") for index, item in enumerate(value)]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _parse_message(item: Any, field: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(field, f"must be an object with 'role' and 'content', this is {type_name(item)}")
    role_key = next((key for key in _ROLE_KEYS if item.get(key) is not None), None)
    if role_key is None:
        raise RowError(f"{field}.role", f"missing; the message has {', '.join(map(repr, item)) or 'nothing'}")
    role = item[role_key]
    role = _ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RowError(f"{field}.{role_key}", f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
    if item.get("tool_calls") or item.get("function_call"):
        raise RowError(field, "calls a tool; conversations with tools are not supported")
    content_key = next((key for key in _CONTENT_KEYS if key in item), None)
    if content_key is None:
        raise RowError(f"{field}.content", f"missing; the message has {', '.join(map(repr, item))}")
    name = f"{field}.{content_key}"
    content = _join_parts(item[content_key], name)
    if role == "system" and content == "":
        return Message(role, "")
    return Message(role, require_text(content, name, empty=_empty(role)))


def _empty(role: str) -> str:
    return "empty response" if role == "assistant" else f"empty {role} turn"


def _join_parts(content: Any, field: str) -> Any:
    """Text of the parts form, `[{"type": "text", "text": ...}]`; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RowError(f"{field}[{index}]", "only parts of type 'text' are supported")
        texts.append(part["text"])
    return "".join(texts)


def check_turns(turns: Sequence[Message], field: str) -> None:
    """An optional system message first, then user and assistant by turns, the user first."""
    for index, turn in enumerate(turns):
        if turn.role == "system" and index > 0:
            raise RowError(field, f"turn {index + 1} is a system message; it may only come first")
    talk = [turn for turn in turns if turn.role != "system"]
    if not talk:
        raise RowError(field, "has no user turn")
    if talk[0].role != "user":
        raise RowError(field, "the first turn after the system message must be the user's, this is the assistant's")
    offset = len(turns) - len(talk)
    for index in range(1, len(talk)):
        if talk[index].role == talk[index - 1].role:
            first = offset + index
            raise RowError(
                field, f"turns {first} and {first + 1} are both the {talk[index].role}'s; roles must alternate"
            )


def looks_like_hh(text: str) -> bool:
    """Whether a text is a conversation in HH-RLHF's form, `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def parse_hh(text: str, field: str, *, open_end: bool = False) -> Turns:
    """The turns of an HH-RLHF text; with `open_end`, a last `Assistant:` with nothing after it is left out."""
    pieces = _HH_MARK.split("\n\n" + text.lstrip())
    marked = list(zip(pieces[1::2], pieces[2::2], strict=True))
    if open_end and marked[-1][0] == "Assistant" and not marked[-1][1].strip():
        marked.pop()
    turns = []
    for number, (name, content) in enumerate(marked, start=1):
        role = _HH_ROLES[name]
        place = "" if number == len(marked) else f" (turn {number})"
        turns.append(Message(role, require_text(content, field, empty=_empty(role) + place).strip()))
    return tuple(turns)


def unwrap_alpaca(text: str) -> str | None:
    """The instruction (and input) inside Alpaca's prompt text, or None if `text` is not exactly of that form."""
    match = _ALPACA_TEXT.fullmatch(text)
    if match is None or not match["instruction"].strip():
        return None
    return join_instruction(match["instruction"].strip(), (match["input"] or "").strip())


def join_instruction(instruction: str, context: str) -> str:
    """One user turn of Alpaca's two columns."""
    return f"{instruction}\n\n{context}" if context.strip() else instruction
