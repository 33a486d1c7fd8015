"""Who plays in PPO: policy, reference, critic, reward model and judge; on one backbone wherever they can be.

With LoRA every role is an adapter on the same frozen backbone, the critic and the reward model with a scalar head. With
full fine-tuning policy and critic have weights of their own, and so has the frozen model that the policy starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from burnish.errors import ConfigError
from burnish.models.adapters import load_adapter
from burnish.models.config import ALL_LAYERS
from burnish.models.export import merge
from burnish.models.heads import Scorer
from burnish.models.loading import load_model, resolve_model
from burnish.models.lora import adapter_parameters, copy_adapter, inject, tie_adapters
from burnish.models.reward import RewardModel, base_of, load_reward_model
from burnish.models.roles import Backbone, Role, freeze
from burnish.models.trunk import Trunk
from burnish.stages.functions import is_function
from burnish.stages.ppo_config import PPOConfig
from burnish.stages.run import Run, model_of
from burnish.stages.setup import (
    MERGE_PROBE,
    POLICY,
    Ground,
    adapter_to_train,
    base_name,
    load_ground,
    note_parameters,
)

CRITIC, REFERENCE = "critic", "reference"


@dataclass(frozen=True, slots=True)
class Cast:
    """The roles of a run.

    Attributes:
        ground: what they stand on.
        policy: the role that trains, at the temperature of sampling.
        start: where the policy starts, frozen, at the same temperature.
        reference: what the KL is measured from: `start`, or its moving average.
        critic: values of states, trained beside the policy; none without `gae`.
        scorers: the reward model's members; none where a function rewards.
        judges: the scorers that only watch: the member that was held back, or the members of another reward model.
    """

    ground: Ground
    policy: Role
    start: Role
    reference: Role
    critic: Scorer | None
    scorers: tuple[Scorer, ...] = ()
    judges: tuple[Scorer, ...] = ()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by stable name: `policy.` and `critic.` before each role's own names."""
        found = {f"policy.{name}": parameter for name, parameter in self.policy.trained().items()}
        critic = {} if self.critic is None else self.critic.parameters()
        return found | {f"critic.{name}": parameter for name, parameter in critic.items()}

    def reference_parameters(self) -> dict[str, nn.Parameter]:
        """What a moving reference holds of its own; empty for a fixed one."""
        if self.reference == self.start:
            return {}
        own = self.policy.trained()  # the layers below are the policy's too
        return {name: parameter for name, parameter in self.reference.parameters().items() if name in own}

    @torch.no_grad()
    def move_reference(self, keep: float) -> None:
        """reference <- keep x reference + (1 - keep) x policy (Xu et al. 2024, arXiv:2404.10719).

        LoRA's factors are averaged, not their products: the two differ by keep (1 - keep) dB dA, with dA and dB what
        lies between reference and policy.
        """
        policy = self.policy.trained()
        for name, parameter in self.reference_parameters().items():
            parameter.lerp_(policy[name].to(parameter.dtype), 1.0 - keep)


def load_cast(config: PPOConfig, run: Run, console: Console) -> Cast:
    """Load the model once and make all roles of it that it can play.

    Raises:
        ModelError, AdapterError: a model or an adapter can't be loaded.
        ConfigError: a reward model reads other tokens than the policy writes.
    """
    ground = load_ground(config, run, console)
    full = config.tuning == "full"
    if full:
        ground.backbone.model.requires_grad_(True)
        policy, start = ground.backbone.role(None), _frozen_start(config, ground, console)
    else:
        policy = adapter_to_train(ground, POLICY, config, seed=config.seed)
        start = ground.backbone.role(ground.start)
    reference = start
    if config.reference_ema is not None:
        # B of a new adapter is 0: it is the plain model.
        copy_adapter(ground.backbone.model, POLICY, REFERENCE, layers=config.lora.layers)
        freeze(adapter_parameters(ground.backbone.model, REFERENCE))
        reference = ground.backbone.role(REFERENCE)
    home = start.backbone if not full or resolve_model(run.config.model).adapter is None else None
    reward = None if is_function(config.reward) else _reward_model(config.reward, ground, home, console, "reward")
    judges: tuple[Scorer, ...] = () if reward is None or reward.judge is None else (reward.judge,)
    if config.judge is not None:
        watching = None if is_function(config.judge) else _reward_model(config.judge, ground, home, console, "judge")
        judges = () if watching is None else watching.scorers
    scorers = () if reward is None else reward.scorers
    critic = _critic(config, ground, scorers, console) if config.advantage == "gae" else None
    inside = {id(parameter) for parameter in ground.backbone.model.parameters()}
    own = [] if critic is None else [p for p in critic.parameters().values() if id(p) not in inside]
    note_parameters(ground.backbone.model, run, console, beside=sum(p.numel() for p in own))
    _say_who_stands_apart(config, policy, critic, scorers, console)
    t = config.temperature
    return Cast(ground, policy.at(t), start.at(t), reference.at(t), critic, scorers, judges)


