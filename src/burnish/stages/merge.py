"""Merging as a stage: an adapter goes into the weights of its base, and the result loads everywhere else.

Of a language model's adapter that is a causal language model, of a reward model's a classifier with one label.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from burnish.data.chat import encode_prompt, resolve_template, stop_ids
from burnish.data.examples import Message
from burnish.errors import AdapterError, ConfigError, OutputDirError
from burnish.files import atomic_directory, write_json
from burnish.models.adapters import has_head, load_adapter, load_adapter_with_head
from burnish.models.export import merge, write_model
from burnish.models.heads import Scorer
from burnish.models.loading import LoadedModel, load_model, resolve_model
from burnish.models.placement import DTYPES
from burnish.models.reward import is_reward_model, reward_members, write_reward_model
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
        error: root mean square of the difference in `compared`, merged against adapted, over that of the adapted.
        effect: the same, adapted against base: what the adapter changes.
        tolerance: the most that `error` may be in this dtype.
        stop_ids: the tokens at which the model's `generation_config.json` stops; those that end a response, where the
            model gives scores.
        compared: what was compared: logits, or a reward model's scores.
    """

    out: Path
    adapter: str
    base: str
    dtype: str
    error: float
    effect: float
    tolerance: float
    stop_ids: tuple[int, ...]
    compared: Literal["logits", "scores"] = "logits"


def merge_model(
    model: str, out: Path, *, dtype: Literal["bfloat16", "float32"] = "bfloat16", console: Console | None = None
) -> MergeResult:
    """Merge an adapter into its base and write a plain Hugging Face directory (safetensors, tokenizer, template).

    The merge is verified before anything is written: on a few texts the merged logits (a reward model's scores) must
    equal the adapter's within the dtype's rounding, and differ from the base's.

    Args:
        model: an adapter's directory, a run's directory, or a hub id of an adapter; of a reward model with several
            members the directory of one of them.
        out: where the merged model goes; must not exist, or be empty.
        dtype: of the merged weights.
        console: where the evidence is printed; standard error if not given.

    Raises:
        AdapterError: when `model` is no adapter, an ensemble of them, does not fit its base, or the merge can't be
            verified.
        ConfigError: when there is no such dtype.
        OutputDirError: when `out` holds something.
    """
    console = console or Console(stderr=True)
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", where="dtype", fix=f"use one of: {', '.join(DTYPES)}")
    _check_out(out)
    _refuse_ensemble(Path(model_of(model)))
    source = resolve_model(model_of(model))
    if source.kind in ("catalog", "directory"):
        raise _no_adapter(model)
    loaded = load_model(source, dtype=DTYPES[dtype], echo=lambda line: console.print(line, highlight=False))
    if (adapter := loaded.source.adapter) is None:
        raise _no_adapter(model)
    head = _load(loaded, adapter)
    backbone = Backbone(loaded.model)
    check = merge(backbone, _ADAPTER, _probe_ids(loaded), head=head)
    result = MergeResult(
        out=out,
        adapter=loaded.source.id,
        base=base_name(loaded.source),
        dtype=dtype,
        error=check.error,
        effect=check.effect,
        tolerance=check.tolerance,
        stop_ids=_stop_ids(loaded.tokenizer),
        compared="logits" if head is None else "scores",
    )
    with atomic_directory(out, replace=True) as temporary:
        if head is None:
            write_model(loaded.model, loaded.tokenizer, temporary, stop_ids=list(result.stop_ids))
        else:
            _write_scorer(Scorer(backbone.role(), nn.Parameter(head, requires_grad=False)), loaded, temporary, result)
        write_json(temporary / EVIDENCE, {**asdict(result), "out": str(out)})
    print_evidence(result, console)
    return result


def _load(loaded: LoadedModel, adapter: Path) -> Tensor | None:
    """Put the adapter into the model; its scalar head, if it has one."""
    if has_head(adapter):
        return load_adapter_with_head(loaded.model, adapter, _ADAPTER).float()
    load_adapter(loaded.model, adapter, _ADAPTER)
    return None


def _write_scorer(scorer: Scorer, loaded: LoadedModel, directory: Path, result: MergeResult) -> None:
    dtype = DTYPES[result.dtype]
    write_reward_model([scorer], directory, tokenizer=loaded.tokenizer, base=result.base, dtype=dtype, holdout=False)


def print_evidence(result: MergeResult, console: Console) -> None:
    """Say in numbers that the merged model is the adapted one."""
    console.print(Text(f"merged {_short(result.adapter)} into {_short(result.base)}, {result.dtype}"))
    console.print(
        Text(
            f"verified on {result.compared}: merged differs from adapted by {result.error:.2%} (rounding; "
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


def _refuse_ensemble(directory: Path) -> None:
    """Members that share a backbone as adapters would each need a model of their own."""
    if not is_reward_model(directory):
        return
    members = reward_members(directory)
    if len(members) > 1:
        raise AdapterError(
            f"an ensemble of {len(members)} reward models does not merge into one model",
            where=str(directory),
            fix=f"merge a member: one of {', '.join(map(str, members))}",
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
