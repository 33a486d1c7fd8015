"""RESULTS.md and its figures, made of everything in results/.

    python benchmarks/report.py

A part that has not been measured says so, with the command that measures it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import decoding
import gpu
import growth
import layers
import ppo
import sampling
import train
import train_section
from common import figures
from common.results import BENCHMARKS, RESULTS, Record, load_all, section
from common.rounds import ratios

TITLES = {
    "sft": "SFT beside TRL",
    "reward": "Reward model beside TRL",
    "dpo": "DPO beside TRL",
    "ppo": "PPO beside TRL",
    "sampling": "Sampling beside generate and vLLM",
    "decoding": decoding.TITLE,
    **{f"growth-{kind}": one.title for kind, one in growth.GROWTHS.items()},
    "layers": layers.TITLE,
    "gpu": gpu.TITLE,
}
"""Stage -> the section's title while it has not been measured; in the order of RESULTS.md."""
RENDER: dict[str, Callable[[Record], str]] = {
    **dict.fromkeys(train.STAGES, train_section.render),
    "ppo": ppo.render,
    "sampling": sampling.render,
    "decoding": decoding.render,
    **{f"growth-{kind}": growth.render for kind in growth.GROWTHS},
    "layers": layers.render,
}
HEAD = """\
# Results of the benchmarks

Each side runs in a process and a virtual environment of its own, in turn with the other, on the same model, data,
batch, LoRA targets and dtype; each comparison stops where the two did not do the same work. `make bench-all` runs all
of it, `make bench STAGES="dpo sampling"` a part, and `python benchmarks/report.py` writes this page from results/.
Absolute numbers are of the machine and of the moment: compare the ratios.
"""
SHORT = {"smollm2-135m-instruct": "SmolLM2-135M", "gemma-3-270m": "Gemma 3 270M"}


def page(records: Sequence[Record], pictures: Sequence[str] = ()) -> str:
    """RESULTS.md.

    Args:
        records: all results.
        pictures: the figures' file names, in figures/.
    """
    parts = [HEAD, *(f"![{Path(name).stem}](figures/{name})\n" for name in pictures)]
    for stage, title in TITLES.items():
        found = [record for record in records if record["stage"] == stage]
        part = stage.partition("-")[0]
        if stage == "gpu":
            parts.append(gpu.render(found) if found else section(title, [gpu.NOT_MEASURED]))
            continue
        missing = section(title, [f"Not yet measured: `make bench STAGES={part}`."])
        parts += [RENDER[stage](record) for record in found] or [missing]
    return "\n".join(parts)


def comparisons(records: Sequence[Record]) -> list[tuple[str, float, float]]:
    """(what, times faster than the peer, share of its memory) of everything that was held against a peer."""
    compared = [record for stage in TITLES for record in records if record["stage"] == stage and "runs" in record]
    return [
        (f"{label}{extra}", fast, share)
        for label, record in zip(_labels(compared), compared, strict=True)
        for extra, fast, share in _ratios(record)
    ]


def _short(record: Record) -> str:
    setting, runs = record["setting"], record["runs"]
    model = SHORT.get(setting["model"], Path(setting["model"]).name)
    names = {"sft": "SFT", "reward": "reward model", "dpo": "DPO", "ppo": "PPO", "sampling": "sampling"}
    dtype = next(iter(runs.values()))[0]["dtype"]
    layers = setting.get("layers", "all")
    upper = "" if layers == "all" else f", LoRA in the {layers.replace('-', ' ')} layers"
    return f"{names[record['stage']]}, {model}, {dtype}{upper}"


FEATURES: tuple[Callable[[Record], str], ...] = (
    lambda record: str(record["setting"]["data"]),
    lambda record: str(record["machine"].partition(",")[0]),
)
"""What tells records of one stage, model, dtype and layers apart."""


def _labels(records: Sequence[Record]) -> list[str]:
    """A name for each record that no other one has: with all features in which those of its kind differ, or a date."""
    labels = []
    for record in records:
        alike = [other for other in records if _short(other) == _short(record)]
        parts = [of(record) for of in FEATURES if len({of(other) for other in alike}) > 1]
        labels.append(", ".join([_short(record), *parts]))
    return [
        f"{label}, {record['date']}" if labels.count(label) > 1 else label
        for label, record in zip(labels, records, strict=True)
    ]


def _ratios(record: Record) -> list[tuple[str, float, float]]:
    runs, key = record["runs"], {"ppo": "seconds_per_update", "sampling": "seconds_per_call"}
    seconds = key.get(record["stage"], "seconds_per_step")
    pairs = [("", "trl", "burnish"), (", reference beforehand", "trl-beforehand", "burnish-beforehand")]
    pairs += [(", TRL with checkpointing", train_section.CHECKPOINTED, "burnish")]
    if record["stage"] == "sampling":
        pairs = [(", generate", "transformers", "burnish"), (", vLLM", "vllm", "burnish")]
    return [
        (extra, ratios(runs[peer], runs[own], seconds)[0], ratios(runs[own], runs[peer], "peak_rss_bytes")[0])
        for extra, peer, own in pairs
        if peer in runs and own in runs
    ]


def panels(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What `draw_growth` draws: one panel for each growth that has points."""
    found = []
    for kind, one in growth.GROWTHS.items():
        for record in records:
            if record["stage"] == f"growth-{kind}" and one.values:
                lines = {name: [(p["value"], p[key]) for p in record["points"]] for key, name in one.lines.items()}
                found.append({"title": one.title, "x": one.axis, "y": one.unit, "lines": lines})
    return found


def draw(records: Sequence[Record], directory: Path) -> list[str]:
    """Draw the figures for which there are results; their file names."""
    drawn = []
    if compared := comparisons(records):
        labels, faster, memory = zip(*compared, strict=True)
        drawn.append(figures.draw_ratios(labels, faster, memory, directory / "peers.png").name)
    if growing := panels(records):
        drawn.append(figures.draw_growth(growing, directory / "growth.png").name)
    return drawn


def main() -> None:
    """Write the page and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results lie")
    parser.add_argument("--out", type=Path, default=BENCHMARKS, metavar="DIR", help="where RESULTS.md goes")
    arguments = parser.parse_args()
    records = load_all(arguments.results)
    directory = arguments.out / "figures"
    if figures.available():
        pictures = draw(records, directory)
    else:
        print("no figure is drawn: matplotlib is not installed (make bench installs it)")
        pictures = sorted((path.name for path in directory.glob("*.png")), reverse=True)
    path = arguments.out / "RESULTS.md"
    path.write_text(page(records, pictures), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
