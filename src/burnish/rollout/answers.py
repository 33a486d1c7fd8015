"""What a model said, as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one conversation.

    Attributes:
        text: the decoded response without special tokens and surrounding white space.
        finished: whether the model emitted its stop token within the limit of new tokens.
        n_tokens: tokens generated, the stop token not counted.
    """

    text: str
    finished: bool
    n_tokens: int
