"""The trunk: lower layers that several roles compute alike and none of them trains.

With `lora.layers: last-N` the layers below are the same for policy, reference, critic and reward model, and the same
in every epoch. What they make of a row is computed once, and each role goes on from there.

Legend: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from burnish.data.groups import PAD_SEGMENT, GroupBatch, Layout, PromptGroup, TrunkStates
from burnish.models.layers import decoder_layers, layer_number
from burnish.models.lora import LoRALinear, backbone_parameters
from burnish.models.roles import Backbone, Role
from burnish.models.routing import Route
from burnish.models.token_rows import TokenRowsEmbedding


class Trunk:
    """The layers below `depth` of a backbone, as one adapter has them.

    Made by `Trunk.shared_by`.
    """

    def __init__(self, backbone: Backbone, adapter: str | None, depth: int) -> None:
        self.backbone, self.adapter, self.depth = backbone, adapter, depth
        self._adapted = _adapted_layers(backbone.model)[:depth]

    @property
    def layout(self) -> Layout:
        """Of the batches that it reads."""
        return self.backbone.layout

    @classmethod
    def shared_by(cls, roles: Sequence[Role]) -> Trunk | None:
        """The deepest trunk that all the roles stand on.

        None where they stand on different backbones or differ in the first layer already, where a role trains all of
        its layers, or where the model's layers can't be computed apart.
        """
        backbone = roles[0].backbone
        if any(role.backbone is not backbone for role in roles) or _trains_itself(backbone.model):
            return None
        adapters = [role.adapter for role in roles]
        embedding = backbone.model.get_input_embeddings()  # type: ignore[operator]
        if not _alike([embedding], adapters):
            return None
        layers = _adapted_layers(backbone.model)
        depth = next((i for i, layer in enumerate(layers) if not _alike(layer, adapters)), len(layers))
        depth = min(depth, len(layers) - 1)
        return cls(backbone, adapters[0], depth) if depth > 0 and backbone.splits_at(depth) else None

    def carries(self, role: Role) -> bool:
        """Whether the role computes these layers as the trunk does."""
        if role.backbone is not self.backbone:
            return False
        embedding = self.backbone.model.get_input_embeddings()  # type: ignore[operator]
        pair = [self.adapter, role.adapter]
        return _alike([embedding], pair) and all(_alike(layer, pair) for layer in self._adapted)

    def states(self, batch: GroupBatch) -> TrunkStates:
        """The trunk's states of a batch's rows, computed now."""
        return TrunkStates(self.backbone.states_below(self.depth, batch, Route.single(self.adapter)), self)

    def attached(self, batch: GroupBatch, groups: Sequence[PromptGroup]) -> GroupBatch:
        """The batch with the trunk's states beside it.

        Args:
            batch: on the backbone's device, in its layout.
            groups: what it was made of, in that order.
        """
        return replace(batch, trunk=self.states(batch))


class TrunkCache:
    """The trunk's states of prompt groups, kept to be used again.

    They are computed in passes of a fixed cut, so that a resumed run finds the same bits.

    Args:
        trunk: whose states.
        budget: bytes that they may take; groups beyond it are computed each time.
    """

    def __init__(self, trunk: Trunk, budget: float) -> None:
        self.trunk, self.budget = trunk, budget
        self._kept: dict[int, Tensor] = {}

    @property
    def layout(self) -> Layout:
        """Of the batches that it reads."""
        return self.trunk.layout

    @property
    def n_groups(self) -> int:
        """How many groups' states are kept."""
        return len(self._kept)

    def bytes_for(self, groups: Sequence[PromptGroup]) -> int:
        """What the states of all the groups would take."""
        model = self.trunk.backbone.model
        width = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
        size = self.trunk.backbone.compute_dtype.itemsize
        return sum(_n_tokens(group, self.layout) for group in groups) * width * size

    def fill(
        self,
        groups: Sequence[PromptGroup],
        passes: Callable[[Sequence[PromptGroup]], Iterable[tuple[Sequence[PromptGroup], GroupBatch]]],
    ) -> None:
        """Compute and keep the states of as many groups as the budget allows, instead of those kept so far.

        Args:
            groups: with an `index` of their own each, under which they are found again.
            passes: cuts groups into batches, always in the same way.
        """
        self._kept = {}
        left, chosen = self.budget, []
        for group in groups:
            left -= self.bytes_for([group])
            if left < 0:
                break
            chosen.append(group)
        for micro, batch in passes(chosen) if chosen else ():
            real = batch.segment_ids != PAD_SEGMENT
            counts = [_n_tokens(group, self.layout) for group in micro]
            flat = self.trunk.states(batch).hidden[real]
            self._kept |= {g.index: part.clone() for g, part in zip(micro, flat.split(counts), strict=True)}

    def attached(self, batch: GroupBatch, groups: Sequence[PromptGroup]) -> GroupBatch:
        """The batch with the states that are kept of its groups; computed now if one of them is not."""
        if any(group.index not in self._kept for group in groups):
            return self.trunk.attached(batch, groups)
        flat = torch.cat([self._kept[group.index] for group in groups])
        hidden = flat.new_zeros(*batch.input_ids.shape, flat.shape[-1])  # padding is read by no real token
        hidden[batch.segment_ids != PAD_SEGMENT] = flat
        return replace(batch, trunk=TrunkStates(hidden, self.trunk))


def _n_tokens(group: PromptGroup, layout: Layout) -> int:
    """Tokens of the group's rows."""
    return group.row_length + (len(group.prompt) * (len(group.responses) - 1) if layout == "rows" else 0)


def _adapted_layers(model: nn.Module) -> list[list[nn.Module]]:
    """The LoRA layers within each decoder layer."""
    prefix, layers = decoder_layers(model)
    found: list[list[nn.Module]] = [[] for _ in layers]
    for name, module in model.named_modules():
        number = layer_number(name, prefix)
        if isinstance(module, LoRALinear) and number is not None:
            found[number].append(module)
    return found


def _alike(modules: Sequence[nn.Module], adapters: Sequence[str | None]) -> bool:
    """Whether the adapters hold the very same tensors in these layers, none of which trains."""
    for module in modules:
        held = [_held(module, adapter) for adapter in adapters]
        if any(len(one) != len(held[0]) for one in held):
            return False
        for tensors in zip(*held, strict=True):
            if any(tensor is not tensors[0] or tensor.requires_grad for tensor in tensors):
                return False
    return True


def _held(module: nn.Module, adapter: str | None) -> tuple[Tensor, ...]:
    """What an adapter holds in a layer; nothing where it leaves the layer as it is."""
    if adapter is None:
        return ()
    if isinstance(module, LoRALinear) and adapter in module.configs:
        return module.lora_a[adapter], module.lora_b[adapter]
    if isinstance(module, TokenRowsEmbedding) and adapter in module.ids:
        return (module.rows[adapter],)
    return ()


def _trains_itself(model: nn.Module) -> bool:
    """Whether weights of the model's own train, as in full fine-tuning."""
    return any(parameter.requires_grad for parameter in backbone_parameters(model).values())
