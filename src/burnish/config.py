"""The base of every configuration: unknown keys are refused, and errors name the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from burnish.errors import ConfigError


class Config(BaseModel):
    """A pydantic model that refuses unknown keys and can't be changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "config") -> Self:
        """Validate `values`.

        Args:
            values: plain values, as read from YAML or from the command line.
            where: what the error message calls the place, e.g. `recipe.yaml: stages.dpo`.

        Raises:
            ConfigError: naming each wrong field; an unknown key comes with the closest known one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise config_error(error, cls, where) from None


def config_error(error: ValidationError, cls: type[BaseModel], where: str) -> ConfigError:
    """Put a pydantic error into words: one line a field, with the closest name for an unknown key."""
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        field = ".".join(path) or "(whole)"
        if item["type"] == "extra_forbidden":
            close = suggest(path[-1], _field_names(cls, path[:-1]))
            lines.append(f"{field}: unknown key{close}")
        else:
            lines.append(f"{field}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})")
    return ConfigError("; ".join(lines), where=where, fix="mend the named fields and run the same command again")


def suggest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string when nothing known is close to `word`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _field_names(cls: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the model found by walking `path` down from `cls`."""
    current: Any = cls
    for part in path:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return []
        annotation = fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if current is None:
            return []
    return list(getattr(current, "model_fields", {}))


def read_yaml(path: Path) -> Any:
    """Read one YAML document.

    Raises:
        ConfigError: when the file is missing, is not UTF-8 or is not YAML; the message has file and line.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the file: {error}", where=str(path)) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"not valid YAML: {problem}", where=f"{path}{line}", fix="mend that line") from None
