"""The frontier: which pairs are made of samples, and who lies above whom."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import frontier
from burnish.rollout.answers import Answer
from figures import evaluations, write_rows
from frontier import best_against_worst, compare, ended_texts, height_above, measure, point_of


def answered(kl: Sequence[float], score: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"prompt": str(i), "kl": k, "score": s, "tokens": 3, "finished": i % 2 == 0}
        for i, (k, s) in enumerate(zip(kl, score, strict=True))
    ]


START = answered([0.0] * 4, [0.0, 0.2, 0.1, 0.1])
FAR = answered([4.0] * 4, [0.8, 1.0, 0.9, 0.9])


def test_a_point_is_held_against_the_curve_at_its_own_kl() -> None:
    # The curve goes from (0, 0.1) to (4, 0.9); at 1 it is 0.3. The point's rewards run along with the curve's, prompt
    # by prompt, so that nothing is left to vary.
    found = height_above([FAR, START], answered([1.0] * 4, [0.4, 0.6, 0.5, 0.5]))
    assert found == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})


def test_a_height_varies_with_the_point_s_reward_and_kl() -> None:
    # Means over two prompts of (1.0, 0.4) and (0.4, 1.0) are 0.4 in a quarter of the samples, 0.7 in half, 1.0 in one.
    reward = height_above([answered([0, 0], [0, 0]), answered([4, 4], [0.8, 0.8])], answered([1, 1], [1.0, 0.4]))
    assert reward == pytest.approx({"value": 0.5, "low": 0.2, "high": 0.8})
    # The same of a KL of 0.5, 1 and 1.5: the curve is read at 0.1, 0.2 and 0.3.
    kl = height_above([answered([0, 0], [0, 0]), answered([4, 4], [0.8, 0.8])], answered([0.5, 1.5], [0.7, 0.7]))
    assert kl == pytest.approx({"value": 0.5, "low": 0.4, "high": 0.6})


@pytest.mark.parametrize("kl", [4.5, -0.5])
def test_no_height_beyond_the_curve(kl: float) -> None:
    assert height_above([START, FAR], answered([kl] * 4, [0.5] * 4)) is None


def test_heights_need_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        height_above([START, FAR], START[::-1])


def test_each_is_held_against_the_other_s_curve() -> None:
    near, middle = answered([1.0] * 4, [0.5] * 4), answered([2.0] * 4, [0.3] * 4)
    found = compare({"DPO 1": near, "DPO 0.1": FAR}, {"PPO 0.02": [START, middle]}, START)
    heights = {(entry["point"], entry["curve"]): entry["height"] for entry in found}
    assert heights[("DPO 1", "PPO 0.02")]["value"] == pytest.approx(0.3)  # 0.5 over (0.1 + 0.3) / 2
    assert heights[("DPO 0.1", "PPO 0.02")] is None
    # DPO's curve has 0.1 at 0, 0.5 at 1, 0.9 at 4: at 2 it is 0.5 + 0.4 / 3.
    assert heights[("PPO 0.02", "DPO")]["value"] == pytest.approx(0.3 - 0.5 - 0.4 / 3)


def test_a_point_has_means_and_shares() -> None:
    point = point_of(answered([1.0, 2.0], [0.0, 0.5]), method="DPO")
    assert (point["method"], point["kl"]["value"], point["reward"]["value"]) == ("DPO", 1.5, 0.25)
    assert (point["reward"]["low"], point["reward"]["high"]) == (0.0, 0.5)
    assert (point["ends"], point["tokens"]) == (0.5, 3.0)


def test_pairs_are_of_what_ended_and_far_enough_apart() -> None:
    worth = {"bad": -0.5, "dull": 0.0, "fine": 0.1, "great": 0.9}

    def said(*texts: str, cut: str = "") -> list[Answer]:
        return [Answer(text, text != cut, 1) for text in texts]

    answers = [
        said("dull", "great", "bad", "fine"),
        said("dull", "great", "bad", cut="great"),
        said("dull", "fine"),
        said("great", cut="great"),
        said("dull", "dull"),
    ]
    texts = ended_texts(answers)
    scores = [[worth[text] for text in own] for own in texts]
    assert best_against_worst(["a", "b", "c", "d", "e"], texts, scores, 0.2) == [
        {"prompt": "a", "chosen": " great", "rejected": " bad"},
        {"prompt": "b", "chosen": " dull", "rejected": " bad"},
    ]
    assert best_against_worst(["e"], [["dull", "dull"]], [[0.0, 0.0]], 0.0) == []


def test_a_finished_run_answers_as_its_last_evaluation_did(tmp_path: Path) -> None:
    """The same responses to the same prompts, and the same KL: PPO's points and the others can be compared."""
    pytest.importorskip("vaderSentiment")
    toy = importlib.import_module("tests.stages.ppo_toy")
    base = toy.make_base(tmp_path / "base")
    start = toy.make_start(base, tmp_path / "start")
    prompts = ["a b", "c", "d e f", "g h"]
    held_out = write_rows(tmp_path / "held-out.jsonl", [{"prompt": prompt} for prompt in prompts])
    more = {"model": str(start), "template": "none", "validation": str(held_out), "lora": {}, "learning_rate": 0.1}
    config = toy.ppo_config(tmp_path, **more)
    run = frontier.train_ppo(config).out
    first, last = evaluations(run)[0][1], evaluations(run)[-1][1]
    alone = measure({"start": start}, prompts, config)
    found = measure({"start": start, "ppo": run}, prompts, config)
    assert found["start"] == alone["start"], "measured once"
    assert [line["response"] for line in found["start"]] == [line["response"] for line in first]
    assert [line["kl"] for line in found["start"]] == pytest.approx([0.0] * 4, abs=1e-5)
    assert [line["response"] for line in found["ppo"]] == [line["response"] for line in last]
    assert [line["kl"] for line in found["ppo"]] == pytest.approx([line["kl"] for line in last], abs=1e-5)
    assert max(abs(line["kl"]) for line in last) > 0.1, "the run has moved"
    assert [line["tokens"] for line in found["ppo"]] == [line["tokens"] for line in last]
    assert measure({"start": start, "ppo": run}, prompts, config) == found, "kept"
