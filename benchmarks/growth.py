"""How cost grows: with the prompt, the responses to it, the vocabulary, the sequence; and how soon a command starts.

    python benchmarks/growth.py measure prompt        seconds per pair, prompts of 128 to 4,096 tokens
    python benchmarks/growth.py measure responses     seconds per prompt, 2 to 16 responses
    python benchmarks/growth.py measure vocabulary    memory of log-probs, 8,192 to 262,144 tokens
    python benchmarks/growth.py measure sequence      memory of a training pass, 256 to 4,096 tokens
    python benchmarks/growth.py measure startup       seconds of `burnish --help`

The first two compute log-probs and gradients of a LoRA policy in two ways that give the same result: with the responses
in one row behind their prompt, and with a row a response, each behind a copy of the prompt. Memory is what the pass
adds to what the process held before it, at its peak. Tokens are random. Each point is a process of its own; what is
found goes into results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.results import RESULTS, Record, commands, new_record, save, section, table
from common.rounds import run

RESPONSE = 64
"""Tokens of a response."""
PROMPT = 512
"""Tokens of the prompt while the number of responses grows."""
RANK = 16
PASS_TOKENS = 4096
"""Tokens of a pass at most, as `micro_batch_tokens` has it."""
HEAD_TOKENS, HEAD_WIDTH = 1024, 576
"""Hidden states whose log-probs are computed while the vocabulary grows."""
STARTS = 7
START = "from burnish.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Growth:
    """One measurement.

    Attributes:
        title: of its section and its figure.
        values: what grows.
        axis: what that is.
        unit: what is measured.
        lines: key of a point's result -> what the table and the figure call it.
        said: what the section says of it.
    """

    title: str
    values: tuple[int, ...]
    axis: str
    unit: str
    lines: dict[str, str]
    said: str


MEMORY = ("vocabulary", "sequence")
APART = "a row a response"
GROWTHS = {
    "prompt": Growth(
        "Time against the length of the prompt",
        (128, 256, 512, 1024, 2048, 4096),
        "tokens of the prompt",
        "seconds per pair",
        {"shared": "prompt shared", "apart": APART},
        f"Forward and backward of one pair, responses of {RESPONSE} tokens; median of the timed passes.",
    ),
    "responses": Growth(
        "Time against the number of responses",
        (2, 4, 8, 16),
        "responses to a prompt",
        "seconds per prompt",
        {"shared": "prompt shared", "apart": APART},
        f"Forward and backward of one prompt of {PROMPT} tokens with responses of {RESPONSE} tokens; median of "
        "the timed passes.",
    ),
    "vocabulary": Growth(
        "Memory against the size of the vocabulary",
        (8192, 16384, 32768, 65536, 131072, 262144),
        "tokens of the vocabulary",
        "GB at the peak of the pass",
        {"tiled": "burnish", "whole": "log_softmax of whole logits"},
        f"Log-probs of {HEAD_TOKENS} tokens from hidden states of width {HEAD_WIDTH}, and the gradient with respect to "
        "these; the output matrix itself is not counted.",
    ),
    "sequence": Growth(
        "Memory against the length of the sequence",
        (256, 512, 1024, 2048, 4096),
        "tokens of the sequence",
        "GB at the peak of the pass",
        {"kept": "activations kept", "checkpointed": "gradient checkpointing"},
        "Forward and backward of one example, half of it prompt; the model's weights are not counted.",
    ),
    "startup": Growth(
        "Start of the command",
        (),
        "",
        "seconds",
        {"help": "burnish --help", "python": "python -c pass"},
        f"From the start of the process to its end; median of {STARTS} runs after one that warms up. The aim is less "
        "than 0.5 s.",
    ),
}


# ---- one point, in a process of its own ----


def point(kind: str, value: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is measured at one value: both times, or the memory of one way, which leaves its traces in the process."""
    found: dict[str, float]
    if kind in ("prompt", "responses"):
        prompt, responses = (value, 2) if kind == "prompt" else (PROMPT, value)
        found = pass_seconds(arguments, prompt, responses)
    elif kind == "vocabulary":
        found = {arguments.line: head_memory(value, tiled=arguments.line == "tiled") / 1e9}
    else:
        found = {arguments.line: pass_memory(arguments, value, arguments.line == "checkpointed") / 1e9}
    import torch

    return {"value": value, **found, "threads": torch.get_num_threads(), "torch": version("torch")}


