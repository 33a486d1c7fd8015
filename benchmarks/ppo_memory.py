"""Peak memory of PPO with its four roles against that of LoRA SFT, each stage in a process of its own.

    python benchmarks/ppo_memory.py
    python benchmarks/ppo_memory.py --model gemma-3-270m --micro-batch-tokens 2048

SFT, a reward model from it and PPO from both train on the starter data, on the same model, dtype and micro-batch.
Memory
is the most that the process held resident, everything included: interpreter, libraries, weights, sampler's cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

STAGES = ("sft", "reward", "ppo")
_CHILD = """
import json, resource, sys
import burnish as bn
from rich.console import Console
stage, values = sys.argv[1], json.loads(sys.argv[2])
config, train = {"sft": (bn.SFTConfig, bn.train_sft), "reward": (bn.RewardConfig, bn.train_reward),
                 "ppo": (bn.PPOConfig, bn.train_ppo)}[stage]
train(config.parse(values), console=Console(quiet=True))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
"""


def peak_gb(stage: str, values: dict[str, Any]) -> float:
    """The peak of resident memory of a process that runs the stage, in GB (1e9 bytes)."""
    command = [sys.executable, "-c", _CHILD, stage, json.dumps(values)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def settings(stage: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The stage's settings; SFT is where the other two start."""
    values: dict[str, Any] = {
        "model": arguments.model if stage == "sft" else str(folder / "sft" / "model"),
        "data": "starter/sft" if stage == "sft" else "starter/preferences",
        "out": str(folder / stage),
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "batch_size": 32,
        "dtype": arguments.dtype,
        "validation": 0.02,
        "keep_best": False,
    }
    if stage != "ppo":
        return values | {"max_steps": 3}
    more = {"reward": str(folder / "reward" / "model"), "rollout_size": 64, "max_rollouts": 2, "update_epochs": 1}
    return values | more | {"max_new_tokens": arguments.max_new_tokens}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    table = Table("stage", "peak GB", "ratio", title=f"{arguments.model}, {arguments.dtype}")
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            peaks[stage] = peak_gb(stage, settings(stage, Path(folder), arguments))
            table.add_row(stage, f"{peaks[stage]:.2f}", f"{peaks[stage] / peaks['sft']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
