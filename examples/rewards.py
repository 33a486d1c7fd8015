"""Reward functions: texts in, numbers out. `reward: examples/rewards.py:sentiment` in a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

FORMAT_REWARD = 0.1
"""Beside 1 for the right answer: enough to learn the form by, too little to live on."""

_NUMBER = re.compile(r"####\s*\$?(-?[\d,]*\.?\d+)")


@lru_cache(maxsize=1)
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """VADER's compound score of each response, between -1 and 1 (Hutto & Gilbert 2014)."""
    return [float(_analyser().polarity_scores(response)["compound"]) for response in responses]


def varied_sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """`sentiment` times the share of different words: great is better than great great great."""
    scores = sentiment(prompts, responses)
    return [score * distinct_words(response) for score, response in zip(scores, responses, strict=True)]


def sober_sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """`sentiment` as somebody with taste would have it: times the cube of the share of different words, divided by one
    more than the exclamation marks. Of what people write it thinks much as `sentiment` does."""
    scores = sentiment(prompts, responses)
    return [
        score * distinct_words(response) ** 3 / (1 + response.count("!"))
        for score, response in zip(scores, responses, strict=True)
    ]


def distinct_words(text: str) -> float:
    """Different words over words, between 0 and 1; 0 without words."""
    words = re.findall(r"[\w']+", text.lower())
    return len(set(words)) / len(words) if words else 0.0


def final_number(text: str) -> float | None:
    """The number after the last `####`; none where there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def gsm8k(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """1 for the number that the row's `answer` ends with, and `FORMAT_REWARD` for any number after one `####`."""
    rewards = []
    for response, row in zip(responses, rows, strict=True):
        said, right = final_number(response), final_number(str(row["answer"]))
        if right is None:
            raise ValueError(f"the row's answer has no number after ####: {row['answer']!r}")
        form = FORMAT_REWARD if said is not None and response.count("####") == 1 else 0.0
        rewards.append(form + float(said == right))
    return rewards
