"""Reviews, splits, labels: what the examples make their data with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from figures import once, read_jsonl, two_way_mean, write_rows
from gsm8k import problem, read_problems
from hh_reward import first_turn, pairs_of
from overoptimisation import agreement, make_pairs, verdict, with_wrong_labels
from reviews import clean, cut_review, ends_sentence, make_parts
from splits import split_by


def test_a_text_with_a_line_separator_stays_one_line(tmp_path: Path) -> None:
    rows = [{"response": "first\u2028second"}, {"response": "a\x85b\x0cc\nd"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_jsonl(path) == rows


def test_what_is_made_once_is_made_again_for_other_settings(tmp_path: Path) -> None:
    made = iter(range(9))
    path = tmp_path / "made.json"
    first = once(path, {"n": 1}, lambda: {"number": next(made)})
    assert first == {"settings": {"n": 1}, "number": 0}
    assert once(path, {"n": 1}, lambda: {"number": next(made)}) == first
    assert once(path, {"n": 2}, lambda: {"number": next(made)}) == {"settings": {"n": 2}, "number": 1}


def test_clean_takes_out_html_and_white_space() -> None:
    assert clean("A film.<br /><br />Too  long<br>by\nhalf.") == "A film. Too long by half."


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        ("end.", True),
        ('end."', True),
        ("(really!)", True),
        ("what?", True),
        ("Mr.", False),
        ("J.", False),
        ("a", False),
    ],
)
def test_ends_sentence(word: str, ends: bool) -> None:
    assert ends_sentence(word) is ends


TEXT = "This film by Mr. Smith was one that I liked. It ran for two hours. Nobody will miss it."


def test_cut_review_takes_the_last_sentence_end_in_reach() -> None:
    assert cut_review(TEXT, 4, least=3, most=12) == (
        "This film by Mr.",
        " Smith was one that I liked. It ran for two hours.",
    )
    assert cut_review(TEXT, 4, least=3, most=10) == ("This film by Mr.", " Smith was one that I liked.")


def test_cut_review_puts_the_text_together_again() -> None:
    cut = cut_review(TEXT, 5, least=1, most=99)
    assert cut is not None
    assert "".join(cut) == TEXT


@pytest.mark.parametrize(
    ("n", "least", "most"), [(4, 3, 5), (11, 2, 20), (99, 1, 20)], ids=["none in reach", "prompt ends one", "too short"]
)
def test_cut_review_gives_nothing(n: int, least: int, most: int) -> None:
    assert cut_review(TEXT, n, least=least, most=most) is None


def test_parts_share_no_prompt(tmp_path: Path) -> None:
    reviews = [f"Number {i % 60} is a film of some sort {i} and I rather liked it very much." for i in range(300)]
    parts = make_parts(reviews, sft=10, prompts=20, watched=5, test=6, seed=3)
    prompts = [row["prompt"].lower() for part in (parts.sft, parts.prompts, parts.watched, parts.test) for row in part]
    assert [len(part) for part in (parts.sft, parts.prompts, parts.watched, parts.test)] == [10, 20, 5, 6]
    assert len(set(prompts)) == len(prompts)
    rest = read_jsonl(Path(parts.write(tmp_path, kept_back=3)["prompts"]))
    assert rest == [{"prompt": row["prompt"]} for row in parts.prompts[3:]]
    with pytest.raises(ValueError, match="are wanted"):
        make_parts(reviews[:8], sft=10, prompts=20, watched=5, test=6, seed=3)


def test_split_by_keeps_equal_keys_together() -> None:
    rows = [(i % 7, i) for i in range(50)]
    rest, held = split_by(rows, lambda row: row[0], 20, seed=1)
    assert sorted(rest + held, key=lambda row: row[1]) == rows
    assert not {key for key, _ in rest} & {key for key, _ in held}
    assert 14 <= len(held) <= 20
    assert (rest, held) == split_by(rows, lambda row: row[0], 20, seed=1)
    assert held != split_by(rows, lambda row: row[0], 20, seed=2)[1]


@pytest.mark.parametrize("n", [0, 3])
def test_split_by_leaves_rows_on_both_sides(n: int) -> None:
    with pytest.raises(ValueError, match="can't hold out"):
        split_by([1, 2, 3], lambda row: row, n, seed=0)


def test_first_turn_of_an_hh_row() -> None:
    same = "\n\nHuman: Is  it\nSo?\n\nAssistant: Yes.\n\nHuman: Why?\n\nAssistant: Because."
    other = "\n\nHuman: is it so?\n\nAssistant: No."
    assert first_turn({"chosen": same}) == first_turn({"chosen": other}) == "is it so?"


def test_the_better_continuation_is_chosen_and_near_ones_make_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = {" good.": 0.8, " fine.": 0.6, " bad.": -0.5}
    monkeypatch.setattr("overoptimisation.varied_sentiment", lambda prompts, texts: [worth[text] for text in texts])
    rows = [{"prompt": f"p{i}", "completion": text} for i, text in enumerate(worth)]
    pairs = make_pairs(rows, gap=0.4, seed=0)
    assert pairs, "each prompt is held against two of the three"
    for pair in pairs:
        assert worth[pair["chosen"]] - worth[pair["rejected"]] >= 0.4
        assert pair["rejected"] == " bad."


def test_some_labels_are_wrong_and_all_pairs_stay() -> None:
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(1000)]
    some = with_wrong_labels(pairs, 0.1, seed=0)
    assert [pair["prompt"] for pair in some] == [pair["prompt"] for pair in pairs]
    wrong = [pair for pair in some if (pair["chosen"], pair["rejected"]) == ("bad", "good")]
    assert 60 <= len(wrong) <= 140  # four standard deviations of a binomial count
    assert with_wrong_labels(pairs, 0.0, seed=0) == pairs
    assert not any(pair["chosen"] == "good" for pair in with_wrong_labels(pairs, 1.0, seed=0))


def test_agreement_counts_the_labels_that_gold_gives_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = {"good": 0.8, "good!": 0.3, "fair": 0.5, "same": 0.5}
    monkeypatch.setattr("overoptimisation.sober_sentiment", lambda prompts, texts: [gold[text] for text in texts])
    labelled = [("good", "fair"), ("good!", "fair"), ("fair", "good!"), ("fair", "same")]
    pairs = [{"prompt": "p", "chosen": chosen, "rejected": rejected} for chosen, rejected in labelled]
    assert agreement(pairs) == 2 / 4


def test_verdict_says_what_was_lost_of_the_gain() -> None:
    gold = [0.2, 0.6, 1.2, 1.1, 0.7]
    points = [{"step": 8.0 * i, "gold": value} for i, value in enumerate(gold)]
    found = verdict(points, 24)
    assert (found["gold_best_step"], found["alarm_step"]) == (16.0, 24)
    assert found["lost_at_alarm"] == pytest.approx(0.1)
    assert found["lost_at_end"] == pytest.approx(0.5)
    assert "lost_at_alarm" not in verdict(points, None)


def test_problems_lose_their_calculator_marks(tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 24"}
    assert problem(row)["answer"] == "48/2 = 24 clips.\n#### 24"
    long = {"question": "?", "answer": "word " * 200 + "#### 1"}
    path = write_rows(tmp_path / "train.jsonl", [row, long])
    assert [found["answer"] for found in read_problems(path)] == ["48/2 = 24 clips.\n#### 24"]


def test_written_rows_are_left_alone_when_nothing_changed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "deep" / "rows.jsonl", [{"a": "é"}])
    before = path.stat().st_mtime_ns
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert write_rows(path, [{"a": "é"}]).stat().st_mtime_ns == before


def test_two_way_mean_is_wider_when_runs_differ() -> None:
    alike = [[float(i % 5) for i in range(40)]] * 3
    apart = [[value + shift for value in alike[0]] for shift in (-1.0, 0.0, 1.0)]
    one, three = two_way_mean(alike), two_way_mean(apart)
    assert one["value"] == pytest.approx(2.0) == pytest.approx(three["value"])
    # Runs that are alike: the interval is the one over prompts, 1.96 * sqrt(2 / 40).
    assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * math.sqrt(2 / 40), rel=0.05)
    assert three["high"] - three["low"] > 1.5 * (one["high"] - one["low"])


def test_pairs_left_out_are_told_apart_by_file_and_reason() -> None:
    """Training: 100 rows, 3 of them unusable and 7 too long; held out: 30 rows, 1 unusable and 2 too long."""
    record = {"read": 100, "bad_rows": 3, "training": 90, "validation": 27, "too_long": 9}
    assert pairs_of(record, rows=30) == {
        "training": {"used": 90, "too_long": 7, "unusable": 3},
        "evaluation": {"used": 27, "too_long": 2, "unusable": 1},
    }
