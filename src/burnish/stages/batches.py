"""A pass over prompt groups: micro-batches, laid out and on the model's device, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from burnish.data.batching import micro_batches
from burnish.data.groups import GroupBatch, PromptGroup, collate
from burnish.models.roles import Backbone
from burnish.stages.progress import Progress


def batches(
    backbone: Backbone, groups: Sequence[PromptGroup], tokens: int, progress: Progress | None = None
) -> Iterator[tuple[list[PromptGroup], GroupBatch]]:
    """The groups in micro-batches of at most `tokens` tokens, each with the batch made of it.

    Args:
        backbone: whose layout and device the batches are for.
        groups: in any order; each comes once, the longest first.
        tokens: rows x longest row of a batch at most.
        progress: counts the micro-batches, where a pass is long enough to be shown.
    """
    parts = micro_batches(groups, tokens=tokens, layout=backbone.layout)
    if progress is not None:
        progress.start(len(parts), 0)
    for done, micro in enumerate(parts, start=1):
        yield micro, collate(micro, layout=backbone.layout).to(backbone.device)
        if progress is not None:
            progress.step(done, {})
