"""What `auto` means: float32 only on a CPU that multiplies it clearly faster, and a device that exists."""

from __future__ import annotations

import pytest
import torch

from burnish.errors import ConfigError
from burnish.models import placement
from burnish.models.placement import pick_device, pick_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("float32_takes", "wanted"),
    [(5.0, torch.bfloat16), (1.0, torch.bfloat16), (0.9, torch.bfloat16), (0.5, torch.float32)],
    ids=["AMX", "equal", "a little faster", "bfloat16 at half speed"],
)
def test_auto_is_float32_only_where_it_is_worth_its_memory(
    monkeypatch: pytest.MonkeyPatch, float32_takes: float, wanted: torch.dtype
) -> None:
    seconds = {torch.float32: float32_takes, torch.bfloat16: 1.0}
    monkeypatch.setattr(placement, "product_seconds", seconds.__getitem__)
    assert pick_dtype("auto", CPU) == wanted
    assert pick_dtype("auto", CUDA) == torch.bfloat16
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16


def test_the_measurement_is_of_this_machine_and_made_once() -> None:
    first = placement.product_seconds(torch.float32)
    assert first > 0
    assert placement.product_seconds(torch.float32) == first


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        pick_dtype("int8", CPU)
    with pytest.raises(ConfigError, match="can't be used"):
        pick_device("abacus")
