"""What LoRA layers keep of their inputs, what they make again, and that it is the same."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from burnish.data.groups import collate
from burnish.models import gated, norms
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.remade import can_be_remade, to_keep
from burnish.models.roles import Backbone, response_logprobs
from tests.models.families import tiny
from tests.models.test_core import groups
from tests.models.test_several_roles import stir


def kept_of(backbone: Backbone, adapter: str) -> tuple[Counter[int], dict[str, Tensor]]:
    """How many tensors of each width a forward pass keeps for backward, each storage once, and the gradients."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.model.parameters()}
    found: dict[int, tuple[int, Tensor]] = {}

    def noted(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tensor.dim() == 3:
            found.setdefault(place, (tensor.shape[-1], tensor))
        return tensor

    role, batch = backbone.role(adapter), collate(groups(), layout=backbone.layout)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        hidden = backbone.hidden_states(batch, role.route())
    widths = Counter(width for width, _ in found.values())
    named = adapter_parameters(backbone.model, adapter)
    draw = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=hidden.dtype)
    gradients = torch.autograd.grad((hidden * draw).sum(), list(named.values()))
    return widths, dict(zip(named, gradients, strict=True))


def llama() -> nn.Module:
    model = tiny("llama", hidden_size=24, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2)
    inject(model, "a", LoRAConfig(rank=2), seed=1)
    stir(model, "a", 3)
    return model


def test_what_is_made_again_is_not_kept_and_the_gradients_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    widths, gradients = kept_of(Backbone(llama()), "a")
    # Two layers. Of the MLP's width: gate and up. Of the residual's: what goes into each of two norms a layer and the
    # last one (of the very first norm, below which nothing trains, what comes out), and attention's output, which the
    # output projection reads.
    assert widths[40] == 2 * 2
    assert widths[24] == 2 * 2 + 1 + 2
    for module in (gated, norms):
        monkeypatch.setattr(module, "can_be_remade", lambda x, *recipe: x)
    kept, expected = kept_of(Backbone(llama()), "a")
    assert kept[40] == widths[40] + 2
    assert kept[24] == widths[24] + 2 * 2 - 1
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


def test_checkpointed_layers_keep_their_input_only() -> None:
    widths, gradients = kept_of(Backbone(llama(), checkpointing=True), "a")
    assert widths[40] == 0
    assert widths[24] == 2 + 1
    expected = kept_of(Backbone(llama()), "a")[1]
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


def test_an_input_that_was_written_to_is_kept_as_it_is() -> None:
    source = torch.randn(3)
    x = can_be_remade(source * 2, lambda s: s * 2, source)
    assert to_keep(x)[1][0] is source
    x.add_(1)
    remaker, kept = to_keep(x)
    assert kept[0] is x
    assert remaker.remade(kept) is x


def test_an_input_of_several_nodes_is_made_once_and_then_let_go() -> None:
    source, made = torch.randn(3), []

    def double(s: Tensor) -> Tensor:
        made.append(weakref.ref(out := s * 2))
        return out

    x = can_be_remade(source * 2, double, source)
    keeps = [to_keep(x) for _ in range(3)]
    del x
    for remaker, kept in keeps:
        assert torch.equal(remaker.remade(kept), source * 2)
    gc.collect()
    assert [one() for one in made] == [None], "made once, held by nobody"


def test_an_adapter_on_the_last_product_alone_keeps_the_product() -> None:
    """Gate and up are not kept where nothing below trains: making the product again would keep twice as much."""
    model = tiny("llama", hidden_size=24, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2)
    inject(model, "a", LoRAConfig(rank=2, targets=["down_proj"], layers="last-1"), seed=1)
    stir(model, "a", 3)
    assert kept_of(Backbone(model), "a")[0][40] == 1


def test_a_second_backward_over_the_same_graph() -> None:
    role = Backbone(llama()).role("a")
    total = response_logprobs(role, collate(groups())).token.sum()
    named = list(adapter_parameters(role.backbone.model, "a").values())
    first = torch.autograd.grad(total, named, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, named), strict=True):
        assert torch.equal(a, b)
