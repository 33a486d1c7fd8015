"""Direct preference optimisation (Rafailov et al. 2023): pairs of responses, no reward model, no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from burnish.data.batching import DataOrder
from burnish.data.groups import GroupBatch, PromptGroup
from burnish.errors import ConfigError
from burnish.files import atomic_directory
from burnish.losses.preference import PairLogps, make_loss, pair_logps
from burnish.models.roles import Role, predicting_hidden, response_logprobs
from burnish.models.trunk import Trunk, TrunkCache
from burnish.ops.logprobs import token_kl
from burnish.stages.batches import NO_TRUNKS, Trunks, batches, prepare_trunks
from burnish.stages.config import DPOConfig
from burnish.stages.loop import TrainingLoop
from burnish.stages.monitor import make_monitor
from burnish.stages.progress import Progress
from burnish.stages.run import Run, RunResult
from burnish.stages.setup import Actors, TrainingData, encode_data, finish, load_actors, read_data, stage_run

KL_POSITIONS = 256


def train_dpo(config: DPOConfig, *, console: Console | None = None) -> RunResult:
    """Train on pairs of a better and a worse response to the same prompt.

    The reference is where the stage starts: the adapter that `config.model` names, frozen beside the copy of it that
    trains, or the plain model. Prompt, chosen and rejected share one row, so each prompt is computed once.

    Raises:
        BurnishError: bad settings, data, model or directory; each with what, where and what to do.
    """
    console = console or Console(stderr=True)
    try:
        loss_of = make_loss(config.loss)
    except ValueError as error:
        raise ConfigError(str(error), where="loss") from None
    with stage_run(config) as run:
        if run.finished:
            return run.result(already_done=True)
        data = read_data(config, "preference", console)
        actors = load_actors(config, run, console)
        groups = encode_data(config, actors.ground, data, run, console, policy=actors.policy)
        policy, backbone = actors.policy, actors.backbone
        trunks = prepare_trunks([policy, actors.reference or policy], groups, config, console)
        reference = prepare_reference(actors, groups, config, run, console, trunks)
        if not groups.validation or reference.role is None:
            why = "the reference is gone after the first step" if groups.validation else "there are no held-out pairs"
            console.print(f"no KL from the reference will be measured: {why}", highlight=False)

        def evaluate() -> dict[str, float]:
            return evaluate_dpo(policy, reference, groups.validation, loss_of, config, trunks.validation)

        order = DataOrder(len(groups.train), config.batch_size, config.seed)
        monitor = make_monitor(config, actors.ground, policy, run, console)
        progress = Progress("dpo", console)
        with TrainingLoop(run, policy.trained(), order, evaluate, progress, monitor=monitor) as loop:
            for step in loop:
                examples = [groups.train[i] for i in step.examples]
                for _, batch in batches(backbone, examples, config.micro_batch_tokens, trunk=trunks.train):
                    logprobs = response_logprobs(policy, batch, dropout=True)
                    pairs = pair_logps(logprobs.summed(), logprobs.counts(), reference.summed(batch))
                    loss = loss_of(pairs).sum() / len(examples)
                    step.backward(loss, tokens=batch.n_tokens, origins=batch.origins)
                    step.add(**pair_metrics(pairs, config, len(examples)))
            metrics = loop.conclude()
            resumed_from = loop.resumed_from
        finish(run, actors, loop.done, metrics, config)
        return run.result(resumed_from=resumed_from)


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference's summed log-probs of every response: computed when asked, or looked up.

    Attributes:
        role: the frozen role, or none where only what was computed of it is left (full fine-tuning).
        train: (training examples, 2) sums in nats of chosen and rejected, or none.
        validation: (validation examples, 2) likewise.
    """

    role: Role | None
    train: Tensor | None = None
    validation: Tensor | None = None

    @torch.no_grad()
    def summed(self, batch: GroupBatch, *, validation: bool = False) -> Tensor:
        """(R,) summed log-probs of the batch's responses under the reference."""
        cached = self.validation if validation else self.train
        if cached is not None:
            return cached[list(batch.indices)].reshape(-1).to(batch.input_ids.device)
        assert self.role is not None
        return response_logprobs(self.role, batch).summed()


