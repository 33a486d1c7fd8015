"""PPO beside TRL's: episodes per second and peak memory, at the same work.

    python benchmarks/ppo.py prepare --work DIR --data HH-RLHF     prompts, the model's directory, a reward model
    python benchmarks/ppo.py ours --work DIR                       burnish alone
    python benchmarks/ppo.py compare --work DIR --peer-python PYTHON [--write]

`compare` runs TRL's side (peers/trl_ppo.py, by the python of its own environment) and ours in turn, each in a process
of its own, checks that both did the same work, and with --write puts the result into RESULTS.md. The update is timed
from the end of one to the end of the next: rollout, scores and both epochs are in it, loading and saving are not.

So that every response has the same length, the model's copy calls a token that it never writes its EOS.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
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
    "kl_coefficient": 0.05,
    "learning_rate": 1e-5,
    "seed": 0,
}


# ---- what both sides are given ----


def prepare(work: Path, data: str, model: str) -> None:
    """Write the setting, the prompts as messages and as token ids, the model's directory, and a reward model."""
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
    _write(work / "setting.json", json.dumps(SETTING))
    shutil.rmtree(work / "reward", ignore_errors=True)
    settings = {"model": str(directory), "data": data, "out": str(work / "reward"), "limit": 32, "validation": 0.0}
    settings |= {"max_length": 512, "too_long": "skip", "on_bad_row": "skip", "batch_size": 8, "max_steps": 2}
    bn.train_reward(bn.RewardConfig.parse({**settings, "lora": _lora()}))


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


def _lora() -> dict[str, Any]:
    return {"rank": SETTING["rank"], "alpha": SETTING["alpha"], "targets": "all-linear"}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


# ---- our side ----


