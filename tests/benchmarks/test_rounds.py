"""Sides in turn, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common import rounds
from common.rounds import Found, alternate, loads, medians, ratios, run


def side(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_the_last_line_is_the_result_with_load_and_memory() -> None:
    found = run(side("print('noise'); print('{\"n\": 1}')"))
    assert found["n"] == 1
    assert found["load"] >= 0.0
    assert 1 << 20 < found["peak_rss_bytes"] < 1 << 33


def test_memory_is_that_of_each_process() -> None:
    # Asked from a process without torch, as the benchmarks do: a child is charged with what its parent held.
    code = """
import sys
from common.rounds import run
for megabytes in (200, 1):
    print(run([sys.executable, "-S", "-c", f"b = b'x' * ({megabytes} << 20); print('{{}}')"])["peak_rss_bytes"])
"""
    path = str(Path(rounds.__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    large, small = map(int, done.stdout.split())
    assert large - small > 150 << 20


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (side("raise SystemExit('no such data')"), "no such data"),
        (side("pass"), "printed no result"),
        (["/nowhere/python"], "make bench"),
    ],
)
def test_a_side_that_fails_says_why(command: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        run(command)


def test_sides_take_turns_and_an_optional_one_may_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    sides = {
        "a": side("print('{\"x\": 4}')"),
        "c": side("raise SystemExit('not here')"),
        "b": side("print('{\"x\": 2}')"),
    }
    seen: list[list[int]] = []

    def problems(found: Found) -> list[str]:
        seen.append([len(results) for results in found.values()])
        return []

    found = alternate(sides, 2, problems=problems, line=lambda result: "done", optional={"c"})
    assert seen == [[1, 0, 0], [1, 1], [2, 1], [2, 2]]
    assert "c is left out" in capsys.readouterr().out
    assert medians(found["a"], "x") == (4,)
    assert ratios(found["a"], found["b"], "x") == (2.0, 2.0, 2.0)
    assert loads(found)[0] <= loads(found)[1]


def test_other_work_stops_the_comparison() -> None:
    with pytest.raises(SystemExit, match="not the same"):
        alternate({"a": side("print('{}')")}, 1, problems=lambda found: ["other examples"], line=str)
