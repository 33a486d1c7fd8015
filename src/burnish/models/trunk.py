"""The trunk: lower layers that several roles compute alike and none of them trains.

With `lora.layers: last-N` the layers below are the same for policy, reference, critic and reward model, and the same
in every epoch. What they make of a row is computed once, and each role goes on from there.

Legend: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from burnish.data.groups import PAD_SEGMENT, GroupBatch, Layout, PromptGroup, TrunkStates, collate
from burnish.errors import ModelError
from burnish.models.layers import decoder_layers
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
        self._layers = decoder_layers(backbone.model)[1]

    @property
    def layout(self) -> Layout:
        """Of the batches that it reads."""
        return self.backbone.layout

    @classmethod
    def shared_by(cls, roles: Sequence[Role]) -> Trunk | None:
        """The deepest trunk that all the roles stand on.

        None where they stand on different backbones or differ in the first layer already, where a role trains all of
        its layers, where the model's layers can't be computed apart, or where the backbone is plain.
        """
        backbone = roles[0].backbone
        if any(role.backbone is not backbone for role in roles) or backbone.plain or _trains_itself(backbone.model):
            return None
        try:
            layers = decoder_layers(backbone.model)[1]
        except ModelError:
            return None
        adapters = [role.adapter for role in roles]
        if not _alike(_outside(backbone.model, layers), adapters):
            return None
        depth = next((i for i, layer in enumerate(layers) if not _alike(layer.modules(), adapters)), len(layers))
        depth = min(depth, len(layers) - 1)
        return cls(backbone, adapters[0], depth) if depth > 0 and backbone.splits_at(depth) else None

    def carries(self, role: Role) -> bool:
        """Whether the role computes these layers as the trunk does."""
        if role.backbone is not self.backbone:
            return False
        if role.adapter == self.adapter:
            return True
        pair = [self.adapter, role.adapter]
        below = (module for layer in self._layers[: self.depth] for module in layer.modules())
        return _alike(_outside(self.backbone.model, self._layers), pair) and _alike(below, pair)

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
            self._kept |= self._split(micro, batch)

    def _split(self, groups: Sequence[PromptGroup], batch: GroupBatch) -> dict[int, Tensor]:
        """(tokens, D) the states of each group of a batch, without padding, by the group's index."""
        flat = self.trunk.states(batch).hidden[batch.segment_ids != PAD_SEGMENT]
        counts = [_n_tokens(group, self.layout) for group in groups]
        return {group.index: part.clone() for group, part in zip(groups, flat.split(counts), strict=True)}

    def _computed(self, groups: Sequence[PromptGroup], device: torch.device) -> dict[int, Tensor]:
        return self._split(groups, collate(groups, layout=self.layout).to(device))

    def attached(self, batch: GroupBatch, groups: Sequence[PromptGroup]) -> GroupBatch:
        """The batch with the states of its groups: those that are kept, and the others computed now."""
        missing = [group for group in groups if group.index not in self._kept]
        if len(missing) == len(groups):
            return self.trunk.attached(batch, groups)
        found = self._kept | (self._computed(missing, batch.input_ids.device) if missing else {})
        flat = torch.cat([found[group.index] for group in groups])
        hidden = flat.new_zeros(*batch.input_ids.shape, flat.shape[-1])  # padding is read by no real token
        hidden[batch.segment_ids != PAD_SEGMENT] = flat
        return replace(batch, trunk=TrunkStates(hidden, self.trunk))


def _n_tokens(group: PromptGroup, layout: Layout) -> int:
    """Tokens of the group's rows."""
    return group.row_length + (len(group.prompt) * (len(group.responses) - 1) if layout == "rows" else 0)


def _outside(model: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Module]:
    """What adapters can change in a decoder outside of its layers: token rows, projections of the embeddings."""
    waiting: list[nn.Module] = [model.get_input_embeddings(), model.get_decoder()]  # type: ignore[operator]
    while waiting:
        module = waiting.pop()
        if module is not layers:
            yield module
            waiting.extend(module.children())


def _alike(modules: Iterable[nn.Module], adapters: Sequence[str | None]) -> bool:
    """Whether the adapters hold the very same tensors in these modules, none of which trains."""
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