def ours(work: Path, updates: int, dtype: str) -> dict[str, Any]:
    """Some updates of burnish's PPO, after one that warms up."""
    import torch
    from rich.console import Console

    from burnish.stages.config import PPOConfig
    from burnish.stages.ppo import train_ppo
    from burnish.stages.run import Run

    setting = json.loads((work / "setting.json").read_text(encoding="utf-8"))
    rows, response_tokens, epochs = setting["prompts"], setting["response_tokens"], setting["update_epochs"]
    ends: list[float] = []
    log = Run.log

    def stamped(run: Run, values: dict[str, Any]) -> None:
        if "learning_rate" in values and values["step"] % epochs == 0:  # an optimiser step, the last of its update
            ends.append(time.perf_counter())
        log(run, values)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = {
            "model": str(work / "model"),
            "data": str(work / "prompts.jsonl"),
            "reward": str(work / "reward"),
            "out": str(out),
            "dtype": dtype,
            "device": "cpu",
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
            "lora": {"rank": setting["rank"], "alpha": setting["alpha"], "targets": "all-linear"},
        }
        Run.log = stamped  # type: ignore[method-assign]
        train_ppo(PPOConfig.parse(settings), console=Console(quiet=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        policy = _numbers_in(out / "model" / "adapter_model.safetensors")
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    median = statistics.median(seconds)
    rollouts = [line for line in lines if "response_length" in line and "learning_rate" not in line]
    steps = [line for line in lines if "learning_rate" in line]
    return {
        "side": "burnish",
        "seconds_per_update": median,
        "episodes_per_second": rows / median,
        "peak_rss_bytes": peak,
        "seconds": seconds,
        "dtype": record["compute_dtype"],
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
    work = str(arguments.work)
    shared = ["--work", work, "--updates", str(arguments.updates), "--dtype", arguments.dtype]
    peer = [arguments.peer_python, str(HERE / "peers" / "trl_ppo.py"), *shared]
    if arguments.peer_rollout_batch is not None:
        peer += ["--rollout-batch", str(arguments.peer_rollout_batch)]
    peer += ["--critic", arguments.peer_critic]
    own = [sys.executable, str(HERE / "ppo.py"), "ours", *shared]
    found: dict[str, list[dict[str, Any]]] = {"trl": [], "burnish": []}
    for number in range(arguments.rounds):
        for side, command in (("trl", peer), ("burnish", own)):
            result = _run(command)
            found[side].append(result)
            print(
                f"round {number + 1}, {side}: {result['seconds_per_update']:.2f} s per update, "
                f"{result['peak_rss_bytes'] / 1e9:.2f} GB, load before {result['load']:.2f}",
                flush=True,
            )
            if problems := work_problems(found["trl"][0], found["burnish"][0] if found["burnish"] else result):
                raise SystemExit("the work is not the same: " + "; ".join(problems))
    section = report(found["trl"], found["burnish"], arguments)
    print(section)
    (arguments.work / "results.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    if arguments.write:
        write_section("PPO beside TRL", section)


def _run(command: Sequence[str]) -> dict[str, Any]:
    """The last line of the command's output, and the load of the machine before it."""
    load = os.getloadavg()[0]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "load": load}


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


def report(peer: list[dict[str, Any]], own: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    setting = json.loads((arguments.work / "setting.json").read_text(encoding="utf-8"))
    counts = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    lengths = sorted(len(ids) for ids in counts)
    seconds = [statistics.median(r["seconds_per_update"] for r in side) for side in (peer, own)]
    memory = [statistics.median(r["peak_rss_bytes"] for r in side) for side in (peer, own)]
    speedups = [a["seconds_per_update"] / b["seconds_per_update"] for a, b in zip(peer, own, strict=True)]
    shares = [b["peak_rss_bytes"] / a["peak_rss_bytes"] for a, b in zip(peer, own, strict=True)]
    loads = [result["load"] for result in (*peer, *own)]
    critics = [result["work"]["trainable_parameters"]["critic"] for result in (peer[0], own[0])]
    rows = setting["prompts"]
    versions = [", ".join(f"{name} {v}" for name, v in side[0]["versions"].items()) for side in (peer, own)]
    extra = f" --peer-critic {arguments.peer_critic}" if arguments.peer_critic != "full" else ""
    if arguments.peer_rollout_batch is not None:
        extra += f" --peer-rollout-batch {arguments.peer_rollout_batch}"
    return f"""\
Machine: {_machine()}; {peer[0]["threads"]} threads, {peer[0]["dtype"]}. {datetime.date.today().isoformat()}.

SmolLM2-135M-Instruct; {rows} prompts an update, {lengths[0]} to {lengths[-1]} tokens ({sum(lengths)} together);
responses of {setting["response_tokens"]} tokens; {setting["update_epochs"]} epochs of one optimiser step;
micro-batches of {setting["micro_batch"]} rows (in burnish: as many rows as fit the tokens of {setting["micro_batch"]}
of the longest allowed); LoRA of rank {setting["rank"]} on all linear layers of the policy
({own[0]["work"]["trainable_parameters"]["policy"]:,} parameters). {len(peer)} rounds of TRL, then burnish, each in a
process of its own, {arguments.updates} timed updates after one that warms up; medians of the rounds' medians. Load of
the machine before the runs: {min(loads):.2f} to {max(loads):.2f}.

|                                        | TRL {peer[0]["versions"]["trl"]} | burnish | ratio (range over the rounds) |
|----------------------------------------|------------|---------|-------------------------------|
| seconds per update                     | {seconds[0]:.2f} | {seconds[1]:.2f} | \
{seconds[0] / seconds[1]:.2f} ({min(speedups):.2f} to {max(speedups):.2f}) |
| episodes per second                    | {rows / seconds[0]:.2f} | {rows / seconds[1]:.2f} | |
| peak memory of the process (RSS), GB   | {memory[0] / 1e9:.2f} | {memory[1] / 1e9:.2f} | \
{memory[1] / memory[0]:.2f} ({min(shares):.2f} to {max(shares):.2f}) |
| parameters of the critic that train    | {critics[0]:,} | {critics[1]:,} | |

Alike on both sides, and checked: updates, episodes, prompt tokens, length of every response, optimiser steps, the
policy's trainable parameters, dtype, threads. Not alike, being what is compared: TRL's critic and reward model are
models of their own (the critic trains {"in full" if peer[0]["critic"] == "full" else "as an adapter"}), and it pads all
rows of a batch to the longest prompt; burnish's are adapters with heads on the policy's backbone.

    python benchmarks/ppo.py prepare --work DIR --data HH-RLHF
    python benchmarks/ppo.py compare --work DIR --peer-python PYTHON --rounds {arguments.rounds} \
--updates {arguments.updates} --dtype {arguments.dtype}{extra}

Versions: {versions[0]}; {versions[1]}.
"""


def _machine() -> str:
    """Processor, cores, and what of its matrix and vector units matters here."""
    name, flags = platform.machine(), set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text(encoding="utf-8")
        fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, flags=re.MULTILINE))
        name, flags = fields.get("model name", name), set(fields.get("flags", "").split())
    units = [unit for unit, flag in (("AVX-512", "avx512f"), ("AMX", "amx_bf16")) if flag in flags]
    without = [] if "amx_bf16" in flags else ["no AMX"]
    return ", ".join([name, f"{os.cpu_count()} cores", *units, *without])


def write_section(title: str, text: str) -> None:
    """Put a section into RESULTS.md, in the place of an older one of that title."""
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Results of the benchmarks\n"
    kept = re.sub(rf"\n## {re.escape(title)}\n.*?(?=\n## |\Z)", "", before, flags=re.DOTALL)
    _write(RESULTS, f"{kept.rstrip()}\n\n## {title}\n\n{text.rstrip()}\n")


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "ours", "compare"))
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", help="prepare: prompts and pairs, as HH-RLHF's")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="prepare: of burnish's catalog")
    parser.add_argument("--updates", type=int, default=3, help="timed ones of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer-python", help="compare: the python of an environment with trl==1.12.0 and peft")
    parser.add_argument("--peer-rollout-batch", type=int, help="rows of TRL's forward passes; all if not given")
    parser.add_argument("--peer-critic", choices=("full", "lora"), default="full")
    parser.add_argument("--write", action="store_true", help="put the result into RESULTS.md")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    if arguments.action == "prepare":
        if arguments.data is None:
            parser.error("prepare needs --data")
        prepare(arguments.work, arguments.data, arguments.model)
    elif arguments.action == "ours":
        print(json.dumps(ours(arguments.work, arguments.updates, arguments.dtype)))
    else:
        if arguments.peer_python is None:
            parser.error("compare needs --peer-python")
        compare(arguments)


if __name__ == "__main__":
    main()
