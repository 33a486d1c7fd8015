"""Writing to disk so that a kill at any moment leaves the old state or the new one, never a half."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError

TEMPORARY_PREFIX = ".writing-"


@contextmanager
def atomic_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a directory under a temporary name beside `target`; it becomes `target` when the block ends well.

    Files and directories are flushed to disk before the rename. When the block raises, nothing is left behind.

    Args:
        target: the directory's final path; its parents are made.
        replace: whether an existing directory is replaced; otherwise it is an error.

    Raises:
        BurnishError: when the target exists, or the disk is full or not writable (the message says which).
    """
    if target.exists() and not replace:
        raise BurnishError("the directory exists already", where=str(target), fix="choose another one or remove it")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent, target.name)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}.", dir=target.parent))
    try:
        with _explained(target):
            yield temporary
            os.chmod(temporary, 0o755)
            for path in sorted(temporary.rglob("*")):
                _flush(path)
            _flush(temporary)
            if target.exists():
                _swap(temporary, target)
            else:
                os.rename(temporary, target)
            _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`: a directory can't be renamed over one that has content."""
    old = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}.", dir=target.parent))
    os.rename(target, old / "old")
    os.rename(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def remove_stale(parent: Path, name: str) -> int:
    """Remove what a killed writer of `parent/name` left under a temporary name; returns how many."""
    stale = list(parent.glob(f"{TEMPORARY_PREFIX}{name}.*"))
    for path in stale:
        # A kill between the two renames of a swap leaves the old state here and nothing at the target: put it back.
        if (path / "old").is_dir() and not (parent / name).exists():
            os.rename(path / "old", parent / name)
        shutil.rmtree(path, ignore_errors=True)
    return len(stale)


def atomic_write(path: Path, text: str) -> None:
    """Write a text file as a whole (UTF-8), flushed to disk, or not at all.

    Raises:
        BurnishError: when the disk is full or not writable.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the system's errors into messages; safetensors wraps them in an exception of its own."""
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise BurnishError(
            f"could not write: {reason}",
            where=str(target),
            fix="free some space or choose another place; what was there before is untouched",
        ) from error


def _disk_reason(error: Exception) -> str | None:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    if type(error).__name__ == "SafetensorError" and ("os error" in text.lower() or "space" in text.lower()):
        return text
    return None
