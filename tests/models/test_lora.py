"""LoRA against Hu et al.'s formula in float64, and against `peft` in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import AdapterError
from burnish.models.adapters import load_adapter, save_adapter
from burnish.models.export import merge, write_model
from burnish.models.lora import (
    LoRAConfig,
    LoRALinear,
    adapter_names,
    adapter_parameters,
    copy_adapter,
    count_trainable_params,
    excess_rank,
    find_targets,
    inject,
    lora_layers,
    remove_adapter,
)
from burnish.models.roles import Backbone, response_logprobs
from burnish.models.routing import Route, routed
from tests.models.families import FAMILIES, tiny, tiny_tokenizer

SEQUENCE = torch.tensor([[5, 9, 11, 33, 60, 5, 2]])


def randomise(model: torch.nn.Module, adapter: str, seed: int = 1) -> None:
    """Give an adapter effect: B is zero at the start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, adapter).values():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)


def logits(model: torch.nn.Module, adapter: str | None = None) -> torch.Tensor:
    backbone = Backbone(model)
    batch = collate([PromptGroup((int(SEQUENCE[0, 0]),), (Response.full(SEQUENCE[0, 1:].tolist()),))])
    role = backbone.role(adapter)
    return role.head().logits(backbone.hidden_states(batch, role.route()))[0].detach()


def adapted(family: str, **options) -> torch.nn.Module:
    model = tiny(family, dtype=options.pop("dtype", torch.float64))
    inject(model, "a", LoRAConfig(**options), seed=3, token_ids=options.pop("token_ids", ()))
    randomise(model, "a")
    return model


@pytest.mark.parametrize("stabilised", [False, True])
def test_layer_equals_the_formula_with_its_gradients(stabilised: bool) -> None:
    base = torch.nn.Linear(6, 4, dtype=torch.float64)
    base.requires_grad_(False)
    layer = LoRALinear(base)
    layer.add("a", LoRAConfig(rank=4, alpha=3.0, rank_stabilised=stabilised), torch.Generator().manual_seed(0))
    a, b = layer.lora_a["a"], layer.lora_b["a"]
    assert torch.equal(b, torch.zeros_like(b))
    with torch.no_grad():
        b.copy_(torch.randn_like(b))
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 5, 4, dtype=torch.float64)
    scale = 3.0 / 2.0 if stabilised else 3.0 / 4.0  # alpha / sqrt(4), alpha / 4
    expected = x @ base.weight.T + base.bias + scale * (x @ a.T @ b.T)
    expected_grads = torch.autograd.grad((expected * upstream).sum(), [x, a, b])
    with routed(Route.single("a")):
        got = layer(x)
    got_grads = torch.autograd.grad((got * upstream).sum(), [x, a, b])
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for g, e in zip(got_grads, expected_grads, strict=True):
        assert torch.allclose(g, e, rtol=0, atol=1e-12)


def test_dropout_acts_on_the_adapter_only_and_its_gradient_is_right() -> None:
    base = torch.nn.Linear(6, 4, dtype=torch.float64).requires_grad_(False)
    layer = LoRALinear(base)
    layer.add("a", LoRAConfig(rank=2, alpha=2.0, dropout=0.5), torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.lora_b["a"])
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    keep = torch.nn.functional.dropout(torch.ones_like(x), 0.5)
    leaves = [x, layer.lora_a["a"], layer.lora_b["a"]]
    expected = base(x) + (x * keep) @ leaves[1].T @ leaves[2].T
    expected_grads = torch.autograd.grad(expected.square().sum(), leaves)
    torch.manual_seed(5)
    with routed(Route.single("a", dropout=True)):
        got = layer(x)
    got_grads = torch.autograd.grad(got.square().sum(), leaves)
    assert torch.allclose(got, expected, atol=1e-12)
    assert all(torch.allclose(g, e, atol=1e-12) for g, e in zip(got_grads, expected_grads, strict=True))
    with routed(Route.single("a")):
        assert torch.allclose(layer(x), base(x) + x @ leaves[1].T @ leaves[2].T, atol=1e-12)


def test_defaults_are_the_papers_and_a_new_adapter_changes_nothing() -> None:
    config = LoRAConfig()
    assert (config.rank, config.alpha, config.scale) == (8, 16.0, 2.0)
    model = tiny("gemma3", dtype=torch.float64)
    before = logits(model)
    inject(model, "a", config, seed=0, token_ids=[2, 5])
    assert torch.allclose(logits(model, "a"), before, rtol=0, atol=1e-12)


