"""Several roles in one pass: the layer against the formula, whole models against merged copies and separate passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from burnish.data.groups import GroupBatch, collate
from burnish.errors import ModelError
from burnish.models.lora import LoRAConfig, LoRALinear, adapter_parameters, inject, lora_layers
from burnish.models.roles import Backbone, Role, hidden_of
from burnish.models.routing import Route, routed
from tests.models.families import FAMILIES, tiny
from tests.models.test_core import groups

SOME = {
    "gpt2": ("attn.c_attn",),
    "gpt_neox": ("query_key_value",),
    "phi3": ("qkv_proj", "down_proj"),
    "mamba": ("in_proj",),
}


def mamba() -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0)
    return MambaForCausalLM(config).double().eval()


def stir(model: torch.nn.Module, adapter: str, seed: int, *, only_trained: bool = False) -> None:
    """Move an adapter away from where it started."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, adapter).values():
        with torch.no_grad():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if parameter.requires_grad or not only_trained:
                parameter.add_(noise)


def backbone_of(family: str, *, dropout: float = 0.0, checkpointing: bool = False) -> Backbone:
    """A backbone with adapters `a` (all layers, own token rows) and `b` (some layers, another rank and factor)."""
    model = mamba() if family == "mamba" else tiny(family, dtype=torch.float64)
    inject(model, "a", LoRAConfig(rank=2, dropout=dropout), seed=1, token_ids=[9, 11, 33])
    targets = SOME.get(family, ("q_proj", "down_proj"))
    inject(model, "b", LoRAConfig(rank=3, alpha=5.0, targets=targets, dropout=dropout / 2), seed=2)
    stir(model, "a", 3)
    stir(model, "b", 4)
    return Backbone(model, checkpointing=checkpointing)


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    backbone.model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}


def weighed(hidden: Sequence[Tensor], batch: GroupBatch) -> Tensor:
    """A scalar in which every real token's hidden state has a weight of its own; padding has none."""
    generator = torch.Generator().manual_seed(4)
    total = torch.zeros((), dtype=torch.float64)
    for states in hidden:
        weights = torch.randn(states.shape, generator=generator, dtype=torch.float64)
        total = total + (states * weights * (batch.segment_ids >= 0).unsqueeze(-1)).sum()
    return total


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert got.keys() == expected.keys()
    for name, e in expected.items():
        assert (got[name] - e).abs().max() <= tolerance * max(1.0, float(e.abs().max())), name


def layer_with(dropout: dict[str, float]) -> LoRALinear:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(6, 4, dtype=torch.float64).requires_grad_(False))
    for seed, (name, share) in enumerate(dropout.items()):
        config = LoRAConfig(rank=2 + seed, alpha=3.0, dropout=share)
        layer.add(name, config, torch.Generator().manual_seed(seed))
        nn.init.normal_(layer.lora_b[name])
    return layer


