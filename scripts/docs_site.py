"""What the documentation's site has beyond the pages of docs/: a hook of MkDocs (mkdocs.yml, `make docs`).

- Pages that stand elsewhere in the repository (README, examples, benchmarks) become pages of the site.
- A link to a file of the repository leads to a page with that file, to the line of `#L12`. So MkDocs sees whether file
  and line exist, which --strict makes an error; that the line is the right one is held by tests/test_docs.py.
- Formulas become MathML here: the built pages need no script for them, and nothing from the network. Few systems have a
  font with the tables of mathematics, without which sums and brackets stay small: STIX Two Math lies beside the pages.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

ROOT = Path(__file__).resolve().parents[1]
BROUGHT_IN = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "src/burnish/starter/README.md": "starter.md",
}
"""Files of the repository -> the pages that they become."""
SECTIONS = {"algorithms.md": ("README.md", "Algorithms")}
"""Pages that are one section of such a file."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(```.*?^```\s*?)$", flags=re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)

OUTSIDE = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(?:https?:)?//[^>]*>')
FONT = "STIXTwoMath-Regular.ttf"
"""SIL Open Font License; carried by the package ziamath, which is not imported."""

log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in the pages from elsewhere, and a page for each file of the repository that any page links to."""
    for path, uri in BROUGHT_IN.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for uri, (path, title) in SECTIONS.items():
        files.append(File.generated(config, uri, content=_section((ROOT / path).read_text(encoding="utf-8"), title)))
    files.append(File.generated(config, f"fonts/{FONT}", abs_src_path=str(_package("ziamath") / "fonts" / FONT)))
    wanted: set[str] = set()
    for file in files.documentation_pages():
        for part in FENCE.split(file.content_string)[::2]:
            wanted |= {_repository_path(file.src_uri, link) for _, link, _ in LINK.findall(part)}
    for path in sorted(wanted - {""}):
        if path in BROUGHT_IN or _in_site(path) or not (ROOT / path).is_file():
            continue
        if path.endswith(".png"):
            files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
        else:
            files.append(File.generated(config, _source_uri(path), content=_source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository, outside of code, at their pages."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda m: m[1] + _rewritten(uri, m[2], files) + m[3], part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        # What TeX puts around the name of a function, MathML has to be told.
        formula = re.sub(r"\\log\b\s*(\(?)", lambda m: r"\,\log" + (m[1] or r"\,"), html.unescape(match[3]).strip())
        return convert(formula, display=display)

    return FORMULA.sub(formula, content)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """A page that would load something from elsewhere is a warning too."""
    for tag in OUTSIDE.findall(output):
        log.warning("%s loads from the network: %s", page.file.src_uri, tag)
    return output


def _origin(uri: str) -> str:
    """Where the text of a page stands in the repository."""
    if uri in SECTIONS:
        return SECTIONS[uri][0]
    return next((path for path, own in BROUGHT_IN.items() if own == uri), f"docs/{uri}")


def _repository_path(uri: str, link: str) -> str:
    """The path in the repository that a link of a page means; empty for a link to elsewhere."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_origin(uri)), path))


def _rewritten(uri: str, link: str, files: Files) -> str:
    path, fragment = _repository_path(uri, link), link.partition("#")[2]
    if not path:
        return link
    if _in_site(path):
        target = path.removeprefix("docs/")
    elif path in BROUGHT_IN:
        target = BROUGHT_IN[path]
    else:
        target = f"source/{path}" if path.endswith(".png") else _source_uri(path)
        if files.get_file_from_path(target) is None:
            log.warning("%s links to %s, which is no file of the repository", _origin(uri), path)
            return link
    if line := re.fullmatch(r"L(\d+)", fragment):
        fragment = f"L-{line[1]}"  # as pygments names lines
    relative = posixpath.relpath(target, posixpath.dirname(uri) or ".")
    return f"{relative}#{fragment}" if fragment else relative


def _in_site(path: str) -> bool:
    """Whether MkDocs itself has the file: all of docs/ but its Python."""
    return path.startswith("docs/") and not path.endswith(".py")


def _source_uri(path: str) -> str:
    return f"source/{path}.md"


def _source_page(path: str) -> str:
    """A file of the repository as a page whose lines can be linked to; not found by the search."""
    text = (ROOT / path).read_text(encoding="utf-8")
    formatter = HtmlFormatter(linespans="L", cssclass="highlight source", wrapcode=True)
    front = f"---\ntitle: {posixpath.basename(path)}\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    return f"{front}\n# `{path}`\n\n{highlight(text, get_lexer_for_filename(path), formatter)}\n"


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise PluginError(f"the package {name} is missing: make docs installs it")
    return Path(spec.origin).parent


def _section(text: str, title: str) -> str:
    """One second-level section of a text, as a page."""
    body = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return f"# {title}\n{body}"
