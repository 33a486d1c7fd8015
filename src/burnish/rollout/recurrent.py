"""Sampling for models that keep a state of their own: recurrent and linear-attention layers, own attention code; and
for any model that is to be computed plainly.

Their state can't be addressed by position, so prompts of different lengths can't share a batch. Prompts of one
length are decoded together with the cache that the model makes itself; a model that hands out none is run over the
whole sequence again for every token.

Legend: m prompts, n rows, D hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from burnish.models.roles import Role
from burnish.models.routing import Route, routed
from burnish.rollout.sampler import Drawer, Row, Run, route_of

_LOG = logging.getLogger(__name__)


def sample_by_length(role: Role, run: Run, drawer: Drawer, batch_size: int) -> None:
    """Do what `run` asks for, prompts of one length at a time."""
    kind = getattr(role.backbone.config, "model_type", type(role.backbone.model).__name__)
    why = "computed plainly" if role.backbone.plain else f"{kind} layers can't be masked row by row"
    lengths = len({len(prompt) for prompt in run.prompts})
    _LOG.warning(
        "%s: prompts are sampled in %d group%s of one length each, which is slower",
        why,
        lengths,
        "" if lengths == 1 else "s",
    )
    route = route_of(role, run.params, run.passes(batch_size))
    for prompts in _parts(run, batch_size):
        rows: list[Row] = []
        of_row: list[int] = []
        for place, prompt in enumerate(prompts):
            count = min(run.missing(prompt), batch_size - len(rows))
            rows += [run.start(prompt) for _ in range(count)]
            of_row += [place] * count
        ids = torch.tensor([list(run.prompts[prompt]) for prompt in prompts], device=role.backbone.device)
        _decode(_State(role.backbone.decoder, route), run, drawer, rows, ids, torch.tensor(of_row, device=ids.device))


def _parts(run: Run, batch_size: int) -> Iterator[list[int]]:
    """Prompts of one length that fill up to `batch_size` rows; one with more samples than that comes again."""
    for _, group in groupby(run.by_length, key=lambda i: len(run.prompts[i])):
        prompts = list(group)
        at_once = max(1, batch_size // run.n)
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            while run.missing(part[0]):
                yield part


def _decode(state: _State, run: Run, drawer: Drawer, rows: list[Row], ids: Tensor, of_row: Tensor) -> None:
    """Decode rows to their ends; row i continues prompt `of_row[i]` of `ids` (m, T)."""
    hidden = state.read(ids)[of_row]
    state.select(of_row)
    while True:
        drawn, logprobs = drawer(hidden, rows)
        done = [run.take(*taken) for taken in zip(rows, drawn, logprobs, strict=True)]
        stay = [i for i, is_done in enumerate(done) if not is_done]
        if not stay:
            return
        rows = [rows[i] for i in stay]
        if len(stay) < len(done):
            state.select(torch.tensor(stay, device=ids.device))
        hidden = state.read(torch.tensor([[row.token] for row in rows], device=ids.device))


class _State:
    """What a model remembers of its rows: its own cache, or all their tokens where it hands out no cache."""

    def __init__(self, decoder: nn.Module, route: Route) -> None:
        self.decoder, self.route = decoder, route
        self.name = ""
        self.cache: Any = None
        self.ids: Tensor | None = None

    def read(self, ids: Tensor) -> Tensor:
        """Read new tokens (n, T); the (n, D) hidden states of the last of them."""
        started = self.ids is not None
        self.ids = torch.cat([self.ids, ids], dim=1) if self.ids is not None else ids
        inputs: dict[str, Any] = {"input_ids": self.ids}
        if self.cache is not None:
            inputs = {"input_ids": ids, self.name: self.cache}
        with routed(self.route):
            out = self.decoder(**inputs, use_cache=self.cache is not None or not started)
        if not started:
            self._find_cache(out)
        hidden: Tensor = out.last_hidden_state[:, -1]
        return hidden

    def _find_cache(self, out: Any) -> None:
        from transformers import Cache

        for name in ("past_key_values", "cache_params"):
            if isinstance(out.get(name), Cache):
                self.name, self.cache = name, out[name]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named more than once."""
        if self.ids is not None:
            self.ids = self.ids[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)