def prepare_reference(
    actors: Actors, groups: TrainingData, config: DPOConfig, run: Run, console: Console, trunks: Trunks = NO_TRUNKS
) -> Reference:
    """Compute the reference's log-probs once per example where they will be needed again.

    With one epoch over the training set each is needed once, in its own step; the validation set's are needed at
    every validation. With full fine-tuning all are computed now, while the weights are still the starting ones, and
    kept on disk for a resume.
    """
    store = run.out / "reference"
    if not store.is_dir():
        role = actors.reference or actors.policy
        tensors = {}
        if config.epochs > 1 or actors.reference is None:
            console.print(f"reference log-probs of {len(groups.train)} training pairs, once", highlight=False)
            with Progress("reference", console) as shown:
                tensors["train"] = reference_logprobs(
                    role, groups.train, config.micro_batch_tokens, shown, trunk=trunks.train
                )
        if groups.validation:
            tensors["validation"] = reference_logprobs(
                role, groups.validation, config.micro_batch_tokens, trunk=trunks.validation
            )
        with atomic_directory(store) as temporary:
            save_file(tensors, temporary / "logprobs.safetensors")
    tensors = load_file(store / "logprobs.safetensors")
    return Reference(actors.reference, tensors.get("train"), tensors.get("validation"))


@torch.no_grad()
def reference_logprobs(
    role: Role,
    groups: Sequence[PromptGroup],
    tokens: int,
    progress: Progress | None = None,
    *,
    trunk: Trunk | TrunkCache | None = None,
) -> Tensor:
    """(groups, 2) summed log-probs of chosen and rejected, in the order of `groups` (`index` is the place)."""
    out = torch.empty(len(groups), 2)
    for _, batch in batches(role.backbone, groups, tokens, progress, trunk=trunk):
        out[list(batch.indices)] = response_logprobs(role, batch).summed().reshape(-1, 2).to(out)
    return out


def pair_metrics(pairs: PairLogps, config: DPOConfig, n_pairs: int) -> dict[str, float]:
    """This micro-batch's share of the step's means, under the field's names; rewards are beta x log-ratio."""
    beta = float(config.loss.get("beta", 0.1))
    chosen = beta * (pairs.chosen - pairs.ref_chosen).detach()
    rejected = beta * (pairs.rejected - pairs.ref_rejected).detach()
    return {
        "margin": float((chosen - rejected).sum()) / n_pairs,
        "accuracy": float((chosen > rejected).sum()) / n_pairs,
        "rewards/chosen": float(chosen.sum()) / n_pairs,
        "rewards/rejected": float(rejected.sum()) / n_pairs,
        "logps/chosen": float(pairs.chosen.detach().sum()) / n_pairs,
        "logps/rejected": float(pairs.rejected.detach().sum()) / n_pairs,
    }


@torch.no_grad()
def evaluate_dpo(
    policy: Role,
    reference: Reference,
    groups: list[PromptGroup],
    loss_of: Callable[[PairLogps], Tensor],
    config: DPOConfig,
    trunk: Trunk | TrunkCache | None = None,
) -> dict[str, float]:
    """Loss, margin, accuracy and KL on held-out pairs; empty without pairs.

    `kl` is KL(policy || reference) over the whole vocabulary, exact, in nats per token, averaged over KL_POSITIONS
    positions spread evenly over the held-out responses (it costs two whole rows of logits a position). With full
    fine-tuning there is no reference left to compare with, and no `kl`.
    """
    if not groups:
        return {}
    totals: dict[str, float] = {"loss": 0.0}
    stride = max(1, sum(group.loss_tokens for group in groups) // KL_POSITIONS)
    kl, n_positions = 0.0, 0
    for _, batch in batches(policy.backbone, groups, config.micro_batch_tokens, trunk=trunk):
        logprobs = response_logprobs(policy, batch)
        pairs = pair_logps(logprobs.summed(), logprobs.counts(), reference.summed(batch, validation=True))
        totals["loss"] += float(loss_of(pairs).sum()) / len(groups)
        for name, value in pair_metrics(pairs, config, len(groups)).items():
            totals[name] = totals.get(name, 0.0) + value
        if reference.role is not None:
            ours, theirs = (
                predicting_hidden(policy, batch)[::stride],
                predicting_hidden(reference.role, batch)[::stride],
            )
            kl += float(token_kl(ours, theirs, policy.head(), reference.role.head()).sum())
            n_positions += len(ours)
    return totals | ({"kl": kl / n_positions} if n_positions else {})
