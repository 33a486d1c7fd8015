"""`burnish models` and `burnish version`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import TYPE_CHECKING

from burnish import __version__
from burnish.cli.console import field_line, results

if TYPE_CHECKING:
    from burnish.models.catalog import CatalogEntry

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "pydantic")


def models() -> None:
    """List the models that come as packages: licence, whether the package is installed, whether it is in the cache."""
    from rich.text import Text

    from burnish.models.catalog import CATALOG, cache_dir

    console = results()
    for entry in CATALOG.values():
        console.print(Text(entry.name, style="bold"))
        console.print(f"  {entry.description}")
        console.print(field_line("  licence", entry.licence))
        console.print(field_line("  package", f"{entry.package}, {_installed(entry)}"))
        console.print(field_line("  cache", _cached(entry)))
    console.print(f"\nThe cache is {cache_dir()} (set BURNISH_CACHE to move it).", soft_wrap=True)
    console.print("Any Hugging Face directory or hub id of a decoder-only model with safetensors works as well.")


def version() -> None:
    """Show the versions of burnish and of what it stands on."""
    console = results()
    console.print(field_line("burnish", __version__))
    console.print(field_line("python", platform.python_version()))
    for name in _LIBRARIES:
        try:
            console.print(field_line(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            console.print(field_line(name, "not installed"))


def _installed(entry: CatalogEntry) -> str:
    if all(part.locate() is not None for part in entry.parts):
        return "installed"
    return f"not installed: {entry.install}"


def _cached(entry: CatalogEntry) -> str:
    """What is in the cache, by the manifest that is written last."""
    from burnish.models.catalog import MANIFEST, cache_dir

    directory = cache_dir() / "models" / entry.name
    try:
        sizes = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        return f"{sum(sizes.values()) / 1e6:.0f} MB in {directory}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "not yet: made ready once, at its first use"
