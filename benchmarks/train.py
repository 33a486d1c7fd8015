"""SFT, reward model and DPO beside TRL's: time of an optimiser step and peak memory, at the same work.

    python benchmarks/train.py prepare dpo --work DIR --data HH-RLHF      examples as token ids, read by both sides
    python benchmarks/train.py ours dpo --work DIR                        burnish alone
    python benchmarks/train.py compare dpo --work DIR --peer-python PYTHON

`compare` runs TRL's side (peers/trl_train.py, by the python of its own environment) and ours in turn, each in a process
of its own, and stops where they did not do the same work: the same examples in every step, the same trainable
parameters and optimiser, in the first step the same log-prob (reward) of every response and a gradient of the same
norm, and in every step the same loss. What it finds goes into results/; `python benchmarks/report.py` writes RESULTS.md
from there.

A step is timed from the end of one to the end of the next. The first one warms up. DPO runs twice on both sides: with
the reference in the step, and with its log-probs computed beforehand. With `--peer-checkpointing` TRL runs once more
with gradient checkpointing, its default, which takes less memory and more time.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import machine
from common.agreement import largest_distance, proof_problems
from common.results import (
    RESULTS,
    data_label,
    new_record,
    save,
)
from common.rounds import Found, Result, alternate, fastest, peer_script, run
from common.sides import HeadProducts, device_memory, dispatch, replace, stamp_steps, watch_dtypes
from common.work import prepare, public, read_lengths, read_setting
from train_section import BEFOREHAND, CHECKPOINTED, render

STAGES = ("sft", "reward", "dpo")
BATCH = {"sft": 16, "reward": 8, "dpo": 8}
SETTING: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "learning_rate": 1e-5,
    "betas": [0.9, 0.99],
    "beta": 0.1,
    "centring": 0.01,
    "micro_batch_tokens": 1024,
    "seed": 0,
}


# ---- our side ----


class Watch:
    """Stamps the end of each step, and notes what the first one computed of each response."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.values: dict[int, list[float]] = {}
        self.reference_seconds = 0.0
        self.optimiser: Any = None
        self.rows: dict[int, list[list[int]]] = {}
        self.read: dict[int, list[list[int]]] = {}
        self.dtypes: set[str] = set()
        self.head = HeadProducts()

    def note(self, indices: tuple[int, ...], values: Any) -> None:
        """The numbers of a batch's responses; every example has as many as any other."""
        self.read.setdefault(len(self.ends), []).extend(row for index in indices for row in self.rows[index])
        if not self.ends:
            for index, row in zip(indices, values.detach().reshape(len(indices), -1).tolist(), strict=True):
                self.values[index] = row

    def install(self, stage: str) -> None:
        """Put itself between the stage and what it calls. What is computed stays as it is."""
        import burnish.stages.batches as stages_batches
        import burnish.stages.dpo as dpo
        import burnish.stages.loop as loop
        import burnish.stages.sft as sft
        from burnish.models.heads import Scorer

        stamp_steps(self.ends)
        watch_dtypes(self.dtypes)
        self.head.watch()
        collate = stages_batches.collate

        def collated(groups: Any, **settings: Any) -> Any:
            self.rows |= {g.index: [[*g.prompt, *response.ids] for response in g.responses] for g in groups}
            return collate(groups, **settings)

        replace(stages_batches, "collate", collated)
        make_optimiser = loop.make_optimiser

        def made(*arguments: Any) -> Any:
            self.optimiser = make_optimiser(*arguments)
            return self.optimiser

        replace(loop, "make_optimiser", made)
        if stage == "reward":
            scores = Scorer.scores

            def watched_scores(scorer: Any, batch: Any, *, dropout: bool = False) -> Any:
                found = scores(scorer, batch, dropout=dropout)
                self.note(batch.indices, found)
                return found

            replace(Scorer, "scores", watched_scores)
            return
        module: Any = {"sft": sft, "dpo": dpo}[stage]
        logprobs = module.response_logprobs

        def watched(role: Any, batch: Any, *, dropout: bool = False) -> Any:
            found = logprobs(role, batch, dropout=dropout)
            if dropout:  # the policy's pass in training; the reference has no dropout
                self.note(batch.indices, found.summed())
            return found

        replace(module, "response_logprobs", watched)
        if stage == "dpo":
            beforehand = dpo.prepare_reference

            def timed(*arguments: Any) -> Any:
                started = time.perf_counter()
                found = beforehand(*arguments)
                self.reference_seconds = time.perf_counter() - started
                return found

            replace(dpo, "prepare_reference", timed)


