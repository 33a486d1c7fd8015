"""Settings and YAML: what is wrong is named, and numbers are read as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from burnish.config import field_problems, parse_yaml, read_yaml
from burnish.errors import ConfigError
from burnish.stages.config import DPOConfig, SFTConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-4", 2e-4), ("1E5", 1e5), (".5", 0.5), ("2.5e3", 2500.0), ("-1e-3", -1e-3), ("10", 10), ("1e-x", "1e-x")],
)
def test_yaml_numbers(text: str, value: object) -> None:
    found = parse_yaml(text, where="x")
    assert found == value
    assert type(found) is type(value)


def test_a_key_that_is_there_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match="the key 'a' is there twice") as caught:
        parse_yaml("a: 1\nb:\n  a: 2\na: 3\n", where="f.yaml")
    assert caught.value.where == "f.yaml:4"
    assert parse_yaml("a: {a: 1}", where="x") == {"a": {"a": 1}}


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't read the file"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "b.yaml")


BASIC = {"model": "m", "data": "d", "out": "o"}


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"validation": [1]}, [("validation", "Input should be a valid number (got [1])")]),
        ({"loss": {"beta": [2]}}, [("loss.beta", "Input should be a valid number (got [2])")]),
        ({"lora": {"rnk": 1}}, [("lora.rnk", "unknown key (did you mean 'rank'?)")]),
        ({"lora": 3}, [("lora", "Input should be a valid dictionary (got 3)")]),
        ({"validation": 1.5}, [("validation", "a share lies in [0, 1) (got 1.5)")]),
        ({"epochs": 0, "seed": -1}, [("epochs", "greater"), ("seed", "greater")]),
        (
            {"tuning": "full", "lora": {"trainable_tokens": ["a"]}},
            [("(whole)", "lora.trainable_tokens belongs to tuning: lora")],
        ),
    ],
)
def test_problems_are_named_by_field(values: dict[str, object], problems: list[tuple[str, str]]) -> None:
    with pytest.raises(ValidationError) as caught:
        DPOConfig.model_validate(BASIC | values)
    found = field_problems(caught.value, DPOConfig)
    assert [field for field, _ in found] == [field for field, _ in problems]
    assert all(what in said for (_, said), (_, what) in zip(found, problems, strict=True))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match=r"data: is required; out: is required"):
        SFTConfig.parse({"model": "m"})
