"""The GPU table: correctness, and SFT, reward model, DPO and PPO beside TRL on a Llama of 1B with random weights.

    bash benchmarks/gpu.sh PART        one part, with a limit of time; see there

Model, tokenizer and data are made here (common/synthetic.py): nothing comes from the network. Each side runs in a
process of its own and must have done the same work, as in train.py and ppo.py, whose scripts run here with `--device
cuda`. TRL is measured as it comes (SDPA) and, where liger-kernel is installed, with Liger's kernels; where it fails, as
when its memory does not suffice, the reason is printed and burnish is measured alone. Only the sides hold memory of the
GPU: the work is prepared in a process of its own, too.

Utilisation is useful operations (common/flops.py: products with weights over real tokens, a prompt once; for all sides
the same number) over time, over the rate of one large matrix product in bfloat16 measured in the same run. Attention's
products of tokens with tokens are not counted. Memory is torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ppo
import train
from common import machine
from common.flops import Lengths, ModelSize, full_flops, step_flops
from common.results import RESULTS, Record, new_record, save, section, table, versions
from common.rounds import Found, Result, alternate, peer_script, run
from common.synthetic import LLAMA_1B, make_model, make_pairs
from common.work import prepare, public, read_lengths, read_setting
from ppo_section import update_flops

DTYPE = "bfloat16"
BASE_SETTING: dict[str, Any] = {**train.SETTING, "batch": 8, "steps": 3, "micro_batch_tokens": 16_384, "tuning": "lora"}


@dataclass(frozen=True, slots=True)
class Part:
    """What a part trains, and on what.

    Attributes:
        title: in the table.
        stage: of train.py, or ppo.
        prompt_tokens: of each prompt.
        response_tokens: (least, most) of a response.
        setting: what differs from `BASE_SETTING`.
    """

    title: str
    stage: str
    prompt_tokens: int
    response_tokens: tuple[int, int]
    setting: dict[str, Any]


PARTS = {
    "sft": Part("SFT, LoRA", "sft", 512, (384, 512), {"batch": 16}),
    "sft-full": Part("SFT, all weights", "sft", 512, (384, 512), {"batch": 16, "tuning": "full"}),
    "reward": Part("reward model, LoRA", "reward", 512, (128, 256), {}),
    "dpo": Part("DPO, LoRA, prompts of 1,024 tokens", "dpo", 1024, (128, 256), {}),
    "ppo": Part("PPO, four roles, LoRA", "ppo", 100, (20, 40), {}),
}
SIDES = {"trl": "TRL {trl}, SDPA", "trl-liger": "TRL {trl}, Liger", "burnish": "burnish"}
"""Side -> what the table calls it."""


def prepare_part(name: str, work: Path, *, shape: dict[str, Any] | None = None, device: str = "cuda") -> Path:
    """Make the model, the data and the prepared work of a part; the directory that the sides read."""
    part, folder = PARTS[name], work / name
    model = make_model(work / "model", shape, device=device)
    setting = {**BASE_SETTING, **part.setting, "model": str(model), "data": "random words"}
    setting["max_length"] = part.prompt_tokens + part.response_tokens[1] + 32  # and the template's tokens
    n = 64 if part.stage == "ppo" else setting["batch"] * (setting["steps"] + 1)
    data = make_pairs(folder / "pairs.jsonl", n, prompt_tokens=part.prompt_tokens, response_tokens=part.response_tokens)
    if part.stage == "ppo":
        ppo.prepare(folder, str(data), str(model), "all")
    else:
        prepare(folder, part.stage, setting, str(data))
    return folder


def sides(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Side -> its command; TRL's are left out where there is no python for them."""
    stage, here = PARTS[name].stage, Path(__file__).resolve().parent
    shared = ["--work", str(folder), "--dtype", DTYPE, "--device", arguments.device]
    if stage == "ppo":
        more, peer, script = ["--updates", "2"], arguments.peer_ppo_python, "trl_ppo.py"
        own = [sys.executable, str(here / "ppo.py"), "ours", *shared, *more]
    else:
        more, peer, script = ["--micro-batch", str(arguments.peer_micro_batch)], arguments.peer_python, "trl_train.py"
        own = [sys.executable, str(here / "train.py"), "ours", stage, *shared]
    found = {}
    if peer is None:
        print("TRL is left out: no python of an environment with it was named", flush=True)
    else:
        found["trl"] = [peer, peer_script(script), *shared, *more]
        if stage != "ppo" and has_liger(peer):
            found["trl-liger"] = [*found["trl"], "--liger"]
    return {**found, "burnish": own}


def has_liger(python: str) -> bool:
    """Whether an environment has liger-kernel."""
    return subprocess.run([python, "-c", "import liger_kernel"], capture_output=True).returncode == 0