def ours(work: Path, dtype: str, *, beforehand: bool = False, device: str = "cpu") -> Result:
    """One run of burnish's stage over the prepared steps."""
    import torch
    from rich.console import Console

    import burnish as bn

    setting = read_setting(work)
    stage, steps = setting["stage"], len(setting["order"])
    config, train = {
        "sft": (bn.SFTConfig, bn.train_sft),
        "reward": (bn.RewardConfig, bn.train_reward),
        "dpo": (bn.DPOConfig, bn.train_dpo),
    }[stage]
    watch = Watch()
    watch.install(stage)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        values = stage_settings(setting, work, out, dtype, beforehand=beforehand) | {"device": device}
        train(config.parse(values), console=Console(quiet=True))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    seconds = [after - before for before, after in itertools.pairwise(watch.ends)]
    logged = [line for line in lines if "learning_rate" in line]
    return {
        "side": "burnish",
        "seconds": seconds,
        "seconds_per_step": statistics.median(seconds),
        "reference_seconds": watch.reference_seconds if beforehand else 0.0,
        "dtype": "+".join(sorted(watch.dtypes)),
        "head_kept": watch.head.share(),
        **device_memory(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("burnish", "torch", "transformers")},
        "work": {
            "optimiser_steps": len(logged),
            "tokens": [line["tokens"] for line in logged],
            "digests": [digest(rows) for _, rows in sorted(watch.read.items())],
            "prompt_times": 1,
            "trainable_parameters": record["parameters"]["trainable"],
            "optimiser": optimiser_settings(watch.optimiser),
            "prepared_steps": steps,
        },
        "proof": {
            "losses": [line["loss"] for line in logged],
            "grad_norm": logged[0]["grad_norm"],  # before clipping
            "values": {str(index): row for index, row in sorted(watch.values.items())},
        },
    }


def digest(rows: list[list[int]]) -> str:
    """What identifies the token ids of a step: each response behind its prompt, in whatever order they were read."""
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]


def optimiser_settings(optimiser: Any) -> list[dict[str, Any]]:
    """What an AdamW does, as its parameter groups have it; peers/trl_train.py says the same of TRL's."""
    names = ("lr", "betas", "eps", "weight_decay")
    found: list[dict[str, Any]] = []
    for group in optimiser.param_groups:
        one = {"name": type(optimiser).__name__, **{name: group[name] for name in names}}
        one["betas"] = list(one["betas"])  # as JSON has them
        if one not in found:
            found.append(one)
    return found


def stage_settings(setting: dict[str, Any], work: Path, out: Path, dtype: str, *, beforehand: bool) -> dict[str, Any]:
    """The settings of burnish's stage."""
    steps = len(setting["order"])
    values: dict[str, Any] = {
        "model": setting["model"],
        "data": str(work / "examples.jsonl"),
        "out": str(out),
        "dtype": dtype,
        "device": "cpu",
        "validation": 0.0,
        "batch_size": setting["batch"],
        "micro_batch_tokens": setting["micro_batch_tokens"],
        # A second epoch, of which nothing is run, lets the stage compute the reference before the first step.
        "epochs": 2 if beforehand else 1,
        "max_steps": steps,
        "learning_rate": setting["learning_rate"],
        "beta1": setting["betas"][0],
        "beta2": setting["betas"][1],
        "schedule": "constant",
        "warmup": 0.0,
        "save_every": steps + 1,
        "seed": setting["seed"],
        "tuning": setting.get("tuning", "lora"),
        "lora": {"rank": setting["rank"], "alpha": setting["alpha"], "targets": "all-linear"},
    }
    if setting["stage"] == "dpo":
        values["loss"] = {"name": "sigmoid", "beta": setting["beta"]}
    if setting["stage"] == "reward":
        values["centring"] = setting["centring"]
    return values


# ---- side by side ----


