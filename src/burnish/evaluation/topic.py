"""Does an answer stay on the topic of its conversation?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from burnish.evaluation.answers import Verdict, accept, reject, speaks_no_further_turn
from burnish.evaluation.text import fold, has_word


def stays_on_topic(text: str, topic: Sequence[str], off: Sequence[str] = ()) -> Verdict:
    """The answer is not empty and holds a word that begins with one of the row's topic terms (they are stems chosen
    with the conversation: "pedal", "ultrason"), none that begins with one of its off-topic terms (the subjects it
    could drift to), and speaks no further turn (no User:, Human:, Assistant:, no chat markup)."""
    if not has_word(text):
        return reject("empty")
    turn = speaks_no_further_turn(text)
    if not turn:
        return turn
    if strayed := _terms_in(text, off):
        return reject(f"drifts to {', '.join(strayed)}")
    if found := _terms_in(text, topic):
        return accept(f"speaks of {', '.join(found)}")
    return reject("no word of the topic")


def _terms_in(text: str, terms: Sequence[str]) -> list[str]:
    plain = fold(text)
    return [term for term in terms if re.search(rf"(?<!\w){re.escape(fold(term))}", plain)]
