"""What an answer is, who gives it, and the checks that hold for any answer: it stops, asks no quiz, does not loop."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from burnish.data.sources import Message
from burnish.evaluation.text import (
    fold,
    has_word,
    lines,
    normalise,
    sentences,
    strip_list_mark,
    without_quotations,
    words,
)
from burnish.rollout.answers import Answer as Answer


class Answerer(Protocol):
    """A model that answers, and may do no more: what an endpoint is."""

    @property
    def name(self) -> str:
        """What the report calls this model."""
        ...

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Answer]:
        """Answer each conversation greedily; `progress` is told how many are done so far."""
        ...


@runtime_checkable
class Responder(Answerer, Protocol):
    """A model as the evaluation sees it: something that answers, and that can score raw text."""

    def nats(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """For each raw text the sum of -log p in nats and the number of tokens it is over."""
        ...

    def continuation_logprobs(self, items: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """For each (prompt, continuations) the summed log p in nats of every continuation after the raw prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a rule holds for an answer, and in a few words why."""

    passed: bool
    why: str

    def __bool__(self) -> bool:
        return self.passed


def accept(why: str) -> Verdict:
    """A rule that holds."""
    return Verdict(True, why)


def reject(why: str) -> Verdict:
    """A rule that does not hold."""
    return Verdict(False, why)


_LABEL = r"^\s*[*#_\[(]*\s*(?:{})\s*[*_\])]*\s*:"
_TURN_LABEL = re.compile(_LABEL.format("user|human|assistant|system"), re.IGNORECASE | re.MULTILINE)
# These also begin honest first lines ("AI: artificial intelligence"), so they count from the second line on.
_LATER_LABEL = re.compile(_LABEL.format("model|bot|chatbot|ai|you|me"), re.IGNORECASE | re.MULTILINE)
_TURN_TOKEN = re.compile(
    r"<\|?(?:im_start|im_end|start_header_id|end_header_id|eot_id|user|assistant|system|endoftext)\|?>"
    r"|</?(?:start_of_turn|end_of_turn|s|eos|bos)>|\[/?INST\]|^#{2,}\s*(?:instruction|human|user|response|assistant)\b",
    re.IGNORECASE | re.MULTILINE,
)
_QUIZ_LABEL = re.compile(
    # "Exercise: walk daily" is an answer; only with its number is the word a quiz's.
    r"^\s*[*#_]*(?:\d+[.)]\s*)?(?:(?:q|que|question|quiz)\s*(?:#?\s*\d+)?|(?:exercise|problem)\s*#?\s*\d+)"
    r"\s*[*_]*\s*[:.)]",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_LABEL = re.compile(r"^\s*[*#_]*(?:a|ans|answer)\s*(?:#?\s*\d+)?\s*[*_]*\s*:", re.IGNORECASE)
_OPTION = re.compile(r"^\s*\(?([a-eA-E])[.)]\s+\S", re.MULTILINE)
_ENDS_AS_QUESTION = re.compile(r"\?[!?\"')\]*_]*$")


def says_something(answer: Answer) -> Verdict:
    """The answer holds at least one letter or digit."""
    return accept("says something") if has_word(answer.text) else reject("empty")


def stops(answer: Answer) -> Verdict:
    """The model ends the answer with its own stop token within the limit of new tokens."""
    return accept("stops") if answer.finished else reject("did not stop within the limit")


def speaks_no_further_turn(text: str) -> Verdict:
    """No line begins with a speaker's label (User:, Human:, Assistant:, System:, ...) and no chat markup appears."""
    plain = normalise(text)
    later = plain.strip().partition("\n")[2]
    label = _TURN_LABEL.search(plain) or _TURN_TOKEN.search(plain) or _LATER_LABEL.search(later)
    if label:
        return reject(f"speaks a further turn ({label.group().strip()!r})")
    return accept("one turn")


