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
from burnish.models.config import ALL_LINEAR, LoRAConfig
from burnish.models.lowrank import Span, lora_linear
from burnish.models.routing import Route, current_route


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
        spans: list[Span] = []
        parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for rows, name in _rows_of_parts(x, route):
            if name is None or name not in self.configs:
                continue
            config, keep = self.configs[name], None
            if route.dropout and config.dropout > 0.0:
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
            return lora_linear(x.to(self.weight.dtype), self.weight, self.bias, tuple(spans), parts)


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


class TokenRowsEmbedding(nn.Module):
    """A frozen embedding in which an adapter may hold its own, trainable rows for chosen tokens."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.rows = nn.ParameterDict()
        self.ids = nn.ParameterDict()

    @property
    def weight(self) -> Tensor:
        """(V, D) the frozen table."""
        return self.base.weight

    def add(self, adapter: str, token_ids: Sequence[int]) -> None:
        """Give an adapter its own rows, as copies of the frozen ones."""
        ids = torch.tensor(sorted(set(token_ids)), dtype=torch.long, device=self.weight.device)
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        self.rows[adapter] = nn.Parameter(self.weight[ids].detach().to(dtype, copy=True))
        self.ids[adapter] = nn.Parameter(ids, requires_grad=False)  # follows the module to its device

    def remove(self, adapter: str) -> None:
        """Forget an adapter's rows."""
        del self.rows[adapter], self.ids[adapter]

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.base(input_ids)
        parts = current_route().parts
        start = 0
        for adapter, rows in parts:
            stop = input_ids.shape[0] if len(parts) == 1 else start + rows
            if adapter is not None and adapter in self.ids:
                where, which = (input_ids[start:stop].reshape(-1, 1) == self.ids[adapter]).nonzero(as_tuple=True)
                # Gemma's embedding layer scales what it looks up.
                factor = getattr(self.base, "embed_scale", 1.0)
                values = (self.rows[adapter][which] * factor).to(out.dtype)
                width = input_ids.shape[1] if input_ids.dim() > 1 else 1
                out = out.reshape(-1, out.shape[-1]).index_put((where + start * width,), values).view(out.shape)
            start = stop
        return out


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can adapt the module: a linear layer, or GPT-2's transposed one."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Paths of the linear layers that `targets` names, in the model's order.

    A target is `all-linear` (all but the output projection), a layer's own name (`q_proj`), the end of a path
    (`self_attn.q_proj`), or a shell-style pattern over the whole path.

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
    return [name for name in linear if name in chosen]


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
    paths = find_targets(model, config.targets)
    if not adapter_names(model):
        model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        _lora_layer(model, path).add(adapter, config, generator)
    if token_ids:
        _token_rows(model).add(adapter, token_ids)


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


def add_token_rows(model: nn.Module, adapter: str, token_ids: Sequence[int], rows: Tensor) -> None:
    """Give an adapter its own embedding rows (M, D) for `token_ids`, in that order."""
    embedding = _token_rows(model)
    embedding.add(adapter, token_ids)
    order = [token_ids.index(int(i)) for i in embedding.ids[adapter]]
    with torch.no_grad():
        embedding.rows[adapter].copy_(rows[order])


def _lora_layer(model: nn.Module, path: str) -> LoRALinear:
    module = model.get_submodule(path)
    if not isinstance(module, LoRALinear):
        module = LoRALinear(module)
        _replace(model, path, module)
    return module


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _token_rows(model: nn.Module) -> TokenRowsEmbedding:
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if isinstance(embedding, TokenRowsEmbedding):
        return embedding
    path = next(name for name, module in model.named_modules() if module is embedding)
    wrapped = TokenRowsEmbedding(embedding)
    _replace(model, path, wrapped)
    return wrapped


def token_rows_of(model: nn.Module, adapter: str | None) -> tuple[Tensor, nn.Parameter] | None:
    """An adapter's own embedding rows as (ids, rows), or none."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if adapter is None or not isinstance(embedding, TokenRowsEmbedding) or adapter not in embedding.ids:
        return None
    return embedding.ids[adapter], embedding.rows[adapter]


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
        _token_rows(model).remove(adapter)


@torch.no_grad()
def copy_adapter(model: nn.Module, source: str, target: str) -> None:
    """Add `target` as an exact copy of `source`; the policy of DPO and PPO starts so from the SFT adapter.

    Raises:
        AdapterError: when there is no `source`, or `target` is taken.
    """
    check_new_name(model, target)
    layers = list(lora_layers(model, source))
    if not layers:
        raise AdapterError(f"the model holds no adapter named {source!r}")
    for _, layer in layers:
        layer.lora_a[target] = nn.Parameter(layer.lora_a[source].detach().clone())
        layer.lora_b[target] = nn.Parameter(layer.lora_b[source].detach().clone())
        layer.configs[target] = layer.configs[source]
    own = token_rows_of(model, source)
    if own is not None:
        add_token_rows(model, target, own[0].tolist(), own[1])


def count_trainable_params(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; tied ones count once. Of 7e9 a rank-8 adapter trains about 0.3 %."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
