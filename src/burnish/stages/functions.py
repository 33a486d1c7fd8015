"""Reward functions of the user's own, by name: `module:function` or `FILE.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import ConfigError, TrainingError
from burnish.models.fingerprint import digest, file_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

EXTRAS = ("rows", "messages")
"""What of `Episodes` a function is given where it has a parameter of that name."""
_NAME = re.compile(r"(?:.+\.py|[\w./~-]+):[A-Za-z_]\w*")  # a file's path may hold spaces and all else


@dataclass(frozen=True, slots=True)
class Episodes:
    """Responses with what a reward function is told of them, all in the same order.

    Attributes:
        prompts: the last user message of each.
        responses: their texts, without the stop token.
        rows: the other columns of each prompt's row.
        messages: the whole conversation that was answered, as mappings with `role` and `content`.
        origins: where each prompt stands, as `file:line`.
    """

    prompts: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    messages: list[list[Mapping[str, str]]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A reward from elsewhere: `function(prompts, responses)`, with `rows` and `messages` too if it takes them.

    Attributes:
        name: as the settings have it, for messages.
        call: the function.
        extras: which of `EXTRAS` it takes.
    """

    name: str
    call: Callable[..., Any]
    extras: tuple[str, ...] = ()

    def __call__(self, episodes: Episodes) -> Tensor:
        """(R,) rewards of the episodes, float64.

        Raises:
            TrainingError: the function failed, or gave something else than one finite number for each response; the
                message names the prompt.
        """
        everything = list(range(len(episodes.responses)))
        try:
            found = self._ask(episodes, everything)
        except Exception as error:
            raise self._failed(episodes, error) from error
        try:
            values = [float(value) for value in found]
        except (TypeError, ValueError):
            raise TrainingError(
                f"the reward function gave {type(found).__name__}, not a list of numbers",
                where=self.name,
                fix="return one number for each response",
            ) from None
        if len(values) != len(everything):
            raise TrainingError(
                f"the reward function gave {len(values)} rewards for {len(everything)} responses",
                where=self.name,
                fix="return one number for each response, in their order",
            )
        if bad := [i for i in everything if not math.isfinite(values[i])]:
            raise TrainingError(
                f"the reward function gave {values[bad[0]]} for {len(bad)} of {len(everything)} responses",
                where=f"{self.name}; {_shown(episodes, bad[0])}",
                fix="return finite numbers; training can go on from the last checkpoint",
            )
        import torch  # recipes ask this module for names only, and start faster without it

        return torch.tensor(values, dtype=torch.float64)

    def _ask(self, episodes: Episodes, places: Sequence[int]) -> Any:
        prompts = [episodes.prompts[i] for i in places]
        responses = [episodes.responses[i] for i in places]
        more = {name: [getattr(episodes, name)[i] for i in places] for name in self.extras}
        found = self.call(prompts, responses, **more)
        return list(found) if isinstance(found, Iterator) else found  # a generator fails only when it is read

    def _failed(self, episodes: Episodes, error: Exception) -> TrainingError:
        """Which prompt it fails on is found by halves: a function may ask a model that costs money or time."""
        places, where = list(range(len(episodes.responses))), self.name
        while len(places) > 1:
            middle = len(places) // 2
            for half in (places[:middle], places[middle:]):
                try:
                    self._ask(episodes, half)
                except Exception as narrower:
                    places, error = half, narrower
                    break
            else:  # it fails on all of them together only
                break
        if len(places) == 1:
            where = f"{self.name}; {_shown(episodes, places[0])}"
        return TrainingError(
            f"the reward function failed: {type(error).__name__}: {error}",
            where=where,
            fix="mend it and run the same command again: nothing that was trained is lost",
        )


def _shown(episodes: Episodes, place: int) -> str:
    prompt, response = episodes.prompts[place], episodes.responses[place]
    return f"{episodes.origins[place]}; prompt {prompt[:80]!r}; response {response[:80]!r}"


def is_function(name: str) -> bool:
    """Whether a reward's name is that of a function (`module:function`, `FILE.py:function`), not of a model."""
    return bool(_NAME.fullmatch(name)) and not Path(name).expanduser().exists()


def function_fingerprint(name: str) -> str:
    """A hash of the file that a function stands in; of its name where the file can't be found without an import."""
    module, _, function = name.rpartition(":")
    path = Path(module).expanduser()
    if not module.endswith(".py"):
        path = Path(*module.split(".")).with_suffix(".py")
    return digest([name if not path.is_file() else function, file_fingerprint(path) if path.is_file() else None])


def load_function(name: str, *, where: str) -> RewardFunction:
    """Import a reward function.

    Args:
        name: `module:function`, the module being found from the current directory too, or `FILE.py:function`.
        where: the setting that names it.

    Raises:
        ConfigError: there is no such module or function, or it can't be called with prompts and responses.
    """
    module_name, _, function = name.rpartition(":")
    if not module_name:
        raise ConfigError(f"{name!r} names no function", where=where, fix="give module:function or FILE.py:function")
    try:
        module = _import(module_name)
    except Exception as error:
        raise ConfigError(
            f"can't import {module_name!r}: {type(error).__name__}: {error}",
            where=where,
            fix="give module:function, with the module in the current directory or installed, or FILE.py:function",
        ) from error
    call = getattr(module, function, None)
    if not callable(call):
        raise ConfigError(f"{module_name!r} has no function {function!r}", where=where)
    try:
        takes = list(inspect.signature(call).parameters.values())
    except ValueError:  # written in C, without a signature
        takes = []
    by_place = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in takes if p not in by_place[:2] and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    extras = tuple(p.name for p in by_name if p.name in EXTRAS)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [p for p in takes if p not in by_place[:2] and p.kind not in variadic and p.name not in extras]
    if len(by_place) < 2 or any(p.default is p.empty for p in unknown):
        raise ConfigError(
            f"{name} must take (prompts, responses), and after them at most rows and messages",
            where=where,
            fix="rows are the other columns of each prompt's row, messages the conversations that were answered",
        )
    return RewardFunction(name, call, extras)


def _import(name: str) -> Any:
    if not name.endswith(".py"):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(name)
    path = Path(name).expanduser().resolve()
    unique = f"burnish_reward_{path.stem}_{digest([str(path)])[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # for what stands beside it
    sys.modules[unique] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
