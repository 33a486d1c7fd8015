"""One backbone, many roles, and the single way from a batch to log-probabilities.

A `Backbone` is a causal language model made ready for the shared-prompt layout. A `Role` is what the rest of the code
sees: policy, reference, critic, reward. On one backbone a role is the name of an adapter; with full fine-tuning it is
a backbone of its own. The code that uses roles does not notice the difference.

Legend: B rows, T tokens, N response tokens that carry loss, R responses, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from burnish.data.groups import GroupBatch, Layout
from burnish.errors import ModelError
from burnish.models.attention import ATTENTION_NAME, AttentionPlan, GroupPlan, register_attention
from burnish.models.lora import adapter_names, adapter_parameters, token_rows_of
from burnish.models.routing import PLAIN, Route, recompute_contexts, routed
from burnish.ops.logprobs import OutputHead, token_logprobs

MASKABLE_LAYERS = {"full_attention", "sliding_attention"}


class Backbone:
    """A causal language model with burnish's attention, ready to play roles.

    Args:
        model: a transformers decoder-only model; dropout is switched off for good, its parameters stay as they are.
        compute_dtype: the dtype of activations. When it differs from the weights' (full fine-tuning keeps fp32
            weights and computes in bf16), the forward runs under autocast.
        checkpointing: compute each layer's activations again in backward instead of keeping them.
    """

    def __init__(
        self, model: nn.Module, *, compute_dtype: torch.dtype | None = None, checkpointing: bool = False
    ) -> None:
        self.model = model.eval()
        self.config: Any = model.config
        self.layout: Layout = "shared" if supports_shared_layout(model) else "rows"
        if self.layout == "shared":
            register_attention()
            model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]
        self.decoder: nn.Module = model.base_model  # type: ignore[assignment]
        self.compute_dtype = compute_dtype or next(model.parameters()).dtype
        self.checkpointing = checkpointing
        if checkpointing:
            model.gradient_checkpointing_enable(  # type: ignore[operator]
                gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": recompute_contexts}
            )

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
        """(B, T, D) last hidden states, after the final norm."""
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
        weights = next(self.model.parameters()).dtype
        mixed = self.compute_dtype != weights
        with (
            routed(route),
            self._checkpointed(),
            torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=mixed),
        ):
            hidden: Tensor = self.decoder(**inputs).last_hidden_state
        return hidden.to(self.compute_dtype)

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        """Checkpointing layers checkpoint in training mode only; dropout, which that would wake, stays off."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        if not (self.checkpointing and torch.is_grad_enabled()):
            yield
            return
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

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
        return OutputHead(output.weight, getattr(output, "bias", None), scale, softcap, ids, rows)

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
    """A part that a backbone plays: the plain model, or the model through one adapter."""

    backbone: Backbone
    adapter: str | None = None

    def route(self, *, dropout: bool = False) -> Route:
        """The route of this role's forward passes."""
        return Route.single(self.adapter, dropout=dropout)

    def head(self) -> OutputHead:
        """This role's output projection."""
        return self.backbone.head(self.adapter)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains when this role trains: the adapter's parameters, or all of a model that plays without one."""
        if self.adapter is not None:
            return adapter_parameters(self.backbone.model, self.adapter)
        return dict(self.backbone.model.named_parameters())


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


def supports_shared_layout(model: nn.Module) -> bool:
    """Whether all layers attend through transformers' attention interface, so that they can be masked per token.

    Recurrent and linear-attention layers, and models with attention code of their own, can't; they get a row a
    response.
    """
    config: Any = model.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    return bool(
        getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and kinds <= MASKABLE_LAYERS
    )


def freeze(parameters: Mapping[str, nn.Parameter]) -> None:
    """Stop gradients to the given parameters."""
    for parameter in parameters.values():
        parameter.requires_grad_(False)
