from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from burnish.evaluation.intervals import Interval
from burnish.evaluation.reward import ScoredPair, calibration, evaluate_reward, length_direction
from burnish.evaluation.reward_signals import (
    SignalCorrelation,
    _pearson,
    _Ranked,
    correlate_signals,
    correlations,
    spearman,
)


def pair(
    chosen: float,
    rejected: float,
    lengths: tuple[int, int] = (5, 5),
    *,
    prompt: str = "p",
    texts: tuple[str, str] = ("yes", "no"),
) -> ScoredPair:
    return ScoredPair(prompt, *texts, chosen, rejected, *lengths)


def ranks_by_counting(values: Sequence[float]) -> list[float]:
    """The average rank by its definition: one more than the values below, and half of the others that are equal."""
    return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def pearson_by_loops(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
    top = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(math.fsum((a - mx) ** 2 for a in x) * math.fsum((b - my) ** 2 for b in y))


# Accuracy, margin, spread


def test_a_tie_is_not_accurate_and_is_counted() -> None:
    found = evaluate_reward([pair(2.0, 1.0), pair(1.0, 1.0), pair(1.0, 1.0), pair(0.0, 3.0)])
    assert (found.accuracy.passed, found.accuracy.n, found.ties) == (1, 4, 2)
    assert found.margin.value == (1 + 0 + 0 - 3) / 4


def test_mean_and_spread_are_of_all_scores() -> None:
    # Scores 4, 1, 2, 1: mean 2, squared deviations 4, 1, 0, 1, so the variance is 6 / 3.
    found = evaluate_reward([pair(4.0, 1.0), pair(2.0, 1.0)])
    assert found.score_mean == 2.0
    assert found.score_std == pytest.approx(math.sqrt(2))


def test_pairs_of_one_prompt_are_redrawn_together() -> None:
    # Thirty copies of each pair say no more than one: every interval must stay as wide.
    rng = np.random.default_rng(0)
    single = [
        pair(*rng.normal(size=2), tuple(rng.integers(1, 90, size=2)), prompt=f"prompt {index}") for index in range(15)
    ]
    once = evaluate_reward(single, training_lengths=[(2, 1)])
    often = evaluate_reward([replace(one) for one in single for _ in range(30)], training_lengths=[(2, 1)])
    assert (often.n, often.n_prompts, often.margin.n) == (450, 15, 15)
    assert once.length_baseline is not None
    assert often.length_baseline is not None
    assert once.signals[0].responses is not None
    assert often.signals[0].responses is not None
    for few, many in (
        (once.margin.interval, often.margin.interval),
        (once.calibration.nll.interval, often.calibration.nll.interval),
        (once.length_baseline.difference.interval, often.length_baseline.difference.interval),
        (once.signals[0].responses.interval, often.signals[0].responses.interval),
    ):
        assert few is not None
        assert many is not None
        assert (many.low, many.high) == (pytest.approx(few.low), pytest.approx(few.high))


# Calibration


def test_calibration_by_hand() -> None:
    # p = 2/3 three times, all right: in [0.65, 0.70). p = 10/11 once right, 1/11 once: confidence 10/11, half right.
    found = calibration([math.log(2)] * 3 + [math.log(10), -math.log(10)])
    assert found.ece == pytest.approx(3 / 5 * (1 - 2 / 3) + 2 / 5 * (10 / 11 - 1 / 2))
    assert found.brier.value == pytest.approx((3 / 9 + 1 / 121 + 100 / 121) / 5)
    assert found.nll.value == pytest.approx((3 * math.log(3 / 2) + math.log(11 / 10) + math.log(11)) / 5)
    assert [row.n for row in found.bins] == [0, 0, 0, 3, 0, 0, 0, 0, 2, 0]
    low, high = found.bins[3], found.bins[8]
    assert (low.low, low.high, low.confidence, low.accuracy) == pytest.approx((0.65, 0.70, 2 / 3, 1.0))
    assert (high.low, high.high, high.confidence, high.accuracy) == pytest.approx((0.90, 0.95, 10 / 11, 0.5))
    assert (found.bins[0].confidence, found.bins[0].accuracy) == (None, None)


def test_calibration_against_loops() -> None:
    margins = [float(m) for m in np.random.default_rng(1).normal(0.5, 2.0, size=200)]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for m in margins:
        p = 1 / (1 + math.exp(-m))
        bins.setdefault(min(int((max(p, 1 - p) - 0.5) / 0.1), 4), []).append((max(p, 1 - p), m > 0))
    ece = sum(abs(sum(c for c, _ in rows) - sum(right for _, right in rows)) for rows in bins.values()) / 200
    found = calibration(margins, bins=5)
    assert found.ece == pytest.approx(ece)
    assert [row.n for row in found.bins] == [len(bins[index]) for index in range(5)]
    assert found.nll.value == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins) / 200)
    assert found.brier.value == pytest.approx(sum((1 / (1 + math.exp(m))) ** 2 for m in margins) / 200)


