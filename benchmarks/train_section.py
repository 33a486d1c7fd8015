"""The section of RESULTS.md for SFT, reward model and DPO beside TRL's."""

from __future__ import annotations

import statistics

from common.flops import ModelSize, step_flops
from common.results import Record, commands, counted, ratio_title, section, setting_title, table, versions, with_range
from common.rounds import Result, loads, medians, ratios

NAMES = {"sft": "SFT", "reward": "Reward model", "dpo": "DPO"}
VALUES = {"sft": "log-probs", "reward": "rewards", "dpo": "log-probs"}
BEFOREHAND = "-beforehand"
"""What the name of a side ends with that computes DPO's reference before the first step."""
CHECKPOINTED = "trl-checkpointed"
"""The side of TRL that computes activations again in backward."""


def render(record: Record) -> str:
    """The section of RESULTS.md for a stage, a model and a data set."""
    stage, setting, found = record["stage"], record["setting"], record["runs"]
    peer, own = found["trl"], found["burnish"]
    variants = [("", "")] if stage != "dpo" else [("", "reference in the step"), (BEFOREHAND, "reference beforehand")]
    blocks = []
    for suffix, label in variants:
        sides = found[f"trl{suffix}"], found[f"burnish{suffix}"]
        blocks.append(_table(record, *sides, label or "a step", reference=stage == "dpo" and not suffix))
    if CHECKPOINTED in found:
        label = "TRL with gradient checkpointing" + (", reference in the step" if stage == "dpo" else "")
        blocks.append(_table(record, found[CHECKPOINTED], own, label, reference=stage == "dpo"))
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in record["rates"].items())
    tokens = [prompt + max(responses) for step in record["lengths"] for prompt, responses in step]
    low, high = loads(found)
    what = {"sft": "conversations", "reward": "pairs", "dpo": "pairs"}[stage]
    return section(
        setting_title(f"{NAMES[stage]} beside TRL: {setting['model']}, {setting['data']}, {peer[0]['dtype']}", record),
        [
            f"Machine: {record['machine']}; {peer[0]['threads']} threads; measured matrix products: {rates}. "
            f"{record['date']}.",
            f"Steps of {setting['batch']} {what}, the longest of {min(tokens)} to {max(tokens)} tokens; LoRA of rank "
            f"{setting['rank']} on all linear layers but the output matrix "
            f"({peer[0]['work']['trainable_parameters']:,} parameters train). "
            f"{counted(len(peer), 'round')} of all sides in turn, each in a process of its own, "
            f"{setting['steps']} timed steps after one that warms up; medians of the rounds' medians. "
            f"Load of the machine before the runs: {low:.2f} to {high:.2f}.",
            *blocks,
            _small_print(record),
            commands(record),
            f"Versions: {versions(peer)}; {versions(own)}.",
            record["notes"],
        ],
    )


def _table(record: Record, peer: list[Result], own: list[Result], label: str, *, reference: bool) -> str:
    setting, batch = record["setting"], record["setting"]["batch"]
    size = ModelSize(**setting["size"])

    def flops(head_kept: float) -> float:
        return statistics.median(
            step_flops(record["stage"], size, step, rank=setting["rank"], reference=reference, head_kept=head_kept)
            for step in record["lengths"][1:]
        )

    rate = record["rates"][peer[0]["dtype"]]
    times = [medians(side, "seconds_per_step")[0] for side in (peer, own)]
    memory = [medians(side, "peak_rss_bytes")[0] for side in (peer, own)]
    rows = [
        ["seconds per step", *(f"{t:.2f}" for t in times), with_range(ratios(peer, own, "seconds_per_step"))],
        ["examples per second", *(f"{batch / t:.2f}" for t in times), ""],
        ["useful FLOPs / time / measured rate", *(f"{flops(1.0) / t / rate:.0%}" for t in times), ""],
        [
            "peak memory of the process (RSS), GB",
            *(f"{m / 1e9:.2f}" for m in memory),
            with_range(ratios(own, peer, "peak_rss_bytes")),
        ],
    ]
    if (kept := own[0].get("head_kept")) is not None:
        rows.insert(3, ["... of these, computed by burnish", "", f"{flops(kept) / times[1] / rate:.0%}", ""])
    if any(side[0]["reference_seconds"] for side in (peer, own)):
        once = [medians(side, "reference_seconds")[0] / len(record["lengths"]) for side in (peer, own)]
        total = [a + b for a, b in zip(times, once, strict=True)]
        ratio = f"{total[0] / total[1]:.2f}"
        rows.insert(1, ["... with the reference's share, one epoch", *(f"{t:.2f}" for t in total), ratio])
    return table([label, f"TRL {peer[0]['versions']['trl']}", "burnish", ratio_title(peer)], rows)


