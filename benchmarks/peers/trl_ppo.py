"""The peer's side of `benchmarks/ppo.py`: some updates of TRL's PPOTrainer (`trl.experimental.ppo`, TRL 1.12.0).

Run by the python of TRL's own environment, which needs no burnish:

    python -m venv peer && peer/bin/pip install torch trl==1.12.0 peft
    peer/bin/python benchmarks/peers/trl_ppo.py --work DIR

DIR is what `benchmarks/ppo.py prepare` wrote. Set up as TRL's documentation has it: LoRA on the policy, whose reference
is the policy without it; critic and reward model are classifiers with one label, both made of burnish's reward model
(an adapter with a head, in PEFT's format, merged), and the critic trains in full. What
its defaults would only slow down here is off: gradient checkpointing, sample generations, saving. The last line of
the output is JSON: costs, versions, and what was computed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from computed_dtypes import note_dtypes
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
)
from transformers.utils import logging
from trl.experimental.ppo import PPOConfig, PPOTrainer

PAD = "[PAD]"


class Witness(TrainerCallback):
    """Notes when each update ended, and what the reward model was given to read."""

    def __init__(self, response_tokens: int) -> None:
        self.response_tokens = response_tokens
        self.ends: list[float] = []
        self.prompt_tokens: list[list[int]] = [[]]
        self.response_lengths: list[list[int]] = [[]]
        self.padded_widths: list[int] = []
        self.optimiser_steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # What was read before (the probe) is no episode.
        self.prompt_tokens, self.response_lengths, self.padded_widths = [[]], [[]], []
        self.ends.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.prompt_tokens.append([])
        self.response_lengths.append([])

    def read(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the reward model's backbone."""
        mask = kwargs["attention_mask"]
        self.padded_widths.append(mask.shape[1])
        self.prompt_tokens[-1] += mask[:, : -self.response_tokens].sum(1).tolist()
        self.response_lengths[-1] += mask[:, -self.response_tokens :].sum(1).tolist()

    def count(self, *_: Any) -> None:
        """A hook after each step of the optimiser."""
        self.optimiser_steps += 1


