"""The proof of the core, in float64 on tiny models of every family.

The expectation comes from transformers' own forward, one unpadded sequence at a time, its own attention and its own
output projection: log-probs and gradients of the shared layout must equal it to 1e-9.
"""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from burnish.data.groups import PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.models.roles import Backbone, response_logprobs
from burnish.ops import tiles
from tests.models.families import FAMILIES, tiny

TOLERANCE = 1e-9


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tokens and of the vocabulary of 97, with an uneven last one."""
    monkeypatch.setattr(tiles, "TOKEN_TILE", 5)
    monkeypatch.setattr(tiles, "VOCAB_TILE", 20)


class TrueFloat64(TorchFunctionMode):
    """Keeps float64 models in float64: transformers' norms and softmaxes would round to fp32 on the way (1e-7)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wide = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if wide and (func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args[1:])):
            return args[0]
        if wide and kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def groups() -> list[PromptGroup]:
    """Prompts and responses of uneven lengths, longer than the tiny models' windows of 4; one and three responses."""
    draw = torch.Generator().manual_seed(7)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 97, (n,), generator=draw).tolist())

    multi_turn = Response(ids(9), (True, True, True, False, False, False, True, True, True))
    return [
        PromptGroup(ids(6), (Response.full(ids(5)), Response.full(ids(8)))),
        PromptGroup(ids(1), (Response.full(ids(1)), Response.full(ids(11)), Response.full(ids(3)))),
        PromptGroup(ids(9), (multi_turn,)),
    ]


def separate_logprobs(model: torch.nn.Module) -> list[torch.Tensor]:
    """log p of each loss token of each response, from one forward a response with the model's own code."""
    out = []
    for group in groups():
        for response in group.responses:
            sequence = torch.tensor([group.prompt + response.ids])
            logp = torch.log_softmax(model(sequence).logits[0], -1)
            start = len(group.prompt)
            places = [i for i, loss in enumerate(response.loss) if loss]
            out.append(torch.stack([logp[start + i - 1, response.ids[i]] for i in places]))
    return out


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equals_separate_forwards(family: str, layout: str = "shared") -> None:
    """Log-probs and gradients of all groups in one batch against separate unpadded forwards."""
    eager_or_sdpa = "eager" if family == "gemma2" else "sdpa"
    reference = tiny(family, dtype=torch.float64, attn_implementation=eager_or_sdpa)
    expected = separate_logprobs(reference)
    weights = [torch.randn(len(e), dtype=torch.float64) for e in expected]
    expected_grads = gradients(reference, sum((e * w).sum() for e, w in zip(expected, weights, strict=True)))

    model = tiny(family, dtype=torch.float64)
    backbone = Backbone(model)
    assert backbone.layout == "shared"
    if layout == "rows":
        backbone = Backbone(model)
        backbone.layout = "rows"
        model.set_attn_implementation(eager_or_sdpa)
    logps = response_logprobs(backbone.role(), collate(groups(), layout=layout))
    got = torch.split(logps.token, [len(e) for e in expected])
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE)

    got_grads = gradients(model, (logps.token * torch.cat(weights)).sum())
    assert got_grads.keys() == expected_grads.keys()
    for name, grad in got_grads.items():
        assert torch.allclose(grad, expected_grads[name], rtol=0, atol=TOLERANCE), name


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("layout", ["shared", "rows"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_equal_separate_unpadded_forwards(family: str, layout: str) -> None:
    assert_equals_separate_forwards(family, layout)


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ["gemma3", "llama", "gpt2"])
def test_sums_and_counts_are_per_response(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    expected = separate_logprobs(model)
    logps = response_logprobs(Backbone(tiny(family, dtype=torch.float64)).role(), collate(groups()))
    assert logps.counts().tolist() == [5, 8, 1, 11, 3, 6]
    assert torch.allclose(logps.summed(), torch.stack([e.sum() for e in expected]), rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_other_groups_in_the_batch_and_padding_change_nothing(family: str) -> None:
    role = Backbone(tiny(family, dtype=torch.float64)).role()
    together = response_logprobs(role, collate(groups(), pad_to_multiple=64)).summed()
    alone = torch.cat([response_logprobs(role, collate([g])).summed() for g in groups()])
    assert torch.allclose(together, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients(family: str) -> None:
    plain, saving = tiny(family, dtype=torch.float64), tiny(family, dtype=torch.float64)
    batch = collate(groups())
    a = gradients(plain, response_logprobs(Backbone(plain).role(), batch).token.sum())
    b = gradients(saving, response_logprobs(Backbone(saving, checkpointing=True).role(), batch).token.sum())
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=0, atol=1e-12), name


@pytest.mark.usefixtures("true_float64")
@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "gpt2"])
def test_a_role_at_a_temperature_divides_the_logits(family: str) -> None:
    eager_or_sdpa = "eager" if family == "gemma2" else "sdpa"
    stock = tiny(family, dtype=torch.float64, attn_implementation=eager_or_sdpa)
    expected = []
    for group in groups():
        for response in group.responses:
            logp = torch.log_softmax(stock(torch.tensor([group.prompt + response.ids])).logits[0] / 0.6, -1)
            start = len(group.prompt)
            expected += [
                logp[start + i - 1, token]
                for i, (token, loss) in enumerate(zip(response.ids, response.loss, strict=True))
                if loss
            ]
    role = Backbone(tiny(family, dtype=torch.float64)).role()
    got = response_logprobs(role.at(0.6), collate(groups())).token
    assert torch.allclose(got, torch.stack(expected), rtol=0, atol=TOLERANCE)
    assert role.at(0.6).at(1.0) == role


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_of_nonsense_is_refused(temperature: float) -> None:
    with pytest.raises(ModelError, match="temperature must be positive"):
        Backbone(tiny("llama")).role().at(temperature)