def test_normal_init_has_the_stated_deviation() -> None:
    layer = LoRALinear(torch.nn.Linear(4000, 3))
    layer.add("a", LoRAConfig(rank=4, init="normal"), torch.Generator().manual_seed(0))
    assert layer.lora_a["a"].std().item() == pytest.approx(0.25, rel=0.05)


def test_frozen_weight_is_neither_copied_nor_trained() -> None:
    model = adapted("llama", rank=2, alpha=4.0)
    Backbone(model)
    batch = collate([PromptGroup((3, 4), (Response.full([5, 6]),))])
    response_logprobs(Backbone(model).role("a"), batch).token.sum().backward()
    trained = {id(p) for p in adapter_parameters(model, "a").values()}
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained)


def test_a_rank_that_a_layer_can_not_hold_is_named_with_its_sides() -> None:
    """A product of (O, r) and (r, I) has rank min(O, I) at most; a rank equal to it is no waste."""
    model = tiny("llama")
    sides = {name: tuple(model.get_submodule(name).weight.shape) for name in find_targets(model, ["k_proj", "up_proj"])}
    narrow = min(min(shape) for shape in sides.values())
    inject(model, "full", LoRAConfig(rank=narrow, targets=("k_proj",)), seed=0)
    assert excess_rank(model) is None
    inject(model, "over", LoRAConfig(rank=narrow + 1, targets=("k_proj", "up_proj")), seed=0)
    told = excess_rank(model) or ""
    for path, (out, into) in sides.items():
        if min(out, into) == narrow and path.startswith("model.layers.0"):
            assert f"rank {narrow + 1} in {path} and 1 more ({into} to {out})" in told
        else:
            assert path not in told
    for parameter in adapter_parameters(model, "over").values():
        parameter.requires_grad_(False)
    assert excess_rank(model) is None, "what does not train was somebody else's choice"


def test_counting() -> None:
    model = tiny("llama")
    n_all = sum(p.numel() for p in model.parameters())
    inject(model, "a", LoRAConfig(rank=2, targets=("q_proj", "v_proj")), seed=0)
    # q: 32 -> 32, v: 32 -> 16 (two of four heads), two layers: rank x (in + out) each.
    assert count_trainable_params(model) == (2 * (2 * (32 + 32) + 2 * (32 + 16)), n_all + 2 * 2 * (64 + 48))


def test_targets_by_name_pattern_and_all() -> None:
    model = tiny("llama")
    assert len(find_targets(model, ["all-linear"])) == 2 * 7
    assert find_targets(model, ["q_proj"]) == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    assert find_targets(model, ["*.layers.1.mlp.*"]) == [f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")]
    assert "lm_head" not in find_targets(model, ["all-linear"])
    with pytest.raises(AdapterError, match="did you mean 'q_proj'"):
        find_targets(model, ["q_prj"])
    assert find_targets(tiny("gpt2"), ["c_attn"]) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]


def test_two_adapters_and_none_do_not_disturb_each_other() -> None:
    model = tiny("gemma3", dtype=torch.float64)
    plain = logits(model)
    inject(model, "a", LoRAConfig(rank=2), seed=0, token_ids=[9])
    randomise(model, "a", 1)
    only_a = logits(model, "a")
    inject(model, "b", LoRAConfig(rank=4, targets=("q_proj",)), seed=1)
    randomise(model, "b", 2)
    assert adapter_names(model) == ["a", "b"]
    assert torch.equal(logits(model, "a"), only_a)
    assert torch.equal(logits(model), plain)
    assert not torch.allclose(logits(model, "b"), only_a)
    copy_adapter(model, "a", "c")
    assert torch.equal(logits(model, "c"), only_a)
    randomise(model, "c", 3)
    assert torch.equal(logits(model, "a"), only_a), "a copy must not share memory with its source"
    remove_adapter(model, "a")
    assert adapter_names(model) == ["b", "c"]
    assert torch.equal(logits(model), plain)


