"""One backbone, many roles, and the single way from a batch to log-probabilities.

A `Backbone` is a causal language model made ready for the shared-prompt layout. A `Role` is what the rest of the code
sees: policy, reference, critic, reward. On one backbone a role is the name of an adapter; with full fine-tuning it is
a backbone of its own. The code that uses roles does not notice the difference.

Legend: B rows, T tokens, N response tokens that carry loss, R responses, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from burnish.data.groups import GroupBatch, Layout, PromptGroup, Response, collate
from burnish.errors import ModelError
from burnish.models.attention import (
    ATTENTION_NAME,
    AttentionPlan,
    GroupPlan,
    register_attention,
    stock_attention,
    supports_shared_layout,
)
from burnish.models.config import Compute
from burnish.models.gated import fuse_gates
from burnish.models.layers import allow_parts, checkpoint_layers, only_below, only_from
from burnish.models.lora import adapter_names, adapter_parameters, backbone_parameters
from burnish.models.norms import fuse_norms
from burnish.models.routing import PLAIN, Route, routed
from burnish.models.token_rows import token_rows_of
from burnish.models.turned import allow_turning
from burnish.ops.logprobs import OutputHead, token_logprobs

PROBE = PromptGroup((5, 7, 11), (Response.full((13, 17, 19)), Response.full((23, 29))))
_FAST = "_burnish_fast"


class Backbone:
    """A causal language model with burnish's attention, ready to play roles.

    Args:
        model: a transformers decoder-only model; dropout is switched off for good, its parameters stay as they are.
        compute_dtype: the dtype of activations. When it differs from the weights' (full fine-tuning keeps fp32
            weights and computes in bf16), the forward runs under autocast.
        checkpointing: compute each layer's activations again in backward instead of keeping them.
        compute: `plain` for a row a response, transformers' own attention and norms, whole logits, adapters left to
            autograd, a pass a role and no trunk: for comparison.

    Raises:
        ModelError: the model's log-probs come out wrong, or a fast backbone has changed it that is to be plain now.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        compute_dtype: torch.dtype | None = None,
        checkpointing: bool = False,
        compute: Compute = "fast",
    ) -> None:
        self.model = model.eval()
        self.config: Any = model.config
        self.compute: Compute = compute
        maskable = supports_shared_layout(model)
        self.layout: Layout = "shared" if maskable and not self.plain else "rows"
        if self.layout == "shared":
            register_attention()
            model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]
        self.decoder: nn.Module = model.base_model  # type: ignore[assignment]
        self.compute_dtype = compute_dtype or next(model.parameters()).dtype
        self._splits: dict[int, bool] = {}
        own = self._own_logprobs(PROBE) if maskable else None
        if not self.plain:
            fuse_norms(model)
            fuse_gates(model)
            allow_turning(model)
            setattr(model, _FAST, True)
        elif hasattr(model, _FAST):
            raise ModelError(
                "a fast backbone stands on this model: its norms are no longer the plain ones", fix="load it again"
            )
        if checkpointing:
            checkpoint_layers(model)
        if own is not None:
            self._demand_right_logprobs(own)

    @property
    def plain(self) -> bool:
        """Whether no fast path is taken."""
        return self.compute == "plain"

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def vocabulary(self) -> int:
        """V, the number of output rows."""
        return int(self.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]

    @property
    def context_length(self) -> int:
        """How many tokens the model can hold."""
        text = self.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 20)

    def hidden_states(self, batch: GroupBatch, route: Route = PLAIN) -> Tensor:
        """(B, T, D) last hidden states, after the final norm; from the states of a trunk on, where the batch brings
        those of one that every role of the route shares."""
        trunk = batch.trunk
        if trunk is None or not all(trunk.trunk.carries(Role(self, adapter)) for adapter, _ in route.parts):
            return self._forward(batch, route)
        with only_from(trunk.trunk.depth, trunk.hidden):
            return self._forward(batch, route)

    @torch.no_grad()
    def states_below(self, depth: int, batch: GroupBatch, route: Route = PLAIN) -> Tensor:
        """(B, T, D) what goes into layer `depth`, by its number from 0; the layers from there on are not run.

        Needs `splits_at(depth)`.
        """
        with only_below(depth) as reached:
            self._forward(batch, route)
            return reached()

    @torch.no_grad()
    def splits_at(self, depth: int) -> bool:
        """Whether the layers below `depth` and those from there on, each in a pass of its own, give what one pass over
        all of them gives. Tried on a probe, once for each depth: some families hand more than hidden states on."""
        if depth not in self._splits:
            try:
                self._splits[depth] = self._parts_are_the_whole(depth)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                self._splits[depth] = False
        return self._splits[depth]

    def _parts_are_the_whole(self, depth: int) -> bool:
        batch = collate([PROBE], layout=self.layout).to(self.device)
        allow_parts(self.model)
        whole = self._forward(batch, PLAIN)
        below = self.states_below(depth, batch)
        if below.shape[:2] != batch.input_ids.shape or below.dim() != 3:
            return False
        # What a layer leaves behind for those above must not be left over from the pass just made.
        other = PromptGroup(PROBE.prompt[::-1], PROBE.responses[::-1])
        self._forward(collate([other], layout=self.layout).to(self.device), PLAIN)
        with only_from(depth, below):
            parts = self._forward(batch, PLAIN)
        tolerance = 1e-5 if self.compute_dtype in (torch.float32, torch.float64) else 1e-2
        real = batch.segment_ids >= 0
        return bool((whole - parts)[real].abs().max() <= tolerance * whole[real].abs().max())

    def _forward(self, batch: GroupBatch, route: Route) -> Tensor:
        if self.layout == "rows":
            if int(batch.segment_ids.max()) > 1:
                raise ModelError("this model's layers can't be masked for shared prompts; collate with layout='rows'")
            keep = (batch.segment_ids >= 0).long()
            return self._decode(route, input_ids=batch.input_ids, attention_mask=keep, position_ids=batch.position_ids)
        plan = GroupPlan.of(batch)
        return self._decode(route, input_ids=batch.input_ids, position_ids=batch.position_ids, attention_plan=plan)

    def step(self, input_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, cache: Any, route: Route) -> Tensor:
        """(B, Q, D) hidden states of new tokens against a cache, which takes up their keys and values."""
        return self._decode(
            route, input_ids=input_ids, position_ids=position_ids, attention_plan=plan, past_key_values=cache
        )

    def _decode(self, route: Route, **inputs: Any) -> Tensor:
        inputs.setdefault("use_cache", inputs.get("past_key_values") is not None)
        with (
            routed(route),
            torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=self._mixed),
        ):
            hidden: Tensor = self.decoder(**inputs).last_hidden_state
        return hidden.to(self.compute_dtype)

    @torch.no_grad()
    def _demand_right_logprobs(self, expected: Tensor) -> None:
        """Compare log-probs on a short probe with those of the model's own forward; fall back to rows, or refuse.

        A model may do more between hidden states and logits than `head` knows, or attend in a way of its own that no
        attribute tells. Two responses of a few tokens show it, before anything is trained on wrong numbers.
        """
        found: list[str] = []
        layouts: tuple[Layout, ...] = ("rows",) if self.plain else ("shared", "rows")
        for layout in layouts:
            self._use_layout(layout)
            try:
                got = response_logprobs(self.role(), collate([PROBE], layout=self.layout).to(self.device)).token
            except Exception as error:
                found.append(f"{layout}: {type(error).__name__}: {str(error).splitlines()[0]}")
                continue
            # bf16 rounds each of a few hundred steps to 2^-8, and logits of 20 to 0.06.
            tolerance = 1e-3 if self.compute_dtype in (torch.float32, torch.float64) else 0.5
            worst = float((got - expected).abs().max())
            if layout == "shared" and not self._windows_are_told():
                continue
            if worst <= tolerance * max(1.0, float(expected.abs().max()) / 10.0):
                return
            found.append(f"{layout}: off by {worst:.3g} nats")
        raise ModelError(
            f"log-probs of this model ({self.config.model_type}) differ from its own forward ({'; '.join(found)})",
            fix="its output or its attention has a form that burnish does not know; please report the architecture",
        )

    def _windows_are_told(self) -> bool:
        """Whether layers with a sliding window say so to their attention; some keep it in a mask of their own."""
        text = self.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
        window = getattr(text, "sliding_window", None)
        if window is None or getattr(text, "use_sliding_window", True) is False or "sliding_attention" not in kinds:
            return True
        batch = collate([PromptGroup((5, 7), (Response.full((11,)),))]).to(self.device)
        plan = GroupPlan.of(batch)
        self._decode(PLAIN, input_ids=batch.input_ids, position_ids=batch.position_ids, attention_plan=plan)
        return plan.windows_asked != {None}

    @torch.no_grad()
    def _own_logprobs(self, probe: PromptGroup) -> Tensor:
        """The probe's log-probs from the model's own forward, a row a response, with its own attention."""
        attention = self.config._attn_implementation
        self.model.set_attn_implementation(stock_attention(self.model))  # type: ignore[operator]
        found = []
        for response in probe.responses:
            ids = torch.tensor([probe.prompt + response.ids], device=self.device)
            with torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=self._mixed):
                logits = self.model(input_ids=ids, use_cache=False).logits[0]
            wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
            logp = torch.log_softmax(logits.to(wide), -1)
            start = len(probe.prompt)
            found += [logp[start + i - 1, token] for i, token in enumerate(response.ids)]
        self.model.set_attn_implementation(attention)  # type: ignore[operator]
        return torch.stack(found)

    def _use_layout(self, layout: Layout) -> None:
        self.layout = layout
        name = ATTENTION_NAME if layout == "shared" else stock_attention(self.model)
        self.model.set_attn_implementation(name)  # type: ignore[operator]

    @property
    def _mixed(self) -> bool:
        """Whether weights and activations differ in dtype, and the forward runs under autocast."""
        return self.compute_dtype != next(self.model.parameters()).dtype

    def head(self, adapter: str | None = None) -> OutputHead:
        """The output projection, with an adapter's own rows in it where the embeddings are tied."""
        output = self.model.get_output_embeddings()  # type: ignore[operator]
        text = self.config.get_text_config()
        scale = float(getattr(text, "logit_scale", None) or 1.0)
        scale /= float(getattr(text, "logits_scaling", None) or 1.0)
        softcap = getattr(text, "final_logit_softcapping", None)
        ids, rows = None, None
        own = token_rows_of(self.model, adapter)
        if own is not None and output.weight is self.model.get_input_embeddings().weight:  # type: ignore[operator]
            ids, rows = own
        return OutputHead(output.weight, getattr(output, "bias", None), scale, softcap, ids, rows, whole=self.plain)

    def role(self, adapter: str | None = None) -> Role:
        """The role that one adapter plays; none for the plain model.

        Raises:
            ModelError: when the model holds no such adapter.
        """
        if adapter is not None and adapter not in adapter_names(self.model):
            held = ", ".join(adapter_names(self.model)) or "none"
            raise ModelError(f"the model holds no adapter named {adapter!r} (it holds: {held})")
        return Role(self, adapter)


