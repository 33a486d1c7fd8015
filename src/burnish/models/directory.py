"""Is this directory a model that burnish can train? Asked of the files, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import ModelError

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_LFS_POINTER = b"version https://git-lfs"
_VISION_KEYS = ("vision_config", "audio_config")
HOW_TO_CONVERT = (
    "in an environment that you would trust with the file: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained"
    "(NEW_DIR), which writes safetensors, and the same for the tokenizer; or ask the publisher for safetensors"
)


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds a PEFT adapter."""
    return (directory / ADAPTER_CONFIG).is_file()


def read_config(directory: Path) -> Any:
    """The transformers configuration of a decoder-only causal language model.

    Raises:
        ModelError: not a model directory; a config that can't be read; an architecture that is unknown, needs code of
            its own, is encoder-only, encoder-decoder or multi-modal; weights that are quantised.
    """
    values = _read_json(directory / CONFIG)
    _check_config_values(values, directory)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the configuration can't be used: {first_line(error)}",
            where=str(directory / CONFIG),
            fix="check the file against the model's publisher",
        ) from error


def is_classifier(config: Any) -> bool:
    """Whether the configuration is a sequence classifier's, as a reward model's is."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def read_weights(directory: Path, dtype: torch.dtype, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The causal language model of a directory, and transformers' loading report (`missing_keys`, ...)."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    options |= {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    model, info = auto.from_pretrained(str(directory), dtype=dtype, output_loading_info=True, **options)
    return model, info


def check_weights(directory: Path) -> None:
    """See that the directory has its weights, as safetensors, all of them.

    Raises:
        ModelError: only pickle files, a shard missing, a Git LFS pointer in place of the file, or no weights at all.
    """
    for name in _weight_files(directory):
        path = directory / name
        if not path.is_file():
            raise ModelError(
                "a part of the weights is missing",
                where=str(path),
                fix=f"copy or download the directory again; {INDEX} names all parts",
            )
        with path.open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ModelError(
                    "the file is a Git LFS pointer, not the weights", where=str(path), fix="run `git lfs pull` there"
                )


def refuse_pickles(names: Iterable[str], where: str) -> None:
    """Raise a ModelError when `names` has weights as pickles (and the caller found no safetensors)."""
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES) and name != "training_args.bin")
    if pickles:
        raise ModelError(
            f"the weights are there only as a pickle ({pickles[0]}), which can run any code when it is opened: "
            "burnish reads safetensors only",
            where=where,
            fix=HOW_TO_CONVERT,
        )


def explain_path(path: Path) -> ModelError:
    """The error for a path that exists and is no model directory: what it is, and what was probably meant."""
    if path.is_file():
        if path.name.endswith(PICKLE_SUFFIXES):
            what, fix = (
                "a pickle file can run any code when it is opened: burnish reads safetensors only",
                HOW_TO_CONVERT,
            )
        elif path.suffix == ".gguf":
            what = "a GGUF file holds quantised weights for inference; burnish trains on a model directory"
            fix = "use the model's original directory or hub id"
        else:
            what, fix = "a model is a directory, this is a file", f"give the directory: {path.parent}"
        return ModelError(what, where=str(path), fix=fix)
    inside = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_model(child)]
    hint = f"did you mean {inside[0]}?" if inside else "give a directory with a config.json and safetensors weights"
    return ModelError(f"not a model directory: it has no {CONFIG} and no {ADAPTER_CONFIG}", where=str(path), fix=hint)


def _is_model(directory: Path) -> bool:
    return (directory / CONFIG).is_file() or is_adapter(directory)


def _weight_files(directory: Path) -> list[str]:
    if (directory / INDEX).is_file():
        parts = _read_json(directory / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise ModelError("the index of the weights has no weight_map", where=str(directory / INDEX))
        return sorted(set(parts.values()))
    if (directory / WEIGHTS).is_file():
        return [WEIGHTS]
    refuse_pickles((path.name for path in directory.iterdir()), str(directory))
    raise ModelError(
        f"the directory has no weights: neither {WEIGHTS} nor {INDEX}",
        where=str(directory),
        fix="a run that was cut off may have left it so; give a directory that a stage finished",
    )


def _check_config_values(values: dict[str, Any], directory: Path) -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    where = str(directory / CONFIG)
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise ModelError("the configuration names no model_type", where=where, fix="is this a transformers model?")
    if kind not in CONFIG_MAPPING:
        if "auto_map" in values:
            what = f"the model ({kind}) needs program code from its directory or repository, which burnish never runs"
            fix = "use a model whose architecture transformers has built in"
        else:
            what, fix = f"transformers does not know the architecture {kind!r}", "use a model that it knows"
        raise ModelError(what, where=where, fix=fix)
    for key in _VISION_KEYS:
        if values.get(key):
            raise ModelError(
                f"a multi-modal model ({kind}, with a {key}); burnish trains text-only decoders",
                where=where,
                fix="use the text-only model of the family, or save its language model alone",
            )
    wanted = "burnish needs a decoder-only causal language model, such as Llama, Qwen, Gemma, Mistral or GPT-2"
    if values.get("is_encoder_decoder"):
        raise ModelError(f"{kind} is an encoder-decoder model", where=where, fix=wanted)
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not values.get("is_decoder"):
        raise ModelError(
            f"{kind} is an encoder-only model: it fills in blanks, it can't continue a text", where=where, fix=wanted
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"{kind} is not a language model that continues a text", where=where, fix=wanted)
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise ModelError(
            f"the weights are quantised ({method}); burnish trains on plain bf16, fp16 or fp32 weights",
            where=where,
            fix="use the model that it was quantised from",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise explain_path(path.parent) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"can't read the file: {error}", where=str(path), fix="copy or download it again") from None
    if not isinstance(values, dict):
        raise ModelError("the file is not a JSON object", where=str(path), fix="copy or download it again")
    return values


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
