"""PPO beside TRL's: episodes per second and peak memory, at the same work.

    python benchmarks/ppo.py prepare --work DIR --data HH-RLHF     prompts, the model's directory, a reward model
    python benchmarks/ppo.py ours --work DIR                       burnish alone
    python benchmarks/ppo.py compare --work DIR --peer-python PYTHON

`compare` runs TRL's side (peers/trl_ppo.py, by the python of its own environment) and ours in turn, each in a process
of its own, checks that both did the same work (and before it, that policy, reference, critic and reward model say the
same of the same responses), and writes the result into results/, from where `python benchmarks/report.py` writes
RESULTS.md. The update is timed from the end of one to the end of the next: rollout, scores and both epochs are in it,
loading and saving are not.

So that every response has the same length, the model's copy calls a token that it never writes its EOS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import machine
from common.agreement import TOLERANCE, distance
from common.results import (
    RESULTS,
    data_label,
    new_record,
    save,
)
from common.rounds import Found, alternate, peer_script, run
from common.sides import HeadProducts, device_memory, dispatch, replace, stamp_steps, watch_dtypes
from common.work import model_size, read_prompts, read_setting
from ppo_section import PROBED, render

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
    "betas": [0.9, 0.99],
    "seed": 0,
}
ROLES = ("policy", "reference", "critic", "reward")


# ---- what both sides are given ----


def prepare(work: Path, data: str, model: str, layers: str) -> None:
    """Write the setting, the prompts as messages and as token ids, the model's directory, and a reward model.

    Args:
        layers: `all`, or `last-N`: the decoder layers that have LoRA, on both sides.
    """
    import burnish as bn
    from burnish.data.chat import resolve_template
    from burnish.models.loading import model_directory, resolve_model

    work.mkdir(parents=True, exist_ok=True)
    directory = work / "model"
    _copy_model(model_directory(resolve_model(model)), directory)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    template = resolve_template(tokenizer, "auto")
    longest = SETTING["prompt_tokens"]
    found = read_prompts(data, template, tokenizer, wanted=SETTING["prompts"], longest=longest)
    ids = [prompt for _, prompt in found]
    _write(work / "prompts.jsonl", "".join(json.dumps({"prompt": messages}) + "\n" for messages, _ in found))
    _write(work / "prompts.json", json.dumps(ids))
    _write(work / "probe.json", json.dumps(_probe(ids, SETTING["response_tokens"])))
    setting = {**SETTING, "layers": layers, "model": model, "data": data_label(data), **_size(directory)}
    _write(work / "setting.json", json.dumps(setting))
    shutil.rmtree(work / "reward", ignore_errors=True)
    settings = {"model": str(directory), "data": data, "out": str(work / "reward"), "limit": 32, "validation": 0.0}
    settings |= {"max_length": 512, "too_long": "skip", "on_bad_row": "skip", "batch_size": 8, "max_steps": 2}
    bn.train_reward(bn.RewardConfig.parse({**settings, "lora": _lora(setting)}))


def _probe(prompts: list[list[int]], length: int) -> list[dict[str, list[int]]]:
    """Prompts with responses that nobody has to sample: the tokens of the prompts that follow."""
    text = list(itertools.chain(*prompts))
    return [
        {"prompt": prompt, "response": list(itertools.islice(itertools.cycle(text), i * length, (i + 1) * length))}
        for i, prompt in enumerate(prompts[:PROBED])
    ]


def _size(directory: Path) -> dict[str, Any]:
    """What the count of operations needs to know of the model; no weight is read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {"size": asdict(model_size(model)), "depth": config.get_text_config().num_hidden_layers}


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
    head = HeadProducts()
    head.watch()
    proof = watch_proof(json.loads((work / "probe.json").read_text(encoding="utf-8")))
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
            "beta1": setting["betas"][0],
            "beta2": setting["betas"][1],
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
        "head_kept": head.share(),
        "proof": proof,
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


def watch_proof(probe: list[dict[str, list[int]]]) -> dict[str, list[float]]:
    """What the roles of the stage that runs next say of the probe before its first update; filled when it begins."""
    import torch

    import burnish.stages.ppo as stage
    from burnish.data.groups import PromptGroup, Response
    from burnish.stages.ppo_rollout import Sampled, read_responses

    found: dict[str, list[float]] = {}
    load_cast = stage.load_cast

    def loaded(*arguments: Any) -> Any:
        cast = load_cast(*arguments)
        groups = [
            PromptGroup(tuple(one["prompt"]), (Response.full(one["response"]),), index=i) for i, one in enumerate(probe)
        ]
        mask = torch.ones(len(probe), len(probe[0]["response"]), dtype=torch.bool)
        sampled = Sampled(groups, torch.zeros(len(probe)), mask, torch.zeros(mask.shape))
        roles = {"speakers": [cast.policy, cast.reference], "critics": [cast.critic], "scorers": cast.scorers[:1]}
        reading = read_responses(sampled, 4096, **roles)
        policy, reference = reading.logprobs.sum(-1).tolist()
        critic, [reward] = reading.values[0].mean(-1).tolist(), reading.scores.tolist()
        found.update(policy=policy, reference=reference, critic=critic, reward=reward)
        return cast

    replace(stage, "load_cast", loaded)
    return found


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
    rates = [run(machine.rates_command())]
    found = alternate(
        {"trl": peer, "burnish": [sys.executable, str(Path(__file__).resolve()), "ours", *shared]},
        arguments.rounds,
        problems=found_problems,
        line=lambda result: f"{result['seconds_per_update']:.2f} s an update",
    )
    rates.append(run(machine.rates_command()))
    record = new_record(
        "ppo",
        rates=machine.fastest(rates),
        setting=setting,
        apart=proof_distances(found["trl"][0], found["burnish"][0]),
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
    allowed = TOLERANCE.get(peer["dtype"], 0.0)
    problems += [
        f"what {role} says of the same responses differs by {apart:.2g} (allowed: {allowed:g})"
        for role, apart in proof_distances(peer, own).items()
        if not apart <= allowed
    ]
    return problems


def proof_distances(peer: dict[str, Any], own: dict[str, Any]) -> dict[str, float]:
    """The largest difference of what each role says of the probe; infinite where a side says nothing.

    Of the scalar heads only in float32: see train.needs_float32_proof.
    """
    roles = ROLES if peer["dtype"] == "float32" else ROLES[:2]
    found = {}
    for role in roles:
        a, b = peer["proof"].get(role, []), own["proof"].get(role, [])
        same = len(a) == len(b) > 0
        found[role] = max(map(distance, a, b)) if same else math.inf
    return found


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
