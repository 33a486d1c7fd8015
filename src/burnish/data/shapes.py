"""Rows to examples: the column shapes that Hugging Face's tools use.

| kind       | a row is one of                                                                              |
|------------|----------------------------------------------------------------------------------------------|
| sft        | `messages`; `prompt` + `completion`; Alpaca's `instruction` (+ `input`) + `output`; `text`     |
| preference | `prompt` + `chosen` + `rejected`; `chosen` + `rejected` with the prompt implicit               |
| prompt     | `prompt`; `messages`, its last response left out; `instruction`; the prompt of a pair          |

Prompts and responses are text or lists of messages. `conversations` may stand for `messages`, `response` or `output`
for `completion` and the reverse, `context` for `input`. A `system` column of text becomes the system message of a
conversation that has none. A prompt in HH-RLHF's or Alpaca's text form becomes the turns that it spells out: the chat
template gives a conversation its form, once. `text` is plain text, learned as it stands, without any template: a few
such rows beside the conversations keep a model's ability to go on with ordinary text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from burnish.data.conversations import (
    RowError,
    Turns,
    check_turns,
    join_instruction,
    looks_like_hh,
    parse_hh,
    parse_messages,
    require_text,
    unwrap_alpaca,
)
from burnish.data.examples import Example, Kind, Message, Origin
from burnish.data.formats import type_name

_MESSAGES = ("messages", "conversations")
_COMPLETION = ("completion", "response", "output")
_OUTPUT = ("output", "response", "completion")
_INPUT = ("input", "context")
_CONVERSATION = (*_MESSAGES, "prompt", "instruction", *_COMPLETION, "chosen", "rejected")

UNDERSTOOD: Mapping[Kind, str] = {
    "sft": "'messages', 'prompt' + 'completion', 'instruction' (+ 'input') + 'output', or 'text'",
    "preference": "'prompt' + 'chosen' + 'rejected', or 'chosen' + 'rejected' that hold the prompt's turns too",
    "prompt": "'prompt', 'messages', or 'instruction' (+ 'input')",
}


class _Row:
    """A row's columns, remembering which were used: the others become the example's `meta`."""

    def __init__(self, values: Mapping[str, Any], kind: Kind) -> None:
        self.values, self.kind = values, kind
        self.used: set[str] = set()
        self.unwrapped = False

    def find(self, *names: str) -> str | None:
        """The first of `names` that the row has with a value."""
        return next((name for name in names if self.values.get(name) is not None), None)

    def is_plain_text(self) -> bool:
        """Whether the row has `text` and no column of a conversation."""
        return self.find("text") is not None and self.find(*_CONVERSATION) is None

    def take(self, name: str) -> Any:
        self.used.add(name)
        return self.values[name]

    def need(self, *names: str) -> tuple[str, Any]:
        """The first of `names` that the row has, and its value."""
        found = self.find(*names)
        if found is None:
            raise self.missing(names[0])
        return found, self.take(found)

    def missing(self, name: str) -> RowError:
        """The error for a row that has half a shape and lacks `name`."""
        return RowError(name, f"{'is null' if name in self.values else 'missing'}; {self._has()}")

    def unknown(self) -> RowError:
        """The error for a row of no known shape."""
        return RowError("", f"no known shape: {self._has()}")

    def _has(self) -> str:
        kind = "SFT" if self.kind == "sft" else self.kind
        return f"the row has {names_of(self.values)}; {kind} data is {UNDERSTOOD[self.kind]}"


def names_of(values: Mapping[str, Any]) -> str:
    """The columns in which a row has a value, as a message lists them."""
    return ", ".join(repr(key) for key, value in values.items() if value is not None) or "nothing"


def example_from_row(values: Mapping[str, Any], origin: Origin, kind: Kind) -> tuple[Example, str]:
    """One row as an example, and the name of the shape that it was read as.

    Raises:
        RowError: with the field at fault.
    """
    row = _Row(values, kind)
    if kind == "sft" and row.is_plain_text():
        text = require_text(row.take("text"), "text", empty="empty text")
        meta = {name: value for name, value in values.items() if name not in row.used}
        return Example((), (), origin, meta, text), "text"
    read = {"sft": _read_sft, "preference": _read_preference, "prompt": _read_prompt_only}[kind]
    prompt, responses, shape = read(row)
    prompt = _with_system(row, prompt)
    meta = {name: value for name, value in values.items() if name not in row.used}
    return Example(prompt, responses, origin, meta), shape + (", Alpaca's text unwrapped" if row.unwrapped else "")


def with_margin(example: Example, column: str) -> Example:
    """The pair with the margin that its row has in `column`: a number, or text that is one (all that CSV can hold).

    Raises:
        RowError: there is none, or none that a margin can be.
    """
    value = example.meta.get(column)
    if value is None:
        raise RowError(column, f"{'is null' if column in example.meta else 'missing'}, it must be the pair's margin")
    try:
        margin = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        margin = math.nan
    except OverflowError:  # a whole number beyond what a float can hold
        margin = math.inf
    if math.isnan(margin):
        shown = repr(value)[:40] if isinstance(value, float | str) else type_name(value)
        raise RowError(column, f"must be a number, this is {shown}")
    if not 0.0 <= margin < math.inf:
        raise RowError(column, f"must be 0 or above and finite, this is {margin}")
    meta = {name: other for name, other in example.meta.items() if name != column}
    return replace(example, meta=meta, margin=margin)


def _with_system(row: _Row, prompt: Turns) -> Turns:
    system = row.values.get("system")
    if prompt[0].role == "system" or not isinstance(system, str) or not system.strip():
        return prompt
    return (Message("system", require_text(row.take("system"), "system")), *prompt)


def _read_sft(row: _Row) -> tuple[Turns, tuple[Turns, ...], str]:
    if name := row.find(*_MESSAGES):
        turns = parse_messages(row.take(name), name)
        check_turns(turns, name)
        first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), None)
        if first is None:
            raise RowError(name, "has no assistant turn: there is nothing to learn")
        _end_with_assistant(turns, name)
        return turns[:first], (turns[first:],), "messages"
    if row.find("instruction"):
        prompt = _instruction(row)
        name, value = row.need(*_OUTPUT)
        return prompt, (_response(value, name),), "instruction + output"
    if row.find("prompt"):
        prompt = _prompt(row)
        name, value = row.need(*_COMPLETION)
        response = _response(value, name)
        check_turns((*prompt, *response), name)
        return prompt, (response,), "prompt + completion"
    raise row.missing("prompt") if row.find(*_COMPLETION) else row.unknown()


def _end_with_assistant(turns: Turns, field: str) -> None:
    if turns[-1].role != "assistant":
        raise RowError(field, "ends with a user turn, it must end with the assistant's response")


def _instruction(row: _Row) -> Turns:
    instruction = require_text(row.take("instruction"), "instruction", empty="empty prompt")
    context = ""
    if name := row.find(*_INPUT):
        value = row.take(name)
        blank = isinstance(value, str) and not value.strip()  # most of Alpaca's rows have no input
        context = "" if blank else require_text(value, name)
    return (Message("user", join_instruction(instruction, context)),)


def _prompt(row: _Row) -> Turns:
    """The turns of the `prompt` column, the last of them the user's."""
    value = row.take("prompt")
    if not isinstance(value, str):
        turns = parse_messages(value, "prompt")
    else:
        text = require_text(value, "prompt", empty="empty prompt")
        unwrapped = unwrap_alpaca(text)
        if looks_like_hh(text):
            turns = parse_hh(text, "prompt", open_end=True)
        else:
            turns = (Message("user", text if unwrapped is None else unwrapped),)
            row.unwrapped = unwrapped is not None
    check_turns(turns, "prompt")
    if turns[-1].role != "user":
        raise RowError("prompt", "ends with an assistant turn, it must end with the user's")
    return turns


