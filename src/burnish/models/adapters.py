"""Adapters on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

What we save, `peft` loads, and the other way round. The layers that an adapter covers are read from its tensors, not
from `target_modules`, so any way of naming them there is understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from burnish.errors import AdapterError
from burnish.models.config import LoRAConfig
from burnish.models.lora import (
    LoRALinear,
    add_layer,
    check_new_name,
    find_targets,
    lora_layers,
)
from burnish.models.token_rows import add_token_rows, token_rows_of

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TOKEN_ROWS = "token_adapter.trainable_tokens_delta"
HEAD = "score"
"""What transformers and PEFT call the head of a classifier with one label: a reward model's or a critic's."""
_HEAD_TENSOR = f"{_PREFIX}{HEAD}.weight"
# Fields of PEFT's config that change what an adapter computes, with the value that means "not used".
_NOT_UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, [], [HEAD]),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None, []),
    # These inits (PiSSA, OLoRA, LoftQ, CorDA) change the base's weights; on the plain base the adapter is wrong.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


def adapter_tensors(model: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names, on the CPU, contiguous."""
    tensors: dict[str, Tensor] = {}
    for path, layer in lora_layers(model, adapter):
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = layer.lora_a[adapter].detach().cpu().contiguous()
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = layer.lora_b[adapter].detach().cpu().contiguous()
    rows = token_rows_of(model, adapter)
    if rows is not None:
        tensors[f"{_PREFIX}{_embedding_path(model)}.{_TOKEN_ROWS}"] = rows[1].detach().cpu().contiguous()
    return tensors


def save_adapter(model: nn.Module, adapter: str, directory: Path, *, base: str, head: Tensor | None = None) -> None:
    """Write an adapter into an existing directory.

    Args:
        model: the model that holds it.
        adapter: its name in the model; the files do not mention it.
        directory: where the two files go.
        base: what `base_model_name_or_path` will say: a path, hub id or catalog name.
        head: (1, D) a scalar head, which makes the adapter a reward model's or a critic's.

    Raises:
        AdapterError: when the model holds no such adapter.
    """
    from safetensors.torch import save_file

    layers = list(lora_layers(model, adapter))
    if not layers:
        raise AdapterError(f"the model holds no adapter named {adapter!r}")
    config = layers[0][1].configs[adapter]
    rows = token_rows_of(model, adapter)
    paths = [path for path, _ in layers]
    names = sorted({path.rsplit(".", 1)[-1] for path in paths})
    text = model.config.get_text_config()  # type: ignore[union-attr, operator]
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "target_modules": names if find_targets(model, names) == paths else paths,
        "fan_in_fan_out": layers[0][1].transposed,
        "bias": "none",
        "modules_to_save": None if head is None else [HEAD],
        "trainable_token_indices": None if rows is None else rows[0].tolist(),
        **_patterns(layers, adapter, config),
    }
    tensors = adapter_tensors(model, adapter)
    if head is not None:
        tensors[_HEAD_TENSOR] = head.detach().cpu().contiguous()
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    fingerprint = {"vocab_size": text.vocab_size, "hidden_size": text.hidden_size, "model_type": text.model_type}
    (directory / "burnish_adapter.json").write_text(
        json.dumps({"base": fingerprint, "trainable_tokens": list(config.trainable_tokens)}, indent=2) + "\n",
        encoding="utf-8",
    )


def _patterns(layers: list[tuple[str, LoRALinear]], adapter: str, common: LoRAConfig) -> dict[str, Any]:
    """PEFT's rank_pattern and alpha_pattern for layers that differ from the first one."""
    configs = {path: layer.configs[adapter] for path, layer in layers}
    return {
        "rank_pattern": {path: c.rank for path, c in configs.items() if c.rank != common.rank},
        "alpha_pattern": {path: c.alpha for path, c in configs.items() if c.alpha != common.alpha},
    }


def load_adapter(model: nn.Module, directory: Path, adapter: str) -> None:
    """Read an adapter of a language model, in PEFT's format, into a model, under the name `adapter`.

    Raises:
        AdapterError: when the files are missing or unreadable, the adapter uses a feature that is not understood, it
            does not fit the model, or it is a reward model's; each message says which. The model is then as it was.
    """
    if _load(model, directory, adapter, with_head=False) is not None:
        raise AssertionError("an adapter with a head is refused before it is loaded")


def load_adapter_with_head(model: nn.Module, directory: Path, adapter: str) -> Tensor:
    """Read a reward model's or a critic's adapter, in PEFT's format, into a model; the same errors as `load_adapter`.

    Returns:
        (1, D) the scalar head, in float32 or wider.
    """
    head = _load(model, directory, adapter, with_head=True)
    assert head is not None
    return head


