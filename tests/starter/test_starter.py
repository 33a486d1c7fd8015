"""The starter data: its shape, its counts, its held-out split, and whatever of its quality a program can check."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from burnish.evaluation.abstain import is_abstention
from burnish.evaluation.answers import names_gold
from burnish.evaluation.format import parse_constraints
from burnish.evaluation.refusal import is_refusal
from tests.starter.overlap import Text, normal, shared_runs, similar_prompts, words

Row = dict[str, Any]
CATEGORIES = {"facts", "format", "harm", "help", "lookalike", "unanswerable", "answerable", "text_task", "multi_turn"}
BEHAVIOURS = {"answers", "format", "harm", "lookalike", "abstain", "answerable", "topic"}
FAILURES = {
    "rambling",
    "quiz",
    "wrong_format",
    "complies_with_harm",
    "over_refusal",
    "invention",
    "false_abstention",
    "topic_drift",
    "unhelpful",
    "wrong",
}
CHECK_FIELDS = {
    "answers": {"gold"},
    "answerable": {"gold", "category"},
    "format": {"checks"},
    "topic": {"topic", "off"},
    "harm": {"category"},
    "lookalike": {"category"},
    "abstain": {"category"},
}


def load(name: str) -> list[Row]:
    text = resources.files("burnish.starter").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


TEXTS = [row for row in load("sft") if "text" in row]
SFT = [row for row in load("sft") if "text" not in row]
PAIRS = load("preferences")
EVALUATION = load("evaluation")
MCQ = load("mcq")
PROSE = load("prose")


def user_turns(messages: list[Row]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "user"]


def conversations(row: Row) -> list[list[Row]]:
    """The conversations of a row: one, or for a pair the chosen and the rejected one."""
    if "messages" in row:
        return [row["messages"]]
    return [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]


def good_answer(row: Row) -> str:
    return conversations(row)[0][-1]["content"]


def last_question(row: Row) -> str:
    return user_turns(conversations(row)[0])[-1]


def prompts(rows: list[Row], file: str) -> list[Text]:
    """Every user turn by itself, and all those of a conversation together."""
    found = []
    for row in rows:
        turns = user_turns(conversations(row)[0])
        found += [Text(f"{file}:{row['id']}", text) for text in dict.fromkeys([*turns, " ".join(turns)])]
    return found


def evaluation_prompts() -> list[Text]:
    """What the model is asked: the last turn by itself, and all turns together."""
    found = []
    for row in EVALUATION:
        turns = user_turns(row["messages"])
        found += [Text(f"evaluation:{row['id']}", text) for text in dict.fromkeys([turns[-1], " ".join(turns)])]
    return found


def training_texts() -> list[Text]:
    named = [("sft", row) for row in SFT] + [("preferences", row) for row in PAIRS]
    found = [Text(f"{f}:{row['id']}", m["content"]) for f, row in named for talk in conversations(row) for m in talk]
    return found + [Text(f"sft:{row['id']}", row["text"]) for row in TEXTS]


def training_prompts() -> list[Text]:
    return prompts(SFT, "sft") + prompts(PAIRS, "preferences")


def held_out_texts() -> list[Text]:
    found = [Text(f"evaluation:{row['id']}", m["content"]) for row in EVALUATION for m in row["messages"]]
    found += [Text(f"mcq:{row['id']}", row["question"]) for row in MCQ]
    return found + [Text(f"prose:{row['id']}", part) for row in PROSE for part in row["text"].split("\n\n")]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def assert_turns(messages: list[Row], last: str) -> None:
    roles = [m["role"] for m in messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
    assert roles[-1] == last
    assert all(set(m) == {"role", "content"} for m in messages)


# ---- shape ----


def test_sft_rows_are_conversations_that_end_with_an_answer() -> None:
    for row in SFT:
        assert set(row) - {"checks"} == {"id", "category", "messages"}
        assert row["category"] in CATEGORIES
        assert_turns(row["messages"], "assistant")


def test_plain_texts_are_passages_of_several_sentences() -> None:
    assert len(TEXTS) >= 50
    for row in TEXTS:
        assert set(row) == {"id", "category", "text"}
        assert 55 <= len(row["text"].split()) <= 125, row["id"]
        assert len(re.findall(r"[.!?](?:\s|$)", row["text"])) >= 2, row["id"]


def test_pairs_hold_a_prompt_and_two_different_answers() -> None:
    for row in PAIRS:
        assert set(row) - {"checks"} == {"id", "category", "failure", "prompt", "chosen", "rejected"}
        assert row["category"] in CATEGORIES
        assert row["failure"] in FAILURES
        assert_turns(row["prompt"], "user")
        for side in ("chosen", "rejected"):
            assert [m["role"] for m in row[side]] == ["assistant"]
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        assert normal(chosen) != normal(rejected) or row["failure"] == "wrong_format", row["id"]


def test_evaluation_rows_end_with_a_question_and_carry_the_fields_of_their_behaviour() -> None:
    for row in EVALUATION:
        assert row["behaviour"] in BEHAVIOURS
        extra = set(row) - {"id", "behaviour", "messages"}
        wanted = CHECK_FIELDS[row["behaviour"]]
        assert wanted - {"off"} <= extra <= wanted, row["id"]
        assert_turns(row["messages"], "user")
        for field in extra & {"gold", "topic", "off"}:
            assert row[field]
            assert all(isinstance(text, str) and text == text.lower() for text in row[field]), row["id"]


def test_multiple_choice_has_four_different_choices_and_balanced_positions() -> None:
    for row in MCQ:
        assert set(row) == {"id", "question", "choices", "answer"}
        assert len({choice.lower() for choice in row["choices"]}) == 4, row["id"]
        assert row["answer"] in range(4)
    positions = Counter(row["answer"] for row in MCQ)
    assert max(positions.values()) - min(positions.values()) <= 0.1 * len(MCQ)
    # Nor may the length of a choice give it away.
    longest = sum(len(row["choices"][row["answer"]]) > max(map(len, wrong_choices(row))) for row in MCQ)
    assert longest <= 0.4 * len(MCQ)


def wrong_choices(row: Row) -> list[str]:
    return [choice for i, choice in enumerate(row["choices"]) if i != row["answer"]]


def test_counts() -> None:
    assert len(SFT) >= 800
    assert len(PAIRS) >= 500
    assert len(EVALUATION) >= 250
    assert len(MCQ) >= 150
    assert sum(len(row["text"].split()) for row in PROSE) >= 3000
    assert {row["category"] for row in SFT} == {row["category"] for row in PAIRS} == CATEGORIES
    assert min(Counter(row["behaviour"] for row in EVALUATION).values()) >= 30
    assert min(Counter(row["failure"] for row in PAIRS).values()) >= 15


def test_ids_are_unique_and_name_the_category() -> None:
    for rows in (SFT, TEXTS, PAIRS, EVALUATION, MCQ, PROSE):
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            kind = row.get("behaviour") or row.get("category") or row["id"].split("-")[0]
            assert re.fullmatch(rf"{kind.replace('_', '-')}-\d{{2,4}}", row["id"])


def test_texts_are_clean() -> None:
    for rows in (SFT, TEXTS, PAIRS, EVALUATION, MCQ, PROSE):
        for row in rows:
            for text in strings(row):
                assert text == text.strip(), row["id"]
                assert text, row["id"]
                assert not re.search("[\u2018\u2019\u201c\u201d\u2013\u2014\u2026\ufffd\t]|  ", text), row["id"]


def test_no_prompt_comes_twice() -> None:
    named = [(f, row) for f, rows in (("sft", SFT), ("pref", PAIRS), ("eval", EVALUATION)) for row in rows]
    seen: dict[str, str] = {}
    for file, row in named:
        key = normal(" ".join(m["content"] for m in conversations(row)[0][: -1 if file != "eval" else None]))
        assert key not in seen, f"{file}:{row['id']} repeats {seen[key]}"
        seen[key] = f"{file}:{row['id']}"
    assert len({normal(row["question"]) for row in MCQ}) == len(MCQ)


# ---- the split ----


def test_nothing_held_out_shares_a_telling_run_of_words_with_training() -> None:
    assert shared_runs(held_out_texts(), training_texts()) == []


def test_no_held_out_prompt_is_similar_to_a_training_prompt() -> None:
    questions = [Text(f"mcq:{row['id']}", row["question"]) for row in MCQ]
    assert similar_prompts(evaluation_prompts() + questions, training_prompts()) == []


@pytest.mark.parametrize(
    ("held_out", "training"),
    [
        ("Which vitamin are oranges best known for?", "oranges are best known for which vitamin, please?"),
        ("How do I roast a chicken without burning the skin?", "How could I roast chicken without burning its skin?"),
        (
            "What did my grandfather whisper to me at the railway station?",
            "My grandfather whispered what at the station?",
        ),
        ("what do hens lay", "What do hens lay?"),
    ],
)
def test_the_split_rules_see_a_copy_with_small_changes(held_out: str, training: str) -> None:
    one, other = [Text("evaluation:x", held_out)], [Text("sft:y", training)]
    assert shared_runs(one, other) or similar_prompts(one, other)


def test_the_split_rules_let_prompts_of_the_same_kind_pass() -> None:
    one = [Text("evaluation:x", "What do you call the person who mends shoes? Reply in one word.")]
    other = [Text("sft:y", "What do you call the tool that cuts bread? Reply in one word.")]
    assert shared_runs(one, other) == []
    assert similar_prompts(one, other) == []


# ---- what the answers must be like ----


def test_format_checks_are_valid_and_their_answers_meet_them() -> None:
    for row in EVALUATION:
        if "checks" in row:
            parse_constraints(row["checks"], where=row["id"])
    checked = 0
    for row in [*SFT, *PAIRS]:
        for constraint in parse_constraints(row["checks"], where=row["id"]) if "checks" in row else ():
            assert constraint.failure(good_answer(row)) is None, f"{row['id']}: {constraint}"
            checked += 1
    assert checked >= 450


def test_a_pair_about_the_format_is_rejected_for_the_format() -> None:
    for row in PAIRS:
        if row["failure"] == "wrong_format" and "checks" in row:
            bad = row["rejected"][0]["content"]
            failures = [constraint.failure(bad) for constraint in parse_constraints(row["checks"], where=row["id"])]
            assert any(failures), row["id"]


def test_refusals_refuse_and_nothing_harmless_is_refused() -> None:
    for row in [*SFT, *PAIRS]:
        verdict = is_refusal(good_answer(row), last_question(row))
        if row["category"] == "harm":
            assert verdict, row["id"]
        elif row["category"] in {"facts", "format", "help", "lookalike", "answerable", "text_task"}:
            assert not verdict, row["id"]
    for row in PAIRS:
        bad = is_refusal(row["rejected"][0]["content"], last_question(row))
        if row["failure"] == "over_refusal":
            assert bad, row["id"]
        if row["failure"] == "complies_with_harm":
            assert not bad, row["id"]


def test_abstentions_abstain_and_nothing_known_is_withheld() -> None:
    for row in [*SFT, *PAIRS]:
        verdict = is_abstention(good_answer(row), last_question(row))
        if row["category"] == "unanswerable":
            assert verdict, row["id"]
        elif row["category"] in {"facts", "help", "lookalike", "answerable", "text_task"}:
            assert not verdict, row["id"]
    for row in PAIRS:
        bad = is_abstention(row["rejected"][0]["content"], last_question(row))
        if row["failure"] == "false_abstention":
            assert bad, row["id"]
        if row["failure"] == "invention":
            assert not bad, row["id"]


def test_refusals_and_abstentions_are_brief_and_do_not_ask_back() -> None:
    for row in [*SFT, *PAIRS]:
        answer = good_answer(row)
        if row["category"] in {"harm", "unanswerable"}:
            assert 4 <= len(words(answer)) <= 45, row["id"]
            assert "?" not in answer, row["id"]
        assert len(answer.split()) <= 90, row["id"]


@pytest.mark.parametrize("category", ["harm", "unanswerable"])
@pytest.mark.parametrize("rows", [SFT, PAIRS], ids=["sft", "preferences"])
def test_openings_vary(rows: list[Row], category: str) -> None:
    """No four opening words lead more than 6 % of a category's answers: the behaviour is taught, not a phrase."""
    answers = [good_answer(row) for row in rows if row["category"] == category]
    openings = Counter(" ".join(words(answer)[:4]) for answer in answers)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.06 * len(answers), opening


def test_no_assistant_speaks_of_itself_in_stock_phrases() -> None:
    stock = re.compile(r"as an ai|language model, i|great question|let me know if|i hope this helps|feel free to", re.I)
    for row in [*SFT, *PAIRS]:
        assert not stock.search(good_answer(row)), row["id"]


def test_no_gold_answer_stands_in_its_question() -> None:
    """Twins that quote their answer ("My dentist is called ...") are about reading and are left out."""
    for row in EVALUATION:
        if row["behaviour"] == "answers":
            assert not names_gold(row["messages"][-1]["content"], row["gold"]), row["id"]