def _say_who_stands_apart(
    config: PPOConfig, policy: Role, critic: Scorer | None, scorers: Sequence[Scorer], console: Console
) -> None:
    """With `lora.layers`: whose lower layers are not the policy's, so that they are computed beside them."""
    trunk = Trunk.shared_by([policy])
    roles = {"the critic": critic, **{f"reward model {n}": one for n, one in enumerate(scorers, start=1)}}
    apart = [name for name, scorer in roles.items() if scorer and trunk and not trunk.carries(scorer.role)]
    if apart and config.lora.layers != ALL_LAYERS:
        console.print(
            f"lora.layers: lower layers of their own have {', '.join(apart)}; a reward model that is trained from the "
            "policy's start with the same lora.layers shares the policy's",
            style="yellow",
            highlight=False,
        )


def _frozen_start(config: PPOConfig, ground: Ground, console: Console) -> Role:
    """For full fine-tuning: the starting model once more, frozen, in the dtype of the activations."""
    backbone = _whole_model(config, ground, ground.backbone.compute_dtype, console)
    backbone.model.requires_grad_(False)
    return backbone.role(None)


def _whole_model(config: PPOConfig, ground: Ground, dtype: torch.dtype, console: Console) -> Backbone:
    """The starting model with weights of its own; an adapter is merged into them."""
    loaded = load_model(model_of(config.model), dtype=dtype, device=ground.backbone.device, echo=console.print)
    compute = ground.backbone.compute_dtype
    if loaded.source.adapter is not None:
        load_adapter(loaded.model, loaded.source.adapter, "start")
        merge(Backbone(loaded.model, compute=config.compute), "start", [loaded.tokenizer(MERGE_PROBE)["input_ids"]])
    return _backbone(loaded.model, compute, config)


def _backbone(model: nn.Module, compute_dtype: torch.dtype, config: PPOConfig) -> Backbone:
    saving = config.gradient_checkpointing
    return Backbone(model, compute_dtype=compute_dtype, checkpointing=saving, compute=config.compute)


def _reward_model(name: str, ground: Ground, home: Backbone | None, console: Console, prefix: str) -> RewardModel:
    """A reward model on the backbone of its base where that is here already, else on one of its own."""
    directory = Path(model_of(name))
    base = base_of(directory)
    onto = home if base is not None and base_name(base) == ground.base else None
    if onto is None:
        console.print(f"{name} stands on a model of its own: its weights are loaded beside the policy's")
    found = load_reward_model(
        directory,
        dtype=ground.backbone.compute_dtype,
        device=ground.backbone.device,
        echo=console.print,
        onto=onto,
        prefix=prefix,
        compute=ground.backbone.compute,
    )
    if onto is not None and ground.start is not None:
        for scorer in (*found.scorers, *([] if found.judge is None else [found.judge])):
            if scorer.role.adapter is not None:
                tie_adapters(onto.model, scorer.role.adapter, ground.start)
    if found.tokenizer.get_vocab() != ground.tokenizer.get_vocab():
        raise ConfigError(
            "the reward model reads other tokens than the policy writes",
            where=name,
            fix="train it on the policy's model, or on another one with the same tokenizer",
        )
    if found.template.source != ground.template.source:
        console.print(f"{name} was trained with another chat template than the policy's", style="yellow")
    return found


def _critic(config: PPOConfig, ground: Ground, scorers: Sequence[Scorer], console: Console) -> Scorer:
    """The critic: a copy of the reward model's first member, or of the starting model where a function rewards.

    Huang et al. 2024, arXiv:2403.17031, section 3.2: the value network starts as the reward model.
    """
    backbone = ground.backbone
    if config.tuning == "full":
        return _whole_critic(config, ground, console)
    model = backbone.model
    first = scorers[0] if scorers and scorers[0].role.backbone is backbone else None
    source = ground.start if first is None else first.role.adapter
    if source is None:
        inject(model, CRITIC, config.lora.model_copy(update={"trainable_tokens": ()}), seed=config.seed + 1)
    else:
        copy_adapter(model, source, CRITIC, layers=config.lora.layers)
    role = backbone.role(CRITIC)
    if first is None and scorers:
        console.print("the critic starts from the policy with values of 0: the reward model has weights of its own")
    if first is None or config.critic_head == "zero":
        return Scorer(role, _zero_head(backbone))
    return Scorer(role, nn.Parameter(first.head.detach().clone()))


def _whole_critic(config: PPOConfig, ground: Ground, console: Console) -> Scorer:
    """For full fine-tuning: a critic with float32 weights of its own."""
    if is_function(config.reward):
        backbone = _whole_model(config, ground, torch.float32, console)
        head = _zero_head(backbone)
    else:
        directory = Path(model_of(config.reward))
        device, compute = ground.backbone.device, ground.backbone.compute_dtype
        found = load_reward_model(
            directory, dtype=torch.float32, device=device, echo=console.print, compute=config.compute
        )
        first = found.scorers[0]
        if first.role.adapter is not None:
            merge(found.backbone, first.role.adapter, [found.tokenizer(MERGE_PROBE)["input_ids"]])
        head = nn.Parameter(first.head.detach().clone())
        if config.critic_head == "zero":
            head = _zero_head(found.backbone)
        backbone = _backbone(found.backbone.model, compute, config)
    backbone.model.requires_grad_(True)
    return Scorer(backbone.role(None), head)


def _zero_head(backbone: Backbone) -> nn.Parameter:
    """A head whose values are all 0: what is expected of states that nothing is known of."""
    width = int(backbone.config.get_text_config().hidden_size)
    dtype = torch.float64 if backbone.compute_dtype == torch.float64 else torch.float32
    return nn.Parameter(torch.zeros(1, width, dtype=dtype, device=backbone.device))
