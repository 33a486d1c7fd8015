"""Writing to disk so that a kill at any moment leaves the old state or the new one, never a half."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_TEMPORARY = re.compile(r"\.(.+)~[0-9a-f]{16}(\.old)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO,
}  # fmt: skip


@contextmanager
def atomic_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a directory under a temporary name beside `target`; it becomes `target` when the block ends well.

    Files and directories are flushed to disk before the rename. When the block raises, nothing is left behind; what a
    killed writer left behind is removed by the next one.

    Args:
        target: the directory's final path; its parents are made.
        replace: whether an existing directory is replaced; otherwise it is an error.

    Raises:
        BurnishError: when the target exists, or the disk is full or not writable (the message says which).
    """
    if target.exists() and not replace:
        raise _exists(target)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        temporary = target.parent / _temporary_name(target)
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)  # says to `recover` that this writer is alive
    try:
        with _explained(target):
            yield temporary
            for path in sorted(temporary.rglob("*")):
                _flush(path)
            _flush(temporary)
            _put_in_place(temporary, target, replace)
            _flush(target.parent)
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, target: Path, replace: bool) -> None:
    """Rename, or exchange the two names in one step; what was at `target` is then at `temporary`."""
    if not target.exists():
        os.rename(temporary, target)
    elif not replace:
        raise _exists(target)
    elif not _exchange(temporary, target):
        # A file system that can't exchange names: for an instant nothing stands at the target, and `recover` knows.
        aside = temporary.with_name(temporary.name + ".old")
        os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names atomically (Linux's renameat2); False where that can't be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def is_temporary(name: str) -> bool:
    """Whether a file or directory name is one that these functions give while they write."""
    return _TEMPORARY.fullmatch(name) is not None


def recover(target: Path) -> None:
    """Clear up what killed writers of `target` left: put an old state back if none stands there, remove the rest.

    Temporary directories of writers that are alive are left alone.
    """
    matches = ((path, _TEMPORARY.fullmatch(path.name)) for path in target.parent.iterdir())
    found = [path for path, match in matches if match is not None and match[1] == target.name]
    for path in found:
        if path.suffix == ".old" and not target.exists():
            os.rename(path, target)
        elif path.is_dir():
            if not _in_use(path):
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _in_use(directory: Path) -> bool:
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def atomic_write(path: Path, text: str) -> None:
    """Write a text file as a whole (UTF-8), flushed to disk, or not at all.

    Raises:
        BurnishError: when the disk is full or not writable.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """The same for any content."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / _temporary_name(path)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. Halves of surrogate pairs, which UTF-8 can't hold, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    atomic_write(path, _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def _temporary_name(target: Path) -> str:
    return f".{target.name}~{secrets.token_hex(8)}"


def _exists(target: Path) -> BurnishError:
    return BurnishError("the directory exists already", where=str(target), fix="choose another one or remove it")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn errors of the disk into messages; safetensors wraps them in an exception of its own."""
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
        return error.strerror if error.errno in _DISK_ERRORS else None
    text = str(error)
    return text if type(error).__name__ == "SafetensorError" and "os error" in text.lower() else None