def _small_print(record: Record) -> str:
    stage, setting, peer = record["stage"], record["setting"], record["runs"]["trl"][0]
    times = {"sft": "once", "reward": "for each response", "dpo": "for each response, and the reference's again"}
    return (
        f"Alike on both sides, and checked: {_examples(record)}, optimiser steps, trainable parameters, "
        f"{_proof(record)}. Useful FLOPs are the same number for "
        "both sides (benchmarks/common/flops.py): products with weights over real tokens, a prompt once. TRL "
        f"computes a prompt {times[stage]}, in micro-batches of {peer['micro_batch']} examples sorted by "
        f"length{_tried(record)}; burnish in micro-batches of at most {setting['micro_batch_tokens']} tokens. "
        f"{_left_out(record)}{_memory(record)}"
    )


def _tried(record: Record) -> str:
    """The micro-batches of TRL of which this was the fastest."""
    tried = record.get("tried_micro_batches")
    if not tried:
        return ""
    each = ", ".join(f"{n} with {seconds:.2f} s a step" for n, seconds in tried.items())
    return f" (the fastest of those tried in one run each: {each})"


def _left_out(record: Record) -> str:
    """What of the useful FLOPs burnish does not compute."""
    if record["stage"] == "reward":
        return ""  # there is no product with the output matrix
    said = (
        "Of the output matrix's product in backward burnish leaves out the columns whose probability is negligible for "
        "all tokens of a tile"
    )
    kept = record["runs"]["burnish"][0].get("head_kept")
    if kept is None:
        return f"{said}; they are counted as useful here, so that its share of the rate is that much too high. "
    return f"{said} and computed {kept:.0%} of it; the share of the rate is given with and without the rest. "


def _memory(record: Record) -> str:
    """What a memory figure is from."""
    said = "Neither side uses gradient checkpointing, which takes less memory and more time, and which is TRL's default"
    if CHECKPOINTED in record["runs"]:
        return f"{said}, except in the last table: there TRL has it, and burnish's numbers are those of the first."
    return f"{said}: TRL's peak memory with it was not measured."


def _examples(record: Record) -> str:
    """What was compared of the examples: of old records the number of tokens, and in the first step the values."""
    hashed = "digests" in record["runs"]["trl"][0]["work"]
    return "the token ids of every step" if hashed else "the number of tokens of every step, the examples of the first"


def _proof(record: Record) -> str:
    """What of dtype, threads and the numbers was found alike. Records of before the gradient was compared say less."""
    peer, apart, what = record["runs"]["trl"][0], record["proof"]["apart"], VALUES[record["stage"]]
    where = "in the first step" if record["proof"]["dtype"] == peer["dtype"] else "in float32, before the rounds,"
    if isinstance(apart, list):
        loss, values = apart
        return (
            f"dtype, threads; {where} the loss (largest difference {loss:.1g}) and the {what} of every response "
            f"({values:.1g}; absolute below a size of 1, relative above)"
        )
    return (
        f"optimiser, dtype, threads; {where} the loss (largest difference {apart['loss']:.1g}), the {what} of every "
        f"response ({apart['values']:.1g}) and the norm of the gradient before clipping ({apart['grad_norm']:.1g} of "
        f"it); the losses of the steps after it ({apart['later_losses']:.1g}; absolute below a size of 1, relative "
        "above)"
    )
