"""Models of a report hold conversations themselves where something can judge them, and only there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from burnish.pipeline.report import report
from burnish.pipeline.report_config import ReportConfig
from tests.evaluation.made import ROWS, write_lines
from tests.models.families import tiny_tokenizer
from tests.stages.toy import make_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OTHER = {
    **ROWS[-1],
    "id": "t2",
    "messages": [
        {"role": "user", "content": "what is a question?"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "hello?"},
    ],
}


def make_report(tmp_path: Path, *, template: str | None, **options: Any) -> dict[str, Any]:
    model = make_model(tmp_path / "model", "llama")
    if template is not None:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(model)
    rows = str(write_lines(tmp_path / "rows.jsonl", [*ROWS, OTHER]))
    config = ReportConfig(
        models={"one": str(model)},
        out=tmp_path / "out",
        prompts=rows,
        max_new_tokens=2,
        dtype="float32",
        cache=False,
        **options,
    )
    report(config, console=Console(file=io.StringIO()))
    return dict(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))


def test_a_raw_model_holds_its_conversations_and_judges_them(tmp_path: Path) -> None:
    data = make_report(tmp_path, template=None)
    held = data["topic_turns"]["one"]
    assert [(one["id"], len(one["answers"])) for one in held["dialogues"]] == [("t1", 2), ("t2", 2)]
    assert [turn["rate"]["n"] for turn in held["turns"]] == [2, 2]
    assert data["about_models"][0]["held turn by turn"] == "2 conversations, 4 answers"
    keys = [line["key"] for line in data["lines"]]
    assert keys.index("topic_turn.1") + 2 == keys.index("topic_drift")


@pytest.mark.parametrize(
    ("template", "options"), [(None, {"dialogues": False}), (TEMPLATE, {})], ids=["not asked for", "nobody judges"]
)
def test_nothing_is_asked_that_is_not_judged(tmp_path: Path, template: str | None, options: dict[str, Any]) -> None:
    data = make_report(tmp_path, template=template, **options)
    assert data["topic_turns"] == {"one": None}
    assert "held turn by turn" not in data["about_models"][0]
