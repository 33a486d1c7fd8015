"""The reward model: a scalar head on the last token of a response, trained on pairs (Bradley-Terry).

One member or several; each is an adapter with a head on the same backbone. With `tuning: head` the backbone stays as it
is, so its features are computed once, and a step costs milliseconds.

Legend: R responses, P pairs, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.data.batching import DataOrder
from burnish.data.groups import PromptGroup
from burnish.files import atomic_directory, write_json
from burnish.losses.reward import bradley_terry
from burnish.models.heads import Scorer, new_head, score
from burnish.models.reward import padding_ends_responses, with_own_padding, write_reward_model
from burnish.stages.batches import Trunks, batches, prepare_trunks
from burnish.stages.config import RewardConfig
from burnish.stages.loop import TrainingLoop
from burnish.stages.progress import Progress
from burnish.stages.reward_evidence import (
    EVALUATION,
    held_out_evaluation,
    say_who_may_be_a_coin,
    show_evaluation,
    together_scores,
)
from burnish.stages.run import Run, RunResult
from burnish.stages.setup import (
    Ground,
    TrainingData,
    adapter_to_train,
    encode_data,
    finish_with,
    load_ground,
    model_dtype,
    note_parameters,
    read_data,
    stage_run,
)
from burnish.stages.step import Step


def train_reward(config: RewardConfig, *, console: Console | None = None) -> RunResult:
    """Train a reward model, or an ensemble of them, on pairs of a better and a worse response to the same prompt.

    Prompt, chosen and rejected share one row, so each prompt is computed once.

    Raises:
        BurnishError: bad settings, data, model or directory; each with what, where and what to do.
    """
    console = console or Console(stderr=True)
    with stage_run(config) as run:
        if run.finished:
            return run.result(already_done=True)
        data = read_data(config, "preference", console)
        ground = load_ground(config, run, console)
        groups = encode_data(config, ground, data, run, console)
        members = make_members(ground, config, len(groups.train))
        note_parameters(ground.backbone.model, run, console, beside=sum(m.scorer.head.numel() for m in members))
        read = _reader(members, groups, config, run, console)

        def evaluate() -> dict[str, float]:
            return validate_reward(members, groups.validation, read, config)

        parameters = _parameters(members, config)
        order = DataOrder(len(groups.train), config.batch_size, config.seed)
        apart = [_prefix(number) for number in range(2, len(members) + 1)]  # each is clipped by its own norm
        with TrainingLoop(run, parameters, order, evaluate, Progress("reward", console), apart=apart) as loop:
            for step in loop:
                for member in members:
                    examples = [groups.train[member.sample[i]] for i in step.examples]
                    _member_step(step, member, examples, read, config, share=1.0 / len(members))
            metrics = loop.conclude()
            resumed_from = loop.resumed_from
        found = None
        if groups.validation:
            scores = held_out_scores(members, groups.validation, read)
            found = held_out_evaluation(ground, groups, scores, config)
            rate = found.evaluation.accuracy
            metrics |= {"held_out_accuracy": asdict(rate.interval) | {"value": rate.value}}
        show_evaluation(found, console)

        def write(directory: Path) -> None:
            write_reward_model(
                [member.scorer for member in members],
                directory,
                tokenizer=ground.tokenizer,
                base=ground.base,
                dtype=model_dtype(config),
                holdout=config.holdout,
                head_only=config.tuning == "head",
            )
            if found is not None:
                write_json(directory / EVALUATION, found.as_dict())

        finish_with(run, write, loop.n_steps, metrics)
        say_who_may_be_a_coin(found, console)
        if config.tuning == "lora":
            say_how_others_read_it(ground, console)
        return run.result(resumed_from=resumed_from)


@dataclass(frozen=True, slots=True)
class Member:
    """One reward model of an ensemble, and which pair it sees in place of which.

    Attributes:
        scorer: its adapter and head.
        sample: (training pairs) the place of the pair that stands at each place of the data order: the identity for a
            single member, a bootstrap sample in random order for each of several.
    """

    scorer: Scorer
    sample: Sequence[int]


Read = Callable[[Member, Sequence[PromptGroup], bool, bool], Iterator[tuple[Tensor, Sequence[PromptGroup], int]]]
"""(member, pairs, held out, dropout) -> (2 P,) scores of a few pairs at a time, those pairs, the tokens computed."""


def make_members(ground: Ground, config: RewardConfig, n_train: int) -> list[Member]:
    """Adapters and heads, each with a seed of its own, on one backbone (all of which trains with `tuning: full`)."""
    members = []
    for number in range(config.members):
        seed = config.seed + number
        if config.tuning == "lora":
            role = adapter_to_train(ground, f"member-{number + 1}", config, seed=seed)
        else:
            ground.backbone.model.requires_grad_(config.tuning == "full")
            role = ground.backbone.role(ground.start)
        sample: Sequence[int] = range(n_train)
        if config.members > 1:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + 17)
            sample = torch.randint(n_train, (n_train,), generator=generator).tolist()
        members.append(Member(Scorer(role, new_head(ground.backbone, seed=seed)), sample))
    return members


def _parameters(members: Sequence[Member], config: RewardConfig) -> dict[str, nn.Parameter]:
    head_only = config.tuning == "head"
    return {
        _prefix(number) + name: parameter
        for number, member in enumerate(members, start=1)
        for name, parameter in member.scorer.parameters(head_only=head_only).items()
    }


def _prefix(number: int) -> str:
    """What the names of a member's parameters begin with."""
    return f"member-{number}."


