"""The catalog's cache: made once, by one process, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from burnish.errors import ModelError
from burnish.models import catalog
from burnish.models.catalog import CATALOG, CatalogEntry, cache_dir, materialise, prepare

PARTS = (b"GGUF first part ", b"and the second")
SCRIPT = """
import sys, time
from pathlib import Path
import test_entry
from burnish.models.catalog import prepare

def convert(source, target):
    (target / "model.safetensors").write_bytes(b"half")
    print("halfway", flush=True)
    time.sleep(float(sys.argv[1]))
    (target / "model.safetensors").write_bytes(source.read_bytes())
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")

print(prepare(test_entry.ENTRY, convert, echo=lambda line: print(line, flush=True)), flush=True)
"""
ENTRY_MODULE = """
from burnish.models.catalog import CatalogEntry, PackageFile
from burnish.models.gguf import ModelFacts
FACTS = ModelFacts(config={{}}, special_tokens={{}}, eos_token="e", adds_bos=True, n_parameters=10, context_length=8,
                   tied=True)
ENTRY = CatalogEntry(name="stand-in", package="stand-in-gguf", install="pip install stand-in-gguf", description="d",
    licence="L", licence_notice="Use it well.", sha256="{sha256}",
    parts=(PackageFile("stand-in-gguf", "stand_in/a.part0"), PackageFile("stand-in-gguf", "stand_in/a.part1")),
    licence_files=(PackageFile("stand-in-gguf", "stand_in/TERMS.txt"),), facts=FACTS)
"""


@dataclass
class StandIn:
    """A small catalog model: an installed package with a file in two parts, and an empty cache."""

    entry: CatalogEntry
    site: Path
    cache: Path

    @property
    def target(self) -> Path:
        return self.cache / "models" / "stand-in"

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir() if ".tmp-" in path.name)

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """A process that converts and takes `seconds` half-way through."""
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(self.site), *sys.path]))
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(seconds), str(self.site / "log")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    site, cache = tmp_path / "site", tmp_path / "cache"
    (site / "stand_in").mkdir(parents=True)
    for number, content in enumerate(PARTS):
        (site / "stand_in" / f"a.part{number}").write_bytes(content)
    (site / "stand_in" / "TERMS.txt").write_text("terms")
    # importing the package must not be needed
    (site / "stand_in" / "__init__.py").write_text("raise ImportError('imported')")
    information = site / "stand_in_gguf-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in-gguf\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("BURNISH_CACHE", str(cache))
    sha256 = hashlib.sha256(b"".join(PARTS)).hexdigest()
    (site / "test_entry.py").write_text(ENTRY_MODULE.format(sha256=sha256))
    entry = runpy.run_path(str(site / "test_entry.py"))["ENTRY"]
    return StandIn(entry, site, cache)


def copy_source(source: Path, target: Path) -> None:
    """A conversion: the weights are the source's bytes."""
    (target / "model.safetensors").write_bytes(source.read_bytes())


def never(source: Path, target: Path) -> None:
    raise AssertionError("converted again")


def failing(error: BaseException) -> Callable[[Path, Path], None]:
    """A conversion that writes something and then fails."""

    def convert(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise error

    return convert


def test_the_parts_are_joined_in_order_and_the_directory_holds_what_belongs_to_the_model(stand_in: StandIn) -> None:
    lines: list[str] = []
    path = prepare(stand_in.entry, copy_source, echo=lines.append)
    assert path == stand_in.target
    assert (path / "model.safetensors").read_bytes() == b"GGUF first part and the second"
    assert (path / "NOTICE").read_text() == "Use it well.\n"
    assert (path / "TERMS.txt").read_text() == "terms"
    assert lines.count("Use it well.") == 1
    assert stand_in.leftovers() == []
    assert path.stat().st_mode & 0o777 == 0o755
    assert (path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_second_call_finds_it_says_nothing_and_needs_no_package(stand_in: StandIn) -> None:
    prepare(stand_in.entry, copy_source, echo=lambda line: None)
    shutil.rmtree(stand_in.site / "stand_in_gguf-1.0.dist-info")
    lines: list[str] = []
    assert prepare(stand_in.entry, never, echo=lines.append) == stand_in.target
    assert lines == []


@pytest.mark.parametrize("harm", ["truncate", "delete", "manifest", "older"])
def test_a_directory_that_is_damaged_or_of_an_older_conversion_is_made_anew(stand_in: StandIn, harm: str) -> None:
    path = prepare(stand_in.entry, copy_source, echo=lambda line: None)
    manifest = path / catalog.MANIFEST
    if harm == "truncate":
        (path / "model.safetensors").write_bytes(b"GGUF")
    elif harm == "delete":
        (path / "NOTICE").unlink()
    elif harm == "manifest":
        manifest.write_text('{"sha256"')
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"conversion": 0}))
    (path / "extra").write_text("old")
    prepare(stand_in.entry, copy_source, echo=lambda line: None)
    assert (path / "model.safetensors").read_bytes() == b"".join(PARTS)
    assert (path / "NOTICE").is_file()
    assert not (path / "extra").exists()
    assert stand_in.leftovers() == []