def asks_no_quiz(text: str, prompt: str = "") -> Verdict:
    """Asks no question back and goes on with no quiz.

    No sentence outside quotation marks ends with a question mark (one first sentence that only repeats the
    user's question is let pass); no line begins with Question:, Q1., Exercise 2: or the like; no line after the first
    begins with Answer:; there is no list of lettered options unless the prompt has one.
    """
    plain = normalise(text)
    if label := _QUIZ_LABEL.search(plain):
        return reject(f"goes on with a quiz ({label.group().strip()!r})")
    if any(_ANSWER_LABEL.match(line) for line in lines(plain)[1:]):
        return reject("goes on with a quiz ('Answer:')")
    if len({m.lower() for m in _OPTION.findall(plain)}) >= 2 and not _OPTION.search(normalise(prompt)):
        return reject("goes on with a quiz (lettered options)")
    asked = {_bare(sentence) for sentence in sentences(prompt)}
    for place, sentence in enumerate(sentences(without_quotations(plain))):
        if not _ENDS_AS_QUESTION.search(sentence) or (place == 0 and _bare(sentence) in asked):
            continue
        return reject(f"asks a question ({_short(sentence)!r})")
    return accept("asks nothing")


def repeats_nothing(text: str) -> Verdict:
    """No loop: no sentence of four or more words comes twice, and no run of words is repeated on the spot.

    A run of one word counts as a loop from five in a row, of two or three words from four, of more (up to
    twenty) from three.
    """
    seen = Counter(_bare(s) for line in lines(text) for s in sentences(strip_list_mark(line)) if len(words(s)) >= 4)
    for sentence, count in seen.items():
        if count > 1:
            return reject(f"repeats itself ({_short(sentence)!r}, {count} times)")
    tokens = [bare for token in words(fold(text)) if (bare := _bare(token))]
    for length in range(1, 21):
        needed = 5 if length == 1 else 4 if length <= 3 else 3
        run = 0
        for i in range(length, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - length] else 0
            if run >= length * (needed - 1):
                return reject(f"repeats itself ({_short(' '.join(tokens[i - length + 1 : i + 1]))!r} on the spot)")
    return accept("no loop")


def answers_and_stops(answer: Answer, prompt: str = "") -> Verdict:
    """The answer is not empty; the model ends it with its own stop token within the limit; it asks no question
    back and goes on with no quiz (no sentence outside quotation marks ends with a question mark, no Question: or
    Answer: labels, no lettered options); it speaks no further turn (no User:, Human:, Assistant:, no chat
    markup); and it does not loop (no sentence of four or more words twice, no run of words repeated on the spot).
    Whether the answer is right is reported beside and does not count here."""
    verdicts = (
        says_something(answer),
        stops(answer),
        speaks_no_further_turn(answer.text),
        asks_no_quiz(answer.text, prompt),
        repeats_nothing(answer.text),
    )
    for verdict in verdicts:
        if not verdict:
            return verdict
    return accept("answers and stops")


_PART_OF_A_NUMBER_BEFORE = r"(?<!\d[.,:/\u2044])(?<!(?<!\w)-)"
_PART_OF_A_NUMBER_AFTER = r"(?![.,:/\u2044]\d)"


def names_gold(text: str, gold: Sequence[str]) -> bool:
    """Whether one of the accepted answers stands in the text, as whole words, whatever the case and accents.

    A number is not found inside a longer one (`5` is neither in `15` nor in `5.5`, `1,500`, `1/5`, `5:30` or `-5`); the
    ends of a range (`3-5`) are found.
    """
    plain = fold(text).replace("\n", " ")
    for accepted in gold:
        wanted = fold(accepted)
        before = _PART_OF_A_NUMBER_BEFORE if wanted[:1].isdigit() else ""
        after = _PART_OF_A_NUMBER_AFTER if wanted[-1:].isdigit() else ""
        inner = r"\s+".join(re.escape(part) for part in wanted.split())
        if re.search(rf"(?<!\w){before}{inner}(?!\w){after}", plain):
            return True
    return False


def _bare(sentence: str) -> str:
    """A sentence for comparison: folded, letters and digits only."""
    return re.sub(r"[^\w]+", " ", fold(sentence)).strip()


def _short(text: str, limit: int = 48) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."
