"""What README and docs/ promise exists: the lines they link to, the files of the tree, the commands they show."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDED_BY_THE_SITE = {"docs/algorithms.md"}
"""Pages that `make docs` makes of a section of README."""


def found(pattern: str) -> list[tuple[Path, tuple[str, ...]]]:
    """The page and the groups of every match."""
    return [(page, m.groups()) for page in PAGES for m in re.finditer(pattern, page.read_text(encoding="utf-8"))]


REFERENCE = [groups[0] for _, groups in found(r"(?m)^::: ([\w.]+)$")]
"""What the reference of public names is made of."""
LINE_LINKS = [(page, *groups) for page, groups in found(r"\[`([\w.]+)`\]\(([\w/.]+)#L(\d+)\)")]
FILE_LINKS = [(page, groups[0]) for page, groups in found(r"\]\(((?!http)[\w/.-]+)(?:#[\w-]+)?\)")]


def test_there_are_links_to_lines() -> None:
    of_readme = {name for page, name, _, _ in LINE_LINKS if page.name == "README.md"}
    assert of_readme >= {"sft_loss", "sigmoid", "ipo", "train_sft", "train_dpo", "LoRALinear"}
    assert len(LINE_LINKS) > 60


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_names_what_is_defined_there(name: str) -> None:
    """mkdocstrings reads the module's text, so a name that is only imported there is not found."""
    module, _, own = name.rpartition(".")
    assert getattr(importlib.import_module(module), own).__module__ == module


@pytest.mark.parametrize(("page", "name", "path", "line"), LINE_LINKS)
def test_linked_lines_define_what_they_name(page: Path, name: str, path: str, line: str) -> None:
    text = (page.parent / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf" *(def|class) {name.rpartition('.')[2]}\b", text), f"{page}: {path}:{line} is {text!r}"


@pytest.mark.parametrize(("page", "path"), FILE_LINKS)
def test_linked_files_exist(page: Path, path: str) -> None:
    target = (page.parent / path).resolve()
    assert target.exists() or str(target.relative_to(ROOT)) in ADDED_BY_THE_SITE


def test_quoted_code_and_lines_are_those_of_the_source() -> None:
    spec = importlib.util.spec_from_file_location("doc_links", ROOT / "scripts" / "doc_links.py")
    assert spec is not None
    assert spec.loader is not None
    doc_links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doc_links)
    assert doc_links.pages() == PAGES
    for page in PAGES:
        assert doc_links.updated(page) == page.read_text(encoding="utf-8"), f"{page}: run scripts/doc_links.py"


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


def test_outputs_quoted_from_the_readme_are_in_it() -> None:
    quotes = found(r"<!-- from: \.\./\.\./README\.md -->\n```text\n((?:.*\n)*?)```")
    assert len(quotes) >= 2
    for page, (text,) in quotes:
        assert text in README, f"{page} quotes what README no longer says:\n{text}"


def test_commands_of_the_docs_parse() -> None:
    from burnish.cli.main import make_app

    app, commands = make_app(), []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"^```(?:console|text)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            shown = re.findall(r"^(?:\$ )?(burnish (?:.*\\\n)*.*)$", block, flags=re.MULTILINE)
            commands += [c for c in shown if " | " not in c.split(" --")[0] and "..." not in c]
    assert len(commands) >= 20
    for command in commands:
        words = shlex.split(re.split(r" 2>&1| && ", command.replace("\\\n", " "))[0])
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_every_public_name_is_in_the_reference() -> None:
    import burnish

    listed = set(re.findall(r"^::: [\w.]+\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE))
    assert listed - {"TrainConfig", "AlarmLimits"} == set(burnish.__all__) - {"__version__"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r"([\w/-]+\.md)$", navigation, flags=re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert pages <= set(named), f"add to mkdocs.yml: {sorted(pages - set(named))}"
    assert len(named) == len(set(named))


def test_every_page_of_the_guide_is_run_in_its_order() -> None:
    navigation = re.findall(r"guide/([\w-]+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    script = (ROOT / "scripts" / "guide_outputs.py").read_text(encoding="utf-8")
    order = re.findall(r'"([\w-]+)"', re.search(r"^ORDER = \((.*)\)$", script, flags=re.MULTILINE)[1])
    assert navigation == ["index", *order]
