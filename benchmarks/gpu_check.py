"""Are the results of a device right? Each fast path beside float64 on the CPU, from the same numbers.

The inputs are rounded to the dtype first, so that what differs is the computation. A difference is measured against
the size of what is right: |found - right| / max |right|, the worst over all elements; of log-probs it is in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from burnish.data.groups import GroupBatch, PromptGroup, Response, collate
from burnish.models.attention import AttentionPlan, CachePlan, GroupPlan, group_attention
from burnish.models.config import Compute
from burnish.models.lora import LoRAConfig, adapter_parameters, copy_adapter, inject, lora_layers
from burnish.models.lowrank import lora_linear
from burnish.models.norms import fuse_norms
from burnish.models.roles import Backbone, ResponseLogps, freeze, hidden_of
from burnish.models.trunk import Trunk
from burnish.ops import tiles
from burnish.ops.entropy import token_entropy
from burnish.ops.logprobs import OutputHead, token_logprobs
from burnish.rollout.sampler import SamplingParams, sample

ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""float32 rounds to 6e-8, bfloat16 to 4e-3; sums of hundreds of terms are a few times as far off."""
NATS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Of log-probs, which stand on logits of size 10."""
STEP = {torch.float32: 2e-5, torch.bfloat16: 1e-1}
"""Of a whole step's loss and gradients, by their norm: three layers there and back."""
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: what, in which dtype, how far off at worst, and how far off it may be."""

    name: str
    dtype: str
    worst: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough; NaN is not."""
        return self.worst <= self.allowed


def checks(device: str, dtypes: Sequence[torch.dtype] = tuple(ALLOWED)) -> Iterator[Check]:
    """All comparisons on a device."""
    for dtype in dtypes:
        for name, worst, allowed in (
            *_vocabulary(device, dtype),
            *_norm(device, dtype),
            *_lora(device, dtype),
            *_attention(device, dtype),
            *_sampler(device, dtype),
            *_step(device, dtype),
        ):
            yield Check(name, str(dtype).removeprefix("torch."), worst, allowed)