def _response(value: Any, field: str) -> Turns:
    """A response as text or as messages that begin and end with the assistant's turn."""
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        return (Message("assistant", require_text(value, field, empty="empty response")),)
    turns = parse_messages(value, field)
    if turns[0].role != "assistant":
        raise RowError(field, f"must begin with the assistant's turn, this is the {turns[0].role}'s")
    _end_with_assistant(turns, field)
    return turns


def _side(row: _Row, name: str) -> tuple[Turns, bool]:
    """`chosen` or `rejected`, and whether it is a whole conversation, the prompt's turns included."""
    name, value = row.need(name)
    if isinstance(value, str) and looks_like_hh(value):
        turns = parse_hh(value, name)
    elif isinstance(value, (list, tuple)):
        turns = parse_messages(value, name)
    else:
        turns = (Message("assistant", require_text(value, name, empty="empty response")),)
    if not turns:
        raise RowError(name, "has no assistant turn")
    whole = turns[0].role != "assistant"
    if whole:
        check_turns(turns, name)
    _end_with_assistant(turns, name)
    return turns, whole


def _read_preference(row: _Row) -> tuple[Turns, tuple[Turns, ...], str]:
    if not row.find("chosen", "rejected"):
        raise row.unknown()
    (chosen, chosen_whole), (rejected, rejected_whole) = _side(row, "chosen"), _side(row, "rejected")
    if chosen_whole != rejected_whole:
        raise RowError("rejected", "one of 'chosen' and 'rejected' holds the prompt's turns, the other does not")
    if _same(chosen, rejected):
        raise RowError("rejected", "is the same as 'chosen'")
    if not chosen_whole:
        if row.find("prompt") is None:
            raise row.missing("prompt")
        prompt = _prompt(row)
        check_turns((*prompt, *chosen), "chosen")
        check_turns((*prompt, *rejected), "rejected")
        return prompt, (chosen, rejected), "prompt + chosen + rejected"
    shared = _shared_turns(chosen, rejected)
    if row.find("prompt"):
        _agree(_prompt(row), chosen[:shared])
    return chosen[:shared], (chosen[shared:], rejected[shared:]), "chosen + rejected, the prompt implicit"


