"""LoRA (Hu et al. 2021, arXiv:2106.09685): y = W x + (alpha / r) B A x, with W frozen, A random, B zero.

`inject` replaces linear layers by `LoRALinear`, which holds any number of named adapters on one frozen weight. Which
of them a forward pass uses, if any, is the route's affair (`routing.py`).

Legend: B rows, T tokens, I and O the layer's input and output width, r the rank.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.errors import AdapterError, ModelError, suggest
from burnish.models.config import ALL_LAYERS, ALL_LINEAR, LoRAConfig
from burnish.models.layers import trained_paths
from burnish.models.lowrank import Span, lora_linear, plain_lora_linear
from burnish.models.routing import Route, current_route
from burnish.models.token_rows import (
    TokenRowsEmbedding,
    add_token_rows,
    replace_module,
    share_token_rows,
    token_rows,
    token_rows_of,
)
from burnish.models.turned import turned_linear


class LoRALinear(nn.Module):
    """A frozen linear layer (`nn.Linear`, or GPT-2's transposed `Conv1D`) with named adapters."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.transposed = not isinstance(base, nn.Linear)
        self.lora_a = nn.ParameterDict()
        self.lora_b = nn.ParameterDict()
        self.configs: dict[str, LoRAConfig] = {}

    @property
    def weight(self) -> Tensor:
        """(O, I) the frozen weight, as a view."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """(O,) the frozen bias, if any."""
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias

    def add(self, adapter: str, config: LoRAConfig, generator: torch.Generator) -> None:
        """Add an adapter: A drawn from `generator`, B zero, so that it changes nothing yet."""
        out_width, in_width = self.weight.shape
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        a = torch.empty(config.rank, in_width, dtype=dtype)
        if config.init == "kaiming":
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        else:
            nn.init.normal_(a, std=1.0 / config.rank, generator=generator)
        self.lora_a[adapter] = nn.Parameter(a.to(self.weight.device))
        self.lora_b[adapter] = nn.Parameter(torch.zeros(out_width, config.rank, dtype=dtype, device=self.weight.device))
        self.configs[adapter] = config

    def remove(self, adapter: str) -> None:
        """Forget an adapter."""
        del self.lora_a[adapter], self.lora_b[adapter], self.configs[adapter]

    def delta(self, adapter: str) -> Tensor:
        """(O, I) the adapter's update of the weight, s B A, in the adapter's precision."""
        return self.lora_b[adapter] @ self.lora_a[adapter] * self.configs[adapter].scale

    def forward(self, x: Tensor) -> Tensor:
        route = current_route()
        if route.merged is not None and (merged := route.merged.get(self)) is not None:
            return turned_linear(x, merged, self.bias) if route.turned else F.linear(x, merged, self.bias)
        spans: list[Span] = []
        parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for rows, name in _rows_of_parts(x, route):
            if name is None or name not in self.configs:
                continue
            config, keep = self.configs[name], None
            # What stays as it is has no dropout: below layers that train it is the same in every pass.
            if route.dropout and config.dropout > 0.0 and self.lora_a[name].requires_grad:
                keep = F.dropout(torch.ones_like(x if rows is None else x[rows]), config.dropout)
            if rows is not None:
                positions = x.shape[1:-1].numel()
                rows = slice(rows.start * positions, rows.stop * positions)
            spans.append((rows, config.scale))
            parts.append((self.lora_a[name], self.lora_b[name], keep))
        if not parts:
            result: Tensor = self.base(x)
            return result
        # Under autocast a weight may be wider than its input; the product is then of the weight's width.
        with torch.autocast(x.device.type, enabled=False):
            product = plain_lora_linear if route.plain else lora_linear
            return product(x.to(self.weight.dtype), self.weight, self.bias, tuple(spans), parts)


def _rows_of_parts(x: Tensor, route: Route) -> list[tuple[slice | None, str | None]]:
    """The rows of (B, ...) that each part of the route takes; none for all of them.

    Raises:
        ModelError: when the rows are not those of the batch (a layer that mixes or picks tokens before it).
    """
    if len(route.parts) == 1:
        return [(None, route.parts[0][0])]
    ends = list(accumulate(rows for _, rows in route.parts))
    if ends[-1] != x.shape[0]:
        raise ModelError(
            f"a layer got {x.shape[0]} rows where the route's parts have {ends[-1]}: it can't tell roles apart",
            fix="give each role a pass of its own",
        )
    starts = [0, *ends[:-1]]
    return [(slice(a, b), name) for a, b, (name, _) in zip(starts, ends, route.parts, strict=True)]


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can adapt the module: a linear layer, or GPT-2's transposed one."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def find_targets(model: nn.Module, targets: Sequence[str], layers: str = ALL_LAYERS) -> list[str]:
    """Paths of the linear layers that `targets` names, in the model's order.

    A target is `all-linear` (all but the output projection), a layer's own name (`q_proj`), the end of a path
    (`self_attn.q_proj`), or a shell-style pattern over the whole path.

    Args:
        model: a transformers causal LM.
        targets: what is adapted.
        layers: the decoder layers that it is adapted in (`LoRAConfig.layers`).

    Raises:
        AdapterError: when a target matches nothing.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    decoder = model.get_decoder()  # type: ignore[operator]
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    linear = [
        name
        for name, module in model.named_modules()
        if (is_linear(module) or isinstance(module, LoRALinear))
        and name.startswith(prefix)  # a vision tower beside the decoder is no target
        and not name.endswith(".base")
        and module is not head
    ]
    chosen: set[str] = set()
    for target in targets:
        if target == ALL_LINEAR:
            matched = linear
        else:
            matched = [n for n in linear if n == target or n.endswith("." + target) or fnmatch.fnmatch(n, target)]
        if not matched:
            names = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise AdapterError(
                f"LoRA target {target!r} matches no linear layer{suggest(target, names)}",
                where="lora.targets",
                fix=f"use all-linear, a pattern over paths, or one of: {', '.join(names)}",
            )
        chosen.update(matched)
    found = trained_paths(model, [name for name in linear if name in chosen], layers)
    if not found:
        raise AdapterError(
            f"LoRA targets {', '.join(targets)} match nothing in {layers} of the layers", where="lora.layers"
        )
    return found


def inject(model: nn.Module, adapter: str, config: LoRAConfig, *, seed: int, token_ids: Sequence[int] = ()) -> None:
    """Add a named adapter to a model, in place. Layers already adapted get one more.

    Args:
        model: a transformers causal LM; its own parameters are frozen.
        adapter: the adapter's name (letters, digits, - and _).
        config: rank, targets and so on.
        seed: of A's draw.
        token_ids: the ids of `config.trainable_tokens`.

    Raises:
        AdapterError: for a bad or taken name, or a target that matches nothing.
    """
    check_new_name(model, adapter)
    paths = find_targets(model, config.targets, config.layers)
    if not adapter_names(model):
        model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        _lora_layer(model, path).add(adapter, config, generator)
    if token_ids:
        token_rows(model).add(adapter, token_ids)


def check_new_name(model: nn.Module, adapter: str) -> None:
    """Raise AdapterError when an adapter of this name can't be added."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", adapter):
        raise AdapterError(f"adapter name {adapter!r} may hold letters, digits, - and _ only")
    if adapter in adapter_names(model):
        raise AdapterError(f"the model already holds an adapter named {adapter!r}")


def add_layer(model: nn.Module, path: str, adapter: str, config: LoRAConfig, a: Tensor, b: Tensor) -> None:
    """Add one layer of an adapter with given matrices: a (r, I) and b (O, r)."""
    if not adapter_names(model):
        model.requires_grad_(False)
    layer = _lora_layer(model, path)
    dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
    layer.lora_a[adapter] = nn.Parameter(a.to(layer.weight.device, dtype, copy=True))
    layer.lora_b[adapter] = nn.Parameter(b.to(layer.weight.device, dtype, copy=True))
    layer.configs[adapter] = config


def _lora_layer(model: nn.Module, path: str) -> LoRALinear:
    module = model.get_submodule(path)
    if not isinstance(module, LoRALinear):
        module = LoRALinear(module)
        replace_module(model, path, module)
    return module


def lora_layers(model: nn.Module, adapter: str | None = None) -> Iterator[tuple[str, LoRALinear]]:
    """Path and layer of every adapted layer, or of those that hold `adapter`."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear) and (adapter is None or adapter in module.configs):
            yield name, module


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters that the model holds, in the order they were added."""
    names: dict[str, None] = {}
    for _, layer in lora_layers(model):
        names.update(dict.fromkeys(layer.configs))
    return list(names)


def adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by a stable name, A before B, layers in the model's order."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in lora_layers(model, adapter):
        found[f"{name}.lora_A"] = layer.lora_a[adapter]
        found[f"{name}.lora_B"] = layer.lora_b[adapter]
    rows = token_rows_of(model, adapter)
    if rows is not None:
        found["token_rows"] = rows[1]
    return found


def backbone_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's own parameters, without any adapter's, under the names that they have in the plain model."""
    adapted = {id(p) for module in model.modules() if isinstance(module, LoRALinear) for p in _own(module)}
    adapted |= {id(p) for module in model.modules() if isinstance(module, TokenRowsEmbedding) for p in _own(module)}
    return {name.replace(".base.", "."): p for name, p in model.named_parameters() if id(p) not in adapted}


def _own(module: LoRALinear | TokenRowsEmbedding) -> list[nn.Parameter]:
    dicts = [module.lora_a, module.lora_b] if isinstance(module, LoRALinear) else [module.rows, module.ids]
    return [p for d in dicts for p in d.values()]


def remove_adapter(model: nn.Module, adapter: str) -> None:
    """Forget an adapter; the layers stay ready for others."""
    for _, layer in list(lora_layers(model, adapter)):
        layer.remove(adapter)
    if token_rows_of(model, adapter) is not None:
        token_rows(model).remove(adapter)


@torch.no_grad()
def copy_adapter(model: nn.Module, source: str, target: str, *, layers: str = ALL_LAYERS) -> None:
    """Add `target` as an exact copy of `source`; the policy of DPO and PPO starts so from the SFT adapter.

    Args:
        model: that holds `source`.
        source: the adapter to copy.
        target: the copy's name.
        layers: the decoder layers that get tensors of their own (`LoRAConfig.layers`); below them, token rows
            included, the two adapters hold the very same tensors.

    Raises:
        AdapterError: when there is no `source`, `target` is taken, or `source` adapts none of these layers.
    """
    check_new_name(model, target)
    held = list(lora_layers(model, source))
    if not held:
        raise AdapterError(f"the model holds no adapter named {source!r}")
    own = set(trained_paths(model, [path for path, _ in held], layers))
    if not own:
        raise AdapterError(
            f"the adapter {source!r}, which the new one starts from, adapts none of the layers {layers}",
            where="lora.layers",
            fix="name more layers",
        )
    for path, layer in held:
        a, b = layer.lora_a[source], layer.lora_b[source]
        layer.lora_a[target] = nn.Parameter(a.detach().clone()) if path in own else a
        layer.lora_b[target] = nn.Parameter(b.detach().clone()) if path in own else b
        layer.configs[target] = layer.configs[source]
    rows = token_rows_of(model, source)
    if rows is None:
        return
    if layers == ALL_LAYERS:
        add_token_rows(model, target, rows[0].tolist(), rows[1])
    else:
        share_token_rows(model, target, source)


@torch.no_grad()
def tie_adapters(model: nn.Module, adapter: str, to: str) -> int:
    """Where two frozen adapters hold equal matrices in a layer, let them hold the very same ones.

    A reward model trained from an SFT adapter with `layers: last-N` brings the lower layers of that adapter along;
    tied to it, they are known to be computed alike.

    Returns:
        In how many layers.
    """
    tied = 0
    for _, layer in lora_layers(model, adapter):
        if to not in layer.configs or layer.configs[adapter].scale != layer.configs[to].scale:
            continue
        pairs = [(held[adapter], held[to]) for held in (layer.lora_a, layer.lora_b)]
        if all(torch.equal(x, y) and not (x.requires_grad or y.requires_grad) for x, y in pairs):
            layer.lora_a[adapter], layer.lora_b[adapter] = layer.lora_a[to], layer.lora_b[to]
            tied += 1
    first, second = token_rows_of(model, adapter), token_rows_of(model, to)
    if first is not None and second is not None and all(torch.equal(x, y) for x, y in zip(first, second, strict=True)):
        share_token_rows(model, adapter, to)
    return tied


def excess_rank(model: nn.Module) -> str | None:
    """What to say of trained LoRA layers whose rank exceeds the smaller side of their weight, if there are any.

    B A has at most the rank of that side, so what lies beyond it costs memory and time and adds nothing. PEFT takes it
    without a word; a pattern of targets often meets one narrow layer, such as the keys of grouped-query attention.
    """
    found: dict[tuple[int, int, int], list[str]] = {}
    for path, layer in lora_layers(model):
        ranks = [a.shape[0] for a in layer.lora_a.values() if a.requires_grad]
        if ranks and max(ranks) > min(layer.weight.shape):
            out_width, in_width = layer.weight.shape
            found.setdefault((max(ranks), in_width, out_width), []).append(path)
    if not found:
        return None
    told = [
        f"rank {rank} in {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "") + f" ({i} to {o})"
        for (rank, i, o), paths in found.items()
    ]
    return f"LoRA's rank is above a layer's smaller side, beyond which it adds nothing: {'; '.join(told)}"


def count_trainable_params(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; tied ones count once. Of 7e9 a rank-8 adapter trains about 0.3 %."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