@pytest.mark.parametrize("dropout", [False, True])
def test_the_layer_equals_the_formula_on_the_rows_of_each_part(dropout: bool) -> None:
    layer = layer_with({"a": 0.5, "b": 0.25})
    x = torch.randn(7, 3, 6, dtype=torch.float64, requires_grad=True)
    parts = (("b", 1), (None, 2), ("a", 2), ("elsewhere", 1), ("b", 1))
    leaves = [x, layer.lora_a["a"], layer.lora_b["a"], layer.lora_a["b"], layer.lora_b["b"]]

    torch.manual_seed(5)
    pieces, start = [], 0
    for name, rows in parts:
        own = x[start : start + rows]
        y = own @ layer.weight.T + layer.bias
        if name in ("a", "b"):
            share, rank = {"a": (0.5, 2), "b": (0.25, 3)}[name]
            seen = own * nn.functional.dropout(torch.ones_like(own), share) if dropout else own
            y = y + 3.0 / rank * (seen @ layer.lora_a[name].T @ layer.lora_b[name].T)
        pieces.append(y)
        start += rows
    expected = torch.cat(pieces)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    expected_grads = torch.autograd.grad((expected * upstream).sum(), leaves)

    torch.manual_seed(5)
    with routed(Route(parts, dropout)):
        got = layer(x)
    got_grads = torch.autograd.grad((got * upstream).sum(), leaves)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for g, e in zip(got_grads, expected_grads, strict=True):
        assert torch.allclose(g, e, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_part_is_computed_in_the_plain_order_to_the_bit(dtype: torch.dtype) -> None:
    layer = layer_with({"a": 0.0}).to(dtype)
    x = torch.randn(2, 5, 6).to(dtype)
    flat, a, b = x.reshape(10, 6), layer.lora_a["a"], layer.lora_b["a"]
    expected = nn.functional.linear(flat, layer.weight, layer.bias).addmm_(flat @ a.T, b.T, alpha=1.5)
    with routed(Route.single("a")), torch.no_grad():
        assert torch.equal(layer(x), expected.view(2, 5, 4))


def saved_shapes(layer: LoRALinear, x: Tensor, parts: tuple[tuple[str | None, int], ...]) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), routed(Route(parts)):
        layer(x).requires_grad_()
    return sorted(shapes)


def test_only_what_a_gradient_needs_is_saved() -> None:
    layer = layer_with({"a": 0.0, "b": 0.0})
    x, parts = torch.randn(5, 6, dtype=torch.float64), (("a", 2), ("b", 3))
    for name in ("a", "b"):
        layer.lora_a[name].requires_grad_(False)
        layer.lora_b[name].requires_grad_(False)
    # The way back to x goes through W (4, 6), A (r, 6) and B (4, r); x and the (rows, r) products are for A and B.
    way_back = [(4, 6), (2, 6), (4, 2), (3, 6), (4, 3)]
    assert saved_shapes(layer, x.clone().requires_grad_(), parts) == sorted(way_back)
    layer.lora_a["b"].requires_grad_()
    layer.lora_b["b"].requires_grad_()
    assert saved_shapes(layer, x.clone().requires_grad_(), parts) == sorted([*way_back, (5, 6), (3, 3)])
    assert saved_shapes(layer, x, parts) == sorted([(4, 3), (5, 6), (3, 3)])
    assert saved_shapes(layer, x, (("b", 2), ("a", 3))) == sorted([(4, 3), (5, 6), (2, 3)])


