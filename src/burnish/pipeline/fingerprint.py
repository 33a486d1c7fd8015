"""What a result depends on besides its inputs, as a hash: the code that computes it."""

from __future__ import annotations

import ast
import importlib.metadata
from functools import cache
from pathlib import Path

from burnish import __version__
from burnish.models.fingerprint import digest, file_fingerprint

# Only shown, or never reached while a number is computed: these may change without making a result stale.
_DISPLAY_ONLY = {
    "burnish",
    "burnish.errors",
    "burnish.files",
    "burnish.data.show",
    "burnish.stages.progress",
    "burnish.stages.trackers",
}
MONITOR = frozenset({"burnish.stages.monitor"})
"""What a stage without a monitor imports and never runs, and all that only this reaches: the report card's code."""
_LIBRARIES = ("torch", "transformers", "tokenizers")


@cache
def code_fingerprint(entry: str, *, without: frozenset[str] = frozenset()) -> str:
    """Hash of the code behind a function: burnish's version, the libraries', and the modules that it reaches.

    These are the modules of burnish that the function's module imports, directly or not, wherever in them the import
    stands. Left out is what is only shown (progress, trackers, messages), and of each module its comments and
    docstrings. So a new loss makes DPO run again and not SFT, and a mended spelling nothing.

    Args:
        entry: `package.module:function`.
        without: modules that are left out, and what is reached through them alone.
    """
    modules = reached_modules(entry.partition(":")[0], without)
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return digest([__version__, libraries, {name: _module_fingerprint(name) for name in modules}])


def reached_modules(module: str, without: frozenset[str] = frozenset()) -> list[str]:
    """The modules of burnish that `module` imports, directly or not, itself included; sorted. None is reached through
    those of `without`."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in _DISPLAY_ONLY or name in without or (tree := _tree(name)) is None:
            continue
        found.add(name)
        waiting += _imports(tree)
    return sorted(found)


def _imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            # `from package import module` names a module, `from module import name` does not: both are tried.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.partition(".")[0] == "burnish"]


@cache
def _tree(module: str) -> ast.Module | None:
    """The syntax tree of a module of burnish, or none where the name is not that of a module."""
    file = _file(module)
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def _file(module: str) -> Path:
    path = Path(__file__).parent.parent.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _module_fingerprint(module: str) -> str:
    tree = _tree(module)
    assert tree is not None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    page = _file(module).with_suffix(".html")  # a page's template stands beside the module that fills it
    return digest([ast.dump(tree), file_fingerprint(page) if page.is_file() else None])


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, or an attribute's."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
