"""Lower layers computed once: parts of a forward against the whole, in float64; who shares them; what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from burnish.data.groups import GroupBatch, PromptGroup, TrunkStates, collate
from burnish.errors import AdapterError
from burnish.models.adapters import load_adapter, save_adapter
from burnish.models.config import LoRAConfig
from burnish.models.layers import decoder_layers, layer_number
from burnish.models.lora import adapter_parameters, copy_adapter, find_targets, inject, tie_adapters
from burnish.models.roles import Backbone, Role, freeze, hidden_of
from burnish.models.routing import Route, routed
from burnish.models.trunk import Trunk, TrunkCache
from tests.models.families import FAMILIES, tiny
from tests.models.test_core import groups
from tests.models.test_several_roles import assert_near, gradients, mamba, stir, weighed

LAST = "last-1"


def cast_of(family: str, *, checkpointing: bool = False, dropout: float = 0.0) -> tuple[Backbone, Role, Role, Role]:
    """A frozen start over all layers; policy and critic, copies of it that train in the last layer only."""
    model = mamba() if family == "mamba" else tiny(family, dtype=torch.float64)
    inject(model, "start", LoRAConfig(rank=2, dropout=dropout), seed=1)
    stir(model, "start", 2)
    freeze(adapter_parameters(model, "start"))
    for number, name in enumerate(("policy", "critic")):
        copy_adapter(model, "start", name, layers=LAST)
        stir(model, name, 5 + number, only_trained=True)
    backbone = Backbone(model, checkpointing=checkpointing)
    return backbone, backbone.role("start"), backbone.role("policy"), backbone.role("critic")


def batch_for(backbone: Backbone) -> GroupBatch:
    return collate(groups(), layout=backbone.layout)


def compared(roles: Sequence[Role], batch: GroupBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Hidden states and gradients of the roles over a batch: with a trunk in one pass, without it in one each."""
    apart = (role.backbone.hidden_states(batch, role.route()) for role in roles)
    hidden = list(apart) if batch.trunk is None else hidden_of(roles, batch)
    real = batch.segment_ids >= 0
    values = {str(role.adapter): states[real] for role, states in zip(roles, hidden, strict=True)}
    return values, gradients(roles[0].backbone, weighed(hidden, batch))


@pytest.mark.parametrize("family", [*FAMILIES, "mamba"])
def test_values_and_gradients_from_a_trunk_are_those_of_whole_passes(true_float64: None, family: str) -> None:
    backbone, start, policy, critic = cast_of(family)
    batch = batch_for(backbone)
    expected = compared([policy, start, critic], batch)
    trunk = Trunk.shared_by([policy, start, critic])
    assert trunk is not None
    assert trunk.depth == len(decoder_layers(backbone.model)[1]) - 1
    got = compared([policy, start, critic], trunk.attached(batch, []))
    for found, wanted in zip(got, expected, strict=True):
        assert_near(found, wanted)
    assert all(".lora_" in name and not name.endswith(".start") for name in expected[1])


def test_the_lower_layers_are_not_run_again(true_float64: None) -> None:
    backbone, start, policy, critic = cast_of("llama")
    batch = batch_for(backbone)
    trunk = Trunk.shared_by([policy, start, critic])
    assert trunk is not None
    with_states = trunk.attached(batch, [])
    layers = decoder_layers(backbone.model)[1]
    calls = [0] * len(layers)
    for number, layer in enumerate(layers):

        def count(*_: object, number: int = number) -> None:
            calls[number] += 1

        layer.self_attn.register_forward_hook(count)  # the layer itself is passed by, its attention is not
    hidden_of([policy, start, critic], with_states)
    assert calls == [0] * trunk.depth + [1] * (len(layers) - trunk.depth)


@pytest.mark.parametrize("family", [*FAMILIES, "mamba"])
def test_with_checkpointing_too(family: str) -> None:
    """As transformers rounds: what backward computes again is outside of `true_float64`."""
    expected = compared([cast_of(family)[2]], batch_for(cast_of(family)[0]))
    backbone, start, policy, _ = cast_of(family, checkpointing=True)
    trunk = Trunk.shared_by([policy, start])
    assert trunk is not None
    for found, wanted in zip(compared([policy], trunk.attached(batch_for(backbone), [])), expected, strict=True):
        assert_near(found, wanted)


