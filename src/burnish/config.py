"""The base of every configuration: unknown keys are refused, and errors name the field."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from burnish.errors import ConfigError, suggest


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
    lines = [f"{field}: {what}" for field, what in field_problems(error, cls)]
    return ConfigError("; ".join(lines), where=where, fix="mend the named fields and run the same command again")


def field_problems(error: ValidationError, cls: type[BaseModel]) -> list[tuple[str, str]]:
    """(dotted field, what is wrong with it) of every field that a pydantic error about `cls` names."""
    problems: dict[str, str] = {}
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            what = f"unknown key{suggest(path[-1], _field_names(cls, path[:-1]))}"
        elif item["type"] == "missing":
            what = "is required"
        else:
            what = re.sub(r" or instance of \w+$", "", item["msg"].removeprefix("Value error, "))
            # A rule about several fields has no place, and its input is everything.
            what += f" (got {item['input']!r})" if path and _is_shown(cls, path[0]) else ""
            path = path[: _depth(cls, path)]
        field = ".".join(path) or "(whole)"
        # A field of several types (`float | str`) fails once for each of them: the first says enough.
        problems.setdefault(field, what)
    return list(problems.items())


def _is_shown(cls: type[BaseModel], field: str) -> bool:
    """Whether errors may quote a field's value: not where it could be a secret (`repr=False`)."""
    return field not in cls.model_fields or cls.model_fields[field].repr


def _depth(cls: type[BaseModel], path: list[str]) -> int:
    """How much of a pydantic location is fields and keys; what follows names members of a union."""
    current: Any = cls
    for depth, part in enumerate(path):
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return depth + (current is not None and typing.get_origin(current) in (dict, list, tuple))
        annotation = fields[part].annotation
        candidates = [annotation, *typing.get_args(annotation)]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), annotation)
    return len(path)


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
        ConfigError: when the file is missing, is not UTF-8, is not YAML, or names a key twice; the message has file
            and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the file: {error}", where=str(path)) from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """One YAML document as plain values: numbers may be written as `2e-4`, and a key twice is an error.

    Raises:
        ConfigError: with `where` and the line.
    """
    import yaml

    try:
        return yaml.load(text, _yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"not valid YAML: {problem}", where=f"{where}{line}", fix="mend that line") from None
    except RecursionError:
        raise ConfigError("not valid YAML: nested too deeply", where=where) from None


@lru_cache(maxsize=1)
def _yaml_loader() -> Any:
    """PyYAML's safe loader with what users expect of it: `2e-4` is a number, and no key silently replaces another."""
    import yaml

    class Loader(yaml.SafeLoader):
        """See above."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
                if key is not None and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice", key_node.start_mark
                    )
                seen.add(key)
            return super().construct_mapping(node, deep)

    # YAML 1.1, which PyYAML follows, wants a dot and a signed exponent: 2e-4 would be text.
    number = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+|[-+]?\.\d+([eE][-+]?\d+)?")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
