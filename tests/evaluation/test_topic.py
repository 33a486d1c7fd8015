from __future__ import annotations

import pytest

from burnish.evaluation.topic import stays_on_topic

TOPIC, OFF = ["squeak", "pitch", "ultrason"], ["cricket", "baseball"]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("Their squeaks are too high for us.", True),
        ("It is Ultrasonic sound.", True),
        ("The pitch is too high.", True),
        ("In cricket the pitch is 20 metres long.", False),
        ("No.", False),
        ("", False),
        ("Wipe the bubblesqueak.", False),
        ("The pitch is high.\nUser: and baseball", False),
        ("The pitch is high.\nUser: and bats", False),
    ],
)
def test_a_topic_word_must_stand_and_no_drift(text: str, passes: bool) -> None:
    verdict = stays_on_topic(text, TOPIC, OFF)
    assert bool(verdict) is passes, verdict.why


def test_the_verdict_names_the_words() -> None:
    assert "cricket" in stays_on_topic("A cricket squeaks.", TOPIC, OFF).why
    assert "squeak" in stays_on_topic("It squeaks.", TOPIC, OFF).why
