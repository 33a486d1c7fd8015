"""What the time of a training step goes into, by kind of operation.

    python benchmarks/shares.py                                          DPO of the starter's pairs
    python benchmarks/shares.py --stage sft --model smollm2-135m-instruct --data pairs.jsonl --setting max_length=512

One step warms up, the next ones are watched by torch.profiler, which itself takes a few per cent. Shares are of the
time within operators; what Python takes between them is the rest of the step.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from common.sides import replace
from step import common_settings, settings_of, stage_of, stage_parser

LOW_RANK, WEIGHTS, ATTENTION = "products of rank r", "other products", "attention"
ELEMENT, COPY, OTHER = "element by element", "copies: cat, contiguous, zeros", "others"
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"}
ELEMENTWISE = {
    "aten::mul", "aten::mul_", "aten::add", "aten::add_", "aten::sub", "aten::sub_", "aten::div", "aten::div_",
    "aten::silu", "aten::silu_backward", "aten::gelu", "aten::gelu_backward", "aten::exp", "aten::exp_", "aten::neg",
    "aten::rsqrt", "aten::where", "aten::gt", "aten::lt", "aten::ge",
}  # fmt: skip
COPIES = {"aten::cat", "aten::copy_", "aten::fill_", "aten::zero_", "aten::index", "aten::index_select", "aten::clone"}


def kind_of(name: str, shapes: list[Any], rank: int) -> str:
    """The kind of one operator's time of its own.

    Args:
        name: as torch's profiler has it, `aten::mm`.
        shapes: of its tensors; of what is no tensor, an empty list.
        rank: of LoRA: a product that has it as one of its sizes is one of rank r.
    """
    if name in PRODUCTS:
        return LOW_RANK if any(rank in shape for shape in shapes) else WEIGHTS
    if "scaled_dot_product" in name:
        return ATTENTION
    if name in ELEMENTWISE:
        return ELEMENT
    return COPY if name in COPIES else OTHER


def watched(stage: str, settings: dict[str, Any], steps: int, rank: int) -> tuple[dict[str, float], float]:
    """(kind -> seconds, wall-clock seconds) of the steps after the first."""
    from torch.profiler import ProfilerActivity, profile

    from burnish.stages.loop import TrainingLoop

    config, train = stage_of(stage)
    profiler, usual = profile(activities=[ProfilerActivity.CPU], record_shapes=True), TrainingLoop.__iter__
    clock: list[float] = []

    def steps_of(loop: TrainingLoop) -> Iterator[Any]:
        for number, step in enumerate(usual(loop)):
            if number == 1:
                profiler.start()
                clock.append(time.perf_counter())
            yield step
        clock.append(time.perf_counter())
        profiler.stop()

    replace(TrainingLoop, "__iter__", steps_of)
    with tempfile.TemporaryDirectory() as folder:
        values = {"out": f"{folder}/run", "validation": 0.0, "max_steps": steps + 1, **settings}
        train(config.parse(values), console=Console(quiet=True))
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        seconds[kind_of(event.key, event.input_shapes, rank)] += event.self_cpu_time_total / 1e6
    return dict(seconds), clock[1] - clock[0]


def main() -> None:
    """Measure and print."""
    parser = stage_parser(__doc__, stage="dpo", model="smollm2-135m-instruct", batch_size=8, steps=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    settings = settings_of(common_settings(arguments), f"dtype={arguments.dtype} lora.rank={arguments.rank}")
    seconds, wall = watched(arguments.stage, settings, arguments.steps, arguments.rank)
    table = Table("kind", "seconds a step", "share", title=f"{arguments.stage}, {arguments.model}, {arguments.dtype}")
    for kind, value in sorted(seconds.items(), key=lambda one: -one[1]):
        table.add_row(kind, f"{value / arguments.steps:.2f}", f"{value / sum(seconds.values()):.1%}")
    table.add_row("the step, by the clock", f"{wall / arguments.steps:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
