"""From what the user writes to a model in memory.

`resolve_model` says what a name means (a model of the catalog, a directory, an adapter, a hub id) without loading
anything; `load_model` loads it: decoder-only causal language models from safetensors, never with code from the
model's own directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from burnish.errors import ModelError, suggest
from burnish.models.catalog import CATALOG, materialise
from burnish.models.directory import (
    ADAPTER_CONFIG,
    CONFIG,
    check_weights,
    explain_path,
    first_line,
    is_adapter,
    is_classifier,
    read_config,
    read_weights,
)
from burnish.models.gguf import Echo
from burnish.models.hub import fetch_from_hub

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SourceKind = Literal["catalog", "directory", "adapter", "hub"]

NO_CONTEXT_LIMIT = 1_000_000_000
"""The context length of a model that states none (ALiBi, recurrent layers)."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a model's name means.

    Attributes:
        kind: catalog, directory, adapter or hub.
        id: the catalog's name, the directory as it was written, or the hub id.
        path: the directory, for a directory and an adapter.
        revision: of a hub model, written `owner/name@revision`.
        base: what an adapter stands on.
    """

    kind: SourceKind
    id: str
    path: Path | None = None
    revision: str | None = None
    base: ModelSource | None = None

    @property
    def adapter(self) -> Path | None:
        """The adapter's directory, or none for a plain model."""
        return self.path if self.kind == "adapter" else None

    @property
    def plain(self) -> ModelSource:
        """The plain model: the base of an adapter, else the source itself."""
        return self.base if self.base is not None else self

    def __str__(self) -> str:
        return f"{self.id} on {self.base}" if self.base is not None else self.id


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. Of an adapter's source this is the base model, with the adapter's tokenizer if it has one.

    Attributes:
        model: in eval mode, on its device, in the dtype that was asked for.
        tokenizer: has an EOS token; may lack a pad token and a chat template.
        source: what was loaded; `source.adapter` is the adapter's directory, which is not applied here.
        directory: where the plain model's files lie.
        context_length: the most tokens that the model can hold, prompt and response together.
        attn_implementation: what the model uses: eager for families that support nothing else.
        notices: what the user should know, as whole sentences; empty for nearly all models.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    directory: Path
    context_length: int
    attn_implementation: str
    notices: tuple[str, ...] = ()


def resolve_model(model: str) -> ModelSource:
    """Say what a model's name means; nothing is loaded, converted or downloaded.

    A name of the catalog comes first, then an existing path, then a hub id (`owner/name` or `owner/name@revision`).

    Raises:
        ModelError: none of these; the message has the closest name of the catalog.
    """
    name = model.strip()
    if name in CATALOG:
        return ModelSource("catalog", name)
    if name.startswith("openai:"):
        raise ModelError(
            f"{name} is an endpoint; burnish loads models and does not ask endpoints yet",
            fix="give a catalog name, a directory or a hub id",
        )
    path = Path(name).expanduser()
    if name and path.exists():
        return _resolve_directory(path, name)
    written_as_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if not written_as_path and _HUB_ID.fullmatch(name):
        repo, _, revision = name.partition("@")
        return ModelSource("hub", repo, revision=revision or None)
    what = f"no such directory: {name}" if written_as_path else f"unknown model {name!r}{suggest(name, list(CATALOG))}"
    raise ModelError(
        what,
        fix=f"give a model of the catalog ({', '.join(CATALOG)}), a directory, or a hub id as owner/name, for example "
        "openai-community/gpt2",
    )


def model_directory(source: ModelSource, *, echo: Echo = print) -> Path:
    """The directory of a plain model's files: converted for the catalog, downloaded for the hub, if need be.

    Raises:
        ModelError: see `materialise` and `fetch_from_hub`.
    """
    plain = source.plain
    if plain.kind == "catalog":
        return materialise(plain.id, echo=echo)
    if plain.kind == "hub":
        return fetch_from_hub(plain.id, plain.revision)
    if plain.path is None:
        raise ModelError(f"the source {plain} has no directory")
    return plain.path


def load_model(
    model: str | ModelSource,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    attn_implementation: str = "sdpa",
    echo: Echo = print,
    classifier: bool = False,
) -> LoadedModel:
    """Load a decoder-only causal language model and its tokenizer.

    Args:
        model: a name (see `resolve_model`) or its source.
        dtype: of the weights.
        device: where they go.
        attn_implementation: a transformers name; families without sdpa get eager.
        echo: takes lines on a conversion or download.
        classifier: the directory holds a reward model, whose output projection nobody will use.

    Raises:
        ModelError: the model can't be found, read or used; the message says what to do.
    """
    source, directory = _located(resolve_model(model) if isinstance(model, str) else model, echo)
    config = read_config(directory)
    check_weights(directory)
    tokenizer = _load_tokenizer(_tokenizer_directory(source, directory))
    attention = _supported_attention(config, attn_implementation)
    if not classifier and is_classifier(config):
        raise ModelError(
            "this is a classifier or a reward model: it gives scores and writes no text",
            where=str(directory),
            fix="use the language model itself; burnish score asks a reward model",
        )
    loaded, notices = _load_weights(directory, config, dtype, attention, classifier=classifier)
    notices += _check_vocabulary(tokenizer, loaded, directory)
    return LoadedModel(
        model=_to_device(loaded, device),
        tokenizer=tokenizer,
        source=source,
        directory=directory,
        context_length=context_length(config, tokenizer),
        attn_implementation=attention,
        notices=tuple(notices),
    )


