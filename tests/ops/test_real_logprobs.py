"""What the negligible columns of a real output matrix cost the gradient that training sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.data.chat import encode_example, resolve_template
from burnish.data.groups import GroupBatch, collate
from burnish.data.sources import load_examples
from burnish.models.loading import load_model
from burnish.models.lora import LoRAConfig, adapter_parameters, inject
from burnish.models.roles import Backbone, response_logprobs
from burnish.ops import tiles


def gradient(backbone: Backbone, batch: GroupBatch, signs: Tensor) -> Tensor:
    weights = adapter_parameters(backbone.model, "policy").values()
    total = (response_logprobs(backbone.role("policy"), batch).summed() * signs).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(weights))])


@pytest.mark.real
@pytest.mark.parametrize(("least", "allowed"), [(1e-6, 6e-4), (1e-5, 6e-3)])
def test_negligible_columns_cost_the_gradient_of_lora_no_more_than_said(
    least: float, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both thresholds in float32, where nothing else is lost; against the gradient of the whole output matrix."""
    monkeypatch.setattr(tiles, "NEGLIGIBLE", {torch.float32: least})
    loaded = load_model("gemma-3-270m", dtype=torch.float32)
    inject(loaded.model, "policy", LoRAConfig(rank=8), seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in adapter_parameters(loaded.model, "policy").values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    template = resolve_template(loaded.tokenizer, "plain")
    examples = load_examples("starter/preferences", kind="preference", limit=6).examples
    backbone = Backbone(loaded.model)
    batch = collate(
        [encode_example(template, loaded.tokenizer, example) for example in examples], layout=backbone.layout
    )
    original = tiles.columns_with_mass
    computed, columns_of = [], []

    def counted(share: Tensor, total: Tensor, hidden: Tensor) -> Tensor | None:
        columns = original(share, total, hidden)
        computed.append(share.shape[1] if columns is None else columns.numel())
        columns_of.append(share.shape[1])
        return columns

    together = torch.ones(2 * len(examples))
    apart = together.clone()
    apart[1::2] = -1.0  # chosen against rejected, as in DPO
    for signs in (together, apart):
        monkeypatch.setattr(tiles, "columns_with_mass", lambda *_: None)
        whole = gradient(backbone, batch, signs)
        monkeypatch.setattr(tiles, "columns_with_mass", counted)
        off = (gradient(backbone, batch, signs) - whole).norm() / whole.norm()
        print(f"below {least}: {sum(computed) / sum(columns_of):.2f} of the columns computed, off by {off:.1e}")
        assert off < allowed
    assert sum(computed) < 0.5 * sum(columns_of)
