"""The plain path of a backbone: it is transformers' own, it takes no fast path, and the fast ones equal it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from burnish.data.groups import collate
from burnish.errors import ModelError
from burnish.models.config import Compute
from burnish.models.lora import LoRAConfig, inject
from burnish.models.roles import Backbone, Role, hidden_of
from burnish.models.trunk import Trunk
from burnish.ops.entropy import token_entropy
from burnish.ops.logprobs import OutputHead, token_logprobs
from burnish.rollout.sampler import SamplingParams, sample
from tests.fast_paths import SAMPLING, counted, everywhere
from tests.models.families import FAMILIES, tiny
from tests.models.test_core import TOLERANCE, groups, separate_logprobs
from tests.models.test_several_roles import assert_near, gradients, mamba, stir

ALL = [*FAMILIES, "mamba"]
OPENING = list(range(10, 19))
PROMPTS = [[*OPENING, 5, 7, 11], [*OPENING, 3], [*OPENING, 8, 9, 10, 12, 13]]


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere(monkeypatch)


def backbone_of(family: str, compute: Compute) -> Backbone:
    """With the adapters `a`, which has rows of tokens of its own, and `b`, both moved."""
    model = mamba() if family == "mamba" else tiny(family, dtype=torch.float64)
    inject(model, "a", LoRAConfig(rank=2), seed=1, token_ids=[9, 11, 33])
    inject(model, "b", LoRAConfig(rank=3, layers="last-1"), seed=2)
    stir(model, "a", 3)
    stir(model, "b", 4)
    return Backbone(model, compute=compute)


def computed(roles: Sequence[Role]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Each role's log-probs and entropies, and the gradients of a sum in which each has a weight of its own."""
    batch = collate(groups(), layout=roles[0].backbone.layout)
    trunk = Trunk.shared_by(roles[1:])
    batch = batch if trunk is None else trunk.attached(batch, groups())
    draw, found, total = torch.Generator().manual_seed(4), {}, torch.zeros((), dtype=torch.float64)
    for role, states in zip(roles, hidden_of(roles, batch), strict=True):
        hidden = states.reshape(-1, states.shape[-1]).index_select(0, batch.predictors)
        values = {
            "log-probs": token_logprobs(hidden, role.head(), batch.targets),
            "entropies": token_entropy(hidden, role.head()),
        }
        for name, value in values.items():
            total = total + (value * torch.randn(value.shape, generator=draw, dtype=torch.float64)).sum()
            found[f"{name} of {role.adapter}"] = value
    return found, gradients(roles[0].backbone, total)


def roles_of(backbone: Backbone) -> list[Role]:
    return [backbone.role("a").at(0.7), backbone.role("b"), backbone.role()]


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ALL)
def test_fast_equals_plain(family: str) -> None:
    with counted() as fast:
        got = computed(roles_of(backbone_of(family, "fast")))
    with counted() as plain:
        expected = computed(roles_of(backbone_of(family, "plain")))
    assert not plain
    wanted = {"LoRA as one node", "tiled log-probs", "tiled entropy", "several roles in one pass", "trunk"}
    wanted |= {"rows shared by responses"} if family != "mamba" else set()
    wanted |= {"attention in blocks"} if family not in ("mamba", "gemma2") else set()  # capped scores
    gated = family not in ("gpt2", "gpt_neox", "mamba")
    assert gated == ("gated products as one node" in fast)
    assert gated == ("inputs made again" in fast)
    assert wanted <= fast.keys()
    for ours, theirs in zip(got, expected, strict=True):
        assert_near(ours, theirs, TOLERANCE)
    assert any("lora" in name for name in expected[1])


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_is_transformers_own(family: str) -> None:
    expected = torch.cat(separate_logprobs(tiny(family, dtype=torch.float64)))
    role = Backbone(tiny(family, dtype=torch.float64), compute="plain").role()
    batch = collate(groups(), layout="rows")
    hidden = role.backbone.hidden_states(batch, role.route())
    got = token_logprobs(hidden.reshape(-1, hidden.shape[-1])[batch.predictors], role.head(), batch.targets)
    assert torch.allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ALL)
def test_sampling_on_a_plain_backbone_takes_no_fast_path_and_draws_the_same(family: str) -> None:
    params, drawn = SamplingParams(max_new_tokens=8, seed=3, stop_ids=(20,)), {}
    for compute in ("fast", "plain"):
        backbone = backbone_of(family, compute)  # type: ignore[arg-type]
        with counted() as paths:
            for adapter in ("a", "b"):
                samples = sample(backbone.role(adapter), PROMPTS, params, n=2, batch_size=4)
                drawn[compute, adapter] = [one for each in samples for one in each]
        if compute == "plain":
            assert not paths
        elif family != "mamba":
            wanted = {*SAMPLING, *(["attention in blocks"] if family in ("gemma3", "mistral") else [])}
            # GPT-2's layers are no nn.Linear: only its merged weights are turned.
            assert wanted - paths.keys() == ({"turned products"} if family == "gpt2" else set())
    for adapter in ("a", "b"):
        for fast, plain in zip(drawn["fast", adapter], drawn["plain", adapter], strict=True):
            assert fast.ids == plain.ids
            found, expected = (torch.tensor(one.logprobs, dtype=torch.float64) for one in (fast, plain))
            assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_plain_decoding_on_a_fast_backbone_reads_through_a_mask() -> None:
    role = backbone_of("gemma3", "fast").role("a")
    with counted() as paths:
        sample(role, PROMPTS, SamplingParams(max_new_tokens=4, seed=3, decoding="plain"))
    assert paths.keys() == {
        "a cache by position", "attention by a plan", "norms as one node", "LoRA as one node",
        "gated products as one node",
    }  # fmt: skip


def test_a_plain_backbone_wants_a_model_that_no_fast_one_has_changed() -> None:
    model = tiny("llama")
    Backbone(model)
    with pytest.raises(ModelError, match="a fast backbone stands on this model"):
        Backbone(model, compute="plain")
    model = tiny("llama")
    Backbone(model, compute="plain")
    Backbone(model, compute="plain")


def test_a_column_that_can_not_come_adds_nothing_to_the_whole_entropy() -> None:
    head = OutputHead(torch.randn(3, 4), bias=torch.tensor([0.0, 0.0, -torch.inf]), whole=True)
    hidden = torch.randn(2, 4, requires_grad=True)
    entropy = token_entropy(hidden, head)
    entropy.sum().backward()
    p = torch.softmax(hidden @ head.weight[:2].T, -1)
    assert torch.allclose(entropy, -(p * p.log()).sum(-1), atol=1e-6)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
