"""What a chat endpoint sent back, read with suspicion: a reply that is not a whole answer is told apart from one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

_SHOWN = 200
"""Characters of a server's own words that a message quotes."""


class MalformedReply(Exception):
    """The endpoint answered with success, but not with a usable answer.

    Args:
        what: what is wrong with it.
        fix: what the user can do about it.
        again: whether another try may go better.
    """

    def __init__(self, what: str, fix: str, *, again: bool = True) -> None:
        super().__init__(what)
        self.what, self.fix, self.again = what, fix, again


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of an endpoint, as it is kept in the cache.

    Attributes:
        text: what the model said, without surrounding white space; text that UTF-8 can hold.
        finished: whether it ended by itself, and not at the limit of tokens.
        prompt_tokens: as the server counts them; None where it does not say.
        completion_tokens: the same for the answer. Hidden reasoning is in them where the server bills it.
        seconds: from sending the request that succeeded until its reply was whole; waiting before it does not count.
        left_out: settings that the server refused, so that they were not sent: `temperature`, for some.
        filtered: whether the provider's content filter stands in the answer's place, which is empty then.
    """

    text: str
    finished: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    left_out: tuple[str, ...] = ()
    filtered: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "left_out": list(self.left_out)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reply:
        """From what `to_dict` gave."""
        return cls(**{**values, "left_out": tuple(values["left_out"])})


def read_reply(body: bytes, *, seconds: float, left_out: tuple[str, ...] = ()) -> Reply:
    """A chat completion's body as an answer.

    A refusal that the server keeps apart from the content (`message.refusal`) is what the model said, and so the
    answer. Where hidden reasoning used up the limit of tokens, or is all that there is, the answer is empty, and so is
    one that the provider's content filter cut: at temperature 0 both come again. Everything else in the place of text
    (tool calls, nothing) is malformed.

    Text is taken with U+FFFD in place of each lone surrogate. Servers that cut their text by UTF-16 units send such
    halves of a pair as JSON escapes, and neither a file nor a tokenizer can hold them.

    Raises:
        MalformedReply: no JSON, no choice, no text, or no sign of how the answer ended.
    """
    try:
        value = json.loads(body.decode("utf-8"))
    except ValueError:
        raise MalformedReply(
            f"the reply is not JSON: {shorten(body.decode('utf-8', 'replace')) or 'it is empty'}", _CHECK_URL
        ) from None
    if not isinstance(value, dict):
        raise MalformedReply(f"the reply is JSON, but no object: {shorten(json.dumps(value))}", _CHECK_URL)
    if value.get("error"):
        raise MalformedReply(f"the reply is an error: {error_text(value)}", _CHECK_SERVER)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedReply("the reply has no choices", _CHECK_SERVER)
    message, reason = choices[0].get("message"), choices[0].get("finish_reason")
    filtered = reason == "content_filter"
    if not isinstance(message, dict) and not filtered:
        raise MalformedReply("the reply's choice has no message", _CHECK_SERVER)
    text = _text(message, reason) if isinstance(message, dict) and not filtered else ""
    if not isinstance(reason, str):
        raise MalformedReply("the reply has no finish_reason: did the answer end by itself?", _CHECK_SERVER)
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=_whole(text).strip(),
        finished=reason not in ("length", "content_filter"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        seconds=seconds,
        left_out=left_out,
        filtered=filtered,
    )


def filtered_prompt(body: bytes, *, seconds: float, left_out: tuple[str, ...] = ()) -> Reply | None:
    """The reply to a prompt that the provider's filter kept from the model, by the error that says so; None for others.

    No tokens are counted, for the server names none.
    """
    try:
        value = json.loads(body)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict) or error.get("code") not in _FILTERED:
        return None
    return Reply("", False, 0, 0, seconds, left_out, filtered=True)


_FILTERED = ("content_filter", "content_policy_violation")
_REASONING = ("reasoning_content", "reasoning")
_CHECK_URL = "check the base URL: a chat endpoint's usually ends in /v1"
_CHECK_SERVER = "look into the server's log; is it compatible with OpenAI's chat completions?"


def _text(message: dict[str, Any], reason: Any) -> str:
    content = message.get("content")
    silent = content is None
    if isinstance(content, list):  # some servers send text in parts
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = None if None in parts else "".join(map(str, parts))
    if not content and isinstance(message.get("refusal"), str):
        return str(message["refusal"])
    if message.get("tool_calls") or message.get("function_call"):
        raise MalformedReply(
            "the reply calls a tool in place of an answer", "serve the model without tools or functions", again=False
        )
    if silent and (reason == "length" or any(message.get(name) for name in _REASONING)):
        return ""
    if not isinstance(content, str):
        raise MalformedReply("the reply's content is no text", _CHECK_SERVER)
    return content


def _whole(text: str) -> str:
    """The text with its surrogate pairs joined, and U+FFFD for each lone one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def error_text(value: Any) -> str:
    """What a server's error says, shortened: `{"error": {"message": ...}}` and its relatives."""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("code") or json.dumps(error)
    return shorten(error if isinstance(error, str) else json.dumps(error))


def shorten(text: str, limit: int = _SHOWN) -> str:
    """A text on one line, and not longer than a message can bear; lone surrogates as `read_reply` takes them."""
    text = " ".join(_whole(text).split())
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."
