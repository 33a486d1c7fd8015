"""The section of RESULTS.md for PPO beside TRL's."""

from __future__ import annotations

from typing import Any

from common.flops import ModelSize, ppo_flops
from common.results import Record, commands, counted, ratio_title, section, setting_title, table, versions, with_range
from common.rounds import loads, medians, ratios

PROBED = 4
"""Prompts whose made-up responses all roles read before the first update."""


def render(record: Record) -> str:
    """The section of RESULTS.md."""
    setting, lengths = record["setting"], record["lengths"]
    peer, own = record["runs"]["trl"], record["runs"]["burnish"]
    low, high = loads(record["runs"])
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in record.get("rates", {}).items())
    rates = rates and f"; measured matrix products: {rates}"
    return section(
        setting_title(
            f"PPO beside TRL: {setting['model']}, {setting['data']}, {peer[0]['dtype']}"
            + _layers(setting, ", LoRA in {} layers"),
            record,
        ),
        [
            f"Machine: {record['machine']}; {peer[0]['threads']} threads{rates}. {record['date']}.",
            f"{setting['prompts']} prompts an update, {lengths[0]} to {lengths[-1]} tokens ({sum(lengths)} together); "
            f"responses of {setting['response_tokens']} tokens; {setting['update_epochs']} epochs of one optimiser "
            f"step; micro-batches of {setting['micro_batch']} rows (in burnish: as many rows as fit the tokens of "
            f"{setting['micro_batch']} of the longest allowed); LoRA of rank {setting['rank']} on all linear layers of "
            f"the policy{_layers(setting, ' within {} of its layers')} "
            f"({own[0]['work']['trainable_parameters']['policy']:,} parameters). "
            f"{counted(len(peer), 'round')} of TRL, then burnish, each in a process of its own, "
            f"{record['timed_updates']} timed updates after one that warms up; medians of the rounds' medians. "
            f"Load of the machine before the runs: {low:.2f} to {high:.2f}.",
            _table(record),
            "Alike on both sides, and checked: updates, episodes, prompt tokens, length of every response, optimiser "
            f"steps, the policy's trainable parameters, dtype, threads{_proof(record)}. Not alike, being what is "
            "compared: TRL's critic and reward model are models of their own (the critic trains "
            f"{'in full' if peer[0]['critic'] == 'full' else 'as an adapter'}), and it pads all rows of a batch to the "
            "longest prompt; burnish's are adapters with heads on the policy's backbone. Neither side uses gradient "
            "checkpointing, which takes less memory and more time, and which is TRL's default: TRL's peak memory with "
            "it was not measured.",
            _counted(record),
            commands(record),
            f"Versions: {versions(peer)}; {versions(own)}.",
            record["notes"],
        ],
    )


def _proof(record: Record) -> str:
    """What the roles said alike; records of before that was asked say nothing."""
    if "apart" not in record:
        return ""
    apart = ", ".join(f"{role} {value:.1g}" for role, value in record["apart"].items())
    return (
        f"; of the same {PROBED} responses, before the first update, what the roles say (largest difference: {apart}; "
        "absolute below a size of 1, relative above): each side samples its own responses, so that the losses of a "
        "first step are of different texts and could not be held against each other"
    )


def _counted(record: Record) -> str:
    if "size" not in record["setting"]:
        return ""
    return (
        "Useful FLOPs are the same number for both sides (benchmarks/common/flops.py): products with weights over real "
        "tokens, every role being LoRA on one model. burnish leaves out of the output matrix's product in backward the "
        "columns whose probability is negligible; its share is given with and without them."
    )


def _layers(setting: dict[str, Any], text: str) -> str:
    """The layers that have LoRA, in words, where that is not all of them."""
    layers = setting.get("layers", "all")
    return "" if layers == "all" else text.format(f"the {layers.replace('-', ' ')}")


def _table(record: Record) -> str:
    rows, sides = record["setting"]["prompts"], (record["runs"]["trl"], record["runs"]["burnish"])
    seconds, memory = zip(*(medians(side, "seconds_per_update", "peak_rss_bytes") for side in sides), strict=True)
    critics = [f"{side[0]['work']['trainable_parameters']['critic']:,}" for side in sides]
    shares = []
    if "size" in record["setting"]:
        rate, kept = record["rates"][sides[0][0]["dtype"]], sides[1][0]["head_kept"]
        own = update_flops(record, head_kept=kept) / seconds[1] / rate
        shares = [
            ["useful FLOPs / time / measured rate", *(f"{update_flops(record) / s / rate:.0%}" for s in seconds), ""],
            ["... of these, computed by burnish", "", f"{own:.0%}", ""],
        ]
    return table(
        ["an update", f"TRL {sides[0][0]['versions']['trl']}", "burnish", ratio_title(sides[0])],
        [
            ["seconds per update", *(f"{s:.2f}" for s in seconds), with_range(ratios(*sides, "seconds_per_update"))],
            ["episodes per second", *(f"{rows / s:.2f}" for s in seconds), ""],
            *shares,
            [
                "peak memory of the process (RSS), GB",
                *(f"{m / 1e9:.2f}" for m in memory),
                with_range(ratios(*reversed(sides), "peak_rss_bytes")),
            ],
            ["parameters of the critic that train", *critics, ""],
        ],
    )


def update_flops(record: Record, *, head_kept: float = 1.0) -> float:
    """Useful operations of an update."""
    setting = record["setting"]
    layers, depth = setting["layers"], setting["depth"]
    upper = 1.0 if layers == "all" else int(layers.removeprefix("last-")) / depth
    counts = {"rank": setting["rank"], "epochs": setting["update_epochs"], "upper": upper, "head_kept": head_kept}
    return ppo_flops(ModelSize(**setting["size"]), record["lengths"], setting["response_tokens"], **counts)
