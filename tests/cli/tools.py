"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

SMALL = {"--dtype": "float32", "--batch-size": "4", "--learning-rate": "1e-2", "--lora.rank": "2", "--epochs": "1"}


class Outcome:
    """Exit code and what was printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def words(self) -> str:
        """Standard error with its line breaks undone."""
        return " ".join(self.err.split())


Burnish = Callable[..., Outcome]
"""Runs a command in this process."""


def demand_one_message(result: Outcome, *parts: str, code: int = 1) -> None:
    """One error, no traceback, the words that help, and the exit code."""
    assert result.code == code
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.out + result.err
    for part in parts:
        assert part in result.words


def sft(*more: str, model: str = "base", data: str = "sft.jsonl", out: str = "run") -> list[str]:
    flags = {"--model": model, "--data": data, "--out": out, **SMALL}
    return ["sft", *(word for pair in flags.items() if pair[0] not in more for word in pair), *more]