def test_frozen_roles_build_no_graph() -> None:
    backbone = backbone_of("gemma3")
    backbone.model.requires_grad_(False)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        hidden = hidden_of([backbone.role("a"), backbone.role("b"), backbone.role()], collate(groups()))
    assert not saved
    assert not any(states.requires_grad for states in hidden)


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_role_equals_a_plain_model_with_its_update_in_the_weights(family: str) -> None:
    backbone = backbone_of(family)
    batch = collate([g for g in groups() if len(g.responses) == 1] * 2)
    got = hidden_of([backbone.role("b"), backbone.role(), backbone.role("a")], batch)
    for name, states in zip(["b", None, "a"], got, strict=True):
        plain = tiny(family, dtype=torch.float64)
        with torch.no_grad():
            for path, layer in lora_layers(backbone.model, name) if name else ():
                update = layer.lora_b[name] @ layer.lora_a[name] * {"a": 16.0 / 2, "b": 5.0 / 3}[name]
                plain.get_submodule(path).weight += update.T if layer.transposed else update
            if name == "a":
                embedding = backbone.model.get_input_embeddings()
                plain.get_input_embeddings().weight[torch.tensor([9, 11, 33])] = embedding.rows["a"]
        expected = plain.base_model(batch.input_ids).last_hidden_state
        assert torch.allclose(states, expected, rtol=0, atol=1e-9), name


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize(
    ("family", "layout"),
    [*((family, "shared") for family in FAMILIES), ("mamba", "rows"), ("llama", "rows")],
)
def test_values_and_gradients_are_those_of_separate_passes(family: str, layout: str) -> None:
    backbone = backbone_of(family)
    if layout != backbone.layout:
        backbone._use_layout("rows")
    batch = collate(groups(), layout=layout)
    roles = [backbone.role("a"), backbone.role(), backbone.role("b"), backbone.role("a").at(0.5)]
    apart = [role.backbone.hidden_states(batch, role.route()) for role in roles]
    expected = gradients(backbone, weighed(apart, batch))
    together = hidden_of(roles, batch)
    real = batch.segment_ids >= 0
    for got, alone in zip(together, apart, strict=True):
        assert torch.allclose(got[real], alone[real], rtol=0, atol=1e-9)
    assert_near(gradients(backbone, weighed(together, batch)), expected)
    assert {name.split(".")[-1] for name in expected} >= {"a", "b"}


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_gradient_leaks_between_roles(family: str) -> None:
    backbone, batch = backbone_of(family), collate(groups())
    alone = gradients(backbone, weighed([backbone.hidden_states(batch, Route.single("b"))], batch))
    _, hidden, _ = hidden_of([backbone.role("a"), backbone.role("b"), backbone.role()], batch)
    got = gradients(backbone, weighed([hidden], batch))
    others = [grad for name, grad in got.items() if name not in alone]
    assert others
    assert not any(grad.any() for grad in others)
    assert_near({name: grad for name, grad in got.items() if name in alone}, alone)


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_checkpointing_computes_again_with_every_roles_adapter_and_mask(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        backbone, batch = backbone_of(family, dropout=0.4, checkpointing=checkpointing), collate(groups())
        torch.manual_seed(8)
        roles = [backbone.role("a"), backbone.role(), backbone.role("b")]
        found.append(gradients(backbone, weighed(hidden_of(roles, batch, dropout=True), batch)))
    assert_near(found[1], found[0])


def test_dropout_reaches_the_adapters_of_a_joint_pass_and_not_the_plain_role() -> None:
    backbone, batch = backbone_of("llama", dropout=0.4), collate(groups())
    roles = [backbone.role("a"), backbone.role(), backbone.role("b")]
    quiet, noisy = hidden_of(roles, batch), hidden_of(roles, batch, dropout=True)
    assert [torch.equal(q, n) for q, n in zip(quiet, noisy, strict=True)] == [False, True, False]


def test_one_pass_a_backbone_and_results_in_the_order_of_the_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = backbone_of("llama"), Backbone(tiny("llama", dtype=torch.float64, seed=5))
    batch = collate(groups())
    roles = [first.role("a"), second.role(), first.role(), first.role("b")]
    expected = [role.backbone.hidden_states(batch, role.route()) for role in roles]
    calls: list[tuple[Backbone, Route, int]] = []
    original = Backbone.hidden_states

    def spy(self: Backbone, batch: GroupBatch, route: Route) -> Tensor:
        calls.append((self, route, batch.input_ids.shape[0]))
        return original(self, batch, route)

    monkeypatch.setattr(Backbone, "hidden_states", spy)
    got = hidden_of(roles, batch)
    assert calls == [(first, Route((("a", 3), (None, 3), ("b", 3))), 9), (second, Route.single(None), 3)]
    for g, e in zip(got, expected, strict=True):
        assert torch.allclose(g, e, rtol=0, atol=1e-6)
    assert hidden_of([], batch) == []
    assert isinstance(roles[0], Role)


def test_rows_that_are_not_the_batchs_are_refused() -> None:
    layer = layer_with({"a": 0.0})
    with (
        pytest.raises(ModelError, match="got 6 rows where the route's parts have 5"),
        routed(Route((("a", 2), (None, 3)))),
    ):
        layer(torch.randn(6, 6, dtype=torch.float64))
