"""What a data row becomes, whatever file and shape it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["sft", "preference", "prompt"]
"""`sft`: one response a prompt. `preference`: chosen, then rejected. `prompt`: no response."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row stands: a file and its line, or a table (Parquet, hub) and its row, both counted from 1; of a JSON
    array's items that begin on the same line, all but the first have their number in the array too. No two rows of the
    data stand in the same place."""

    path: str
    line: int | None = None
    unit: Literal["line", "row"] = "line"
    item: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.path
        if self.unit == "row":
            return f"{self.path} row {self.line}"
        return f"{self.path}:{self.line}" + ("" if self.item is None else f" item {self.item}")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its responses, as messages.

    Attributes:
        prompt: the turns up to and with the last one before the first response; it ends with a user turn.
        responses: one for SFT, (chosen, rejected) for a preference pair, none for a prompt alone. Each begins with
            an assistant turn; an SFT response of a multi-turn conversation holds the later turns too.
        origin: the row's place.
        meta: the row's other columns (a category, an id, ...).
        text: plain text in the place of a conversation; prompt and responses are empty then.
        margin: of a pair, how much better the chosen response is, where a column was named that says so.
    """

    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]
    origin: Origin
    meta: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be used: where it stands, which field is at fault (empty: the whole row), and why."""

    origin: Origin
    field: str
    why: str

    @property
    def place(self) -> str:
        """`file:line, field 'name'`."""
        return f"{self.origin}, field {self.field!r}" if self.field else str(self.origin)

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"
