from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import ConfigError, DataError
from burnish.evaluation.behaviours import BEHAVIOURS
from burnish.evaluation.rows import (
    BEHAVIOUR_NAMES,
    EvalRow,
    load_choices,
    load_prose,
    load_rows,
    stratified_sample,
)
from tests.evaluation.made import CHOICES, PROSE, ROWS, user, write_lines


def test_rows_are_read_with_their_fields(files: dict[str, Path]) -> None:
    rows, source = load_rows(files["evaluation"])
    by_id = {row.id: row for row in rows}
    assert len(rows) == source.n_rows == len(ROWS)
    assert by_id["a1"].gold == ("paris",)
    assert str(by_id["f1"].constraints[0]) == "one_word"
    assert by_id["t1"].prompt == "Could I hear that?"
    assert [m.role for m in by_id["t1"].messages] == ["user", "assistant", "user"]
    assert by_id["t1"].off == ("cricket",)
    assert len(source.sha256) == 64


def test_choices_and_prose_are_read(files: dict[str, Path]) -> None:
    choices, _ = load_choices(files["choices"])
    prose, _ = load_prose(files["prose"])
    assert choices[1].choices[choices[1].answer] == "Plum"
    assert [p.text for p in prose] == [p["text"] for p in PROSE]
    assert len(choices) == len(CHOICES)


