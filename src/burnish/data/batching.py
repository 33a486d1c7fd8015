"""The order in which examples are seen, and how a batch is cut into micro-batches.

The order is a pure function of seed and step, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from burnish.data.groups import Layout, PromptGroup


def row_tokens(group: PromptGroup, layout: Layout) -> tuple[int, int]:
    """(rows, longest row in tokens) that a group takes in a layout."""
    if layout == "shared":
        return 1, group.row_length
    return len(group.responses), group.context_length


PASS_SHARE = 32
"""A pass over the model costs, beside its tokens, about 1 / 32 of what a full micro-batch costs (launches, reading the
weights). Cutting once more must save more padding than that."""
UNIT_PASS_SHARE = 8
"""The same where tokens are cheap, in bfloat16 and on a GPU: about 1 / 8. With Gemma 3 270M on AMX, 5 passes of 16
conversations take 0.83 of the time of 8 with less padding; with SmolLM2-135M it makes no difference."""


def micro_batches(
    groups: Sequence[PromptGroup], *, tokens: int, layout: Layout = "shared", pass_share: int = PASS_SHARE
) -> list[list[PromptGroup]]:
    """Cut a batch into micro-batches of at most `tokens` tokens, padding included, so that the least is computed.

    Rows are sorted by length; of all the ways to cut that order, the one with the fewest tokens (padding, and a share
    for each pass, included) is taken. A group longer than the budget by itself gets a micro-batch of its own.

    Args:
        groups: the optimiser batch.
        tokens: rows x longest row of a micro-batch at most.
        layout: how the rows will be laid out.
        pass_share: a pass costs as much as `tokens` / `pass_share` tokens.

    Returns:
        Micro-batches, longest rows first, so that the peak of memory comes at once and not after an hour.
    """
    order = sorted(range(len(groups)), key=lambda i: (-row_tokens(groups[i], layout)[1], i))
    sizes = [row_tokens(groups[i], layout) for i in order]
    cuts = cheapest_cuts(sizes, tokens, tokens // pass_share)
    return [[groups[i] for i in order[start:stop]] for start, stop in cuts]


def cheapest_cuts(sizes: Sequence[tuple[int, int]], tokens: int, per_pass: int) -> list[tuple[int, int]]:
    """(start, stop) of each part of a list of (rows, length) that falls in length; dynamic programming over the ends.

    A part's width is the length of its first element. Parts hold at most `tokens` / length rows, which bounds the work.

    Args:
        sizes: (rows, length) of each element, longest first.
        tokens: rows x length of a part at most; an element longer than that is a part of its own.
        per_pass: what a part costs beside its tokens, in tokens.
    """
    n = len(sizes)
    cost, begin = [0, *[sys.maxsize] * n], [0] * (n + 1)
    for start, (_, width) in enumerate(sizes):
        rows = 0
        for stop in range(start + 1, n + 1):
            rows += sizes[stop - 1][0]
            if rows * width > tokens and stop > start + 1:
                break
            total = cost[start] + rows * width + per_pass
            if total < cost[stop]:
                cost[stop], begin[stop] = total, start
    cuts, stop = [], n
    while stop > 0:
        cuts.append((begin[stop], stop))
        stop = begin[stop]
    return cuts[::-1]


@dataclass(frozen=True, slots=True)
class DataOrder:
    """Which examples make up the batch of a step.

    Every epoch is a fresh permutation, drawn from (seed, epoch). The last batch of an epoch may be smaller: no
    example is dropped and none is seen twice in an epoch.

    Attributes:
        n: number of examples.
        batch_size: examples of an optimiser step.
        seed: of the permutations.
    """

    n: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.n // self.batch_size)

    def batch(self, step: int) -> list[int]:
        """Places in the data set of the examples of step `step`, counted from 0 across epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.n, generator=generator)
        return order[within * self.batch_size : (within + 1) * self.batch_size].tolist()


@dataclass(frozen=True, slots=True)
class RolloutOrder:
    """Which prompts make up a rollout, and which of a rollout's groups the batch of each optimiser step.

    Every epoch over the prompts is a fresh permutation, cut into rollouts; the last one of an epoch may be smaller.
    Every pass over a rollout is a fresh permutation of its groups, cut into batches likewise.

    Attributes:
        n: number of prompts.
        rollout_size: prompts of a rollout.
        batch_size: prompts of an optimiser step.
        passes: over each rollout.
        seed: of the permutations.
    """

    n: int
    rollout_size: int
    batch_size: int
    passes: int
    seed: int

    @property
    def rollouts_per_epoch(self) -> int:
        """Rollouts of a pass over the prompts."""
        return -(-self.n // self.rollout_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of a pass over the prompts."""
        return self.first_step(self.rollouts_per_epoch)

    def first_step(self, rollout: int) -> int:
        """The optimiser step, counted from 0, with which a rollout begins."""
        epochs, within = divmod(rollout, self.rollouts_per_epoch)
        last = self.n - (self.rollouts_per_epoch - 1) * self.rollout_size
        epoch = (self.rollouts_per_epoch - 1) * self._steps(self.rollout_size) + self._steps(last)
        return epochs * epoch + within * self._steps(self.rollout_size)

    def _steps(self, prompts: int) -> int:
        return self.passes * -(-min(prompts, self.n) // self.batch_size)

    def rollout_of(self, step: int) -> int:
        """The rollout, counted from 0 across epochs, that a step learns from."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return epoch * self.rollouts_per_epoch + within // self._steps(self.rollout_size)

    def prompts(self, rollout: int) -> list[int]:
        """Places in the data set of a rollout's prompts."""
        return DataOrder(self.n, self.rollout_size, self.seed).batch(rollout)

    def members(self, step: int) -> list[int]:
        """Places in the rollout of the groups of a step."""
        rollout = self.rollout_of(step)
        size = len(self.prompts(rollout))
        number, part = divmod(step - self.first_step(rollout), -(-size // self.batch_size))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + rollout) * 1_009 + number + 7)
        order = torch.randperm(size, generator=generator)
        return order[part * self.batch_size : (part + 1) * self.batch_size].tolist()

    def batch(self, step: int) -> list[int]:
        """Places in the data set of the prompts of a step."""
        prompts = self.prompts(self.rollout_of(step))
        return [prompts[place] for place in self.members(step)]


def split(n: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split `n` examples into (training, validation) places.

    Args:
        n: number of examples.
        fraction: share of the validation set; at least one example where the share is above 0 and n above 1.
        seed: of the draw.
    """
    if fraction <= 0.0 or n < 2:
        return list(range(n)), []
    held = min(n - 1, max(1, round(n * fraction)))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held:]), sorted(order[:held])