def test_a_role_with_other_lower_layers_is_computed_whole(true_float64: None) -> None:
    """What a batch brings of another trunk must not be taken for its own."""
    backbone, start, policy, _ = cast_of("llama")
    inject(backbone.model, "other", LoRAConfig(rank=2), seed=9)
    stir(backbone.model, "other", 10)
    other, batch = backbone.role("other"), batch_for(backbone)
    expected = hidden_of([policy, other], batch)
    trunk = Trunk.shared_by([policy, start])
    assert trunk is not None
    assert not trunk.carries(other)
    found = hidden_of([policy, other], trunk.attached(batch, []))
    alone = backbone.hidden_states(trunk.attached(batch, []), other.route())
    for got, wanted in [*zip(found, expected, strict=True), (alone, expected[1])]:
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_an_adapter_that_comes_later_is_seen(true_float64: None) -> None:
    """Its layers were plain when the trunk was made."""
    model = tiny("llama", dtype=torch.float64)
    inject(model, "policy", LoRAConfig(rank=2, layers=LAST), seed=1)
    backbone = Backbone(model)
    trunk = Trunk.shared_by([backbone.role("policy"), backbone.role()])
    assert trunk is not None
    inject(model, "late", LoRAConfig(rank=2), seed=2)
    stir(model, "late", 3)
    late, batch = backbone.role("late"), batch_for(backbone)
    assert not trunk.carries(late)
    whole = backbone.hidden_states(batch, late.route())
    assert torch.equal(hidden_of([late], trunk.attached(batch, []))[0], whole)