BASE: dict[str, Any] = {"id": "x", "behaviour": "harm", "messages": user("Hi")}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**BASE, "id": ""}, "'id'"),
        ({**BASE, "id": 3}, "'id'"),
        ({**BASE, "behaviour": "harms"}, "did you mean 'harm'"),
        ({**BASE, "categorie": "x"}, "unknown field 'categorie' (did you mean 'category'?)"),
        ({**BASE, "category": ""}, "field 'category' must be a non-empty text"),
        ({**BASE, "checks": [{"type": "upper"}]}, "does not belong"),
        ({**BASE, "behaviour": "format"}, "'checks' is missing"),
        ({**BASE, "behaviour": "topic"}, "'topic' is missing"),
        ({**BASE, "behaviour": "format", "checks": [{"type": "uper"}]}, "did you mean 'upper'"),
        ({**BASE, "gold": []}, "'gold'"),
        ({**BASE, "gold": [""]}, "'gold'"),
        ({**BASE, "messages": []}, "'messages'"),
        ({**BASE, "messages": [{"role": "user"}]}, "messages[0]"),
        ({**BASE, "messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({**BASE, "messages": [*user("a"), *user("b")]}, "roles"),
        ({**BASE, "messages": [*user("a"), {"role": "assistant", "content": "b"}]}, "roles"),
        ({**BASE, "messages": [{"role": "system", "content": "b"}]}, "roles"),
        (["x"], "must be an object"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, row: Any, what: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{**BASE, "id": "first"}, row])
    with pytest.raises(DataError) as caught:
        load_rows(path)
    assert what in str(caught.value)
    assert "rows.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "x", "question": "Q?", "choices": ["a"], "answer": 0}, "at least two"),
        ({"id": "x", "question": "Q?", "choices": ["a", "a"], "answer": 0}, "different"),
        ({"id": "x", "question": "Q?", "choices": ["a", "b"], "answer": 2}, "from 0 to 1"),
        ({"id": "x", "question": "Q?", "choices": ["a", "b"], "answer": "a"}, "from 0 to 1"),
        ({"id": "x", "question": "", "choices": ["a", "b"], "answer": 1}, "'question'"),
    ],
)
def test_a_bad_question_is_refused(tmp_path: Path, row: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        load_choices(write_lines(tmp_path / "choices.jsonl", [row]))


HALF = "x \ud800"


@pytest.mark.parametrize(
    ("load", "row", "field"),
    [
        (load_rows, {**BASE, "messages": user(HALF)}, "messages[0].content"),
        (load_rows, {**BASE, "id": HALF}, "id"),
        (load_rows, {**BASE, "gold": ["a", HALF]}, "gold[1]"),
        (
            load_rows,
            {**BASE, "behaviour": "format", "checks": [{"type": "contains", "text": HALF}]},
            "checks[0].text",
        ),
        (load_rows, {**BASE, HALF: 1}, "a field's name"),
        (load_choices, {"id": "x", "question": "Q?", "choices": ["a", HALF], "answer": 0}, "choices[1]"),
        (load_prose, {"id": "x", "text": HALF}, "text"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_file_line_and_field(
    tmp_path: Path, load: Callable[[Path], object], row: dict[str, Any], field: str
) -> None:
    """JSON can name one by its escape; no tokenizer, no request and no file of answers can hold it."""
    with pytest.raises(DataError) as caught:
        load(write_lines(tmp_path / "rows.jsonl", [row]))
    assert caught.value.what == rf"{field}: holds \ud800, half of a surrogate pair, which no tokenizer can read"
    assert str(caught.value.where).endswith("rows.jsonl:1")


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="also that of line 1"):
        load_rows(write_lines(tmp_path / "rows.jsonl", [BASE, BASE]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "caf\xe9"}\n')
    (tmp_path / "broken.jsonl").write_text('{"id": \n')
    for name, what in [
        ("empty.jsonl", "no rows"),
        ("latin.jsonl", "not valid UTF-8"),
        ("broken.jsonl", "not valid JSON"),
        ("missing.jsonl", "can't read"),
    ]:
        with pytest.raises(DataError, match=what) as caught:
            load_rows(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="can't read"):
        load_rows("starter/nothing")


def test_lines_of_other_separators_stay_whole(tmp_path: Path) -> None:
    row = {**BASE, "messages": user("one\u2028two\u0085three")}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    rows, _ = load_rows(path)
    assert rows[0].prompt == "one\u2028two\u0085three"


def test_the_packaged_sets_are_valid() -> None:
    rows, source = load_rows()
    assert {row.behaviour for row in rows} == set(BEHAVIOUR_NAMES) - {"open"}
    assert set(BEHAVIOUR_NAMES) == set(BEHAVIOURS)
    assert source.name == "starter/evaluation"
    assert len(rows) >= 250
    assert len(load_choices()[0]) >= 150
    assert sum(len(p.text.split()) for p in load_prose()[0]) >= 3000


def made_rows(counts: dict[str, int]) -> list[EvalRow]:
    return [EvalRow(f"{name}-{i}", name, ()) for name, count in counts.items() for i in range(count)]


def test_a_sample_is_shared_evenly_and_keeps_the_order() -> None:
    rows = made_rows({"harm": 50, "topic": 50, "abstain": 2})
    sample = stratified_sample(rows, 22, seed=0)
    counts = {name: sum(row.behaviour == name for row in sample) for name in ("harm", "topic", "abstain")}
    assert counts == {"harm": 10, "topic": 10, "abstain": 2}
    assert [row.id for row in sample] == [row.id for row in rows if row in sample]


def test_a_sample_holds_each_first_row_and_grows_by_nesting() -> None:
    rows = made_rows({"harm": 50, "topic": 50})
    small, large = stratified_sample(rows, 10), stratified_sample(rows, 30)
    assert {"harm-0", "topic-0"} <= {row.id for row in small}
    assert {row.id for row in small} < {row.id for row in large}


def test_a_sample_depends_on_the_seed_and_not_on_other_rows() -> None:
    rows = made_rows({"harm": 50, "topic": 50})
    assert stratified_sample(rows, 10, seed=0) == stratified_sample(rows, 10, seed=0)
    assert stratified_sample(rows, 10, seed=0) != stratified_sample(rows, 10, seed=1)
    more = made_rows({"harm": 50, "topic": 60})
    assert [r for r in stratified_sample(more, 10) if r.behaviour == "harm"] == [
        r for r in stratified_sample(rows, 10) if r.behaviour == "harm"
    ]


def test_no_sample_is_everything_and_too_small_a_one_is_refused() -> None:
    rows = made_rows({"harm": 3, "topic": 3})
    assert stratified_sample(rows, None) == rows == stratified_sample(rows, 6)
    with pytest.raises(ConfigError, match="at least one row"):
        stratified_sample(rows, 1)
