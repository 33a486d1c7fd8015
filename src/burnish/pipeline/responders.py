"""Who answers in a report: endpoints, and local models behind the cache of answers, loaded when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from burnish.errors import ConfigError
from burnish.models.config import Compute
from burnish.models.fingerprint import digest, model_fingerprint
from burnish.models.loading import ModelSource, load_tokenizer, model_directory, resolve_model
from burnish.pipeline.fingerprint import code_fingerprint
from burnish.rollout.cached import CachedResponder
from burnish.rollout.endpoint import Endpoint, EndpointSettings, is_endpoint, read_key
from burnish.rollout.remote import EndpointResponder
from burnish.rollout.responder import ModelResponder
from burnish.rollout.response_cache import ResponseCache
from burnish.rollout.speakers import Speaker, base_key, load_speakers
from burnish.stages.run import model_of

_CODE = "burnish.rollout.responder:ModelResponder"


@dataclass(frozen=True, slots=True)
class Asking:
    """How models are loaded and asked.

    Attributes:
        dtype: of local models' weights.
        device: where they are.
        batch_size: answers sampled at a time.
        endpoint: how patiently endpoints are asked.
        cache: where answers are kept.
        echo: takes notices.
        keys: name -> the environment variable with an endpoint's key, of those that have one of their own.
        compute: whether local models take fast paths.
    """

    dtype: torch.dtype
    device: torch.device
    batch_size: int
    endpoint: EndpointSettings
    cache: ResponseCache
    echo: Callable[[str], None]
    keys: Mapping[str, str] = field(default_factory=dict)
    compute: Compute = "fast"

    @property
    def manner(self) -> list[str]:
        """How local models are computed: what their answers and scores depend on beside content and code."""
        return [str(self.dtype), self.device.type, *([] if self.compute == "fast" else [self.compute])]


@dataclass(frozen=True, slots=True)
class Group:
    """Models that are in memory together, if at all: those on one base, or a single endpoint.

    Attributes:
        responders: who answers, by name.
        sources: what the report says they are.
    """

    responders: Mapping[str, CachedResponder | EndpointResponder]
    sources: Mapping[str, str]

    @property
    def local(self) -> dict[str, CachedResponder]:
        """Those that are no endpoint."""
        return {name: one for name, one in self.responders.items() if isinstance(one, CachedResponder)}


def check_keys(variables: Mapping[str, str]) -> None:
    """Refuse to begin without the keys of endpoints.

    Args:
        variables: name of an endpoint -> the environment variable with its key.

    Raises:
        ConfigError: a variable that is not set, or holds no key.
    """
    for name, variable in variables.items():
        try:
            read_key(variable)
        except ConfigError as error:
            error.where = f"api_keys.{name}"
            raise


def check_models(models: Mapping[str, str], keys: Mapping[str, str] | None = None) -> dict[str, ModelSource | Endpoint]:
    """What the models' names mean.

    Args:
        models: name -> model.
        keys: name -> the environment variable with an endpoint's key, of those that have one of their own.

    Raises:
        ModelError: no such model.
        ConfigError: what begins like an endpoint and is none.
        OutputDirError: the run of a model is not finished.
    """
    keys = keys or {}
    return {
        name: Endpoint.parse(model.strip(), where=name, key_variable=keys.get(name))
        if is_endpoint(model)
        else resolve_model(model_of(model))
        for name, model in models.items()
    }


def make_groups(models: Mapping[str, str], asking: Asking, prompts: Sequence[str] | None = None) -> list[Group]:
    """The models in groups that share memory; endpoints first, for they fail without minutes of computing.

    Args:
        models: name -> model.
        asking: how they are asked.
        prompts: what errors of endpoints call the prompts.
    """
    found = check_models(models, asking.keys)
    groups = []
    for name, source in found.items():
        if isinstance(source, Endpoint):
            remote = EndpointResponder(name, source, cache=asking.cache, settings=asking.endpoint, names=prompts)
            groups.append(Group({name: remote}, {name: str(source)}))
    by_base: dict[str, list[str]] = {}
    local = {name: source for name, source in found.items() if isinstance(source, ModelSource)}
    for name, source in local.items():
        by_base.setdefault(base_key(source), []).append(name)
    for names in by_base.values():
        located = {name: model_of(models[name]) for name in names}
        groups.append(_local_group(located, {name: local[name] for name in names}, asking))
    return groups


def _local_group(located: Mapping[str, str], sources: Mapping[str, ModelSource], asking: Asking) -> Group:
    @cache
    def speakers() -> dict[str, Speaker]:
        named = [f"{name}={model}" for name, model in located.items()]
        place, how = str(asking.device), asking.compute
        loaded = load_speakers(named, dtype=asking.dtype, device=place, compute=how, echo=asking.echo)
        return {speaker.name: speaker for speaker in loaded}

    def load(name: str) -> Callable[[], ModelResponder]:
        return lambda: ModelResponder(speakers()[name], batch_size=asking.batch_size)

    def tokenizer(source: ModelSource) -> Callable[[], Any]:
        return cache(lambda: load_tokenizer(source, echo=asking.echo))

    responders = {
        name: CachedResponder(
            name, _identity(model, sources[name], asking), load(name), asking.cache, tokenizer(sources[name])
        )
        for name, model in located.items()
    }
    return Group(responders, {name: str(source) for name, source in sources.items()})


def _identity(model: str, source: ModelSource, asking: Asking) -> str:
    """All that a local model's answer depends on but the question: content, precision, kind of device, code.

    Not the batch size: it moves a sum by a rounding, and an answer only where two tokens are as probable to that.
    Of a model on the hub the content is the commit that would be loaded now: its snapshot's directory bears that name.
    """
    plain = source.plain
    commit = model_directory(plain, echo=asking.echo).name if plain.kind == "hub" else None
    return digest([model_fingerprint(model), commit, *asking.manner, code_fingerprint(_CODE)])