def test_several_roles_in_one_pass() -> None:
    model = tiny("gemma3", dtype=torch.float64)
    for name, seed in (("a", 1), ("b", 2)):
        inject(model, name, LoRAConfig(rank=2), seed=seed, token_ids=[9, 11])
        randomise(model, name, seed)
    backbone = Backbone(model)
    batch = collate([PromptGroup((5, 9), (Response.full([11, 33, 60]),))] * 4)
    together = backbone.hidden_states(batch, Route((("a", 2), (None, 1), ("b", 1))))
    for row, name in enumerate(["a", "a", None, "b"]):
        alone = backbone.hidden_states(batch, backbone.role(name).route())
        assert torch.allclose(together[row], alone[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_ours_and_we_load_pefts(family: str, tmp_path: Path) -> None:
    ours = tiny(family, dtype=torch.float64)
    inject(ours, "a", LoRAConfig(rank=3, alpha=5.0), seed=0)
    randomise(ours, "a")
    expected = logits(ours, "a")
    save_adapter(ours, "a", tmp_path, base="somewhere")
    theirs = PeftModel.from_pretrained(tiny(family, dtype=torch.float64), tmp_path, autocast_adapter_dtype=False)
    got = theirs.eval()(SEQUENCE).logits[0]
    # Theirs upcasts norms to fp32 as transformers does; so does ours.
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)

    config = LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", use_rslora=True, task_type="CAUSAL_LM")
    theirs = get_peft_model(tiny(family, dtype=torch.float64), config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "peft")
    model = tiny(family, dtype=torch.float64)
    load_adapter(model, tmp_path / "peft", "x")
    assert torch.allclose(logits(model, "x"), theirs.eval()(SEQUENCE).logits[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma3", "smollm", "qwen2"])
def test_trainable_token_rows_travel_to_peft_and_back(family: str, tmp_path: Path) -> None:
    ours = tiny(family)
    inject(ours, "a", LoRAConfig(rank=2), seed=0, token_ids=[9, 2, 60])
    randomise(ours, "a")
    expected = logits(ours, "a")
    save_adapter(ours, "a", tmp_path, base="somewhere")
    theirs = PeftModel.from_pretrained(tiny(family), tmp_path).eval()(SEQUENCE).logits[0]
    assert torch.allclose(theirs, expected, rtol=1e-4, atol=1e-4)
    again = tiny(family)
    load_adapter(again, tmp_path, "b")
    assert torch.equal(logits(again, "b"), expected)


def test_what_does_not_fit_is_refused_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    save_adapter(adapted("llama"), "a", tmp_path, base="x")
    for other, message in ((tiny("llama", vocab_size=98), "vocab_size 97"), (tiny("gemma3"), "model_type"),
                           (tiny("llama", num_hidden_layers=1), "no layer")):  # fmt: skip
        with pytest.raises(AdapterError, match=message):
            load_adapter(other, tmp_path, "a")
        assert adapter_names(other) == []
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(tiny("llama"), tmp_path, "a")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(AdapterError, match="pickle"):
        load_adapter(tiny("llama"), tmp_path, "a")


def test_adapter_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    theirs = get_peft_model(tiny("llama"), LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="use_dora=True"):
        load_adapter(tiny("llama"), tmp_path, "a")


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_adapted_and_loads_in_transformers(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tied = family in ("gemma3", "smollm", "qwen2", "gemma2")
    model = tiny(family)
    inject(model, "a", LoRAConfig(rank=2), seed=0, token_ids=[9] if tied else ())
    randomise(model, "a")
    expected = logits(model, "a")
    check = merge(Backbone(model), "a", [SEQUENCE[0].tolist()])
    assert 0 <= check.error < 1e-4 < check.effect
    assert not list(lora_layers(model))
    assert torch.allclose(logits(model), expected, rtol=1e-4, atol=1e-4)
    write_model(model, tiny_tokenizer(), tmp_path, stop_ids=[2])
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(again(SEQUENCE).logits[0], expected, rtol=1e-3, atol=1e-4)


def test_merge_of_an_untrained_adapter_is_refused() -> None:
    model = tiny("llama")
    inject(model, "a", LoRAConfig(), seed=0)
    with pytest.raises(AdapterError, match="changes nothing"):
        merge(Backbone(model), "a", [SEQUENCE[0].tolist()])


def test_merge_that_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama", dtype=torch.float32)
    monkeypatch.setattr(LoRALinear, "delta", lambda self, adapter: torch.zeros_like(self.weight))
    with pytest.raises(AdapterError, match="not the adapted one"):
        merge(Backbone(model), "a", [SEQUENCE[0].tolist()])


def test_bf16_backbone_with_fp32_adapter() -> None:
    model = adapted("gemma3", dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in adapter_parameters(model, "a").values())
    expected = logits(adapted("gemma3", dtype=torch.float32), "a")
    # Weights and activations of 8 bits of mantissa through three layers.
    assert (logits(model, "a").float() - expected).abs().mean() < 0.05 * expected.abs().mean()
