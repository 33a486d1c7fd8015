"""Put the current line numbers into README's links to definitions. Run it when the test of the links fails."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def current(match: re.Match[str]) -> str:
    """The link with the line where its name is defined now."""
    name, path = match[1], match[2]
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
        if re.match(rf"(def|class) {name}\b", line):
            return f"[`{name}`]({path}#L{number})"
    raise SystemExit(f"{path} defines no {name}")


readme = ROOT / "README.md"
readme.write_text(
    re.sub(r"\[`(\w+)`\]\(([\w/.]+)#L\d+\)", current, readme.read_text(encoding="utf-8")), encoding="utf-8"
)
