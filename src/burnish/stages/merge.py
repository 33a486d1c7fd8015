"""Merging as a stage: an adapter goes into the weights of its base, and the result loads everywhere else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from burnish.data.chat import encode_prompt, resolve_template, stop_ids
from burnish.data.examples import Message
from burnish.errors import AdapterError, ConfigError, OutputDirError
from burnish.files import atomic_directory, write_json
from burnish.models.adapters import load_adapter
from burnish.models.export import merge, write_model
from burnish.models.loading import LoadedModel, load_model, resolve_model
from burnish.models.placement import DTYPES
from burnish.models.roles import Backbone
from burnish.stages.run import model_of
from burnish.stages.setup import base_name

EVIDENCE = "burnish_merge.json"
"""In the merged model's directory: what was merged, and how close the result is."""

PROBES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Water boils at 100 degrees Celsius at sea level; on a mountain it boils sooner, because",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Zwei mal drei macht vier, widdewiddewitt und drei macht neune.",
)
_QUESTION = Message("user", "What is the capital of France?")
_ADAPTER = "merged"
_PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged model, and the evidence that it is the adapted one.

    Attributes:
        out: the model's directory.
        adapter: what was merged.
        base: into what.
        dtype: of the merged weights.
        error: root mean square of the logits' difference, merged against adapted, over that of the logits.
        effect: the same, adapted against base: what the adapter changes.
        tolerance: the most that `error` may be in this dtype.
        stop_ids: the tokens at which the model's `generation_config.json` stops.
    """

    out: Path
    adapter: str
    base: str
    dtype: str
    error: float
    effect: float
    tolerance: float
    stop_ids: tuple[int, ...]


def merge_model(
    model: str, out: Path, *, dtype: Literal["bfloat16", "float32"] = "bfloat16", console: Console | None = None
) -> MergeResult:
    """Merge an adapter into its base and write a plain Hugging Face directory (safetensors, tokenizer, template).

    The merge is verified before anything is written: on a few texts the merged logits must equal the adapter's within
    the dtype's rounding, and differ from the base's.

    Args:
        model: an adapter's directory, a run's directory, or a hub id of an adapter.
        out: where the merged model goes; must not exist, or be empty.
        dtype: of the merged weights.
        console: where the evidence is printed; standard error if not given.

    Raises:
        AdapterError: when `model` is no adapter, does not fit its base, or the merge can't be verified.
        ConfigError: when there is no such dtype.
        OutputDirError: when `out` holds something.
    """
    console = console or Console(stderr=True)
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", where="dtype", fix=f"use one of: {', '.join(DTYPES)}")
    _check_out(out)
    source = resolve_model(model_of(model))
    if source.kind in ("catalog", "directory"):
        raise _no_adapter(model)
    loaded = load_model(source, dtype=DTYPES[dtype], echo=lambda line: console.print(line, highlight=False))
    if loaded.source.adapter is None:
        raise _no_adapter(model)
    load_adapter(loaded.model, loaded.source.adapter, _ADAPTER)
    check = merge(Backbone(loaded.model), _ADAPTER, _probe_ids(loaded))
    result = MergeResult(
        out=out,
        adapter=loaded.source.id,
        base=base_name(loaded.source),
        dtype=dtype,
        error=check.error,
        effect=check.effect,
        tolerance=check.tolerance,
        stop_ids=_stop_ids(loaded.tokenizer),
    )
    with atomic_directory(out, replace=True) as temporary:
        write_model(loaded.model, loaded.tokenizer, temporary, stop_ids=list(result.stop_ids))
        write_json(temporary / EVIDENCE, {**asdict(result), "out": str(out)})
    print_evidence(result, console)
    return result


def print_evidence(result: MergeResult, console: Console) -> None:
    """Say in numbers that the merged model is the adapted one."""
    console.print(Text(f"merged {_short(result.adapter)} into {_short(result.base)}, {result.dtype}"))
    console.print(
        Text(
            f"verified on logits: merged differs from adapted by {result.error:.2%} (rounding; "
            f"{result.tolerance:.2%} allowed), adapted from base by {result.effect:.1%}"
        )
    )


def _short(name: str) -> str:
    """A path below the current directory without that, any other name as it is."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else name


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputDirError(
            "the output directory is not empty" if out.is_dir() else "the output is a file, not a directory",
            where=str(out),
            fix="choose another --out; nothing in it was touched",
        )


def _no_adapter(model: str) -> AdapterError:
    return AdapterError(
        f"nothing to merge: {model} is a plain model, not an adapter",
        fix="give the directory of a LoRA adapter; what full fine-tuning wrote needs no merging",
    )


def _probe_ids(loaded: LoadedModel) -> list[list[int]]:
    """Token ids of the probe texts, and of a question in the model's own template where it has one."""
    tokenizer: Any = loaded.tokenizer
    probes = [list(tokenizer(text)["input_ids"]) for text in PROBES]
    if tokenizer.chat_template:
        probes.append(encode_prompt(resolve_template(tokenizer, "auto"), tokenizer, [_QUESTION]))
    limit = min(_PROBE_TOKENS, loaded.context_length)
    return [ids[:limit] for ids in probes if len(ids) >= 2]


def _stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Where other tools must stop; an adapter from elsewhere may come without a template."""
    if tokenizer.chat_template:
        return stop_ids(resolve_template(tokenizer, "auto"), tokenizer)
    return (int(tokenizer.eos_token_id),)
