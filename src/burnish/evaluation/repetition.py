"""Repetition: within an answer, and of the same words over all answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from burnish.evaluation.overoptimisation import distinct_n, repetition

REPETITION_RULE = (
    "The share of an answer's runs of four words that stand in it before, mean over answers (seq-rep-4 of Welleck et "
    "al. 2019). Lower is better; an answer of fewer than four words repeats nothing."
)
LONGEST_RULE = (
    "The longest run of words that an answer holds twice (the two may overlap), as a share of its words, mean over "
    "answers. Near 1 for a loop; a word that merely comes again counts too, so that it is above 0 for good answers."
)
DISTINCT_RULE = (
    "distinct-2: the number of different runs of two words in all answers together, over their number of words (Li et "
    "al. 2016). It falls as answers resemble each other. Since it falls with length too, each answer is cut to as many "
    "words as the shortest answer to that prompt has among these models. Interval: jackknife over prompts."
)


def repeated_share(text: str) -> float:
    """seq-rep-4 of one answer, between 0 and 1."""
    return repetition([text], 4)


def longest_repeat(text: str) -> float:
    """The words of the longest run that comes at least twice, overlaps allowed, over all words; 0 without any."""
    words = text.split()
    # If a run of n words comes twice, so does its beginning of n - 1: bisection finds the longest.
    low, high = 0, max(0, len(words) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        runs = [tuple(words[start : start + middle]) for start in range(len(words) - middle + 1)]
        low, high = (middle, high) if len(set(runs)) < len(runs) else (low, middle - 1)
    return low / len(words) if words else 0.0


def matched_distinct(answers: Sequence[Sequence[str]], n: int = 2) -> list[tuple[float, list[float]]]:
    """distinct-n of every model's answers at equal lengths.

    Args:
        answers: for each model the texts, of the same prompts in the same order.
        n: the length of the n-grams.

    Returns:
        For each model the value, and the values without each prompt in turn.
    """
    texts = [[text.split() for text in model] for model in answers]
    lengths = [min(map(len, same_prompt)) for same_prompt in zip(*texts, strict=True)]
    found = []
    for model in texts:
        cut = [words[:length] for words, length in zip(model, lengths, strict=True)]
        found.append((distinct_n(cut, n), _without_each(cut, n)))
    return found


def _without_each(answers: Sequence[Sequence[str]], n: int) -> list[float]:
    grams = [{tuple(words[start : start + n]) for start in range(len(words) - n + 1)} for words in answers]
    holders = Counter(gram for own in grams for gram in own)
    tokens = sum(map(len, answers))
    values = []
    for words, own in zip(answers, grams, strict=True):
        lost = sum(holders[gram] == 1 for gram in own)
        values.append((len(holders) - lost) / (tokens - len(words)) if tokens > len(words) else 0.0)
    return values
