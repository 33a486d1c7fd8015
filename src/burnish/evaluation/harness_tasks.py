"""Tasks of lm-evaluation-harness before a model is asked: found, loaded with their data, and known by what they ask.

The harness skips task files that it can't read, and lets through whatever a task raises. Here both become errors that
name the file, before the first model is loaded where it can be known by then.
"""

from __future__ import annotations

import functools
import inspect
import json
import random
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
import yaml
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from burnish.errors import BurnishError, ConfigError, suggest
from burnish.models.fingerprint import digest, tree_fingerprint
from burnish.rollout.sampler import SamplingParams

_MAX_NEW_TOKENS = 256
"""The harness's own default where a task gives no `max_gen_toks`."""
_SAID = 300
"""Characters that are quoted of what went wrong."""


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task, or a group of tasks, that is ready to be asked.

    Attributes:
        name: as the harness knows it.
        fingerprint: hash of all that its result depends on besides the model and burnish's code: its settings and those
            of its groups, its documents, the files of one's own, the harness's version.
        source: the file that it comes from, or the name where there is none.
        directory: that of the task files of one's own, if there is one.
        parts: the harness's objects, to be asked together.
        manager: the harness's index that they come from.
    """

    name: str
    fingerprint: str
    source: str
    directory: str | None
    parts: tuple[Any, ...]
    manager: TaskManager


def load_tasks(tasks: Sequence[str], path: str | None = None) -> tuple[HarnessTask, ...]:
    """Find tasks, load them with their data, and build the request of each one's first document.

    Args:
        tasks: names of tasks or groups of tasks; one that is named twice counts once.
        path: a directory with task files of one's own, beside the harness's.

    Raises:
        ConfigError: a task that is unknown, that can't be loaded, that the sampler can't do, or that two of the names
            have in common.
    """
    manager = find_tasks(tasks, path)
    around = [metadata.version("lm-eval"), _files(path)]
    loaded: list[HarnessTask] = []
    taken: dict[str, str] = {}
    for name in dict.fromkeys(tasks):
        source = str(manager.task_index[name].yaml_path or name)
        _demand_members(name, manager)
        with faults(f"lm-eval can't load the task {name!r}", source, path):
            found = _load(name, manager)
            asked = [_content(part, source) for part in found["tasks"].values()]
            asked += [_settings(group.to_dict()) for group in found["groups"].values()]
        for part in found["tasks"]:
            if part in taken:
                raise ConfigError(
                    f"the task {part!r} is asked for twice: by {taken[part]!r} and by {name!r}",
                    where="lm_eval",
                    fix="name one of them",
                )
            taken[part] = name
        parts = [found["groups"][name]] if name in found["groups"] else found["tasks"].values()
        loaded.append(HarnessTask(name, digest([name, *around, asked]), source, path, tuple(parts), manager))
    return tuple(loaded)


def find_tasks(tasks: Sequence[str], path: str | None = None) -> TaskManager:
    """The harness's index of tasks, which holds all of these.

    Raises:
        ConfigError: it does not.
    """
    with faults("lm-eval can't index its task files", path or "those of lm-eval", path):
        manager = _manager(tuple(tasks), path, _files(path))
    if missing := [task for task in tasks if task not in manager.all_tasks]:
        unread, place = _first_unread(path)
        raise ConfigError(
            f"lm-eval knows no task {', '.join(map(repr, missing))}{unread or suggest(missing[0], manager.all_tasks)}",
            where=f"lm_eval{place}",
            fix="mend that file"
            if unread
            else "give the name that stands in the task's .yaml file (`task:`), and its directory as lm_eval_path",
        )
    return manager


@contextmanager
def faults(what: str, source: str, path: str | None) -> Iterator[None]:
    """Turn whatever a task raises into an error that says where; burnish's own errors pass, and so does what fails in
    burnish's own code while the model is asked: that is no fault of the task.

    Args:
        what: what can't be done.
        source: the task's file.
        path: the directory with task files of one's own: the last line in it that was reached is named.

    Raises:
        ConfigError: the task raised something.
    """
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
        if any(code.co_qualname.startswith("BurnishLM.") for code, _ in frames):
            raise
        place = source
        if path is not None:
            root = Path(path).resolve()
            own = [f"{code.co_filename}:{line}" for code, line in frames if root in Path(code.co_filename).parents]
            place = own[-1] if own else place
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}"
        raise ConfigError(
            f"{what}: {_said(error)}",
            where=f"lm_eval, {place}",
            fix="mend that file or the data that it names, or leave the task out",
        ) from error


def generation_params(settings: Mapping[str, Any], stop_ids: Sequence[int], where: str) -> SamplingParams:
    """What a task's generation_kwargs are for the sampler.

    Args:
        settings: the generation_kwargs.
        stop_ids: the tokens that end an answer.
        where: what errors call the task.

    Raises:
        ConfigError: a setting that the sampler does not know, or that has no sense.
    """
    known = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
    if unknown := set(settings) - known:
        raise ConfigError(
            f"the task's generation_kwargs have {', '.join(sorted(unknown))}, which the sampler does not know",
            where=where,
            fix=f"known are {', '.join(sorted(known))}",
        )
    try:
        until_of(settings)
        sampled = bool(settings.get("do_sample", float(settings.get("temperature") or 0.0) > 0.0))
        return SamplingParams(
            max_new_tokens=int(settings.get("max_gen_toks", _MAX_NEW_TOKENS)),
            temperature=float(settings.get("temperature") or 1.0) if sampled else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            top_k=int(settings.get("top_k", 0)),
            seed=0,
            stop_ids=tuple(stop_ids),
        )
    except (TypeError, ValueError, ConfigError) as error:
        raise ConfigError(
            f"the task's generation_kwargs can't be used: {error.what if isinstance(error, ConfigError) else error}",
            where=where,
            fix="`until` is a text or a list of texts, the others are numbers",
        ) from error


def until_of(settings: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer, by the task's generation_kwargs.

    Raises:
        TypeError: they are no texts.
    """
    until = settings.get("until") or []
    texts = [until] if isinstance(until, str) else list(until)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`until` is {until!r}")
    return [text for text in texts if text]


