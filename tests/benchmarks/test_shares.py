"""Which kind of operation an operator is counted as, and a whole run on a model made from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import shares
from tests.stages.toy import settings


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[400, 576], [576, 1536]], shares.WEIGHTS),
        ("aten::mm", [[400, 576], [576, 16]], shares.LOW_RANK),
        ("aten::addmm_", [[400, 576], [400, 16], [16, 576], [], []], shares.LOW_RANK),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 9, 16, 64]], shares.ATTENTION),
        ("aten::mul", [[16, 16], [16, 16]], shares.ELEMENT),
        ("aten::cat", [[], []], shares.COPY),
        ("_LoRAFunction", [], shares.OTHER),
    ],
)
def test_kinds(name: str, shapes: list[list[int]], kind: str) -> None:
    assert shares.kind_of(name, shapes, 16) == kind


def test_a_run_is_watched_after_its_first_step(tmp_path: Path) -> None:
    values = {name: value for name, value in settings(tmp_path, "dpo").items() if name in ("model", "data", "dtype")}
    seconds, wall = shares.watched("dpo", {**values, "batch_size": 4, "lora": {"rank": 3}}, 2, 3)
    assert {shares.WEIGHTS, shares.LOW_RANK, shares.ATTENTION, shares.ELEMENT} <= seconds.keys()
    assert all(value >= 0 for value in seconds.values())
    assert wall > 0