def test_a_file_with_another_sha256_is_refused_before_it_is_converted(stand_in: StandIn) -> None:
    (stand_in.site / "stand_in" / "a.part1").write_bytes(b"and the sEcond")
    with pytest.raises(ModelError, match="sha256") as caught:
        prepare(stand_in.entry, never, echo=lambda line: None)
    assert stand_in.entry.sha256 in str(caught.value)
    assert "pip install --force-reinstall stand-in-gguf" in str(caught.value)
    assert not stand_in.target.exists()
    assert stand_in.leftovers() == []


@pytest.mark.parametrize("lost", ["package", "file"])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(stand_in: StandIn, lost: str) -> None:
    if lost == "package":
        shutil.rmtree(stand_in.site / "stand_in_gguf-1.0.dist-info")
    else:
        (stand_in.site / "stand_in" / "a.part1").unlink()
    with pytest.raises(ModelError, match="stand-in is not installed") as caught:
        prepare(stand_in.entry, never)
    assert "a.part1" in str(caught.value)
    assert "to do: pip install stand-in-gguf" in str(caught.value)


def test_a_killed_conversion_leaves_nothing_that_looks_like_a_model_and_the_next_call_cleans_up(
    stand_in: StandIn,
) -> None:
    process = stand_in.start(60)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "halfway":
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not stand_in.target.exists()
    assert len(stand_in.leftovers()) == 1  # half-made, under a name that nothing reads
    prepare(stand_in.entry, copy_source, echo=lambda line: None)
    assert (stand_in.target / "model.safetensors").read_bytes() == b"".join(PARTS)
    assert stand_in.leftovers() == []


def test_of_two_processes_one_converts_and_the_other_waits_for_it(stand_in: StandIn) -> None:
    first = stand_in.start(1.5)
    assert first.stdout is not None
    while first.stdout.readline().strip() != "halfway":
        assert first.poll() is None
    second = stand_in.start(0)
    said, _ = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another process is making it ready" in said
    assert "halfway" not in said
    assert (stand_in.site / "log").read_text() == "made\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_during_the_conversion_is_said_to_be_full(stand_in: StandIn, error: Exception) -> None:
    with pytest.raises(ModelError, match="the disk is full") as caught:
        prepare(stand_in.entry, failing(error), echo=lambda line: None)
    assert "BURNISH_CACHE" in str(caught.value)
    assert not stand_in.target.exists()
    assert stand_in.leftovers() == []


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 60, 40))  # 30 bytes of parts + 22 for 10 weights
    with pytest.raises(ModelError, match="the disk is full") as caught:
        prepare(stand_in.entry, never, echo=lambda line: None)
    assert "needed" in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("not what it should be"), ValueError("odd")])
def test_a_conversion_that_fails_leaves_nothing(stand_in: StandIn, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, ModelError)) as caught:
        prepare(stand_in.entry, failing(error), echo=lambda line: None)
    if isinstance(error, ValueError):
        assert "the conversion of stand-in failed: ValueError: odd" in str(caught.value)
    assert not stand_in.target.exists()
    assert stand_in.leftovers() == []


def test_a_cache_that_can_not_be_written_is_one_clear_error(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "a-file" / "cache"))
    with pytest.raises(ModelError, match="can't be kept in the cache") as caught:
        prepare(stand_in.entry, never, echo=lambda line: None)
    assert "BURNISH_CACHE" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_closest_and_with_all() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'gemma-3-270m'\?") as caught:
        materialise("gemma3-270m")
    assert "smollm2-135m-instruct" in str(caught.value)


def test_the_cache_is_where_the_user_says_or_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("BURNISH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/burnish")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/burnish")


def test_every_entry_says_what_a_user_must_know() -> None:
    assert list(CATALOG) == ["gemma-3-270m", "smollm2-135m-instruct"]
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert len(entry.sha256) == 64
        assert entry.install.startswith("pip install")
        assert entry.description
        assert entry.licence_notice
    assert "ai.google.dev/gemma/terms" in CATALOG["gemma-3-270m"].licence_notice


@pytest.mark.real
@pytest.mark.parametrize("name", list(CATALOG))
def test_the_real_models_are_converted_killed_midway_and_converted_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`materialise` runs every check of the facts: config, rope, windows, special tokens, round trips, the probe."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    script = (
        f"from burnish.models.catalog import materialise; materialise({name!r}, echo=lambda s: print(s, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "unpacking" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(2)
    process.kill()
    process.wait()
    models = tmp_path / "models"
    assert not (models / name).exists()
    directory = materialise(name, echo=lambda line: None)
    assert [path.name for path in models.iterdir() if ".tmp-" in path.name] == []
    assert (directory / "model.safetensors").stat().st_size > 2 * CATALOG[name].facts.n_parameters
    start = time.monotonic()
    assert materialise(name, echo=lambda line: pytest.fail(line)) == directory
    assert time.monotonic() - start < 0.5
    wrong = replace(CATALOG[name], sha256="0" * 64)
    with pytest.raises(ModelError, match="sha256"):
        prepare(wrong, never, echo=lambda line: None)
    assert (directory / "config.json").is_file()  # a refused file does no harm to what is there