@dataclass(frozen=True, slots=True)
class Role:
    """A part that a backbone plays: the plain model, or the model through one adapter.

    Attributes:
        backbone: who plays it.
        adapter: through which adapter, or none for the plain model.
        temperature: the role's distribution is softmax(logits / temperature), for whoever samples from it, scores it
            or compares it with another.
    """

    backbone: Backbone
    adapter: str | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise ModelError(f"a role's temperature must be positive and finite (got {self.temperature!r})")

    def at(self, temperature: float) -> Role:
        """The same part at another temperature; not a factor on top of the one that it has."""
        return replace(self, temperature=temperature)

    def route(self, *, dropout: bool = False) -> Route:
        """The route of this role's forward passes."""
        return Route.single(self.adapter, dropout=dropout, plain=self.backbone.plain)

    def head(self) -> OutputHead:
        """This role's output projection, at its temperature."""
        return self.backbone.head(self.adapter).tempered(self.temperature)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, or all those of a model that plays without one."""
        if self.adapter is not None:
            return adapter_parameters(self.backbone.model, self.adapter)
        return backbone_parameters(self.backbone.model)

    def trained(self) -> dict[str, nn.Parameter]:
        """Those of them that train; an adapter's lower layers may stay as they are (`LoRAConfig.layers`)."""
        return {name: parameter for name, parameter in self.parameters().items() if parameter.requires_grad}


