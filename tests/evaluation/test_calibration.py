"""Calibration against numbers worked by hand, brute force in float64, and models whose calibration is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from burnish.evaluation import intervals
from burnish.evaluation.calibration import (
    Forecasts,
    calibration,
    calibration_change,
    place_in_bins,
    probabilities,
)

ALL = np.ones((1, 5))
LOG2 = math.log(2)


def forecasts(confidence: list[float], right: list[int], *, bins: int = 10) -> Forecasts:
    return Forecasts(np.array(confidence), np.array(right, dtype=float), np.zeros(len(right)), bins=bins)


def made_by_hand() -> Forecasts:
    return forecasts([0.95, 0.85, 0.85, 0.55, 0.5], [1, 0, 1, 1, 0])


def simulated(n: int, temperature: float, *, choices: int = 4, seed: int = 0, scale: float = 1.5) -> Forecasts:
    """Answers drawn from softmax(z); the model claims softmax(z / temperature): overconfident below 1."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0.0, scale, (n, choices))
    p = np.exp(z)
    p /= p.sum(1, keepdims=True)
    answers = (generator.random((n, 1)) > p.cumsum(1)).sum(1)
    return Forecasts.of((z / temperature).tolist(), answers.tolist())


def test_the_expected_calibration_error_worked_by_hand() -> None:
    """(0.9, 1]: |1 - 0.95|; (0.8, 0.9]: |1 - 1.7|; (0.5, 0.6]: |1 - 0.55|; (0.4, 0.5]: |0 - 0.5|; their sum over 5."""
    assert made_by_hand().ece(ALL)[0] == pytest.approx((0.05 + 0.7 + 0.45 + 0.5) / 5)


def test_bins_are_open_below_and_closed_above() -> None:
    """With [low, high) 0.5 would share a bin with 0.55, and the error above would be 0.16 and not 0.34."""
    confidence, right = np.array([0.95, 0.85, 0.85, 0.55, 0.5]), np.array([1, 0, 1, 1, 0])
    edges = np.arange(11) / 10
    other = np.digitize(confidence, edges[1:-1])  # [low, high)
    wrong = sum(abs((right - confidence)[other == b].sum()) for b in range(10)) / 5
    assert wrong == pytest.approx(0.16)
    assert made_by_hand().ece(ALL)[0] == pytest.approx(0.34)
    assert [row.n for row in made_by_hand().table()] == [0, 0, 0, 0, 1, 1, 0, 0, 2, 1]
    on_edges = np.arange(1, 11) / 10
    assert place_in_bins(on_edges, edges).tolist() == list(range(10))
    assert place_in_bins(np.nextafter(on_edges[:-1], 1), edges).tolist() == list(range(1, 10))


def test_a_confidence_of_one_is_in_the_last_bin_and_not_lost() -> None:
    sure = forecasts([1.0, 1.0, 0.0], [1, 0, 0])
    assert [row.n for row in sure.table()] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert sure.table()[-1].confidence == 1.0
    assert sure.table()[-1].accuracy == 0.5
    assert sure.ece(np.ones((1, 3)))[0] == pytest.approx(1 / 3)  # |1 - 2| / 3


def test_a_half_from_log_probs_is_exactly_on_its_edge() -> None:
    found = Forecasts.of([[-LOG2, -2 * LOG2, -2 * LOG2]], [0])
    assert found.confidence[0] == 0.5
    assert found.table()[4].n == 1


