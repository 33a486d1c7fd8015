"""Speed and memory of training steps, variants of a stage's settings side by side.

    python benchmarks/step.py                                   SFT of the catalog's base model, float32 and bfloat16
    python benchmarks/step.py --stage dpo --variant micro_batch_tokens=1024 --variant gradient_checkpointing=true
    LD_PRELOAD=/usr/lib/.../libtcmalloc_minimal.so.4 python benchmarks/step.py --stage dpo

Each variant is a process of its own that trains a few steps, on the starter's data if no other is given; the first
step, which warms up, does not count for the speed, and does for the memory. The first line is the stage without a
variant, and what the ratios are to. Absolute numbers are of the machine and of the moment: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.rounds import run

DATA = {"sft": "starter/sft", "dpo": "starter/preferences"}
DTYPES = ["dtype=float32", "dtype=bfloat16"]


def stage_of(name: str) -> tuple[Any, Any]:
    """A stage's configuration and function. Loads torch: a process that starts others should not."""
    import burnish as bn

    return {"sft": (bn.SFTConfig, bn.train_sft), "dpo": (bn.DPOConfig, bn.train_dpo)}[name]


def steps_of(stage: str, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """`tokens_per_second`, the median over the steps after the first, and `tokens` of all of them."""
    config, train = stage_of(stage)
    with tempfile.TemporaryDirectory() as folder:
        values = {"out": f"{folder}/run", "validation": 0.0, "max_steps": steps + 1, **settings}
        train(config.parse(values), console=Console(quiet=True))
        text = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return {
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines[1:]),
        "tokens": sum(line["tokens"] for line in lines),
    }


def settings_of(common: dict[str, Any], variant: str) -> dict[str, Any]:
    """The stage's settings with a variant's `FIELD=VALUE FIELD=VALUE` among them; `lora.layers` reaches into `lora`."""
    settings: dict[str, Any] = json.loads(json.dumps(common))
    for assignment in variant.split():
        field, _, value = assignment.partition("=")
        *above, name = field.split(".")
        inside = settings
        for part in above:
            inside = inside.setdefault(part, {})
        inside[name] = value
    return settings


def measured(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """What `steps_of` finds in a process of its own, with the process's peak memory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", arguments.stage]
    return run([*command, "--steps", str(arguments.steps), "--alone", json.dumps(settings)])


def stage_parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A command line that says which steps of which stage; `common_settings` makes the stage's settings of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=sorted(DATA))
    parser.add_argument("--model")
    parser.add_argument("--data", help="the starter's if not given")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument(
        "--setting", nargs="*", default=[], metavar="FIELD=VALUE", help="more of the stage's: too_long=skip"
    )
    parser.set_defaults(**defaults)
    return parser


def common_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The stage's settings that a command line of `stage_parser` asks for."""
    common = {"model": arguments.model, "data": arguments.data or DATA[arguments.stage]}
    return settings_of({**common, "batch_size": arguments.batch_size}, " ".join(arguments.setting))


def main() -> None:
    """Measure and print."""
    parser = stage_parser(__doc__, stage="sft", model="gemma-3-270m", batch_size=16, steps=3)
    parser.add_argument(
        "--variant", action="append", metavar="FIELD=VALUE", help="one more line; several fields with blanks between"
    )
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(steps_of(arguments.stage, json.loads(arguments.alone), arguments.steps)))
        return
    common = common_settings(arguments)
    variants = DTYPES if arguments.variant is None and not arguments.setting else ["", *(arguments.variant or [])]
    preload = os.environ.get("LD_PRELOAD", "")
    title = f"{arguments.stage}, {arguments.model}" + (f", with {Path(preload).name}" if preload else "")
    table = Table("variant", "tokens/s", "ratio", "peak memory, GB", "ratio", title=title)
    first: dict[str, Any] = {}
    for variant in variants:
        found = measured(arguments, settings_of(common, variant))
        first = first or found
        if found["tokens"] != first["tokens"]:
            raise SystemExit(f"{variant} computed {found['tokens']} tokens, the first line {first['tokens']}")
        cells = [
            text
            for key, form, unit in (("tokens_per_second", ".0f", 1.0), ("peak_rss_bytes", ".2f", 1e9))
            for text in (f"{found[key] / unit:{form}}", f"{found[key] / first[key]:.2f}")
        ]
        table.add_row(variant or "as it is", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
