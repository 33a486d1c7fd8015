"""Sides that run in turn, A B A B, each in a process of its own.

A side is a command whose last line of output is JSON. What the side can't know is added here: the load of the machine
before it began, and the most memory that its process held resident.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Found = dict[str, list[Result]]
"""Side -> its results, one a round."""

SHOWN = 4000
"""Characters of a failed side's messages that are repeated."""


def run(command: Sequence[str]) -> Result:
    """Run a command to its end, and take the JSON of its last line.

    Returns:
        That, with `load` (the machine's average over the minute before) and `peak_rss_bytes` (of the process).

    Raises:
        SystemExit: the command can't be started or fails, with the end of what it said.
    """
    load = os.getloadavg()[0]
    # The hub is out of the question: what both sides read is in the work directory.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(command, stdout=out, stderr=messages, env=environment)
        except OSError as error:
            raise SystemExit(
                f"{command[0]} can't be started: {error.strerror}\n  to do: make bench installs it"
            ) from None
        # Of this child alone. A child is charged with what its parent held when it was started, so whoever calls this
        # should not have loaded torch.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, messages):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", errors="replace"))
    lines = texts[0].strip().splitlines()
    if process.returncode or not lines or not lines[-1].startswith("{"):
        why = f"failed ({process.returncode})" if process.returncode else "printed no result"
        raise SystemExit(f"{' '.join(command)} {why}:\n{(texts[1] or texts[0])[-SHOWN:]}")
    return {**json.loads(lines[-1]), "load": load, "peak_rss_bytes": usage.ru_maxrss * 1024}  # KiB on Linux


def alternate(
    sides: Mapping[str, Sequence[str]],
    rounds: int,
    *,
    problems: Callable[[Found], list[str]],
    line: Callable[[Result], str],
    optional: Collection[str] = (),
) -> Found:
    """Run all sides in turn, so many times over.

    Args:
        sides: name -> command, in the order in which they run.
        rounds: how often.
        problems: what the sides did not do alike, judged after every run of the results so far.
        line: what to print of a result.
        optional: sides that are left out, with the reason printed, when they fail the first time.

    Raises:
        SystemExit: the work is not the same, or a side fails.
    """
    found: Found = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(found):
            try:
                result = run(sides[name])
            except SystemExit as failure:
                if name not in optional or found[name]:
                    raise
                print(f"{name} is left out: {failure}", flush=True)
                del found[name]
                continue
            found[name].append(result)
            memory, load = result["peak_rss_bytes"] / 1e9, result["load"]
            print(f"round {number + 1}, {name}: {line(result)}, {memory:.2f} GB, load before {load:.2f}", flush=True)
            if wrong := problems(found):
                raise SystemExit("the work is not the same:\n  " + "\n  ".join(wrong))
    return found


def fastest(commands: Mapping[str, Sequence[str]], key: str) -> dict[str, float]:
    """Run each command once: its name -> the seconds under `key` of its result, the fastest first.

    Those that fail, as where memory does not suffice, are left out with the reason printed.

    Raises:
        SystemExit: all fail.
    """
    found = {}
    for name, command in commands.items():
        try:
            found[name] = float(run(command)[key])
        except SystemExit as failure:
            print(f"{name} is left out: {failure}", flush=True)
    if not found:
        raise SystemExit("none of these runs: " + ", ".join(commands))
    return dict(sorted(found.items(), key=lambda one: one[1]))


def medians(results: Sequence[Result], *keys: str) -> tuple[float, ...]:
    """The median over the rounds of each named number."""
    return tuple(statistics.median(result[key] for result in results) for key in keys)


def ratios(over: Sequence[Result], under: Sequence[Result], key: str) -> tuple[float, float, float]:
    """(ratio of the medians, lowest, highest ratio of a round) of a number of two sides."""
    each = [a[key] / b[key] for a, b in zip(over, under, strict=True)]
    return medians(over, key)[0] / medians(under, key)[0], min(each), max(each)


def loads(found: Found) -> tuple[float, float]:
    """(lowest, highest) load of the machine before a run."""
    every = [result["load"] for results in found.values() for result in results]
    return min(every), max(every)


def peer_script(name: str) -> str:
    """The path of a peer's side."""
    return str(Path(__file__).resolve().parents[1] / "peers" / name)
