"""Loading by name: files, directories, starter data, the hub; and what becomes of bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data.examples import Kind
from burnish.data.sources import LoadedData, load_as_one_of, load_examples
from burnish.errors import DataError

GOOD = {"prompt": "What is 1 + 1?", "completion": "2"}
EMPTY = {"prompt": "What is 1 + 1?", "completion": ""}


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_same_row_from_every_format(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [GOOD])
    (tmp_path / "a.json").write_text(json.dumps([GOOD]))
    (tmp_path / "a.csv").write_text("prompt,completion\nWhat is 1 + 1?,2\n")
    pq.write_table(pa.table({name: [value] for name, value in GOOD.items()}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        (example,) = load_examples(tmp_path / name, kind="sft").examples
        assert example.prompt[0].content == "What is 1 + 1?"
        assert example.responses[0][0].content == "2"


# ---- bad rows ----


def test_one_bad_row_is_an_error_with_file_line_and_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, EMPTY, GOOD])
    with pytest.raises(DataError) as caught:
        load_examples(path, kind="sft")
    assert caught.value.what == "empty response"
    assert caught.value.where == f"{path}:2, field 'completion'"
    assert "on_bad_row: skip" in str(caught.value.fix)


def test_several_bad_rows_are_counted_and_listed_in_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, EMPTY, {"prompt": "a"}, GOOD, *([EMPTY] * 20)])
    with pytest.raises(DataError) as caught:
        load_examples(path, kind="sft")
    assert caught.value.what == "22 of 24 rows can't be used"
    where = str(caught.value.where)
    assert f"{path}:2, field 'completion': empty response" in where
    assert f"{path}:3, field 'completion': missing" in where
    assert where.endswith("and 12 more")


def test_skipped_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n" + b'{"prompt": "\xff"}\n' + b"{oops\n\n" + good + b"\n" + json.dumps(EMPTY).encode())
    loaded = load_examples(path, kind="sft", on_bad_row="skip")
    assert len(loaded.examples) == 2
    assert loaded.n_read == 5
    assert [row.origin.line for row in loaded.bad_rows] == [2, 3, 6]
    assert [row.field for row in loaded.bad_rows] == ["", "", "completion"]
    summary = loaded.summary()
    assert "5 rows read (2 as prompt + completion)" in summary
    assert "3 rows left out:" in summary
    assert f"{path}:6, field 'completion': empty response" in summary


def test_a_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}] * 3)
    with pytest.raises(DataError) as caught:
        load_examples(path, kind="sft", on_bad_row="skip")
    assert caught.value.what.startswith("all 3 rows can't be used: no known shape: the row has 'question', 'answer'")
    assert caught.value.where == f"{path}:1, and 2 rows more of the same"
    assert "--map old=new" in str(caught.value.fix)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_no_rows_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match="holds no rows"):
        load_examples(tmp_path / "a.jsonl", kind="sft", on_bad_row="skip")


def test_limit_counts_examples_and_stops_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, EMPTY, GOOD, GOOD, EMPTY])
    loaded = load_examples(path, kind="sft", on_bad_row="skip", limit=2)
    assert (len(loaded.examples), len(loaded.bad_rows), loaded.n_read) == (2, 1, 3)
    with pytest.raises(DataError, match="limit must be at least 1"):
        load_examples(path, kind="sft", limit=0)


def test_a_long_list_is_cut_with_its_count() -> None:
    from burnish.data.examples import BadRow, Origin

    loaded = LoadedData([], [BadRow(Origin("a.jsonl", n), "x", "y") for n in range(1, 1201)], 1200, "a.jsonl")
    assert loaded.summary().splitlines()[1] == "1,200 rows left out:"
    assert loaded.summary().splitlines()[-1] == "  and 1,190 more"
    assert len(loaded.summary().splitlines()) == 13


# ---- columns ----


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": "b", "id": 1}])
    (example,) = load_examples(path, kind="sft", columns={"question": "prompt", "answer": "completion"}).examples
    assert example.prompt[0].content == "a"
    assert example.meta == {"id": 1}


def test_columns_may_be_swapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "worse", "rejected": "better"}])
    loaded = load_examples(path, kind="preference", columns={"chosen": "rejected", "rejected": "chosen"})
    assert [r[0].content for r in loaded.examples[0].responses] == ["better", "worse"]


def test_a_mapped_column_that_no_row_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}] * 2)
    with pytest.raises(DataError, match=r"no row has the column 'qestion' .*did you mean 'question'"):
        load_examples(path, kind="sft", columns={"qestion": "prompt", "answer": "completion"}, on_bad_row="skip")


def test_a_mapped_column_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "hint": "c", "output": "b"}]
    loaded = load_examples(write(tmp_path / "a.jsonl", rows), kind="sft", columns={"hint": "input"})
    assert [e.prompt[0].content for e in loaded.examples] == ["a", "a\n\nc"]


def test_mapping_overwrites_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**GOOD, "question": "x"}])
    with pytest.raises(DataError, match="exists, so 'question' can't be mapped to it"):
        load_examples(path, kind="sft", columns={"question": "prompt"})
    with pytest.raises(DataError, match="two columns are mapped to 'prompt'"):
        load_examples(path, kind="sft", columns={"question": "prompt", "q": "prompt"})


# ---- directories and names ----


def test_a_directory_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", [{**GOOD, "id": 2}])
    write(tmp_path / "sub" / "c.jsonl", [{**GOOD, "id": 3}])
    (tmp_path / "a.csv").write_text("prompt,completion,id\nq,a,1\n")
    (tmp_path / "README.md").write_text("# about")
    write(tmp_path / ".cache" / "hidden.jsonl", [GOOD])
    loaded = load_examples(tmp_path, kind="sft")
    assert [int(e.meta["id"]) for e in loaded.examples] == [1, 2, 3]
    assert str(loaded.examples[2].origin) == f"{tmp_path}/sub/c.jsonl:1"


def test_splits_of_a_directory_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.jsonl", [GOOD])
    write(tmp_path / "train-00001-of-00002.jsonl", [GOOD])
    write(tmp_path / "valid.jsonl", [GOOD])
    with pytest.raises(DataError, match=r"several splits \(train, validation\)"):
        load_examples(tmp_path, kind="sft")
    assert len(load_examples(tmp_path, kind="sft", split="train").examples) == 2
    assert len(load_examples(tmp_path, kind="sft", split="validation").examples) == 1
    with pytest.raises(DataError, match="no file of split 'test'"):
        load_examples(tmp_path, kind="sft", split="test")


def test_a_word_that_begins_like_a_split_is_none(tmp_path: Path) -> None:
    write(tmp_path / "testimonials.jsonl", [GOOD])
    write(tmp_path / "train.jsonl", [GOOD])
    assert load_examples(tmp_path, kind="sft").n_read == 2


def test_places_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [GOOD])
    with pytest.raises(DataError, match=r"no such data file \(did you mean 'pairs.jsonl'\?\)"):
        load_examples(tmp_path / "pair.jsonl", kind="sft")
    with pytest.raises(DataError, match="a single file has no splits"):
        load_examples(path, kind="sft", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        load_examples(tmp_path / "empty", kind="sft")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no known data format"):
        load_examples(tmp_path / "notes.txt", kind="sft")


def test_starter_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sft.jsonl", [GOOD])
    monkeypatch.setattr("burnish.data.sources.resources.files", lambda package: tmp_path)
    loaded = load_examples("starter/sft", kind="sft")
    assert str(loaded.examples[0].origin) == "starter/sft:1"
    with pytest.raises(DataError, match="no starter data of that name") as caught:
        load_examples("starter/sfd", kind="sft")
    assert "did you mean 'sft'" in caught.value.what
    assert caught.value.fix == "there is: starter/sft"


# ---- the hub ----


def test_a_hub_id_goes_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.Dataset.from_list([GOOD, {**GOOD, "completion": " "}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_examples("org/name:main", kind="sft", split="test", on_bad_row="skip")
    assert asked == [(("org/name", "main"), {"split": "test"})]
    assert str(loaded.examples[0].origin) == "org/name:main test row 1"
    assert str(loaded.bad_rows[0]) == "org/name:main test row 2, field 'completion': empty response"
    load_examples("org/name", kind="sft", on_bad_row="skip")
    assert asked[1] == (("org/name", None), {"split": "train"})


def test_an_unreachable_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*args: Any, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach 'org/name' on the Hub (LocalEntryNotFoundError)\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        load_examples("org/name", kind="sft")
    assert "can't be loaded from the Hugging Face hub: Couldn't reach 'org/name'" in caught.value.what
    assert "long trace" not in str(caught.value)
    assert "network" in str(caught.value.fix)


# ---- margins ----


PAIR = {"prompt": "What is 1 + 1?", "chosen": "2", "rejected": "3"}


def test_each_pair_brings_its_margin_from_every_format(tmp_path: Path) -> None:
    rows = [{**PAIR, "gap": 0.5}, {**PAIR, "gap": 2}]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,gap\nWhat is 1 + 1?,2,3,0.5\nWhat is 1 + 1?,2,3,2\n")
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        examples = load_examples(tmp_path / name, kind="preference", margin="gap").examples
        assert [example.margin for example in examples] == [0.5, 2.0], name
        assert all("gap" not in example.meta for example in examples)
    mapped = load_examples(tmp_path / "a.jsonl", kind="preference", columns={"gap": "margin"}, margin="margin")
    assert [example.margin for example in mapped.examples] == [0.5, 2.0]
    unasked = load_examples(tmp_path / "a.jsonl", kind="preference").examples
    assert [(example.margin, example.meta["gap"]) for example in unasked] == [(None, 0.5), (None, 2)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-0.5, "must be 0 or above and finite, this is -0.5"),
        (float("inf"), "must be 0 or above and finite, this is inf"),
        (10**400, "must be 0 or above and finite, this is inf"),
        (float("nan"), "must be a number, this is nan"),
        (True, "must be a number, this is a boolean"),
        ("", "must be a number, this is ''"),
        ("much", "must be a number, this is 'much'"),
        ([1.0], "must be a number, this is a list"),
        (None, "is null, it must be the pair's margin"),
        (..., "missing, it must be the pair's margin"),
    ],
)
def test_a_pair_without_a_usable_margin_is_a_bad_row_and_never_zero(tmp_path: Path, value: Any, why: str) -> None:
    bad = PAIR if value is ... else {**PAIR, "margin": value}
    path = write(tmp_path / "a.jsonl", [{**PAIR, "margin": 0}, bad])
    with pytest.raises(DataError) as caught:
        load_examples(path, kind="preference", margin="margin")
    assert caught.value.what == why
    assert caught.value.where == f"{path}:2, field 'margin'"
    loaded = load_examples(path, kind="preference", margin="margin", on_bad_row="skip")
    assert [example.margin for example in loaded.examples] == [0.0]
    assert [str(row) for row in loaded.bad_rows] == [f"{path}:2, field 'margin': {why}"]


# ---- the kind that rows tell ----

SCORED: tuple[Kind, ...] = ("preference", "sft")
ANY: tuple[Kind, ...] = (*SCORED, "prompt")


@pytest.mark.parametrize(
    ("rows", "kinds", "kind"),
    [
        ([GOOD, GOOD], ANY, "sft"),
        ([PAIR, PAIR], ANY, "preference"),
        ([{"prompt": "Why?"}], ANY, "prompt"),
        ([GOOD, PAIR, PAIR], SCORED, "preference"),
        ([GOOD, GOOD, PAIR], SCORED, "sft"),
        ([{**PAIR, "completion": "2"}], ANY, "preference"),  # could be both: its pairs tell more
        ([{"prompt": "Why?"}] * 3 + [GOOD], ANY, "sft"),
        ([{"prompt": "Why?"}] * 150 + [GOOD] * 120, ANY, "sft"),
    ],
)
def test_the_kind_is_what_most_rows_can_be(
    tmp_path: Path, rows: list[Any], kinds: tuple[Kind, ...], kind: Kind
) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    found, loaded = load_as_one_of(path, kinds=kinds, on_bad_row="skip")
    assert found == kind
    expected = load_examples(path, kind=kind, on_bad_row="skip")
    assert loaded == expected, "the rows that were looked at first are not lost and not read twice"


def test_data_of_unknown_kind_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish.data import sources

    path = write(tmp_path / "a.jsonl", [GOOD] * 500)
    read, original = [], sources.read_rows

    def counted(*arguments: Any) -> Any:
        for row in original(*arguments):
            read.append(row.origin.line)
            yield row

    monkeypatch.setattr(sources, "read_rows", counted)
    assert len(load_as_one_of(path, kinds=SCORED)[1].examples) == 500
    assert read == list(range(1, 501))
    read.clear()
    _, loaded = load_as_one_of(path, kinds=SCORED, limit=3)
    assert len(loaded.examples) == loaded.n_read == 3
    assert len(read) == 100, "what it looks at to tell the kind, and no more"


@pytest.mark.parametrize(
    ("row", "what", "field"),
    [
        ({"prompt": "a", "chosen": "b"}, "missing; the row has 'prompt', 'chosen'; preference data", "rejected"),
        ({"prompt": "a"}, "missing; the row has 'prompt'; SFT data", "completion"),
        (EMPTY, "empty response", "completion"),
    ],
)
def test_rows_that_begin_to_be_of_a_kind_are_judged_as_that(tmp_path: Path, row: Any, what: str, field: str) -> None:
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError) as caught:
        load_as_one_of(path, kinds=SCORED)
    assert caught.value.what.startswith(what)
    assert caught.value.where == f"{path}:1, field {field!r}"


def test_rows_of_no_kind_are_told_what_each_kind_would_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"foo": 1, "bar": None}, {"foo": 2}])
    with pytest.raises(DataError, match="no row is of a known shape: the first has 'foo'") as caught:
        load_as_one_of(path, kinds=SCORED)
    assert caught.value.where == f"{path}:1"
    assert "preference data: 'prompt' + 'chosen'" in str(caught.value.fix)
    assert "sft data: 'messages'" in str(caught.value.fix)
    with pytest.raises(DataError, match="no row has the column 'fo' that is mapped"):
        load_as_one_of(path, kinds=SCORED, columns={"fo": "text"})
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        load_as_one_of(path, kinds=SCORED)
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match="not valid JSON"):
        load_as_one_of(path, kinds=SCORED)
