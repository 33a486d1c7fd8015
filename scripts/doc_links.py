"""Keep what README and docs/ show of the source right: the lines of links to definitions, and quoted code.

A link [`name`](path/file.py#L12) gets the line where `name` (or `Class.method`) is defined now. A block of Python below
`<!-- code: path/file.py name ... -->` gets the definitions of those names, long docstrings left out. Paths count from
the page. Run it when tests/test_docs.py says that a page is out of date.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[`([\w.]+)`\]\(([\w/.]+\.py)#L\d+\)")
QUOTE = re.compile(r"(<!-- code: (\S+\.py)((?: [\w.]+)+) -->\n```python\n).*?(^```$)", flags=re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def updated(page: Path) -> str:
    """The page's text with the present lines and code.

    Raises:
        SystemExit: a file or a name in it does not exist.
    """

    def link(match: re.Match[str]) -> str:
        name, path = match[1], match[2]
        return f"[`{name}`]({path}#L{_definition(page.parent / path, name).lineno})"

    def quote(match: re.Match[str]) -> str:
        blocks = [_code(page.parent / match[2], name) for name in match[3].split()]
        return match[1] + "\n\n\n".join(blocks) + "\n" + match[4]

    return QUOTE.sub(quote, LINK.sub(link, page.read_text(encoding="utf-8")))


def _definition(path: Path, name: str) -> ast.ClassDef | ast.FunctionDef:
    if not path.is_file():
        raise SystemExit(f"there is no {path}")
    found: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        inner = [n for n in ast.iter_child_nodes(found) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        found = next((node for node in inner if node.name == part), found)
        if getattr(found, "name", None) != part:
            raise SystemExit(f"{path} defines no {name}")
    assert isinstance(found, ast.ClassDef | ast.FunctionDef)
    return found


def _code(path: Path, name: str) -> str:
    """The source of a definition without its decorators, and without docstrings of more than a line."""
    node, lines = _definition(path, name), path.read_text(encoding="utf-8").splitlines()
    long: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner) is not None:
            first, last = inner.body[0].lineno, inner.body[0].end_lineno or 0
            if last > first:
                blank_after = last < len(lines) and not lines[last].strip()
                long |= set(range(first, last + 1 + blank_after))
    kept = [lines[i - 1] for i in range(node.lineno, (node.end_lineno or 0) + 1) if i not in long]
    indent = len(kept[0]) - len(kept[0].lstrip())
    return "\n".join(line[indent:] for line in kept)


if __name__ == "__main__":
    for page in pages():
        page.write_text(updated(page), encoding="utf-8")