@dataclass(frozen=True, slots=True)
class ResponseLogps:
    """Log-probabilities of a batch's response tokens.

    Attributes:
        token: (N,) nats, fp32, in the batch's order.
        response_of: (N,) which response each belongs to.
        n_responses: R.
    """

    token: Tensor
    response_of: Tensor
    n_responses: int

    def summed(self) -> Tensor:
        """(R,) the responses' log-probabilities."""
        return torch.zeros(self.n_responses, dtype=self.token.dtype, device=self.token.device).index_add(
            0, self.response_of, self.token
        )

    def counts(self) -> Tensor:
        """(R,) tokens that carry loss, of each response."""
        return torch.bincount(self.response_of, minlength=self.n_responses)


def response_logprobs(role: Role, batch: GroupBatch, *, dropout: bool = False) -> ResponseLogps:
    """Log-probability of every response token that carries loss.

    The one place where hidden states become log-probabilities: the positions that predict a response token are
    gathered before the output projection, and `token_logprobs` never holds a tokens x vocabulary tensor.

    Args:
        role: whose probabilities.
        batch: prompt groups, on the model's device, in the backbone's layout.
        dropout: whether LoRA dropout is on (training).
    """
    hidden = predicting_hidden(role, batch, dropout=dropout)
    token = token_logprobs(hidden, role.head(), batch.targets)
    return ResponseLogps(token, batch.response_of, batch.n_responses)


