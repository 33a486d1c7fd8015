"""Tokens per second of training steps, variants side by side in one run.

    python benchmarks/step.py                                   SFT of the catalog's base model, by dtype
    python benchmarks/step.py --stage dpo --vary micro_batch_tokens=512,2048,4096

Each variant trains a few steps on the starter data; the first step, which warms up, does not count. Absolute numbers
are of the machine and of the moment: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import burnish as bn

DATA = {"sft": "starter/sft", "dpo": "starter/preferences"}
STAGES = {"sft": (bn.SFTConfig, bn.train_sft), "dpo": (bn.DPOConfig, bn.train_dpo)}


def tokens_per_second(stage: str, settings: dict[str, Any], steps: int) -> tuple[float, float]:
    """(median, least) tokens per second over the steps after the first."""
    config, train = STAGES[stage]
    with tempfile.TemporaryDirectory() as folder:
        values = {"data": DATA[stage], "out": f"{folder}/run", "validation": 0.0, "max_steps": steps + 1, **settings}
        train(config.parse(values), console=Console(quiet=True))
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines][1:]
    return statistics.median(speeds), min(speeds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--stage", choices=sorted(STAGES), default="sft")
    parser.add_argument("--vary", default="dtype=float32,bfloat16", metavar="FIELD=VALUE,VALUE")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    field, _, values = arguments.vary.partition("=")
    table = Table("variant", "tokens/s (median)", "least", "ratio", title=f"{arguments.stage}, {arguments.model}")
    first = 0.0
    for value in values.split(","):
        settings = {"model": arguments.model, "batch_size": arguments.batch_size, "micro_batch_tokens": 2048}
        median, least = tokens_per_second(arguments.stage, {**settings, field: value}, arguments.steps)
        first = first or median
        table.add_row(f"{field}={value}", f"{median:.0f}", f"{least:.0f}", f"{median / first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
