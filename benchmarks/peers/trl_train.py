"""The peer's side of `benchmarks/train.py`: steps of TRL's SFTTrainer, RewardTrainer or DPOTrainer (TRL 1.16.0).

Run by the python of TRL's own environment, which needs no burnish:

    python -m venv peer && peer/bin/pip install torch==2.13.0 && peer/bin/pip install trl==1.16.0 peft
    peer/bin/python benchmarks/peers/trl_train.py --work DIR

DIR is what `benchmarks/train.py prepare` wrote. Set up as TRL's documentation has it, as well as it allows on a CPU:
LoRA through PEFT, the reference being the model without it, or computed beforehand (`precompute_ref_log_probs`);
the examples of a step sorted by length, which is what `group_by_length` does; no gradient checkpointing, TRL's default,
which only slows down where memory suffices (`--checkpointing` has it); no worker processes, since the token ids are at
hand. `padding_free` and packing need FlashAttention. The last line of the output is JSON: costs, versions, and what was
computed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from computed_dtypes import note_dtypes
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer


class Witness(TrainerCallback):
    """Notes when each step ended, its tokens and its loss; of the first one also the numbers of each response and the
    norm of the gradient."""

    def __init__(self, order: list[int]) -> None:
        self.order = order
        self.ends: list[float] = []
        self.batches: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[]]
        self.shares: list[list[torch.Tensor]] = [[]]
        self.grad_norms: list[float] = []
        self.values: list[list[float]] = []
        self.reference_seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.batches.append([])
        self.shares.append([])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "grad_norm" in logs:  # of all parameters that train together, before clipping
            self.grad_norms.append(logs["grad_norm"])

    def read(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """A forward hook of the model; the reference's passes have no gradient and are left out."""
        if not torch.is_grad_enabled():
            return
        mask = kwargs["attention_mask"]
        self.batches[-1].append((kwargs["input_ids"], mask))  # read at the end: a GPU would have to be waited for
        if self.ends:
            return
        log_probs = getattr(output, "log_probs", None)
        values = output.logits.squeeze(-1) if log_probs is None else log_probs.sum(1)
        responses = 1 if isinstance(self.trainer, SFTTrainer) else 2
        # Rows are all first responses, then all second ones.
        self.values += values.detach().float().reshape(responses, -1).T.tolist()

    def watch(self, trainer: Any) -> None:
        """Begin to look at a trainer's steps."""
        self.trainer = trainer
        trainer.model.register_forward_hook(self.read, with_kwargs=True)
        step = trainer.training_step

        def noted(*arguments: Any, **named: Any) -> Any:
            share = step(*arguments, **named)
            self.shares[-1].append(share)  # of the step's loss; read at the end, too
            return share

        trainer.training_step = noted

    def time_reference(self) -> None:
        """Time the pre-computation of the reference, which the trainer does while it is made."""
        compute = DPOTrainer._precompute_ref_logps

        def timed(trainer: Any, *arguments: Any) -> Any:
            started = time.perf_counter()
            found = compute(trainer, *arguments)
            self.reference_seconds += time.perf_counter() - started
            return found

        DPOTrainer._precompute_ref_logps = timed

    def tokens(self) -> list[int]:
        """Of each step."""
        return [sum(int(mask.sum()) for _, mask in step) for step in self.batches[: len(self.ends)]]

    def digests(self) -> list[str]:
        """Of the token ids of each step, as benchmarks/train.py has it."""
        found = []
        for step in self.batches[: len(self.ends)]:
            rows = [row[kept.bool()].tolist() for ids, mask in step for row, kept in zip(ids, mask, strict=True)]
            found.append(hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16])
        return found

    def proof(self) -> dict[str, Any]:
        """The losses of all steps, the first step's gradient norm, and the values of each example's responses."""
        pairs = sorted(zip(self.order, self.values, strict=True))
        return {
            "losses": [sum(float(share) for share in shares) for shares in self.shares[: len(self.ends)]],
            "grad_norm": self.grad_norms[0],
            "values": {str(index): values for index, values in pairs},
        }


