"""Watching PPO: held-out prompts answered at each evaluation, and the alarm for over-optimisation.

OUT/samples/step-N.jsonl   what the policy answered after N steps, with the scores
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from torch import Tensor

from burnish.data.groups import PromptGroup
from burnish.errors import NotFiniteError
from burnish.evaluation.overoptimisation import (
    LEAST_PROMPTS,
    Finding,
    Limits,
    Measurement,
    alarms,
    distinct_n,
    repetition,
)
from burnish.files import atomic_write
from burnish.models.heads import Scorer, ensemble_score
from burnish.models.roles import Role
from burnish.models.trunk import Trunk
from burnish.stages.functions import Episodes, RewardFunction
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.ppo_roles import Cast
from burnish.stages.ppo_rollout import Sampled, read_responses, sample_responses
from burnish.stages.run import SAMPLES, Run

EVALUATION_SEED = 20_231
"""Added to the run's seed: each evaluation draws with the same random numbers, and none of them are a rollout's."""


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """What a policy answered held-out prompts, one response each.

    Attributes:
        sampled: (R) responses.
        scores: (scorers, R) scores at the last real token.
        kl: (R,) nats, log policy - log start summed over the tokens of each response: its mean over responses is an
            unbiased estimate of the KL of whole responses (the estimator k1), and may be below 0.
    """

    sampled: Sampled
    scores: Tensor
    kl: Tensor


def answer_held_out(
    policy: Role,
    start: Role,
    prompts: Sequence[PromptGroup],
    config: PPOConfig,
    stop_ids: Sequence[int],
    *,
    scorers: Sequence[Scorer] = (),
    trunk: Trunk | None = None,
) -> HeldOutAnswers:
    """Answer held-out prompts: always with the same random numbers for a seed, so that policies can be compared prompt
    by prompt, whatever they were trained with.

    Args:
        policy: who answers, at the temperature of its own.
        start: whom the KL is measured from.
        prompts: without responses.
        config: the limits of sampling, and the seed.
        stop_ids: tokens that end a response.
        scorers: whose scores are wanted.
        trunk: lower layers that the roles share.
    """
    seed = config.seed * 1_000_003 + EVALUATION_SEED
    sampled = sample_responses(policy, prompts, config, stop_ids, seed=seed, k=1)
    reading = read_responses(sampled, config.micro_batch_tokens, speakers=[start], scorers=scorers, trunk=trunk)
    kl = (sampled.logprobs - reading.logprobs[0]).masked_fill(~sampled.mask, 0.0).sum(1)
    return HeldOutAnswers(sampled, reading.scores, kl)


@dataclass
class Watch:
    """Evaluates the policy on the same held-out prompts each time, and keeps the history that the alarm looks at.

    Attributes:
        prompts: the held-out prompts.
        cast: the roles.
        config: the stage's settings.
        run: where the samples go.
        episodes: turns sampled responses into texts for a function.
        proxy: the raw score that the policy is trained on, of (scorers, R) members' scores and the episodes.
        judge: a function that only watches, or none.
        unit: how much of the raw score is one unit of the reward, of the held-out answers' raw scores.
        coefficient: gives the price of a nat at this moment.
        trunk: lower layers that the roles share.
        history: the evaluations so far.
    """

    prompts: Sequence[PromptGroup]
    cast: Cast
    config: PPOConfig
    run: Run
    console: Console
    episodes: Callable[[Sampled], Episodes]
    proxy: Callable[[Tensor, Episodes], Tensor]
    judge: RewardFunction | None
    unit: Callable[[Tensor], float]
    coefficient: Callable[[], float]
    trunk: Trunk | None = None
    history: list[Measurement] = field(default_factory=list)

    @property
    def best_metric(self) -> str:
        """What decides which weights are best: the judge's score or, without one, what is trained for."""
        return "judge" if self.judge is not None or self.cast.judges else "objective"

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the held-out prompts and measure; empty without prompts.

        Raises:
            NotFiniteError: the policy gives log-probabilities that are not finite.
        """
        if not self.prompts:
            return {}
        cast, config = self.cast, self.config
        scorers = [*cast.scorers, *cast.judges]
        answered = answer_held_out(
            cast.policy, cast.start, self.prompts, config, cast.ground.stop_ids, scorers=scorers, trunk=self.trunk
        )
        sampled, kl = answered.sampled, answered.kl
        if not bool(kl.isfinite().all()):
            raise NotFiniteError("the policy gives a log-probability that is not finite")
        episodes = self.episodes(sampled)
        proxy = self.proxy(answered.scores[: len(cast.scorers)], episodes)
        held_out = self._judged(answered.scores[len(cast.scorers) :], episodes)
        ids = sampled.ids()
        now = Measurement(
            step=step,
            n=len(self.prompts),
            proxy=float(proxy.mean()),
            proxy_se=_standard_error(proxy),
            held_out=None if held_out is None else float(held_out.mean()),
            held_out_se=None if held_out is None else _standard_error(held_out),
            kl=float(kl.mean()),
            length=float(sampled.mask.sum(1).double().mean()),
            repetition=repetition(ids),
            distinct_2=distinct_n(ids),
            eos_rate=float(sampled.finished.double().mean()),
        )
        self.history = [at for at in self.history if at.step < step] + [now]
        self._write(step, sampled, episodes, proxy, held_out, kl)
        return self._metrics(now, self._objective(now, proxy))

    def _objective(self, now: Measurement, proxy: Tensor) -> float:
        """What the policy is trained for, in units of the raw score: the score less the prices of missing ends and of
        the KL. Only the scores' scale is taken from what normalises them: their running mean moves from one evaluation
        to the next, and would be taken for a change of the policy."""
        price = self.config.missing_eos_penalty * (1 - now.eos_rate) + self.coefficient() * now.kl
        return now.proxy - self.unit(proxy) * price

    def _judged(self, scores: Tensor, episodes: Episodes) -> Tensor | None:
        if self.judge is not None:
            return self.judge(episodes)
        return ensemble_score(scores).double() if len(scores) else None

    def _metrics(self, now: Measurement, objective: float) -> dict[str, float]:
        found = {
            "score": now.proxy,
            "score_se": now.proxy_se,
            "kl": now.kl,
            "response_length": now.length,
            "repetition": now.repetition,
            "distinct_2": now.distinct_2,
            "eos_rate": now.eos_rate,
            "objective": objective,
        }
        if now.held_out is not None and now.held_out_se is not None:
            found |= {"judge": now.held_out, "judge_se": now.held_out_se}
        return found

    def _write(
        self, step: int, sampled: Sampled, episodes: Episodes, proxy: Tensor, held_out: Tensor | None, kl: Tensor
    ) -> None:
        lines = []
        for i, response in enumerate(episodes.responses):
            line: dict[str, Any] = {"prompt": episodes.prompts[i], "response": response, "score": float(proxy[i])}
            line |= {} if held_out is None else {"judge": float(held_out[i])}
            line |= {"kl": float(kl[i]), "tokens": int(sampled.mask[i].sum()), "finished": bool(sampled.finished[i])}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        directory = self.run.out / SAMPLES
        directory.mkdir(exist_ok=True)
        atomic_write(directory / f"step-{step:06d}.jsonl", "".join(lines))

    def announce(self) -> None:
        """Say what the alarm can't hear."""
        if not self.prompts:
            self.console.print("nothing is evaluated and no alarm can go off: there are no held-out prompts")
        elif self.best_metric != "judge":
            self.console.print(
                "no judge: the alarm can't see a held-out reward fall, only length, KL, repetition and missing ends "
                "(set judge, or hold a member of the reward model back: burnish reward --members 2 --holdout)",
                highlight=False,
            )
        elif len(self.prompts) < LEAST_PROMPTS:
            self.console.print(
                f"the alarm can't see the held-out reward fall: {len(self.prompts)} held-out prompts are too few for a "
                f"trend (it takes {LEAST_PROMPTS})",
                highlight=False,
            )

    def alarms(self) -> list[Finding]:
        """What the rules find at the latest evaluation; said on the console."""
        limits = Limits(**self.config.alarm.model_dump())
        found = alarms(self.history, limits)
        for finding in found:
            style = "red" if finding.severity == "alarm" else "yellow"
            self.console.print(f"{finding.severity}: {finding.text}", style=style, highlight=False)
        return found

    def state(self) -> list[dict[str, Any]]:
        """The history, as JSON keeps it."""
        return [asdict(at) for at in self.history]

    def load(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from `state()`."""
        self.history = [Measurement(**{"n": len(self.prompts), **at}) for at in state]


def _standard_error(values: Tensor) -> float:
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def as_record(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings for the run's record."""
    return [asdict(finding) for finding in findings]
