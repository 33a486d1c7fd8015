"""Flags made from a configuration's types: every field is a flag, its docstring the help text.

Nested settings are dotted (`--lora.rank 16`), and so are the options of a mapping (`--loss.beta 0.05`).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from burnish.config import Config, field_problems, parse_yaml
from burnish.errors import ConfigError


def _whole(kind: Any, tokens: Any) -> int:
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole, metavar="INT")]
"""A whole number; cyclopts alone would round 2.7 to 3."""

_ONE_AT_A_TIME = {"prices": "price", "api_keys": "api-key"}
"""Settings of which a flag gives one: it has the singular's name and may be given several times."""

# Headings of the help, in order, and what stands under them. A field that is named nowhere belongs to its stage.
_HEADINGS: Mapping[str, tuple[str, ...]] = {
    "Start and result": ("model", "data", "out"),
    "Data": ("map", "on_bad_row", "limit", "validation", "template", "max_length", "too_long"),
    "What trains": ("tuning", "dtype", "device", "gradient_checkpointing", "lora"),
    "This stage": (),
    "Optimisation": (
        *("epochs", "max_steps", "batch_size", "micro_batch_tokens", "learning_rate", "schedule", "warmup"),
        *("weight_decay", "beta1", "beta2", "max_grad_norm", "seed"),
    ),
    "Run": ("eval_every", "save_every", "keep_checkpoints", "keep_best", "trackers", "monitor", "guard"),
}
_GROUPS = {name: Group(name, sort_key=order) for order, name in enumerate(_HEADINGS)}


def command_from_config(config: type[Config], act: Callable[[Any], None], *, name: str) -> Callable[..., None]:
    """A function with a keyword argument for every field of `config`, as cyclopts reads it.

    Args:
        config: the settings.
        act: is given the checked settings.
        name: of the command.
    """

    def command(**given: Any) -> None:
        act(parse_flags(config, _nested(given)))

    command.__name__ = name
    command.__doc__ = config.__doc__
    parameters = list(_parameters(config))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def parse_flags(config: type[Config], values: Mapping[str, Any]) -> Any:
    """Check values that came from flags.

    Raises:
        ConfigError: naming the flags.
    """
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        problems = field_problems(error, config)
    if len(problems) == 1:
        field, what = problems[0]
        raise ConfigError(what, where=None if field == "(whole)" else flag(field), fix="see --help for what it takes")
    listed = "\n".join(f"  {flag(field)}: {what}" for field, what in problems)
    raise ConfigError(f"{len(problems)} settings can't be used\n{listed}", fix="see --help for what they take")


def flag(field: str) -> str:
    """The flag of a dotted field: `--lora.rank` of `lora.rank`, `--learning-rate` of `learning_rate`."""
    return "--" + _ONE_AT_A_TIME.get(field, field).replace("_", "-")


def parse_map(pairs: list[str]) -> dict[str, str]:
    """`old=new` column names as a mapping.

    Raises:
        ConfigError: for what is no `old=new`, or an old name that comes twice.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"{pair!r} is not old=new", where="--map", fix="as in --map question=prompt")
        if old in columns:
            raise ConfigError(f"{old!r} is mapped twice", where="--map")
        columns[old] = new
    return columns


def parse_models(models: Sequence[str]) -> dict[str, str]:
    """`NAME=MODEL` arguments as name -> model; a model alone is named after its directory (or run).

    Raises:
        ConfigError: two of the same name.
    """
    named: dict[str, str] = {}
    for text in models:
        name, equals, model = text.partition("=")
        if not (equals and name and model) or Path(text).exists():
            parts = [part for part in Path(text.rpartition("#")[2]).parts if part != "model"]  # an endpoint's: URL#NAME
            name, model = parts[-1] if parts else text, text
        if name in named:
            raise ConfigError(
                f"two models are called {name!r}", where=text, fix="write NAME=MODEL with names of their own"
            )
        named[name] = model
    return named


def _parameters(config: type[Config], prefix: str = "", heading: str | None = None) -> Iterator[inspect.Parameter]:
    for name, field in config.model_fields.items():
        dotted = prefix + name
        under = heading or next((title for title, names in _HEADINGS.items() if name in names), "This stage")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from _parameters(field.annotation, f"{dotted}.", under)
            continue
        default: Any = inspect.Parameter.empty
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
        text = _help(dotted, field, default)
        kind, default = _shape(dotted, field, default)
        options = Parameter(
            name=flag(dotted),
            help=text,
            group=_GROUPS[under],
            # What is off by default needs no flag to switch it off.
            negative=None if default is True else (),
            show_default=False,
            consume_multiple=typing.get_origin(kind) is list or None,
            metavar=_number(field.annotation) or ("OLD=NEW..." if dotted == "map" else None),
        )
        annotation: Any = Annotated[kind, options]
        yield inspect.Parameter(
            dotted.replace(".", "__"), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )


def _shape(dotted: str, field: FieldInfo, default: Any) -> tuple[Any, Any]:
    """The type that the command line parser is told, and the default in that type."""
    annotation = field.annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if dotted == "map":
        return list[str], []
    if _number(annotation):
        # As text: the settings' own check turns it into a number, and does not round 2.7 to 3.
        return str | None, None
    if origin is tuple:
        return list[arguments[0]], list(default)  # type: ignore[valid-type]
    if origin is dict or _optional_config(annotation):
        return dict[str, str] | None, None
    if origin in (typing.Union, types.UnionType) and set(arguments) == {float, str}:
        return float | str, default
    return annotation, default


def _optional_config(annotation: Any) -> bool:
    """Whether the type is that of settings that may be left out as a whole; its keys are given like a mapping's."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], Config)


def _number(kind: Any) -> str | None:
    """`INT` or `FLOAT` for a type that is one, maybe or nothing."""
    for number, name in ((int, "INT"), (float, "FLOAT")):
        if kind is number or set(typing.get_args(kind)) == {number, type(None)}:
            return name
    return None


def _help(dotted: str, field: FieldInfo, default: Any) -> str:
    text = " ".join((field.description or "").split())
    if isinstance(default, Mapping) and default:
        first = next(iter(default))
        text += f" As flags: `{flag(dotted)}.{first} {default[first]}`, and so on."
    if default is inspect.Parameter.empty or default is None or default in ((), {}):
        return text
    if isinstance(default, bool):
        shown = "yes" if default else "no"
    elif isinstance(default, tuple):
        shown = " ".join(map(str, default))
    elif isinstance(default, Mapping):
        shown = ", ".join(f"{key} {value}" for key, value in default.items())
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} [default: {shown}]"


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue  # what was not given takes the field's own default
        *path, last = name.split("__")
        target = values
        for part in path:
            target = target.setdefault(part, {})
        target[last] = _scalars(value) if isinstance(value, Mapping) else value
    if "map" in values:
        values["map"] = parse_map(values["map"])
    return values


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a mapping with the types that they would have in a recipe."""
    found = {}
    for key, value in values.items():
        found[key] = parse_yaml(value, where=key) if isinstance(value, str) else value
    return found
