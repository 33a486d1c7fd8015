"""A pass over prompt groups: micro-batches, laid out and on the model's device, one at a time.

With them comes what lower layers make of them that don't train, where that is kept or several roles share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from burnish.data.batching import PASS_SHARE, UNIT_PASS_SHARE, micro_batches
from burnish.data.groups import GroupBatch, PromptGroup, collate
from burnish.models.layers import first_trained_layer
from burnish.models.roles import Backbone, Role
from burnish.models.trunk import Trunk, TrunkCache
from burnish.stages.config import TrainConfig
from burnish.stages.progress import Progress
from burnish.stages.setup import TrainingData


def batches(
    backbone: Backbone,
    groups: Sequence[PromptGroup],
    tokens: int,
    progress: Progress | None = None,
    *,
    trunk: Trunk | TrunkCache | None = None,
) -> Iterator[tuple[list[PromptGroup], GroupBatch]]:
    """The groups in micro-batches of at most `tokens` tokens, each with the batch made of it.

    Args:
        backbone: whose layout and device the batches are for.
        groups: in any order; each comes once, the longest first.
        tokens: rows x longest row of a batch at most.
        progress: counts the micro-batches, where a pass is long enough to be shown.
        trunk: lower layers whose states come with each batch: of a cache those that it keeps, else computed now.
    """
    cheap_tokens = backbone.device.type != "cpu" or backbone.compute_dtype == torch.bfloat16
    share = UNIT_PASS_SHARE if cheap_tokens else PASS_SHARE
    parts = micro_batches(groups, tokens=tokens, layout=backbone.layout, pass_share=share)
    if progress is not None:
        progress.start(len(parts), 0)
    for done, micro in enumerate(parts, start=1):
        batch = collate(micro, layout=backbone.layout).to(backbone.device)
        if trunk is not None and trunk.layout == backbone.layout:
            batch = trunk.attached(batch, micro)
        yield micro, batch
        if progress is not None:
            progress.step(done, {})


@dataclass(frozen=True, slots=True)
class Trunks:
    """Where the states of lower layers come from, for the training set and the held-out one; none if from nowhere."""

    train: Trunk | TrunkCache | None = None
    validation: Trunk | TrunkCache | None = None


NO_TRUNKS: Trunks = Trunks()


def prepare_trunks(
    roles: Sequence[Role], groups: TrainingData, config: TrainConfig, console: Console, *, uses: int = 1
) -> Trunks:
    """Compute what the roles' shared lower layers make of the data, once, where it is used more than once.

    Args:
        roles: who reads the data.
        groups: the data.
        config: epochs, and the memory that states may take.
        console: is told what is kept.
        uses: how often an example is read in an epoch, on average.
    """
    trunk = shared_trunk(roles, config, console)
    if trunk is None:
        return NO_TRUNKS
    reads = config.epochs * len(groups.train)
    if config.max_steps is not None:
        reads = min(reads, config.max_steps * config.batch_size)
    budget, kept = config.trunk_cache_gb * 1e9, {}
    again = reads * uses > len(groups.train)
    for name, part, wanted in (("validation", groups.validation, True), ("train", groups.train, again)):
        if part and wanted and budget > 0.0:
            kept[name] = cache = filled(TrunkCache(trunk, budget), part, config.micro_batch_tokens, console)
            budget -= cache.bytes_for(part[: cache.n_groups])
    # Read once, by one role, an example gains nothing from being computed in two parts.
    otherwise = trunk if len(roles) > 1 and uses == 1 else None
    return Trunks(kept.get("train", otherwise), kept.get("validation", otherwise))


def shared_trunk(roles: Sequence[Role], config: TrainConfig, console: Console) -> Trunk | None:
    """The lower layers that all the roles share; where they were to be shared and can't be, that is said."""
    trunk, backbone = Trunk.shared_by(roles), roles[0].backbone
    wanted = config.tuning == "lora" and not backbone.plain and first_trained_layer(backbone.model, config.lora.layers)
    if trunk is None and wanted:
        console.print(
            "lora.layers: the layers below are computed anew in each pass: the roles differ in them, or this model's "
            "layers can't be run apart",
            style="yellow",
            highlight=False,
        )
    return trunk


def filled(cache: TrunkCache, groups: Sequence[PromptGroup], tokens: int, console: Console | None = None) -> TrunkCache:
    """The cache with the states of these groups in it, as many as fit; with a console it says so."""
    backbone = cache.trunk.backbone
    if console is None:
        cache.fill(groups, lambda chosen: batches(backbone, chosen, tokens))
        return cache
    with Progress("lower layers", console) as shown:
        cache.fill(groups, lambda chosen: batches(backbone, chosen, tokens, shown))
    size = cache.bytes_for(groups[: cache.n_groups]) / 1e9
    console.print(
        f"the lower {cache.trunk.depth} layers are computed once for {cache.n_groups} of {len(groups)} examples "
        f"({size:.2g} GB)",
        highlight=False,
    )
    return cache
