"""PPO beside TRL's: episodes per second and peak memory, at the same work.

    python benchmarks/ppo.py prepare --work DIR --data HH-RLHF     prompts, the model's directory, a reward model
    python benchmarks/ppo.py ours --work DIR                       burnish alone
    python benchmarks/ppo.py compare --work DIR --peer-python PYTHON

`compare` runs TRL's side (peers/trl_ppo.py, by the python of its own environment) and ours in turn, each in a process
of its own, checks that both did the same work, and writes the result into results/, from where `python
benchmarks/report.py` writes RESULTS.md. The update is timed from the end of one to the end of the next: rollout, scores
and both epochs are in it, loading and saving are not.

So that every response has the same length, the model's copy calls a token that it never writes its EOS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.results import (
    RESULTS,
    Record,
    commands,
    data_label,
    new_record,
    save,
    section,
    table,
    versions,
    with_range,
)
from common.rounds import Found, alternate, loads, medians, peer_script, ratios
from common.sides import device_memory, dispatch, stamp_steps, watch_dtypes
from common.work import read_setting

NEVER_WRITTEN = "keyframe"
"""One token of SmolLM2's, trained (its embedding is its own), and of a probability below 1e-8 in these answers."""
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim -}}"
    "{{- (eos_token if loop.last and message['role'] == 'assistant' else '<|im_end|>') + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SETTING: dict[str, Any] = {
    "prompts": 16,
    "prompt_tokens": 128,
    "response_tokens": 48,
    "update_epochs": 2,
    "micro_batch": 4,
    "rank": 16,
    "alpha": 32,
    "layers": "all",
    "kl_coefficient": 0.05,
    "learning_rate": 1e-5,
    "seed": 0,
}


# ---- what both sides are given ----


