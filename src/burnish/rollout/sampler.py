"""Batched sampling with a KV cache.

A call of `sample` is a `Run`: what is asked for and what has been drawn so far. `decoding.py` carries it out, for
models that keep a state of their own `recurrent.py`; a `Drawer` makes tokens of hidden states.

A row's randomness depends on the seed and on which sample of which prompt it is, on nothing else: the batch size and
the other rows change nothing.

Legend: n rows in use, V vocabulary.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from burnish.errors import ConfigError, ModelError
from burnish.models.merged import merge_pays, merged_weights
from burnish.models.roles import Backbone, Role
from burnish.models.routing import Route
from burnish.models.turned import can_turn
from burnish.ops.logprobs import OutputHead
from burnish.rollout.drawing import Logits, Projection, draw, exact_logits, log_probability

OnToken = Callable[[int, int], None]
"""Is told (prompt index, token) for every token as it is drawn, the stop token included."""
OnSample = Callable[[int, "Sample"], None]
"""Is given (prompt index, sample) as soon as a sample is finished."""
Progress = Callable[[int], None]
"""Is told how many samples are finished."""

Decoding = Literal["auto", "merged", "adapter", "plain"]
"""How tokens are computed; the distribution that they are drawn from is the same, but for rounding.

- `merged`: through a copy of the adapted weights with the adapter in them, held for the length of the call. It saves
  the adapter's own, small and slow products. In float32 this differs from training by rounding alone. In bfloat16 a
  weight keeps 8 bits, of an update that is smaller than those a part is lost, and what is sampled is not quite what is
  trained: for where that does not matter.
- `adapter`: beside the weights, as in training.
- `auto`: merged where weights and activations are float32 or wider, the call is long enough to pay for the copy, and
  the copy takes at most an eighth of the device's memory; else adapter.
- `plain`: adapter, every prompt read whole and through a mask, the output matrix in one product; to compare with. On a
  plain backbone nothing else is to be had, and there transformers' own attention, norms and cache do it.
