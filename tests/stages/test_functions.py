"""Reward functions: found by their names, asked with what they want, and named with the prompt when they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import ConfigError, TrainingError
from burnish.stages.functions import Episodes, function_fingerprint, is_function, load_function

EPISODES = Episodes(
    prompts=["How many?", "Which one?"],
    responses=["four", "the first of them"],
    rows=[{"answer": 4}, {"answer": 1}],
    messages=[
        [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}],
        [{"role": "user", "content": "Which one?"}],
    ],
    origins=["data.jsonl:1", "data.jsonl:2"],
)


def write(directory: Path, text: str, name: str = "mine.py") -> str:
    path = directory / name
    path.write_text(text)
    return f"{path}:reward"


def failure(directory: Path, text: str) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        load_function(write(directory, text), where="reward")(EPISODES)
    return caught.value


def test_a_file_s_function_gets_prompts_and_responses(tmp_path: Path) -> None:
    text = "def reward(prompts, responses):\n    return [len(p) + 100 * len(r) for p, r in zip(prompts, responses)]\n"
    found = load_function(write(tmp_path, text), where="reward")(EPISODES)
    assert found.tolist() == [9 + 400, 10 + 1700]


def test_rows_are_given_to_a_function_that_takes_them(tmp_path: Path) -> None:
    text = "def reward(prompts, responses, rows):\n    return [row['answer'] for row in rows]\n"
    assert load_function(write(tmp_path, text), where="reward")(EPISODES).tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    "takes", ["rows, messages", "messages, rows", "*, messages, rows=None, weight=1.0", "messages"]
)
def test_the_conversation_is_given_to_a_function_that_takes_it(tmp_path: Path, takes: str) -> None:
    text = f"def reward(prompts, responses, {takes}):\n    return [len(said) for said in messages]\n"
    assert load_function(write(tmp_path, text), where="reward")(EPISODES).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("takes", ["row", "rows, weights", "*, weight"])
def test_a_function_that_wants_what_is_not_known_is_refused(tmp_path: Path, takes: str) -> None:
    with pytest.raises(ConfigError, match="at most rows and messages"):
        load_function(write(tmp_path, f"def reward(prompts, responses, {takes}):\n    return []\n"), where="reward")


def test_a_directory_is_no_function(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no function"):
        load_function(str(tmp_path), where="reward_function")


def test_a_module_is_found_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "def reward(prompts, responses):\n    return [1, 2]\n", "rewards_of_a_test.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_function("rewards_of_a_test:reward", where="reward")(EPISODES).tolist() == [1.0, 2.0]


def test_what_stands_beside_a_file_can_be_imported_by_it(tmp_path: Path) -> None:
    (tmp_path / "helper_of_a_test.py").write_text("VALUE = 3\n")
    text = "from helper_of_a_test import VALUE\ndef reward(prompts, responses):\n    return [VALUE] * len(responses)\n"
    assert load_function(write(tmp_path, text), where="reward")(EPISODES).tolist() == [3.0, 3.0]


def test_an_exception_names_the_prompt_that_it_comes_from(tmp_path: Path) -> None:
    text = (
        "def reward(prompts, responses):\n"
        "    if any('first' in r for r in responses):\n"
        "        raise KeyError('no such word')\n"
        "    return [0.0] * len(responses)\n"
    )
    error = failure(tmp_path, text)
    assert "KeyError: 'no such word'" in error.what
    assert error.where is not None
    assert "data.jsonl:2" in error.where
    assert "'Which one?'" in error.where
    assert "data.jsonl:1" not in error.where


def many(n: int) -> Episodes:
    prompts, responses, origins = ([f"{letter}{i}" for i in range(n)] for letter in ("p", "r", "d:"))
    return Episodes(prompts, responses, [{}] * n, [[]] * n, origins)


def test_the_failing_prompt_among_many_is_found_in_few_calls(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    text = (
        "def reward(prompts, responses):\n"
        f"    open({str(calls)!r}, 'a').write(f'{{len(responses)}}\\n')\n"
        "    if 'r37' in responses or 'r50' in responses:\n"
        "        raise ValueError('37 or 50')\n"
        "    return [0.0] * len(responses)\n"
    )
    with pytest.raises(TrainingError) as caught:
        load_function(write(tmp_path, text), where="reward")(many(64))
    assert "d:37;" in str(caught.value.where)
    # 64 = 2^6: six halvings, two calls at most in each, after the call that failed
    assert len(calls.read_text().split()) <= 1 + 2 * 6


def test_a_function_that_fails_on_many_together_only_names_none(tmp_path: Path) -> None:
    text = (
        "def reward(prompts, responses):\n"
        "    if len(responses) > 4:\n"
        "        raise MemoryError('too many')\n"
        "    return [0.0] * len(responses)\n"
    )
    with pytest.raises(TrainingError) as caught:
        load_function(write(tmp_path, text), where="reward")(many(8))
    assert "too many" in caught.value.what
    assert "d:" not in str(caught.value.where)


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ("[1.0]", "1 rewards for 2 responses"),
        ("[1.0, float('nan')]", "nan for 1 of 2 responses"),
        ("[float('inf'), 0.0]", "inf for 1 of 2 responses"),
        ("['a', 'b']", "not a list of numbers"),
        ("None", "gave NoneType"),
    ],
)
def test_anything_but_a_finite_number_for_each_response_is_refused(returned: str, what: str, tmp_path: Path) -> None:
    error = failure(tmp_path, f"def reward(prompts, responses):\n    return {returned}\n")
    assert what in error.what
    assert "mine.py" in str(error.where)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no_such_module_at_all:reward", "can't import 'no_such_module_at_all'"),
        ("no/such/file.py:reward", "can't import"),
        ("json:no_such_function", "has no function 'no_such_function'"),
    ],
)
def test_a_function_that_is_not_there(name: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_function(name, where="reward")
    assert what in caught.value.what
    assert caught.value.where == "reward"


@pytest.mark.parametrize("signature", ["prompts", "prompts, responses, answers", "prompts, responses, rows, more"])
def test_a_function_that_takes_something_else(signature: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_function(write(tmp_path, f"def reward({signature}):\n    return []\n"), where="judge")
    assert "(prompts, responses)" in caught.value.what


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rewards:accuracy", True),
        ("my.rewards:accuracy", True),
        ("dir/rewards.py:accuracy", True),
        ("runs/my-reward", False),
        ("reward", False),
        ("runs/a:b/model", False),
    ],
)
def test_names_of_functions_and_of_models(name: str, expected: bool) -> None:
    assert is_function(name) is expected


def test_the_fingerprint_is_of_the_file_s_content(tmp_path: Path) -> None:
    name = write(tmp_path, "def reward(prompts, responses):\n    return [0.0] * len(responses)\n")
    before: Any = function_fingerprint(name)
    assert function_fingerprint(name) == before
    write(tmp_path, "def reward(prompts, responses):\n    return [1.0] * len(responses)\n")
    assert function_fingerprint(name) != before


def test_a_generator_s_exception_is_the_function_s(tmp_path: Path) -> None:
    """It comes when the values are read, not when the function is called."""
    text = "def reward(prompts, responses):\n    return (1 / (len(r) - 4) for r in responses)\n"
    error = failure(tmp_path, text)
    assert "ZeroDivisionError" in error.what
    assert "data.jsonl:1" in str(error.where)
    fine = load_function(write(tmp_path, text.replace("- 4", "+ 4")), where="reward")
    assert fine(EPISODES).tolist() == pytest.approx([1 / 8, 1 / 21])


def test_a_file_may_define_dataclasses_and_share_its_name_with_another(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Rule:\n    weight: float = 2.0\n"
        "def reward(prompts, responses):\n    return [Rule().weight] * len(responses)\n"
    )
    (tmp_path / "other").mkdir()
    first = load_function(write(tmp_path, text), where="reward")
    second = load_function(write(tmp_path / "other", text.replace("2.0", "3.0")), where="judge")
    assert (first(EPISODES).tolist(), second(EPISODES).tolist()) == ([2.0, 2.0], [3.0, 3.0])


def test_a_file_s_path_may_hold_spaces(tmp_path: Path) -> None:
    directory = tmp_path / "my rewards (new)"
    directory.mkdir()
    name = write(directory, "def reward(prompts, responses):\n    return [1.0, 2.0]\n")
    assert is_function(name)
    assert load_function(name, where="reward")(EPISODES).tolist() == [1.0, 2.0]
