"""The tiny models are what the other tests take them for."""

from __future__ import annotations

import pytest
import torch

from .families import BOS_ID, EOS_ID, FAMILIES, PAD_ID, SLIDING_FAMILIES, WINDOW, tiny, tiny_tokenizer

IDS = torch.tensor([[1, 5, 40, 7, 90, 12, 33, 61, 8, 77, 21, 50]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_reproducible_and_its_outputs_differ_clearly(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    with torch.no_grad():
        logits = model(IDS).logits
        again = tiny(family, dtype=torch.float64)(IDS).logits
        other = tiny(family, dtype=torch.float64, seed=1)(IDS).logits
    assert logits.dtype == torch.float64
    assert logits.shape == (1, 12, 97)
    assert torch.equal(logits, again)
    assert (logits - other).abs().mean() > 0.1
    assert logits.std(dim=1).mean() > 0.1  # the positions differ from each other
    assert sum(p.numel() for p in model.parameters()) < 60_000


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_sliding_families_forget_what_lies_outside_the_window(family: str) -> None:
    # Two layers with window 4 reach 2 * 3 tokens back; every layer is made sliding, so token 0 can't reach token 11.
    overrides = {}
    if family in ("gemma2", "gemma3"):
        overrides = {"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2}
    model = tiny(family, dtype=torch.float64, **overrides)
    changed = IDS.clone()
    changed[0, 0] = 2
    with torch.no_grad():
        difference = (model(IDS).logits - model(changed).logits)[0].abs().amax(-1)
    reach = 2 * (WINDOW - 1)
    assert difference[0] > 1e-3
    if family in SLIDING_FAMILIES:
        assert difference[reach] > 1e-9
        assert difference[reach + 1 :].max() == 0.0
    else:
        assert difference[-1] > 1e-9


@pytest.mark.parametrize("text", ["The capital of France", "  two\n\nspaces\t", "naïve 東京 🙂 1234", ""])
def test_the_tiny_tokenizer_round_trips(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == BOS_ID
    assert tokenizer.decode(ids[1:]) == text
    assert tiny_tokenizer(add_bos=False)(text)["input_ids"] == ids[1:]


def test_the_tiny_tokenizer_has_its_special_tokens_and_whole_words() -> None:
    tokenizer = tiny_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD_ID, BOS_ID, EOS_ID)
    ids = tokenizer("the answer<eos>", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "Ġanswer", "<eos>"]