def prepare(work: Path, data: str, model: str, layers: str) -> None:
    """Write the setting, the prompts as messages and as token ids, the model's directory, and a reward model.

    Args:
        layers: `all`, or `last-N`: the decoder layers that have LoRA, on both sides.
    """
    import burnish as bn
    from burnish.data.chat import encode_prompt, resolve_template
    from burnish.models.loading import model_directory, resolve_model

    work.mkdir(parents=True, exist_ok=True)
    directory = work / "model"
    _copy_model(model_directory(resolve_model(model)), directory)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    template = resolve_template(tokenizer, "auto")
    rows, ids = [], []
    for example in bn.load_examples(data, kind="prompt", on_bad_row="skip").examples:
        prompt = encode_prompt(template, tokenizer, example.prompt)
        if len(prompt) <= SETTING["prompt_tokens"] and prompt not in ids:
            rows.append({"prompt": [{"role": turn.role, "content": turn.content} for turn in example.prompt]})
            ids.append(prompt)
        if len(ids) == SETTING["prompts"]:
            break
    _write(work / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write(work / "prompts.json", json.dumps(ids))
    setting = {**SETTING, "layers": layers, "model": model, "data": data_label(data)}
    _write(work / "setting.json", json.dumps(setting))
    shutil.rmtree(work / "reward", ignore_errors=True)
    settings = {"model": str(directory), "data": data, "out": str(work / "reward"), "limit": 32, "validation": 0.0}
    settings |= {"max_length": 512, "too_long": "skip", "on_bad_row": "skip", "batch_size": 8, "max_steps": 2}
    bn.train_reward(bn.RewardConfig.parse({**settings, "lora": _lora(setting)}))


def _copy_model(source: Path, directory: Path) -> None:
    """The model's directory again, its files linked, with `NEVER_WRITTEN` as EOS."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for path in source.iterdir():
        if path.suffix in (".safetensors", ".json"):
            (directory / path.name).symlink_to(path)
    ids = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    changes: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {"eos_token": NEVER_WRITTEN, "pad_token": "<|endoftext|>"},
        "config.json": {"eos_token_id": ids[NEVER_WRITTEN], "pad_token_id": ids["<|endoftext|>"]},
        "generation_config.json": {"eos_token_id": ids[NEVER_WRITTEN], "pad_token_id": ids["<|endoftext|>"]},
    }
    for name, change in changes.items():
        values = json.loads((source / name).read_text(encoding="utf-8"))
        (directory / name).unlink()
        _write(directory / name, json.dumps({**values, **change}, indent=2))
    _write(directory / "chat_template.jinja", CHATML)


def _lora(setting: dict[str, Any]) -> dict[str, Any]:
    return {name: setting[name] for name in ("rank", "alpha", "layers")} | {"targets": "all-linear"}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


# ---- our side ----


def ours(work: Path, updates: int, dtype: str, device: str = "cpu") -> dict[str, Any]:
    """Some updates of burnish's PPO, after one that warms up."""
    import torch
    from rich.console import Console

    from burnish.stages.ppo import train_ppo
    from burnish.stages.ppo_config import PPOConfig

    setting = read_setting(work)
    rows, response_tokens, epochs = setting["prompts"], setting["response_tokens"], setting["update_epochs"]
    ends: list[float] = []
    dtypes: set[str] = set()
    watch_dtypes(dtypes)
    stamp_steps(ends, every=epochs)  # the last step of each update
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = {
            "model": str(work / "model"),
            "data": str(work / "prompts.jsonl"),
            "reward": str(work / "reward"),
            "out": str(out),
            "dtype": dtype,
            "device": device,
            "validation": 0.0,
            "epochs": updates + 1,
            "rollout_size": rows,
            "batch_size": rows,
            "update_epochs": epochs,
            "micro_batch_tokens": setting["micro_batch"] * (setting["prompt_tokens"] + response_tokens),
            "max_new_tokens": response_tokens,
            "missing_eos_penalty": 0.0,
            "kl_coefficient": setting["kl_coefficient"],
            "learning_rate": setting["learning_rate"],
            "schedule": "linear",
            "warmup": 0.0,
            "save_every": epochs * (updates + 1),
            "seed": setting["seed"],
            "lora": _lora(setting),
        }
        train_ppo(PPOConfig.parse(settings), console=Console(quiet=True))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        policy = _numbers_in(out / "model" / "adapter_model.safetensors")  # without a start, all of it trains
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    median = statistics.median(seconds)
    rollouts = [line for line in lines if "response_length" in line and "learning_rate" not in line]
    steps = [line for line in lines if "learning_rate" in line]
    return {
        "side": "burnish",
        "seconds_per_update": median,
        "episodes_per_second": rows / median,
        "seconds": seconds,
        "dtype": "+".join(sorted(dtypes)),
        **device_memory(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("burnish", "torch", "transformers")},
        "work": {
            "updates": len(rollouts),
            "episodes": len(rollouts) * rows,
            "prompt_tokens": [step["tokens"] - rows * response_tokens for step in steps],
            # no response can be longer than the limit: a mean of that length says that each has it
            "response_tokens": sorted({line["response_length"] for line in rollouts}),
            "optimiser_steps": len(steps),
            "trainable_parameters": {"policy": policy, "critic": record["parameters"]["trainable"] - policy},
        },
    }


def _numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  # not a dict


# ---- side by side ----


def compare(arguments: argparse.Namespace) -> None:
    """Both sides in turn, and what comes of it."""
    setting = read_setting(arguments.work)
    prompts = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    shared = ["--work", str(arguments.work), "--updates", str(arguments.updates), "--dtype", arguments.dtype]
    peer = [arguments.peer_python, peer_script("trl_ppo.py"), *shared, "--critic", arguments.peer_critic]
    if arguments.peer_rollout_batch is not None:
        peer += ["--rollout-batch", str(arguments.peer_rollout_batch)]
    found = alternate(
        {"trl": peer, "burnish": [sys.executable, str(Path(__file__).resolve()), "ours", *shared]},
        arguments.rounds,
        problems=found_problems,
        line=lambda result: f"{result['seconds_per_update']:.2f} s an update",
    )
    record = new_record(
        "ppo",
        setting=setting,
        lengths=sorted(len(ids) for ids in prompts),
        timed_updates=arguments.updates,
        commands=_commands(arguments, setting),
        runs=found,
    )
    part = [] if setting["layers"] == "all" else [setting["layers"]]
    name = "-".join(["ppo", Path(setting["model"]).name, setting["data"], arguments.dtype, *part])
    print(f"wrote {save(name, record, arguments.results)}\n\n{render(record)}")


def found_problems(found: Found) -> list[str]:
    """What the newest results did not do as the first of TRL's did."""
    first = found["trl"][0]
    return [problem for results in found.values() for last in results[-1:] for problem in work_problems(first, last)]


def work_problems(peer: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What the two sides did not do alike; empty where the comparison is fair."""
    a, b = peer["work"], own["work"]
    problems = [
        f"{name}: {a[name]} and {b[name]}"
        for name in ("updates", "episodes", "response_tokens", "optimiser_steps")
        if a[name] != b[name]
    ]
    if peer["side"] != own["side"]:
        sums = ({sum(counts) for counts in a["prompt_tokens"]}, set(b["prompt_tokens"]))
        if sums[0] != sums[1]:
            problems.append(f"prompt tokens of an update: {sums[0]} and {sums[1]}")
    if a["trainable_parameters"]["policy"] != b["trainable_parameters"]["policy"]:
        problems.append(f"the policy's parameters: {a['trainable_parameters']} and {b['trainable_parameters']}")
    problems += [f"{name} differs" for name in ("dtype", "threads") if peer[name] != own[name]]
    return problems


def _commands(arguments: argparse.Namespace, setting: dict[str, Any]) -> list[str]:
    extra = f" --peer-critic {arguments.peer_critic}" if arguments.peer_critic != "full" else ""
    if arguments.peer_rollout_batch is not None:
        extra += f" --peer-rollout-batch {arguments.peer_rollout_batch}"
    layers = "" if setting["layers"] == "all" else f" --layers {setting['layers']}"
    return [
        f"python benchmarks/ppo.py prepare --work DIR --data {setting['data']} --model {setting['model']}{layers}",
        f"python benchmarks/ppo.py compare --work DIR --peer-python PYTHON --rounds {arguments.rounds} "
        f"--updates {arguments.updates} --dtype {arguments.dtype}{extra}",
    ]


# ---- the section of RESULTS.md ----


def render(record: Record) -> str:
    """The section of RESULTS.md."""
    setting, lengths = record["setting"], record["lengths"]
    peer, own = record["runs"]["trl"], record["runs"]["burnish"]
    low, high = loads(record["runs"])
    return section(
        f"PPO beside TRL: {setting['model']}, {setting['data']}, {peer[0]['dtype']}"
        + _layers(setting, ", LoRA in {} layers"),
        [
            f"Machine: {record['machine']}; {peer[0]['threads']} threads. {record['date']}.",
            f"{setting['prompts']} prompts an update, {lengths[0]} to {lengths[-1]} tokens ({sum(lengths)} together); "
            f"responses of {setting['response_tokens']} tokens; {setting['update_epochs']} epochs of one optimiser "
            f"step; micro-batches of {setting['micro_batch']} rows (in burnish: as many rows as fit the tokens of "
            f"{setting['micro_batch']} of the longest allowed); LoRA of rank {setting['rank']} on all linear layers of "
            f"the policy{_layers(setting, ' within {} of its layers')} "
            f"({own[0]['work']['trainable_parameters']['policy']:,} parameters). {len(peer)} rounds of TRL, then "
            f"burnish, each in a process of its own, {record['timed_updates']} timed updates after one that warms "
            f"up; medians of the rounds' medians. Load of the machine before the runs: {low:.2f} to {high:.2f}.",
            _table(record),
            "Alike on both sides, and checked: updates, episodes, prompt tokens, length of every response, optimiser "
            "steps, the policy's trainable parameters, dtype, threads. Not alike, being what is compared: TRL's critic "
            "and reward model are models of their own (the critic trains "
            f"{'in full' if peer[0]['critic'] == 'full' else 'as an adapter'}), and it pads all rows of a batch to the "
            "longest prompt; burnish's are adapters with heads on the policy's backbone.",
            commands(record),
            f"Versions: {versions(peer)}; {versions(own)}.",
            record["notes"],
        ],
    )


def _layers(setting: dict[str, Any], text: str) -> str:
    """The layers that have LoRA, in words, where that is not all of them."""
    layers = setting.get("layers", "all")
    return "" if layers == "all" else text.format(f"the {layers.replace('-', ' ')}")


def _table(record: Record) -> str:
    rows, sides = record["setting"]["prompts"], (record["runs"]["trl"], record["runs"]["burnish"])
    seconds, memory = zip(*(medians(side, "seconds_per_update", "peak_rss_bytes") for side in sides), strict=True)
    critics = [f"{side[0]['work']['trainable_parameters']['critic']:,}" for side in sides]
    return table(
        ["an update", f"TRL {sides[0][0]['versions']['trl']}", "burnish", "ratio (range over the rounds)"],
        [
            ["seconds per update", *(f"{s:.2f}" for s in seconds), with_range(ratios(*sides, "seconds_per_update"))],
            ["episodes per second", *(f"{rows / s:.2f}" for s in seconds), ""],
            [
                "peak memory of the process (RSS), GB",
                *(f"{m / 1e9:.2f}" for m in memory),
                with_range(ratios(*reversed(sides), "peak_rss_bytes")),
            ],
            ["parameters of the critic that train", *critics, ""],
        ],
    )


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "ours", "compare"))
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", help="prepare: prompts and pairs, as HH-RLHF's")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="prepare: of burnish's catalog")
    parser.add_argument("--layers", default="all", help="prepare: all, or last-N: the layers that have LoRA")
    parser.add_argument("--updates", type=int, default=3, help="timed ones of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer-python", help="compare: the python of an environment with trl==1.12.0 and peft")
    parser.add_argument("--peer-rollout-batch", type=int, help="rows of TRL's forward passes; all if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="ours: see benchmarks/gpu.py")
    parser.add_argument("--peer-critic", choices=("full", "lora"), default="full")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="compare: where the result goes")
    arguments = parser.parse_args()
    dispatch(
        parser,
        arguments,
        prepare=lambda: prepare(arguments.work, arguments.data, arguments.model, arguments.layers),
        ours=lambda: ours(arguments.work, arguments.updates, arguments.dtype, arguments.device),
        compare=compare,
    )


if __name__ == "__main__":
    main()