class DPOOnIds(DPOTrainer):
    """DPO on examples that are token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def main() -> None:
    """Train, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `train.py prepare` wrote")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--micro-batch", type=int, default=4, help="examples of a pass")
    parser.add_argument("--beforehand", action="store_true", help="DPO: compute the reference before the first step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--liger", action="store_true", help="with the kernels of the package liger-kernel")
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute activations again, as TRL does by default"
    )
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = json.loads((arguments.work / "setting.json").read_text(encoding="utf-8"))
    examples = json.loads((arguments.work / "examples.json").read_text(encoding="utf-8"))
    if setting["batch"] % arguments.micro_batch:
        raise SystemExit(f"--micro-batch {arguments.micro_batch} does not divide the batch of {setting['batch']}")
    witness = Witness(setting["order"][0])
    with tempfile.TemporaryDirectory() as folder:
        if arguments.beforehand:
            witness.time_reference()
        trainer = make_trainer(arguments, setting, examples, witness, folder)
        witness.watch(trainer)
        dtypes = note_dtypes(trainer.model, training=True)
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        trainer.train()
        optimiser = optimiser_settings(trainer.optimizer.optimizer)  # accelerate has wrapped it
    seconds = [after - before for before, after in itertools.pairwise(witness.ends)]
    result = {
        "side": "trl",
        "seconds": seconds,
        "seconds_per_step": statistics.median(seconds),
        "reference_seconds": witness.reference_seconds,
        "dtype": "+".join(sorted(dtypes)),
        "micro_batch": arguments.micro_batch,
        "checkpointing": trainer.args.gradient_checkpointing,
        **({"peak_cuda_bytes": torch.cuda.max_memory_allocated()} if arguments.device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate")},
        "work": {
            "optimiser_steps": len(witness.ends),
            "tokens": witness.tokens(),
            "digests": witness.digests(),
            "prompt_times": 0,  # once for each response
            "trainable_parameters": trainable,
            "optimiser": optimiser,
        },
        "proof": witness.proof(),
    }
    print(json.dumps(result))


def make_trainer(
    arguments: argparse.Namespace, setting: dict[str, Any], examples: list[Any], witness: Witness, folder: str
) -> Any:
    """The stage's trainer, over the prepared steps in their order."""
    stage = setting["stage"]
    tokenizer = AutoTokenizer.from_pretrained(setting["directory"])
    tokenizer.pad_token = setting["pad_token"]
    lora = LoraConfig(
        task_type="SEQ_CLS" if stage == "reward" else "CAUSAL_LM",
        r=setting["rank"],
        lora_alpha=setting["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=["score"] if stage == "reward" else None,
    )
    shared: dict[str, Any] = {
        "args": make_config(arguments, setting, folder),
        "train_dataset": make_data(stage, examples, list(itertools.chain(*setting["order"]))),
        "processing_class": tokenizer,
        "peft_config": None if setting.get("tuning") == "full" else lora,
        "callbacks": [witness],
    }
    dtype = getattr(torch, arguments.dtype)
    if stage == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(
            setting["directory"], num_labels=1, dtype=dtype, attn_implementation="sdpa"
        )
        with torch.no_grad():
            model.score.weight.copy_(load_file(arguments.work / "head.safetensors")["score"])
        return start_alike(RewardTrainer(model, **shared), arguments.work)
    if setting.get("tuning") == "full":
        dtype = torch.float32  # master weights, under autocast, as burnish has them
    model = AutoModelForCausalLM.from_pretrained(setting["directory"], dtype=dtype, attn_implementation="sdpa")
    trainer = (SFTTrainer if stage == "sft" else DPOOnIds)(model, **shared)
    return trainer if setting.get("tuning") == "full" else start_alike(trainer, arguments.work)


def start_alike(trainer: Any, work: Path) -> Any:
    """The trainer with the adapter that burnish starts from: B's gradient depends on A, which each draws anew.

    Raises:
        SystemExit: the adapter is of other layers.
    """
    start = load_file(work / "adapter.safetensors")
    own = {name.replace(".default.", "."): p for name, p in trainer.model.named_parameters() if "lora_" in name}
    if own.keys() != start.keys():
        only = sorted(own.keys() ^ start.keys())
        raise SystemExit(f"PEFT and burnish adapt other layers: only one side has {', '.join(only[:3])} ...")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(start[name])
    return trainer


def optimiser_settings(optimiser: Any) -> list[dict[str, Any]]:
    """What the optimiser does, as its parameter groups have it; benchmarks/train.py says the same of burnish's."""
    found: list[dict[str, Any]] = []
    for group in optimiser.param_groups:
        one = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        one = {"name": type(optimiser).__name__, **one, "betas": list(one["betas"])}
        if one not in found:
            found.append(one)
    return found


def make_config(arguments: argparse.Namespace, setting: dict[str, Any], folder: str) -> Any:
    """The trainer's settings."""
    shared: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": arguments.micro_batch,
        "gradient_accumulation_steps": setting["batch"] // arguments.micro_batch,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "learning_rate": setting["learning_rate"],
        "adam_beta1": setting["betas"][0],
        "adam_beta2": setting["betas"][1],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "bf16": arguments.dtype == "bfloat16",
        "gradient_checkpointing": arguments.checkpointing,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "max_length": None,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": arguments.device == "cpu",
        "use_liger_kernel": arguments.liger,
        "seed": setting["seed"],
    }
    if setting["stage"] == "sft":
        return SFTConfig(**shared)
    if setting["stage"] == "reward":
        return RewardConfig(**shared, center_rewards_coefficient=setting["centring"])
    return DPOConfig(
        **shared,
        beta=setting["beta"],
        precompute_ref_log_probs=arguments.beforehand,
        precompute_ref_batch_size=arguments.micro_batch,
    )


def make_data(stage: str, examples: list[Any], order: list[int]) -> Dataset:
    """The examples in the order of training, in the columns of TRL's tokenised data."""
    rows = []
    for index in order:
        prompt, responses = examples[index]["prompt"], examples[index]["responses"]
        if stage == "sft":
            labels = [-100] * len(prompt) + responses[0]
            rows.append({"input_ids": prompt + responses[0], "labels": labels})
        elif stage == "reward":
            rows.append({"chosen_ids": prompt + responses[0], "rejected_ids": prompt + responses[1]})
        else:
            rows.append({"prompt_ids": prompt, "chosen_ids": responses[0], "rejected_ids": responses[1]})
    return Dataset.from_list(rows)


if __name__ == "__main__":
    main()