def main() -> None:
    """Train, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `ppo.py prepare` wrote")
    parser.add_argument("--updates", type=int, default=3, help="timed updates; one more before them warms up")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rollout-batch", type=int, help="rows of a forward pass of the rollout; all if not given")
    parser.add_argument("--critic", choices=("full", "lora"), default="full", help="lora is not documented by TRL")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    work = arguments.work
    setting = json.loads((work / "setting.json").read_text(encoding="utf-8"))
    prompts = json.loads((work / "prompts.json").read_text(encoding="utf-8"))
    torch.manual_seed(setting["seed"])

    tokenizer = AutoTokenizer.from_pretrained(work / "model", padding_side="left")
    tokenizer.add_special_tokens({"pad_token": PAD})  # never computed: TRL masks it, and gives the model 0 in its place
    witness = Witness(setting["response_tokens"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(arguments, setting, prompts, tokenizer, witness, folder)
        trainable = {
            "policy": _count(trainer.model.policy),
            "critic": _count(trainer.model.value_model),
        }
        dtypes = note_dtypes(trainer.model.policy, training=True)
        proof = read_probe(trainer, json.loads((work / "probe.json").read_text(encoding="utf-8")))
        loaded = _peak_rss()
        trainer.train()
    seconds = [after - before for before, after in itertools.pairwise(witness.ends)]
    median = statistics.median(seconds[1:])
    result = {
        "side": "trl",
        "seconds_per_update": median,
        "episodes_per_second": setting["prompts"] / median,
        "peak_rss_before_training_bytes": loaded,
        "seconds": seconds,
        "dtype": "+".join(sorted(dtypes)),
        "critic": arguments.critic,
        **({"peak_cuda_bytes": torch.cuda.max_memory_allocated()} if arguments.device == "cuda" else {}),
        "rollout_batch": arguments.rollout_batch or setting["prompts"],
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate")},
        "work": {
            "updates": len(seconds),
            "episodes": sum(len(lengths) for lengths in witness.response_lengths),
            "prompt_tokens": [sorted(counts) for counts in witness.prompt_tokens if counts],
            "response_tokens": sorted({n for lengths in witness.response_lengths for n in lengths}),
            "optimiser_steps": witness.optimiser_steps,
            "trainable_parameters": trainable,
        },
        "padded_width": max(witness.padded_widths),
        "proof": proof,
    }
    print(json.dumps(result))


def make_trainer(
    arguments: argparse.Namespace,
    setting: dict[str, Any],
    prompts: list[list[int]],
    tokenizer: Any,
    witness: Witness,
    folder: str,
) -> PPOTrainer:
    """The trainer, with policy, critic and reward model."""
    path, dtype = arguments.work / "model", getattr(torch, arguments.dtype)
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    critic, reward = (
        PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=dtype),
            arguments.work / "reward" / "model",
        ).merge_and_unload()
        for _ in range(2)
    )
    critic.requires_grad_(True)
    reward.requires_grad_(False)
    lora = {"r": setting["rank"], "lora_alpha": setting["alpha"], **_where(setting, policy)}
    if arguments.critic == "lora":
        critic = _lora_critic(critic, lora)
    rows, micro = setting["prompts"], setting["micro_batch"]
    config = PPOConfig(
        output_dir=folder,
        total_episodes=rows * (arguments.updates + 1),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_mini_batches=1,
        num_ppo_epochs=setting["update_epochs"],
        local_rollout_forward_batch_size=arguments.rollout_batch or rows,
        response_length=setting["response_tokens"],
        temperature=1.0,
        kl_coef=setting["kl_coefficient"],
        gamma=1.0,
        lam=0.95,
        learning_rate=setting["learning_rate"],
        adam_beta1=setting["betas"][0],
        adam_beta2=setting["betas"][1],
        lr_scheduler_type="linear",
        bf16=arguments.dtype == "bfloat16",
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=arguments.device == "cpu",
        seed=setting["seed"],
    )
    data = Dataset.from_dict({"input_ids": prompts})
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=critic,
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
        callbacks=[witness],
    )
    # All prompts are one batch, which is thus always the last: accelerate would end each accumulation at once there.
    trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    trainer.reward_model.base_model.register_forward_pre_hook(witness.read, with_kwargs=True)
    trainer.optimizer.optimizer.register_step_post_hook(witness.count)
    return trainer


@torch.no_grad()
def read_probe(trainer: PPOTrainer, probe: list[dict[str, list[int]]]) -> dict[str, list[float]]:
    """What each role says of given responses: the log-prob of a response by policy and reference, the reward model's
    score, and the mean of the critic's values of the states in which the tokens are chosen."""
    policy, critic, reward = trainer.model.policy, trainer.model.value_model, trainer.reward_model
    found: dict[str, list[float]] = {"policy": [], "reference": [], "critic": [], "reward": []}
    for one in probe:
        ids = torch.tensor([one["prompt"] + one["response"]], device=trainer.accelerator.device)
        choosing = slice(len(one["prompt"]) - 1, -1)
        found["policy"].append(_log_prob(policy, ids, choosing))
        with policy.disable_adapter():
            found["reference"].append(_log_prob(policy, ids, choosing))
        for name, model in (("critic", critic), ("reward", reward)):
            hidden = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            values = model.score(hidden)[0, :, 0].float()
            found[name].append(float(values[choosing].mean() if name == "critic" else values[-1]))
    return found


def _log_prob(policy: Any, ids: torch.Tensor, choosing: slice) -> float:
    """The log-prob of the tokens that are chosen at these places of a row, summed."""
    logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, choosing].float()
    chosen = ids[0, choosing.start + 1 :, None]
    return float(torch.log_softmax(logits, -1).gather(1, chosen).sum())


def _where(setting: dict[str, Any], model: Any) -> dict[str, Any]:
    """PEFT's words for all linear layers within the layers of the setting."""
    if setting["layers"] == "all":
        return {"target_modules": "all-linear"}
    head = model.get_output_embeddings()
    linear = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    n = model.config.num_hidden_layers
    return {
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in linear}),
        "layers_to_transform": list(range(n - int(setting["layers"].removeprefix("last-")), n)),
    }


def _lora_critic(critic: Any, lora: dict[str, Any]) -> Any:
    """The critic with an adapter put into its layers, so that adapter and head train alone."""
    from peft import inject_adapter_in_model

    head = critic.score
    critic.score = torch.nn.Identity()  # all-linear would adapt it too
    inject_adapter_in_model(LoraConfig(**lora), critic.base_model)
    critic.score = head
    for name, parameter in critic.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("score"))
    return critic


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


if __name__ == "__main__":
    main()