def problems(name: str, found: Found, setting: dict[str, Any], folder: Path) -> list[str]:
    """What the sides did not do alike. Where SDPA was left out Liger stands in; without TRL there is nothing to hold
    ours against."""
    if "trl" not in found:
        if "trl-liger" not in found:
            return []
        found = {"trl": found["trl-liger"], "burnish": found["burnish"]}
    if PARTS[name].stage == "ppo":
        return ppo.found_problems(found)
    # Rewards in bfloat16 are too coarse to be held against each other (train.needs_float32_proof).
    return train.work_problems(found, setting, read_lengths(folder), values=PARTS[name].stage != "reward")


def measure(name: str, arguments: argparse.Namespace) -> Record:
    """All sides of a part in turn."""
    folder = Path(run(prepare_command(name, arguments))["folder"])
    setting = read_setting(folder)
    wanted = sides(name, folder, arguments)
    rates = [run(machine.rates_command(arguments.device))]
    found = alternate(
        wanted,
        arguments.rounds,
        problems=lambda found: problems(name, found, setting, folder),
        line=lambda result: f"{seconds_of([result]):.3f} s",
        optional={"trl", "trl-liger"},
    )
    rates.append(run(machine.rates_command(arguments.device)))
    for results in found.values():
        for result in results:
            result.pop("proof", None)  # judged; too long to be kept
    left_out = [side for side in wanted if side not in found]
    return gpu_record(name, arguments, rates, setting, folder, found, left_out)


def prepare_command(name: str, arguments: argparse.Namespace) -> list[str]:
    """The command that does `prepare_part` in a process of its own: the model is drawn on the GPU, and whoever has
    touched that keeps some of its memory to the end."""
    shape = [] if arguments.shape is None else ["--shape", json.dumps(arguments.shape)]
    own = [sys.executable, str(Path(__file__).resolve()), name, "--prepare-only"]
    return [*own, "--work", str(arguments.work), "--device", arguments.device, *shape]


def gpu_record(
    name: str,
    arguments: argparse.Namespace,
    rates: list[Result],
    setting: dict[str, Any],
    folder: Path,
    found: Found,
    left_out: list[str],
) -> Record:
    """The record of a part."""
    tokens, flops = timed_work(name, folder, setting)
    return new_record(
        "gpu",
        part=name,
        device=device_name(arguments.device),
        rates=machine.fastest(rates),
        setting={key: value for key, value in public(setting).items() if key != "model"},
        model_bytes=(arguments.work / "model" / "model.safetensors").stat().st_size,
        step_tokens=tokens,
        step_flops=flops,
        sides=found,
        left_out=left_out,
    )