def compare(arguments: argparse.Namespace) -> None:
    """All sides in turn, and what comes of it."""
    work, stage = arguments.work, arguments.stage
    setting, lengths = read_setting(work), read_lengths(work)
    if setting["stage"] != stage:
        raise SystemExit(f"{work} was prepared for {setting['stage']}, not for {stage}\n  to do: prepare it again")
    tried = _try_micro_batches(arguments)
    micro_batch = next(iter(tried), str(arguments.peer_micro_batch[0]))
    apart = None
    if needs_float32_proof(stage, arguments.dtype):
        print("a run of each side in float32, for the proof", flush=True)
        proof = alternate(
            _sides(arguments, "float32", micro_batch),
            1,
            problems=lambda found: work_problems(found, setting, lengths),
            line=lambda result: f"{result['seconds_per_step']:.2f} s a step",
        )
        apart = _apart(proof)
    rates = [run(machine.rates_command())]
    found = alternate(
        _sides(arguments, arguments.dtype, micro_batch),
        arguments.rounds,
        problems=lambda found: work_problems(found, setting, lengths, values=apart is None),
        line=lambda result: f"{result['seconds_per_step']:.2f} s a step",
    )
    rates.append(run(machine.rates_command()))
    record = new_record(
        stage,
        rates=machine.fastest(rates),
        setting=public(setting),
        lengths=[[lengths[i] for i in step] for step in setting["order"]],
        commands=_commands(arguments, setting),
        tried_micro_batches=tried,
        proof={"dtype": arguments.dtype if apart is None else "float32", "apart": apart or _apart(found)},
        runs=found,
    )
    name = "-".join([stage, Path(setting["model"]).name, setting["data"], arguments.dtype])
    print(f"wrote {save(name, record, arguments.results)}\n\n{render(record)}")


def _try_micro_batches(arguments: argparse.Namespace) -> dict[str, float]:
    """TRL's micro-batch -> its seconds per step in one run, the fastest first; empty where only one was named."""
    named = [str(n) for n in arguments.peer_micro_batch]
    if len(named) == 1:
        return {}
    print("a run of TRL with each micro-batch, to take the fastest", flush=True)
    commands = {n: _sides(arguments, arguments.dtype, n)["trl"] for n in named}
    tried = fastest(commands, "seconds_per_step")
    print("\n".join(f"micro-batches of {n}: {seconds:.2f} s a step" for n, seconds in tried.items()), flush=True)
    return tried


def needs_float32_proof(stage: str, dtype: str) -> bool:
    """Whether the first step's numbers say nothing in this dtype.

    A reward of size 1 is a product of a hidden state and a head of sizes that multiply to 50 (SmolLM2): bfloat16's
    rounding alone moves it by 0.1 on either side, which is more than a proof can allow.
    """
    return stage == "reward" and dtype == "bfloat16"


def _sides(arguments: argparse.Namespace, dtype: str, micro_batch: str) -> dict[str, list[str]]:
    """Side -> its command."""
    shared = ["--work", str(arguments.work), "--dtype", dtype]
    micro = ["--micro-batch", micro_batch]
    sides = {
        "trl": [arguments.peer_python, peer_script("trl_train.py"), *shared, *micro],
        "burnish": [sys.executable, str(Path(__file__).resolve()), "ours", arguments.stage, *shared],
    }
    if arguments.stage == "dpo":
        sides |= {f"{name}{BEFOREHAND}": [*command, "--beforehand"] for name, command in sides.items()}
    if arguments.peer_checkpointing:
        sides[CHECKPOINTED] = [*sides["trl"], "--checkpointing"]
    return sides


def _apart(found: Found) -> dict[str, float]:
    """The largest differences to TRL's first run."""
    first = found["trl"][0]["proof"]
    each = [largest_distance(first, result["proof"]) for results in found.values() for result in results]
    return {name: max(one[name] for one in each) for name in each[0]}


