"""Win rates, worked by hand."""

from __future__ import annotations

import pytest

from burnish.evaluation.judge import JudgedPair
from burnish.evaluation.lines import Line
from burnish.evaluation.preference import Preference, preference_lines


def line(preference: Preference, names: list[str], key: str) -> Line:
    return next(found for found in preference_lines(preference, names) if found.key == key)


def pairs(won: int, tied: int, lost: int, *, unreadable: int = 0, same: int = 0) -> list[JudgedPair]:
    kinds = [("B", "A")] * won + [("A", "A")] * tied + [("A", "B")] * lost + [(None, "B")] * unreadable
    return [JudgedPair(str(i), *kind) for i, kind in enumerate(kinds)] + [  # type: ignore[arg-type]
        JudgedPair(f"s{i}", "tie", "tie", identical=True) for i in range(same)
    ]


def test_a_win_counts_one_and_a_tie_half() -> None:
    found = Preference("raw", judged={"dpo": pairs(12, 6, 2, unreadable=4, same=4)})
    wins = line(found, ["raw", "dpo"], "judge_wins")
    assert wins.cells[0] is None
    assert wins.cells[1] is not None
    assert wins.cells[1].value == pytest.approx((12 + 10 / 2) / 24)  # of 24 that can be read
    assert wins.cells[1].text == "71\u00a0%"
    assert wins.n == 24
    assert "dpo 12 won, 10 tied, 2 lost" in wins.about
    change = wins.changes[1]
    assert change is not None
    assert (change.word, change.text) == ("better", "+20.8\u00a0points from even")


def test_place_and_unreadable_verdicts_are_counted_over_what_was_asked() -> None:
    found = Preference("raw", judged={"dpo": pairs(12, 6, 2, unreadable=4, same=4)})
    place = line(found, ["raw", "dpo"], "judge_place").cells[1]
    unreadable = line(found, ["raw", "dpo"], "judge_unreadable")
    assert place is not None
    assert place.value == pytest.approx(6 / 20)  # the same texts were not asked, four can't be told
    assert unreadable.cells[1] is not None
    assert unreadable.cells[1].value == pytest.approx(4 / 48)  # two verdicts for each of 24
    assert "dpo 4 of 48" in unreadable.about


def test_the_interval_is_that_of_the_mean_of_points() -> None:
    """Of points 0 and 1 in equal number, the mean of n draws has the deviation 1 / (2 sqrt(n))."""
    cell = line(Preference("raw", judged={"dpo": pairs(50, 0, 50)}), ["raw", "dpo"], "judge_wins").cells[1]
    assert cell is not None
    assert cell.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert cell.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    assert cell.interval == "40\u201360"


def test_twelve_wins_of_twelve_are_no_certainty() -> None:
    """Wilson's lower end is 12 / (12 + z^2) = 76 %, from rewards as from a judge, and that is 26 points from even."""
    found = Preference(
        "raw", judged={"dpo": pairs(12, 0, 0)}, scores={"raw": [float(i) for i in range(12)], "dpo": [20.0] * 12}
    )
    for key in ("judge_wins", "reward_wins"):
        wins = line(found, ["raw", "dpo"], key)
        cell, change = wins.cells[1], wins.changes[1]
        assert cell is not None
        assert change is not None
        assert (cell.text, cell.interval) == ("100\u00a0%", "76\u2013100")
        assert (change.word, change.interval) == ("better", "+25.8 to +50.0")
        assert "Wilson" in wins.rule


def test_on_few_prompts_nobody_is_better() -> None:
    change = line(Preference("raw", judged={"dpo": pairs(9, 0, 0)}), ["raw", "dpo"], "judge_wins").changes[1]
    assert change is not None
    assert change.word == "can't tell"


def test_a_judge_that_nobody_can_read_has_no_rate_but_is_shown() -> None:
    found = Preference("raw", judged={"dpo": pairs(0, 0, 0, unreadable=5)})
    keys = {item.key: item for item in preference_lines(found, ["raw", "dpo"])}
    assert "judge_wins" not in keys
    assert keys["judge_place"].cells == (None, None)
    assert keys["judge_unreadable"].cells[1].text == "50\u00a0%"  # type: ignore[union-attr]


def test_rewards_are_compared_prompt_by_prompt_with_the_chosen_baseline() -> None:
    """The last model wins twice, ties once, loses once against `sft`; its mean is compared with the first model's."""
    scores = {"raw": [0.0, 0.0, 0.0, 0.0], "sft": [1.0, 2.0, 3.0, 4.0], "ppo": [5.0, 3.0, 3.0, 1.0]}
    found = Preference("sft", scores=scores)
    names = ["raw", "sft", "ppo"]
    wins, mean = line(found, names, "reward_wins"), line(found, names, "reward_score")
    assert [cell and cell.value for cell in wins.cells] == [0.0, None, 0.625]
    assert "against sft" in wins.about
    assert "ppo 2 won, 1 tied, 1 lost" in wins.about
    assert [cell.text for cell in mean.cells if cell] == ["0.00", "2.50", "3.00"]
    assert mean.changes[0] is None
    assert mean.changes[2] is not None
    assert mean.changes[2].value == pytest.approx(3.0)


def test_all_of_it_is_in_the_json() -> None:
    value = Preference("raw", judged={"dpo": pairs(1, 1, 0)}, scores={"raw": [0.0], "dpo": [1.0]}).to_dict()
    assert value["baseline"] == "raw"
    assert [pair["points"] for pair in value["judged"]["dpo"]] == [1.0, 0.5]
    assert value["scores"] == {"raw": [0.0], "dpo": [1.0]}


def test_a_prompt_that_a_reward_model_cannot_read_counts_for_no_model() -> None:
    """Of four prompts the first two are left: one won, one lost, both means 1.5."""
    names = ["raw", "dpo"]
    found = Preference("raw", scores={"raw": [1.0, 2.0, None, 4.0], "dpo": [2.0, 1.0, 5.0, None]})
    wins, mean, missing = (line(found, names, key) for key in ("reward_wins", "reward_score", "reward_unscored"))
    assert (wins.n, mean.n, missing.n) == (2, 2, 4)
    assert "1 won, 0 tied, 1 lost" in wins.about
    assert [cell and cell.value for cell in mean.cells] == [1.5, 1.5]
    assert [cell and cell.value for cell in missing.cells] == [0.25, 0.25]
    assert missing.about == "all prompts: raw 1 of 4, dpo 1 of 4"
    whole = Preference("raw", scores={"raw": [1.0, 2.0], "dpo": [2.0, 1.0]})
    assert [one.key for one in preference_lines(whole, names)] == ["reward_wins", "reward_score"]


def test_with_no_prompt_left_that_alone_is_said() -> None:
    found = Preference("raw", scores={"raw": [None, 1.0], "dpo": [0.5, None]})
    assert [one.key for one in preference_lines(found, ["raw", "dpo"])] == ["reward_unscored"]
