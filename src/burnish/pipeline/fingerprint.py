"""What a result depends on, as hashes: the content of data and models, and the code that computes.

Content decides, not names and dates, so a file that moved or was merely touched changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish.data.formats import data_suffix
from burnish.models.catalog import CONVERSION, catalog_entry
from burnish.models.loading import ModelSource, resolve_model

_STARTER = "starter/"
_BLOCK = 1 << 22
# Larger files (weights) are known by size, date and head: reading gigabytes at every start would take minutes.
_READ_WHOLE = 64 << 20
_HEAD = 1 << 20
# Only shown, or never reached while a number is computed: these may change without making a result stale.
_DISPLAY_ONLY = {
    "burnish",
    "burnish.errors",
    "burnish.files",
    "burnish.data.show",
    "burnish.stages.progress",
    "burnish.stages.trackers",
}
_LIBRARIES = ("torch", "transformers", "tokenizers")


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of a plain value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Hash of a file's content; of a very large one its size, date and first MiB."""
    hasher = hashlib.sha256()
    status = path.stat()
    with path.open("rb") as stream:
        if status.st_size > _READ_WHOLE:
            hasher.update(f"{status.st_size}:{status.st_mtime_ns}".encode())
            hasher.update(stream.read(_HEAD))
        else:
            while block := stream.read(_BLOCK):
                hasher.update(block)
    return hasher.hexdigest()


def data_fingerprint(data: str) -> str:
    """Hash of a data set's content; of one on the hub its id.

    Args:
        data: a file, a directory, `starter/NAME` or a hub id, as `load_examples` takes them.
    """
    path = Path(data).expanduser()
    if data.startswith(_STARTER) and not path.exists():
        name = data.removeprefix(_STARTER) + ".jsonl"
        item = resources.files("burnish.starter") / name
        return hashlib.sha256(item.read_bytes()).hexdigest() if item.is_file() else digest(["unknown", data])
    if path.is_dir():
        return _files_fingerprint(path, (file for file in path.rglob("*") if data_suffix(file)))
    if path.is_file():
        return file_fingerprint(path)
    return digest(["hub", data])


def model_fingerprint(model: str) -> str:
    """Hash of a model's content: of the catalog's file, of a directory's files; of one on the hub its id and revision.

    Raises:
        ModelError: when there is no such model.
    """
    return _source_fingerprint(resolve_model(model))


def _source_fingerprint(source: ModelSource) -> str:
    if source.kind == "catalog":
        return digest(["catalog", catalog_entry(source.id).sha256, CONVERSION])
    if source.path is None:
        return digest(["hub", source.id, source.revision])
    own = _files_fingerprint(source.path, source.path.iterdir())
    return own if source.base is None else digest([own, _source_fingerprint(source.base)])


def _files_fingerprint(directory: Path, files: Iterable[Path]) -> str:
    chosen = sorted(file for file in files if file.is_file() and not file.name.startswith("."))
    return digest([[str(file.relative_to(directory)), file_fingerprint(file)] for file in chosen])


# ---- code ----


@cache
def code_fingerprint(entry: str) -> str:
    """Hash of the code behind a function: burnish's version, the libraries', and the modules that it reaches.

    These are the modules of burnish that the function's module imports, directly or not, wherever in them the import
    stands. Left out is what is only shown (progress, trackers, messages), and of each module its comments and
    docstrings. So a new loss makes DPO run again and not SFT, and a mended spelling nothing.

    Args:
        entry: `package.module:function`.
    """
    modules = reached_modules(entry.partition(":")[0])
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return digest([__version__, libraries, {name: _module_fingerprint(name) for name in modules}])


def reached_modules(module: str) -> list[str]:
    """The modules of burnish that `module` imports, directly or not, itself included; sorted."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in _DISPLAY_ONLY or (tree := _tree(name)) is None:
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
