"""The rows that are decoded together, for models whose keys and values can be addressed by position.

Prompts wait in order of length, longest first. What all of them begin with (a template's opening, a system prompt) is
read once. A prompt enters the batch by having the rest of it, all but its last token, read into the cache, once for all
of its samples; its last token is then the first to be decoded. So every row of the batch is in the same state, one
token ahead of its cache, and one loop decodes them all. A finished row leaves at once, and waiting prompts come in as
soon as a quarter of the rows is free.

Legend: n rows in use, T tokens of the longest prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from burnish.data.batching import cheapest_cuts
from burnish.data.groups import PAD_SEGMENT, PROMPT_SEGMENT
from burnish.models.attention import AttentionPlan, CachePlan, GroupPlan
from burnish.models.roles import Role
from burnish.rollout.cache import KVCache
from burnish.rollout.sampler import Drawer, Row, Run, route_of

REFILL = 4
"""New prompts come in when one row in so many is free: reading one prompt costs nearly as much as reading several."""
PREFILL_TOKENS = 8192
"""Prompt tokens, padding included, that are read at a time."""
PASS_TOKENS = {"cpu": 64, "cuda": 512}
"""What a pass over the model costs beside its tokens, in tokens: reading the weights, launching kernels. Prompts are
read in as many passes as cost the least, padding included, so counted."""


class Batch:
    """The rows that are decoded together; row i of the list is row i of the cache.

    Args:
        role: who speaks.
        run: what is to be done.
        drawer: makes tokens of hidden states.
        batch_size: rows at most.
    """

    def __init__(self, role: Role, run: Run, drawer: Drawer, batch_size: int) -> None:
        self.backbone, self.device = role.backbone, role.backbone.device
        self.route = route_of(role, run.params, run.passes(batch_size))
        self.run, self.drawer = run, drawer
        self.size = min(batch_size, max(1, len(run.prompts) * run.n))
        self.cache = KVCache(self.size)
        self.waiting = deque(run.by_length)
        self.rows: list[Row] = []
        self.pass_tokens = PASS_TOKENS.get(self.device.type, PASS_TOKENS["cuda"])
        self.plain = run.params.decoding == "plain"
        self.start = 0 if self.plain else self._common_length()
        """Tokens that all prompts begin with, which are read once."""
        self.prefix = KVCache(1)

    def decode_all(self) -> None:
        """Decode until no prompt waits and every row is done."""
        self._read_prefix()
        while self.waiting or self.rows:
            self._refill()
            self._decode_one()

    def _common_length(self) -> int:
        """Tokens that all prompts begin with; 0 where reading them apart saves less than the pass it takes.

        The last token of a prompt is decoded, not read, and so is never among them.
        """
        prompts = self.run.prompts
        if len(prompts) < 2:
            return 0
        first, last = min(prompts, key=list), max(prompts, key=list)  # the two that differ first
        shortest = min(len(prompt) for prompt in prompts) - 1
        common = next((i for i in range(shortest) if first[i] != last[i]), shortest)
        return common if common * (len(prompts) - 1) > self.pass_tokens else 0

    def _read_prefix(self) -> None:
        if not self.start:
            return
        self.prefix.reserve(self.start)
        row = torch.zeros(1, dtype=torch.long, device=self.device)
        ids = torch.tensor([list(self.run.prompts[0][: self.start])], device=self.device)
        positions = torch.arange(self.start, device=self.device).unsqueeze(0)
        plan = GroupPlan(torch.full_like(ids, PROMPT_SEGMENT), positions)
        self.backbone.step(ids, positions, plan, self.prefix.filling(row, row), self.route)

    def _refill(self) -> None:
        """Let waiting prompts in, if enough rows are free or nothing else is to be done."""
        free = self.size - len(self.rows)
        if not self.waiting or (self.rows and free * REFILL < self.size):
            return
        entering: list[list[Row]] = []
        while self.waiting and free:
            prompt = self.waiting[0]
            count = min(self.run.missing(prompt), free)
            # A prompt enters with all of its samples, or with as many as there can ever be.
            if count < min(self.run.missing(prompt), self.size):
                break
            entering.append([self.run.start(prompt) for _ in range(count)])
            free -= count
            if not self.run.missing(prompt):
                self.waiting.popleft()
        for start, stop in self._parts([rows[0].position - self.start for rows in entering]):
            self._read(entering[start:stop])

    def _parts(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """(start, stop) of the passes that read prompts of these lengths, longest first."""
        per_pass = PREFILL_TOKENS if self.plain else self.pass_tokens
        return cheapest_cuts([(1, max(1, length)) for length in lengths], PREFILL_TOKENS, per_pass)

    def _read(self, entering: list[list[Row]]) -> None:
        """Read prompts, all but their last tokens, into the cache, each once for all of its samples."""
        first = len(self.rows)
        self.rows += [row for rows in entering for row in rows]
        into = torch.arange(first, len(self.rows), device=self.device)
        ends = [rows[0].position for rows in entering]
        self.cache.reserve(max(1, *ends))
        if self.start:
            self.cache.spread(self.prefix, self.start, into)
        width = max(ends) - self.start
        if width == 0:
            return
        ids = torch.zeros(len(entering), width, dtype=torch.long)
        segments = torch.full_like(ids, PAD_SEGMENT)
        for i, (rows, end) in enumerate(zip(entering, ends, strict=True)):
            length = end - self.start
            ids[i, :length] = torch.tensor(self.run.prompts[rows[0].prompt][self.start : end])
            segments[i, :length] = PROMPT_SEGMENT
        ids, segments = ids.to(self.device), segments.to(self.device)
        positions = torch.arange(self.start, self.start + width, device=self.device).expand(len(entering), -1)
        of_row = torch.tensor([i for i, rows in enumerate(entering) for _ in rows], device=self.device)
        plan: AttentionPlan
        if self.start or self.plain:
            # What pads a row stands behind its tokens: they don't see it, so that one mask does for all.
            plan = CachePlan(torch.arange(self.start + width, device=self.device).unsqueeze(0), positions[:1])
        else:
            plan = GroupPlan(segments, positions)  # in blocks, where they pay
        self.backbone.step(ids, positions, plan, self.cache.filling(into, of_row, self.start), self.route)

    def _decode_one(self) -> None:
        """One more token for every row; what is done leaves."""
        at = [row.position for row in self.rows]
        span = max(at) + 1
        self.cache.reserve(span)
        positions = torch.tensor(at, device=self.device)
        tokens = torch.tensor([row.token for row in self.rows], device=self.device)
        query = positions.unsqueeze(1)
        # A key lies in the slot of its position. What a slot beyond the row's end holds is in the future: not seen.
        plan = CachePlan(torch.arange(span, device=self.device).expand(len(at), -1), query)
        cache = self.cache.decoding(positions, span)
        hidden = self.backbone.step(tokens.unsqueeze(1), query, plan, cache, self.route)
        drawn, logprobs = self.drawer(hidden[:, 0], self.rows)
        done = [self.run.take(*taken) for taken in zip(self.rows, drawn, logprobs, strict=True)]
        for index in reversed([i for i, is_done in enumerate(done) if is_done]):
            last = self.rows.pop()
            if index < len(self.rows):
                self.cache.move(len(self.rows), index, last.position)
                self.rows[index] = last