def _policy(arguments: argparse.Namespace, *, checkpointing: bool = False) -> Any:
    """A LoRA policy on the model."""
    import torch

    from burnish.models.config import LoRAConfig
    from burnish.models.loading import load_model
    from burnish.models.lora import inject
    from burnish.models.roles import Backbone

    loaded = load_model(arguments.model, dtype=getattr(torch, arguments.dtype), device="cpu", echo=_silent)
    loaded.model.requires_grad_(False)
    backbone = Backbone(loaded.model, checkpointing=checkpointing)
    inject(loaded.model, "policy", LoRAConfig(rank=RANK, alpha=2 * RANK), seed=0)
    return backbone.role("policy")


def _silent(*_: Any) -> None:
    """The result must be the last line."""


def _random_ids(vocabulary: int, n: int, seed: int) -> list[int]:
    import torch

    return torch.randint(10, vocabulary, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def _train_on(role: Any, groups: Sequence[Any]) -> None:
    """Log-probs of all responses, and the gradient of their sum."""
    from burnish.models.roles import response_logprobs
    from burnish.stages.batches import batches

    for _, batch in batches(role.backbone, groups, PASS_TOKENS):
        response_logprobs(role, batch).token.sum().backward()


def pass_seconds(arguments: argparse.Namespace, prompt: int, responses: int) -> dict[str, float]:
    """Median seconds of a pass over one prompt, the two ways in turn."""
    from burnish.data.groups import PromptGroup, Response

    role = _policy(arguments)
    vocabulary = role.backbone.vocabulary
    ids = tuple(_random_ids(vocabulary, prompt, 0))
    answers = [Response.full(_random_ids(vocabulary, RESPONSE, 1 + i)) for i in range(responses)]
    ways = {
        "shared": [PromptGroup(ids, tuple(answers), index=0)],
        "apart": [PromptGroup(ids, (answer,), index=i) for i, answer in enumerate(answers)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, groups in ways.items():
            seconds[name].append(_seconds(lambda groups=groups: _train_on(role, groups)))
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def pass_memory(arguments: argparse.Namespace, tokens: int, checkpointing: bool) -> int:
    """Bytes that a pass over one example adds at its peak."""
    from burnish.data.groups import PromptGroup, Response

    role = _policy(arguments, checkpointing=checkpointing)
    ids = _random_ids(role.backbone.vocabulary, tokens, 0)
    group = PromptGroup(tuple(ids[: tokens // 2]), (Response.full(ids[tokens // 2 :]),), index=0)
    return _added(lambda: _train_on(role, [group]))


def head_memory(vocabulary: int, *, tiled: bool) -> int:
    """Bytes that log-probs and their gradient add at their peak."""
    import torch

    from burnish.ops.logprobs import OutputHead, token_logprobs

    weight = torch.empty(vocabulary, HEAD_WIDTH).normal_(std=HEAD_WIDTH**-0.5)
    hidden = torch.randn(HEAD_TOKENS, HEAD_WIDTH, requires_grad=True)
    targets = torch.randint(vocabulary, (HEAD_TOKENS,))

    def compute() -> None:
        if tiled:
            token_logprobs(hidden, OutputHead(weight), targets).sum().backward()
        else:
            torch.log_softmax(hidden @ weight.T, -1).gather(1, targets.unsqueeze(1)).sum().backward()

    return _added(compute)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _added(work: Callable[[], None]) -> int:
    """The peak of resident memory during some work, less what was resident before it, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew
    before = _resident("VmRSS")
    work()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


# ---- all points ----


def measure(kind: str, arguments: argparse.Namespace) -> None:
    """Measure all points of one growth, and write them down."""
    growth = GROWTHS[kind]
    if kind == "startup":
        points = [_starts()]
    else:
        points = []
        shared = ["--model", arguments.model, "--dtype", arguments.dtype, "--repeats", str(arguments.repeats)]
        lines = [["--line", line] for line in growth.lines] if kind in MEMORY else [[]]
        for value in arguments.values or growth.values:
            own = [sys.executable, str(Path(__file__).resolve()), "point", kind, "--value", str(value), *shared]
            points.append({name: one for line in lines for name, one in run([*own, *line]).items()})
            print(f"{value} {growth.axis}: {shown(growth, points[-1])}", flush=True)
    record = new_record(
        f"growth-{kind}",
        model=arguments.model,
        dtype=arguments.dtype,
        repeats=arguments.repeats,
        versions={"burnish": version("burnish")},
        commands=[measure_command(kind, arguments)],
        points=points,
    )
    path = save(result_name(kind, arguments.model, arguments.dtype), record, arguments.results)
    print(f"wrote {path}\n\n{render(record)}")


def measure_command(kind: str, arguments: argparse.Namespace) -> str:
    """What gives this result again; without what does not matter to it."""
    words = [f"python benchmarks/growth.py measure {kind}"]
    if kind not in ("startup", "vocabulary"):
        words.append(f"--model {arguments.model} --dtype {arguments.dtype}")
    if kind not in ("startup", *MEMORY):
        words.append(f"--repeats {arguments.repeats}")
    if arguments.values and kind != "startup":
        words.append(f"--values {' '.join(map(str, arguments.values))}")
    return " ".join(words)


def result_name(kind: str, model: str, dtype: str) -> str:
    """Of its file; start-up and the head alone have no model."""
    of = [] if kind in ("startup", "vocabulary") else [Path(model).name, dtype]
    return "-".join(["growth", kind, *of])


def shown(growth: Growth, found: dict[str, Any]) -> str:
    """`1.20 prompt shared, 2.30 a row a response`."""
    return ", ".join(f"{found[key]:.2f} {name}" for key, name in growth.lines.items())


def _starts() -> dict[str, float]:
    """Median seconds of the command and of Python alone, in turn."""
    programs = {"help": [sys.executable, "-c", START, "--help"], "python": [sys.executable, "-c", "pass"]}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(STARTS + 1):
        for name, command in programs.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def render(record: Record) -> str:
    """The section of RESULTS.md."""
    kind = record["stage"].removeprefix("growth-")
    growth, points = GROWTHS[kind], record["points"]
    keys = list(growth.lines)
    header = [growth.axis or growth.unit, *(f"{growth.lines[key]}" for key in keys)]
    rows = [[f"{one['value']:,}" if "value" in one else "", *(f"{one[key]:.2f}" for key in keys)] for one in points]
    model = "" if kind in ("startup", "vocabulary") else f" {record['model']}, {record['dtype']}."
    software = [f"{points[0]['threads']} threads", f"torch {points[0]['torch']}"] if "threads" in points[0] else []
    software += [f"{name} {number}" for name, number in record["versions"].items()]
    said = f"{growth.said}{model} The table's numbers are {growth.unit}."
    about = f"Machine: {record['machine']}; {', '.join(software)}. {record['date']}."
    title = f"{growth.title}: {record['model']}, {record['dtype']}" if model else growth.title
    return section(title, [about, said, table(header, rows), commands(record), record["notes"]])


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "point"))
    parser.add_argument("kind", choices=tuple(GROWTHS))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes, after one that warms up")
    parser.add_argument("--values", type=int, nargs="+", help="measure: other points than the usual ones")
    parser.add_argument("--value", type=int, help="point: where")
    parser.add_argument(
        "--line", choices=[line for kind in MEMORY for line in GROWTHS[kind].lines], help="point: the way"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="measure: where the result goes")
    arguments = parser.parse_args()
    if arguments.action == "measure":
        measure(arguments.kind, arguments)
    elif arguments.value is None or arguments.kind == "startup":
        parser.error("point needs --value, and startup has no points")
    elif arguments.kind in MEMORY and arguments.line is None:
        parser.error(f"point {arguments.kind} needs --line")
    else:
        print(json.dumps(point(arguments.kind, arguments.value, arguments)))


if __name__ == "__main__":
    main()