def _files(path: str | None) -> str | None:
    return None if path is None else tree_fingerprint(Path(path))


@functools.cache
def _manager(tasks: tuple[str, ...], path: str | None, files: str | None) -> TaskManager:
    """An index of task files: of one's own alone if they hold all that is asked, for the harness's thousands take long.
    `files` is their hash: in a notebook a file that was mended is read again."""
    if path is not None:
        own = TaskManager(include_path=path, include_defaults=False)
        if next(_lacking(own, tasks), None) is None:
            return own
    return TaskManager(include_path=path)


def _lacking(manager: TaskManager, names: Iterable[Any]) -> Iterator[tuple[str | None, Any]]:
    """Of these tasks and groups, and of all that the groups name, what an index does not have, each with the group that
    names it. The harness takes these for defined where they are named, even where a larger index has them."""
    waiting: list[tuple[str | None, Any]] = [(None, name) for name in names]
    seen: set[str] = set()
    while waiting:
        group, item = waiting.pop()
        name = item.get("group", item.get("task")) if isinstance(item, Mapping) else item
        if name not in manager.task_index:
            yield group, item
        elif name in manager.all_groups and name not in seen:
            seen.add(name)
            members = manager.task_index[name].cfg.get("task")
            waiting += [(name, member) for member in members] if isinstance(members, list) else []


def _demand_members(name: str, manager: TaskManager) -> None:
    """Refuse a group with a member that is a mere name and nobody knows: the harness's own error is a TypeError."""
    for group, member in _lacking(manager, [name]):
        if isinstance(member, str):
            raise ConfigError(
                f"the group {group!r} names {member!r}, which lm-eval does not know"
                f"{suggest(member, manager.all_tasks)}",
                where=f"lm_eval, {manager.task_index[group].yaml_path or group}",
                fix="give the name that stands in a task's .yaml file (`task:`), or take it out of the group",
            )


def _first_unread(path: str | None) -> tuple[str, str]:
    """Of task files that the harness skips because it can't read them the first: why, and where; empty if none is."""
    for file in sorted(Path(path).rglob("*.yaml")) if path is not None else []:
        try:
            load_yaml(file, resolve_func=False)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            return f"; {file.name} is no YAML: {error.problem}", f", {file}:{mark.line + 1}" if mark else f", {file}"
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            return f"; {file.name} can't be read: {_said(error)}", f", {file}"
    return "", ""


def _load(name: str, manager: TaskManager) -> Mapping[str, Any]:
    """The harness's tasks and groups, made with its seeds (some shuffle their choices), and tried on one document."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    found: Mapping[str, Any] = manager.load([name])
    if not found["tasks"]:
        raise ValueError("it has no tasks")
    for part in found["tasks"].values():
        part.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        part.build_all_requests(limit=1)
    return found


def _content(task: Any, source: str) -> str:
    """Hash of what one of the harness's tasks asks: its settings, its documents and those that it takes examples from.

    Raises:
        ConfigError: burnish can't ask that.
    """
    what = None
    if getattr(task, "MULTIMODAL", False):
        what = "asks with images or sound, and burnish only with text"
    elif getattr(task, "UNSAFE_CODE", False):
        what = "runs what the model writes as code, which burnish does not"
    if what is not None:
        raise ConfigError(f"the task {task.task_name!r} {what}", where=f"lm_eval, {source}", fix="leave the task out")
    if task.OUTPUT_TYPE == "generate_until":
        generation_params(task.get_config("generation_kwargs") or {}, (), f"lm_eval, {source}")
    # As they are: lm-eval's own text for a function without source, such as a partial one, holds its address.
    settings = _settings(task.config.to_dict(keep_callable=True))
    examples = list(task.fewshot_docs()) if task.get_config("num_fewshot") else []
    return digest(json.dumps([task.task_name, settings, list(task.eval_docs), examples], default=_plain))


def _settings(config: Mapping[str, Any]) -> str:
    """A task's or a group's settings but for `metadata`, which holds its file's place."""
    return json.dumps({key: value for key, value in config.items() if key != "metadata"}, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON does not know, so that it reads alike in the next process."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if callable(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _said(error: BaseException) -> str:
    """What went wrong, in one line: the cause of an error that only says that there was one."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    return textwrap.shorten(f"{type(error).__name__}: {error}", _SAID, placeholder=" \u2026")
