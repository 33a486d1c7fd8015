"""`key=value` from the command line, put into a recipe before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.config import parse_yaml
from burnish.errors import ConfigError, suggest


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Put `key=value` into a recipe's plain values, in place.

    Args:
        raw: the recipe as it was read.
        overrides: what was given; a key begins with a stage's name or a key of the recipe, a value is YAML.
        keys: of a recipe.

    Returns:
        Dotted place in the recipe -> the override as it was given.

    Raises:
        ConfigError: for what is no `key=value`, or a key that begins with nothing known.
    """
    stages = raw.get("stages")
    names = [str(name) for name in stages] if isinstance(stages, dict) else []
    changed = {}
    for text in overrides:
        where = f"command line: {text}"
        key, equals, value = text.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{text!r} is not key=value", where="command line", fix="as in dpo.loss.beta=0.05")
        if parts[0] in names:
            parts = ["stages", *parts]
        elif parts[0] not in keys:
            known = [*names, *keys]
            raise ConfigError(
                f"the recipe has no {parts[0]!r}{suggest(parts[0], known)}",
                where=where,
                fix=f"begin the key with one of: {', '.join(known)}",
            )
        target: Any = raw
        for part in parts[:-1]:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
            if not isinstance(target, dict):
                raise ConfigError(f"{part} is not a mapping, so nothing can be set in it", where=where)
        target[parts[-1]] = parse_yaml(value, where=where)
        changed[".".join(parts)] = text
    return changed
