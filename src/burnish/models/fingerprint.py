"""The content of data and models as hashes: what tells whether an input is still what it was.

Content decides, not names and dates, so a file that moved or was merely touched changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from burnish.data.formats import data_suffix
from burnish.models.catalog import CONVERSION, catalog_entry
from burnish.models.loading import ModelSource, resolve_model

_STARTER = "starter/"
_BLOCK = 1 << 22
# Larger files (weights) are known by size, date and head: reading gigabytes at every start would take minutes.
_READ_WHOLE = 64 << 20
_HEAD = 1 << 20
_WRITTEN = {"recipe.json", "run.json", "report.json", "sweep.json"}
"""A directory that burnish writes holds one of these."""


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
    own = directory_fingerprint(source.path)
    return own if source.base is None else digest([own, _source_fingerprint(source.base)])


def directory_fingerprint(directory: Path) -> str:
    """Hash of the files that lie in a directory (not below it)."""
    return _files_fingerprint(directory, directory.iterdir())


def tree_fingerprint(directory: Path) -> str:
    """Hash of the files that lie in a directory and below it: code, settings, and whatever these may read.

    Left out is what changes by itself: hidden directories, what Python compiles, and in directories below that burnish
    writes (of recipes, runs, reports and sweeps) all but `.py` and `.yaml` files.
    """
    return _files_fingerprint(directory, _tree(directory))


def _tree(directory: Path) -> Iterator[Path]:
    written: set[Path] = set()
    for name, below, files in os.walk(directory):
        place = Path(name)
        below[:] = [child for child in below if not child.startswith(".") and child != "__pycache__"]
        if place.parent in written or (place != directory and _WRITTEN.intersection(files)):
            written.add(place)
        yield from (place / file for file in files if place not in written or file.endswith((".py", ".yaml")))


def _files_fingerprint(directory: Path, files: Iterable[Path]) -> str:
    chosen = sorted(file for file in files if file.is_file() and not file.name.startswith("."))
    return digest([[str(file.relative_to(directory)), file_fingerprint(file)] for file in chosen])