def test_the_brier_score_worked_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): 1/4 + 9/16 + 1/16 where the second is right, 1/4 + 1/16 + 1/16 where the first is."""
    found = Forecasts.of([[-LOG2, -2 * LOG2, -2 * LOG2]] * 2, [1, 0])
    assert found.squares.tolist() == pytest.approx([0.875, 0.375])
    assert calibration(found).brier.value == pytest.approx(0.625)
    certain = Forecasts.of([[0.0, -2000.0], [0.0, -2000.0]], [0, 1])
    assert certain.squares.tolist() == [0.0, 2.0]


def test_the_area_under_the_risk_coverage_curve_worked_by_hand() -> None:
    """Right, wrong, right in order of falling confidence: risks 0, 1/2, 1/3."""
    found = forecasts([0.7, 0.9, 0.8], [1, 1, 0])
    assert found.aurc(np.ones((1, 3)))[0] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert [(p.threshold, p.coverage, p.n, p.accuracy) for p in found.curve()] == [
        (0.9, pytest.approx(1 / 3), 1, 1.0),
        (0.8, pytest.approx(2 / 3), 2, 0.5),
        (0.7, 1.0, 3, pytest.approx(2 / 3)),
    ]
    assert found.curve()[0].interval == intervals.wilson(1, 1)


def brute_force_aurc(confidence: list[float], right: list[int]) -> float:
    """The mean over all orders that keep confidences falling."""
    areas = []
    for order in itertools.permutations(range(len(right))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            wrong = np.cumsum([1 - right[i] for i in order])
            areas.append((wrong / np.arange(1, len(order) + 1)).mean())
    return float(np.mean(areas))


def test_equal_confidences_come_in_any_order() -> None:
    confidence, right = [0.6, 0.9, 0.6, 0.4, 0.6, 0.4], [1, 0, 0, 1, 1, 0]
    found = forecasts(confidence, right)
    assert found.aurc(np.ones((1, 6)))[0] == pytest.approx(brute_force_aurc(confidence, right))
    assert [point.n for point in found.curve()] == [1, 4, 6]  # no threshold answers a part of equal confidences
    # A draw holds some questions several times and others not at all: equal confidences again.
    counts = np.array([[0, 2, 1, 0, 3, 0], [1, 0, 0, 4, 1, 0]])
    for row in counts:
        drawn = [i for i, count in enumerate(row) for _ in range(count)]
        expected = brute_force_aurc([confidence[i] for i in drawn], [right[i] for i in drawn])
        assert found.aurc(row[None].astype(float))[0] == pytest.approx(expected)


def test_statistics_of_draws_are_those_of_the_drawn_questions() -> None:
    found = simulated(40, 0.7)
    rows = np.random.default_rng(3).integers(0, 40, size=(6, 40))
    counts = np.stack([np.bincount(row, minlength=40) for row in rows]).astype(float)
    for row, ece, brier in zip(rows, found.ece(counts), found.brier(counts), strict=True):
        place = np.ceil(found.confidence[row] * 10).astype(int)
        gap = (found.right - found.confidence)[row]
        assert ece == pytest.approx(sum(abs(gap[place == b].sum()) for b in range(11)) / 40)
        assert brier == pytest.approx(found.squares[row].mean())


def test_probabilities_keep_their_digits_where_log_probs_are_far_below_zero() -> None:
    p = probabilities([-1500.0, -1501.0, -4000.0])
    assert p[0] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-14)
    assert p.sum() == pytest.approx(1.0, abs=1e-15)
    assert p[2] == 0.0


def test_a_calibrated_model_and_an_overconfident_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers, with confidences as they should be and with logits twice as large."""
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    honest, sure = simulated(4_000, 1.0, choices=2), simulated(4_000, 0.5, choices=2)
    good, bad = calibration(honest), calibration(sure)
    assert good.ece.value < 0.03
    assert abs(good.confidence - good.accuracy) < 0.02
    assert all(abs(row.accuracy - row.confidence) < 0.07 for row in good.bins if row.n > 100)
    assert bad.accuracy == good.accuracy
    assert bad.confidence > bad.accuracy + 0.05
    assert bad.ece.interval.low > 0.05
    assert bad.ece.value > bad.ece_if_calibrated.interval.high
    assert good.ece.value < good.ece_if_calibrated.interval.high
    assert calibration_change(honest, sure).brier.word == "worse"
    # Of two choices a factor on the logits keeps the order of confidences: risk over coverage can't see it.
    assert bad.aurc.value == pytest.approx(good.aurc.value, abs=1e-12)
    assert calibration_change(sure, honest).brier.word == "better"