def test_huge_margins_stay_finite() -> None:
    found = calibration([800.0, -800.0])
    assert found.nll.value == pytest.approx(400.0)
    assert found.brier.value == pytest.approx(0.5)
    assert (found.bins[-1].n, found.bins[-1].confidence, found.bins[-1].accuracy) == (2, 1.0, 0.5)


def test_a_model_that_always_says_one_half_is_calibrated_and_useless() -> None:
    found = evaluate_reward([pair(1.5, 1.5, prompt=str(index)) for index in range(12)])
    assert (found.accuracy.passed, found.ties) == (0, 12)
    assert found.calibration.ece == pytest.approx(0.0)
    assert found.calibration.brier.value == pytest.approx(0.25)
    assert found.calibration.nll.value == pytest.approx(math.log(2))
    assert all(signal.responses is None and signal.within_pairs is None for signal in found.signals)


# Spearman


def test_spearman_with_ties_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5). Ranks in order of appearance would give 0.8.
    assert spearman([1, 2, 2, 3], [10, 30, 20, 40]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert spearman([1, 2, 3], [9, 4, 1]) == -1.0


def test_spearman_of_a_constant_is_none() -> None:
    assert spearman([0.1] * 7, list(range(7))) is None
    assert spearman(list(range(7)), [0.1] * 7) is None
    with pytest.raises(ValueError, match="as many"):
        spearman([1.0, 2.0], [1.0])


def test_a_resample_is_ranked_anew() -> None:
    # Rows drawn 0 to 3 times, written out and ranked by counting.
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, size=14).astype(float), rng.integers(0, 9, size=14) / 10
    counts = rng.integers(0, 4, size=(20, 14)).astype(float)
    for row, value in zip(counts, _pearson(_Ranked(x), _Ranked(y), counts), strict=True):
        drawn = [index for index, times in enumerate(row) for _ in range(int(times))]
        expected = pearson_by_loops(
            ranks_by_counting([x[index] for index in drawn]), ranks_by_counting([y[index] for index in drawn])
        )
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_independent_columns_agrees_with_theory() -> None:
    # Without correlation the standard error is 1 / sqrt(n - 1) = 0.05.
    rng = np.random.default_rng(3)
    found = correlations(rng.normal(size=401), {"x": rng.normal(size=401)}, np.arange(401))["x"]
    assert found is not None
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * 0.05, rel=0.1)
    assert found.interval.low < found.value < found.interval.high


def test_few_prompts_or_a_rare_signal_have_no_interval() -> None:
    score = np.arange(30.0)
    few = correlations(score[:9], {"x": score[:9]}, np.arange(9))["x"]
    assert few is not None
    assert (few.value, few.interval) == (1.0, None)
    # One row in 30 differs: (29/30)^30 = 36 % of the resamples miss it.
    rare = correlations(score, {"x": np.eye(30)[29]}, np.arange(30))["x"]
    assert rare is not None
    assert rare.value > 0
    assert rare.interval is None


