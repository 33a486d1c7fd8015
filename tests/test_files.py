"""Atomic writes: the old state or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from burnish import files
from burnish.errors import BurnishError
from burnish.files import atomic_directory, atomic_write, recover


def test_a_directory_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "model"
    with atomic_directory(target) as temporary:
        (temporary / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def test_a_failed_block_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_directory(target) as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(target, replace=True) as temporary:
        (temporary / "x").write_text("new")
        raise RuntimeError
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_replacing_needs_to_be_said(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(BurnishError, match="exists already"), atomic_directory(tmp_path / "model"):
        pass


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """Only where names can't be exchanged in one step."""
    aside = tmp_path / ".model~0123456789abcdef.old"
    aside.mkdir()
    (aside / "x").write_text("old")
    recover(tmp_path / "model")
    assert (tmp_path / "model" / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_without_exchange_the_swap_still_works_and_a_failure_puts_the_old_state_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "model", replace=True) as temporary:
            (temporary / "x").write_text(text)
    assert (tmp_path / "model" / "x").read_text() == "new"
    rename, calls = os.rename, []

    def failing(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(a, b)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "model", replace=True) as temporary:
        (temporary / "x").write_text("newer")
    assert (tmp_path / "model" / "x").read_text() == "new"


def test_writers_of_other_targets_and_living_writers_are_left_alone(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "smollm2-1.7b") as other, atomic_directory(tmp_path / "smollm2-1") as first:
        (other / "x").write_text("other")
        (first / "x").write_text("first")
        with atomic_directory(tmp_path / "smollm2-1", replace=True) as second:
            (second / "x").write_text("second")
        assert (other / "x").exists()
        assert (first / "x").exists()
        (tmp_path / "smollm2-1").rename(tmp_path / "gone")
    assert (tmp_path / "smollm2-1.7b" / "x").read_text() == "other"
    assert (tmp_path / "smollm2-1" / "x").read_text() == "first"


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="exists already"), atomic_directory(tmp_path / "model"):
        (tmp_path / "model").mkdir()


def test_errors_that_are_not_of_the_disk_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "model"):
        (tmp_path / "missing").read_text()


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="No space left"), atomic_directory(tmp_path / "model"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_for_real() -> None:
    """/dev/shm-like limits are not to be had everywhere; RLIMIT_FSIZE makes writes fail the same way."""
    code = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from burnish.errors import BurnishError
from burnish.files import atomic_directory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
target = Path(sys.argv[1]) / "model"
try:
    with atomic_directory(target) as temporary:
        save_file({"x": torch.zeros(1 << 20)}, temporary / "x.safetensors")
except BurnishError as error:
    print("message:", error.what)
print("left:", list(target.parent.iterdir()))
"""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        out = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=True).stdout
    assert "message: could not write" in out
    assert "left: []" in out


@pytest.mark.process
def test_killed_writers_leave_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from burnish.files import atomic_directory, atomic_write
place = Path(sys.argv[1])
for i in range(10**9):
    with atomic_directory(place / "model", replace=True) as temporary:
        for name in "abcde":
            (temporary / name).write_text(str(i))
    atomic_write(place / "note", str(i) * 1000)
"""
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        time.sleep(0.5 + 0.05 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        recover(tmp_path / "model")
        contents = {(tmp_path / "model" / name).read_text() for name in "abcde"}
        assert len(contents) == 1
        note = (tmp_path / "note").read_text()
        assert note[: len(note) // 1000] * 1000 == note


def test_atomic_write_replaces(tmp_path: Path) -> None:
    atomic_write(tmp_path / "x", "old")
    atomic_write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
