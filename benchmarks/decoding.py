"""Ways of sampling side by side, in turn in one process: what each part of the fast path brings.

    python benchmarks/sampling.py prepare --work DIR --data HH-RLHF --batch 64
    python benchmarks/decoding.py --work DIR --rounds 3

The ways are `decoding` of the sampler, without an adapter and through a LoRA adapter. Seconds are of the process (CPU
time), which on a machine that is shared say more than the clock on the wall; with one thread the two are equal where
nothing else runs. Absolute numbers are of the machine and of the moment: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from common.results import table
from common.work import read_setting

WAYS = (("", "plain"), ("", "auto"), ("adapter", "plain"), ("adapter", "adapter"), ("adapter", "merged"))
"""(adapter or none, decoding); the first of either kind is what the others are held against."""


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


def measure(work: Path, dtype: str, rank: int, rounds: int, new_tokens: int | None) -> dict[tuple[str, str], list[Any]]:
    """(CPU seconds, tokens that prompts took to read, padding included) of each way and round."""
    from burnish.models.roles import Backbone
    from burnish.rollout.sampler import SamplingParams, sample

    setting = read_setting(work)
    prompts, new = json.loads((work / "prompts.json").read_text(encoding="utf-8")), new_tokens or setting["new_tokens"]
    backbone = make_backbone(setting["directory"], dtype, rank)
    read: list[int] = []
    step = Backbone.step

    def counted(self: Backbone, input_ids: Any, *rest: Any) -> Any:
        read.append(input_ids.numel() if input_ids.shape[1] > 1 else 0)
        return step(self, input_ids, *rest)

    Backbone.step = counted  # type: ignore[method-assign]
    found: dict[tuple[str, str], list[Any]] = {way: [] for way in WAYS}
    for seed in range(rounds):
        for adapter, decoding in WAYS:
            read.clear()
            params = SamplingParams(max_new_tokens=new, seed=seed, decoding=decoding)  # type: ignore[arg-type]
            started = time.process_time()
            sample(backbone.role(adapter or None), prompts, params, batch_size=setting["batch"], logprobs=False)
            found[adapter, decoding].append((time.process_time() - started, sum(read)))
            print(
                f"round {seed + 1}, {adapter or 'no adapter'}, {decoding}: {found[adapter, decoding][-1]}", flush=True
            )
    Backbone.step = step  # type: ignore[method-assign]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `sampling.py prepare` wrote")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, help="of each answer, in the place of the prepared number")
    arguments = parser.parse_args()
    found = measure(arguments.work, arguments.dtype, arguments.rank, arguments.rounds, arguments.new_tokens)
    rows, first = [], {adapter: found[adapter, "plain"] for adapter in ("", "adapter")}
    for (adapter, decoding), values in found.items():
        seconds = statistics.median(value for value, _ in values)
        each = [base / value for (base, _), (value, _) in zip(first[adapter], values, strict=True)]
        ratio = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        rows.append([f"{adapter or 'no adapter'}, {decoding}", f"{seconds:.2f}", ratio, f"{values[0][1]:,}"])
    print("\n" + table(["", "CPU seconds", "faster than plain by", "prompt tokens read"], rows))


if __name__ == "__main__":
    main()