def _member_step(
    step: Step, member: Member, examples: Sequence[PromptGroup], read: Read, config: RewardConfig, *, share: float
) -> None:
    """One member's part of an optimiser step. Its gradient is that of its own loss, as if it trained alone; what is
    logged is the members' mean, of which this is a `share`."""
    for scores, pairs, tokens in read(member, examples, False, True):
        losses = pair_losses(scores, pairs, config)
        origins = [pair.origin for pair in pairs]
        step.backward(losses.sum() / len(examples), tokens=tokens, origins=origins, share=share)
        step.add(**pair_metrics(scores, share / len(examples)))


def say_how_others_read_it(ground: Ground, console: Console) -> None:
    """Where the base's padding ends responses: what transformers must be told before it scores with an adapter."""
    if padding_ends_responses(ground.backbone.config, ground.tokenizer):
        console.print(
            "the base's padding token ends responses, so transformers and PEFT would read this adapter's scores a "
            "token too early. Say there, once it is loaded: model.config.get_text_config().pad_token_id = "
            f"{with_own_padding(ground.tokenizer).pad_token_id}, or make a whole classifier of it (burnish merge). "
            "burnish itself reads them right",
            style="yellow",
            highlight=False,
            markup=False,
        )


def pair_losses(scores: Tensor, pairs: Sequence[PromptGroup], config: RewardConfig) -> Tensor:
    """(P,) losses of (2 P,) scores, chosen and rejected of each of the P pairs in turn."""
    own = None if config.margin_column is None else [pair.margin for pair in pairs]
    return bradley_terry(
        scores[0::2],
        scores[1::2],
        margin=config.margin if own is None else torch.tensor(own, dtype=scores.dtype, device=scores.device),
        label_smoothing=config.label_smoothing,
        centring=config.centring,
    )


def pair_metrics(scores: Tensor, weight: float) -> dict[str, float]:
    """These pairs' share of the means, under the field's names."""
    chosen, rejected = scores[0::2].detach(), scores[1::2].detach()
    return {
        "accuracy": float((chosen > rejected).sum()) * weight,
        "margin": float((chosen - rejected).sum()) * weight,
        "rewards/chosen": float(chosen.sum()) * weight,
        "rewards/rejected": float(rejected.sum()) * weight,
    }


