"""KL from the first model: where two are in memory, where they are brought there, and why it is not measured."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from burnish.data.chat import install_template, resolve_template
from burnish.evaluation.suite import Card
from burnish.pipeline.divergence import with_kl
from burnish.pipeline.report import report
from burnish.pipeline.report_config import ReportConfig
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import Speaker
from tests.evaluation.made import ROWS, write_lines
from tests.models.families import tiny, tiny_tokenizer
from tests.pipeline.test_evidence import measured  # noqa: F401 (a fixture)

Measured = tuple[dict[str, Card], dict[str, ModelResponder]]


def test_kl_is_measured_from_the_first_model_on_texts_and_in_answers(measured: Measured) -> None:  # noqa: F811
    cards, together = measured
    card = with_kl(cards["moved"], "raw", together)
    assert card.kl is not None
    assert [(record.kind, record.id) for record in card.kl.records[:2]] == [("prose", "p1"), ("prose", "p2")]
    assert {record.id for record in card.kl.records[2:]} == {"m1", "m2"}
    nats, tokens = sum(r.nats for r in card.kl.records), sum(r.tokens for r in card.kl.records)
    assert card.kl.per_token.value == pytest.approx(nats / tokens)
    assert card.kl.per_token.value > 0.01
    assert f"{tokens + len(card.kl.records):,} for KL (through raw as well)" in card.about["tokens scored"]
    assert card.kl_prompts is not None
    answered = {record.row.id: record for record in cards["moved"].records}
    for record in card.kl_prompts.records:
        assert answered[record.id].ids is not None
        assert record.tokens == len(answered[record.id].ids or ())
        assert record.nats > 0
    assert "for KL on prompts (through raw as well)" in card.about["tokens scored"]
    assert with_kl(cards["raw"], "raw", together) is cards["raw"], "the first has none: it is where the others start"
    alone = with_kl(cards["moved"], "raw", {"moved": together["moved"]})
    assert alone is cards["moved"], "it waits until the two are in memory together"


def test_kl_that_can_not_be_measured_says_why(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    cards, together = measured
    role = together["raw"].speaker.role
    other = ModelResponder(Speaker.of("raw", role, tiny_tokenizer(add_bos=False)))
    unlike = with_kl(cards["moved"], "raw", {**together, "raw": other})
    assert unlike.kl is unlike.kl_prompts is None
    assert "different tokens" in unlike.about["KL from start"]
    assert "different tokens" in unlike.about["KL on prompts"]

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("burnish.rollout.responder.token_kl", full)
    large = with_kl(cards["moved"], "raw", together)
    assert large.about["KL on prompts"] == "not measured: raw and moved don't fit into memory together"


def save(directory: Path, seed: int, *, family: str = "llama", template: bool = False, add_bos: bool = True) -> str:
    tokenizer = tiny_tokenizer(add_bos=add_bos)
    if template:
        install_template(resolve_template(tokenizer, "plain"), tokenizer)
    tiny(family, vocab_size=len(tokenizer), seed=seed).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """The first model has a template and judges no topics, so that it is not kept in memory for that."""
    models = {
        "start": save(tmp_path / "start", 1, template=True),
        "raw": save(tmp_path / "raw", 2),
        "full": save(tmp_path / "full", 3, template=True),
        "other": save(tmp_path / "other", 4, family="gemma3", add_bos=False),
    }
    rows = str(write_lines(tmp_path / "rows.jsonl", ROWS))
    return {"models": models, "prompts": rows, "max_new_tokens": 2, "dtype": "float32"}


def made(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    report(ReportConfig(**{**settings, "out": out, **more}), console=Console(file=io.StringIO()))
    return json.loads((out / "report.json").read_text())


def test_models_with_weights_of_their_own_are_compared_when_all_answers_are_there(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    data = made(settings, tmp_path / "out")
    about = dict(zip(data["models"], data["about_models"], strict=True))
    assert data["kl"]["start"] is data["kl_prompts"]["start"] is None
    for name in ("raw", "full"):
        for key in ("kl", "kl_prompts"):
            assert data[key][name]["start"] == "start"
            assert all(record["nats"] > 0 for record in data[key][name]["records"])
        assert [record["id"] for record in data["kl_prompts"][name]["records"]] == ["a1", "k1", "a2"]
    for key, fact in (("kl", "KL from start"), ("kl_prompts", "KL on prompts")):
        assert data[key]["other"] is None
        assert "other and start cut text into different tokens" in about["other"][fact]
    keys = [line["key"] for line in data["lines"]]
    assert keys.index("kl_prompts") == keys.index("kl") + 1

    monkeypatch.setattr("burnish.pipeline.responders.load_speakers", None)  # all is in the cache: nothing is loaded
    again = made(settings, tmp_path / "again")
    assert again["kl"] == data["kl"]
    assert again["kl_prompts"] == data["kl_prompts"]

    without = made(settings, tmp_path / "without", two_bases=False)
    assert set(without["kl"].values()) == {None}
    assert all("two_bases" in facts["KL from start"] for facts in without["about_models"][1:])


def test_an_endpoint_is_said_to_have_none(measured: Measured) -> None:  # noqa: F811
    from burnish.pipeline.divergence import with_kl_across

    cards, _ = measured
    api = replace(cards["moved"], name="api", endpoint=True)
    never: Any = None
    raw, told = with_kl_across([cards["raw"], api], {"raw": "x", "api": "openai:x"}, never, two_bases=True)
    assert raw is cards["raw"]
    assert told.about["KL from start"] == "not measured: an endpoint gives no log-probabilities"
    first, told = with_kl_across([api, cards["raw"]], {"api": "openai:x", "raw": "x"}, never, two_bases=True)
    assert first is api
    assert told.about["KL on prompts"] == "not measured: api: an endpoint gives no log-probabilities"
