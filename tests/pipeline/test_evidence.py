"""What a card gets from a second model: measured where it can be, said why where it can't."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from burnish.errors import ConfigError
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.page import render_page
from burnish.evaluation.report import build_report, print_report
from burnish.evaluation.suite import Card, evaluate, load_suite
from burnish.pipeline.divergence import with_kl
from burnish.pipeline.evidence import check_harness, with_harness, with_topic
from burnish.rollout.cached import CachedResponder
from burnish.rollout.responder import ModelResponder
from burnish.rollout.response_cache import ResponseCache
from tests.evaluation.made import CHOICES, PROSE, ROWS, write_lines
from tests.rollout.test_responder import pair


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Card], dict[str, ModelResponder]]:
    """Two cards of a tiny model and an adapter on it, and who is in memory."""
    tmp_path = tmp_path_factory.mktemp("suite")
    other = {**ROWS[-1], "id": "t2", "messages": [{"role": "user", "content": "hello, what is a question?"}]}
    suite = load_suite(
        write_lines(tmp_path / "rows.jsonl", [*ROWS, other]),
        choices=write_lines(tmp_path / "choices.jsonl", CHOICES),
        prose=write_lines(tmp_path / "prose.jsonl", PROSE),
        sample=7,
        max_new_tokens=4,
    )
    raw, moved = pair()
    return {one.name: evaluate(one, suite) for one in (raw, moved)}, {"raw": raw, "moved": moved}


def test_the_topic_is_judged_by_the_base_model_against_all_rows_of_the_file(
    measured: tuple[dict[str, Card], dict[str, ModelResponder]],
) -> None:
    cards, together = measured
    found = with_topic(cards["moved"], together["raw"])
    assert [record.row.id for record in cards["moved"].of("topic")] == ["t1"]  # the sample
    assert found.topic is not None
    assert found.topic.records[0].contexts == ("t2",)
    assert "for topic (through raw)" in found.about["tokens scored"]
    unjudged = with_topic(cards["moved"], None)
    assert unjudged.topic is None
    assert "--topic-judge" in unjudged.about["topic likelihood"]


def test_the_report_has_them_as_lines_and_as_data(
    measured: tuple[dict[str, Card], dict[str, ModelResponder]],
) -> None:
    cards, together = measured
    whole = [with_topic(with_kl(card, "raw", together), together["raw"]) for card in cards.values()]
    report = build_report(whole)
    lines = {line.key: line for line in report.lines}
    assert [cell is None for cell in lines["kl"].cells] == [True, False]
    assert lines["kl"].changes == (None, None)
    assert [cell is None for cell in lines["kl_prompts"].cells] == [True, False]
    assert lines["topic_likeliest"].n == 1
    assert list(lines).index("topic_likeliest") < list(lines).index("multiple_choice") < list(lines).index("ece")
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=80, color_system=None))
    row = next(row for row in stream.getvalue().splitlines() if row.startswith("KL from start"))
    assert "\u2013" in row.split(lines["kl"].cells[1].text)[0], "the first model has none, and that is no 0"
    assert lines["kl"].cells[1].text in render_page(report)
    data = report.to_dict()
    assert data["kl"]["raw"] is None
    assert data["kl"]["moved"]["start"] == data["kl_prompts"]["moved"]["start"] == "raw"
    assert data["topic"]["moved"]["by_turns"][0]["n"] == 1
    assert sum(row["n"] for row in data["calibration"]["raw"]["bins"]) == 2
    assert data["calibration"]["moved"]["curve"][-1]["coverage"] == 1.0


def test_a_model_without_log_probs_has_no_cells_and_no_zeros(
    measured: tuple[dict[str, Card], dict[str, ModelResponder]],
) -> None:
    cards, _ = measured
    endpoint = replace(cards["moved"], name="api", retention=None)
    assert endpoint.calibration is None
    lines = {line.key: line for line in build_report([endpoint]).lines}
    assert not {"ece", "brier", "aurc", "kl", "kl_prompts", "topic_likeliest", "topic_pmi"} & set(lines)
    assert {"own_turn", "repetition", "longest_repeat", "distinct_2"} <= set(lines)


def test_tasks_of_the_harness_are_checked_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: tuple[dict[str, Card], dict[str, ModelResponder]]
) -> None:
    check_harness([], None)
    cards, together = measured
    asked = CachedResponder("raw", "a", lambda: together["raw"], ResponseCache(None))
    assert with_harness(cards["raw"], asked, [], print) is cards["raw"]
    with pytest.raises(ConfigError, match="no such directory"):
        check_harness(["own"], str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="without tasks"):
        check_harness([], str(tmp_path))
    monkeypatch.setattr("burnish.pipeline.evidence.harness_version", lambda: None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        check_harness(["own"], None)
    assert "burnish[lm-eval]" in str(caught.value)


@dataclass
class Harness:
    """Stands in for the harness, which need not be installed: each task asks the model for one text's nats."""

    asked: list[str] = field(default_factory=list)

    def run_task(self, model: ModelResponder, task: Any) -> tuple[HarnessResult, ...]:
        if task.name == "faulty":
            raise ConfigError("lm-eval's task 'faulty' fails", where="lm_eval, faulty.yaml")
        self.asked.append(task.name)
        ((nats, _),) = model.nats([f"hello {task.name}"])
        return (HarnessResult(task.name, "acc", "none", nats, float("nan"), 2, True, (0.0, 1.0), 0),)


