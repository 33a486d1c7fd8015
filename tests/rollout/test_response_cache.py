"""Answers on disk: found again, never mixed up, and never trusted when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.rollout.response_cache import Keep, ResponseCache


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> ResponseCache:
    return ResponseCache(tmp_path / "responses", echo=said.append)


def files(cache: ResponseCache) -> list[Path]:
    assert cache.directory is not None
    return sorted(cache.directory.rglob("*.json"))


def squares(cache: ResponseCache, numbers: list[int], computed: list[int]) -> list[int]:
    def compute(missing: list[int], keep: Keep) -> None:
        for place in missing:
            computed.append(numbers[place])
            keep(place, {"square": numbers[place] ** 2})

    return [value["square"] for value in cache.filled([["square", number] for number in numbers], compute)]


def test_only_what_is_new_is_computed(cache: ResponseCache) -> None:
    computed: list[int] = []
    assert squares(cache, [2, 3], computed) == [4, 9]
    assert squares(cache, [1, 2, 3, 4], computed) == [1, 4, 9, 16]
    assert computed == [2, 3, 1, 4]


def test_what_was_finished_before_a_failure_is_kept(cache: ResponseCache) -> None:
    def compute(missing: list[int], keep: Keep) -> None:
        keep(1, "one")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.filled([0, 1, 2], compute)
    seen: list[list[int]] = []
    found: list[int] = []
    done: list[int] = []

    def rest(missing: list[int], keep: Keep) -> None:
        seen.append([keep(place, "x") or place for place in missing])

    cache.filled([0, 1, 2], rest, found=found.append, progress=done.append)
    assert seen == [[0, 2]]
    assert found == [1]
    assert done == [1, 2, 3]


def test_a_value_that_is_never_given_is_a_mistake_and_no_answer(cache: ResponseCache) -> None:
    with pytest.raises(ValueError, match="1 of 2 values were not computed"):
        cache.filled([0, 1], lambda missing, keep: keep(0, "x"))


@pytest.mark.parametrize("damage", ["cut", "changed", "swapped", "empty", "bytes", "other"])
def test_a_damaged_entry_is_computed_again_with_a_notice(cache: ResponseCache, said: list[str], damage: str) -> None:
    computed: list[int] = []
    squares(cache, [2, 3], computed)
    first, second = files(cache)
    text = first.read_text()
    if damage == "swapped":  # a whole entry, in the place of another
        first.write_bytes(second.read_bytes())
    elif damage == "bytes":
        first.write_bytes(b"\xff\xfe" + text.encode())
    else:
        number = json.loads(text)["value"]["square"]
        changed = text.replace(f'"square": {number}', '"square": 5')
        assert changed != text
        first.write_text({"cut": text[:-9], "changed": changed, "empty": "", "other": "[]"}[damage])
    again: list[int] = []
    assert squares(cache, [2, 3], again) == [4, 9]
    assert len(again) == 1
    assert cache.damaged == 1
    assert "damaged" in said[0]
    assert str(first) in said[0]
    assert first.read_text() == text  # mended
    assert squares(cache, [2, 3], again) == [4, 9]
    assert len(again) == 1


def test_an_entry_has_no_trace_of_its_writing(cache: ResponseCache) -> None:
    squares(cache, [2], [])
    (path,) = files(cache)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.parent.name == path.stem[:2]


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    computed: list[int] = []
    cache = ResponseCache(None)
    assert not cache.keeps
    for _ in range(2):
        assert squares(cache, [2], computed) == [4]
    assert computed == [2, 2]


def test_a_disk_that_takes_no_more_ends_the_keeping_and_not_the_report(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "responses").write_text("a file where the directory should be")
    cache = ResponseCache(tmp_path / "responses", echo=said.append)
    computed: list[int] = []
    assert squares(cache, [2, 3], computed) == [4, 9]
    assert not cache.keeps
    assert [line for line in said if "can't be kept" in line] == said[-1:]


def test_processes_that_write_the_same_entries_at_once_leave_whole_ones(cache: ResponseCache) -> None:
    code = """
import sys
from pathlib import Path
from burnish.rollout.response_cache import ResponseCache
cache = ResponseCache(Path(sys.argv[1]))
for _ in range(20):
    keys = list(range(8))
    got = cache.filled(keys, lambda missing, keep: [keep(p, "x" * 5000 + str(p)) for p in missing])
    assert got == ["x" * 5000 + str(p) for p in keys]
    for path in Path(sys.argv[1]).rglob("*.json"):
        path.unlink(missing_ok=True)
print(cache.damaged)
"""
    command = [sys.executable, "-c", code, str(cache.directory)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == ["0", "0", "0"]
