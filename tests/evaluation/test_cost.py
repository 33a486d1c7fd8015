"""What answers cost: hand-worked means and quantiles, and a dash where a model does not tell."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from burnish.data.examples import Message
from burnish.errors import ConfigError
from burnish.evaluation.answers import Answer
from burnish.evaluation.cost import cost_lines, make_prices
from burnish.evaluation.intervals import bootstrap_quantile
from burnish.evaluation.page import render_page
from burnish.evaluation.report import build_report, print_report
from burnish.evaluation.suite import Card, Suite, evaluate
from burnish.rollout.answers import Usage
from tests.evaluation.made import GOOD, ScriptedModel


class Remote:
    """A model that answers and does no more."""

    name = "api"

    def __init__(self, told: bool = True) -> None:
        self.told = told

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Answer]:
        return [
            Answer(
                GOOD[talk[-1].content], True, 10 if self.told else None, Usage(20, 10, 0.1 * i) if self.told else None
            )
            for i, talk in enumerate(conversations, start=1)
        ]


@pytest.fixture
def cards(suite: Suite) -> list[Card]:
    local = evaluate(ScriptedModel("own", GOOD), suite)
    return [local, replace(evaluate(Remote(), suite), endpoint=True)]


def test_seconds_tokens_and_money_of_eight_answers(cards: list[Card]) -> None:
    """0.1 to 0.8 s: the median is 0.45, the 95 % quantile lies 0.65 of the way from 0.7 to 0.8. An answer of 20 and 10
    tokens costs (20 * 2 + 10 * 6) / 1e6, so a thousand of them 0.1."""
    lines = {line.key: line for line in cost_lines(cards, make_prices({"api": (2, 6)}, ["own", "api"]))}
    assert {key: line.cells[1].text for key, line in lines.items() if line.cells[1]} == {
        "latency": "0.45",
        "latency_p95": "0.77",  # 0.765
        "prompt_tokens": "20.0",
        "completion_tokens": "10.0",
        "cost": "0.10",
    }
    assert lines["cost"].title == "cost of 1k answers"
    assert all(line.cells[0] is None for line in lines.values()), "the scripted model does not tell what it took"
    assert all(line.changes == (None, None) for line in lines.values())
    assert all(len(line.title) <= 20 for line in lines.values())


@pytest.mark.parametrize(
    ("prices", "title", "text"),
    [
        ((0.2, 0.6), "cost of 1M answers", "10.00"),
        ((20, 60), "cost of 1k answers", "1.00"),
        ((0, 0), "cost of an answer", "0.00"),
        ((20_000, 60_000), "cost of an answer", "1.00"),
    ],
)
def test_the_unit_keeps_the_number_readable(
    cards: list[Card], prices: tuple[float, float], title: str, text: str
) -> None:
    line = cost_lines(cards, make_prices({"api": prices}, ["api"]))[-1]
    assert line.cells[1] is not None
    assert (line.title, line.cells[1].text) == (title, text)


def test_a_quantile_is_resampled() -> None:
    """The median of many draws from 0..100 has the deviation of about 100 * 1/2 / sqrt(n) (uniform density)."""
    values = [100 * i / 400 for i in range(401)]
    found = bootstrap_quantile(values, 0.5)
    assert found.value == 50
    assert found.interval.low == pytest.approx(50 - 1.96 * 2.5, abs=1.0)
    assert found.interval.high == pytest.approx(50 + 1.96 * 2.5, abs=1.0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        bootstrap_quantile(values, 95)


def test_what_needs_log_probs_is_left_out_for_an_endpoint_and_never_nought(cards: list[Card]) -> None:
    report = build_report(cards, prices=make_prices({"api": (2, 6)}, ["own", "api"]))
    lines = {line.key: line for line in report.lines}
    for key in ("multiple_choice", "nats_per_token"):
        assert lines[key].cells[0] is not None
        assert (lines[key].cells[1], lines[key].changes) == (None, (None, None))
        assert "an endpoint gives no log-probabilities" in lines[key].about
    assert "General ability" not in report.verdict
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=80, color_system=None))
    row = next(row for row in stream.getvalue().splitlines() if row.startswith("multiple choice"))
    assert row.split()[-1] == "\u2013"
    assert "\u2013: not measured" in stream.getvalue()
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["retention"]["api"] is None
    assert next(line for line in data["lines"] if line["key"] == "multiple_choice")["cells"][1] is None
    assert data["records"]["api"][0]["usage"] == {"prompt_tokens": 20, "completion_tokens": 10, "seconds": 0.1}
    page = render_page(report)
    assert "an endpoint gives no log-probabilities" in page
    assert "None" not in page


def test_with_the_endpoint_first_nothing_is_compared_with_another_model(cards: list[Card]) -> None:
    third = replace(cards[0], name="third")
    report = build_report([cards[1], cards[0], third])
    lines = {line.key: line for line in report.lines}
    assert lines["multiple_choice"].changes == (None, None, None)
    assert [cell is None for cell in lines["multiple_choice"].cells] == [True, False, False]
    assert render_page(report)


def test_a_server_that_counts_no_tokens_has_no_length(suite: Suite, cards: list[Card]) -> None:
    silent = replace(evaluate(Remote(told=False), suite), endpoint=True)
    report = build_report([cards[0], silent])
    lines = {line.key: line for line in report.lines}
    assert lines["tokens"].cells[1] is None
    assert "does not count tokens" in lines["tokens"].about
    assert not report.group("cost")
    assert render_page(report)
    assert "tokens" not in {line.key for line in build_report([silent]).lines}


def test_local_models_alone_have_no_group_of_costs(cards: list[Card]) -> None:
    assert not build_report(cards[:1]).group("cost")


@pytest.mark.parametrize("given", [{"apo": (1, 2)}, {"api": (1,)}, {"api": (1, -2)}, {"api": (1, float("inf"))}])
def test_prices_of_nonsense_are_refused(given: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'api'|two numbers"):
        make_prices(given, ["own", "api"])