def test_lora_outside_of_the_layers_counts(true_float64: None) -> None:
    """OPT projects its embeddings before the first layer."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = OPTConfig(**sizes, word_embed_proj_dim=16, max_position_embeddings=64)
    model = OPTForCausalLM(config).double().eval()
    inject(model, "in", LoRAConfig(rank=2, targets=("project_in", "*.layers.2.*")), seed=1)
    inject(model, "upper", LoRAConfig(rank=2, targets=("*.layers.2.*",)), seed=1)
    backbone = Backbone(model)
    assert Trunk.shared_by([backbone.role("in")]) is None
    assert Trunk.shared_by([backbone.role("upper")]) is not None


def test_a_model_without_a_list_of_layers_has_no_trunk() -> None:
    model = tiny("llama")
    inject(model, "a", LoRAConfig(rank=2, layers=LAST), seed=1)
    backbone = Backbone(model)
    model.config.num_hidden_layers += 1
    assert Trunk.shared_by([backbone.role("a")]) is None


def test_who_shares_a_trunk(true_float64: None) -> None:
    backbone, start, policy, _critic = cast_of("llama")
    plain = backbone.role()
    assert Trunk.shared_by([plain, policy]) is None  # the start adapts its lower layers, the plain model does not
    inject(backbone.model, "fresh", LoRAConfig(rank=2, layers=LAST), seed=3)
    fresh = Trunk.shared_by([plain, backbone.role("fresh")])
    assert fresh is not None
    assert fresh.carries(plain)
    assert not fresh.carries(policy)
    inject(backbone.model, "all", LoRAConfig(rank=2), seed=3)
    assert Trunk.shared_by([backbone.role("all")]) is None  # it trains from the first layer on
    copy_adapter(backbone.model, "start", "again")
    assert Trunk.shared_by([start, backbone.role("again")]) is None  # equal today, but the copy trains
    freeze(adapter_parameters(backbone.model, "again"))
    assert Trunk.shared_by([start, backbone.role("again")]) is None  # nobody has compared them
    tie_adapters(backbone.model, "again", "start")
    assert Trunk.shared_by([start, backbone.role("again")]) is not None
    other = cast_of("llama")[1]
    assert Trunk.shared_by([start, other]) is None
    backbone.model.requires_grad_(True)
    assert Trunk.shared_by([plain]) is None


def test_token_rows_of_its_own_make_another_trunk(true_float64: None) -> None:
    model = tiny("llama", dtype=torch.float64)
    inject(model, "start", LoRAConfig(rank=2), seed=1, token_ids=[9, 11])
    freeze(adapter_parameters(model, "start"))
    copy_adapter(model, "start", "policy", layers=LAST)
    inject(model, "rows", LoRAConfig(rank=2, layers=LAST), seed=1, token_ids=[9])
    backbone = Backbone(model)
    assert Trunk.shared_by([backbone.role("start"), backbone.role("policy")]) is not None
    freeze({name: p for name, p in adapter_parameters(model, "rows").items() if name == "token_rows"})
    assert Trunk.shared_by([backbone.role(), backbone.role("rows")]) is None
    policy = backbone.role("policy")
    assert "token_rows" in policy.parameters()
    assert "token_rows" not in policy.trained()


@pytest.mark.parametrize("family", [*FAMILIES, "mamba"])
def test_kept_states_are_those_computed_now(true_float64: None, family: str) -> None:
    backbone, start, policy, _ = cast_of(family)
    assert backbone.layout == ("rows" if family == "mamba" else "shared")
    trunk = Trunk.shared_by([policy, start])
    assert trunk is not None
    examples = [replace(group, index=i) for i, group in enumerate(groups())]
    cache = TrunkCache(trunk, budget=1e9)

    def passes(chosen: Sequence[PromptGroup]) -> list[tuple[Sequence[PromptGroup], GroupBatch]]:
        return [([one], collate([one], layout=backbone.layout)) for one in chosen]

    cache.fill(examples, passes)
    assert cache.n_groups == len(examples)
    mixed = [examples[2], examples[0]]
    batch = collate(mixed, layout=backbone.layout)
    real = batch.segment_ids >= 0
    kept, fresh = cache.attached(batch, mixed), trunk.attached(batch, mixed)
    assert kept.trunk is not None
    assert fresh.trunk is not None
    assert torch.allclose(kept.trunk.hidden[real], fresh.trunk.hidden[real], rtol=0, atol=1e-12)
    for got, wanted in zip(compared([policy], kept), compared([policy], batch), strict=True):
        assert_near(got, wanted)


def test_what_exceeds_the_budget_is_computed_each_time(true_float64: None) -> None:
    backbone, start, policy, _ = cast_of("llama")
    trunk = Trunk.shared_by([policy, start])
    assert trunk is not None
    examples = [replace(group, index=i) for i, group in enumerate(groups())]
    width = backbone.config.hidden_size * 8  # bytes of a float64 state
    assert TrunkCache(trunk, 0).bytes_for(examples[:2]) == width * sum(g.row_length for g in examples[:2])
    cache = TrunkCache(trunk, budget=width * sum(g.row_length for g in examples[:2]))
    cache.fill(examples, lambda chosen: [(chosen, collate(chosen))])
    assert cache.n_groups == 2
    batch = collate(examples[1:3])
    states = cache.attached(batch, examples[1:3]).trunk
    assert states is not None  # of one group that is kept and one that is not
    real, expected = batch.segment_ids >= 0, trunk.states(batch).hidden
    assert torch.allclose(states.hidden[real], expected[real], rtol=0, atol=1e-12)
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trunk, "states", lambda self, batch: asked.append(len(batch.indices)) or TrunkStates(expected, self)
        )
        cache.attached(collate(examples[:2]), examples[:2])
        assert asked == []  # all are kept


def test_layers_that_stay_have_no_dropout(true_float64: None) -> None:
    """Or what is kept of them would differ from what training computes."""
    backbone, start, policy, _ = cast_of("llama", dropout=0.5)
    batch = batch_for(backbone)
    trunk = Trunk.shared_by([policy, start])
    assert trunk is not None
    torch.manual_seed(0)
    whole = backbone.hidden_states(batch, policy.route(dropout=True))
    torch.manual_seed(0)
    from_trunk = backbone.hidden_states(trunk.attached(batch, []), policy.route(dropout=True))
    real = batch.segment_ids >= 0
    assert torch.allclose(whole[real], from_trunk[real], rtol=0, atol=1e-12)
    torch.manual_seed(1)
    assert not torch.allclose(backbone.hidden_states(batch, policy.route(dropout=True))[real], whole[real])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_adapters_of_the_last_layers(family: str) -> None:
    model = tiny(family)
    prefix, layers = decoder_layers(model)
    inject(model, "upper", LoRAConfig(rank=2, layers=LAST), seed=0)
    numbers = {layer_number(name, prefix) for name in adapter_parameters(model, "upper")}
    assert numbers == {len(layers) - 1}
    with pytest.raises(AdapterError, match="more layers than the model has"):
        inject(model, "too-many", LoRAConfig(layers="last-99"), seed=0)
    with pytest.raises(AdapterError, match="match nothing in last-1"):
        first = find_targets(model, ["all-linear"])[0]
        inject(model, "none", LoRAConfig(targets=(first,), layers=LAST), seed=0)


def test_a_copy_shares_the_layers_that_stay() -> None:
    model = tiny("llama")
    inject(model, "start", LoRAConfig(rank=2), seed=1)
    copy_adapter(model, "start", "policy", layers=LAST)
    start, policy = adapter_parameters(model, "start"), adapter_parameters(model, "policy")
    prefix, layers = decoder_layers(model)
    for name in start:
        lower = layer_number(name, prefix) != len(layers) - 1
        assert (start[name] is policy[name]) == lower
        assert torch.equal(start[name], policy[name])
    inject(model, "upper", LoRAConfig(rank=2, targets=(f"{prefix}.0.mlp.*",)), seed=1)
    with pytest.raises(AdapterError, match="adapts none of the layers last-1"):
        copy_adapter(model, "upper", "none", layers=LAST)


def test_ties_only_what_is_equal_and_frozen() -> None:
    model = tiny("llama")
    inject(model, "start", LoRAConfig(rank=2), seed=1)
    copy_adapter(model, "start", "reward")
    n_layers = len(adapter_parameters(model, "start")) // 2
    assert tie_adapters(model, "reward", "start") == 0  # they train
    for name in ("start", "reward"):
        freeze(adapter_parameters(model, name))
    changed = next(iter(adapter_parameters(model, "reward").values()))
    with torch.no_grad():
        changed[0, 0] += 1e-6
    assert tie_adapters(model, "reward", "start") == n_layers - 1
    start, reward = adapter_parameters(model, "start"), adapter_parameters(model, "reward")
    assert [name for name in start if start[name] is not reward[name]] == list(start)[:2]


def test_peft_reads_an_adapter_of_the_last_layers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from peft import PeftModel

    model = tiny("llama")
    inject(model, "upper", LoRAConfig(rank=2, layers=LAST), seed=0)
    stir(model, "upper", 1)
    save_adapter(model, "upper", tmp_path, base="tiny")
    ids = torch.tensor([[5, 7, 11, 13]])
    with routed(Route.single("upper")):
        ours = model(ids).logits
    theirs = PeftModel.from_pretrained(tiny("llama"), str(tmp_path))(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    again = tiny("llama")
    load_adapter(again, tmp_path, "upper")
    with routed(Route.single("upper")):
        assert torch.allclose(again(ids).logits, ours, atol=1e-6)


def test_a_wrong_value_is_named() -> None:
    for value in ("last-0", "first-3", "10"):
        with pytest.raises(ValueError, match="last-N"):
            LoRAConfig(layers=value)
    with pytest.raises(ValueError, match="use layers: all"):
        LoRAConfig(layers=LAST, trainable_tokens=("<eos>",))


def test_a_model_whose_layers_hand_on_more_is_computed_whole() -> None:
    """Its lower layers leave something behind that the upper ones read: no trunk, and nothing wrong."""
    model = tiny("llama")
    layers = decoder_layers(model)[1]
    left: dict[str, Tensor] = {}
    first, second = layers[0].forward, layers[1].forward

    def leaves(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        left["mean"] = hidden.mean(1, keepdim=True)
        return first(hidden, *args, **kwargs)

    def reads(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        return second(hidden + left["mean"], *args, **kwargs)

    layers[0].forward, layers[1].forward = leaves, reads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "_demand_right_logprobs", lambda *_: None)
        backbone = Backbone(model)
    assert Trunk.shared_by([backbone.role()]) is None
