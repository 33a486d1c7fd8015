"""What a model said, as text, and what that took."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer took.

    Attributes:
        prompt_tokens: tokens of the prompt, template included.
        completion_tokens: tokens generated. An endpoint's are as it counts (and bills) them.
        seconds: wall time from the prompt being taken up until its answer was whole.
    """

    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one conversation.

    Attributes:
        text: the decoded response without special tokens and surrounding white space.
        finished: whether the model emitted its stop token within the limit of new tokens.
        n_tokens: tokens generated, the stop token not counted; None where an endpoint does not say.
        usage: what it took; None where that was not measured.
        ids: the tokens as they were drawn, the stop token included; None where an endpoint does not say. The text does
            not give them back: white space around it and special tokens are gone.
    """

    text: str
    finished: bool
    n_tokens: int | None
    usage: Usage | None = field(default=None, compare=False)
    ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