def timed_work(name: str, folder: Path, setting: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Tokens and useful operations of each timed step; of PPO, whose updates are all alike, of one update: its prompts
    with their responses."""
    if PARTS[name].stage == "ppo":
        lengths = [len(ids) for ids in json.loads((folder / "prompts.json").read_text(encoding="utf-8"))]
        tokens = sum(lengths) + len(lengths) * setting["response_tokens"]
        return [tokens], [update_flops({"setting": setting, "lengths": lengths})]
    steps, size = lengths_of_steps(name, folder, setting)[1:], ModelSize(**setting["size"])
    tokens_of = [sum(prompt + sum(responses) for prompt, responses in step) for step in steps]
    return tokens_of, [part_flops(name, size, step, setting) for step in steps]


def lengths_of_steps(name: str, folder: Path, setting: dict[str, Any]) -> list[list[Lengths]]:
    """Tokens of the examples of each step, the one that warms up first; not of PPO, which makes its responses."""
    lengths = read_lengths(folder)
    return [[lengths[i] for i in step] for step in setting["order"]]


def part_flops(name: str, size: ModelSize, step: Sequence[Lengths], setting: dict[str, Any]) -> float:
    """Useful operations of one step of a part; DPO's with the reference in it."""
    stage = PARTS[name].stage
    if setting["tuning"] == "full":
        return full_flops(size, step)
    return step_flops(stage, size, step, rank=setting["rank"], reference=stage == "dpo")


def seconds_of(results: Sequence[Result]) -> float:
    """Seconds of a step, or of an update of PPO: the median of the rounds' medians."""
    key = "seconds_per_update" if "seconds_per_update" in results[0] else "seconds_per_step"
    return statistics.median(result[key] for result in results)


def utilisation(record: Record, side: str) -> float | None:
    """Useful operations over time over the measured rate, over the timed steps; none where they were not counted."""
    if not record["step_flops"]:
        return None
    return statistics.mean(record["step_flops"]) / seconds_of(record["sides"][side]) / float(record["rates"][DTYPE])


def device_name(device: str) -> str:
    """The GPU's name; asked in a process of its own, so that this one holds none of its memory."""
    if device != "cuda":
        return machine.describe()
    code = "import torch; print(torch.cuda.get_device_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def correctness(arguments: argparse.Namespace) -> tuple[Record, list[str]]:
    """The record of the part `check`, and what is wrong."""
    from gpu_check import checks

    found = list(checks(arguments.device))
    wrong = [f"{one.name}, {one.dtype}: {one.worst:.2g}, allowed {one.allowed:g}" for one in found if not one.passed]
    values = [asdict(one) for one in found]
    return new_record("gpu", part="check", device=device_name(arguments.device), checks=values), wrong


# ---- the section of RESULTS.md ----


def render(records: Sequence[Record]) -> str:
    """The section of RESULTS.md, of all parts that there are."""
    found = {record["part"]: record for record in records}
    parts = []
    if "check" in found:
        parts.append(_correctness(found["check"]))
    measured = [found[name] for name in PARTS if name in found]
    if measured:
        parts += [_setting(measured), _table(measured)]
    failed = [f"{PARTS[record['part']].title}: {side}" for record in measured for side in record.get("left_out", ())]
    if failed:
        parts.append(f"Left out, since they failed there: {'; '.join(failed)}.")
    missing = [name for name in ("check", *PARTS) if name not in found]
    if missing:
        parts.append(f"Not yet measured: {', '.join(missing)} (`bash benchmarks/gpu.sh PART`).")
    return section(TITLE, parts)


TITLE = "On a GPU: correctness, and training a Llama of 1B beside TRL"
NOT_MEASURED = "The GPU table is not yet measured: no GPU was at hand. `bash benchmarks/gpu.sh PART` measures a part."


def _correctness(record: Record) -> str:
    rows = record["checks"]
    failed = [
        f"{row['name']}, {row['dtype']} ({row['worst']:.2g}, allowed {row['allowed']:g})"
        for row in rows
        if not row["worst"] <= row["allowed"]
    ]
    verdict = f"{len(failed)} differ by more than is allowed: {'; '.join(failed)}." if failed else "All agree."
    return (
        f"Correctness ({record['device']}, {record['date']}): {len(rows)} comparisons with float64 (log-prob "
        f"primitive, attention, LoRA, sampler; float32 and bfloat16). {verdict}"
    )


def _setting(records: Sequence[Record]) -> str:
    of = "; ".join(
        f"{PARTS[record['part']].title}: {record['device']}, {record['date']}, matrix products in {DTYPE} at "
        f"{record['rates'][DTYPE] / 1e12:.0f} TFLOP/s, {versions(record['sides']['burnish'])}"
        for record in records
    )
    width, layers = LLAMA_1B["hidden_size"], LLAMA_1B["num_hidden_layers"]
    return (
        f"A Llama with {layers} layers of width {width} and a vocabulary of {LLAMA_1B['vocab_size']:,}, random "
        f"weights, {DTYPE}. Tokens are those of the data, a prompt once for both of its responses, for all sides; of "
        "PPO, prompts and responses of an update, however often they are read; TRL's PPO has no path through Liger's "
        f"kernels and is measured without. {of}."
    )


def _table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        own = seconds_of(record["sides"]["burnish"])
        for side, title in SIDES.items():
            if side not in record["sides"]:
                continue
            results = record["sides"][side]
            seconds, share = seconds_of(results), utilisation(record, side)
            memory = max(result.get("peak_cuda_bytes", math.nan) for result in results)  # none of a CPU
            tokens = statistics.mean(record["step_tokens"]) / seconds if record["step_tokens"] else None
            rows.append(
                [
                    f"{PARTS[record['part']].title}: {title.format(**results[0]['versions'])}",
                    f"{seconds:.3f}",
                    "" if side == "burnish" else f"{seconds / own:.2f}",
                    "" if tokens is None else f"{tokens:,.0f}",
                    "" if share is None else f"{share:.0%}",
                    f"{memory / 1e9:.2f}",
                    f"{memory / record['model_bytes']:.2f}",
                ]
            )
    header = ["a step", "seconds", "burnish is faster by", "tokens/s", "utilisation", "peak, GB", "peak / model"]
    return table(header, rows)


def main() -> None:
    """Measure a part and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("check", *PARTS))
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where model and data are made")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the result goes")
    parser.add_argument("--peer-python", help="the python of an environment with trl==1.16.0 and peft")
    parser.add_argument("--peer-ppo-python", help="the python of an environment with trl==1.12.0 and peft")
    parser.add_argument("--peer-micro-batch", type=int, default=8, help="examples of TRL's passes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--prepare-only", action="store_true", help="make model, data and prepared work, nothing else")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script out")
    parser.add_argument("--shape", type=json.loads, help="fields of LlamaConfig as JSON, to try the script out")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    wrong: list[str] = []
    if arguments.prepare_only:
        folder = prepare_part(arguments.part, arguments.work, shape=arguments.shape, device=arguments.device)
        print(json.dumps({"folder": str(folder)}))
        return
    if arguments.part == "check":
        record, wrong = correctness(arguments)
    else:
        record = measure(arguments.part, arguments)
    print(f"wrote {save(f'gpu-{arguments.part}', record, arguments.results)}\n\n{render([record])}")
    if wrong:
        raise SystemExit("wrong on this device:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    main()
