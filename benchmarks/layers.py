"""What training the upper layers only costs and saves: held-out loss, time and memory of SFT, LoRA in the last N.

    python benchmarks/layers.py measure
    python benchmarks/layers.py measure --model gemma-3-270m --layers all last-9 last-6

Every run sees the same rows in the same order, from the same start, for the same steps, each in a process of its own.
The held-out loss is that of the last weights. Seconds are of the whole run: loading, what the lower layers make of the
data (computed once and kept, so that more epochs gain more), all steps, a validation before and after, saving.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.results import RESULTS, Record, commands, new_record, save, section, table
from common.rounds import run

TITLE = "Training the upper layers only"
SHARES = (2 / 3, 1 / 3, 1 / 6)
"""Of the decoder's layers, beside all of them: 20, 10 and 5 of SmolLM2-135M's 30, 12, 6 and 3 of Gemma 3 270M's 18."""
SETTING: dict[str, Any] = {
    "data": "starter/sft",
    "limit": 320,
    "validation": 0.2,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 5e-4,
    "micro_batch_tokens": 2048,
    "max_length": 256,
    "too_long": "skip",
    "seed": 0,
}


def point(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of SFT: its held-out loss before and after, and its seconds."""
    import torch
    from rich.console import Console

    import burnish as bn
    from burnish.models.directory import read_config
    from burnish.models.loading import model_directory, resolve_model

    depth = read_config(model_directory(resolve_model(arguments.model))).get_text_config().num_hidden_layers
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **SETTING,
            "model": arguments.model,
            "out": str(Path(folder) / "run"),
            "lora": {"layers": arguments.layers[0]},
            "dtype": arguments.dtype,
            "eval_every": 100_000,
            "keep_best": False,
        }
        started = time.perf_counter()
        out = bn.train_sft(bn.SFTConfig.parse(settings), console=Console(quiet=True)).out
        seconds = time.perf_counter() - started
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [line["validation/loss"] for line in lines if "validation/loss" in line]
    return {
        "layers": arguments.layers[0],
        "depth": depth,
        "loss_before": held_out[0],
        "loss": held_out[-1],
        "seconds": seconds,
        "steps": record["steps"],
        "trainable": record["parameters"]["trainable"],
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("burnish", "torch", "transformers")},
    }


def measure(arguments: argparse.Namespace) -> None:
    """Every choice of layers, and what comes of it."""
    shared = ["--model", arguments.model, "--dtype", arguments.dtype]
    points: list[dict[str, Any]] = []
    wanted = list(arguments.layers or ["all"])
    while wanted:
        layers = wanted.pop(0)
        points.append(run([sys.executable, str(Path(__file__).resolve()), "point", *shared, "--layers", layers]))
        print(f"{layers}: held-out loss {points[-1]['loss']:.3f}, {points[-1]['seconds']:.0f} s", flush=True)
        if arguments.layers is None and len(points) == 1:
            wanted = choices(points[0]["depth"])
    chosen = "" if arguments.layers is None else f" --layers {' '.join(arguments.layers)}"
    record = new_record(
        "layers",
        model=arguments.model,
        dtype=arguments.dtype,
        setting=SETTING,
        commands=[f"python benchmarks/layers.py measure --model {arguments.model} --dtype {arguments.dtype}{chosen}"],
        points=points,
    )
    path = save(f"layers-{Path(arguments.model).name}-{arguments.dtype}", record, arguments.results)
    print(f"wrote {path}\n\n{render(record)}")


def choices(depth: int) -> list[str]:
    """The choices beside `all` for a decoder of so many layers."""
    return list(dict.fromkeys(f"last-{max(1, round(share * depth))}" for share in SHARES))


def render(record: Record) -> str:
    """The section of RESULTS.md; ratios are to the first choice of layers."""
    points, setting = record["points"], record["setting"]
    first = points[0]
    rows = [
        [
            one["layers"],
            f"{one['trainable']:,}",
            f"{one['loss']:.3f}",
            f"{one['seconds']:.0f}",
            f"{first['seconds'] / one['seconds']:.2f}",
            f"{one['peak_rss_bytes'] / 1e9:.2f}",
        ]
        for one in points
    ]
    header = ["layers", "parameters that train", "held-out loss", "seconds", "times as fast", "peak memory, GB"]
    about = (
        f"Machine: {record['machine']}; {first['threads']} threads, torch {first['versions']['torch']}. "
        f"{record['date']}."
    )
    said = (
        f"SFT of {record['model']} in {record['dtype']} on {setting['data']} ({setting['limit']} rows of at most "
        f"{setting['max_length']} tokens, a share of {setting['validation']:g} held out), {setting['epochs']} epochs, "
        f"{first['steps']} steps of {setting['batch_size']}, learning rate {setting['learning_rate']:g}. Held-out loss "
        f"in nats a token, {first['loss_before']:.3f} before. One run each: differences in the second digit of the "
        "loss may be chance."
    )
    return section(
        f"{TITLE}: {record['model']}, {record['dtype']}", [about, said, table(header, rows), commands(record)]
    )


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "point"))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--layers", nargs="+", help="`all` and `last-N`; all, two thirds, a third and a sixth if not given; point: one"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="measure: where the result goes")
    arguments = parser.parse_args()
    if arguments.action == "measure":
        measure(arguments)
    elif len(arguments.layers or ()) != 1:
        parser.error("point needs one --layers")
    else:
        print(json.dumps(point(arguments)))


if __name__ == "__main__":
    main()
