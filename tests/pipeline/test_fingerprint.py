"""Hashes of what a result depends on: content and code, not names, dates or comments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burnish.models import fingerprint
from burnish.models.fingerprint import data_fingerprint, file_fingerprint, model_fingerprint, tree_fingerprint
from burnish.pipeline import fingerprint as code
from burnish.pipeline.fingerprint import code_fingerprint, reached_modules


def test_files_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("one")
    (tmp_path / "b.jsonl").write_text("one")
    (tmp_path / "c.jsonl").write_text("two")
    os.utime(tmp_path / "b.jsonl", (1, 1))
    hashes = [data_fingerprint(str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_very_large_files_count_by_size_date_and_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_READ_WHOLE", 4)
    path = tmp_path / "w"
    path.write_bytes(b"12345678")
    os.utime(path, (1, 1))
    first = file_fingerprint(path)
    os.utime(path, (2, 2))
    assert file_fingerprint(path) != first
    os.utime(path, (1, 1))
    assert file_fingerprint(path) == first
    path.write_bytes(b"12345679")
    os.utime(path, (1, 1))
    assert file_fingerprint(path) != first


def test_a_directory_counts_by_names_and_content_of_its_data_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("one")
    first = data_fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("not data")
    assert data_fingerprint(str(tmp_path)) == first
    (tmp_path / "more.jsonl").write_text("one")
    assert data_fingerprint(str(tmp_path)) != first


def test_a_tree_counts_but_for_what_changes_by_itself(tmp_path: Path) -> None:
    def change(*names: str) -> bool:
        """Whether files that are written count."""
        before = tree_fingerprint(tmp_path)
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("new")
        return tree_fingerprint(tmp_path) != before

    for name in ("mine.yaml", "set/helpers.py", "set/words.txt", "report.json"):
        assert change(name), name
    assert not change(".git/index", "set/.cache/words.txt", "set/__pycache__/helpers.pyc", ".notes")
    for mark in ("recipe.json", "run.json", "report.json", "sweep.json"):
        assert not change(f"runs/{mark}/{mark}", f"runs/{mark}/sft/more.jsonl", f"runs/{mark}/report.html"), mark
    assert change("runs/run.json/sft/mine.yaml"), "what tasks are made of counts wherever it lies"
    assert change("runs/words.txt")


def test_starter_data_and_hub_data_have_hashes() -> None:
    names = ["starter/sft", "starter/preferences", "starter/nothing", "org/name", "org/other"]
    assert len({data_fingerprint(name) for name in names}) == len(names)


def test_models_count_by_content_and_an_adapter_with_its_base(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for directory in (base, adapter):
        directory.mkdir()
    (base / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    plain, on_it = model_fingerprint(str(base)), model_fingerprint(str(adapter))
    (base / "model.safetensors").write_text("x")
    assert model_fingerprint(str(base)) != plain
    assert model_fingerprint(str(adapter)) != on_it
    assert model_fingerprint("gemma-3-270m") != model_fingerprint("smollm2-135m-instruct")
    assert model_fingerprint("org/name") != model_fingerprint("org/name@v2")


def test_the_code_of_a_stage_is_what_it_imports() -> None:
    sft, dpo = set(reached_modules("burnish.stages.sft")), set(reached_modules("burnish.stages.dpo"))
    for module in ("burnish.ops.logprobs", "burnish.models.lora", "burnish.data.chat", "burnish.stages.loop"):
        assert module in sft & dpo
    assert "burnish.losses.preference" in dpo - sft
    assert "burnish.losses.sft" in sft - dpo
    for module in ("burnish.stages.progress", "burnish.data.show", "burnish.errors", "burnish.cli.main"):
        assert module not in sft | dpo
    assert not any(module.startswith("burnish.pipeline") for module in sft | dpo)


def test_code_counts_without_comments_and_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "burnish"
    (package / "pipeline").mkdir(parents=True)
    monkeypatch.setattr(code, "__file__", str(package / "pipeline" / "fingerprint.py"))

    def digest_of(text: str) -> str:
        (package / "one.py").write_text(text)
        (package / "two.py").write_text("import torch\nX = 1\n")
        for cached in (code._tree, code._module_fingerprint, code_fingerprint):
            cached.cache_clear()
        return code_fingerprint("burnish.one:f")

    try:
        first = digest_of("def f():\n    return 1\n")
        assert digest_of('"""New."""\n# why\ndef f():\n    """Says."""\n    return 1\n') == first
        assert digest_of("def f():\n    return 2\n") != first
        imported = digest_of("def f():\n    from burnish import two\n    return 1\n")
        assert reached_modules("burnish.one") == ["burnish.one", "burnish.two"]
        assert imported != first
    finally:
        for cached in (code._tree, code._module_fingerprint, code_fingerprint):
            cached.cache_clear()
