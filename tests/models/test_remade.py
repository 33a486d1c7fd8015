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
from burnish.models.remade import set_recipe, to_save
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
        monkeypatch.setattr(module, "set_recipe", lambda *recipe: None)
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


def doubled(source: Tensor) -> Tensor:
    x = source * 2
    set_recipe(x, lambda s: s * 2, source)
    return x


def test_after_a_write_the_input_is_kept_as_it_is() -> None:
    source = torch.randn(3)
    assert to_save(doubled(source))[1][0] is source
    x = doubled(source)
    x.add_(1)
    assert to_save(x) == (None, (x,))
    x = doubled(source)
    source.add_(1)
    assert to_save(x) == (None, (x,))


def test_an_input_of_several_nodes_is_made_once_in_each_backward_and_then_let_go() -> None:
    source, made = torch.randn(3), []

    def double(s: Tensor) -> Tensor:
        made.append(weakref.ref(out := s * 2))
        return out

    x = source * 2
    set_recipe(x, double, source)
    keeps = [to_save(x) for _ in range(3)]
    del x
    for times in (1, 2):
        for remaker, kept in keeps:
            assert remaker is not None
            assert torch.equal(remaker.remade(kept), source * 2)
        gc.collect()
        assert [one() for one in made] == [None] * times, "made once, held by nobody"


@pytest.mark.parametrize(("target", "kept"), [("gate_proj", 2), ("up_proj", 2), ("down_proj", 1)])
def test_an_adapter_on_one_layer_keeps_no_more_than_it_needs(target: str, kept: int) -> None:
    """In the lowest layer that trains. Behind gate or up: both, of which the product is made again. Behind neither: the
    product itself."""
    model = tiny("llama", hidden_size=24, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2)
    inject(model, "a", LoRAConfig(rank=2, targets=[target], layers="last-1"), seed=1)
    if target != "down_proj":
        inject(model, "b", LoRAConfig(rank=2, targets=[target, "down_proj"], layers="last-1"), seed=2)
    adapter = "a" if target == "down_proj" else "b"
    stir(model, adapter, 3)
    assert kept_of(Backbone(model), adapter)[0][40] == kept


def test_a_second_backward_over_the_same_graph() -> None:
    role = Backbone(llama()).role("a")
    total = response_logprobs(role, collate(groups())).token.sum()
    named = list(adapter_parameters(role.backbone.model, "a").values())
    first = torch.autograd.grad(total, named, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, named), strict=True):
        assert torch.equal(a, b)
