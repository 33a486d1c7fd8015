"""One tree of errors. A message says what is wrong, where (file, line, field) and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string when nothing known is close to `word`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class BurnishError(Exception):
    """Base of every error that burnish raises on purpose.

    The command line prints it without a traceback and exits with `exit_code`.

    Args:
        what: one sentence that says what is wrong.
        where: the place: a file and line, a config field, a module path.
        fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)


class ConfigError(BurnishError):
    """A setting is unknown, of the wrong type, or of nonsense value."""

    exit_code = 2


class DataError(BurnishError):
    """A data file can't be read, or a row of it is not usable."""


class TemplateError(BurnishError):
    """A chat template can't be used as training needs it (prefix, stop token, roles)."""


class PreflightError(BurnishError):
    """What the model would see is not fit to train on."""


class ModelError(BurnishError):
    """A model can't be found, read or used."""


class NotFiniteError(ModelError):
    """A model gives NaN or infinity where a number is needed."""


class AdapterError(ModelError):
    """An adapter does not fit its base, or can't be read, merged or verified."""


class TrainingError(BurnishError):
    """Training had to stop: a loss that is not finite, for example."""


class CheckpointError(BurnishError):
    """A checkpoint can't be written or read."""


class OutputDirError(BurnishError):
    """The output directory holds something that would be overwritten."""


class Interrupted(BurnishError):
    """A signal asked for a stop; the state was saved and the same command goes on from it."""

    exit_code = 130
