"""A variant's settings."""

from __future__ import annotations

import step


def test_a_variant_reaches_into_groups_of_settings_and_leaves_the_others_alone() -> None:
    common = {"model": "m", "lora": {"rank": "4"}}
    found = step.settings_of(common, "lora.layers=last-10 batch_size=8")
    assert found == {"model": "m", "lora": {"rank": "4", "layers": "last-10"}, "batch_size": "8"}
    assert step.settings_of(common, "loss.beta=0.3")["loss"] == {"beta": "0.3"}
    assert common == {"model": "m", "lora": {"rank": "4"}}
