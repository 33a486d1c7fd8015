"""The grid of a sweep: settings with several values, and names that tell its points apart."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from burnish.config import parse_yaml
from burnish.errors import ConfigError


def read_settings(settings: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """The axes (key -> values) and the settings that hold for every point (`key=value`).

    Values are YAML, separated by commas that stand outside of brackets.

    Raises:
        ConfigError: a setting is no `key=value`, a key comes twice, or there is no axis.
    """
    axes: dict[str, list[Any]] = {}
    fixed: dict[str, str] = {}
    for text in settings:
        key, equals, listed = text.partition("=")
        if not (key and equals):
            raise ConfigError(f"{text!r} is not key=value,value,...", where="sweep", fix="as in dpo.beta=0.05,0.1")
        if key in axes or key in fixed:
            raise ConfigError(f"{key} is given twice", where=text, fix="put all of its values into one list")
        values = parse_yaml(f"[{listed}]", where=text)
        if len(values) < 2:
            fixed[key] = text
        elif len({_as_json(value, text) for value in values}) < len(values):
            raise ConfigError(f"{key} takes a value twice", where=text, fix="each value is a point of its own")
        else:
            axes[key] = values
    if not axes:
        raise ConfigError("a sweep needs a setting with several values", fix="as in dpo.beta=0.05,0.1,0.3")
    return axes, list(fixed.values())


def _as_json(value: Any, where: str) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        fix = f'put it in quotes, as in key="{value}"'
        raise ConfigError(f"{value!r} is no number, text, list or mapping", where=where, fix=fix) from None


def demand_apart(names: Sequence[str], where: str, what: str) -> None:
    """Refuse names that give one and the same directory."""
    taken: dict[str, str] = {}
    for name in names:
        if (other := taken.setdefault(file_name(name), name)) != name:
            raise ConfigError(f"the {what} {other!r} and {name!r} would share a directory", where=where)


def file_name(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^\w.,=+-]", "_", text)