def tasks(*names: str, **fingerprints: str) -> list[Any]:
    return [SimpleNamespace(name=name, fingerprint=fingerprints.get(name, f"of {name}")) for name in names]


def test_of_the_harness_s_tasks_only_what_is_new_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: tuple[dict[str, Card], dict[str, ModelResponder]]
) -> None:
    cards, together = measured
    harness, loaded, said = Harness(), [], []
    monkeypatch.setitem(sys.modules, "burnish.evaluation.lm_harness", harness)

    def ask(asked: list[Any], name: str = "raw", *, identity: str = "", code: str = "c") -> Card:
        def load() -> ModelResponder:
            loaded.append(name)
            return together[name]

        monkeypatch.setattr("burnish.pipeline.evidence.code_fingerprint", lambda entry: f"{entry} {code}")
        model = CachedResponder(name, identity or name, load, ResponseCache(tmp_path / "kept"))
        return with_harness(cards[name], model, asked, said.append)

    first = ask(tasks("one", "two"))
    assert [result.task for result in first.harness] == ["one", "two"]
    assert (loaded, harness.asked, said) == (["raw"], ["one", "two"], [])
    assert "lm-eval from the cache" not in first.about

    again = ask(tasks("one", "two"))
    assert repr(again.harness) == repr(first.harness), "NaN and all"
    assert loaded == ["raw"], "the model is not loaded for what is there"
    assert again.about["lm-eval from the cache"] == "2 of 2 tasks"
    assert again.about["tokens scored"].endswith("0 for lm-eval")
    assert said == ["raw: 2 of 2 tasks of lm-eval were kept from before"]

    harness.asked.clear()
    with pytest.raises(ConfigError) as caught:  # what was finished before it is kept
        ask(tasks("three", "faulty", "four"))
    assert caught.value.where == "model raw, lm_eval, faulty.yaml"
    assert harness.asked == ["three"]
    more = ask(tasks("four", "three", "one"))
    assert [result.task for result in more.harness] == ["four", "three", "one"]
    assert harness.asked == ["three", "four"]
    assert more.about["lm-eval from the cache"] == "2 of 3 tasks"

    harness.asked.clear()
    ask(tasks("one"), "moved")
    ask(tasks("one"), identity="in float64")
    ask(tasks("one", one="of other data"))
    ask(tasks("one"), code="another line")
    assert harness.asked == ["one"] * 4
    ask(tasks("one"), "moved")
    assert harness.asked == ["one"] * 4


def test_the_code_that_speaks_to_the_harness_is_in_the_key() -> None:
    from burnish.pipeline.evidence import _HARNESS_CODE
    from burnish.pipeline.fingerprint import reached_modules

    assert {
        "burnish.evaluation.lm_harness",
        "burnish.evaluation.harness_tasks",
        "burnish.evaluation.harness_results",
        "burnish.rollout.sampler",
    } <= set(reached_modules(_HARNESS_CODE.partition(":")[0]))