def work_problems(found: Found, setting: dict[str, Any], lengths: list[Any], *, values: bool = True) -> list[str]:
    """What the sides did not do alike; empty where the comparison is fair.

    Each side's tokens in every step are held against the examples that were to be in it; token ids, optimisers, losses,
    the first step's per-response values and the norm of its gradient against each other (the numbers unless `values` is
    false).
    """
    problems, first = [], found["trl"][0]
    for name, results in found.items():
        for result in results[-1:]:
            wanted = _tokens(setting["order"], lengths, result["work"]["prompt_times"])
            if result["work"]["tokens"] != wanted:
                problems.append(f"{name} computed {result['work']['tokens']} tokens in its steps, not {wanted}")
            if result["work"]["digests"] != first["work"]["digests"]:
                both = first["work"]["digests"], result["work"]["digests"]
                problems.append(f"token ids of the steps: {both[0]} in TRL, {both[1]} in {name}")
            if result["work"]["optimiser_steps"] != len(wanted):
                problems.append(f"{name} took {result['work']['optimiser_steps']} steps, not {len(wanted)}")
            if result["work"]["trainable_parameters"] != first["work"]["trainable_parameters"]:
                both = first["work"]["trainable_parameters"], result["work"]["trainable_parameters"]
                problems.append(f"trainable parameters: {both[0]:,} in TRL, {both[1]:,} in {name}")
            if result["work"]["optimiser"] != first["work"]["optimiser"]:
                both = first["work"]["optimiser"], result["work"]["optimiser"]
                problems.append(f"optimiser: {both[0]} in TRL, {both[1]} in {name}")
            problems += [
                f"{key}: {first[key]} in TRL, {result[key]} in {name}"
                for key in ("dtype", "threads")
                if first[key] != result[key]
            ]
            if values:
                apart = proof_problems(first["proof"], result["proof"], first["dtype"])
                problems += [f"TRL and {name}: {problem}" for problem in apart]
    return problems


def _tokens(order: list[list[int]], lengths: list[Any], prompt_times: int) -> list[int]:
    """Tokens of each step, where a prompt is computed once or once for each response (0 stands for that)."""
    return [
        sum((prompt_times or len(lengths[i][1])) * lengths[i][0] + sum(lengths[i][1]) for i in step) for step in order
    ]


def _commands(arguments: argparse.Namespace, setting: dict[str, Any]) -> list[str]:
    micro = " ".join(map(str, arguments.peer_micro_batch))
    shape = f"--batch {setting['batch']} --steps {setting['steps']} --max-length {setting['max_length']}"
    return [
        f"python benchmarks/train.py prepare {arguments.stage} --work DIR --data {setting['data']} "
        f"--model {setting['model']} {shape}",
        f"python benchmarks/train.py compare {arguments.stage} --work DIR --peer-python PYTHON "
        f"--rounds {arguments.rounds} --dtype {arguments.dtype} --peer-micro-batch {micro}"
        + " --peer-checkpointing"
        * arguments.peer_checkpointing,
    ]


# ---- the command line ----


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "ours", "compare"))
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", help="prepare: preference pairs, as HH-RLHF's; SFT takes the chosen responses")
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="prepare: of burnish's catalog, or a directory"
    )
    parser.add_argument("--batch", type=int, help="prepare: examples of a step; 16 for SFT, else 8 pairs")
    parser.add_argument("--steps", type=int, default=2, help="prepare: timed ones; one more before them warms up")
    parser.add_argument("--max-length", type=int, default=512, help="prepare: tokens of prompt and response at most")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--beforehand", action="store_true", help="ours, dpo: the reference before the first step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="ours: see benchmarks/gpu.py")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="compare: where the result goes")
    parser.add_argument("--peer-python", help="compare: the python of an environment with trl==1.16.0 and peft")
    parser.add_argument(
        "--peer-micro-batch",
        type=int,
        nargs="+",
        default=[4],
        help="compare: examples of TRL's passes; of several, tried once each before the rounds, it takes the fastest",
    )
    parser.add_argument(
        "--peer-checkpointing", action="store_true", help="compare: TRL once more, with gradient checkpointing"
    )
    return parser


def main() -> None:
    """Do what the first argument says."""
    parser = make_parser()
    arguments = parser.parse_args()

    def prepared() -> None:
        chosen = {"model": arguments.model, "data": data_label(arguments.data), "steps": arguments.steps}
        chosen |= {"batch": arguments.batch or BATCH[arguments.stage], "max_length": arguments.max_length}
        prepare(arguments.work, arguments.stage, {**SETTING, **chosen}, arguments.data)

    dispatch(
        parser,
        arguments,
        prepare=prepared,
        ours=lambda: ours(arguments.work, arguments.dtype, beforehand=arguments.beforehand, device=arguments.device),
        compare=compare,
    )


if __name__ == "__main__":
    main()
