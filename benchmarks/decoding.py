"""Ways of sampling side by side, in turn in one process: what each part of the fast path brings.

    python benchmarks/sampling.py prepare --work DIR --data HH-RLHF --batch 64
    python benchmarks/decoding.py --work DIR --rounds 3

The ways are `decoding` of the sampler, without an adapter and through a LoRA adapter. Before the rounds each way writes
a few tokens, which warms up. Absolute numbers are of the machine and of the moment: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sampling
from common.results import (
    RESULTS,
    Record,
    commands,
    counted,
    new_record,
    save,
    section,
    table,
    with_range,
)
from common.rounds import Found, loads, medians, ratios
from common.work import public, read_setting

TITLE = "Ways of sampling"
WAYS = (("", "plain"), ("", "auto"), ("adapter", "plain"), ("adapter", "adapter"), ("adapter", "merged"))
"""(adapter or none, decoding); the first of either kind is what the others are held against."""
WARM_UP_TOKENS = 2


def make_backbone(directory: str, dtype: str, rank: int) -> Any:
    """The model with one LoRA adapter on all linear layers that changes something."""
    import torch

    from burnish.models.loading import load_model
    from burnish.models.lora import LoRAConfig, adapter_parameters, inject
    from burnish.models.roles import Backbone

    model = load_model(directory, dtype=getattr(torch, dtype), device="cpu").model
    inject(model, "adapter", LoRAConfig(rank=rank, alpha=2 * rank), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model, "adapter").values():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return Backbone(model)


def measure(work: Path, dtype: str, rank: int, rounds: int, new: int) -> Found:
    """Way -> of each round its seconds, the tokens that prompts took to read, padding included, and the load before."""
    from burnish.models.roles import Backbone
    from burnish.rollout.sampler import SamplingParams, sample

    setting = read_setting(work)
    prompts = json.loads((work / "prompts.json").read_text(encoding="utf-8"))
    backbone = make_backbone(setting["directory"], dtype, rank)
    read: list[int] = []
    step = Backbone.step

    def watched(self: Backbone, input_ids: Any, *rest: Any) -> Any:
        read.append(input_ids.numel() if input_ids.shape[1] > 1 else 0)
        return step(self, input_ids, *rest)

    def once(adapter: str, decoding: str, tokens: int, seed: int) -> dict[str, Any]:
        read.clear()
        params = SamplingParams(max_new_tokens=tokens, seed=seed, decoding=decoding)  # type: ignore[arg-type]
        load, started = os.getloadavg()[0], time.perf_counter()
        sample(backbone.role(adapter or None), prompts, params, batch_size=setting["batch"], logprobs=False)
        return {"seconds": time.perf_counter() - started, "prompt_tokens_read": sum(read), "load": load}

    Backbone.step = watched  # type: ignore[method-assign]
    try:
        for way in WAYS:
            once(*way, min(WARM_UP_TOKENS, new), 0)
        found: Found = {way_name(*way): [] for way in WAYS}
        for seed in range(rounds):
            for way in WAYS:
                found[way_name(*way)].append(once(*way, new, seed))
                print(f"round {seed + 1}, {way_name(*way)}: {found[way_name(*way)][-1]['seconds']:.2f} s", flush=True)
    finally:
        Backbone.step = step  # type: ignore[method-assign]
    return found


def way_name(adapter: str, decoding: str) -> str:
    """What a way is called."""
    return f"{adapter or 'no adapter'}, {decoding}"


def render(record: Record) -> str:
    """The section of RESULTS.md."""
    setting, ways, lengths = record["setting"], record["ways"], record["lengths"]
    low, high = loads(ways)
    rows = []
    for adapter, decoding in WAYS:
        found, base = ways[way_name(adapter, decoding)], ways[way_name(adapter, "plain")]
        seconds, read = medians(found, "seconds", "prompt_tokens_read")
        faster = "" if decoding == "plain" else with_range(ratios(base, found, "seconds"))
        rows.append([way_name(adapter, decoding), f"{seconds:.2f}", faster, f"{read:,.0f}"])
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    header = ["", "seconds", "faster than plain by", "prompt tokens read"]
    return section(
        f"{TITLE}: {setting['model']}, {setting['batch']} at a time, {record['dtype']}",
        [
            f"Machine: {record['machine']}; {record['threads']} threads. {record['date']}.",
            f"{len(lengths)} prompts of {setting['data']}, {lengths[0]} to {lengths[-1]} tokens, answered by burnish "
            f"with {record['new_tokens']} tokens each, at temperature 1; the adapter is LoRA of rank "
            f"{record['rank']} on all linear layers. {counted(len(base), 'round')} of all ways in turn, in one "
            "process, after a short call of each that warms up; medians, and of the ratio its range over the rounds. "
            "Prompt tokens are read with their padding. Load of the machine before the calls: "
            f"{low:.2f} to {high:.2f}.",
            table(header, rows),
            commands(record),
            f"Versions: {versions}.",
            record["notes"],
        ],
    )


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `sampling.py prepare` wrote")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, help="of each answer, in the place of the prepared number")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the result goes")
    arguments = parser.parse_args()
    setting = read_setting(arguments.work)
    new = arguments.new_tokens or setting["new_tokens"]
    ways = measure(arguments.work, arguments.dtype, arguments.rank, arguments.rounds, new)
    import torch

    prompts = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    record = new_record(
        "decoding",
        dtype=arguments.dtype,
        rank=arguments.rank,
        new_tokens=new,
        setting=public(setting),
        lengths=sorted(len(ids) for ids in prompts),
        threads=torch.get_num_threads(),
        versions={package: version(package) for package in ("burnish", "torch", "transformers")},
        commands=[
            sampling.prepare_command(setting),
            f"python benchmarks/decoding.py --work DIR --dtype {arguments.dtype} --rank {arguments.rank} "
            f"--rounds {arguments.rounds} --new-tokens {new}",
        ],
        ways=ways,
    )
    parts = ["decoding", Path(setting["model"]).name, setting["data"], str(setting["batch"]), arguments.dtype]
    print(f"wrote {save('-'.join(parts), record, arguments.results)}\n\n{render(record)}")


if __name__ == "__main__":
    main()