# Signals


def signals_of(pairs: list[ScoredPair]) -> dict[str, SignalCorrelation]:
    return {signal.name: signal for signal in evaluate_reward(pairs).signals}


def test_within_pairs_the_prompts_effect_is_gone() -> None:
    # Long prompts' answers are long and score high; of one prompt's two answers the longer has the lower score, by a
    # tenth of what it is longer.
    pairs = [
        pair(10.0 * k - 0.1 * gap, 10.0 * k, (100 * k + gap, 100 * k), prompt=str(k))
        for k, gap in enumerate([3, -2, 5, 1, -4, 7, -6, 8, 2, -9, 4, 6], start=1)
    ]
    length = signals_of(pairs)["length"]
    assert length.responses is not None
    assert length.within_pairs is not None
    assert length.responses.value > 0.9
    assert length.within_pairs.value == -1.0
    assert length.within_pairs.interval == Interval(-1.0, -1.0)
    assert (length.responses.n, length.within_pairs.n) == (24, 12)


def test_what_the_model_pays_for_is_found_and_nothing_else() -> None:
    texts = ["It rains.", "Maybe it rains.", "Maybe it possibly rains.", "It definitely rains.", "- It\n- rains."]
    pays = {"Maybe it rains.": 2.0, "Maybe it possibly rains.": 3.0}  # six times the rate
    pairs = [
        pair(pays.get(a, 0.0), pays.get(b, 0.0), (7, 7), prompt=f"{a}{b}", texts=(a, b)) for a in texts for b in texts
    ]
    found = signals_of(pairs)
    assert found["length"] == SignalCorrelation("length", None, None)
    hedging = found["hedging"]
    assert hedging.responses is not None
    assert hedging.within_pairs is not None
    assert (hedging.responses.value, hedging.within_pairs.value) == (pytest.approx(1.0), pytest.approx(1.0))
    for name in ("confidence", "markup"):
        other = found[name].within_pairs
        assert other is not None
        assert other.value < 0


def test_both_responses_of_a_pair_are_redrawn_together() -> None:
    # Each pair holds one response twice, so over all responses the interval is that of the single ones.
    rng = np.random.default_rng(4)
    score, length = rng.normal(size=25), rng.integers(1, 40, size=25)
    texts = ["yes"] * 25
    (found, *_) = correlate_signals(
        (texts, texts), (length.tolist(), length.tolist()), (score.tolist(), score.tolist()), list(range(25))
    )
    single = correlations(score, {"length": length.astype(float)}, np.arange(25))["length"]
    assert found.responses is not None
    assert found.responses.interval is not None
    assert single is not None
    assert single.interval is not None
    assert found.responses.interval.low == pytest.approx(single.interval.low)
    assert found.responses.interval.high == pytest.approx(single.interval.high)
    assert found.within_pairs is None


def test_equal_differences_of_rates_are_ties() -> None:
    # 3/10 - 2/10 and 2/10 - 1/10 differ in floating point only.
    def with_hedges(n: int) -> str:
        return " ".join(["maybe"] * n + ["word"] * (10 - n))

    assert 0.3 - 0.2 != 0.2 - 0.1
    pairs = [
        pair(float(k), 0.0, prompt=str(k), texts=(with_hedges(3 - k % 2), with_hedges(2 - k % 2))) for k in range(12)
    ]
    hedging = signals_of(pairs)["hedging"]
    assert hedging.responses is not None
    assert hedging.within_pairs is None


# The length-only baseline


def test_the_direction_is_the_training_pairs() -> None:
    assert length_direction([(9, 3), (9, 3), (3, 9), (5, 5)]) == "longer"
    assert length_direction([(3, 9), (4, 5), (90, 3), (5, 5)]) == "shorter"
    assert length_direction([(3, 9), (9, 3)]) == "longer"
    with pytest.raises(ValueError, match="at least one"):
        length_direction([])