def validate_reward(
    members: Sequence[Member], groups: Sequence[PromptGroup], read: Read, config: RewardConfig
) -> dict[str, float]:
    """Loss, accuracy and margin on held-out pairs, the mean over the members; with several, also the accuracy of
    their mean score (`ensemble_accuracy`; without the member that is held back). Empty without pairs."""
    if not groups:
        return {}
    scores = held_out_scores(members, groups, read)
    totals = {"loss": float(pair_losses(scores.reshape(-1), [*groups] * len(members), config).mean())}
    totals |= pair_metrics(scores.reshape(-1), 1.0 / (len(members) * len(groups)))
    if len(members) > 1:
        together = together_scores(scores, config)
        totals["ensemble_accuracy"] = float((together[:, 0] > together[:, 1]).double().mean())
    return totals


@torch.no_grad()
def held_out_scores(members: Sequence[Member], groups: Sequence[PromptGroup], read: Read) -> Tensor:
    """(members, pairs, 2) scores of held-out chosen and rejected, in the order of `groups`, float64."""
    out = torch.zeros(len(members), len(groups), 2, dtype=torch.float64)
    for number, member in enumerate(members):
        for scores, pairs, _ in read(member, groups, True, False):
            out[number, [pair.index for pair in pairs]] = scores.reshape(-1, 2).double().cpu()
    return out


# ---- where scores come from ----


def _reader(members: Sequence[Member], groups: TrainingData, config: RewardConfig, run: Run, console: Console) -> Read:
    if config.tuning != "head" or config.compute == "plain":
        roles = [member.scorer.role for member in members]
        return _read_through_backbone(config, prepare_trunks(roles, groups, config, console, uses=len(members)))
    features = cached_features(members[0].scorer, groups, config.micro_batch_tokens, run, console)
    return _read_features(features)


def _read_through_backbone(config: RewardConfig, trunks: Trunks) -> Read:
    def read(
        member: Member, groups: Sequence[PromptGroup], held_out: bool, dropout: bool
    ) -> Iterator[tuple[Tensor, Sequence[PromptGroup], int]]:
        trunk = trunks.validation if held_out else trunks.train
        for micro, batch in batches(member.scorer.role.backbone, groups, config.micro_batch_tokens, trunk=trunk):
            yield member.scorer.scores(batch, dropout=dropout), micro, batch.n_tokens

    return read


def _read_features(features: Mapping[str, Tensor]) -> Read:
    def read(
        member: Member, groups: Sequence[PromptGroup], held_out: bool, dropout: bool
    ) -> Iterator[tuple[Tensor, Sequence[PromptGroup], int]]:
        stored = features["validation" if held_out else "train"]
        places = [group.index for group in groups]
        hidden = stored[places].to(member.scorer.head.device).reshape(2 * len(places), -1)
        yield score(hidden, member.scorer.head), groups, sum(group.row_length for group in groups)

    return read


@torch.no_grad()
def cached_features(scorer: Scorer, groups: TrainingData, tokens: int, run: Run, console: Console) -> dict[str, Tensor]:
    """(pairs, 2, D) hidden states at the last tokens of chosen and rejected, computed once and kept for a resume."""
    store = run.out / "features"
    if not store.is_dir():
        console.print(f"features of {len(groups.train) + len(groups.validation)} pairs, once", highlight=False)
        found: dict[str, Tensor] = {}
        for name, part in (("train", groups.train), ("validation", groups.validation)):
            if part:
                with Progress("features", console) as shown:
                    found[name] = _features(scorer, part, tokens, shown)
        with atomic_directory(store) as temporary:
            save_file(found, temporary / "features.safetensors")
    return load_file(store / "features.safetensors")


def _features(scorer: Scorer, groups: Sequence[PromptGroup], tokens: int, progress: Progress) -> Tensor:
    out: Tensor | None = None
    for micro, batch in batches(scorer.role.backbone, groups, tokens, progress):
        hidden = scorer.features(batch).reshape(len(micro), 2, -1).to(scorer.head.dtype).cpu()
        out = torch.empty(len(groups), *hidden.shape[1:], dtype=hidden.dtype) if out is None else out
        out[[group.index for group in micro]] = hidden
    assert out is not None
    return out