def _load(model: nn.Module, directory: Path, adapter: str, *, with_head: bool) -> Tensor | None:
    check_new_name(model, adapter)
    values, tensors = _read(directory)
    head = tensors.pop(_HEAD_TENSOR, None)
    if head is None and with_head:
        raise AdapterError(
            "the adapter has no scalar head, so it gives no scores",
            where=str(directory),
            fix="use what the stage reward left (burnish reward)",
        )
    if head is not None and not with_head:
        raise AdapterError(
            "this is a reward model: it gives scores and writes no text",
            where=str(directory),
            fix="use an adapter of sft, dpo or ppo here; burnish score asks a reward model",
        )
    pairs, rows = _sort_tensors(tensors, directory)
    _check_fit(model, pairs, rows, values, directory)
    if head is not None and tuple(head.shape) != (1, model.get_input_embeddings().weight.shape[1]):  # type: ignore[operator]
        raise _misfit(f"its head is {tuple(head.shape)}", directory)
    for path, (a, b) in pairs.items():
        add_layer(model, path, adapter, _layer_config(values, path, a.shape[0]), a, b)
    if rows is not None:
        add_token_rows(model, adapter, values["trainable_token_indices"], rows)
    return head


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load_file

    if not (directory / WEIGHTS_FILE).is_file() and (directory / "adapter_model.bin").is_file():
        raise AdapterError(
            "the adapter's weights are a pickle, which can run code when it is loaded",
            where=str(directory / "adapter_model.bin"),
            fix="load it with peft where you trust it and save it again: save_pretrained writes safetensors",
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise AdapterError(f"not a complete adapter: {name} is missing", where=str(directory))
    try:
        values = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS_FILE)
    except Exception as error:
        raise AdapterError(f"can't read the adapter: {error}", where=str(directory)) from None
    indices = values.get("trainable_token_indices")
    if isinstance(indices, dict):  # PEFT also writes them by layer; only the embedding's can be meant here
        if len(indices) > 1:
            raise AdapterError("trainable tokens in more than one layer are not read", where=str(directory))
        values["trainable_token_indices"] = next(iter(indices.values()), None)
    if values.get("peft_type") != "LORA":
        raise AdapterError(f"a {values.get('peft_type')} adapter; burnish reads LORA", where=str(directory))
    for field, unused in _NOT_UNDERSTOOD.items():
        if values.get(field) not in unused:
            raise AdapterError(
                f"the adapter uses {field}={values[field]!r}, which burnish does not read",
                where=str(directory / CONFIG_FILE),
                fix="merge it with peft (merge_and_unload) and use the merged model",
            )
    return values, tensors


def _sort_tensors(
    tensors: Mapping[str, Tensor], directory: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor | None]:
    """Tensors as layer path -> (A, B), and the token rows if there are any."""
    halves: dict[str, dict[str, Tensor]] = {}
    rows = None
    for key, tensor in tensors.items():
        match = re.fullmatch(re.escape(_PREFIX) + r"(.+)\.lora_([AB])\.weight", key)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif key.endswith(_TOKEN_ROWS):
            rows = tensor
        else:
            raise AdapterError(f"unexpected tensor {key!r} in the adapter", where=str(directory / WEIGHTS_FILE))
    for path, half in halves.items():
        if half.keys() != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            raise AdapterError(f"the matrices of {path!r} do not belong together", where=str(directory / WEIGHTS_FILE))
    return {path: (half["A"], half["B"]) for path, half in halves.items()}, rows


def _check_fit(
    model: nn.Module,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    rows: Tensor | None,
    values: Mapping[str, Any],
    directory: Path,
) -> None:
    """Refuse, before anything is changed, an adapter that was made for another model."""
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    note = directory / "burnish_adapter.json"
    if note.is_file():
        made_for = json.loads(note.read_text(encoding="utf-8"))["base"]
        text = model.config.get_text_config()  # type: ignore[union-attr, operator]
        for field, expected in made_for.items():
            if getattr(text, field) != expected:
                raise _misfit(f"its base has {field} {expected}, this model has {getattr(text, field)}", directory)
    known = dict(model.named_modules())
    for path, (a, b) in pairs.items():
        layer = known.get(path)
        if layer is None:
            raise _misfit(f"the model has no layer {path!r}", directory)
        weight = layer.weight if isinstance(layer, nn.Linear | LoRALinear) else getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise _misfit(f"{path!r} is no linear layer", directory)
        shape = tuple(weight.shape) if isinstance(layer, nn.Linear | LoRALinear) else tuple(weight.T.shape)
        if shape != (b.shape[0], a.shape[1]):
            raise _misfit(f"{path!r} is {shape} in the model, {(b.shape[0], a.shape[1])} in the adapter", directory)
    if rows is not None:
        ids = values.get("trainable_token_indices")
        if not isinstance(ids, list) or len(ids) != rows.shape[0]:
            raise _misfit("trainable_token_indices does not match the saved rows", directory)
        if rows.shape[1] != embedding.shape[1] or max(ids) >= embedding.shape[0]:
            raise _misfit(f"its token rows do not fit an embedding of {tuple(embedding.shape)}", directory)


def _misfit(what: str, directory: Path) -> AdapterError:
    return AdapterError(
        f"the adapter does not fit this model: {what}",
        where=str(directory),
        fix="use the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
    )


def _layer_config(values: Mapping[str, Any], path: str, rank: int) -> LoRAConfig:
    alpha = float(_pattern(values.get("alpha_pattern") or {}, path, values.get("lora_alpha", 8)))
    return LoRAConfig(
        rank=rank,
        alpha=alpha,
        dropout=float(values.get("lora_dropout") or 0.0),
        rank_stabilised=bool(values.get("use_rslora")),
        targets=(path,),
    )


def _pattern(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """PEFT's rule: a pattern, maybe a regular expression, holds for a path that is it or ends in `.` and it."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _embedding_path(model: nn.Module) -> str:
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if module is embedding)


def has_head(directory: Path) -> bool:
    """Whether an adapter's files hold a scalar head: a reward model's or a critic's. No, where they can't be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / WEIGHTS_FILE, framework="pt") as file:
            return _HEAD_TENSOR in file.keys()  # noqa: SIM118 -- a safetensors file is no mapping
    except (OSError, SafetensorError):
        return False


def read_base_name(directory: Path) -> str | None:
    """`base_model_name_or_path` of an adapter directory, or none."""
    values = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    name = values.get("base_model_name_or_path")
    return str(name) if name else None
