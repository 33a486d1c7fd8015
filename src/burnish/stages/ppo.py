"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) of a language model on a reward (Ziegler et al.
2019, arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031), and RLOO and GRPO, which do without a critic.

A rollout: the policy answers prompts; reference, critic and reward model read the answers in one pass; rewards less the
price of the KL become advantages; then several passes of mini-batches over them.

Legend: N response tokens of a micro-batch, R responses of a rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from burnish.data.batching import RolloutOrder
from burnish.data.groups import GroupBatch, PromptGroup
from burnish.files import atomic_directory
from burnish.losses.policy import clipped_policy_loss, clipped_value_loss
from burnish.models.heads import score
from burnish.models.placement import peak_memory_gb
from burnish.models.reward import write_scorer
from burnish.models.roles import Role, hidden_of
from burnish.models.trunk import TrunkCache
from burnish.ops.entropy import token_entropy
from burnish.ops.kl import AdaptiveKLController, FixedKLController, KLController, kl_estimator
from burnish.ops.logprobs import token_logprobs
from burnish.stages.batches import batches, filled, shared_trunk
from burnish.stages.keeping import Best
from burnish.stages.loop import TrainingLoop
from burnish.stages.monitor import make_monitor
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_reward import Rewarder, examples_by_origin, functions_of
from burnish.stages.ppo_roles import Cast, load_cast
from burnish.stages.ppo_rollout import (
    Rollout,
    Sampled,
    laid_out_for,
    make_rollout,
    read_responses,
    rows_of,
    sample_responses,
    take,
)
from burnish.stages.ppo_watch import Watch, as_record
from burnish.stages.progress import Progress
from burnish.stages.run import Run, RunResult
from burnish.stages.setup import Actors, encode_data, finish_with, model_dtype, read_data, stage_run, write_policy
from burnish.stages.step import NotFinite, Step

DRIFT = 0.1
"""Nats between the log-probs of sampler and training forward, on average, above which something is wrong."""


def train_ppo(config: PPOConfig, *, console: Console | None = None) -> RunResult:
    """Train a policy on a reward.

    The reference is where the stage starts: the adapter that `config.model` names, frozen beside the copy of it that
    trains, or the plain model.

    Raises:
        BurnishError: bad settings, data, models or directory, or a reward function that fails; each with what, where
            and what to do.
    """
    console = console or Console(stderr=True)
    functions = functions_of(config)
    with stage_run(config) as run:
        if run.finished:
            return run.result(already_done=True)
        data = read_data(config, "prompt", console)
        cast = load_cast(config, run, console)
        groups = encode_data(config, cast.ground, data, run, console, policy=cast.policy, room=config.max_new_tokens)
        order = RolloutOrder(
            len(groups.train), config.rollout_size, config.batch_size, config.update_epochs, config.seed
        )
        held_out = groups.validation[: config.evaluation_prompts]
        rewarder = Rewarder(config, cast, examples_by_origin(data), functions)
        stage = Stage(config, cast, run, console, order, groups.train, rewarder)
        stage.watch = stage.watching(held_out)
        stage.watch.announce()
        with TrainingLoop(
            run,
            cast.parameters(),
            order,
            stage.evaluate,
            stage.progress,
            apart=["critic."],
            rates={"critic.": config.critic_learning_rate or config.learning_rate},
            carried=stage,
            best=Best(stage.watch.best_metric, -1, start_counts=True),
            eval_after=stage.evaluates_after,
            monitor=make_monitor(config, cast.ground, cast.policy, run, console),
            looks_after=stage.ends_rollout,
            limit=None if config.max_rollouts is None else order.first_step(config.max_rollouts),
        ) as loop:
            stage.loop = loop
            for step in loop:
                stage.learn(step)
            metrics = loop.conclude()
            resumed_from = loop.resumed_from
        _write_critic(cast, run, config)
        actors = Actors(cast.ground, cast.policy, cast.start)
        finish_with(run, lambda path: write_policy(actors, path, model_dtype(config)), loop.done, metrics)
        return run.result(resumed_from=resumed_from)


def _write_critic(cast: Cast, run: Run, config: PPOConfig) -> None:
    """OUT/critic: the trained critic, an adapter with a head, or a whole classifier."""
    if cast.critic is None:
        return
    ground = cast.ground
    with atomic_directory(run.out / "critic", replace=True) as directory:
        write_scorer(cast.critic, directory, tokenizer=ground.tokenizer, base=ground.base, dtype=model_dtype(config))


