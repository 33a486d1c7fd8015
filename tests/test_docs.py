"""What README promises exists: the lines it links to, the files of its tree, the commands it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINE_LINKS = re.findall(r"\[`(\w+)`\]\(([\w/.]+)#L(\d+)\)", README)
FILE_LINKS = re.findall(r"\]\(((?!http)[\w/.-]+)\)", README)


def test_there_are_links_to_lines() -> None:
    assert {name for name, _, _ in LINE_LINKS} >= {"sft_loss", "sigmoid", "ipo", "train_sft", "train_dpo", "LoRALinear"}


@pytest.mark.parametrize(("name", "path", "line"), LINE_LINKS)
def test_linked_lines_define_what_they_name(name: str, path: str, line: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"(def|class) {name}\b", text), f"{path}:{line} is {text!r}"


@pytest.mark.parametrize("path", FILE_LINKS)
def test_linked_files_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_loss_is_in_the_table() -> None:
    from burnish.losses.preference import PREFERENCE_LOSSES

    for name, entry in PREFERENCE_LOSSES.items():
        assert f"[`{name}`](src/burnish/losses/preference.py" in README
        assert re.search(r"arXiv:[\d.]+, eq\. \d+", entry.paper)[0] in README


def test_the_tree_has_every_file_and_no_other() -> None:
    tree = README.split("## What is where", 1)[1].split("```")[1]
    root, folder, listed = "", "", set()
    for line in tree.splitlines():
        if match := re.match(r"([\w/]+)/(?: |$)", line):
            root, folder = match[1], ""
        if match := re.match(r"  (?:(\w+)/ |\w+\.py)", line):
            folder = match[1] or ""
        if name := re.match(r"[ \w/]*?\b(\w+\.py) ", line):
            listed.add("/".join(part for part in (root, folder, name[1]) if part))
    files = [path for source in ("src/burnish", "benchmarks") for path in (ROOT / source).rglob("*.py")]
    assert listed == {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}


def test_commands_of_the_readme_exist() -> None:
    from burnish.cli.main import make_app

    known = set(make_app())
    blocks = "\n".join(README.split("```")[1::2])
    commands = re.findall(r"^burnish (\w+)", blocks, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        assert command in known, command