"""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    Raises:
        ConfigError: for a value of nonsense.
    """

    max_new_tokens: int = 128
    """Tokens a sample at most; fewer where the model's context ends sooner."""
    temperature: float = 1.0
    """The role's logits are divided by it, on top of the role's own temperature; 0 takes the most probable token every
    time (greedy)."""
    top_p: float = 1.0
    """Draw from the smallest set of most probable tokens that holds this probability; 1 for all."""
    top_k: int = 0
    """Draw from the k most probable tokens; 0 for all. Applied before `top_p`."""
    seed: int | None = None
    """The same seed gives the same samples; none takes a fresh one."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a sample."""
    min_new_tokens: int = 0
    """Stop tokens are not drawn before so many tokens."""
    decoding: Decoding = "auto"
    """How tokens are computed: see `Decoding`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        self._demand(self.max_new_tokens >= 1, "max_new_tokens", "at least 1")
        self._demand(0.0 <= self.temperature < float("inf"), "temperature", "0 (greedy) or a positive number")
        self._demand(0.0 < self.top_p <= 1.0, "top_p", "above 0 and at most 1")
        self._demand(self.top_k >= 0, "top_k", "0 (all tokens) or a positive count")
        self._demand(self.seed is None or self.seed >= 0, "seed", "0 or a positive integer, or none")
        self._demand(all(i >= 0 for i in self.stop_ids), "stop_ids", "token ids, 0 or above")
        self._demand(0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", "between 0 and max_new_tokens")
        self._demand(self.decoding in get_args(Decoding), "decoding", " or ".join(get_args(Decoding)))

    def _demand(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"{name} must be {wanted} (got {getattr(self, name)!r})", where="sampling")


@dataclass(frozen=True, slots=True)
class Sample:
    """One response.

    Attributes:
        ids: the drawn tokens, the stop token included.
        finished: whether it ends with a stop token (if not, the limit of tokens or the model's context ended it).
        logprobs: nats of each token under the role's own distribution, at the role's temperature and untruncated,
            whatever the draw was from: what `response_logprobs` gives. Empty if they were not asked for.
        seconds: wall time from its prompt entering the batch until its last token, in the company of that batch.
    """

    ids: list[int]
    finished: bool
    logprobs: list[float]
    seconds: float = field(default=0.0, compare=False)


@torch.no_grad()
def sample(
    role: Role,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    batch_size: int = 32,
    n: int = 1,
    logprobs: bool = True,
    on_token: OnToken | None = None,
    on_sample: OnSample | None = None,
    progress: Progress | None = None,
) -> list[list[Sample]]:
    """Sample responses.

    Args:
        role: who speaks.
        prompts: token ids, at least one each.
        params: how tokens are drawn.
        batch_size: sequences decoded at a time.
        n: samples of each prompt.
        logprobs: whether to record the tokens' log-probs, which takes a pass over the logits of each step.
        on_token: for streaming; with one sample a prompt only.
        on_sample: for keeping what is finished, whatever happens to the rest.
        progress: for a progress bar; out of `len(prompts) * n`.

    Returns:
        For each prompt, in the order given, its n samples.

    Raises:
        ConfigError: for a batch size or n below 1, `on_token` with n above 1, or a stop id outside the vocabulary.
        ModelError: for a prompt that is empty, has an id outside the vocabulary, or fills the model's context.
    """
    if batch_size < 1 or n < 1:
        raise ConfigError(f"batch_size and n must be at least 1 (got {batch_size} and {n})", where="sampling")
    if on_token is not None and n > 1:
        raise ConfigError("tokens can be streamed for one sample a prompt only", where="sampling", fix="use n = 1")
    backbone = role.backbone
    if backbone.plain:
        params = replace(params, decoding="plain")
    run = Run(backbone, prompts, params, n, on_token, progress, on_sample)
    drawer = Drawer(role.head(), params, logprobs, backbone.compute_dtype)
    head_dtype = drawer.head.weight.dtype
    # Weights of another dtype than the computation's are cast under autocast, which keeps the casts until its
    # outermost context ends: this one, so that it happens once and not at every token.
    with torch.autocast(
        backbone.device.type, dtype=backbone.compute_dtype, enabled=head_dtype != backbone.compute_dtype
    ):
        if backbone.layout == "rows":
            from burnish.rollout.recurrent import sample_by_length

            sample_by_length(role, run, drawer, batch_size)
        else:
            from burnish.rollout.decoding import Batch

            Batch(role, run, drawer, batch_size).decode_all()
    return run.samples()


def route_of(role: Role, params: SamplingParams, passes: int) -> Route:
    """The route of a call's forward passes: through merged weights, or through the adapter beside them.

    Args:
        role: who speaks.
        params: of the call.
        passes: how many forward passes are to come if every sample is as long as it may be.
    """
    backbone, plain = role.backbone, params.decoding == "plain"
    route = replace(role.route(), turned=not plain and can_turn(backbone.device, backbone.compute_dtype))
    if role.adapter is None or params.decoding in ("adapter", "plain"):
        return route
    if params.decoding == "auto" and not merge_pays(backbone, role.adapter, passes):
        return route
    return replace(route, merged=merged_weights(backbone, role.adapter))


@dataclass(slots=True)
class Row:
    """A sequence that is being generated."""

    prompt: int
    """The prompt's index."""
    token: int
    """The newest token: not in the cache yet."""
    position: int
    """Its position."""
    limit: int
    """New tokens at most."""
    uniforms: np.ndarray
    """(limit,) what the draws are made with."""
    entered: float = field(default_factory=time.perf_counter)
    """When its prompt entered the batch, in seconds of the performance counter."""
    result: Sample = field(default_factory=lambda: Sample([], False, []))


class Run:
    """What one call of `sample` is to do, and what it has done."""

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        n: int,
        on_token: OnToken | None = None,
        progress: Progress | None = None,
        on_sample: OnSample | None = None,
    ) -> None:
        self.prompts, self.params, self.n = prompts, params, n
        self.on_token, self.progress, self.on_sample = on_token, progress, on_sample
        self.context = backbone.context_length
        self._check(backbone.vocabulary)
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self.by_length = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        self._rows: list[list[Row]] = [[] for _ in prompts]
        self._finished = 0

    def _check(self, vocabulary: int) -> None:
        if any(i >= vocabulary for i in self.params.stop_ids):
            raise ConfigError(
                f"stop_ids {self.params.stop_ids} reach beyond the model's vocabulary of {vocabulary}", where="sampling"
            )
        for index, prompt in enumerate(self.prompts):
            where = f"prompt {index}"
            if not prompt:
                raise ModelError(
                    "a prompt needs at least one token", where=where, fix="begin it with BOS, or give a text"
                )
            if len(prompt) >= self.context:
                raise ModelError(
                    f"a prompt of {len(prompt):,} tokens leaves no room in the model's context of {self.context:,}",
                    where=where,
                    fix="shorten the prompt, or use a model with a longer context",
                )
            if not 0 <= min(prompt) <= max(prompt) < vocabulary:
                raise ModelError(
                    f"a prompt has token ids outside the model's vocabulary of {vocabulary:,}",
                    where=where,
                    fix="use the tokenizer that belongs to the model",
                )

    def start(self, prompt: int) -> Row:
        """The next sample of a prompt, at the point where all but the prompt's last token has been read."""
        ids, params = self.prompts[prompt], self.params
        limit = min(params.max_new_tokens, self.context - len(ids))
        which = len(self._rows[prompt])
        greedy = params.temperature == 0.0
        stream = np.random.default_rng(np.random.SeedSequence((self.seed, prompt, which)))
        uniforms = np.zeros(limit) if greedy else stream.random(limit)
        row = Row(prompt, int(ids[-1]), len(ids) - 1, limit, uniforms)
        self._rows[prompt].append(row)
        return row

    def passes(self, batch_size: int) -> int:
        """About how many forward passes it takes if every sample is as long as it may be."""
        return -(-len(self.prompts) * self.n // batch_size) * self.params.max_new_tokens

    def missing(self, prompt: int) -> int:
        """How many samples of a prompt have not been started."""
        return self.n - len(self._rows[prompt])

    def take(self, row: Row, token: int, logprob: float | None) -> bool:
        """Add a token to a row; whether the row is done with it."""
        stops = token in self.params.stop_ids
        row.result.ids.append(token)
        if logprob is not None:
            row.result.logprobs.append(logprob)
        row.token, row.position = token, row.position + 1
        if self.on_token is not None:
            self.on_token(row.prompt, token)
        if not stops and len(row.result.ids) < row.limit:
            return False
        row.result = Sample(row.result.ids, stops, row.result.logprobs, time.perf_counter() - row.entered)
        self._finished += 1
        if self.on_sample is not None:
            self.on_sample(row.prompt, row.result)
        if self.progress is not None:
            self.progress(self._finished)
        return True

    def samples(self) -> list[list[Sample]]:
        """The samples of each prompt."""
        return [[row.result for row in rows] for rows in self._rows]


class Drawer:
    """From hidden states to tokens and their log-probs.

    Args:
        head: the output projection.
        params: how tokens are drawn.
        logprobs: whether their log-probs are wanted.
        dtype: of the hidden states.
    """

    def __init__(self, head: OutputHead, params: SamplingParams, logprobs: bool, dtype: torch.dtype) -> None:
        self.head, self.params, self.logprobs = head, params, logprobs
        head_in = replace(head, weight=head.weight.to(dtype))  # cast once, not at every token
        tiled = params.decoding != "plain" and head.weight.device.type == "cpu"
        self._project: Callable[[Tensor], Tensor] = Projection(head_in) if tiled else head_in.logits

    def __call__(self, hidden: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float] | list[None]]:
        """One token a row, from the (n, D) hidden states that predict them."""
        z = self._project(hidden)
        logits = Logits(z)
        masses = logits.masses(1.0) if self.logprobs else None
        early = [i for i, row in enumerate(rows) if len(row.result.ids) < self.params.min_new_tokens]
        if early and self.params.stop_ids:
            tokens = self._draw_without_stop(z, early, rows)
        else:
            tokens = self._draw(logits, rows, masses if self.params.temperature == 1.0 else None)
        if masses is None:
            return tokens.tolist(), [None] * len(rows)
        target = exact_logits(self.head, hidden, tokens)
        return tokens.tolist(), log_probability(logits, masses, tokens, target).tolist()

    def _draw(self, logits: Logits, rows: Sequence[Row], masses: Tensor | None) -> Tensor:
        numbers = [row.uniforms[len(row.result.ids)] for row in rows]
        uniforms = torch.tensor(np.array(numbers), dtype=torch.float64, device=logits.flat.device)
        p = self.params
        return draw(logits, uniforms, temperature=p.temperature, top_k=p.top_k, top_p=p.top_p, masses=masses)

    def _draw_without_stop(self, z: Tensor, early: list[int], rows: Sequence[Row]) -> Tensor:
        """A draw in which the rows `early` can't stop; the log-probs are still those of the whole distribution."""
        where = torch.tensor(early, device=z.device).unsqueeze(1)
        stop = torch.tensor(self.params.stop_ids, device=z.device)
        barred = z.clone()
        barred[where, stop] = -torch.inf
        return self._draw(Logits(barred), rows, None)