@dataclass
class Stage:
    """A run of PPO: what it stands on, and what it carries from step to step."""

    config: PPOConfig
    cast: Cast
    run: Run
    console: Console
    order: RolloutOrder
    prompts: Sequence[PromptGroup]
    rewarder: Rewarder
    watch: Watch = field(init=False)
    loop: TrainingLoop = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.progress = Progress("ppo" if config.advantage == "gae" else config.advantage, self.console)
        self.controller: KLController = FixedKLController(config.kl_coefficient)
        if config.kl_target is not None:
            self.controller = AdaptiveKLController(config.kl_coefficient, target=config.kl_target)
        self.rollout: Rollout | None = None
        self.trunk = shared_trunk([self.cast.policy, self.cast.reference], config, self.console)
        self.kept = None if self.trunk is None else TrunkCache(self.trunk, config.trunk_cache_gb * 1e9)
        self.kept_of = -1
        """The rollout whose lower layers' states are kept."""
        self.halted = -1
        """The last rollout whose remaining updates are left out, the KL limit being reached."""
        self.moved = 0
        """The rollout before which the reference was last moved."""
        self.begun = 0.0

    # ---- one step ----

    def learn(self, step: Step) -> None:
        """One optimiser step: on a new rollout if the last one is used up."""
        number = self.order.rollout_of(step.index)
        if self.rollout is None or self.rollout.number != number:
            self.begun = time.perf_counter()
            try:
                self.rollout = self._new_rollout(number)
            except NotFinite as error:
                step.fail(error)
                return
            step.aside(time.perf_counter() - self.begun)
            self.loop.record({"step": step.index + 1, "rollout": number + 1, **self.rollout.metrics})
        self._keep_trunk(number, self.rollout.sampled)
        step.shown = self.rollout.metrics
        if self.halted == number:
            step.skip()
        else:
            self._update(step, self.rollout)
        if self.order.first_step(number + 1) == step.index + 1 and self.begun:
            seconds = time.perf_counter() - self.begun
            step.add(
                rollout_seconds=seconds,
                episodes_per_second=len(self.rollout.sampled.mask) / seconds,
                peak_memory_gb=peak_memory_gb(),
            )

    def _update(self, step: Step, rollout: Rollout) -> None:
        """One mini-batch. Policy and critic share no parameter, so their losses need no weight between them."""
        config, sampled = self.config, rollout.sampled
        members = [sampled.groups[place] for place in self.order.members(step.index)]
        n_tokens = sum(group.loss_tokens for group in members)
        warming = rollout.number < config.critic_warmup
        policy, critic = self.cast.policy, self.cast.critic
        roles = [*([] if warming else [policy]), *([] if critic is None else [critic.role])]
        for together in self._passes(roles, members):
            trunk = self.kept if self.trunk is not None and any(map(self.trunk.carries, together)) else None
            at_once = config.micro_batch_tokens // len(together)
            for micro, batch in batches(laid_out_for(together), members, at_once, trunk=trunk):
                rows, losses = rows_of(micro), []
                for role, states in zip(together, hidden_of(together, batch), strict=True):
                    hidden = states.reshape(-1, states.shape[-1]).index_select(0, batch.predictors)
                    if role is policy:
                        losses.append(self._policy_loss(step, rollout, rows, hidden, batch, n_tokens))
                    elif critic is not None:
                        losses.append(self._value_loss(step, rollout, rows, score(hidden, critic.head), n_tokens))
                tokens = batch.n_tokens if roles[0] in together else 0
                step.backward(torch.stack(losses).sum(), tokens=tokens, origins=batch.origins)
        if (drift := step.values.get("drift", 0.0)) > DRIFT:
            self.console.print(
                f"warning: sampler and training forward differ by {drift:.2g} nats a token; "
                "the ratios of this rollout are off by as much (try --dtype float32)",
                style="yellow",
                highlight=False,
            )
        if config.kl_limit is not None and step.values.get("approx_kl", 0.0) > config.kl_limit:
            self.halted = rollout.number
            step.skip()

    def _passes(self, roles: Sequence[Role], members: Sequence[PromptGroup]) -> list[list[Role]]:
        """Which roles are computed together: all of them if one pass then holds the mini-batch, else each by itself,
        since a full pass gains nothing by being shared (docs/architecture.md has the figures)."""
        tokens = len(roles) * len(members) * max(group.row_length for group in members)
        return [list(roles)] if tokens <= self.config.micro_batch_tokens else [[role] for role in roles]

    def _policy_loss(
        self, step: Step, rollout: Rollout, rows: Tensor, hidden: Tensor, batch: GroupBatch, n_tokens: int
    ) -> Tensor:
        """The clipped surrogate, the KL where it is in the loss, and the entropy bonus, of a micro-batch."""
        config, mask = self.config, rollout.sampled.mask
        head = self.cast.policy.head()
        logprobs = token_logprobs(hidden, head, batch.targets)
        old = take(rollout.sampled.logprobs, mask, rows).to(logprobs)
        advantages = take(rollout.advantages, mask, rows).to(logprobs)
        found = clipped_policy_loss(
            logprobs, old, advantages, n_tokens, clip_low=config.clip_low, clip_high=config.clip_high
        )
        loss = found.loss
        if config.kl_in == "loss":
            reference = take(rollout.reference, mask, rows).to(logprobs)
            kl = kl_estimator(config.kl_estimator)(logprobs - reference).sum() / n_tokens
            loss = loss + self.controller.coefficient * kl
            step.add(kl_loss=float(kl.detach()))
        if config.entropy_coefficient:
            entropy = token_entropy(hidden, head).sum() / n_tokens
            loss = loss - config.entropy_coefficient * entropy
            step.add(exact_entropy=float(entropy.detach()))
        step.add(
            policy_loss=float(found.loss.detach()),
            ratio=float(found.ratio_mean),
            clip_fraction=float(found.clip_fraction),
            approx_kl=float(found.approx_kl),
        )
        if step.index == self.order.first_step(rollout.number):
            self._note_drift(step, (logprobs.detach() - old).abs(), n_tokens)
        return loss

    def _note_drift(self, step: Step, apart: Tensor, n_tokens: int) -> None:
        """Nothing has been updated since the sampling: what the two forwards differ by is error."""
        step.add(drift=float(apart.sum()) / n_tokens)
        step.values["drift_max"] = max(step.values.get("drift_max", 0.0), float(apart.max()))

    def _value_loss(self, step: Step, rollout: Rollout, rows: Tensor, values: Tensor, n_tokens: int) -> Tensor:
        mask = rollout.sampled.mask
        old, returns = take(rollout.values, mask, rows).to(values), take(rollout.returns, mask, rows).to(values)
        # A reward model's head was never trained within a response: at first its values may be far off.
        clip = math.inf if rollout.number < self.config.critic_warmup else self.config.value_clip
        found = clipped_value_loss(values, old, returns, n_tokens, clip=clip)
        step.add(value_loss=float(found.loss.detach()), value_clip_fraction=float(found.clip_fraction))
        return found.loss

    # ---- one rollout ----

    def _keep_trunk(self, number: int, sampled: Sampled) -> None:
        """What the lower layers make of a rollout, once for all roles and updates; anew after a resume."""
        if self.kept is not None and self.kept_of != number:
            filled(self.kept, sampled.groups, self.config.micro_batch_tokens)
            self.kept_of = number

    def _new_rollout(self, number: int) -> Rollout:
        """Sample, read, reward. The reference moves first, once; all else that is carried changes at the very end, so
        that a rollout cut off leaves no trace."""
        config, cast = self.config, self.cast
        if config.reference_ema is not None and self.moved < number:
            cast.move_reference(config.reference_ema)
            self.moved = number
        prompts = [self.prompts[place] for place in self.order.prompts(number)]
        total = len(prompts) * config.n_responses

        def sampling(done: int) -> None:
            self.progress.message(f"sampling {done}/{total}")
            self.loop.stop_if_asked()

        started = time.perf_counter()
        seed = (config.seed * 1_000_003 + number) * 1_009 + 1
        sampled = sample_responses(
            cast.policy, prompts, config, cast.ground.stop_ids, seed=seed, k=config.n_responses, progress=sampling
        )
        seconds = time.perf_counter() - started
        self.progress.message("scoring")
        self._keep_trunk(number, sampled)
        reading = read_responses(
            sampled,
            config.micro_batch_tokens,
            speakers=[cast.reference],
            critics=[] if cast.critic is None else [cast.critic],
            scorers=cast.scorers,
            between=self.loop.stop_if_asked,
            trunk=self.kept,
        )
        raw = self.rewarder.raw(reading.scores, self.rewarder.episodes(sampled))
        self.loop.stop_if_asked()
        scores = self.rewarder.rewards(raw, sampled.finished)
        rollout = make_rollout(number, sampled, scores, reading, config, self.controller.coefficient)
        rollout.metrics["sampling_tokens_per_second"] = int(sampled.mask.sum()) / seconds
        rollout.metrics.update({"score": float(raw.mean()), "score_std": float(raw.std(unbiased=False))})
        if not math.isfinite(kl := rollout.metrics["kl"]):
            found = f"the KL of rollout {number + 1} is {kl}: the policy's log-probs are not finite"
            raise NotFinite(
                f"{found}; training stopped, the last checkpoint is kept",
                where=str(self.run.checkpoints),
                fix="lower the learning rate, or use --dtype float32",
                found=found,
            )
        self.controller.update(kl)
        return rollout

    # ---- evaluation ----

    def watching(self, prompts: Sequence[PromptGroup]) -> Watch:
        """The watch over held-out prompts."""
        return Watch(
            prompts,
            self.cast,
            self.config,
            self.run,
            self.console,
            self.rewarder.episodes,
            self.rewarder.raw,
            self.rewarder.functions.get("judge"),
            self.rewarder.unit,
            lambda: self.controller.coefficient,
            self.trunk,
        )

    def ends_rollout(self, done: int) -> bool:
        """Whether `done` steps end a rollout: between two of them the policy is looked at, not within one."""
        return self.order.first_step(self.order.rollout_of(done)) == done

    def evaluates_after(self, done: int) -> bool:
        """Whether an evaluation follows `done` steps: at the ends of rollouts only."""
        if done >= self.loop.n_steps:
            return True
        rollout = self.order.rollout_of(done)
        if not self.ends_rollout(done):
            return False
        last = self.order.rollout_of(self.loop.n_steps - 1) + 1
        return rollout % (self.config.eval_every or max(1, -(-last // 8))) == 0

    def evaluate(self) -> dict[str, float]:
        """The loop's validation: measure, look at the alarm's rules, and act on them."""
        metrics = self.watch.evaluate(self.loop.done)
        found = self.watch.alarms() if metrics else []
        if found:
            before = [entry for entry in self.run.record.get("alarms", []) if entry["step"] < self.loop.done]
            self.run.note(alarms=[*before, {"step": self.loop.done, "findings": as_record(found)}])
        if self.config.on_alarm != "warn" and any(finding.severity == "alarm" for finding in found):
            why = "; ".join(finding.text for finding in found if finding.severity == "alarm")
            self.loop.end("alarm", why, rollback=self.config.on_alarm == "rollback")
        return metrics

    # ---- what is carried ----

    def state(self) -> dict[str, Any]:
        """Everything that changes besides weights, optimiser and random state."""
        return {
            "rollout": None if self.rollout is None else self.rollout.state(),
            "controller": self.controller.state(),
            "moments": self.rewarder.state(),
            "halted": self.halted,
            "moved": self.moved,
            "history": self.watch.state(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The rollout under way, and a moving reference."""
        rollout = {} if self.rollout is None else self.rollout.tensors()
        reference = self.cast.reference_parameters()
        return {f"rollout.{name}": tensor for name, tensor in rollout.items()} | {
            f"reference.{name}": parameter for name, parameter in reference.items()
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state` and `tensors`."""
        self.controller.load_state(state["controller"])
        self.rewarder.load(state["moments"])
        self.halted, self.moved = int(state["halted"]), int(state["moved"])
        self.watch.load(state["history"])
        for name, parameter in self.cast.reference_parameters().items():
            parameter.copy_(tensors[f"reference.{name}"])
        if state["rollout"] is not None:
            own = {name.removeprefix("rollout."): t for name, t in tensors.items() if name.startswith("rollout.")}
            places = self.order.prompts(int(state["rollout"]["number"]))
            self.rollout = Rollout.restored(state["rollout"], own, [self.prompts[place] for place in places])