def load_tokenizer(source: ModelSource, *, echo: Echo = print) -> Any:
    """The tokenizer that `load_model` would give, without the weights.

    Raises:
        ModelError: as there.
    """
    source, directory = _located(source, echo)
    return _load_tokenizer(_tokenizer_directory(source, directory))


def _located(source: ModelSource, echo: Echo) -> tuple[ModelSource, Path]:
    """The source, of an adapter from the hub with its base, and the directory of the plain model's files."""
    directory = model_directory(source, echo=echo)
    if source.kind == "hub" and is_adapter(directory):
        source = _resolve_adapter(directory, source.id)
        directory = model_directory(source, echo=echo)
    return source, directory


def context_length(config: Any, tokenizer: Any) -> int:
    """The most tokens that the model can hold: its config's word, else its tokenizer's, else `NO_CONTEXT_LIMIT`."""
    for name in ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return min(int(tokenizer.model_max_length), NO_CONTEXT_LIMIT)


def _resolve_directory(path: Path, name: str) -> ModelSource:
    if path.is_dir() and is_adapter(path):
        return _resolve_adapter(path, name)
    if path.is_dir() and (path / CONFIG).is_file():
        return ModelSource("directory", name, path=path)
    raise explain_path(path)


def _resolve_adapter(path: Path, name: str) -> ModelSource:
    from burnish.models.adapters import read_base_name

    where = f"{path / ADAPTER_CONFIG}: base_model_name_or_path"
    try:
        base = read_base_name(path)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"can't read the adapter's configuration: {error}", where=where) from None
    if base is None:
        raise ModelError("the adapter does not say which base model it stands on", where=where, fix="write it there")
    if not Path(base).is_absolute() and (path / base).is_dir():  # written relative to the adapter
        base = str(path / base)
    try:
        resolved = resolve_model(base)
    except ModelError as error:
        raise ModelError(
            f"the adapter's base model can't be found: {error.what}",
            where=where,
            fix="write there where the base model is now: a model of the catalog, a directory, or a hub id",
        ) from None
    if resolved.kind == "adapter":
        raise ModelError(
            "the adapter stands on another adapter, not on a plain model",
            where=where,
            fix="merge that adapter into its base first, and name the merged model",
        )
    return ModelSource("adapter", name, path=path, base=resolved)


def _tokenizer_directory(source: ModelSource, directory: Path) -> Path:
    """The adapter's own tokenizer, with its chat template, goes before the base's."""
    adapter = source.adapter
    return adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else directory


def _load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the tokenizer can't be loaded: {first_line(error)}",
            where=str(directory),
            fix="the directory needs tokenizer.json (or tokenizer.model) and tokenizer_config.json of the model",
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no EOS token, so no model could learn to stop",
            where=str(directory / "tokenizer_config.json"),
            fix='name there, as "eos_token", the token that ends a text',
        )
    return tokenizer


def _supported_attention(config: Any, wanted: str) -> str:
    """`wanted`, or eager where the family's code can do nothing else (a soft cap on the scores, for example)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if wanted != "sdpa":
        return wanted
    return wanted if getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_supports_sdpa", False) else "eager"


def _load_weights(
    directory: Path, config: Any, dtype: torch.dtype, attention: str, *, classifier: bool
) -> tuple[PreTrainedModel, list[str]]:
    try:
        with _no_progress_bars():
            model, info = read_weights(directory, dtype, config=config, attn_implementation=attention)
    except Exception as error:
        raise ModelError(
            f"the weights can't be loaded: {first_line(error)}",
            where=str(directory),
            fix="the file may be damaged or belong to another config.json: copy or download it again",
        ) from error
    projection, head = _output_names(model) if classifier else set(), {"score.weight"} if classifier else set()
    if missing := sorted(set(info["missing_keys"]) - projection):
        raise ModelError(
            f"the weights lack {len(missing)} tensors that the model needs, the first is {missing[0]}",
            where=str(directory),
            fix="a classifier or a bare encoder has no output projection; use the causal language model itself",
        )
    unexpected = sorted(set(info["unexpected_keys"]) - head)
    if not unexpected:
        return model, []
    return model, [f"{len(unexpected)} tensors of the weights are not used, the first is {unexpected[0]}."]


def _output_names(model: Any) -> set[str]:
    """Names of the output projection's tensors."""
    output = model.get_output_embeddings()
    prefix = next(name for name, module in model.named_modules() if module is output)
    return {f"{prefix}.{name}" for name, _ in output.named_parameters()}


def _to_device(model: Any, device: torch.device | str) -> Any:
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the model can't be moved to {device}: {first_line(error)}",
            fix="use a device that this machine has and whose memory is large enough, or cpu",
        ) from error


def _check_vocabulary(tokenizer: Any, model: Any, directory: Path) -> list[str]:
    """Every id that the tokenizer can give needs an embedding row; added tokens without one only earn a notice."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    added = tokenizer.get_added_vocab()
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    needed = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    if any(token not in added or i in needed for token, i in beyond.items()):
        raise ModelError(
            f"the tokenizer gives ids up to {max(beyond.values())}, the model has {rows} embedding rows",
            where=str(directory),
            fix="use the tokenizer that the model was trained with",
        )
    return [f"{len(beyond)} added tokens of the tokenizer have no embedding row."] if beyond else []


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a second or two: a bar for it would only stay on the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
