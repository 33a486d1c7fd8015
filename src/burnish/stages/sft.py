"""Supervised fine-tuning: the raw model learns to answer, in the form of the examples, and to stop."""

from __future__ import annotations

import torch
from rich.console import Console

from burnish.data.batching import DataOrder
from burnish.data.groups import PromptGroup
from burnish.losses.sft import sft_loss
from burnish.models.roles import Role, response_logprobs
from burnish.models.trunk import Trunk, TrunkCache
from burnish.stages.batches import batches, prepare_trunks
from burnish.stages.config import SFTConfig
from burnish.stages.loop import TrainingLoop
from burnish.stages.monitor import make_monitor
from burnish.stages.progress import Progress
from burnish.stages.run import RunResult
from burnish.stages.setup import encode_data, finish, load_actors, read_data, stage_run


def train_sft(config: SFTConfig, *, console: Console | None = None) -> RunResult:
    """Fine-tune on prompts with ideal responses; cross-entropy on the response tokens only.

    The same config again resumes a run that was cut off, to the same bits, and does nothing for a finished one.

    Raises:
        BurnishError: bad settings, data, model or directory; each with what, where and what to do.
    """
    console = console or Console(stderr=True)
    with stage_run(config) as run:
        if run.finished:
            return run.result(already_done=True)
        data = read_data(config, "sft", console)
        actors = load_actors(config, run, console)
        groups = encode_data(config, actors.ground, data, run, console, policy=actors.policy)
        policy, backbone = actors.policy, actors.backbone
        trunks = prepare_trunks([policy], groups, config, console)

        def evaluate() -> dict[str, float]:
            return evaluate_sft(policy, groups.validation, config.micro_batch_tokens, trunks.validation)

        order = DataOrder(len(groups.train), config.batch_size, config.seed)
        monitor = make_monitor(config, actors.ground, policy, run, console)
        progress = Progress("sft", console)
        with TrainingLoop(run, policy.trained(), order, evaluate, progress, monitor=monitor) as loop:
            for step in loop:
                examples = [groups.train[i] for i in step.examples]
                n_tokens = sum(group.loss_tokens for group in examples)
                for _, batch in batches(backbone, examples, config.micro_batch_tokens, trunk=trunks.train):
                    logprobs = response_logprobs(policy, batch, dropout=True)
                    loss = sft_loss(logprobs.token, n_tokens)
                    step.backward(loss, tokens=batch.n_tokens, origins=batch.origins)
            metrics = loop.conclude()
            resumed_from = loop.resumed_from
        finish(run, actors, loop.done, metrics, config)
        return run.result(resumed_from=resumed_from)


@torch.no_grad()
def evaluate_sft(
    policy: Role, groups: list[PromptGroup], tokens: int, trunk: Trunk | TrunkCache | None = None
) -> dict[str, float]:
    """Mean negative log-likelihood of held-out response tokens, in nats per token; empty without groups."""
    if not groups:
        return {}
    total, n_tokens = 0.0, 0
    for _, batch in batches(policy.backbone, groups, tokens, trunk=trunk):
        total -= float(response_logprobs(policy, batch).token.sum())
        n_tokens += batch.n_loss_tokens
    return {"loss": total / n_tokens}