def test_a_model_that_is_surest_where_it_is_wrong_has_the_larger_area() -> None:
    right = [1, 0] * 30
    knows = forecasts([0.9 if r else 0.6 for r in right], right)
    errs = forecasts([0.6 if r else 0.9 for r in right], right)
    change = calibration_change(knows, errs)
    # 30 right ones first: risk (j - 30) / j from j = 31 on.
    assert calibration(knows).aurc.value == pytest.approx(sum((j - 30) / j for j in range(31, 61)) / 60)
    assert change.aurc.word == "worse"


def test_the_intervals_of_the_calibration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """160 questions of a calibrated model, 40 times: the answers are drawn from its probabilities, the truth is 0."""
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    truth = 0.0
    held = {"percentile": 0, "pivotal": 0}
    for seed in range(40):
        drawn = simulated(160, 1.0, seed=seed).drawn(0)[0]
        for name, found in (("percentile", drawn.mean()), ("pivotal", drawn.mean(pivotal=True))):
            held[name] += found.interval.low <= truth <= found.interval.high
    assert held["percentile"] == 0
    assert held["pivotal"] >= 20
    found = simulated(160, 1.0, seed=1)
    shown, pivotal = calibration(found).ece, found.drawn(0)[0].mean(pivotal=True)
    assert pivotal.interval.low < 0.0
    assert (shown.interval.low, shown.interval.high) == (0.0, pivotal.interval.high)  # an error is not below 0


def test_of_equally_calibrated_models_the_error_would_tell_too_many_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 pairs, where 6 are expected and more than 12 come about once in 200 times. Both models are calibrated, one
    is surer: noise adds to the two errors by different amounts, and their pivotal interval leaves out zero too often,
    so that nothing is called by it. Of pairs that are alike altogether the Brier score tells no more than it may."""
    monkeypatch.setattr(intervals, "RESAMPLES", 600)
    told = {"ece": 0, "brier": 0}
    for seed in range(120):
        unsure, sure = simulated(160, 1.0, seed=seed, scale=0.5), simulated(160, 1.0, seed=1_000 + seed, scale=4.0)
        a, b = unsure.drawn(0)[0], sure.drawn(0)[0]
        low, high = 2 * (b.value - a.value) - np.percentile(b.samples - a.samples, [97.5, 2.5])
        told["ece"] += not low <= 0.0 <= high
        alike = [simulated(160, 1.0, seed=start + seed) for start in (0, 1_000)]
        told["brier"] += calibration_change(*alike).brier.word != "can't tell"
    assert told == {"ece": 15, "brier": 8}
    assert not hasattr(calibration_change(unsure, sure), "ece")


def test_a_tie_for_the_highest_probability_is_not_right() -> None:
    """As in multiple choice, so that the accuracy at full coverage is that line's."""
    found = Forecasts.of([[-1.0, -1.0], [-1.0, -2.0]], [0, 0])
    assert found.right.tolist() == [0.0, 1.0]
    assert found.confidence[0] == 0.5


@pytest.mark.parametrize(
    ("logprobs", "answers", "bins"),
    [
        ([], [], 10),
        ([[-1.0, -2.0]], [], 10),
        ([[-1.0, -2.0]], [2], 10),
        ([[-1.0, -2.0]], [-1], 10),
        ([[-1.0]], [0], 10),
        ([[-1.0, math.nan]], [0], 10),
        ([[-1.0, -math.inf]], [0], 10),
        ([[-1.0, -2.0]], [0], 0),
    ],
)
def test_nonsense_is_refused(logprobs: list[list[float]], answers: list[int], bins: int) -> None:
    with pytest.raises(ValueError, match=r"need questions|not the index|finite"):
        Forecasts.of(logprobs, answers, bins=bins)


def test_models_that_answered_other_questions_do_not_compare() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        calibration_change(made_by_hand(), forecasts([0.5], [1]))