def _same(chosen: Turns, rejected: Turns) -> bool:
    return [(t.role, t.content.strip()) for t in chosen] == [(t.role, t.content.strip()) for t in rejected]


def _shared_turns(chosen: Turns, rejected: Turns) -> int:
    """How many turns two conversations share before they part at an assistant's turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared in (len(chosen), len(rejected)):
        raise RowError("rejected", "one of 'chosen' and 'rejected' is only the beginning of the other")
    if chosen[shared].role != "assistant" or rejected[shared].role != "assistant":
        raise RowError(
            "rejected", f"parts from 'chosen' at turn {shared + 1}, a {chosen[shared].role} turn: the prompts differ"
        )
    return shared


def _agree(prompt: Turns, shared: Turns) -> None:
    """A `prompt` column beside whole conversations must repeat their turns, all or the last ones."""
    if _same(prompt, shared[-len(prompt) :]):
        return
    raise RowError("prompt", "differs from the turns that 'chosen' and 'rejected' begin with")


def _read_prompt_only(row: _Row) -> tuple[Turns, tuple[Turns, ...], str]:
    if row.find("prompt"):
        return _prompt(row), (), "prompt"
    if name := row.find(*_MESSAGES):
        turns = parse_messages(row.take(name), name)
        check_turns(turns, name)
        return (turns[:-1] if turns[-1].role == "assistant" else turns), (), "messages"
    if row.find("instruction"):
        return _instruction(row), (), "instruction"
    if row.find("chosen") and row.find("rejected"):
        return _read_preference(row)[0], (), "the prompt of chosen + rejected"
    raise row.unknown()