def _random(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    """float64 numbers that the dtype holds exactly."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).double()


def _off(found: Tensor, right: Tensor) -> float:
    return float((found.detach().cpu().double() - right).abs().max() / right.abs().max())


def _leaves(device: str, dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().to(device, dtype).requires_grad_() for tensor in tensors]


def several_tiles(device: str) -> tuple[int, int]:
    """(tokens, vocabulary) of more than two tiles each on a device, the last of them uneven."""
    factor = tiles.CUDA_FACTOR if torch.device(device).type == "cuda" else 1
    return 2 * tiles.TOKEN_TILE * factor + 3, 2 * tiles.VOCAB_TILE * factor + 5


def _vocabulary(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """`token_logprobs` and `token_entropy` over several tiles, with trainable rows: values, and gradients of hidden
    states and rows."""
    generator, (n, size) = torch.Generator().manual_seed(0), several_tiles(device)
    hidden, weight, rows = (_random(generator, dtype, count, 64) for count in (n, size, 3))
    targets, ids = torch.randint(0, size, (n,), generator=generator), torch.tensor([2, 77, size - 1])
    targets[:3] = ids
    up = torch.randn(n, generator=generator, dtype=torch.float64)
    leaves = [hidden.requires_grad_(), rows.requires_grad_()]
    log_p = torch.log_softmax(hidden @ weight.index_copy(0, ids, rows).T / 8, -1)
    own = _leaves(device, dtype, hidden, rows)
    head = OutputHead(weight.to(device, dtype), scale=1 / 8, row_ids=ids.to(device), rows=own[1])
    right = log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    cases = {
        "log-probs": (right, token_logprobs(own[0], head, targets.to(device))),
        "entropy": (-(log_p.exp() * log_p).sum(-1), token_entropy(own[0], head)),
    }
    for name, (right, found) in cases.items():
        wanted = torch.autograd.grad((right * up).sum(), leaves, retain_graph=True)
        got = torch.autograd.grad((found * up.to(device, found.dtype)).sum(), own)
        yield name, float((found.detach().cpu().double() - right.detach()).abs().max()), NATS[dtype]
        for what, ours, theirs in zip(("the hidden states", "trainable rows"), got, wanted, strict=True):
            yield f"{name}, gradient of {what}", _off(ours, theirs), ALLOWED[dtype]


def _norm(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """RMSNorm as one node: values, and gradients of input and weight."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    generator = torch.Generator().manual_seed(4)
    x, weight, up = (_random(generator, dtype, *shape) for shape in ((300, 256), (256,), (300, 256)))
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    right = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    right.backward(up)
    layer = LlamaRMSNorm(256, eps=1e-6)
    layer.weight = torch.nn.Parameter(_leaves(device, dtype, weight)[0])
    assert fuse_norms(layer) == 1
    own = [*_leaves(device, dtype, x), layer.weight]
    found = layer(own[0])
    found.backward(up.to(device, dtype))
    yield "RMSNorm", _off(found, right.detach()), ALLOWED[dtype]
    for name, ours, theirs in zip(("the input", "the weight"), own, leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        yield f"RMSNorm, gradient of {name}", _off(ours.grad, theirs.grad), ALLOWED[dtype]


def _lora(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """`lora_linear`: values, and gradients of input, A and B (which are float32, as in training)."""
    generator = torch.Generator().manual_seed(1)
    x, weight = (_random(generator, dtype, n, 256) for n in (300, 384))
    a, b = _random(generator, dtype, 8, 256), _random(generator, dtype, 384, 8)
    up = _random(generator, dtype, 300, 384)
    leaves = [x.requires_grad_(), a.requires_grad_(), b.requires_grad_()]
    right = x @ weight.T + 2.0 * (x @ a.T) @ b.T
    right.backward(up)
    own = [*_leaves(device, dtype, x), *_leaves(device, torch.float32, a, b)]
    found = lora_linear(own[0], weight.to(device, dtype), None, ((None, 2.0),), [(own[1], own[2], None)])
    found.backward(up.to(device, dtype))
    yield "LoRA", _off(found, right.detach()), ALLOWED[dtype]
    for name, ours, theirs in zip(("the input", "A", "B"), own, leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        yield f"LoRA, gradient of {name}", _off(ours.grad, theirs.grad), ALLOWED[dtype]


def _attention(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """`group_attention` with grouped heads: shared prompts, in rows of a few tokens and of several of a kernel's tiles,
    plain causal, and new tokens against a cache."""
    shared = collate([_group(9, 5, 7), _group(14, 3, 2)])
    single = collate([_group(9, 5), _group(14, 3)])
    long = collate([_group(300, 1, 70, 129), _group(40, 190, 33, 7)])
    slots = torch.arange(40)

    def grouped(batch: GroupBatch, width: int = 64) -> _Case:
        def plan_on(where: str) -> AttentionPlan:
            return GroupPlan(batch.segment_ids.to(where), batch.position_ids.to(where))

        tokens = batch.input_ids.shape[1]
        return plan_on, (tokens, tokens), width, batch.segment_ids >= 0

    def cached(queries: Tensor) -> _Case:
        def plan_on(where: str) -> AttentionPlan:
            return CachePlan(slots.expand(2, -1).to(where), queries.to(where))

        return plan_on, (queries.shape[1], len(slots)), 64, torch.ones_like(queries, dtype=torch.bool)

    cases = {
        "shared prompts": grouped(shared),
        **{f"long rows, heads of {width}": grouped(long, width) for width in (64, 128, 256)},
        "one response a row": grouped(single),
        "one new token": cached(torch.tensor([[39], [20]])),
        "several new tokens": cached(torch.arange(30, 40).expand(2, -1)),
    }
    for name, case in cases.items():
        for window in (None, 8, 100):
            label = f"attention, {name}{'' if window is None else f', window of {window}'}"
            apart, gradients = _attention_of(case, window, device, dtype)
            yield label, apart, ALLOWED[dtype]
            yield f"{label}, gradients", gradients, ALLOWED[dtype]


_Case = tuple[Callable[[str], AttentionPlan], tuple[int, int], int, Tensor]
"""A plan on a device, queries and keys of a row, a head's width, and (rows, queries) which of them are read."""


def _attention_of(case: _Case, window: int | None, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """How far off attention is, and its gradients at worst."""
    plan_on, (queries, keys), width, real = case
    generator = torch.Generator().manual_seed(2)
    q = _random(generator, dtype, 2, 8, queries, width)
    k, v = (_random(generator, dtype, 2, 2, keys, width) for _ in range(2))
    mask = plan_on("cpu").mask(window)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril() if mask is None else mask
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    scores = (q @ k.repeat_interleave(4, 1).transpose(2, 3) * width**-0.5).masked_fill(~mask, -torch.inf)
    # Padding sees what it likes: nothing reads it.
    read = real.unsqueeze(2).unsqueeze(3)
    right = (torch.softmax(scores, -1) @ v.repeat_interleave(4, 1)).transpose(1, 2) * read
    up = _random(generator, dtype, *right.shape) * read
    right.backward(up)
    own = _leaves(device, dtype, *inputs)
    found, _ = group_attention(torch.nn.Module(), *own, None, attention_plan=plan_on(device), sliding_window=window)
    found.backward(up.to(device, dtype))
    worst = max(_off(a.grad, b.grad) for a, b in zip(own, inputs, strict=True))  # type: ignore[arg-type]
    return _off(found.detach().cpu() * read, right.detach()), worst


def _group(prompt: int, *responses: int) -> PromptGroup:
    """A group of such lengths; of its tokens none is read."""
    return PromptGroup((1,) * prompt, tuple(Response.full((1,) * n) for n in responses))


def _sampler(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """Log-probs that the sampler records, through an adapter beside the weights and in them, against float64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    stock = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(dtype)
    backbone = Backbone(stock.to(device))
    inject(backbone.model, "a", LoRAConfig(rank=4), seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter_parameters(backbone.model, "a").values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(device))
    opening = list(range(10, 150))
    prompts = [opening + list(range(200, 200 + n)) for n in (5, 40, 1, 17)]
    exact = _exact_model(backbone)
    for how in ("plain", "adapter", "merged"):
        params = SamplingParams(max_new_tokens=16, seed=5, decoding=how)  # type: ignore[arg-type]
        drawn = sample(backbone.role("a"), prompts, params, batch_size=3, n=2)
        worst = 0.0
        for prompt, samples in zip(prompts, drawn, strict=True):
            for one in samples:
                with torch.no_grad():
                    logits = exact(torch.tensor([prompt + one.ids])).logits[0, len(prompt) - 1 : -1]
                right = torch.log_softmax(logits, -1).gather(1, torch.tensor(one.ids).unsqueeze(1)).squeeze(1)
                worst = max(worst, float((torch.tensor(one.logprobs, dtype=torch.float64) - right).abs().max()))
        yield f"sampler, {how}", worst, NATS[dtype]


def _step(device: str, dtype: torch.dtype) -> Iterator[tuple[str, float, float]]:
    """A training step: loss and gradients of an adapter, against the plain path in float64."""
    found, right = _step_of(device, dtype, dtype, "fast"), _step_of("cpu", torch.float64, dtype, "plain")
    for name, wanted in right.items():
        apart = (found[name].detach().cpu().double() - wanted).norm() / wanted.norm()
        yield f"training step, {name}", float(apart), STEP[dtype]


def _step_of(device: str, dtype: torch.dtype, rounded: torch.dtype, compute: Compute) -> dict[str, Tensor]:
    """DPO's loss, and its gradients, of a policy that trains in the upper layers, beside the reference on its trunk.

    Args:
        device: where it is computed.
        dtype: of the weights and the activations.
        rounded: what the weights are rounded to before.
        compute: whether fast paths are taken.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(rounded).to(device, dtype)
    generator = torch.Generator().manual_seed(3)

    def moved(parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            parameter.detach().add_(0.05 * torch.randn(parameter.shape, generator=generator).to(device))

    inject(model, "start", LoRAConfig(rank=4), seed=0)
    for parameter in adapter_parameters(model, "start").values():
        parameter.detach().zero_()  # A is drawn in its own dtype, and would be another one in float64
    moved(adapter_parameters(model, "start").values())
    copy_adapter(model, "start", "policy", layers="last-2")
    freeze(adapter_parameters(model, "start"))
    moved(p for p in adapter_parameters(model, "policy").values() if p.requires_grad)
    backbone = Backbone(model, compute=compute)
    roles = [backbone.role("policy"), backbone.role("start")]
    draw = iter(torch.randint(3, 1000, (1000,), generator=generator).tolist())
    groups = [
        PromptGroup(tuple(islice(draw, prompt)), tuple(Response.full(tuple(islice(draw, n))) for n in both))
        for prompt, both in ((90, (40, 30)), (130, (25, 60)))
    ]
    batch = collate(groups, layout=backbone.layout).to(device)
    if compute == "fast":
        trunk = Trunk.shared_by(roles)
        assert trunk is not None
        batch = trunk.attached(batch, groups)
    sums = []
    for role, states in zip(roles, hidden_of(roles, batch), strict=True):
        hidden = states.reshape(-1, states.shape[-1]).index_select(0, batch.predictors)
        sums.append(ResponseLogps(token_logprobs(hidden, role.head(), batch.targets), batch.response_of, 4).summed())
    ratio = (sums[0] - sums[1].detach()).reshape(-1, 2)
    loss = -torch.nn.functional.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in roles[0].trained().items() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def _exact_model(backbone: Backbone) -> Any:
    """transformers' own model in float64 on the CPU, with the adapter's update in its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    state = {
        name.replace(".base.", "."): value.detach().cpu().double()
        for name, value in backbone.model.state_dict().items()
        if ".lora_" not in name
    }
    for path, layer in lora_layers(backbone.model, "a"):
        a, b = layer.lora_a["a"].detach().cpu().double(), layer.lora_b["a"].detach().cpu().double()
        state[f"{path}.weight"] += layer.configs["a"].scale * b @ a
    exact = LlamaForCausalLM(LlamaConfig(**SHAPE)).double()
    exact.load_state_dict(state)
    return exact.eval()
