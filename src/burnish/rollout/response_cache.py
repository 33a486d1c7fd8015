"""Answers on disk, so that a second report, or one more model, costs only what is new.

CACHE/responses/ab/abcd....json    one answer, under the hash of all that it depends on

An entry is one file, written beside its place and renamed, so that writers do not meet and a kill leaves no half of
one. It holds a hash of its own content: what a disk has damaged is told apart, counted and computed anew. The directory
can be removed at any time. It holds what models said, and neither prompts nor keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError
from burnish.files import atomic_write
from burnish.models.catalog import cache_dir
from burnish.models.fingerprint import digest

FORMAT = 1
"""To be raised when entries change their meaning; older ones are then not found."""

Keep = Callable[[int, Any], None]
"""Takes (place, value) of what was just computed."""


class ResponseCache:
    """A directory of answers; see this module's text.

    Args:
        directory: where they lie; None keeps nothing and finds nothing.
        echo: takes a line for each damaged entry, and one when the disk takes no more.
    """

    def __init__(self, directory: Path | None, *, echo: Callable[[str], None] = print) -> None:
        self.directory, self.echo = directory, echo
        self.damaged = 0
        """Entries that could not be read and were computed anew."""
        self._full = False

    @classmethod
    def usual(cls, *, echo: Callable[[str], None] = print) -> ResponseCache:
        """The one in burnish's cache directory (`BURNISH_CACHE`)."""
        return cls(cache_dir() / "responses", echo=echo)

    @property
    def keeps(self) -> bool:
        """Whether what is finished will be found again."""
        return self.directory is not None and not self._full

    def filled(
        self,
        keys: Sequence[Any],
        compute: Callable[[list[int], Keep], None],
        *,
        found: Callable[[int], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """The value of every key: from the disk, or computed and kept one by one, so that a failure loses nothing.

        Args:
            keys: plain values that name all that a value depends on.
            compute: is given the places of the keys that are not there, and a function that takes each value as soon as
                it is known. Not called when all is there.
            found: is told how many were on the disk.
            progress: is told how many there are: those on the disk first, then one more with each that is kept.

        Raises:
            ValueError: `compute` came to its end without all values.
        """
        names = [digest([FORMAT, key]) for key in keys]
        values = [self._read(name) for name in names]
        missing = [place for place, value in enumerate(values) if value is None]
        done = len(keys) - len(missing)
        if found is not None:
            found(done)
        if progress is not None:
            progress(done)

        def keep(place: int, value: Any) -> None:
            nonlocal done
            values[place] = value
            self._write(names[place], value)
            done += 1
            if progress is not None:
                progress(done)

        if missing:
            compute(missing, keep)
        if any(value is None for value in values):
            raise ValueError(f"{sum(value is None for value in values)} of {len(values)} values were not computed")
        return values

    def _path(self, name: str) -> Path | None:
        return None if self.directory is None else self.directory / name[:2] / f"{name}.json"

    def _read(self, name: str) -> Any:
        if (path := self._path(name)) is None:
            return None
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return self._damage(path, str(error))
        try:
            entry = json.loads(text)
            if entry["key"] == name and entry["sha256"] == digest(entry["value"]) and entry["value"] is not None:
                return entry["value"]
        except (ValueError, KeyError, TypeError):
            pass
        return self._damage(path, "its content does not fit its hash")

    def _damage(self, path: Path, why: str) -> None:
        self.damaged += 1
        self.echo(f"a kept answer is damaged and is computed again: {path} ({why})")

    def _write(self, name: str, value: Any) -> None:
        if (path := self._path(name)) is None or self._full:
            return
        try:
            atomic_write(path, json.dumps({"key": name, "sha256": digest(value), "value": value}, ensure_ascii=False))
        except (BurnishError, OSError) as error:
            # A report is worth more than its cache: it goes on without.
            self._full = True
            what = error.what if isinstance(error, BurnishError) else str(error)
            self.echo(f"answers can't be kept from here on: {what} ({self.directory})")
