"""`import burnish as bn`: the names that users may rely on, and an import that is instant."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import burnish

PUBLIC = {
    "BurnishError",
    "DPOConfig",
    "Example",
    "LoRAConfig",
    "LoadedData",
    "LoadedModel",
    "MergeResult",
    "Message",
    "PPOConfig",
    "Recipe",
    "RecipeResult",
    "ReportConfig",
    "RewardConfig",
    "RewardModel",
    "RunResult",
    "SFTConfig",
    "Sample",
    "SamplingParams",
    "Scored",
    "Speaker",
    "__version__",
    "count_trainable_params",
    "load_examples",
    "load_model",
    "load_recipe",
    "load_reward_model",
    "load_speakers",
    "merge_model",
    "report",
    "run_recipe",
    "sample",
    "score_data",
    "train_dpo",
    "train_ppo",
    "train_reward",
    "train_sft",
}


def test_the_public_names_are_these() -> None:
    assert set(burnish.__all__) == PUBLIC
    assert set(dir(burnish)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(burnish, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'burnish' has no attribute 'train_ppoo'"):
        _ = burnish.train_ppoo  # type: ignore[attr-defined]


def test_the_stub_for_type_checkers_says_the_same() -> None:
    tree = ast.parse((Path(burnish.__file__).parent / "__init__.pyi").read_text())
    named = {
        alias.asname: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    places = {name: module for module, names in burnish._PLACES.items() for name in names}  # type: ignore[attr-defined]
    assert named == places


@pytest.mark.parametrize("statement", ["import burnish", "from burnish.cli import main; main(['--help'])"])
def test_importing_and_help_load_no_library_that_takes_seconds(statement: str) -> None:
    heavy = "torch transformers datasets numpy pandas tokenizers safetensors".split()  # noqa: SIM905
    check = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
