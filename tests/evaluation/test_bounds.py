"""Bounds are held against hand-worked changes, and are sure only where the whole interval lies beyond them."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.errors import ConfigError
from burnish.evaluation.bounds import METRICS, Outcomes, outcomes_of, read_bound
from burnish.evaluation.light import beginning, expand_parts, light_suite
from burnish.evaluation.rows import BEHAVIOUR_NAMES, Prose
from burnish.evaluation.suite import evaluate
from tests.evaluation.made import ScriptedModel, user, write_lines


def rate(passed: int, n: int) -> Outcomes:
    return Outcomes(tuple(float(i < passed) for i in range(n)))


def test_a_drop_is_in_points_of_a_rate() -> None:
    """From 30 of 40 to 28 of 40 is 5 points, whatever share of the start that is."""
    inside = read_bound("multiple_choice", "max_drop", 0.06, rate(30, 40), rate(28, 40))
    assert inside.change == pytest.approx(-0.05)
    assert not inside.outside
    assert read_bound("multiple_choice", "max_drop", 0.04, rate(30, 40), rate(28, 40)).outside
    assert not read_bound("multiple_choice", "max_drop", 0.0, rate(30, 40), rate(32, 40)).outside, "a gain is no drop"


@pytest.mark.parametrize(("n", "limit", "drop"), [(40, 0.05, 2), (40, 0.025, 1), (100, 0.02, 2)])
def test_what_lies_at_the_limit_is_inside_whatever_the_start(n: int, limit: float, drop: int) -> None:
    """8 to 6 of 40 is -0.05000000000000002 in float64 and 28 to 26 is -0.04999999999999993; both are 5 points."""
    for start in range(drop + 1, n + 1):
        down = read_bound("multiple_choice", "max_drop", limit, rate(start, n), rate(start - drop, n))
        up = read_bound("multiple_choice", "max_rise", limit, rate(start - drop, n), rate(start, n))
        further = read_bound("multiple_choice", "max_drop", limit, rate(start, n), rate(start - drop - 1, n))
        assert (down.outside, up.outside, further.outside) == (False, False, True), start


def test_a_rise_from_nothing_is_beyond_every_share_and_has_no_interval() -> None:
    nothing, something = Outcomes((0.0,) * 12), Outcomes((3.0,) * 12)
    found = read_bound("tokens", "max_rise", 0.5, nothing, something)
    assert (found.outside, found.sure, found.change, found.low) == (True, True, None, None)
    assert found.text == "tokens went from 0 to 3; the bound is +50 %"
    assert not read_bound("tokens", "max_rise", 0.5, nothing, nothing).outside
    assert not read_bound("tokens", "max_drop", 0.5, nothing, something).outside


def test_a_text_is_cut_at_white_space_only_where_half_of_it_is_kept() -> None:
    def cut(text: str) -> str:
        return beginning(Prose("p", text), 10).text

    assert cut("one two three four") == "one two"
    assert cut("short") == "short"
    assert cut("\u7b2c\u4e00 " + "\u7ae0" * 30) == "\u7b2c\u4e00 " + "\u7ae0" * 7, "the space is after 2 of 10"
    assert cut("\n" + "\u7ae0" * 30) == "\n" + "\u7ae0" * 9


def test_a_rise_of_nats_is_a_share_of_the_start_s_and_pooled_over_tokens() -> None:
    """(6 + 2) nats over (2 + 2) tokens are 2; (6 + 2.4) over 4 are 2.1, which is 5 % more. The mean of ratios would say
    (3 + 1.2) / 2 = 2.1 too, so the tokens are uneven: 9 over 3 and 1 over 1 are 2.5, the mean of ratios 2."""
    start, now = Outcomes((6.0, 2.0), (2.0, 2.0)), Outcomes((6.0, 2.4), (2.0, 2.0))
    found = read_bound("nats_per_token", "max_rise", 0.04, start, now)
    assert (found.start, found.value) == (2.0, pytest.approx(2.1))
    assert found.change == pytest.approx(0.05)
    assert found.outside
    assert not read_bound("nats_per_token", "max_rise", 0.06, start, now).outside
    assert Outcomes((9.0, 1.0), (3.0, 1.0)).value == 2.5


def test_sure_needs_the_whole_interval_beyond_the_bound_and_enough_units() -> None:
    # Every one of 20 texts is 10 % worse: the paired interval is a point, so 5 % is surely passed.
    start = Outcomes(tuple(100.0 + i for i in range(20)), (30.0,) * 20)
    worse = Outcomes(tuple(1.1 * value for value in start.values), start.weights)
    found = read_bound("nats_per_token", "max_rise", 0.05, start, worse)
    assert found.low == pytest.approx(0.1) == pytest.approx(found.high)
    assert found.sure
    # Two of 40 questions lost: 5 points, with an interval that reaches above 0: beyond 2 points, but not surely.
    noisy = read_bound("multiple_choice", "max_drop", 0.02, rate(30, 40), rate(28, 40))
    assert noisy.outside
    assert noisy.high > 0.0
    assert not noisy.sure
    # The same certain rise over 4 texts only.
    few = read_bound(
        "nats_per_token",
        "max_rise",
        0.05,
        Outcomes(start.values[:4], start.weights[:4] if start.weights else None),
        Outcomes(worse.values[:4], worse.weights[:4] if worse.weights else None),
    )
    assert few.outside
    assert not few.sure


def test_min_and_max_are_of_the_value() -> None:
    found = read_bound("answers", "min", 0.9, rate(12, 12), rate(10, 12))
    assert found.change is None
    assert found.outside
    assert not found.sure, "Wilson's interval of 10 of 12 reaches to 95 %"
    assert read_bound("answers", "min", 0.9, rate(12, 12), rate(2, 12)).sure
    lengths = Outcomes((10.0,) * 20)
    assert read_bound("tokens", "max", 9.0, lengths, lengths).sure
    assert not read_bound("tokens", "max", 10.0, lengths, lengths).outside


def test_the_sentence_has_the_numbers() -> None:
    text = read_bound("multiple_choice", "max_drop", 0.02, rate(30, 40), rate(28, 40)).text
    assert "multiple choice went from 75.0 % to 70.0 %: -5.0 points" in text
    assert "the bound is -2 points" in text


def test_a_light_suite_is_a_fixed_part_of_the_card_and_judged_by_it() -> None:
    suite = light_suite(["retention", "answers"], sample=5, questions=7, characters=100)
    assert {row.behaviour for row in suite.rows} == {"answers"}
    assert (len(suite.rows), len(suite.choices), len(suite.prose)) == (5, 7, 12)
    assert all(len(text.text) <= 100 and not text.text.endswith(" ") for text in suite.prose)
    larger = light_suite(["multiple_choice"], questions=9)
    assert {choice.id for choice in suite.choices} < {choice.id for choice in larger.choices}
    assert not larger.rows
    assert not larger.prose
    card = evaluate(ScriptedModel("m", {}), suite)
    found = outcomes_of(card)
    assert set(found) == {"answers", "stops", "tokens", "multiple_choice", "nats_per_token"}
    assert found["answers"].value == card.rates["answers"].value
    assert card.retention is not None
    assert card.retention.nats_per_token is not None
    assert found["nats_per_token"].value == pytest.approx(card.retention.nats_per_token.value)


def test_behaviours_are_those_of_which_the_prompts_hold_rows(tmp_path: Path) -> None:
    """The starter's prompts have none of `open`, which may be left out of the group but not where it is named."""
    suite = light_suite(["behaviours"], sample=12)
    assert {row.behaviour for row in suite.rows} == set(BEHAVIOUR_NAMES) - {"open"}
    assert not suite.choices
    assert set(evaluate(ScriptedModel("m", {}), suite).rates) == set(BEHAVIOUR_NAMES) - {"open"}
    for parts in (["open"], ["behaviours", "open"]):
        with pytest.raises(ConfigError, match="no row of the behaviour 'open'"):
            light_suite(parts, sample=12)
    own = write_lines(tmp_path / "own.jsonl", [{"id": "a", "behaviour": "open", "messages": user("Q?")}])
    assert [row.id for row in light_suite(["behaviours"], prompts=own).rows] == ["a"]
    with pytest.raises(ConfigError, match="no row of the behaviour 'answers'"):
        light_suite(["answers"], prompts=own)


def test_every_metric_can_be_bounded_and_every_behaviour_be_a_part() -> None:
    """The settings name them one by one, so as to import nothing; here they are compared with the card's."""
    from typing import get_args

    from burnish.stages.monitor_config import GuardConfig, Part

    assert set(GuardConfig.model_fields) - {"retention", "action", "sure"} == set(METRICS)
    assert set(expand_parts(get_args(Part))) == set(METRICS) - {"stops", "tokens"}