def predicting_hidden(role: Role, batch: GroupBatch, *, dropout: bool = False) -> Tensor:
    """(N, D) hidden states of the positions that predict a response token, in the batch's order."""
    hidden = role.backbone.hidden_states(batch, role.route(dropout=dropout))
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.predictors)


def hidden_of(roles: Sequence[Role], batch: GroupBatch, *, dropout: bool = False) -> list[Tensor]:
    """Hidden states of several roles over the same rows, with one pass a backbone.

    Roles on one backbone are computed together, over the rows repeated: one product with each frozen weight, each
    role's adapter on its own copy of the rows. Values and gradients are those of separate passes. Backward runs
    through all the rows of a pass, so a role whose hidden states get no gradient is dearer beside one that trains.
    Where the batch brings the states of a trunk, the roles that share it take up from there, together. On a plain
    backbone each role has a pass of its own.

    Args:
        roles: whose hidden states; a role's temperature has no part in them.
        batch: prompt groups, on the device and in the layout of all the backbones.
        dropout: whether LoRA dropout is on, for all the roles.

    Returns:
        (B, T, D) of each role, in the order of `roles`.
    """
    passes: dict[tuple[int, bool, int | None], list[int]] = {}
    for place, role in enumerate(roles):
        on_trunk = batch.trunk is not None and batch.trunk.trunk.carries(role)
        alone = place if role.backbone.plain else None
        passes.setdefault((id(role.backbone), on_trunk, alone), []).append(place)
    found: dict[int, Tensor] = {}
    for (_, on_trunk, _), places in passes.items():
        backbone = roles[places[0]].backbone
        read = batch if on_trunk else replace(batch, trunk=None)
        if len(places) == 1:
            found[places[0]] = backbone.hidden_states(read, roles[places[0]].route(dropout=dropout))
            continue
        rows = batch.input_ids.shape[0]
        route = Route(tuple((roles[place].adapter, rows) for place in places), dropout)
        hidden = backbone.hidden_states(read.repeated(len(places)), route)
        found.update(zip(places, hidden.split(rows), strict=True))
    return [found[place] for place in range(len(roles))]


def freeze(parameters: Mapping[str, nn.Parameter]) -> None:
    """Stop gradients to the given parameters."""
    for parameter in parameters.values():
        parameter.requires_grad_(False)