def test_the_direction_is_not_chosen_on_the_evaluated_pairs() -> None:
    # Here the longer is right in 12 of 12, in training the shorter was.
    pairs = [pair(1.0, 0.0, (9, 3), prompt=str(k)) for k in range(12)]
    found = evaluate_reward(pairs, training_lengths=[(3, 9)]).length_baseline
    assert found is not None
    assert (found.direction, found.accuracy.passed, found.accuracy.n) == ("shorter", 0, 12)
    assert (found.difference.value, found.difference.word) == (1.0, "better")
    assert evaluate_reward(pairs).length_baseline is None


def test_the_models_lead_over_the_length() -> None:
    # The longer is right in 10 of 20, wrong in 6, and 4 are of equal length: 12 of 20 with coins. The model has all.
    lengths = [(9, 3)] * 10 + [(3, 9)] * 6 + [(5, 5)] * 4
    right = [pair(1.0, 0.0, each, prompt=str(k)) for k, each in enumerate(lengths)]
    found = evaluate_reward(right, training_lengths=[(9, 3)]).length_baseline
    assert found is not None
    assert (found.accuracy.passed, found.accuracy.n, found.ties) == (10, 20, 4)
    assert found.difference.value == pytest.approx(1 - 12 / 20)
    assert found.difference.word == "better"
    wrong = [pair(0.0, 1.0, each, prompt=str(k)) for k, each in enumerate(lengths)]
    behind = evaluate_reward(wrong, training_lengths=[(9, 3)]).length_baseline
    assert behind is not None
    assert behind.difference.value == pytest.approx(-12 / 20)
    assert behind.difference.word == "worse"


def test_a_model_of_the_length_alone_is_no_better_than_the_length() -> None:
    rng = np.random.default_rng(5)
    lengths = [(int(a), int(b)) for a, b in rng.integers(1, 200, size=(60, 2))]
    pairs = [pair(float(a), float(b), (a, b), prompt=str(k)) for k, (a, b) in enumerate(lengths)]
    found = evaluate_reward(pairs, training_lengths=[(2, 1)])
    assert found.length_baseline is not None
    assert (found.length_baseline.difference.value, found.length_baseline.difference.word) == (0.0, "can't tell")
    length = found.signals[0]
    assert length.responses is not None
    assert length.within_pairs is not None
    assert (length.responses.value, length.within_pairs.value) == (pytest.approx(1.0), pytest.approx(1.0))


# Input and output


def test_as_dict_is_json() -> None:
    rng = np.random.default_rng(6)
    pairs = [pair(*rng.normal(size=2).tolist(), (k + 1, 9), prompt=str(k)) for k in range(12)]
    found = evaluate_reward(pairs, training_lengths=[(2, 1)])
    result = found.as_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["accuracy"]["value"] == found.accuracy.passed / 12
    assert result["accuracy"]["interval"]["low"] == found.accuracy.interval.low
    assert result["length_baseline"]["accuracy"]["n"] == 12
    assert [signal["name"] for signal in result["signals"]] == ["length", "hedging", "confidence", "markup"]
    assert result["signals"][1]["responses"] is None
    assert len(result["calibration"]["bins"]) == 10
    assert evaluate_reward(pairs).as_dict()["length_baseline"] is None


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        evaluate_reward([])
    with pytest.raises(ValueError, match="pair 1: scores nan"):
        evaluate_reward([pair(1.0, 0.0), pair(float("nan"), 0.0)])
    with pytest.raises(ValueError, match="pair 0: -1"):
        evaluate_reward([pair(1.0, 0.0, (-1, 3))])
    with pytest.raises(ValueError, match="at least one bin"):
        evaluate_reward([pair(1.0, 0.0)], bins=0)
    with pytest.raises(ValueError, match="training lengths"):
        evaluate_reward([pair(1.0, 0.0)], training_lengths=[])
